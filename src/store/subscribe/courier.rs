//! Delivers one progress: reads ahead, offers events to the group's subscribers here, and writes down what was acked
//! before it sends the next. It comes to its end when nothing is left to deliver.
//!
//! If the process dies, what was in flight is delivered again by whoever takes the progress over: at least once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::database::{Progress, Refusal, Turn};
use crate::event::{Filter, Log};
use crate::store::subscribe::meaning::{self, Meaning};
use crate::store::subscribe::record::Outcomes;
use crate::store::subscribe::session::{Session, Wake};
use crate::store::subscribe::subscriber::Subscriber;
use crate::store::subscribe::window::{Item, Window};
use crate::store::{Error, Page, Query};

const READ_EVENTS_MIN: i64 = 4;
const READ_EVENTS_MAX: i64 = 256;
const READ_BYTES_MAX: i64 = 1024 * 1024;
const READ_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Clients say so of an event that reaches them before they are ready.
const NOT_SUBSCRIBED_DELAY: Duration = Duration::from_millis(50);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// So often every subscriber has refused an event when they are told to panic, about 1.5 s after the first time. They
/// are told once: a panic makes some clients connect twice.
const PANIC_ROUNDS: i64 = 5;
/// A topic that its subscribers may not take is offered to other replicas so often.
const HELD_DELAY: Duration = Duration::from_secs(2);
/// What was read ahead is forgotten when nothing was acked for so long.
const AHEAD_KEPT: Duration = Duration::from_secs(1);

/// What a client says of an event.
pub struct Ack {
    pub subscriber: Arc<Subscriber>,
    pub stream: String,
    /// Empty if it was handled.
    pub error: String,
    pub retry: bool,
}

/// Why a courier has come to its end.
pub enum End {
    /// Everything is handled.
    Idle(Progress),
    /// No subscriber here wants the topic any more. What was refused is still, when they come back.
    Deserted { refusal: Refusal },
    /// Nobody here can handle the next event; another replica may have somebody.
    HandedOver { refusal: Refusal, wait: Duration },
    /// Somebody else owns the progress.
    Lost,
}

pub struct Courier {
    session: Arc<Session>,
    turn: Turn,
    log: Log,
    window: Window,
    refusal: Refusal,
    subscribers: watch::Receiver<Vec<Arc<Subscriber>>>,
    inbox: mpsc::Receiver<Ack>,
    wake: Arc<Wake>,
    reading: Option<Reading>,
    read_limit: i64,
    /// Of the log, as it was last heard of: what was read before is not sent as it was.
    edit_counter: i64,
    read_retry_at: Option<Instant>,
    /// Everything was read that there was.
    is_at_end: bool,
    /// Since when nothing was acked.
    quiet_since: Instant,
    /// Nothing is read ahead before something is acked.
    is_trimmed: bool,
    /// Another replica may have a subscriber for what nobody here takes.
    hand_over: Option<(i64, Duration)>,
    held_until: Option<Instant>,
}

/// A read that is under way: from where on, and how many events at most, as it was when it began. In a task of its own:
/// what it holds it gives back, also while its courier waits for something that others hold.
struct Reading {
    from: i64,
    limit: i64,
    page: AbortOnDropHandle<Result<Page, Error>>,
}

/// What became of an offer.
enum Offer {
    Sent,
    /// Its subscribers are busy; the next one may have others.
    Later,
    /// No subscriber may take it.
    Held,
}

impl Courier {
    pub fn new(
        session: Arc<Session>,
        (turn, log): (Turn, Log),
        (progress, refusal): (&Progress, Refusal),
        (subscribers, inbox, wake): (watch::Receiver<Vec<Arc<Subscriber>>>, mpsc::Receiver<Ack>, Arc<Wake>),
    ) -> Courier {
        Courier {
            session,
            window: Window::new(turn.group.is_parallel, progress),
            turn,
            log,
            refusal,
            subscribers,
            inbox,
            wake,
            reading: None,
            read_limit: READ_EVENTS_MIN,
            edit_counter: 0,
            read_retry_at: None,
            is_at_end: false,
            quiet_since: Instant::now(),
            is_trimmed: false,
            hand_over: None,
            held_until: None,
        }
    }

    pub async fn run(mut self) {
        loop {
            let end = self.deliver().await;
            if matches!(end, End::Lost) {
                // Their acks of what is in flight could be taken for acks of what is sent next.
                let subscribers = self.subscribers.borrow().clone();
                let has_in_flight =
                    |subscriber: &&Arc<Subscriber>| !self.window.in_flight_on(subscriber.number).is_empty();
                subscribers.iter().filter(has_in_flight).for_each(|subscriber| subscriber.close());
            }
            if self.session.rest(&self.turn, end) {
                return self.count_last_acks().await;
            }
        }
    }

    /// Nothing is in flight any more: what came since the courier looked last are acks of broadcasts.
    async fn count_last_acks(mut self) {
        self.inbox.close();
        while let Some(ack) = self.inbox.recv().await {
            ack.subscriber.acked_nothing(&self.log, &ack.stream);
        }
    }

    async fn deliver(&mut self) -> End {
        let mut pending: Vec<Ack> = Vec::new();
        loop {
            // Subscribers first: whoever has left has said before what there was to say.
            let subscribers: Vec<Arc<Subscriber>> = self.subscribers.borrow_and_update().clone();
            while let Ok(ack) = self.inbox.try_recv() {
                pending.push(ack);
            }
            let mut outcomes = Outcomes::default();
            for ack in pending.drain(..) {
                self.acked(ack, &subscribers, &mut outcomes);
            }
            if !outcomes.is_empty() && !self.write_down(outcomes).await {
                return End::Lost;
            }
            self.window.requeue(|number| !subscribers.iter().any(|subscriber| subscriber.number == number));
            let covers = |subscriber: &&Arc<Subscriber>| subscriber.covers(&self.log) && !subscriber.is_closed();
            let subscribers: Vec<Arc<Subscriber>> = subscribers.iter().filter(covers).cloned().collect();
            if subscribers.is_empty() {
                return End::Deserted { refusal: self.window.refusal().unwrap_or(self.refusal) };
            }
            if self.wake.resends.swap(false, Ordering::AcqRel)
                && let Err(error) = self.load_resends().await
            {
                self.failed_reading(error);
                self.wake.resends.store(true, Ordering::Release);
            }
            self.read_ahead(&subscribers);
            if !self.session.is_live() {
                return End::Lost;
            }
            let busy = match self.offer_all(&subscribers).await {
                Ok(busy) => busy,
                Err(error) => {
                    self.failed_reading(error);
                    Vec::new()
                }
            };
            if self.window.is_empty() && self.is_at_end && self.reading.is_none() && !self.wake.is_woken() {
                return End::Idle(self.window.progress());
            }
            if let Some(end) = self.handed_over().await {
                return end;
            }
            if let Some(ack) = self.wait(&subscribers, busy).await {
                pending.push(ack);
            }
        }
    }

    fn acked(&mut self, ack: Ack, subscribers: &[Arc<Subscriber>], outcomes: &mut Outcomes) {
        let Ack { subscriber, stream, error, retry } = ack;
        let mut in_flight = self.window.in_flight_on(subscriber.number);
        in_flight.retain(|(position, _)| outcomes.positions().all(|acked| acked != *position));
        let (position, retry) = match meaning::of(&in_flight, &stream, &error, &subscriber, &self.log) {
            Meaning::Event(position) => (position, retry),
            // It is sent again, to be sure.
            Meaning::Doubtful(position) => (position, true),
            Meaning::Nothing => return,
            Meaning::Unclear => {
                tracing::warn!(log = %self.log, group = self.turn.group.name, "an ack may mean several events: its subscriber has to connect again");
                subscriber.close();
                return;
            }
        };
        (self.quiet_since, self.is_trimmed) = (Instant::now(), false);
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

    /// Another subscriber is asked first, and all of them again after a while.
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
            self.session.panic(&self.turn.group, &self.log, &reason);
        }
    }

    /// False if somebody else has taken the progress.
    async fn write_down(&mut self, outcomes: Outcomes) -> bool {
        // There may be more of them than are loaded at once.
        let is_resent = |item: Option<&mut Item>| item.is_some_and(|item| item.is_resent);
        if outcomes.positions().any(|position| is_resent(self.window.get(position))) {
            self.wake.resends.store(true, Ordering::Release);
        }
        let store = Arc::clone(&self.session.store);
        let Some(edit_counter) = store.write_down(&self.session, &self.turn, &mut self.window, outcomes).await else {
            return false;
        };
        if edit_counter > self.edit_counter {
            self.window.forget_events();
            self.edit_counter = edit_counter;
        }
        store.delete_consumed(&self.turn, &self.log).await;
        true
    }

    /// Begins to read the next events, if there is room for them.
    fn read_ahead(&mut self, subscribers: &[Arc<Subscriber>]) {
        let now = Instant::now();
        // Other streams go on while one takes long.
        let is_free = self.turn.group.is_parallel && subscribers.iter().any(|subscriber| self.has_room(subscriber));
        let is_put_off = self.is_trimmed && !self.window.is_empty() && !is_free;
        if is_put_off || self.reading.is_some() || self.read_retry_at.is_some_and(|at| at > now) {
            return;
        }
        if self.wake.published.swap(false, Ordering::AcqRel) {
            self.is_at_end = false;
        }
        let (from, limit) = self.window.wants(self.read_limit);
        if self.is_at_end || limit == 0 || self.window.ahead() as i64 > self.read_limit / 2 {
            return;
        }
        let (store, log) = (Arc::clone(&self.session.store), self.log.clone());
        let read = async move {
            store.read_in_turn(&log, &Query { filter: Filter::All, from, skip: 0, limit }, READ_BYTES_MAX).await
        };
        self.reading = Some(Reading { from, limit, page: AbortOnDropHandle::new(tokio::spawn(read)) });
    }

    fn has_read(&mut self, page: Result<Page, Error>) {
        // What there is room for now may be another thing than what was asked for.
        let Some(Reading { from, limit, .. }) = self.reading.take() else { return };
        if self.turn.group.is_parallel {
            self.is_trimmed = false;
        }
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.failed_reading(error),
        };
        self.is_at_end = !page.is_cut && (page.events.len() as i64) < limit;
        let end = match page.events.last() {
            Some(last) if !self.is_at_end => last.position + 1,
            _ => page.head_position + 1,
        };
        // A backlog is read in larger steps than what comes one by one.
        self.read_limit = (self.read_limit * 2).min(READ_EVENTS_MAX);
        if page.edit_counter > self.edit_counter {
            self.window.forget_events();
        }
        self.window.fill(page.events, end.max(from));
        if page.edit_counter < self.edit_counter {
            self.window.forget_events();
        }
        self.edit_counter = self.edit_counter.max(page.edit_counter);
        if let Some(item) = self.window.get(self.refusal.position) {
            (item.retry_number, item.rounds) = (self.refusal.retry_number, self.refusal.rounds);
            self.refusal = Refusal::default();
        }
    }

    fn has_room(&self, subscriber: &Subscriber) -> bool {
        self.window.in_flight_on(subscriber.number).len() < subscriber.in_flight_max()
    }

    fn failed_reading(&mut self, error: Error) {
        match error {
            Error::Unavailable(_) | Error::GaveWay(_) => {
                tracing::warn!(%error, log = %self.log, "events cannot be read to be delivered")
            }
            error => tracing::error!(%error, log = %self.log, "events cannot be read to be delivered"),
        }
        self.read_retry_at = Some(Instant::now() + READ_RETRY_DELAY);
    }

    async fn load_resends(&mut self) -> Result<(), Error> {
        for (event, retry_number) in self.session.store.resends(&self.turn, &self.log).await? {
            self.window.resend(event, retry_number);
        }
        Ok(())
    }

    /// Offers what may be sent. Gives the subscribers whose queues are full.
    async fn offer_all(&mut self, subscribers: &[Arc<Subscriber>]) -> Result<Vec<Arc<Subscriber>>, Error> {
        let mut busy = Vec::new();
        self.held_until = None;
        for position in self.window.sendable(Instant::now()) {
            match self.offer(position, subscribers, &mut busy).await? {
                Offer::Sent | Offer::Later => {}
                Offer::Held => {
                    self.hand_over = Some((position, HELD_DELAY));
                    self.held_until = Some(Instant::now() + HELD_DELAY);
                    break;
                }
            }
        }
        Ok(busy)
    }

    async fn offer(
        &mut self,
        position: i64,
        subscribers: &[Arc<Subscriber>],
        busy: &mut Vec<Arc<Subscriber>>,
    ) -> Result<Offer, Error> {
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        let mut able: Vec<&Arc<Subscriber>> =
            subscribers.iter().filter(|subscriber| subscriber.may_take(item.deployment_id)).collect();
        if able.is_empty() {
            return Ok(Offer::Held);
        }
        // Whoever has not refused it, even if it is busy; the others where only they are left.
        if able.iter().any(|subscriber| !item.refused_by.contains(&subscriber.number)) {
            able.retain(|subscriber| !item.refused_by.contains(&subscriber.number));
        }
        let count = able.len();
        able.rotate_left(position as usize % count);
        let (retry_number, now) = (item.retry_number, Instant::now());
        able.retain(|subscriber| self.has_room(subscriber) && subscriber.ready_at <= now);
        let Some(item) = self.window.get(position).filter(|_| !able.is_empty()) else { return Ok(Offer::Later) };
        let mut event = match item.event.take() {
            Some(event) => event,
            None => match self.session.store.event_at(&self.log, position).await? {
                Some(event) => Box::new(event),
                None => {
                    // It was deleted meanwhile: there is nothing to handle.
                    self.window.done(position);
                    return Ok(Offer::Later);
                }
            },
        };
        for subscriber in able {
            if !self.session.is_live() {
                break;
            }
            event = match subscriber.send(&self.log, event, retry_number) {
                Ok(()) => {
                    metrics::counter!("coldstream_events_delivered_total").increment(1);
                    self.window.sent(position, subscriber.number);
                    return Ok(Offer::Sent);
                }
                Err(event) => {
                    busy.push(Arc::clone(subscriber));
                    event
                }
            };
        }
        if let Some(item) = self.window.get(position) {
            item.event = Some(event);
        }
        Ok(Offer::Later)
    }

    /// Lets another replica try, if there is one with subscribers of the group.
    async fn handed_over(&mut self) -> Option<End> {
        if self.window.is_any_in_flight() {
            return None;
        }
        let (position, wait) = self.hand_over.take()?;
        if !self.session.store.others_subscribe(self.session.id, &self.turn.group).await {
            return None;
        }
        let item = self.window.get(position)?;
        Some(End::HandedOver { refusal: item.refusal(position).unwrap_or_default(), wait })
    }

    /// Until there is something to do. Gives the ack that was it.
    async fn wait(&mut self, subscribers: &[Arc<Subscriber>], busy: Vec<Arc<Subscriber>>) -> Option<Ack> {
        let now = Instant::now();
        let trim_at = (self.window.ahead() > 0 && !self.is_trimmed).then_some(self.quiet_since + AHEAD_KEPT);
        let ready_at = subscribers.iter().map(|subscriber| subscriber.ready_at);
        let timers = self.window.next_at().into_iter().chain(ready_at).chain(self.read_retry_at).chain(self.held_until);
        let timer = timers.filter(|at| *at > now).chain(trim_at).min();
        let Courier { reading, inbox, wake, session, subscribers: group, .. } = self;
        let alarm = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let room = async {
            match busy.is_empty() {
                true => std::future::pending().await,
                false => {
                    let rooms = busy.iter().map(|subscriber| subscriber.room.acquire().boxed());
                    drop(futures::future::select_all(rooms).await);
                }
            }
        };
        let page = async {
            match reading {
                Some(reading) => (&mut reading.page).await.unwrap_or_else(|error| Err(given_up(&error))),
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
                        // What is being read does not follow upon what is left.
                        (self.reading, self.is_at_end) = (None, false);
                    }
                }
            }
            () = room => {}
            () = session.lost.cancelled() => {}
        }
        None
    }
}

fn given_up(error: &JoinError) -> Error {
    Error::Unavailable(format!("a read was given up: {error}"))
}
