//! Publishing: all or nothing, positions without gaps in commit order, and the same batch twice is published once.
//!
//! Positions are given under the topic's lock, which is held until the commit: whoever sees a position sees all below
//! it. If the process dies before the commit, nothing happened; if the answer is lost, publishing the same ids again
//! changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{self, Topic, Transaction};
use crate::event::{Event, Instant, Invalid, Log, NewEvent};
use crate::store::{ATTEMPTS, Error, Store};

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
    /// And the topics that have something new.
    Published(Results, Vec<(i64, Log)>),
    LookFor(Vec<(Log, LookFor)>),
}

/// What becomes of the events of one log.
enum Placed {
    Published { topic_id: i64, published: Vec<Published> },
    LookFor(LookFor),
}

impl Store {
    /// The results are in the order of the events.
    pub async fn publish(&self, log: &Log, events: Vec<NewEvent>) -> Result<Vec<Published>, Error> {
        let results = self.publish_all(BTreeMap::from([(log.clone(), events)])).await?;
        Ok(results.into_values().flatten().collect())
    }

    /// Of any number of logs, and all of it or nothing.
    pub async fn publish_all(&self, batches: Batches) -> Result<Results, Error> {
        let checked = batches
            .into_iter()
            .map(|(log, events)| Ok((log, events.into_iter().map(NewEvent::check).collect::<Result<_, Invalid>>()?)));
        self.publish_checked(&checked.collect::<Result<_, Error>>()?, Repeated::Compare).await
    }

    pub(super) async fn publish_checked(&self, batches: &Batches, repeated: Repeated) -> Result<Results, Error> {
        let mut archived: HashMap<Log, Archived> = HashMap::new();
        for _ in 0..ATTEMPTS {
            match self.try_publish(batches, repeated, &archived).await {
                Ok(Outcome::Published(results, topics)) => {
                    self.published(topics);
                    let new = results.values().flatten().filter(|published| published.is_new).count();
                    metrics::counter!("coldstream_events_published_total").increment(new as u64);
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
        for (log, events) in batches.iter().filter(|(_, events)| !events.is_empty()) {
            let archived = archived.get(log).unwrap_or(&nothing);
            match self.publish_to(&mut transaction, log, events, repeated, archived).await? {
                Placed::Published { topic_id, published } => {
                    // What is not new may be what a caller gave up on before anybody was told.
                    topics.push((topic_id, log.clone()));
                    results.insert(log.clone(), published);
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

    async fn publish_to(
        &self,
        transaction: &mut Transaction,
        log: &Log,
        events: &[NewEvent],
        repeated: Repeated,
        archived: &Archived,
    ) -> Result<Placed, Error> {
        let topic = lock_or_make(transaction, log).await?;
        let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
        let mut known = archived.events.clone();
        let hot = database::hot_by_ids(transaction, topic.id, &ids).await?;
        known.extend(hot.into_iter().map(|event| (event.id.clone(), event)));

        let unknown: Vec<String> = ids.into_iter().filter(|id| !known.contains_key(id)).collect();
        if topic.archived_count > 0 && !unknown.is_empty() {
            let key = self.hash_key(transaction).await?;
            let mut members = database::members_with_ids(transaction, topic.id, key, &unknown).await?;
            members.retain(|member| !archived.searched.contains(member));
            if !members.is_empty() {
                return Ok(Placed::LookFor(LookFor { ids: unknown, members }));
            }
        }

        let consumed = match topic.deleted_count {
            0 => HashMap::new(),
            _ => database::consumed_positions(transaction, topic.id, &unknown).await?,
        };

        let (published, new) = place(transaction, &topic, events, (known, consumed), repeated).await?;
        if let Some(last) = new.last() {
            database::insert(transaction, topic.id, &new, None).await?;
            database::set_head(transaction, topic.id, last.position).await?;
        }
        Ok(Placed::Published { topic_id: topic.id, published })
    }
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
async fn place(
    transaction: &mut Transaction,
    &Topic { id: topic_id, head_position, .. }: &Topic,
    events: &[NewEvent],
    (mut known, consumed): (HashMap<String, Event>, HashMap<String, i64>),
    repeated: Repeated,
) -> Result<(Vec<Published>, Vec<Event>), Error> {
    let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
    let (mut published, mut new) = (Vec::with_capacity(events.len()), Vec::new());
    for event in events {
        let (position, is_new) = match (known.get(&event.id), consumed.get(&event.id)) {
            (Some(there), _) => {
                if repeated == Repeated::Compare && !is_same(transaction, topic_id, event, there).await? {
                    return Err(Error::Conflict { id: event.id.clone() });
                }
                (there.position, false)
            }
            (None, Some(position)) => (*position, false),
            (None, None) => {
                let event = event.clone().at(head_position + 1 + new.len() as i64, now);
                known.insert(event.id.clone(), event.clone());
                new.push(event);
                (head_position + new.len() as i64, true)
            }
        };
        published.push(Published { id: event.id.clone(), position, is_new });
    }
    Ok((published, new))
}

/// Whether an event was there before, whatever edits have made of it since.
async fn is_same(transaction: &mut Transaction, topic_id: i64, event: &NewEvent, there: &Event) -> Result<bool, Error> {
    Ok(event.is_same_as(there)
        || event.was_same_as(there, &database::edits_of(transaction, topic_id, there.position).await?))
}
