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

use crate::database::{self, Topic, Transaction};
use crate::event::{Event, Instant, Invalid, Log, NewEvent};
use crate::store::{ATTEMPTS, Error, Store};

pub(super) use archived_ids::ArchivedIds;
pub(super) use joined::Queues;

/// What became of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub position: i64,
    /// False if it had been published before.
    pub is_new: bool,
}

/// What to do with an event whose id is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeated {
    /// The same content is fine, another one is refused.
    Compare,
    /// The one that is there counts: it may have been edited since.
    Keep,
}

/// Events of some logs, and what became of them, each log's in order.
type Batches = BTreeMap<Log, Vec<NewEvent>>;
type Results = BTreeMap<Log, Vec<Published>>;

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
    Published(Results, Vec<Topic>),
    LookFor(Vec<(Log, LookFor)>),
}

/// What becomes of the calls that publish to one log.
enum Placed {
    /// The results of each, in their order.
    Published(Topic, Vec<Result<Vec<Published>, Error>>),
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
        let checked = batches
            .into_iter()
            .filter(|(_, events)| !events.is_empty())
            .map(|(log, events)| Ok((log, events.into_iter().map(NewEvent::check).collect::<Result<_, Invalid>>()?)));
        let mut checked = checked.collect::<Result<Batches, Error>>()?;
        if checked.len() > 1 {
            // Boxed: with it in them, the usual call's futures would be ten times as large.
            return Box::pin(self.publish_checked(&checked, Repeated::Compare)).await;
        }
        let Some((log, events)) = checked.pop_first() else { return Ok(Results::new()) };
        let published = self.publish_joined(log.clone(), events).await?;
        Ok(Results::from([(log, published)]))
    }

    pub(super) async fn publish_checked(&self, batches: &Batches, repeated: Repeated) -> Result<Results, Error> {
        let mut archived: HashMap<Log, Archived> = HashMap::new();
        for _ in 0..ATTEMPTS {
            match self.try_publish(batches, repeated, &archived).await {
                Ok(Outcome::Published(results, topics)) => {
                    self.tell_published(&topics, count_new(results.values().flatten()));
                    topics.into_iter().for_each(|topic| self.queues.remember(topic));
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
        repeated: Repeated,
        archived: &HashMap<Log, Archived>,
    ) -> Result<Outcome, Error> {
        let nothing = Archived::default();
        let mut transaction = self.database.begin().await?;
        let (mut results, mut topics, mut wanted) = (Results::new(), Vec::new(), Vec::new());
        for (log, events) in batches {
            let archived = archived.get(log).unwrap_or(&nothing);
            match self.publish_to(&mut transaction, log, &[events], repeated, archived).await? {
                Placed::Published(topic, published) => {
                    let published: Vec<Vec<Published>> = published.into_iter().collect::<Result<_, Error>>()?;
                    results.insert(log.clone(), published.into_iter().flatten().collect());
                    topics.push(topic);
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
        repeated: Repeated,
        archived: &Archived,
    ) -> Result<Placed, Error> {
        let topic = lock_or_make(transaction, log).await?;
        let ids: Vec<String> = calls.iter().copied().flatten().map(|event| event.id.clone()).collect();
        let mut known = archived.events.clone();
        let hot = database::hot_by_ids(transaction, topic.id, &ids).await?;
        known.extend(hot.into_iter().map(|event| (event.id.clone(), event)));

        let unknown: Vec<String> = ids.into_iter().filter(|id| !known.contains_key(id)).collect();
        let mut members = self.members_with_ids(transaction, &topic, &unknown).await?;
        members.retain(|member| !archived.searched.contains(member));
        if !members.is_empty() {
            return Ok(Placed::LookFor(LookFor { ids: unknown, members }));
        }

        let consumed = match topic.deleted_count {
            0 => HashMap::new(),
            _ => database::consumed_positions(transaction, topic.id, &unknown).await?,
        };

        let mut places = Places { topic: &topic, repeated, known, consumed, new: Vec::new() };
        let mut results = Vec::with_capacity(calls.len());
        for events in calls {
            results.push(places.take(transaction, events).await);
        }
        let new = places.new;
        if let Some(last) = new.last() {
            database::insert(transaction, topic.id, &new, None).await?;
            database::set_head(transaction, topic.id, last.position).await?;
        }
        Ok(Placed::Published(topic, results))
    }

    /// The topics are woken even if nothing is new: it may be what a caller gave up on before anybody was told.
    fn tell_published(&self, topics: &[Topic], new: usize) {
        self.wake(topics);
        metrics::counter!("coldstream_events_published_total").increment(new as u64);
    }
}

fn count_new<'a>(published: impl Iterator<Item = &'a Published>) -> usize {
    published.filter(|published| published.is_new).count()
}

async fn lock_or_make(transaction: &mut Transaction, log: &Log) -> Result<Topic, Error> {
    loop {
        if let Some(topic) = database::lock_topic(transaction, log).await? {
            return Ok(topic);
        }
        database::make_topic(transaction, log).await?;
    }
}

/// Gives each new event its place behind the head, and each repeated one the place that it has, or had before it was
/// consumed.
struct Places<'a> {
    topic: &'a Topic,
    repeated: Repeated,
    /// By id; those that are new are among them.
    known: HashMap<String, Event>,
    consumed: HashMap<String, i64>,
    new: Vec<Event>,
}

impl Places<'_> {
    /// All the events of a call, or none.
    async fn take(&mut self, transaction: &mut Transaction, events: &[NewEvent]) -> Result<Vec<Published>, Error> {
        let taken = self.new.len();
        let mut published = Vec::with_capacity(events.len());
        for event in events {
            match self.place(transaction, event).await {
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

    async fn place(&mut self, transaction: &mut Transaction, event: &NewEvent) -> Result<Published, Error> {
        let topic = self.topic;
        let (position, is_new) = match (self.known.get(&event.id), self.consumed.get(&event.id)) {
            (Some(there), _) => {
                if self.repeated == Repeated::Compare && !is_same(transaction, topic.id, event, there).await? {
                    return Err(Error::Conflict { id: event.id.clone() });
                }
                (there.position, false)
            }
            (None, Some(position)) => (*position, false),
            (None, None) => {
                let position = topic.head_position + 1 + self.new.len() as i64;
                let event = event.clone().at(position, now());
                self.known.insert(event.id.clone(), event.clone());
                self.new.push(event);
                (position, true)
            }
        };
        Ok(Published { id: event.id.clone(), position, is_new })
    }
}

fn now() -> Instant {
    Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64)
}

/// Whether an event was there before, whatever edits have made of it since.
async fn is_same(transaction: &mut Transaction, topic_id: i64, event: &NewEvent, there: &Event) -> Result<bool, Error> {
    Ok(event.is_same_as(there)
        || event.was_same_as(there, &database::edits_of(transaction, topic_id, there.position).await?))
}
