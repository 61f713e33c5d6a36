//! Retries while the server is away or busy.
//!
//! If each request by itself were repeated a few times, all of them together would put several times the usual load on
//! a server that cannot even bear that. So retries come out of one budget, which only successful requests fill up
//! again: in a long outage every request is tried once.
//!
//! The functions `failed` and `unknown` in `client/mod.rs` say which answer is which error; this module says which
//! error is worth another attempt, how many there are, and how long they wait.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

use crate::bucket::Error;

const ATTEMPTS: usize = 4;
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(2);
/// The full budget, in tenths of a retry: it is good for 100.
const BUDGET_MAX: u32 = 1_000;
const COST: u32 = 10;

impl Error {
    /// Returns whether a later attempt may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Unknown { .. } | Error::NoCredentials { .. })
    }
}

pub struct Retries {
    budget: AtomicU32,
}

impl Retries {
    pub fn new() -> Retries {
        Retries { budget: AtomicU32::new(BUDGET_MAX) }
    }

    /// Makes attempts until one succeeds or fails for good, or until there were enough of them.
    pub async fn attempt<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let waits = ExponentialBuilder::default()
            .with_min_delay(WAIT_MIN)
            .with_max_delay(WAIT_MAX)
            .with_max_times(ATTEMPTS - 1)
            .with_jitter();
        attempt
            .retry(waits)
            // A machine that gives no credentials was waited for already.
            .when(|error| error.is_transient() && !matches!(error, Error::NoCredentials { .. }))
            // Nothing is spent if there is no attempt left.
            .adjust(|_, wait| wait.filter(|_| self.spend()))
            .notify(|error, wait| tracing::debug!(%error, wait_ms = wait.as_millis() as u64, "request is repeated"))
            .await
    }

    /// Credits a request that succeeded: ten of them pay for a retry.
    pub fn earn(&self) {
        let _ = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |budget| (budget < BUDGET_MAX).then_some(budget + 1));
    }

    fn spend(&self) -> bool {
        let spent = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |budget| budget.checked_sub(COST));
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeds_pays_for_what_is_repeated() {
        let retries = Retries::new();
        assert_eq!((0..200).filter(|_| retries.spend()).count(), 100);
        for _ in 0..19 {
            retries.earn();
        }
        assert_eq!((retries.spend(), retries.spend()), (true, false));
        for _ in 0..2_000 {
            retries.earn();
        }
        assert_eq!((0..200).filter(|_| retries.spend()).count(), 100, "it is full at some time");
    }
}
