use std::collections::BTreeSet;

use crate::event::Instant;

const DAY_NANOS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// The rule that says which events are archived.
#[derive(Debug, Clone)]
pub struct Eligibility {
    /// The age at which events are old enough; with 0 every event is.
    pub older_than_days: u32,
    /// Topics whose events are deleted once they are consumed, in every tenant.
    pub excluded_topics: BTreeSet<String>,
    /// The least number of eligible events that triggers a run, and the most in one batch.
    pub batch_size: u64,
}

impl Eligibility {
    /// The latest moment at which an old enough event was raised; with 0 days even an event from the future is old
    /// enough.
    pub fn raised_at_max(&self, now: Instant) -> Instant {
        if self.older_than_days == 0 {
            return Instant::from_unix_nanos(i64::MAX);
        }
        let age = i128::from(self.older_than_days) * i128::from(DAY_NANOS);
        Instant::from_unix_nanos(i64::try_from(i128::from(now.unix_nanos()) - age).unwrap_or(i64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_days_before_now() {
        let now = Instant::parse("2024-03-01T00:00:00Z").unwrap();
        let eligibility =
            |older_than_days| Eligibility { older_than_days, excluded_topics: BTreeSet::new(), batch_size: 1 };
        assert_eq!(eligibility(30).raised_at_max(now), Instant::parse("2024-01-31T00:00:00Z").unwrap());
        assert_eq!(eligibility(0).raised_at_max(now), Instant::from_unix_nanos(i64::MAX));
        assert_eq!(eligibility(u32::MAX).raised_at_max(now), Instant::from_unix_nanos(i64::MIN));
    }
}
