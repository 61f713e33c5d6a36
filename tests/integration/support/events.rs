use std::ops::Range;
use std::sync::LazyLock;

use coldstream::event::{Event, Gdpr, Instant, Json, Metadata, NewEvent};
use time::OffsetDateTime;

pub const DAY_NANOS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// Returns the time at which the tests began, so that an event of one number is the same whenever it is made.
pub fn now() -> Instant {
    static NOW: LazyLock<OffsetDateTime> = LazyLock::new(OffsetDateTime::now_utc);
    Instant::from_unix_nanos(NOW.unix_timestamp_nanos() as i64)
}

/// Returns an event whose number says everything: id `event-7`, one of three streams, one of four types.
pub fn event(number: usize) -> NewEvent {
    NewEvent {
        id: format!("event-{number}"),
        stream: format!("stream-{}", number % 3),
        event_type: format!("type-{}", number % 4),
        reason: String::new(),
        raised_at: None,
        metadata: Metadata { correlation_id: format!("correlation-{number}"), ..Metadata::default() },
        payload: Json::parse_object(&payload(number, "original")).expect("a payload is an object"),
        gdpr: Gdpr::new(),
    }
}

/// Returns the text of a payload. Tests that look for a value somewhere give it a name that nothing else bears.
pub fn payload(number: usize, name: &str) -> String {
    format!(r#"{{"price":64.30,"name":"{name}","number":{number},"nested":{{"b":1e2,"a":[]}}}}"#)
}

/// Returns an event that was raised 60 days ago, and a bit later than the events with lower numbers.
pub fn old_event(number: usize) -> NewEvent {
    let raised_at = now().unix_nanos() - 60 * DAY_NANOS + number as i64;
    NewEvent { raised_at: Some(Instant::from_unix_nanos(raised_at)), ..event(number) }
}

/// Returns an event that was raised a day ago.
pub fn young_event(number: usize) -> NewEvent {
    let raised_at = now().unix_nanos() - DAY_NANOS + number as i64;
    NewEvent { raised_at: Some(Instant::from_unix_nanos(raised_at)), ..event(number) }
}

/// Returns old events as readers see them in a log that holds all of them in the order of their numbers.
pub fn in_order(numbers: Range<usize>) -> Vec<Event> {
    numbers.map(|number| old_event(number).at(number as i64 + 1, now())).collect()
}

/// Returns a text of this many bytes that compresses to three quarters at best, and is the same for the same seed.
pub fn noise(seed: usize, bytes: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = seed as u64;
    let digits = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(DIGITS[(state >> 58) as usize])
    });
    digits.take(bytes).collect()
}
