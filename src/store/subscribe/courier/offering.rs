//! Offering events to the subscribers that may take them.

use std::sync::Arc;

use tokio::time::Instant;

use crate::store::Error;
use crate::store::subscribe::courier::{Courier, HELD_DELAY};
use crate::store::subscribe::subscriber::Subscriber;

/// What became of an offer.
enum Offer {
    Sent,
    /// Its subscribers are busy; the next one may have others.
    Later,
    /// No subscriber may take it.
    Held,
}

impl Courier {
    pub(super) fn has_room(&self, subscriber: &Subscriber) -> bool {
        self.window.in_flight_on(subscriber.number).len() < subscriber.in_flight_max()
    }

    /// Offers what may be sent. Gives the subscribers whose queues are full.
    pub(super) async fn offer_all(&mut self, subscribers: &[Arc<Subscriber>]) -> Result<Vec<Arc<Subscriber>>, Error> {
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
        if able.is_empty() {
            return Ok(Offer::Later);
        }
        if !self.is_edit_counter_fresh {
            let edit_counter = self.session.store.edit_counter(&self.turn).await?;
            self.heard_of_edits(edit_counter);
        }
        let Some(item) = self.window.get(position) else { return Ok(Offer::Later) };
        let mut event = match item.event.take() {
            Some(event) => event,
            None => {
                // Others may have been edited before this one is read.
                self.is_edit_counter_fresh = false;
                match self.session.store.event_at(&self.log, position).await? {
                    Some(event) => Box::new(event),
                    None => {
                        // It was deleted meanwhile: there is nothing to handle.
                        self.window.done(position);
                        return Ok(Offer::Later);
                    }
                }
            }
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
}
