//! Offers events to the subscribers that may take them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::store::Error;
use crate::store::subscribe::courier::reading::READ_RETRY_DELAY_MAX;
use crate::store::subscribe::courier::{Courier, HELD_DELAY};
use crate::store::subscribe::subscriber::{Room, Subscriber};

/// The outcome of an offer.
enum Offer {
    Sent,
    /// The queues of the subscribers that may take the event are full.
    Busy(Vec<Arc<Subscriber>>),
    /// The event has to wait, and the next one may have other subscribers.
    Later,
    /// No subscriber may take the event.
    Held,
}

impl Courier {
    pub fn has_room(&self, subscriber: &Subscriber) -> bool {
        self.window.in_flight_on(subscriber.number).len() < subscriber.in_flight_max()
    }

    /// Offers all events that may be sent.
    pub async fn offer_all(&mut self, subscribers: &[Arc<Subscriber>]) -> Result<(), Error> {
        let mut busy: HashMap<u64, Arc<Subscriber>> = HashMap::new();
        self.held_until = None;
        for position in self.window.sendable(Instant::now()) {
            match self.offer(position, subscribers).await? {
                Offer::Sent | Offer::Later => {}
                Offer::Busy(able) => busy.extend(able.into_iter().map(|subscriber| (subscriber.number, subscriber))),
                Offer::Held => {
                    self.hand_over = Some((position, HELD_DELAY));
                    self.held_until = Some(Instant::now() + HELD_DELAY);
                    break;
                }
            }
        }
        // The courier gives up places in lines that it does not need, to others. Several events can have needed the
        // same place.
        self.lines.retain(|number, _| busy.contains_key(number));
        for subscriber in busy.values() {
            self.line(subscriber);
        }
        Ok(())
    }

    async fn offer(&mut self, position: i64, subscribers: &[Arc<Subscriber>]) -> Result<Offer, Error> {
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        let mut able: Vec<&Arc<Subscriber>> =
            subscribers.iter().filter(|subscriber| subscriber.may_take(item.deployment_id)).collect();
        if able.is_empty() {
            return Ok(Offer::Held);
        }
        // Subscribers that have not refused the event come first, even if they are busy; the others only if there is
        // nobody else.
        if able.iter().any(|subscriber| !item.refused_by.contains(&subscriber.number)) {
            able.retain(|subscriber| !item.refused_by.contains(&subscriber.number));
        }
        let count = able.len();
        able.rotate_left(position as usize % count);
        let (retry_number, now) = (item.retry_number, Instant::now());
        able.retain(|subscriber| self.has_room(subscriber) && subscriber.ready_at <= now);
        if able.is_empty() {
            return Ok(Offer::Later);
        }
        // Room comes before any question to Postgres, or all couriers that wait for room would ask Postgres for their
        // events.
        let Some((subscriber, room)) = self.place(&able) else {
            return Ok(Offer::Busy(able.into_iter().cloned().collect()));
        };
        if !self.is_edit_counter_fresh {
            let edit_counter = self.store.edit_counter(&self.turn).await?;
            self.heard_of_edits(edit_counter);
        }
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        let event = match item.event.take() {
            Some(event) => event,
            None => {
                // Other events may be edited before this one is read.
                self.is_edit_counter_fresh = false;
                let Some(event) = self.store.hot_event_at(&self.turn, position).await? else {
                    // The room is given back, so that nobody waits for it behind a read from S3.
                    drop(room);
                    self.read_for_next_turn(position).await?;
                    return Ok(Offer::Later);
                };
                Box::new(event)
            }
        };
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        if !self.lease.is_live() {
            item.event = Some(event);
            return Ok(Offer::Later);
        }
        item.is_due = false;
        metrics::counter!("coldstream_events_delivered_total").increment(1);
        if subscriber.receipts.sent((self.turn.log_id, position), event.byte_len(), Instant::now()) {
            self.carriers.insert(subscriber.number, Arc::clone(subscriber));
        }
        subscriber.send(room, &self.log, event, retry_number);
        self.window.sent(position, subscriber.number);
        Ok(Offer::Sent)
    }

    async fn read_for_next_turn(&mut self, position: i64) -> Result<(), Error> {
        self.lines.clear();
        match self.store.event_at(&self.log, position).await {
            // Other events go on beside the unreadable one.
            Err(error) if error.is_of_one_object() => {
                self.tell_unreadable(&error);
                self.window.wait(position, Some(Instant::now() + READ_RETRY_DELAY_MAX));
            }
            Err(error) => return Err(error),
            Ok(Some(event)) => {
                if let Some(item) = self.window.get(position) {
                    (item.event, item.is_due) = (Some(Box::new(event)), true);
                }
            }
            // The event was deleted meanwhile, so there is nothing to handle.
            Ok(None) => self.window.done(position),
        }
        // The courier goes on at once.
        self.wake.notify.notify_one();
        Ok(())
    }

    /// Takes room at the first subscriber that has some now, and stands in line at the ones before it.
    fn place<'a>(&mut self, able: &[&'a Arc<Subscriber>]) -> Option<(&'a Arc<Subscriber>, Room)> {
        able.iter().find_map(|subscriber| {
            let room = self.line(subscriber).now_or_never()?;
            self.lines.remove(&subscriber.number);
            Some((*subscriber, room))
        })
    }

    fn line(&mut self, subscriber: &Subscriber) -> &mut BoxFuture<'static, Room> {
        self.lines.entry(subscriber.number).or_insert_with(|| subscriber.room().boxed())
    }
}
