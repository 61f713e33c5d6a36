use std::borrow::Cow;

use crate::event::{Event, Gdpr, Instant, Invalid, Json, Metadata};

/// An event whose texts stay where they were found: in a row, in a line of an archive, or in an event that owns them.
/// Texts that only pass through are never copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BorrowedEvent<'a> {
    pub position: i64,
    pub id: Cow<'a, str>,
    pub stream: Cow<'a, str>,
    pub event_type: Cow<'a, str>,
    pub reason: Cow<'a, str>,
    pub raised_at: Instant,
    pub metadata: BorrowedMetadata<'a>,
    /// The payload's JSON, which was checked when the event came in.
    pub payload: &'a str,
    /// The JSON that [`Event::gdpr_json`] makes.
    pub gdpr: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BorrowedMetadata<'a> {
    pub correlation_id: Cow<'a, str>,
    pub causation_id: Cow<'a, str>,
    pub user_id: Cow<'a, str>,
    pub deployment_id: i64,
}

impl BorrowedEvent<'_> {
    pub fn gdpr(&self) -> Result<Gdpr, Invalid> {
        Event::gdpr_from_json(self.gdpr.as_deref())
    }

    /// Makes an event that owns its texts. `payload` has to hold the JSON of the borrowed one.
    pub fn into_event(self, payload: Json) -> Result<Event, Invalid> {
        let gdpr = self.gdpr()?;
        let BorrowedEvent { position, id, stream, event_type, reason, raised_at, metadata, payload: _, gdpr: _ } = self;
        let BorrowedMetadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
        Ok(Event {
            position,
            id: id.into_owned(),
            stream: stream.into_owned(),
            event_type: event_type.into_owned(),
            reason: reason.into_owned(),
            raised_at,
            metadata: Metadata {
                correlation_id: correlation_id.into_owned(),
                causation_id: causation_id.into_owned(),
                user_id: user_id.into_owned(),
                deployment_id,
            },
            payload,
            gdpr,
        })
    }
}

impl Event {
    pub fn borrowed(&self) -> BorrowedEvent<'_> {
        let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr: _ } = self;
        let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
        BorrowedEvent {
            position: *position,
            id: id.into(),
            stream: stream.into(),
            event_type: event_type.into(),
            reason: reason.into(),
            raised_at: *raised_at,
            metadata: BorrowedMetadata {
                correlation_id: correlation_id.into(),
                causation_id: causation_id.into(),
                user_id: user_id.into(),
                deployment_id: *deployment_id,
            },
            payload: payload.as_str(),
            gdpr: self.gdpr_json().map(Cow::Owned),
        }
    }
}
