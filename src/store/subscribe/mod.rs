//! Subscriptions: events are delivered to groups, to each in order and at least once.
//!
//! A group's progress in a log is a row. At any time one live replica owns it, and only the owner's epoch may write it.
//! If a process dies, the next owner of the row delivers again what was in flight.
//! `docs/decisions/0018-one-owner-of-a-progress.md` says why it is built so.

mod acks;
mod broadcast;
mod consistency;
mod courier;
mod erroneous;
mod lease;
mod notices;
mod receipts;
mod replica;
#[cfg(test)]
mod sample;
mod subscriber;
mod wake;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::database::log::rows::{self, LogRow};
use crate::database::{self, Database, groups};
use crate::event::Log;
use crate::store::log::read::Turns;
use crate::store::subscribe::courier::Ack;
use crate::store::subscribe::notices::{LOG_IDS_MAX, Word};
use crate::store::subscribe::replica::Replica;
use crate::store::subscribe::subscriber::Subscriber;
use crate::store::subscribe::wake::Cause;
use crate::store::{Error, Store};

pub use crate::event::Group;
pub use erroneous::ErroneousEvent;
pub use subscriber::{Deliveries, Delivery, Subscribing};

/// The couriers that read at once, and those that write, or ask whether an event was edited before they send it. The
/// other connections are left to publishers and readers. The two have limits of their own: otherwise sends and acks
/// would wait behind the reads of ten thousand logs.
const READS_MAX: usize = 4;
const WRITES_MAX: usize = 4;
/// The couriers that wait for S3 at once, without a connection. Couriers of hot events do not wait behind them.
const ARCHIVED_READS_MAX: usize = 4;
/// The time for which notices of new events are collected. Publishers do not wait for Postgres' notifications, which
/// would make their commits queue up.
const WORD_INTERVAL: Duration = Duration::from_millis(3);
/// The same time if there was no other replica at the last notice, so that the process does not ask for one with every
/// few publications. A replica that starts meanwhile hears of them that much later.
const WORD_INTERVAL_ALONE: Duration = Duration::from_millis(50);

/// The groups that must have handled an event before it is deleted, by topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequiredGroups {
    pub normal: BTreeMap<String, Vec<String>>,
    pub parallel: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct SubscribingSettings {
    pub required_groups: RequiredGroups,
    /// The longest time that a caller waits for groups.
    pub consistency_wait: Duration,
    /// The number of connections in a row that could not receive an event, after which it is erroneous.
    pub delivery_attempts_max: i64,
}

/// The subscriptions of this process.
pub struct Subscriptions {
    current: Mutex<Current>,
    replicas: TaskTracker,
    numbers: AtomicU64,
    process_id: Uuid,
    reads: Turns,
    writes: Semaphore,
    /// Signals that progress was written down.
    progressed: Notify,
    /// The logs that have new events of which other replicas were not told yet.
    untold: Mutex<BTreeSet<i64>>,
    /// There was no other replica at the last notice.
    is_alone: AtomicBool,
}

#[derive(Default)]
struct Current {
    replica: Option<Arc<Replica>>,
    is_closed: bool,
}

/// A connection's place in its group. Dropping it leaves the group.
pub struct Subscription {
    replica: Arc<Replica>,
    subscriber: Arc<Subscriber>,
}

impl Subscriptions {
    pub(super) fn new() -> Subscriptions {
        Subscriptions {
            current: Mutex::default(),
            replicas: TaskTracker::new(),
            numbers: AtomicU64::new(1),
            process_id: Uuid::now_v7(),
            reads: Turns::new(READS_MAX, ARCHIVED_READS_MAX),
            writes: Semaphore::new(WRITES_MAX),
            progressed: Notify::new(),
            untold: Mutex::default(),
            is_alone: AtomicBool::new(false),
        }
    }

    fn replica(&self) -> Option<Arc<Replica>> {
        self.current.lock().replica.clone()
    }

    async fn write_permit(&self) -> SemaphorePermit<'_> {
        self.writes.acquire().await.expect("it is never closed")
    }

    /// Wakes the couriers of these logs: here at once, and in other replicas soon.
    pub fn wake(self: &Arc<Self>, database: &Database, log_rows: &[LogRow]) {
        if log_rows.is_empty() {
            return;
        }
        if let Some(replica) = self.replica() {
            for log_row in log_rows {
                replica.wake(log_row.id, Some(&log_row.log), Cause::Published);
            }
        }
        let mut untold = self.untold.lock();
        let is_first = untold.is_empty();
        untold.extend(log_rows.iter().map(|log_row| log_row.id));
        if is_first {
            let (database, subscriptions) = (database.clone(), Arc::clone(self));
            tokio::spawn(async move {
                let is_alone = subscriptions.is_alone.load(Ordering::Relaxed);
                tokio::time::sleep(if is_alone { WORD_INTERVAL_ALONE } else { WORD_INTERVAL }).await;
                // If this process dies before that, other replicas find the events by looking.
                if let Err(error) = subscriptions.tell_others(&database).await {
                    tracing::debug!(%error, "other replicas were not told about new events");
                }
            });
        }
    }

    async fn tell_others(&self, database: &Database) -> Result<(), Error> {
        let untold = std::mem::take(&mut *self.untold.lock());
        let untold: Vec<i64> = untold.into_iter().collect();
        let words = untold.chunks(LOG_IDS_MAX).map(|log_ids| Word::Published(log_ids.to_vec()).to_string());
        let words: Vec<String> = words.collect();
        let own_replica_id = self.replica().map_or(Uuid::nil(), |replica| replica.id);
        let mut connection = database.connection().await?;
        let has_others = match groups::notices::notify_others(&mut connection, own_replica_id, &words).await {
            Ok(has_others) => has_others,
            // The connection may have died since it was last used. A transaction finds that out at once, and gets
            // another one.
            Err(_) => {
                drop(connection);
                let mut transaction = database.begin().await?;
                let has_others = groups::notices::notify_others(&mut transaction, own_replica_id, &words).await?;
                database::commit(transaction).await?;
                has_others
            }
        };
        self.is_alone.store(!has_others, Ordering::Relaxed);
        Ok(())
    }
}

impl Store {
    /// Subscribes a client. Events are delivered until the subscription is dropped.
    pub fn subscribe(self: &Arc<Self>, subscribing: Subscribing) -> Result<(Subscription, Deliveries), Error> {
        let number = self.subscriptions.numbers.fetch_add(1, Ordering::Relaxed);
        let (subscriber, deliveries) = Subscriber::new(number, subscribing);
        let subscriber = Arc::new(subscriber);
        let mut current = self.subscriptions.current.lock();
        if current.is_closed {
            return Err(Error::Unavailable("the service is about to end".into()));
        }
        let is_live = |replica: &Arc<Replica>| !replica.ending.is_cancelled() && !replica.lease.lost.is_cancelled();
        let replica = match current.replica.clone().filter(is_live) {
            Some(replica) => replica,
            None => {
                let replica = Replica::new(Arc::clone(self));
                self.subscriptions.replicas.spawn(replica::tend::run(Arc::clone(&replica)));
                current.replica = Some(Arc::clone(&replica));
                replica
            }
        };
        replica.join(Arc::clone(&subscriber));
        Ok((Subscription { replica, subscriber }, deliveries))
    }

    /// Ends every subscription, and takes no more.
    pub fn close_subscriptions(&self) {
        let mut current = self.subscriptions.current.lock();
        current.is_closed = true;
        if let Some(replica) = current.replica.take() {
            replica.close_subscribers();
            replica.ending.cancel();
        }
    }

    /// Returns once all progress that was owned is released.
    pub async fn subscriptions_closed(&self) {
        self.subscriptions.replicas.close();
        self.subscriptions.replicas.wait().await;
    }

    /// Wakes callers that wait for progress, as another way for them to learn that it was written down.
    pub fn look_at_progress(&self) {
        self.subscriptions.progressed.notify_waiters();
    }

    /// Wakes the couriers of a log, as another way for them to learn of new events.
    pub async fn look_at(self: &Arc<Self>, log: &Log) -> Result<(), Error> {
        let mut view = self.database.view().await?;
        if let (Some(log_row), Some(replica)) = (rows::find(&mut view, log).await?, self.subscriptions.replica()) {
            replica.wake(log_row.id, Some(log), Cause::Any);
        }
        Ok(())
    }
}

impl Subscription {
    /// Returns once the stream of this subscription has to end.
    pub async fn closed(&self) {
        self.subscriber.closed().await;
    }

    /// Remembers that the client itself has ended its stream, while the connection was fine.
    pub fn ended_by_client(&self) {
        self.subscriber.receipts.ended(Instant::now());
    }

    /// Takes the client's answer about an event of this log. `error` is empty if the event was handled.
    pub async fn acked(&self, log: &Log, stream: String, error: String, retry: bool) {
        let Some(inbox) = self.replica.inbox(&self.subscriber.group, log) else {
            self.subscriber.understand(log, &[], &stream, &error);
            return;
        };
        let ack = Ack { subscriber: Arc::clone(&self.subscriber), stream, error, retry };
        // A courier that has just come to its end has nothing in flight.
        if let Err(SendError(ack)) = inbox.send(ack).await {
            self.subscriber.understand(log, &[], &ack.stream, &ack.error);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriber.close();
        let subscriptions = &self.replica.store.subscriptions;
        let mut current = subscriptions.current.lock();
        if self.replica.leave(&self.subscriber) {
            self.replica.ending.cancel();
            if current.replica.as_ref().is_some_and(|replica| Arc::ptr_eq(replica, &self.replica)) {
                current.replica = None;
            }
        }
    }
}
