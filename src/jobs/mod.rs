//! The jobs that run by themselves: archiving, rewriting, sweeping, scrubbing. A job knows when to tick, not what a
//! tick does. If the process dies in the middle of a tick, the next tick, in this process or another, makes up for it.

mod pace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::{Error, Store};

pub use pace::Pace;

/// The part of the interval by which a pause varies, so that processes do not tick together.
const JITTER: f64 = 0.2;
/// The backoff after a failure. It doubles with each further failure, up to the interval.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// The longest backoff: a job that ticks once a day still notices within minutes that a server is back.
const BACK_OFF_MAX: Duration = Duration::from_secs(5 * 60);

/// The time between two counts of the events that are too few to be archived. Their number takes days to change.
const REMAINDERS_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The jobs that run, and how often they do.
#[derive(Debug, Clone)]
pub struct Settings {
    pub archives: bool,
    /// The time between two ticks of a job.
    pub interval: Duration,
    /// The pause between two looks at the bucket's marker.
    pub look_interval: Duration,
    /// The bytes that scrubs may read a second; 0 for no scrubs at all.
    pub scrub_bytes_per_second: u64,
}

/// Starts the jobs of a process that has a bucket. Edits of archived events are rewritten whether or not the process
/// archives more; where the bucket is only read, archives are verified and that is all. The jobs end when `shutdown` is
/// cancelled, between two steps or inside one, which ends as if the process had died.
pub fn start(store: &Arc<Store>, settings: &Settings, shutdown: &CancellationToken) -> TaskTracker {
    let Settings { interval, scrub_bytes_per_second, .. } = *settings;
    let jobs = TaskTracker::new();
    if !store.is_read_only() {
        start_writers(&jobs, store, settings, shutdown);
    }
    if scrub_bytes_per_second > 0 {
        let scrub = Arc::clone(store);
        jobs.spawn(run("scrub", interval, shutdown.clone(), std::future::pending, move || {
            let store = Arc::clone(&scrub);
            async move {
                let pace = Pace::new(scrub_bytes_per_second);
                store.scrub(&|bytes| pace.spend(bytes)).await.map(drop)
            }
        }));
    }
    jobs.close();
    jobs
}

fn start_writers(jobs: &TaskTracker, store: &Arc<Store>, settings: &Settings, shutdown: &CancellationToken) {
    let Settings { archives, interval, look_interval, .. } = *settings;
    let watch = Arc::clone(store);
    jobs.spawn(run("owner", look_interval, shutdown.clone(), std::future::pending, move || {
        let store = Arc::clone(&watch);
        async move { store.watch_bucket().await }
    }));
    let archive = Arc::clone(store);
    if archives {
        let remainders = Arc::clone(store);
        jobs.spawn(run("remainders", REMAINDERS_INTERVAL, shutdown.clone(), std::future::pending, move || {
            let store = Arc::clone(&remainders);
            async move { store.report_remainders().await }
        }));
        jobs.spawn(run("archive", interval, shutdown.clone(), std::future::pending, move || {
            let store = Arc::clone(&archive);
            async move { store.archive_at_leisure().await.map(drop) }
        }));
    }
    let (rewrite, wanted) = (Arc::clone(store), Arc::clone(store));
    let edited = move || {
        let store = Arc::clone(&wanted);
        async move { store.rewrite_wanted().await }
    };
    jobs.spawn(run("rewrite", interval, shutdown.clone(), edited, move || {
        let store = Arc::clone(&rewrite);
        async move { store.rewrite_due().await.map(drop) }
    }));
    let sweep = Arc::clone(store);
    jobs.spawn(run("sweep", interval, shutdown.clone(), std::future::pending, move || {
        let store = Arc::clone(&sweep);
        async move { store.sweep_due().await.map(drop) }
    }));
}

/// Ticks at once, and then after every interval or wake-up. No wake-up shortens the backoff after a failure: a server
/// that is away is not asked more often because there is more to ask of it.
async fn run<W, T>(
    name: &'static str,
    interval: Duration,
    shutdown: CancellationToken,
    wake: impl Fn() -> W,
    tick: impl Fn() -> T,
) where
    W: Future<Output = ()>,
    T: Future<Output = Result<(), Error>>,
{
    let work = async {
        let mut failures = 0;
        loop {
            let outcome = tick().await;
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            let pause = pause(interval, failures).mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER));
            if let Err(error) = outcome {
                let pause_ms = pause.as_millis() as u64;
                tracing::warn!(%error, job = name, pause_ms, "a tick failed, the next one tries again");
                tokio::time::sleep(pause).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wake() => {}
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

fn pause(interval: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => interval,
        Some(repeated) => BACK_OFF_MIN.saturating_mul(2_u32.saturating_pow(repeated)).min(interval).min(BACK_OFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_soon_and_ever_later() {
        let pauses =
            |interval, failures: [u32; 5]| failures.map(|count| pause(Duration::from_secs(interval), count).as_secs());
        assert_eq!(pauses(60, [0, 1, 2, 6, 7]), [60, 1, 2, 32, 60]);
        assert_eq!(pauses(1, [0, 1, 2, 3, u32::MAX]), [1; 5]);
        assert_eq!(pauses(86_400, [0, 1, 9, 10, u32::MAX]), [86_400, 1, 256, 300, 300]);
    }
}
