//! Importing events from elsewhere, with their own ids and times. Events that are in the log already are kept and
//! counted, so you simply run an import again that was cut off. An event whose id belongs to another event is never
//! skipped in silence.

use std::collections::BTreeMap;

use crate::database;
use crate::database::log::events;
use crate::event::{Log, NewEvent};
use crate::store::log::publish::{CallResults, Conflicts};
use crate::store::{Error, Store};

/// The events and bytes at which a batch is full. Publishers to the log wait for its commit. If a batch takes longer
/// than Postgres' own writer waits (0.2 s), most of its data is on disk before the commit.
const EVENTS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportCounts {
    pub imported: u64,
    /// The events that were in their logs before.
    pub skipped: u64,
    /// The conflicts, in the order of the batch.
    pub conflicts: Vec<ImportConflict>,
    /// The logs whose events cannot be compared with those that are archived.
    pub unknown: Vec<ImportUnknown>,
}

/// An event whose id another event has in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportConflict {
    /// The number of events that were pushed into the batch before this one.
    pub index: usize,
    pub log: Log,
    pub id: String,
}

/// Events of a log that were not imported: an object that may hold some of them cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportUnknown {
    /// The number of events that were pushed into the batch before the first of these.
    pub index: usize,
    pub log: Log,
    pub count: usize,
    pub why: String,
}

/// Events of any number of logs that are imported with one call, in the order of each log.
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
    /// Imports a batch. All events of a log are imported or none, except that [`Conflicts::StopAt`] leaves out a
    /// conflicting event and those behind it, and [`Conflicts::Skip`] leaves out the conflicting event alone.
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
        let outcomes = match self.publish_batches(&looked_at, conflicts).await {
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

    /// Publishes to one log after the other, so that an error of one object is the outcome of its log alone.
    async fn publish_apart(
        &self,
        batches: BTreeMap<Log, Vec<NewEvent>>,
        conflicts: Conflicts,
    ) -> Result<Vec<(Log, Result<CallResults, Error>)>, Error> {
        let mut outcomes = Vec::new();
        for (log, events) in batches {
            let batch = BTreeMap::from([(log.clone(), events)]);
            match self.publish_batches(&batch, conflicts).await {
                Ok(calls) => outcomes.extend(calls.into_iter().map(|(log, calls)| (log, Ok(calls)))),
                Err(error) if error.is_of_one_object() => outcomes.push((log, Err(error))),
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    /// Collects the statistics of the events after the last batch, so that reads are as fast as they will be from then
    /// on.
    pub async fn end_import(&self) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        events::collect_statistics(&mut transaction).await?;
        Ok(database::commit(transaction).await?)
    }
}
