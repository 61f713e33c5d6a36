//! Old events that stay in Postgres, because their topic has fewer of them than a batch takes. They are counted, so that
//! nobody waits for them to go.

use time::OffsetDateTime;

use crate::database::catalog::overview;
use crate::database::log::events;
use crate::event::Instant;
use crate::store::moving::breaks::{Breaks, Haste};
use crate::store::{Error, Store};

/// One statement looks at so many: each has fewer old events than a batch takes, or is counted no further.
const TOPICS_AT_ONCE: i64 = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remainders {
    pub topics: i64,
    pub events: i64,
    /// Their share of what the table of hot events and its indexes take on disk.
    pub bytes: i64,
}

impl Store {
    pub async fn remainders(&self) -> Result<Remainders, Error> {
        self.count_remainders(Haste::Hurried).await
    }

    /// Tells metrics, with rests that are longer than the work.
    pub async fn report_remainders(&self) -> Result<(), Error> {
        let Remainders { topics, events, bytes } = self.count_remainders(Haste::Leisurely).await?;
        metrics::gauge!("coldstream_remainder_topics").set(topics as f64);
        metrics::gauge!("coldstream_remainder_events").set(events as f64);
        metrics::gauge!("coldstream_remainder_bytes").set(bytes as f64);
        Ok(())
    }

    async fn count_remainders(&self, haste: Haste) -> Result<Remainders, Error> {
        let eligibility = &self.settings.eligibility;
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        let old = (eligibility.raised_at_max(now), eligibility.batch_size as i64);
        let excluded: Vec<String> = eligibility.excluded_topics.iter().cloned().collect();
        let (mut counted, mut after, mut breaks) = (Remainders::default(), 0, Breaks::new(haste));
        loop {
            let mut view = self.database.begin_job().await?;
            let some = overview::remainders_after(&mut view, (after, TOPICS_AT_ONCE), old, &excluded).await?;
            counted.topics += some.topics;
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
