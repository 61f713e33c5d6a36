//! The events of a log that are on their way to a group: read ahead, in flight, or waiting to be sent again. The window
//! is pure: it does no IO.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio::time::Instant;

use crate::database::groups::progress::{Progress, Refusal};
use crate::event::Event;

/// The most positions in parallel mode that are remembered while an event before them takes long and they are handled.
const PARALLEL_POSITIONS_MAX: i64 = 1_000;

/// An event on its way to a group.
#[derive(Debug, Clone)]
pub struct Item {
    pub stream: String,
    pub deployment_id: i64,
    /// `None` once the event was sent. It is read again to be sent again.
    pub event: Option<Box<Event>>,
    /// The event was read because it was its turn, and waits for another turn. It is not forgotten before that.
    pub is_due: bool,
    pub retry_number: i64,
    /// The subscribers that refused the event in this round.
    pub refused_by: HashSet<u64>,
    /// The number of rounds in which all of them refused the event.
    pub rounds: i64,
    /// The number of connections in a row that could not receive the event, and the time when the last one ended.
    pub resets: i64,
    pub reset_at: Option<Instant>,
    /// The event was erroneous, and is sent to the group once more, out of order.
    pub is_resent: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting {
        until: Option<Instant>,
    },
    /// The event is in flight on this subscriber.
    InFlight(u64),
}

impl Item {
    fn new(event: Event, retry_number: i64, is_resent: bool) -> Item {
        Item {
            stream: event.stream.clone(),
            deployment_id: event.metadata.deployment_id,
            event: Some(Box::new(event)),
            is_due: false,
            retry_number,
            refused_by: HashSet::new(),
            rounds: 0,
            resets: 0,
            reset_at: None,
            is_resent,
            state: State::Waiting { until: None },
        }
    }

    fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight(_))
    }

    /// Returns the refusal that the next owner has to know. For an event that is sent once more, a row says how often
    /// it was refused.
    pub fn refusal(&self, position: i64) -> Option<Refusal> {
        let Item { retry_number, rounds, resets, .. } = *self;
        let is_told = resets > 0 || retry_number > 0 && !self.is_resent;
        is_told.then_some(Refusal { position, retry_number, rounds, resets })
    }

    fn is_ready(&self, now: Instant) -> bool {
        matches!(self.state, State::Waiting { until } if until.is_none_or(|until| until <= now))
    }
}

pub struct Window {
    is_parallel: bool,
    items: BTreeMap<i64, Item>,
    /// The positions that are handled after one that is not.
    handled: BTreeSet<i64>,
    /// Everything before this position was read.
    next: i64,
}

impl Window {
    pub fn new(is_parallel: bool, progress: &Progress) -> Window {
        let handled = progress.handled.iter().copied().collect();
        Window { is_parallel, items: BTreeMap::new(), handled, next: progress.position + 1 }
    }

    /// Returns the position from which to read on, and the number of events for which there is room.
    pub fn wants(&self, limit: i64) -> (i64, i64) {
        let room = match self.is_parallel {
            true => PARALLEL_POSITIONS_MAX - (self.next - 1 - self.progress().position),
            false => i64::MAX,
        };
        (self.next, limit.min(room).max(0))
    }

    /// Adds the events that were read from `next` on. Everything before `end` was read.
    pub fn fill(&mut self, events: Vec<Event>, end: i64) {
        for event in events {
            if event.position >= self.next && !self.handled.contains(&event.position) {
                self.items.insert(event.position, Item::new(event, 0, false));
            }
        }
        self.next = self.next.max(end);
    }

    pub fn resend(&mut self, event: Event, retry_number: i64) {
        self.items.entry(event.position).or_insert_with(|| Item::new(event, retry_number, true));
    }

    /// Returns the group's progress. A position without an event counts as handled.
    pub fn progress(&self) -> Progress {
        let outstanding = self.items.iter().find(|(_, item)| !item.is_resent);
        let position = outstanding.map_or(self.next, |(position, _)| *position) - 1;
        Progress { position, handled: self.handled.range(position + 1..).copied().collect() }
    }

    pub fn get(&mut self, position: i64) -> Option<&mut Item> {
        self.items.get_mut(&position)
    }

    /// Returns the refusal of the event that connections failed to receive most often, or else that was refused most
    /// often.
    pub fn refusal(&self) -> Option<Refusal> {
        let refusals = self.items.iter().filter_map(|(position, item)| item.refusal(*position));
        refusals.max_by_key(|refusal| (refusal.resets, refusal.retry_number))
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn is_any_in_flight(&self) -> bool {
        self.items.values().any(Item::is_in_flight)
    }

    /// Returns the number of events that were read and not sent.
    pub fn ahead(&self) -> usize {
        self.items.values().filter(|item| item.event.is_some()).count()
    }

    /// Returns the positions that may be sent now, in order: one event in flight, or in parallel mode one for each
    /// stream.
    pub fn sendable(&self, now: Instant) -> Vec<i64> {
        let in_flight = self.items.values().filter(|item| item.is_in_flight());
        let mut busy: HashSet<&str> = in_flight.map(|item| item.stream.as_str()).collect();
        if !self.is_parallel && !busy.is_empty() {
            return Vec::new();
        }
        let mut sendable = Vec::new();
        for (position, item) in self.items.iter().filter(|(_, item)| !item.is_in_flight()) {
            let is_ready = item.is_ready(now);
            if self.is_parallel && busy.contains(item.stream.as_str()) {
                continue;
            }
            if is_ready {
                sendable.push(*position);
            }
            // An event that is sent once more is out of order anyway, and holds nothing up before it is sent.
            let is_blocking = is_ready || !item.is_resent;
            if is_blocking && !self.is_parallel {
                break;
            }
            if is_blocking {
                busy.insert(&item.stream);
            }
        }
        sendable
    }

    /// Returns the time at which the next waiting event has waited long enough.
    pub fn next_at(&self) -> Option<Instant> {
        let waits = self.items.values().filter_map(|item| match item.state {
            State::Waiting { until } => until,
            State::InFlight(_) => None,
        });
        waits.min()
    }

    pub fn sent(&mut self, position: i64, subscriber: u64) {
        if let Some(item) = self.items.get_mut(&position) {
            item.state = State::InFlight(subscriber);
        }
    }

    pub fn wait(&mut self, position: i64, until: Option<Instant>) {
        if let Some(item) = self.items.get_mut(&position) {
            item.state = State::Waiting { until };
        }
    }

    /// Returns the positions and streams of the events in flight on a subscriber.
    pub fn in_flight_on(&self, subscriber: u64) -> Vec<(i64, String)> {
        let on = self.items.iter().filter(|(_, item)| item.state == State::InFlight(subscriber));
        on.map(|(position, item)| (*position, item.stream.clone())).collect()
    }

    /// Makes the events that were in flight on subscribers that are gone ready to be sent again at once.
    pub fn requeue(&mut self, is_gone: impl Fn(u64) -> bool) {
        for item in self.items.values_mut() {
            if matches!(item.state, State::InFlight(subscriber) if is_gone(subscriber)) {
                item.state = State::Waiting { until: None };
            }
        }
    }

    /// Removes an event for which there is nothing more to do.
    pub fn done(&mut self, position: i64) {
        if self.items.remove(&position).is_some_and(|item| !item.is_resent) {
            self.handled.insert(position);
        }
        let lowest = self.progress().position;
        self.handled = self.handled.split_off(&(lowest + 1));
    }

    /// Keeps only the places of events, so that each is read again when it is sent.
    pub fn forget_events(&mut self) {
        self.items.values_mut().for_each(|item| item.event = None);
    }

    /// Forgets the events that were read and not tried yet, so that a slow subscriber costs no memory. It keeps the
    /// place of the next event. In parallel mode, where other streams go on after it, it keeps every place, and each
    /// event is read when it is sent. Returns true if some events have to be read once more with what follows.
    pub fn trim(&mut self) -> bool {
        self.items.values_mut().filter(|item| !item.is_due).for_each(|item| item.event = None);
        if self.is_parallel {
            return false;
        }
        let is_untouched = |item: &Item| {
            let is_untried = item.retry_number == 0 && item.resets == 0 && item.refused_by.is_empty();
            !item.is_in_flight() && !item.is_resent && is_untried
        };
        let kept = self.items.iter().rev().find(|(_, item)| !item.is_resent && !is_untouched(item));
        let from = kept.map_or(i64::MIN, |(position, _)| position + 1);
        let next = usize::from(kept.is_none());
        let untouched = self.items.range(from..).filter(|(_, item)| is_untouched(item));
        let behind: Vec<i64> = untouched.map(|(position, _)| *position).skip(next).collect();
        let Some(first) = behind.first() else { return false };
        self.next = *first;
        behind.iter().for_each(|position| drop(self.items.remove(position)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::subscribe::sample::event;

    fn window(is_parallel: bool, streams: &[&str]) -> Window {
        let mut window = Window::new(is_parallel, &Progress::default());
        let events: Vec<Event> =
            streams.iter().enumerate().map(|(index, stream)| event(index as i64 + 1, stream)).collect();
        window.fill(events, streams.len() as i64 + 1);
        window
    }

    fn progress(position: i64, handled: &[i64]) -> Progress {
        Progress { position, handled: handled.to_vec() }
    }

    #[test]
    fn one_is_in_flight_and_order_is_kept() {
        let (mut window, now) = (window(false, &["a", "b", "c"]), Instant::now());
        assert_eq!(window.sendable(now), [1]);
        window.sent(1, 7);
        assert!(window.sendable(now).is_empty());
        window.wait(1, Some(now + std::time::Duration::from_secs(1)));
        assert!(window.sendable(now).is_empty(), "the second one does not overtake the first one");
        window.wait(1, None);
        window.sent(1, 7);
        window.requeue(|subscriber| subscriber == 7);
        assert_eq!(window.sendable(now), [1]);
        window.done(1);
        assert_eq!((window.sendable(now), window.progress()), (vec![2], progress(1, &[])));
    }

    #[test]
    fn streams_run_side_by_side_and_each_in_order() {
        let (mut window, now) = (window(true, &["a", "b", "a", "b", "c"]), Instant::now());
        assert_eq!(window.sendable(now), [1, 2, 5]);
        window.sent(1, 7);
        window.sent(2, 7);
        window.sent(5, 8);
        assert_eq!(window.in_flight_on(7), [(1, "a".to_owned()), (2, "b".to_owned())]);
        window.done(2);
        window.done(5);
        assert_eq!((window.sendable(now), window.progress()), (vec![4], progress(0, &[2, 5])));
        window.done(1);
        assert_eq!(window.progress(), progress(2, &[5]));
        let mut again = Window::new(true, &window.progress());
        again.fill((3..=5).map(|position| event(position, "x")).collect(), 6);
        assert_eq!(again.sendable(now), [3], "what is handled is not sent again");
        again.done(3);
        again.done(4);
        assert_eq!(again.progress(), progress(5, &[]));
    }

    #[test]
    fn positions_that_are_not_there_hold_nothing_up() {
        let mut window = Window::new(false, &Progress::default());
        window.fill(vec![event(4, "a")], 9);
        assert_eq!(window.progress(), progress(3, &[]));
        window.done(4);
        assert_eq!(window.progress(), progress(8, &[]));
    }

    #[test]
    fn what_is_sent_once_more_keeps_nobody_waiting() {
        let (mut window, now) = (window(false, &["a", "b"]), Instant::now());
        window.done(1);
        window.resend(event(1, "a"), 3);
        assert_eq!((window.sendable(now), window.progress()), (vec![1], progress(1, &[])));
        window.wait(1, Some(now + std::time::Duration::from_secs(1)));
        assert_eq!(window.sendable(now), [2]);
        window.sent(2, 7);
        window.done(1);
        window.done(2);
        assert_eq!((window.is_empty(), window.progress()), (true, progress(2, &[])));
    }

    #[test]
    fn what_was_read_ahead_can_be_forgotten() {
        let (mut window, now) = (window(false, &["a", "b", "c"]), Instant::now());
        window.sent(1, 7);
        window.get(1).unwrap().event = None;
        assert!(window.trim());
        assert_eq!((window.ahead(), window.wants(10), window.progress()), (0, (2, 10), progress(0, &[])));
        assert!(!window.trim() && window.sendable(now).is_empty());
    }

    #[test]
    fn what_waits_for_its_turn_keeps_its_place() {
        let (mut window, now) = (window(false, &["a", "b", "c"]), Instant::now());
        assert!(window.trim());
        assert_eq!((window.ahead(), window.wants(10), window.sendable(now)), (0, (2, 10), vec![1]));
        let item = window.get(1).unwrap();
        (item.event, item.is_due) = (Some(Box::new(event(1, "a"))), true);
        assert!(!window.trim());
        assert_eq!(window.ahead(), 1, "what has had its turn is not forgotten");
        window.forget_events();
        assert_eq!(window.ahead(), 0, "unless it was edited");
    }

    #[test]
    fn streams_keep_their_places_when_their_events_are_forgotten() {
        let (mut window, now) = (window(true, &["a", "a", "b"]), Instant::now());
        window.sent(1, 7);
        window.get(1).unwrap().event = None;
        assert!(!window.trim());
        assert_eq!((window.ahead(), window.wants(10), window.sendable(now)), (0, (4, 10), vec![3]));
    }
}
