//! The meaning of an ack. An ack bears no event id, so its tenant, topic and stream have to do.
//!
//! Some clients ack broadcasts, and others do not. If a subscriber is known to, an ack that says "handled" pays off a
//! broadcast first: the event is handled only once there are as many acks as deliveries, so the ack of a broadcast
//! never completes an event that is still being handled. Those clients name the stream of a failed event. An error of
//! another stream is a broadcast's. An error of the same stream may be either's, so the event is delivered again.
//! Broadcasts that were paid off in doubt are remembered until the event is done with.

/// Everything that is known of a subscriber's acks for one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The client acks broadcasts.
    pub acks_broadcasts: bool,
    /// The broadcasts of the log; `None` if there was none.
    pub broadcasts: Option<Broadcasts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Broadcasts {
    /// The streams of the broadcasts whose ack is still to come, in order.
    pub unacked: Vec<String>,
    /// The streams of the broadcasts that were paid off by an ack that may have meant the event in flight.
    in_doubt: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Event(i64),
    /// The error is a broadcast's, and the ack that seemed to be the broadcast's was this event's: the event is
    /// handled.
    Handled(i64),
    /// The error is this event's, or a broadcast's.
    Doubtful(i64),
    Nothing,
    /// The ack may mean several events, and nobody can say which one.
    Unclear,
}

/// Returns the meaning of an ack, and what is known after it. `in_flight` has the position and the stream of each event
/// that is in flight on the subscriber.
pub fn meaning(known: Known, in_flight: &[(i64, String)], stream: &str, error: &str) -> (Meaning, Known) {
    if in_flight.is_empty() {
        return (Meaning::Nothing, known.after_nothing(stream));
    }
    let (meaning, mut known) = match error.is_empty() {
        true => of_success(known, in_flight, stream),
        false => of_error(known, in_flight, stream),
    };
    if let (Meaning::Event(_) | Meaning::Handled(_), Some(broadcasts)) = (meaning, &mut known.broadcasts) {
        broadcasts.in_doubt.clear();
    }
    (meaning, known)
}

fn of_success(mut known: Known, in_flight: &[(i64, String)], stream: &str) -> (Meaning, Known) {
    let named = named(in_flight, stream);
    if (named.is_some() || stream.is_empty()) && known.pay_in_doubt(stream) {
        return (Meaning::Nothing, known);
    }
    let meaning = match (in_flight, named) {
        // Several events are in flight only if acks name streams, the empty one included.
        (_, Some(position)) => Meaning::Event(position),
        ([(position, _)], None) if stream.is_empty() || known.broadcasts.is_none() => Meaning::Event(*position),
        (_, None) if stream.is_empty() => Meaning::Unclear,
        (_, None) => {
            known.pay(stream);
            Meaning::Nothing
        }
    };
    (meaning, known)
}

/// Returns the meaning of an ack with an error. Clients that ack broadcasts name the stream of what failed.
fn of_error(mut known: Known, in_flight: &[(i64, String)], stream: &str) -> (Meaning, Known) {
    if let Some(position) = named(in_flight, stream) {
        let is_doubtful = known.settle_doubt(stream);
        return (if is_doubtful { Meaning::Doubtful(position) } else { Meaning::Event(position) }, known);
    }
    if known.pay(stream) {
        return (Meaning::Nothing, known);
    }
    let meaning = match in_flight {
        // The ack that paid this broadcast off was another broadcast's, or, if none is left, the event's.
        [(position, _)] if known.may_be_broadcast(stream) => {
            known.settle_doubt(stream);
            if known.pay_in_doubt("") { Meaning::Nothing } else { Meaning::Handled(*position) }
        }
        [(position, _)] if stream.is_empty() || known.broadcasts.is_none() => Meaning::Event(*position),
        _ if stream.is_empty() => Meaning::Unclear,
        _ => Meaning::Nothing,
    };
    (meaning, known)
}

fn named(in_flight: &[(i64, String)], stream: &str) -> Option<i64> {
    in_flight.iter().find(|(_, other)| other == stream).map(|(position, _)| *position)
}

impl Known {
    /// Returns what is known after an ack that came while no event of the log was in flight: it is one of a broadcast,
    /// if there was any.
    fn after_nothing(mut self, stream: &str) -> Known {
        self.acks_broadcasts |= self.broadcasts.is_some();
        self.pay(stream);
        self
    }

    /// Pays a broadcast off with an ack that names this stream, or none. Returns whether there was one to pay off.
    fn pay(&mut self, stream: &str) -> bool {
        self.broadcasts.as_mut().and_then(|broadcasts| broadcasts.take_unacked(stream)).is_some()
    }

    /// Pays a broadcast off as [`Known::pay`] does, while an event is in flight that the ack may have meant.
    fn pay_in_doubt(&mut self, stream: &str) -> bool {
        let Some(broadcasts) = &mut self.broadcasts else { return false };
        let paid = broadcasts.take_unacked(stream);
        let is_paid = paid.is_some();
        broadcasts.in_doubt.extend(paid);
        is_paid
    }

    /// Returns whether the failed event of this stream may have been a broadcast: one whose ack is still to come, or
    /// one that was paid off in doubt.
    fn may_be_broadcast(&self, stream: &str) -> bool {
        let of_stream = |streams: &Vec<String>| streams.iter().any(|other| other == stream);
        self.broadcasts.as_ref().is_some_and(|known| of_stream(&known.in_doubt) || of_stream(&known.unacked))
    }

    /// Returns what [`Known::may_be_broadcast`] does; a doubt about the stream is over then.
    fn settle_doubt(&mut self, stream: &str) -> bool {
        let may_be_broadcast = self.may_be_broadcast(stream);
        if let Some(Broadcasts { in_doubt, .. }) = &mut self.broadcasts
            && let Some(doubt) = in_doubt.iter().position(|other| other == stream)
        {
            in_doubt.remove(doubt);
        }
        may_be_broadcast
    }
}

impl Broadcasts {
    /// Removes the first unacked broadcast of a stream, or of any stream if none is named.
    fn take_unacked(&mut self, stream: &str) -> Option<String> {
        let taken = self.unacked.iter().position(|other| stream.is_empty() || other == stream)?;
        Some(self.unacked.remove(taken))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::event::{Group, Log};
    use crate::store::subscribe::sample::event;
    use crate::store::subscribe::subscriber::{Deliveries, Subscriber, Subscribing};

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
        let means = |stream: &str, error: &str| subscriber.understand(&log(), &one, stream, error);
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
        assert_eq!(subscriber.understand(&log(), &[], "", ""), Meaning::Nothing);
        assert_eq!(means("", ""), Meaning::Event(1));
    }

    #[test]
    fn who_acks_no_broadcasts_is_not_waited_for() {
        let (subscriber, _deliveries) = subscriber(false);
        broadcast(&subscriber, "hall");
        let one = in_flight(&["a"]);
        assert_eq!(subscriber.understand(&log(), &one, "hall", ""), Meaning::Nothing, "another stream's");
        assert_eq!(subscriber.understand(&log(), &one, "a", ""), Meaning::Event(1));
        assert_eq!(subscriber.understand(&log(), &[], "", ""), Meaning::Nothing);
        broadcast(&subscriber, "hall");
        assert_eq!(subscriber.understand(&log(), &one, "", ""), Meaning::Nothing, "it has acked one before");
        assert_eq!(subscriber.understand(&log(), &one, "", ""), Meaning::Event(1));
    }

    #[test]
    fn a_stream_tells_events_from_each_other() {
        let (subscriber, _deliveries) = subscriber(false);
        let two = in_flight(&["a", "b"]);
        assert_eq!(subscriber.understand(&log(), &two, "b", ""), Meaning::Event(2));
        assert_eq!(subscriber.understand(&log(), &two, "c", ""), Meaning::Nothing);
        assert_eq!(subscriber.understand(&log(), &two, "", ""), Meaning::Unclear);
        assert_eq!(subscriber.understand(&log(), &in_flight(&["a"]), "", ""), Meaning::Event(1));
        assert_eq!(
            subscriber.understand(&log(), &in_flight(&["a"]), "x", ""),
            Meaning::Event(1),
            "what else could it be"
        );
    }
}
