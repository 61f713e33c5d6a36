//! Taking over events from elsewhere, with their own ids and times. What is there already is kept and counted, so an
//! import that was cut off is simply run again.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::database;
use crate::event::{Log, NewEvent};
use crate::store::publish::Repeated;
use crate::store::{Error, Store};

/// From so many events, or bytes of them, on, a batch is full. Most of what a commit has to write is on disk before it,
/// where a batch takes longer than Postgres' own writer waits (0.2 s); publishers to the log wait meanwhile.
const EVENTS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportCounts {
    pub imported: u64,
    /// They were there already.
    pub skipped: u64,
}

impl AddAssign for ImportCounts {
    fn add_assign(&mut self, ImportCounts { imported, skipped }: ImportCounts) {
        self.imported += imported;
        self.skipped += skipped;
    }
}

/// Events of any logs that are inserted together; each log keeps their order.
#[derive(Debug, Default)]
pub struct ImportBatch {
    events: BTreeMap<Log, Vec<NewEvent>>,
    count: usize,
    bytes: usize,
}

impl ImportBatch {
    pub fn push(&mut self, log: Log, event: NewEvent) -> Result<(), Error> {
        let event = event.check()?;
        self.count += 1;
        self.bytes += event.payload.byte_len();
        self.events.entry(log).or_default().push(event);
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.count >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }
}

impl Store {
    /// A log's events of a batch are there all or not at all.
    pub async fn import(&self, batch: ImportBatch) -> Result<ImportCounts, Error> {
        let mut counts = ImportCounts::default();
        let mut looked_at = BTreeMap::new();
        for (log, events) in batch.events {
            match self.append(&log, &events.iter().collect::<Vec<_>>()).await {
                Some(_) => counts.imported += events.len() as u64,
                None => drop(looked_at.insert(log, events)),
            }
        }
        let results = self.publish_checked(&looked_at, Repeated::Keep).await?;
        for published in results.into_values().flatten() {
            match published.is_new {
                true => counts.imported += 1,
                false => counts.skipped += 1,
            }
        }
        Ok(counts)
    }

    /// Once there is no batch left: reads are as fast as they will be from now on.
    pub async fn end_import(&self) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        database::collect_statistics(&mut transaction).await?;
        Ok(database::commit(transaction).await?)
    }
}
