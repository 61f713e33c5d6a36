//! What an ack means. It bears no event id: the tenant, the topic and the stream have to do.
//!
//! Some clients ack broadcasts, others do not. Where a subscriber is known to, an ack that says "handled" pays off a
//! broadcast first: the event is handled once as many acks came as things were sent, so a broadcast's ack never
//! completes an event that is still being handled. Those clients name the stream of what failed: an error of another
//! stream is a broadcast's, and one of the same stream may be either's, so that the event is delivered again. What was
//! paid off in doubt is remembered until the event is done with.

use crate::event::Log;
use crate::store::subscribe::subscriber::Subscriber;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Event(i64),
    /// The error is a broadcast's, and what was taken for the broadcast's ack was this event's: it is handled.
    Handled(i64),
    /// The error is this event's, or a broadcast's.
    Doubtful(i64),
    Nothing,
    /// Several events, and nobody could say which.
    Unclear,
}

/// `in_flight`: position and stream of what is on its way to the subscriber.
pub fn of(in_flight: &[(i64, String)], stream: &str, error: &str, subscriber: &Subscriber, log: &Log) -> Meaning {
    let meaning = match error.is_empty() {
        true => of_success(in_flight, stream, subscriber, log),
        false => of_error(in_flight, stream, subscriber, log),
    };
    if matches!(meaning, Meaning::Event(_) | Meaning::Handled(_)) {
        subscriber.forget_doubts(log);
    }
    meaning
}

fn of_success(in_flight: &[(i64, String)], stream: &str, subscriber: &Subscriber, log: &Log) -> Meaning {
    match (in_flight, named(in_flight, stream)) {
        ([], _) => {
            subscriber.acked_nothing(log, stream);
            Meaning::Nothing
        }
        (_, Some(_)) if subscriber.pays_in_doubt(log, stream) => Meaning::Nothing,
        // Several are in flight only where streams are named, the empty one too.
        (_, Some(position)) => Meaning::Event(position),
        (_, None) if stream.is_empty() && subscriber.pays_in_doubt(log, stream) => Meaning::Nothing,
        ([(position, _)], None) if stream.is_empty() || !subscriber.had_broadcasts(log) => Meaning::Event(*position),
        (_, None) if stream.is_empty() => Meaning::Unclear,
        (_, None) => {
            subscriber.pays_broadcast(log, stream);
            Meaning::Nothing
        }
    }
}

/// Those who ack broadcasts name the stream of what failed.
fn of_error(in_flight: &[(i64, String)], stream: &str, subscriber: &Subscriber, log: &Log) -> Meaning {
    match (in_flight, named(in_flight, stream)) {
        ([], _) => {
            subscriber.acked_nothing(log, stream);
            Meaning::Nothing
        }
        (_, Some(position)) if subscriber.may_be_broadcast(log, stream) => Meaning::Doubtful(position),
        (_, Some(position)) => Meaning::Event(position),
        (_, None) if subscriber.pays_broadcast(log, stream) => Meaning::Nothing,
        // The ack that paid it off was another broadcast's, or, where none is left, the event's.
        ([(position, _)], None) if subscriber.may_be_broadcast(log, stream) => {
            if subscriber.pays_in_doubt(log, "") {
                Meaning::Nothing
            } else {
                Meaning::Handled(*position)
            }
        }
        ([(position, _)], None) if stream.is_empty() || !subscriber.had_broadcasts(log) => Meaning::Event(*position),
        (_, None) if stream.is_empty() => Meaning::Unclear,
        (_, None) => Meaning::Nothing,
    }
}

fn named(in_flight: &[(i64, String)], stream: &str) -> Option<i64> {
    in_flight.iter().find(|(_, other)| other == stream).map(|(position, _)| *position)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::event::Group;
    use crate::store::subscribe::sample::event;
    use crate::store::subscribe::subscriber::{Deliveries, Subscribing};

    fn subscriber(acks_broadcasts: bool) -> (Subscriber, Deliveries) {
        let group = Group { name: "group".into(), is_parallel: false };
        let topics = BTreeSet::new();
        Subscriber::new(
            1,
            Subscribing { group, subscriber_id: "one".into(), deployment_id: 0, topics, acks_broadcasts },
        )
    }

    fn log() -> Log {
        Log::new("acme", "orders").unwrap()
    }

    fn broadcast(subscriber: &Subscriber, stream: &str) {
        subscriber.broadcast(&log(), &Arc::new(event(0, stream)));
    }

    fn in_flight(streams: &[&str]) -> Vec<(i64, String)> {
        streams.iter().enumerate().map(|(index, stream)| (index as i64 + 1, (*stream).to_owned())).collect()
    }

    #[test]
    fn a_broadcasts_ack_completes_no_event() {
        let (subscriber, _deliveries) = subscriber(true);
        broadcast(&subscriber, "hall");
        let one = in_flight(&["a"]);
        let means = |stream: &str, error: &str| of(&one, stream, error, &subscriber, &log());
        assert_eq!(means("", ""), Meaning::Nothing, "two were sent, and this is the first ack");
        assert_eq!(means("", ""), Meaning::Event(1));
        broadcast(&subscriber, "a");
        assert_eq!(means("a", "no handler"), Meaning::Doubtful(1), "it may be either's");
        assert_eq!(means("", ""), Meaning::Nothing);
        assert_eq!(means("", ""), Meaning::Event(1));
        broadcast(&subscriber, "hall");
        assert_eq!(means("", ""), Meaning::Nothing, "it was taken for the broadcast's");
        assert_eq!(means("hall", "no handler"), Meaning::Handled(1), "and was the event's");
        broadcast(&subscriber, "hall");
        broadcast(&subscriber, "room");
        assert_eq!(means("", ""), Meaning::Nothing, "the second broadcast's, taken for the first one's");
        assert_eq!(means("hall", "no handler"), Meaning::Nothing);
        assert_eq!(means("", ""), Meaning::Event(1), "everything is paid off");
        broadcast(&subscriber, "hall");
        assert_eq!(means("hall", "no handler"), Meaning::Nothing, "the broadcast's, which is paid off");
        assert_eq!(means("a", "no handler"), Meaning::Event(1));
        broadcast(&subscriber, "hall");
        assert_eq!(means("a", ""), Meaning::Event(1), "it names the stream, and is the event's");
        assert_eq!(means("hall", ""), Meaning::Nothing);
        broadcast(&subscriber, "hall");
        assert_eq!(of(&[], "", "", &subscriber, &log()), Meaning::Nothing);
        assert_eq!(means("", ""), Meaning::Event(1));
    }

    #[test]
    fn who_acks_no_broadcasts_is_not_waited_for() {
        let (subscriber, _deliveries) = subscriber(false);
        broadcast(&subscriber, "hall");
        let one = in_flight(&["a"]);
        assert_eq!(of(&one, "hall", "", &subscriber, &log()), Meaning::Nothing, "another stream's");
        assert_eq!(of(&one, "a", "", &subscriber, &log()), Meaning::Event(1));
        assert_eq!(of(&[], "", "", &subscriber, &log()), Meaning::Nothing);
        broadcast(&subscriber, "hall");
        assert_eq!(of(&one, "", "", &subscriber, &log()), Meaning::Nothing, "it has acked one before");
        assert_eq!(of(&one, "", "", &subscriber, &log()), Meaning::Event(1));
    }

    #[test]
    fn a_stream_tells_events_from_each_other() {
        let (subscriber, _deliveries) = subscriber(false);
        let two = in_flight(&["a", "b"]);
        assert_eq!(of(&two, "b", "", &subscriber, &log()), Meaning::Event(2));
        assert_eq!(of(&two, "c", "", &subscriber, &log()), Meaning::Nothing);
        assert_eq!(of(&two, "", "", &subscriber, &log()), Meaning::Unclear);
        assert_eq!(of(&in_flight(&["a"]), "", "", &subscriber, &log()), Meaning::Event(1));
        assert_eq!(of(&in_flight(&["a"]), "x", "", &subscriber, &log()), Meaning::Event(1), "what else could it be");
    }
}
