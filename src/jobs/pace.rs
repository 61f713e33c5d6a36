use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::time::Instant;

/// A limit of bytes a second, on average, for work that reads a lot.
pub struct Pace {
    bytes_per_second: u64,
    started: Instant,
    bytes: AtomicU64,
}

impl Pace {
    /// Makes a limit; 0 stands for no limit.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second, started: Instant::now(), bytes: AtomicU64::new(0) }
    }

    /// Waits until the limit allows for `bytes` more bytes.
    pub fn spend(&self, bytes: i64) -> BoxFuture<'static, ()> {
        if self.bytes_per_second == 0 {
            return std::future::ready(()).boxed();
        }
        let bytes = bytes.unsigned_abs();
        let spent = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = Duration::from_secs_f64(spent as f64 / self.bytes_per_second as f64);
        tokio::time::sleep_until(self.started + due).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_as_long_as_the_bytes_take() {
        let (free, kept) = (Pace::new(0), Pace::new(1_000_000));
        let started = Instant::now();
        free.spend(i64::MAX).await;
        kept.spend(20_000).await;
        kept.spend(30_000).await;
        assert!(started.elapsed() >= Duration::from_millis(50));
    }
}
