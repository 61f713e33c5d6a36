//! Events that clients cannot receive. A gRPC library takes messages up to some size, 4 MiB if nobody sets another one.
//! A larger message makes the library end the stream, and its application connects again, for the same event, for ever.
//!
//! Four signs tell such an end from others. The event is large. The client itself ended its stream, and did not lose
//! its connection, as a killed one does. It did so right after the event was sent, before an ack. And it came back for
//! the event, while consumers that leave on purpose do not. If several such events are on a stream, the largest is the
//! one, whatever the client's limit is.

use std::sync::Arc;

use tokio::time::Instant;

use crate::store::subscribe::courier::Courier;
use crate::store::subscribe::courier::record::Outcomes;
use crate::store::subscribe::receipts::Receipt;
use crate::store::subscribe::subscriber::Subscriber;

impl Courier {
    /// Counts events that subscribers could not receive, for subscribers that have left since. An event that no
    /// subscriber of the group can receive is erroneous.
    pub fn look_at_receipts(&mut self, subscribers: &[Arc<Subscriber>], outcomes: &mut Outcomes) {
        let has_left = |number: &u64| subscribers.iter().all(|subscriber| subscriber.number != *number);
        let gone: Vec<Arc<Subscriber>> =
            self.carriers.extract_if(|number, _| has_left(number)).map(|(_, subscriber)| subscriber).collect();
        for subscriber in gone {
            let mut positions: Vec<i64> =
                self.window.in_flight_on(subscriber.number).into_iter().map(|(position, _)| position).collect();
            positions.retain(|position| outcomes.positions().all(|acked| acked != *position));
            for position in positions {
                outcomes.erroneous.extend(self.unreceived(position, &subscriber).map(|error| (position, error)));
            }
        }
    }

    /// Returns the error of the event, once it was tried often enough.
    fn unreceived(&mut self, position: i64, subscriber: &Subscriber) -> Option<String> {
        let receipt = subscriber.receipts.of((self.turn.log_id, position), Instant::now());
        let attempts_max = self.store.settings.subscribing.delivery_attempts_max;
        let item = self.window.get(position)?;
        match receipt {
            Receipt::Received => item.resets = 0,
            Receipt::Reset { bytes, at } if item.reset_at.is_none_or(|before| subscriber.joined_at > before) => {
                (item.resets, item.reset_at) = (item.resets + 1, Some(at));
                if item.resets >= attempts_max {
                    let error = format!(
                        "no client of the group received it: {attempts_max} connections in a row ended their stream \
                         as it came. It has {bytes} bytes; does the client take messages of that size?"
                    );
                    metrics::counter!("coldstream_events_unreceived_total").increment(1);
                    metrics::counter!("coldstream_events_erroneous_total").increment(1);
                    tracing::warn!(log = %self.log, group = self.turn.group.name, position, "{error}");
                    return Some(error);
                }
            }
            Receipt::Reset { .. } | Receipt::Unknown => {}
        }
        None
    }
}
