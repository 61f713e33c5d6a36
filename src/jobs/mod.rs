//! What happens by itself: archiving, rewriting, sweeping, scrubbing. A job knows when to tick, not what a tick does. If the
//! process dies in the middle of a tick, the next one, of this or another replica, makes up for it.

mod pace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::{Error, Store};

pub use pace::Pace;

/// Of the interval, so that replicas do not tick together.
const JITTER: f64 = 0.2;

/// What happens how often.
#[derive(Debug, Clone)]
pub struct Settings {
    pub archives: bool,
    /// Between two ticks of a job.
    pub interval: Duration,
    /// 0 for no scrubs at all.
    pub scrub_bytes_per_second: u64,
}

/// Starts the jobs of a process that has a bucket: edits of archived events are rewritten whether or not it archives
/// more. They end when `shutdown` is cancelled, between two steps or inside one,
/// which is then as good as dead.
pub fn start(store: &Arc<Store>, settings: &Settings, shutdown: &CancellationToken) -> TaskTracker {
    let Settings { archives, interval, scrub_bytes_per_second } = *settings;
    let jobs = TaskTracker::new();
    let archive = Arc::clone(store);
    if archives {
        jobs.spawn(run("archive", interval, shutdown.clone(), std::future::pending, move || {
            let store = Arc::clone(&archive);
            async move { store.archive(|_, _| {}).await.map(drop) }
        }));
    }
    let (rewrite, wanted) = (Arc::clone(store), Arc::clone(store));
    let edited = move || {
        let store = Arc::clone(&wanted);
        async move { store.rewrite_wanted().await }
    };
    jobs.spawn(run("rewrite", interval, shutdown.clone(), edited, move || {
        let store = Arc::clone(&rewrite);
        async move { store.rewrite().await.map(drop) }
    }));
    let sweep = Arc::clone(store);
    jobs.spawn(run("sweep", interval, shutdown.clone(), std::future::pending, move || {
        let store = Arc::clone(&sweep);
        async move { store.sweep().await.map(drop) }
    }));
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

/// Ticks at once, and then after every interval or wake-up.
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
        loop {
            if let Err(error) = tick().await {
                tracing::warn!(%error, job = name, "a tick failed, the next one tries again");
            }
            let jitter = rand::rng().random_range(1.0 - JITTER..1.0 + JITTER);
            tokio::select! {
                () = tokio::time::sleep(interval.mul_f64(jitter)) => {}
                () = wake() => {}
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}
