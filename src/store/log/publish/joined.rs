//! Calls that publish to the same log at the same time share a transaction (group commit): a log has one transaction in
//! flight, and the calls that come meanwhile share the next one. So a slow commit does not limit the log's rate.
//!
//! Mostly the transaction is one statement, which appends if no id is known and the log's row is as this process
//! remembers it. In any other case, even after any error, the calls are published under the log's lock, where ids are
//! found that an attempt has published whose reply was lost.
//!
//! If the process dies, all events of a call are in the log or none, and publishing them again changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::database;
use crate::database::log::events;
use crate::database::log::rows::LogRow;
use crate::event::{Log, NewEvent};
use crate::store::log::publish::{Conflicts, FoundInArchives, Placed, Published, count_new, now};
use crate::store::{Error, Store};

/// The most events and bytes of one transaction, unless a single call has more.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// The fewest events for which `COPY` is worth the round trips of its transaction.
const COPIED_EVENTS_MIN: usize = 500;
/// The most logs whose rows are remembered.
const LOGS_MAX: usize = 10_000;

/// The calls that wait to publish, by log. A call that finds no queue for its log starts a leader for the log.
#[derive(Default)]
pub struct Queues {
    waiting: Mutex<HashMap<Log, Vec<Call>>>,
    /// The logs' rows as they were when they were last locked. An append without a lookup succeeds only if the row has
    /// not changed since.
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
    /// The leader has removed the queue. A queue that exists then is another leader's.
    has_ended: bool,
}

impl Drop for Leader {
    /// Removes the queue after a panic, so that the next call of the log starts a new leader.
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
        if seen.len() >= LOGS_MAX {
            seen.clear();
        }
        seen.insert(log_row.log.clone(), log_row);
    }
}

impl Store {
    /// Publishes events that were checked to one log.
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
            // The leader has a task of its own, so that a caller who gives up does not cancel the others. Boxed, since
            // a future is moved when it is spawned.
            tokio::spawn(Box::pin(Leader { store: Arc::clone(self), log, has_ended: false }.lead()));
        }
        let patience = self.database.patience();
        match tokio::time::timeout(patience, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Error::Unavailable("publishing was interrupted".into()))),
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

    /// Takes the calls that share the next transaction. If there are none, it removes the queue under the same lock, so
    /// that no call joins a queue without a leader.
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
            // Archives have to be searched, or one call has failed the transaction of all. The queue waits for neither:
            // each call is published by itself.
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

    /// Publishes calls under the log's lock. `None` if archives have to be searched first.
    async fn place(&self, calls: &[Call]) -> Result<Option<Vec<Result<Vec<Published>, Error>>>, Error> {
        let (store, log) = (&self.store, &self.log);
        let events: Vec<&[NewEvent]> = calls.iter().map(|call| call.events.as_slice()).collect();
        let mut transaction = store.database.begin().await?;
        let placed =
            store.publish_to(&mut transaction, log, &events, Conflicts::Refuse, &FoundInArchives::default()).await?;
        let Placed::Published(log_row, results) = placed else { return Ok(None) };
        database::commit(transaction).await?;
        store.notify_published(std::slice::from_ref(&log_row), count_new(results.iter().flatten().flatten()));
        store.queues.remember(log_row);
        Ok(Some(results))
    }

    /// Publishes calls without the log's lock. `None` if that was not possible, or if its outcome is unknown.
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
    /// Publishes events with one transaction if no hot event has their ids and no archive may have them, and returns
    /// the position of the first one. `None` if that was not possible, or if an error left the outcome unknown.
    pub(in crate::store) async fn append(&self, log: &Log, events: &[&NewEvent]) -> Option<i64> {
        let log_row = self.queues.seen().get(log).cloned()?;
        // Ids of consumed events are remembered in rows that this path does not look up.
        if log_row.deleted_count > 0 {
            return None;
        }
        let end_position = self.try_append(&log_row, events).await.unwrap_or_else(|error| {
            tracing::debug!(%error, %log, "events are published under the log's lock instead");
            None
        });
        let Some(end_position) = end_position else {
            self.queues.seen().remove(log);
            return None;
        };
        self.notify_published(&[log_row], events.len());
        Some(end_position + 1)
    }

    /// Appends events if no archive may hold their ids, and returns the position of the head before. If events are
    /// archived after that lookup, the log's row changes, and nothing is appended.
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

/// Sends the results to the callers, some of whom may have given up.
fn answer(calls: Vec<Call>, results: impl Iterator<Item = Result<Vec<Published>, Error>>) {
    for (call, result) in calls.into_iter().zip(results) {
        let _ = call.answer.send(result);
    }
}
