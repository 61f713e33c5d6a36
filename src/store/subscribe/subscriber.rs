//! A subscriber: the events that its connection takes, the deliveries on their way to it, and the possible meanings of
//! its acks.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Group, Log};
use crate::store::subscribe::acks::{self, Broadcasts, Known, Meaning};
use crate::store::subscribe::receipts::Receipts;

/// The number of persisted events that wait for the connection to take them.
const QUEUED_EVENTS_MAX: usize = 8;
/// The bytes of broadcasts that wait for the connection. Further ones are dropped, because nobody waits for the
/// slowest.
const QUEUED_BROADCAST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The delay before the first event, because clients cannot take one right after the answer that they are subscribed.
const FIRST_EVENT_DELAY: Duration = Duration::from_millis(50);
/// The number of events of one log in flight on one connection in parallel mode, once the client is known to name
/// streams in its acks.
const IN_FLIGHT_MAX: usize = 64;

/// A client's request to subscribe.
#[derive(Debug, Clone)]
pub struct Subscribing {
    pub group: Group,
    pub subscriber_id: String,
    pub deployment_id: i64,
    /// The topics that the client wants. None stands for all, also those that are made later.
    pub topics: BTreeSet<String>,
    /// The client is known to answer broadcasts as it answers other events.
    pub acks_broadcasts: bool,
}

/// A message to a client.
#[derive(Debug)]
pub enum Delivery {
    Event { log: Log, event: Box<Event>, retry_number: i64 },
    Broadcast { log: Log, event: Arc<Event> },
    Panic { reason: String },
}

/// A place in a connection's queue.
pub type Room = OwnedSemaphorePermit;

struct Queued {
    delivery: Delivery,
    _room: Option<Room>,
}

pub struct Subscriber {
    pub number: u64,
    pub group: Group,
    pub joined_at: Instant,
    pub ready_at: Instant,
    pub receipts: Receipts,
    subscribing: Subscribing,
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    broadcast_bytes: Arc<AtomicUsize>,
    acks_broadcasts: AtomicBool,
    broadcasts: Mutex<HashMap<Log, Broadcasts>>,
    names_streams: AtomicBool,
    closed: CancellationToken,
}

/// The other end of a connection's queue.
pub struct Deliveries {
    queue: mpsc::UnboundedReceiver<Queued>,
    broadcast_bytes: Arc<AtomicUsize>,
    closed: CancellationToken,
}

impl Subscriber {
    pub fn new(number: u64, subscribing: Subscribing) -> (Subscriber, Deliveries) {
        let joined_at = Instant::now();
        let (sender, receiver) = mpsc::unbounded_channel();
        let (closed, broadcast_bytes) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let deliveries =
            Deliveries { queue: receiver, broadcast_bytes: Arc::clone(&broadcast_bytes), closed: closed.clone() };
        let subscriber = Subscriber {
            number,
            group: subscribing.group.clone(),
            joined_at,
            ready_at: joined_at + FIRST_EVENT_DELAY,
            receipts: Receipts::default(),
            acks_broadcasts: AtomicBool::new(subscribing.acks_broadcasts),
            subscribing,
            queue: sender,
            room: Arc::new(Semaphore::new(QUEUED_EVENTS_MAX)),
            broadcast_bytes,
            broadcasts: Mutex::default(),
            names_streams: AtomicBool::new(false),
            closed,
        };
        (subscriber, deliveries)
    }

    /// Returns the topics that the subscriber wants. `None` stands for all.
    pub fn topics(&self) -> Vec<Option<String>> {
        let Subscribing { topics, .. } = &self.subscribing;
        if topics.is_empty() { vec![None] } else { topics.iter().cloned().map(Some).collect() }
    }

    pub fn covers(&self, log: &Log) -> bool {
        let topics = &self.subscribing.topics;
        topics.is_empty() || topics.contains(log.topic())
    }

    /// Returns whether the subscriber's deployment may take an event of this one.
    pub fn may_take(&self, deployment_id: i64) -> bool {
        let own = self.subscribing.deployment_id;
        deployment_id == 0 || own == 0 || own >= deployment_id
    }

    pub fn in_flight_max(&self) -> usize {
        if self.names_streams.load(Ordering::Relaxed) { IN_FLIGHT_MAX } else { 1 }
    }

    /// Notes that the acks of this subscriber name streams, so several events of a log may be in flight at once. It is
    /// not so with clients that ack broadcasts, because they name the stream only now and then.
    pub fn names_streams(&self) {
        self.names_streams.store(!self.acks_broadcasts.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Waits for room, in the order in which it was asked for, so that each of ten thousand logs has its turn.
    pub fn room(&self) -> impl Future<Output = Room> + Send + use<> {
        let room = Arc::clone(&self.room);
        async { room.acquire_owned().await.expect("it is never closed") }
    }

    /// Sends an event. If the connection has just gone, the event is found in flight on a subscriber that has left.
    pub fn send(&self, room: Room, log: &Log, event: Box<Event>, retry_number: i64) {
        let delivery = Delivery::Event { log: log.clone(), event, retry_number };
        let _ = self.queue.send(Queued { delivery, _room: Some(room) });
    }

    pub fn broadcast(&self, log: &Log, event: &Arc<Event>) {
        let bytes = event.weight();
        if self.broadcast_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUED_BROADCAST_BYTES_MAX {
            self.broadcast_bytes.fetch_sub(bytes, Ordering::Relaxed);
            tracing::warn!(subscriber_id = %self.subscribing.subscriber_id, %log, "a broadcast was dropped: the subscriber is too slow");
            return;
        }
        // The broadcast is counted before it can be acked.
        {
            let mut broadcasts = self.broadcasts();
            let of_log = broadcasts.entry(log.clone()).or_default();
            if self.acks_broadcasts.load(Ordering::Relaxed) {
                of_log.unacked.push(event.stream.clone());
            }
        }
        let delivery = Delivery::Broadcast { log: log.clone(), event: Arc::clone(event) };
        let _ = self.queue.send(Queued { delivery, _room: None });
    }

    /// Returns the meaning of an ack, and remembers what it says of the broadcasts.
    pub fn understand(&self, log: &Log, in_flight: &[(i64, String)], stream: &str, error: &str) -> Meaning {
        let mut broadcasts = self.broadcasts();
        let acks_broadcasts = self.acks_broadcasts.load(Ordering::Relaxed);
        let known = Known { acks_broadcasts, broadcasts: broadcasts.remove(log) };
        let (meaning, known) = acks::meaning(known, in_flight, stream, error);
        self.acks_broadcasts.store(known.acks_broadcasts, Ordering::Relaxed);
        broadcasts.extend(known.broadcasts.map(|of_log| (log.clone(), of_log)));
        meaning
    }

    fn broadcasts(&self) -> MutexGuard<'_, HashMap<Log, Broadcasts>> {
        self.broadcasts.lock()
    }

    pub fn panic(&self, reason: &str) {
        let _ = self.queue.send(Queued { delivery: Delivery::Panic { reason: reason.to_owned() }, _room: None });
    }

    /// Ends the subscriber's stream; the client connects again.
    pub fn close(&self) {
        self.closed.cancel();
    }

    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }
}

impl Deliveries {
    /// Returns the next delivery, or `None` once the subscriber is closed.
    pub async fn next(&mut self) -> Option<Delivery> {
        let queued = tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            queued = self.queue.recv() => queued,
        };
        let Queued { delivery, _room } = queued?;
        if let Delivery::Broadcast { event, .. } = &delivery {
            self.broadcast_bytes.fetch_sub(event.weight(), Ordering::Relaxed);
        }
        Some(delivery)
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}
