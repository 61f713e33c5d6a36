//! Delivers one progress: reads ahead, offers events to the group's subscribers here, and writes down what was acked
//! before it sends the next event. A courier ends when nothing is left to deliver.
//!
//! If the process dies, the next owner of the progress delivers everything again that was in flight: at least once.

mod offering;
mod reading;
pub mod record;
pub mod unreceived;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::database::groups::progress::{Progress, Refusal, Turn};
use crate::event::Log;
use crate::store::subscribe::acks::Meaning;
use crate::store::subscribe::courier::record::Outcomes;
use crate::store::subscribe::lease::ReplicaLease;
use crate::store::subscribe::subscriber::{Room, Subscriber};
use crate::store::subscribe::wake::Wake;
use crate::store::subscribe::window::{Item, Window};
use crate::store::{Held, Store};

use reading::{READ_EVENTS_MIN, Reading};

/// The delay after the error "not subscribed", which clients send for an event that reaches them before they are ready.
const NOT_SUBSCRIBED_DELAY: Duration = Duration::from_millis(50);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// The number of rounds in which every subscriber refused an event before they are told to panic, about 1.5 s after the
/// first refusal. They are told once, because a panic makes some clients connect twice.
const PANIC_ROUNDS: i64 = 5;
/// The interval at which a log is offered to other replicas if no subscriber here may take its next event.
const HELD_DELAY: Duration = Duration::from_secs(2);
/// The time without an ack after which events that were read ahead are forgotten.
const AHEAD_KEPT: Duration = Duration::from_secs(1);

/// A client's answer about an event.
pub struct Ack {
    pub subscriber: Arc<Subscriber>,
    pub stream: String,
    /// Empty if the event was handled.
    pub error: String,
    pub retry: bool,
}

/// The reason why a courier has come to its end.
pub enum End {
    /// Everything is handled.
    Idle(Progress),
    /// No subscriber here wants the log any more. The refusal still holds when they come back.
    Deserted { refusal: Refusal },
    /// Nobody here can handle the next event, and another replica may have somebody who can.
    HandedOver { refusal: Refusal, wait: Duration },
    /// Another replica owns the progress.
    Lost,
}

pub struct Courier {
    store: Arc<Store>,
    lease: Arc<ReplicaLease>,
    pub turn: Turn,
    pub log: Log,
    pub window: Window,
    refusal: Refusal,
    subscribers: watch::Receiver<Vec<Arc<Subscriber>>>,
    inbox: mpsc::Receiver<Ack>,
    wake: Arc<Wake>,
    /// The lines in which the courier waits for room, by subscriber. It keeps its places in them while it does
    /// something else.
    lines: HashMap<u64, BoxFuture<'static, Room>>,
    /// The subscribers that were sent large events, by their numbers.
    pub carriers: HashMap<u64, Arc<Subscriber>>,
    reading: Option<Reading>,
    /// The memory for reading ahead.
    ahead: Option<Held>,
    read_limit: i64,
    /// The log's edit counter, as the courier last heard of it. An event that was read before that edit is not sent as
    /// it was.
    edit_counter: i64,
    /// The courier has not waited for anything since it heard of the edit counter.
    is_edit_counter_fresh: bool,
    read_retry_at: Option<Instant>,
    /// The number of reads in a row that failed for good, of one event each.
    failed_reads: u32,
    /// The time before which resends that could not be read are not read again. Everything else goes on.
    resend_retry_at: Option<Instant>,
    /// Everything was read that there was at the last look.
    is_at_end: bool,
    /// The time since which nothing was acked.
    quiet_since: Instant,
    /// Nothing is read ahead until something is acked.
    is_trimmed: bool,
    /// The event that nobody here takes, and the wait before the owner may take it again. Another replica may have a
    /// subscriber for it.
    hand_over: Option<(i64, Duration)>,
    held_until: Option<Instant>,
}

impl Courier {
    pub fn new(
        (store, lease): (Arc<Store>, Arc<ReplicaLease>),
        (turn, log): (Turn, Log),
        (progress, refusal): (&Progress, Refusal),
        (subscribers, inbox, wake): (watch::Receiver<Vec<Arc<Subscriber>>>, mpsc::Receiver<Ack>, Arc<Wake>),
    ) -> Courier {
        Courier {
            store,
            lease,
            window: Window::new(turn.group.is_parallel, progress),
            turn,
            log,
            refusal,
            subscribers,
            inbox,
            wake,
            lines: HashMap::new(),
            carriers: HashMap::new(),
            reading: None,
            ahead: None,
            read_limit: READ_EVENTS_MIN,
            edit_counter: 0,
            is_edit_counter_fresh: false,
            read_retry_at: None,
            failed_reads: 0,
            resend_retry_at: None,
            is_at_end: false,
            quiet_since: Instant::now(),
            is_trimmed: false,
            hand_over: None,
            held_until: None,
        }
    }

    /// Delivers until there is nothing to deliver, or nobody to deliver to.
    pub async fn run(&mut self) -> End {
        let end = self.deliver().await;
        if matches!(end, End::Lost) {
            // The acks of what is in flight on these subscribers could be taken for acks of what is sent next.
            let subscribers = self.subscribers.borrow().clone();
            let has_in_flight = |subscriber: &&Arc<Subscriber>| !self.window.in_flight_on(subscriber.number).is_empty();
            subscribers.iter().filter(has_in_flight).for_each(|subscriber| subscriber.close());
        }
        end
    }

    /// Counts acks that came since the courier looked last. Nothing is in flight any more, so they are acks of
    /// broadcasts.
    pub async fn count_last_acks(mut self) {
        self.inbox.close();
        while let Some(ack) = self.inbox.recv().await {
            ack.subscriber.understand(&self.log, &[], &ack.stream, &ack.error);
        }
    }

    async fn deliver(&mut self) -> End {
        let mut pending: Vec<Ack> = Vec::new();
        loop {
            // The subscribers are read first: one that has left has sent all its acks before.
            let subscribers: Vec<Arc<Subscriber>> = self.subscribers.borrow_and_update().clone();
            while let Ok(ack) = self.inbox.try_recv() {
                pending.push(ack);
            }
            let mut outcomes = Outcomes::default();
            for ack in pending.drain(..) {
                self.acked(ack, &subscribers, &mut outcomes);
            }
            self.look_at_receipts(&subscribers, &mut outcomes);
            if !outcomes.is_empty() && !self.write_down(outcomes).await {
                return End::Lost;
            }
            self.window.requeue(|number| !subscribers.iter().any(|subscriber| subscriber.number == number));
            let covers = |subscriber: &&Arc<Subscriber>| subscriber.covers(&self.log) && !subscriber.is_closed();
            let subscribers: Vec<Arc<Subscriber>> = subscribers.iter().filter(covers).cloned().collect();
            if subscribers.is_empty() {
                return End::Deserted { refusal: self.window.refusal().unwrap_or(self.refusal) };
            }
            if self.may_load_resends() && self.wake.resends.swap(false, Ordering::AcqRel) {
                if let Err(error) = self.load_resends().await {
                    self.failed_loading(&error);
                }
                self.is_edit_counter_fresh = false;
            }
            self.read_ahead(&subscribers);
            if !self.lease.is_live() {
                return End::Lost;
            }
            if let Err(error) = self.offer_all(&subscribers).await {
                self.lines.clear();
                self.failed_reading(error, 1);
            }
            if self.window.is_empty() && self.is_at_end && self.reading.is_none() && !self.wake.is_woken() {
                return End::Idle(self.window.progress());
            }
            if let Some(end) = self.handed_over().await {
                return end;
            }
            self.is_edit_counter_fresh = false;
            if let Some(ack) = self.wait(&subscribers).await {
                pending.push(ack);
            }
        }
    }

    fn acked(&mut self, ack: Ack, subscribers: &[Arc<Subscriber>], outcomes: &mut Outcomes) {
        let Ack { subscriber, stream, error, retry } = ack;
        let mut in_flight = self.window.in_flight_on(subscriber.number);
        in_flight.retain(|(position, _)| outcomes.positions().all(|acked| acked != *position));
        let (position, error, retry) = match subscriber.understand(&self.log, &in_flight, &stream, &error) {
            Meaning::Event(position) => (position, error, retry),
            Meaning::Handled(position) => (position, String::new(), false),
            // The event is sent again, to be sure.
            Meaning::Doubtful(position) => (position, error, true),
            Meaning::Nothing => return,
            Meaning::Unclear => {
                tracing::warn!(log = %self.log, group = self.turn.group.name, "an ack may mean several events: its subscriber has to connect again");
                subscriber.close();
                return;
            }
        };
        (self.quiet_since, self.is_trimmed) = (Instant::now(), false);
        subscriber.receipts.acked((self.turn.log_id, position));
        if let Some(item) = self.window.get(position) {
            item.resets = 0;
        }
        if error.is_empty() {
            if self.turn.group.is_parallel && !stream.is_empty() {
                subscriber.names_streams();
            }
            outcomes.handled.push(position);
        } else if !retry && error == "not subscribed" {
            self.window.wait(position, Some(Instant::now() + NOT_SUBSCRIBED_DELAY));
        } else if retry {
            self.refused(position, subscriber.number, &error, subscribers);
        } else {
            metrics::counter!("coldstream_events_erroneous_total").increment(1);
            outcomes.erroneous.push((position, error));
        }
    }

    /// Handles a refusal: the event goes to another subscriber first, and to all of them again after a while.
    fn refused(&mut self, position: i64, number: u64, error: &str, subscribers: &[Arc<Subscriber>]) {
        let Some(item) = self.window.get(position) else { return };
        metrics::counter!("coldstream_events_refused_total").increment(1);
        item.retry_number += 1;
        item.refused_by.insert(number);
        let may_take = |subscriber: &&Arc<Subscriber>| {
            subscriber.covers(&self.log) && !subscriber.is_closed() && subscriber.may_take(item.deployment_id)
        };
        if subscribers.iter().filter(may_take).any(|other| !item.refused_by.contains(&other.number)) {
            self.window.wait(position, None);
            return;
        }
        item.refused_by.clear();
        item.rounds += 1;
        let rounds = item.rounds;
        let back_off = BACK_OFF_MIN.saturating_mul(1 << (rounds - 1).clamp(0, 16)).min(BACK_OFF_MAX);
        self.window.wait(position, Some(Instant::now() + back_off));
        self.hand_over = Some((position, back_off));
        if rounds == PANIC_ROUNDS {
            let reason = format!("no subscriber of the group could handle an event of {}: {error}", self.log);
            metrics::counter!("coldstream_panics_total").increment(1);
            self.panic_all(&reason);
        }
    }

    /// Tells every subscriber that wants the log why nobody gets its next event.
    fn panic_all(&self, reason: &str) {
        let subscribers = self.subscribers.borrow();
        let wanting = subscribers.iter().filter(|subscriber| subscriber.covers(&self.log));
        wanting.for_each(|subscriber| subscriber.panic(reason));
    }

    /// Writes the outcomes down. Returns false if another replica has taken the progress.
    async fn write_down(&mut self, outcomes: Outcomes) -> bool {
        // There may be more resends than are loaded at once.
        let is_resent = |item: Option<&mut Item>| item.is_some_and(|item| item.is_resent);
        if outcomes.positions().any(|position| is_resent(self.window.get(position))) {
            self.wake.resends.store(true, Ordering::Release);
        }
        let store = Arc::clone(&self.store);
        let Some(edit_counter) = store.write_down(&self.lease, &self.turn, &mut self.window, outcomes).await else {
            return false;
        };
        self.heard_of_edits(edit_counter);
        if store.delete_consumed(&self.turn, &self.log).await {
            self.is_edit_counter_fresh = false;
        }
        true
    }

    /// Forgets the events that were read before the newest edit, so that they are read again.
    fn heard_of_edits(&mut self, edit_counter: i64) {
        if edit_counter > self.edit_counter {
            self.window.forget_events();
            self.edit_counter = edit_counter;
        }
        self.is_edit_counter_fresh = true;
    }

    /// Lets another replica try, if another one has subscribers of the group.
    async fn handed_over(&mut self) -> Option<End> {
        if self.window.is_any_in_flight() {
            return None;
        }
        let (position, wait) = self.hand_over.take()?;
        if !self.store.others_subscribe(self.lease.replica_id, &self.turn.group).await {
            return None;
        }
        let item = self.window.get(position)?;
        Some(End::HandedOver { refusal: item.refusal(position).unwrap_or_default(), wait })
    }

    /// Waits until there is something to do. Returns the ack, if an ack ended the wait.
    async fn wait(&mut self, subscribers: &[Arc<Subscriber>]) -> Option<Ack> {
        let now = Instant::now();
        let trim_at = (self.window.ahead() > 0 && !self.is_trimmed).then_some(self.quiet_since + AHEAD_KEPT);
        let ready_at = subscribers.iter().map(|subscriber| subscriber.ready_at);
        let timers = self.window.next_at().into_iter().chain(ready_at).chain(self.retries_at()).chain(self.held_until);
        let timer = timers.filter(|at| *at > now).chain(trim_at).min();
        let Courier { reading, inbox, wake, lines, lease, subscribers: group, .. } = self;
        let alarm = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let room = async {
            if lines.is_empty() {
                return std::future::pending().await;
            }
            let rooms = lines.iter_mut().map(|(number, line)| line.map(|room| (*number, room)));
            future::select_all(rooms).await.0
        };
        let page = async {
            match reading {
                Some(reading) => reading.page().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ack = inbox.recv() => return ack,
            _ = group.changed() => {}
            page = page => self.has_read(page),
            () = wake.notify.notified() => {}
            () = alarm => {
                if trim_at.is_some_and(|at| at <= Instant::now()) {
                    self.is_trimmed = true;
                    if self.window.trim() {
                        // The events that are being read do not follow upon what is left.
                        (self.reading, self.is_at_end) = (None, false);
                        self.ahead = None;
                    }
                }
            }
            (number, room) = room => {
                self.lines.insert(number, future::ready(room).boxed());
            }
            () = lease.lost.cancelled() => {}
        }
        None
    }
}
