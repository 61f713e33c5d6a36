//! Offering events to the subscribers that may take them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::store::Error;
use crate::store::subscribe::courier::reading::READ_RETRY_DELAY_MAX;
use crate::store::subscribe::courier::{Courier, HELD_DELAY};
use crate::store::subscribe::subscriber::{Room, Subscriber};

/// What became of an offer.
enum Offer {
    Sent,
    /// The queues of those who may take it are full.
    Busy(Vec<Arc<Subscriber>>),
    /// The next one may have other subscribers.
    Later,
    /// No subscriber may take it.
    Held,
}

impl Courier {
    pub fn has_room(&self, subscriber: &Subscriber) -> bool {
        self.window.in_flight_on(subscriber.number).len() < subscriber.in_flight_max()
    }

    /// Offers what may be sent.
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
        // Room that there is no use for is somebody else's; of one place in a line several events can have made use.
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
        // Whoever has not refused it, even if it is busy; the others where only they are left.
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
        // Before anything is asked of Postgres, or each event would be asked for by all who wait for room.
        let Some((subscriber, room)) = self.place(&able) else {
            return Ok(Offer::Busy(able.into_iter().cloned().collect()));
        };
        if !self.is_edit_counter_fresh {
            let edit_counter = self.replica.store.edit_counter(&self.turn).await?;
            self.heard_of_edits(edit_counter);
        }
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        let event = match item.event.take() {
            Some(event) => event,
            None => {
                // Others may have been edited before this one is read.
                self.is_edit_counter_fresh = false;
                let Some(event) = self.replica.store.hot_event_at(&self.turn, position).await? else {
                    // Nobody waits for room behind a read from S3.
                    drop(room);
                    self.read_for_next_turn(position).await?;
                    return Ok(Offer::Later);
                };
                Box::new(event)
            }
        };
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        if !self.replica.is_live() {
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
        match self.replica.store.event_at(&self.log, position).await {
            // Whatever can be sent beside it is.
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
            // It was deleted meanwhile: there is nothing to handle.
            Ok(None) => self.window.done(position),
        }
        // It goes on with what there is now.
        self.wake.notify.notify_one();
        Ok(())
    }

    /// Room at the first of them that has some now; at the others it is waited for.
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
