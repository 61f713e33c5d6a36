//! Calls that publish to the same log at the same time share a transaction (group commit): a log has one in flight,
//! and what comes meanwhile makes up the next one. So the log's rate does not hang on how long a commit takes.
//!
//! Mostly the transaction is one statement, which appends if no id is known and the topic is what it was thought to be.
//! Whatever speaks against that, an error of any kind even, sends the calls the long way, under the topic's lock: ids
//! that were published by an attempt whose answer was lost are found there.
//!
//! If the process dies, each call's events are there all or not at all, and publishing them again changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::database;
use crate::database::log::events;
use crate::database::log::rows::LogRow;
use crate::event::{Log, NewEvent};
use crate::store::log::publish::{Archived, Conflicts, Placed, Published, count_new, now};
use crate::store::{Error, Store};

/// In one transaction, unless a single call brings more.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// From so many events on, `COPY` is worth the round trips of its transaction.
const COPIED_EVENTS_MIN: usize = 500;
/// Topics that are remembered.
const TOPICS_MAX: usize = 10_000;

/// Who waits to publish, by log. Whoever finds its log missing starts a leader for it.
#[derive(Default)]
pub struct Queues {
    waiting: Mutex<HashMap<Log, Vec<Call>>>,
    /// Topics as they were when they were last locked: what is appended without looking is appended to none that has
    /// changed since.
    seen: Mutex<HashMap<Log, LogRow>>,
}

struct Call {
    events: Vec<NewEvent>,
    answer: oneshot::Sender<Result<Vec<Published>, Error>>,
}

/// Works through the queue of one log.
struct Leader {
    store: Arc<Store>,
    log: Log,
    /// Whether the queue is gone, or another leader's by now.
    has_ended: bool,
}

impl Drop for Leader {
    /// After a panic, the next call of the log is to find no leader.
    fn drop(&mut self) {
        if !self.has_ended {
            self.store.queues.waiting().remove(&self.log);
        }
    }
}

impl Queues {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Log, Vec<Call>>> {
        self.waiting.lock()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Log, LogRow>> {
        self.seen.lock()
    }

    pub fn remember(&self, log_row: LogRow) {
        let mut seen = self.seen();
        if seen.len() >= TOPICS_MAX {
            seen.clear();
        }
        seen.insert(log_row.log.clone(), log_row);
    }
}

impl Store {
    /// Events that were checked, to one log.
    pub(in crate::store) async fn publish_joined(
        self: &Arc<Self>,
        log: Log,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Published>, Error> {
        let (answer, answered) = oneshot::channel();
        let call = Call { events, answer };
        let is_leaderless = {
            let mut waiting = self.queues.waiting();
            let is_leaderless = !waiting.contains_key(&log);
            waiting.entry(log.clone()).or_default().push(call);
            is_leaderless
        };
        if is_leaderless {
            // In a task of its own: whoever gives up takes nobody along. Boxed, since what is spawned is moved about.
            tokio::spawn(Box::pin(Leader { store: Arc::clone(self), log, has_ended: false }.lead()));
        }
        let patience = self.database.patience();
        match tokio::time::timeout(patience, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Error::Unavailable("publishing was broken off".into()))),
            Err(_) => Err(Error::Unavailable(format!("nothing was published within {patience:?}"))),
        }
    }
}

impl Leader {
    async fn lead(mut self) {
        while let Some(calls) = self.next() {
            self.publish(calls).await;
        }
    }

    /// Those that share the next transaction. Where there are none, the queue goes, before anybody can join it.
    fn next(&mut self) -> Option<Vec<Call>> {
        let mut waiting = self.store.queues.waiting();
        let Some(queue) = waiting.get_mut(&self.log).filter(|queue| !queue.is_empty()) else {
            waiting.remove(&self.log);
            self.has_ended = true;
            return None;
        };
        let (mut events, mut bytes) = (0, 0);
        let fitting = queue.iter().take_while(|call| {
            events += call.events.len();
            bytes += call.events.iter().map(|event| event.payload.byte_len()).sum::<usize>();
            events <= EVENTS_MAX && bytes <= BYTES_MAX
        });
        let count = fitting.count().max(1);
        Some(queue.drain(..count).collect())
    }

    async fn publish(&self, calls: Vec<Call>) {
        if let Some(results) = self.append(&calls).await {
            return answer(calls, results.into_iter().map(Ok));
        }
        // Boxed, since it is rare and large.
        match Box::pin(self.place(&calls)).await {
            Ok(Some(results)) => answer(calls, results.into_iter()),
            Err(Error::Unavailable(why)) => {
                let results: Vec<_> = calls.iter().map(|_| Err(Error::Unavailable(why.clone()))).collect();
                answer(calls, results.into_iter());
            }
            // Something has to be looked for in archives, or one call spoiled it for all: the queue waits for neither.
            Ok(None) | Err(_) => calls.into_iter().for_each(|call| {
                let (store, batches) = (Arc::clone(&self.store), BTreeMap::from([(self.log.clone(), call.events)]));
                tokio::spawn(async move {
                    let results = store.publish_checked(&batches).await;
                    // Nobody may be waiting any more.
                    let _ = call.answer.send(results.map(|results| results.into_values().flatten().collect()));
                });
            }),
        }
    }

    /// Under the topic's lock. `None` if archives have to be looked at first.
    async fn place(&self, calls: &[Call]) -> Result<Option<Vec<Result<Vec<Published>, Error>>>, Error> {
        let (store, log) = (&self.store, &self.log);
        let events: Vec<&[NewEvent]> = calls.iter().map(|call| call.events.as_slice()).collect();
        let mut transaction = store.database.begin().await?;
        let placed = store.publish_to(&mut transaction, log, &events, Conflicts::Refuse, &Archived::default()).await?;
        let Placed::Published(log_row, results) = placed else { return Ok(None) };
        database::commit(transaction).await?;
        store.tell_published(std::slice::from_ref(&log_row), count_new(results.iter().flatten().flatten()));
        store.queues.remember(log_row);
        Ok(Some(results))
    }

    /// Without a look at what is there, if that can be.
    async fn append(&self, calls: &[Call]) -> Option<Vec<Vec<Published>>> {
        let events: Vec<&NewEvent> = calls.iter().flat_map(|call| &call.events).collect();
        let mut positions = self.store.append(&self.log, &events).await?..;
        let mut place = |event: &NewEvent| {
            let position = positions.next().expect("positions do not end");
            Published { id: event.id.clone(), position, is_new: true }
        };
        Some(calls.iter().map(|call| call.events.iter().map(&mut place).collect()).collect())
    }
}

impl Store {
    /// Publishes events with one statement if all of them are new, as far as can be told without looking, and says
    /// which position the first one was given.
    pub(in crate::store) async fn append(&self, log: &Log, events: &[&NewEvent]) -> Option<i64> {
        let log_row = self.queues.seen().get(log).cloned()?;
        // What was consumed is remembered in rows that come and go.
        if log_row.deleted_count > 0 {
            return None;
        }
        let end_position = self.try_append(&log_row, events).await.unwrap_or_else(|error| {
            tracing::debug!(%error, %log, "events are published with a look at what is there");
            None
        });
        let Some(end_position) = end_position else {
            self.queues.seen().remove(log);
            return None;
        };
        self.tell_published(&[log_row], events.len());
        Some(end_position + 1)
    }

    /// What is archived after the look at archives changes the topic, and then nothing is appended.
    async fn try_append(&self, log_row: &LogRow, events: &[&NewEvent]) -> Result<Option<i64>, Error> {
        let mut connection = self.database.connection().await?;
        let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
        if !self.members_with_ids(&mut connection, log_row, &ids).await?.is_empty() {
            return Ok(None);
        }
        let now = now();
        let events = events.iter().copied().zip(1..).map(|(event, offset)| event.clone().at(offset, now));
        if ids.len() >= COPIED_EVENTS_MIN {
            drop(connection);
            let mut transaction = self.database.begin().await?;
            let end_position = events::append_many(&mut transaction, log_row, &ids, events).await?;
            if end_position.is_some() {
                database::commit(transaction).await?;
            }
            return Ok(end_position);
        }
        Ok(events::append(&mut connection, log_row, &events.collect::<Vec<_>>()).await?)
    }
}

/// Nobody may be waiting any more.
fn answer(calls: Vec<Call>, results: impl Iterator<Item = Result<Vec<Published>, Error>>) {
    for (call, result) in calls.into_iter().zip(results) {
        let _ = call.answer.send(result);
    }
}
