//! Taking over events from elsewhere, with their own ids and times. What is there already is kept and counted, so an
//! import that was cut off is simply run again.

use std::collections::BTreeMap;

use crate::event::{Log, NewEvent};
use crate::store::publish::Repeated;
use crate::store::{Error, Store};

/// Events that are inserted at once.
const BATCH_EVENTS: usize = 5_000;
/// Bytes of events that are inserted at once, about.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportCounts {
    pub imported: u64,
    /// They were there already.
    pub skipped: u64,
}

/// Events that come in one after the other, of any logs; each log keeps their order.
pub struct Importer<'a> {
    store: &'a Store,
    waiting: BTreeMap<Log, Vec<NewEvent>>,
    waiting_events: usize,
    waiting_bytes: usize,
    counts: ImportCounts,
}

impl Store {
    pub fn importer(&self) -> Importer<'_> {
        Importer {
            store: self,
            waiting: BTreeMap::new(),
            waiting_events: 0,
            waiting_bytes: 0,
            counts: ImportCounts::default(),
        }
    }
}

impl Importer<'_> {
    pub async fn push(&mut self, log: Log, event: NewEvent) -> Result<(), Error> {
        let event = event.check()?;
        self.waiting_events += 1;
        self.waiting_bytes += event.payload.byte_len();
        self.waiting.entry(log).or_default().push(event);
        if self.waiting_events >= BATCH_EVENTS || self.waiting_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// What was published so far.
    pub fn counts(&self) -> ImportCounts {
        self.counts
    }

    pub async fn finish(mut self) -> Result<ImportCounts, Error> {
        self.flush().await?;
        Ok(self.counts)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let mut looked_at = BTreeMap::new();
        for (log, events) in std::mem::take(&mut self.waiting) {
            match self.store.append(&log, &events.iter().collect::<Vec<_>>()).await {
                Some(_) => self.counts.imported += events.len() as u64,
                None => drop(looked_at.insert(log, events)),
            }
        }
        let results = self.store.publish_checked(&looked_at, Repeated::Keep).await?;
        for published in results.into_values().flatten() {
            match published.is_new {
                true => self.counts.imported += 1,
                false => self.counts.skipped += 1,
            }
        }
        (self.waiting_events, self.waiting_bytes) = (0, 0);
        Ok(())
    }
}
