//! Counts of remainders: old events that stay in Postgres, because their log has fewer of them than a batch takes. The
//! counts tell operators not to wait for these events to be archived.

use time::OffsetDateTime;

use crate::database::catalog::overview;
use crate::database::log::events;
use crate::event::Instant;
use crate::store::moving::breaks::{Breaks, Pace};
use crate::store::{Error, Store};

/// The most logs that one statement looks at. It stops counting in each log once the old events fill a batch.
const LOGS_AT_ONCE: i64 = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remainders {
    pub topics: i64,
    pub events: i64,
    /// The share of these events in the bytes that the table of hot events and its indexes take on disk.
    pub bytes: i64,
}

impl Store {
    pub async fn remainders(&self) -> Result<Remainders, Error> {
        self.count_remainders(Pace::Hurried).await
    }

    /// Sets the metrics to new counts, which are taken at leisure.
    pub async fn report_remainders(&self) -> Result<(), Error> {
        let Remainders { topics, events, bytes } = self.count_remainders(Pace::Leisurely).await?;
        metrics::gauge!("coldstream_remainder_topics").set(topics as f64);
        metrics::gauge!("coldstream_remainder_events").set(events as f64);
        metrics::gauge!("coldstream_remainder_bytes").set(bytes as f64);
        Ok(())
    }

    async fn count_remainders(&self, pace: Pace) -> Result<Remainders, Error> {
        let eligibility = &self.settings.eligibility;
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        let old = (eligibility.raised_at_max(now), eligibility.batch_size as i64);
        let excluded: Vec<String> = eligibility.excluded_topics.iter().cloned().collect();
        let (mut counted, mut after, mut breaks) = (Remainders::default(), 0, Breaks::new(pace));
        loop {
            let mut view = self.database.begin_job().await?;
            let some = overview::remainders_after(&mut view, (after, LOGS_AT_ONCE), old, &excluded).await?;
            counted.topics += some.logs;
            counted.events += some.events;
            let Some(last_log_id) = some.last_log_id else {
                let hot_events = overview::totals(&mut view).await?.hot_events;
                let share = counted.events as f64 / hot_events.max(1) as f64;
                counted.bytes = (events::table_bytes(&mut view).await? as f64 * share) as i64;
                return Ok(counted);
            };
            drop(view);
            after = last_log_id;
            breaks.take().await;
        }
    }
}
