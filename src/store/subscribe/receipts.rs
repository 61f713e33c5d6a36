//! The fate of a connection's large events, as far as the service can tell whether the client has received them.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The smallest size of a large event. No library is known that takes less.
const LARGE_BYTES_MIN: usize = 64 * 1024;
/// The time after which a client that stays has received the event.
const RECEIVED_AFTER: Duration = Duration::from_secs(10);

/// The large events that are in flight on one connection, and the time when its client ended it.
#[derive(Default)]
pub struct Receipts {
    /// The events by log and position.
    large: Mutex<HashMap<(i64, i64), Sent>>,
    ended_at: OnceLock<Instant>,
}

#[derive(Clone, Copy)]
struct Sent {
    bytes: usize,
    at: Instant,
}

/// The fate of a large event that was not acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The client ended its stream when the event came.
    Reset {
        bytes: usize,
        at: Instant,
    },
    Received,
    Unknown,
}

impl Receipts {
    fn large(&self) -> MutexGuard<'_, HashMap<(i64, i64), Sent>> {
        self.large.lock()
    }

    /// Remembers an event that was sent, if it is large. Returns whether it is.
    pub fn sent(&self, place: (i64, i64), bytes: usize, at: Instant) -> bool {
        let is_large = bytes >= LARGE_BYTES_MIN;
        if is_large {
            self.large().insert(place, Sent { bytes, at });
        }
        is_large
    }

    pub fn acked(&self, place: (i64, i64)) {
        self.large().remove(&place);
    }

    /// Remembers that the client itself has ended its stream.
    pub fn ended(&self, at: Instant) {
        let _ = self.ended_at.set(at);
    }

    pub fn of(&self, place: (i64, i64), now: Instant) -> Receipt {
        let large = self.large();
        let Some(sent) = large.get(&place) else { return Receipt::Unknown };
        let ended_at = self.ended_at.get().copied();
        if ended_at.unwrap_or(now).duration_since(sent.at) >= RECEIVED_AFTER {
            return Receipt::Received;
        }
        let is_largest = large.iter().all(|(other, it)| (it.bytes, *other) <= (sent.bytes, place));
        match ended_at {
            Some(at) if is_largest => Receipt::Reset { bytes: sent.bytes, at },
            _ => Receipt::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_was_sent_right_before_is_the_one() {
        let (receipts, now) = (Receipts::default(), Instant::now());
        assert!(!receipts.sent((1, 1), LARGE_BYTES_MIN - 1, now));
        for (position, bytes) in [(2, LARGE_BYTES_MIN), (3, LARGE_BYTES_MIN + 1), (4, LARGE_BYTES_MIN + 2)] {
            assert!(receipts.sent((1, position), bytes, now));
        }
        receipts.acked((1, 4));
        let of = |position| receipts.of((1, position), now + RECEIVED_AFTER / 2);
        assert_eq!([1, 2, 3, 4].map(of), [Receipt::Unknown; 4], "the connection broke off");
        receipts.ended(now + RECEIVED_AFTER / 2);
        let reset = Receipt::Reset { bytes: LARGE_BYTES_MIN + 1, at: now + RECEIVED_AFTER / 2 };
        assert_eq!([1, 2, 3, 4].map(of), [Receipt::Unknown, Receipt::Unknown, reset, Receipt::Unknown]);
        assert_eq!(receipts.of((1, 3), now + RECEIVED_AFTER), reset, "however late it is looked at");
    }

    #[test]
    fn what_is_handled_for_long_was_received() {
        let (receipts, now) = (Receipts::default(), Instant::now());
        assert!(receipts.sent((1, 1), LARGE_BYTES_MIN, now));
        assert_eq!(receipts.of((1, 1), now + RECEIVED_AFTER), Receipt::Received);
        receipts.ended(now + RECEIVED_AFTER);
        assert_eq!(receipts.of((1, 1), now + RECEIVED_AFTER), Receipt::Received);
    }
}
