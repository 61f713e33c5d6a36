//! The service agrees with a model of a few lists, whatever happens at random: operations of two replicas on one
//! database and bucket, jobs that stop at any of their requests while others go on, lost requests and replies,
//! processes that die.
//!
//! A case is a list of steps (`operations.rs`), made up by proptest (`chance.rs`). Each step is carried out (`case.rs`)
//! on the service and on the model (`expected.rs`), and followed by questions to both. At the end of a case everything
//! is recovered, compared and audited. A case that fails is shrunk, and named by its seed.

mod case;
mod chance;
mod changes;
mod consumer;
mod expected;
mod held;
mod operations;
mod questions;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use case::Case;
use operations::Step;

/// The number of seeds to try, from 0 on.
const SEEDS: &str = "COLDSTREAM_MODEL_SEEDS";
const SEEDS_DEFAULT: u64 = 40;
/// The only seed to try.
const SEED: &str = "COLDSTREAM_MODEL_SEED";
/// The number of cases that run at once.
const WORKERS: usize = 3;
const SHRINKING_MS_MAX: u32 = 120_000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn model_and_service_agree() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (first, end) = match variable(SEED) {
        Some(seed) => (seed, seed + 1),
        None => (0, variable(SEEDS).unwrap_or(SEEDS_DEFAULT)),
    };
    let (next, failure, started_at) = (AtomicU64::new(first), Mutex::new(None), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while failure.lock().expect("nobody panics while it is locked").is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if let Err(why) = try_seed(&runtime, seed) {
                        *failure.lock().expect("nobody panics while it is locked") = Some((seed, why));
                    }
                }
            });
        }
    });
    if let Some((seed, why)) = failure.into_inner().expect("nobody panics while it is locked") {
        panic!("{SEED}={seed} cargo test --test integration model\n{why}");
    }
    println!("{} cases in {:.1} s", end - first, started_at.elapsed().as_secs_f32());
}

/// Tries one case; if it fails, returns the smallest one that still does, in words.
fn try_seed(runtime: &Runtime, seed: u64) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let limits = Config { max_shrink_time: SHRINKING_MS_MAX, max_shrink_iters: u32::MAX, ..Config::default() };
    let config = Config { cases: 1, failure_persistence: None, ..limits };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    // A panic says where service and model differ; proptest shrinks the case of a panic as it does that of an error.
    let outcome = runner.run(&chance::steps(), |steps| {
        runtime.block_on(carry_out(&steps));
        Ok(())
    });
    outcome.map_err(|failure| match failure {
        TestError::Fail(why, steps) => {
            let lines: Vec<String> = steps.iter().map(|step| format!("    {step:?}")).collect();
            format!("{why}\n{}", lines.join("\n"))
        }
        TestError::Abort(why) => why.to_string(),
    })
}

async fn carry_out(steps: &[Step]) {
    let mut case = Case::new().await;
    for step in steps {
        case.take(step).await;
    }
    case.end().await;
}
