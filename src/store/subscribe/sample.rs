//! An event for the unit tests of this folder.

use crate::event::{Event, Gdpr, Instant, Json, Metadata, NewEvent};

pub fn event(position: i64, stream: &str) -> Event {
    let new = NewEvent {
        id: position.to_string(),
        stream: stream.into(),
        event_type: "type".into(),
        reason: String::new(),
        raised_at: None,
        metadata: Metadata::default(),
        payload: Json::parse_object("{}").unwrap(),
        gdpr: Gdpr::new(),
    };
    new.at(position, Instant::from_unix_nanos(0))
}
