//! Publishing: all or nothing, positions without gaps in commit order, and the same batch twice is published once.
//!
//! A publish locks the log's row, gives positions to the new events, and holds the lock until the commit: a reader who
//! sees a position sees every position below it. If the process dies before the commit, nothing has happened. If the
//! reply is lost, publishing the same ids again changes nothing.

mod archived_ids;
mod joined;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::ledger::edits;
use crate::database::log::rows::{self, LogRow};
use crate::database::log::{consumed, events};
use crate::database::{self, Transaction};
use crate::event::{Edits, Event, Instant, Invalid, Log, NewEvent};
use crate::store::{ATTEMPTS, Error, Store};

pub use archived_ids::ArchivedIds;
pub use joined::Queues;

/// The result of publishing one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub position: i64,
    /// False if the event had been published before.
    pub is_new: bool,
}

/// The treatment of a batch with an event whose id another event has. Publishing the same event again is no conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// Nothing of the batch is published.
    Refuse,
    /// Neither that event nor the events behind it in its log are published.
    StopAt,
    /// All events but that one are published.
    Skip,
}

/// Rings with the logs to which events were published, so that their couriers wake.
pub type Bell = Box<dyn Fn(&[LogRow]) + Send + Sync>;

/// The events to publish, by log and in order.
type Batches = BTreeMap<Log, Vec<NewEvent>>;
/// The results of publishing them, by log and in the same order.
type Results = BTreeMap<Log, Vec<Published>>;
/// The outcome of each call that publishes to a log.
pub type CallResults = Vec<Result<Vec<Published>, Error>>;

/// Events of a log that were found in archives, by id, and the members that were searched for them. The ids that were
/// not found are not kept, because their events may be archived before the next attempt.
#[derive(Default)]
struct FoundInArchives {
    events: HashMap<String, Event>,
    searched: HashSet<(Uuid, i32)>,
}

/// Ids to search for, and the members that may hold them.
struct Search {
    ids: Vec<String>,
    members: Vec<(Uuid, i32)>,
}

enum Outcome {
    /// The results, and the logs' rows as they were before.
    Published(BTreeMap<Log, CallResults>, Vec<LogRow>),
    /// Nothing was published, because members have to be searched first.
    NeedsSearch(Vec<(Log, Search)>),
}

/// The outcome of placing the events of the calls that publish to one log.
enum Placed {
    /// The log's row as it was before, and the results of the calls in their order.
    Published(LogRow, CallResults),
    /// Nothing was placed, because members have to be searched first.
    NeedsSearch(Search),
}

impl Store {
    /// Publishes events to a log, and returns the results in the order of the events.
    pub async fn publish(self: &Arc<Self>, log: &Log, events: Vec<NewEvent>) -> Result<Vec<Published>, Error> {
        let results = self.publish_all(BTreeMap::from([(log.clone(), events)])).await?;
        Ok(results.into_values().flatten().collect())
    }

    /// Publishes events to any number of logs: all of them or nothing.
    pub async fn publish_all(self: &Arc<Self>, batches: Batches) -> Result<Results, Error> {
        let checked = batches.into_iter().filter(|(_, events)| !events.is_empty()).map(|(log, events)| {
            Ok((log, events.into_iter().map(|event| self.checked(event)).collect::<Result<_, Invalid>>()?))
        });
        let mut checked = checked.collect::<Result<Batches, Error>>()?;
        if checked.len() > 1 {
            // Boxed: an inline future would make the futures of the usual call ten times as large.
            return Box::pin(self.publish_checked(&checked)).await;
        }
        let Some((log, events)) = checked.pop_first() else { return Ok(Results::new()) };
        let published = self.publish_joined(log.clone(), events).await?;
        Ok(Results::from([(log, published)]))
    }

    async fn publish_checked(&self, batches: &Batches) -> Result<Results, Error> {
        let results = self.publish_batches(batches, Conflicts::Refuse).await?.into_iter();
        let whole = |calls: CallResults| calls.into_iter().flatten().flatten().collect();
        Ok(results.map(|(log, calls)| (log, whole(calls))).collect())
    }

    /// Publishes events to any number of logs, and treats conflicts as told. Each event is a call of its own, unless a
    /// conflict refuses the whole batch.
    pub(in crate::store) async fn publish_batches(
        &self,
        batches: &Batches,
        conflicts: Conflicts,
    ) -> Result<BTreeMap<Log, CallResults>, Error> {
        let mut archived: HashMap<Log, FoundInArchives> = HashMap::new();
        for _ in 0..ATTEMPTS {
            match self.try_publish(batches, conflicts, &archived).await {
                Ok(Outcome::Published(results, log_rows)) => {
                    self.notify_published(&log_rows, count_new(results.values().flatten().flatten().flatten()));
                    log_rows.into_iter().for_each(|log_row| self.queues.remember(log_row));
                    return Ok(results);
                }
                // The search runs outside of the transaction, so that no log's row stays locked while S3 answers.
                Ok(Outcome::NeedsSearch(searches)) => {
                    for (log, Search { ids, members }) in searches {
                        let found = self.find(&log, &ids).await?;
                        let archived = archived.entry(log).or_default();
                        archived.events.extend(found.into_iter().map(|found| (found.event.id.clone(), found.event)));
                        archived.searched.extend(members);
                    }
                }
                Err(Error::GaveWay(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable("events of the same ids are published or archived all the time".into()))
    }

    /// Publishes batches with one transaction. Logs are locked in the order of their names, so that two calls cannot
    /// deadlock.
    async fn try_publish(
        &self,
        batches: &Batches,
        conflicts: Conflicts,
        archived: &HashMap<Log, FoundInArchives>,
    ) -> Result<Outcome, Error> {
        let nothing = FoundInArchives::default();
        let mut transaction = self.database.begin().await?;
        let (mut results, mut log_rows, mut searches) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (log, events) in batches {
            let archived = archived.get(log).unwrap_or(&nothing);
            let calls: Vec<&[NewEvent]> = match conflicts {
                Conflicts::Refuse => vec![events],
                Conflicts::StopAt | Conflicts::Skip => events.chunks(1).collect(),
            };
            match self.publish_to(&mut transaction, log, &calls, conflicts, archived).await? {
                Placed::Published(log_row, mut calls) => {
                    if conflicts == Conflicts::Refuse {
                        calls = calls.into_iter().map(|call| call.map(Ok)).collect::<Result<CallResults, Error>>()?;
                    }
                    results.insert(log.clone(), calls);
                    log_rows.push(log_row);
                }
                Placed::NeedsSearch(search) => searches.push((log.clone(), search)),
            }
        }
        if !searches.is_empty() {
            return Ok(Outcome::NeedsSearch(searches));
        }
        database::commit(transaction).await?;
        Ok(Outcome::Published(results, log_rows))
    }

    /// Places the events of several calls behind the head of a log, in the order of the calls. A call that conflicts
    /// with a known event does not disturb the others.
    async fn publish_to(
        &self,
        transaction: &mut Transaction,
        log: &Log,
        calls: &[&[NewEvent]],
        conflicts: Conflicts,
        archived: &FoundInArchives,
    ) -> Result<Placed, Error> {
        let log_row = lock_or_make(transaction, log).await?;
        let ids: Vec<String> = calls.iter().copied().flatten().map(|event| event.id.clone()).collect();
        let mut known = archived.events.clone();
        let hot = events::by_ids(transaction, log_row.id, &ids).await?;
        known.extend(hot.into_iter().map(|event| (event.id.clone(), event)));

        let unknown: Vec<String> = ids.into_iter().filter(|id| !known.contains_key(id)).collect();
        let mut members = self.members_with_ids(transaction, &log_row, &unknown).await?;
        members.retain(|member| !archived.searched.contains(member));
        let consumed = match log_row.deleted_count {
            0 => HashMap::new(),
            _ => consumed::positions(transaction, log_row.id, &unknown).await?,
        };

        let edits = edits_of_others(transaction, &log_row, &known, calls).await?;
        let mut places = Places { log_row: &log_row, known, edits, consumed, new: Vec::new() };
        let mut results = CallResults::with_capacity(calls.len());
        for events in calls {
            results.push(places.take(events));
            if conflicts == Conflicts::StopAt && results.last().is_some_and(Result::is_err) {
                break;
            }
        }
        let new = places.new;
        if !members.is_empty() {
            // A batch that conflicts with hot events or with itself is refused without a search of archives.
            if conflicts == Conflicts::Refuse {
                results.into_iter().collect::<Result<Vec<_>, Error>>()?;
            }
            return Ok(Placed::NeedsSearch(Search { ids: unknown, members }));
        }
        if let Some(last) = new.last() {
            events::insert(transaction, log_row.id, &new, None).await?;
            rows::set_head(transaction, log_row.id, last.position).await?;
        }
        Ok(Placed::Published(log_row, results))
    }

    /// Wakes the couriers of logs to which events were published. It wakes them even if no event is new, because an
    /// earlier attempt may have been given up after its commit and before this call.
    fn notify_published(&self, log_rows: &[LogRow], new: usize) {
        (self.bell)(log_rows);
        metrics::counter!("coldstream_events_published_total").increment(new as u64);
    }
}

fn count_new<'a>(published: impl Iterator<Item = &'a Published>) -> usize {
    published.filter(|published| published.is_new).count()
}

async fn lock_or_make(transaction: &mut Transaction, log: &Log) -> Result<LogRow, Error> {
    loop {
        if let Some(log_row) = rows::lock(transaction, log).await? {
            return Ok(log_row);
        }
        rows::make(transaction, log).await?;
    }
}

/// Gives each new event a position behind the head, and each repeated event the position that it has, or had before it
/// was deleted as consumed.
struct Places<'a> {
    log_row: &'a LogRow,
    /// The known events by id, with the new ones.
    known: HashMap<String, Event>,
    /// The edits of known events that differ from the published ones, by position.
    edits: HashMap<i64, Edits>,
    consumed: HashMap<String, i64>,
    new: Vec<Event>,
}

impl Places<'_> {
    /// Places all events of a call, or none.
    fn take(&mut self, events: &[NewEvent]) -> Result<Vec<Published>, Error> {
        let taken = self.new.len();
        let mut published = Vec::with_capacity(events.len());
        for event in events {
            match self.place(event) {
                Ok(placed) => published.push(placed),
                Err(error) => {
                    for given_back in self.new.drain(taken..) {
                        self.known.remove(&given_back.id);
                    }
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    fn place(&mut self, event: &NewEvent) -> Result<Published, Error> {
        let (position, is_new) = match (self.known.get(&event.id), self.consumed.get(&event.id)) {
            (Some(there), _) => {
                if !self.is_same(event, there) {
                    return Err(Error::Conflict { id: event.id.clone() });
                }
                (there.position, false)
            }
            (None, Some(position)) => (*position, false),
            (None, None) => {
                let position = self.log_row.head_position + 1 + self.new.len() as i64;
                let event = event.clone().at(position, now());
                self.known.insert(event.id.clone(), event.clone());
                self.new.push(event);
                (position, true)
            }
        };
        Ok(Published { id: event.id.clone(), position, is_new })
    }

    /// Returns whether a published event is the same as a known one was before the edits of the known one.
    fn is_same(&self, event: &NewEvent, there: &Event) -> bool {
        let edits = self.edits.get(&there.position);
        event.is_same_as(there) || edits.is_some_and(|edits| event.was_same_as(there, edits))
    }
}

/// Returns the edits of known events that differ from the published ones. One query reads them all, because an import
/// that is run again after a rename has thousands of them.
async fn edits_of_others(
    transaction: &mut Transaction,
    log_row: &LogRow,
    known: &HashMap<String, Event>,
    calls: &[&[NewEvent]],
) -> Result<HashMap<i64, Edits>, Error> {
    let there = calls.iter().copied().flatten().filter_map(|event| Some((event, known.get(&event.id)?)));
    let others = there.filter(|(event, there)| !event.is_same_as(there)).map(|(_, there)| there.position);
    let positions: Vec<i64> = others.collect();
    if positions.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(edits::of_event(transaction, log_row.id, &positions).await?)
}

fn now() -> Instant {
    Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64)
}
