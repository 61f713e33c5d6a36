//! Taking over events from elsewhere, with their own ids and times. What is there already is kept and counted, so an
//! import that was cut off is simply run again. Another event under an id that is there is never passed over in
//! silence.

use std::collections::BTreeMap;

use crate::database;
use crate::database::log::events;
use crate::event::{Log, NewEvent};
use crate::store::log::publish::{Calls, Conflicts};
use crate::store::{Error, Store};

/// From so many events, or bytes of them, on, a batch is full. Most of what a commit has to write is on disk before it,
/// where a batch takes longer than Postgres' own writer waits (0.2 s); publishers to the log wait meanwhile.
const EVENTS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportCounts {
    pub imported: u64,
    /// They were there already.
    pub skipped: u64,
    /// In the order of the batch.
    pub conflicts: Vec<ImportConflict>,
    pub unknown: Vec<ImportUnknown>,
}

/// An event whose id another one has in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportConflict {
    /// How many events were pushed into the batch before it.
    pub index: usize,
    pub log: Log,
    pub id: String,
}

/// Events of a log that were not imported: an object that may hold some of them cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportUnknown {
    /// How many events were pushed into the batch before the first of them.
    pub index: usize,
    pub log: Log,
    pub count: usize,
    pub why: String,
}

/// Events of any logs that are inserted together; each log keeps their order.
#[derive(Debug, Default)]
pub struct ImportBatch {
    events: BTreeMap<Log, Vec<NewEvent>>,
    /// The indexes of the same events in the batch.
    indexes: BTreeMap<Log, Vec<usize>>,
    count: usize,
    bytes: usize,
}

impl ImportBatch {
    pub fn push(&mut self, log: Log, event: NewEvent) -> Result<(), Error> {
        let event = event.check()?;
        self.bytes += event.payload.byte_len();
        self.indexes.entry(log.clone()).or_default().push(self.count);
        self.events.entry(log).or_default().push(event);
        self.count += 1;
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.count >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }
}

impl Store {
    /// A log's events of a batch are there all or not at all; those at and behind a conflict are not, or the conflict
    /// alone is not.
    pub async fn import(&self, batch: ImportBatch, conflicts: Conflicts) -> Result<ImportCounts, Error> {
        let ImportBatch { events, indexes, .. } = batch;
        let mut counts = ImportCounts::default();
        let mut looked_at = BTreeMap::new();
        for (log, events) in events {
            match self.append(&log, &events.iter().collect::<Vec<_>>()).await {
                Some(_) => counts.imported += events.len() as u64,
                None => drop(looked_at.insert(log, events)),
            }
        }
        let outcomes = match self.publish_where(&looked_at, conflicts).await {
            // The events of other logs are imported all the same.
            Err(error) if error.is_of_one_object() => self.publish_apart(looked_at, conflicts).await?,
            outcomes => outcomes?.into_iter().map(|(log, calls)| (log, Ok(calls))).collect(),
        };
        for (log, outcome) in outcomes {
            let indexes = &indexes[&log];
            let calls = match outcome {
                Ok(calls) => calls,
                Err(error) => {
                    let (index, count, why) = (indexes[0], indexes.len(), error.to_string());
                    counts.unknown.push(ImportUnknown { index, log, count, why });
                    continue;
                }
            };
            // Each event is a call of its own.
            for (call, index) in calls.into_iter().zip(indexes) {
                match call {
                    Ok(published) if published.iter().all(|published| published.is_new) => counts.imported += 1,
                    Ok(_) => counts.skipped += 1,
                    Err(Error::Conflict { id }) => {
                        counts.conflicts.push(ImportConflict { index: *index, log: log.clone(), id });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        counts.conflicts.sort_by_key(|conflict| conflict.index);
        Ok(counts)
    }

    /// Publishes to one log after the other. An error of one object is the outcome of its log alone.
    async fn publish_apart(
        &self,
        batches: BTreeMap<Log, Vec<NewEvent>>,
        conflicts: Conflicts,
    ) -> Result<Vec<(Log, Result<Calls, Error>)>, Error> {
        let mut outcomes = Vec::new();
        for (log, events) in batches {
            let batch = BTreeMap::from([(log.clone(), events)]);
            match self.publish_where(&batch, conflicts).await {
                Ok(calls) => outcomes.extend(calls.into_iter().map(|(log, calls)| (log, Ok(calls)))),
                Err(error) if error.is_of_one_object() => outcomes.push((log, Err(error))),
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    /// Once there is no batch left: reads are as fast as they will be from now on.
    pub async fn end_import(&self) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        events::collect_statistics(&mut transaction).await?;
        Ok(database::commit(transaction).await?)
    }
}
