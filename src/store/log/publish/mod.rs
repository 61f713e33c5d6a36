//! Publishing: all or nothing, positions without gaps in commit order, and the same batch twice is published once.
//!
//! Positions are given under the topic's lock, which is held until the commit: whoever sees a position sees all below
//! it. If the process dies before the commit, nothing happened; if the answer is lost, publishing the same ids again
//! changes nothing.

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

/// What became of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub position: i64,
    /// False if it had been published before.
    pub is_new: bool,
}

/// The ways to treat a batch with an event whose id another one has. The same event again is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// Nothing of the batch is published.
    Refuse,
    /// Nothing that stands behind it in its log is published.
    StopAt,
    /// All but that event is published.
    Skip,
}

/// Rung with the logs that something was published to, so that their couriers wake.
pub type Bell = Box<dyn Fn(&[LogRow]) + Send + Sync>;

/// Events of some logs, and what became of them, each log's in order.
type Batches = BTreeMap<Log, Vec<NewEvent>>;
type Results = BTreeMap<Log, Vec<Published>>;
/// The outcome of each call to publish to a log.
pub type Calls = Vec<Result<Vec<Published>, Error>>;

/// Events of a log that were found in archives, by id; and the members that were searched for them. Not the ids that
/// were looked for: what is in no archive now may be archived before the next attempt.
#[derive(Default)]
struct Archived {
    events: HashMap<String, Event>,
    searched: HashSet<(Uuid, i32)>,
}

/// Ids that may be in these members, which have to be searched first.
struct LookFor {
    ids: Vec<String>,
    members: Vec<(Uuid, i32)>,
}

enum Outcome {
    /// And the topics, as they were before.
    Published(BTreeMap<Log, Calls>, Vec<LogRow>),
    LookFor(Vec<(Log, LookFor)>),
}

/// What becomes of the calls that publish to one log.
enum Placed {
    /// The results of each, in their order.
    Published(LogRow, Calls),
    LookFor(LookFor),
}

impl Store {
    /// The results are in the order of the events.
    pub async fn publish(self: &Arc<Self>, log: &Log, events: Vec<NewEvent>) -> Result<Vec<Published>, Error> {
        let results = self.publish_all(BTreeMap::from([(log.clone(), events)])).await?;
        Ok(results.into_values().flatten().collect())
    }

    /// Of any number of logs, and all of it or nothing.
    pub async fn publish_all(self: &Arc<Self>, batches: Batches) -> Result<Results, Error> {
        let checked = batches.into_iter().filter(|(_, events)| !events.is_empty()).map(|(log, events)| {
            Ok((log, events.into_iter().map(|event| self.checked(event)).collect::<Result<_, Invalid>>()?))
        });
        let mut checked = checked.collect::<Result<Batches, Error>>()?;
        if checked.len() > 1 {
            // Boxed: with it in them, the usual call's futures would be ten times as large.
            return Box::pin(self.publish_checked(&checked)).await;
        }
        let Some((log, events)) = checked.pop_first() else { return Ok(Results::new()) };
        let published = self.publish_joined(log.clone(), events).await?;
        Ok(Results::from([(log, published)]))
    }

    async fn publish_checked(&self, batches: &Batches) -> Result<Results, Error> {
        let results = self.publish_where(batches, Conflicts::Refuse).await?.into_iter();
        let whole = |calls: Calls| calls.into_iter().flatten().flatten().collect();
        Ok(results.map(|(log, calls)| (log, whole(calls))).collect())
    }

    /// Each event is a call of its own, unless a conflict refuses the whole batch.
    pub(in crate::store) async fn publish_where(
        &self,
        batches: &Batches,
        conflicts: Conflicts,
    ) -> Result<BTreeMap<Log, Calls>, Error> {
        let mut archived: HashMap<Log, Archived> = HashMap::new();
        for _ in 0..ATTEMPTS {
            match self.try_publish(batches, conflicts, &archived).await {
                Ok(Outcome::Published(results, topics)) => {
                    self.tell_published(&topics, count_new(results.values().flatten().flatten().flatten()));
                    topics.into_iter().for_each(|log_row| self.queues.remember(log_row));
                    return Ok(results);
                }
                // Outside of the transaction: nobody waits for S3 with a topic locked.
                Ok(Outcome::LookFor(wanted)) => {
                    for (log, LookFor { ids, members }) in wanted {
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

    /// Topics are locked in the order of their names, so that two batches cannot wait for each other.
    async fn try_publish(
        &self,
        batches: &Batches,
        conflicts: Conflicts,
        archived: &HashMap<Log, Archived>,
    ) -> Result<Outcome, Error> {
        let nothing = Archived::default();
        let mut transaction = self.database.begin().await?;
        let (mut results, mut topics, mut wanted) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (log, events) in batches {
            let archived = archived.get(log).unwrap_or(&nothing);
            let calls: Vec<&[NewEvent]> = match conflicts {
                Conflicts::Refuse => vec![events],
                Conflicts::StopAt | Conflicts::Skip => events.chunks(1).collect(),
            };
            match self.publish_to(&mut transaction, log, &calls, conflicts, archived).await? {
                Placed::Published(log_row, mut calls) => {
                    if conflicts == Conflicts::Refuse {
                        calls = calls.into_iter().map(|call| call.map(Ok)).collect::<Result<Calls, Error>>()?;
                    }
                    results.insert(log.clone(), calls);
                    topics.push(log_row);
                }
                Placed::LookFor(look_for) => wanted.push((log.clone(), look_for)),
            }
        }
        if !wanted.is_empty() {
            return Ok(Outcome::LookFor(wanted));
        }
        database::commit(transaction).await?;
        Ok(Outcome::Published(results, topics))
    }

    /// Places the events of some calls behind each other. A call that conflicts with what is there leaves the others
    /// alone.
    async fn publish_to(
        &self,
        transaction: &mut Transaction,
        log: &Log,
        calls: &[&[NewEvent]],
        conflicts: Conflicts,
        archived: &Archived,
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
        let mut results = Calls::with_capacity(calls.len());
        for events in calls {
            results.push(places.take(events));
            if conflicts == Conflicts::StopAt && results.last().is_some_and(Result::is_err) {
                break;
            }
        }
        let new = places.new;
        if !members.is_empty() {
            // A batch that is refused for hot events, or for two of its own, needs no look into archives.
            if conflicts == Conflicts::Refuse {
                results.into_iter().collect::<Result<Vec<_>, Error>>()?;
            }
            return Ok(Placed::LookFor(LookFor { ids: unknown, members }));
        }
        if let Some(last) = new.last() {
            events::insert(transaction, log_row.id, &new, None).await?;
            rows::set_head(transaction, log_row.id, last.position).await?;
        }
        Ok(Placed::Published(log_row, results))
    }

    /// The topics are woken even if nothing is new: it may be what a caller gave up on before anybody was told.
    fn tell_published(&self, topics: &[LogRow], new: usize) {
        (self.bell)(topics);
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

/// Gives each new event its place behind the head, and each repeated one the place that it has, or had before it was
/// consumed.
struct Places<'a> {
    log_row: &'a LogRow,
    /// By id; those that are new are among them.
    known: HashMap<String, Event>,
    /// The edits of those among them that are not what is published now, by position.
    edits: HashMap<i64, Edits>,
    consumed: HashMap<String, i64>,
    new: Vec<Event>,
}

impl Places<'_> {
    /// All the events of a call, or none.
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

    /// Whether an event was there before, whatever edits have made of it since.
    fn is_same(&self, event: &NewEvent, there: &Event) -> bool {
        let edits = self.edits.get(&there.position);
        event.is_same_as(there) || edits.is_some_and(|edits| event.was_same_as(there, edits))
    }
}

/// The edits of known events that differ from what is published now, all at once: an import that is run again after a
/// rename has thousands of them.
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
