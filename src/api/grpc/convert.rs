use std::collections::BTreeMap;

use prost::Message;
use tonic::Status;
use uuid::Uuid;

use crate::api::grpc::{proto, status};
use crate::event::{Event, Gdpr, GdprField, Invalid, Json, Log, Metadata, NewEvent};
use crate::store::{self, PageSize};

/// The most bytes that a page adds around one event.
const LENGTH_BYTES_MAX: usize = 6;

/// Returns the log that a request names.
pub fn log(tenant_id: String, topic: String) -> Result<Log, Status> {
    Log::new(tenant_id, topic).map_err(status::invalid)
}

/// Converts an event to the form that a reader sees.
pub fn event(log: &Log, event: Event) -> proto::Event {
    let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, mut gdpr } = event;
    let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    let payload = payload.members().into_iter().map(|member| {
        let name = member.key().map_or_else(|_| member.raw_key.to_owned(), |name| name.into_owned());
        let gdpr = gdpr.remove(&name).map(|GdprField { id, default, is_invalidated }| proto::EventGdprValue {
            id,
            default: default.as_str().to_owned(),
            is_invalidated,
        });
        (name, proto::EventPayload { value: member.value.to_owned(), gdpr })
    });
    proto::Event {
        tenant_id: log.tenant().to_owned(),
        topic: log.topic().to_owned(),
        id,
        r#type: event_type,
        stream,
        reason,
        options: Some(proto::EventOptions { broadcast: false }),
        payload: payload.collect(),
        metadata: Some(proto::EventMetadata {
            correlation_id,
            causation_id,
            order_serial: position,
            user_id,
            deployment_id,
            retry_number: 0,
        }),
        raised_at: raised_at.unix_nanos(),
    }
}

/// Converts a page to the form that a reader sees. Events above the size that may be sent are left to the next page, or
/// the page is refused.
pub fn events(log: &Log, events: Vec<Event>, size: PageSize) -> Result<Vec<proto::Event>, store::Error> {
    let (PageSize::Cut(bytes_max) | PageSize::Whole(bytes_max)) = size;
    // A field of a payload takes less than twice as many bytes as in JSON, so that most pages need no count.
    let is_small = events.iter().map(Event::weight).sum::<usize>() < bytes_max as usize / 2;
    let mut converted = Vec::with_capacity(events.len());
    let mut bytes = 0;
    for event in events {
        let event = self::event(log, event);
        if !is_small {
            bytes += (event.encoded_len() + LENGTH_BYTES_MAX) as i64;
        }
        match size {
            _ if bytes <= bytes_max => converted.push(event),
            PageSize::Cut(_) if !converted.is_empty() => break,
            _ => return Err(store::Error::TooLarge { bytes, bytes_max }),
        }
    }
    Ok(converted)
}

/// Converts an event to the form that a subscriber sees, with its retry number.
pub fn delivered(log: &Log, delivered: Event, retry_number: i64) -> proto::Event {
    let event = event(log, delivered);
    let metadata = event.metadata.map(|metadata| proto::EventMetadata { retry_number, ..metadata });
    proto::Event { metadata, ..event }
}

pub fn broadcast(log: &Log, broadcast: Event) -> proto::Event {
    proto::Event { options: Some(proto::EventOptions { broadcast: true }), ..event(log, broadcast) }
}

/// Converts a broadcast that another process has sent on.
pub fn received_broadcast(event: proto::Event) -> Result<NewEvent, Invalid> {
    let payload = event.payload.into_iter().map(|(name, proto::EventPayload { value, gdpr })| {
        let gdpr = gdpr.map(|gdpr| proto::PublishEventGdprValue { id: gdpr.id, default: gdpr.default });
        (name, proto::PublishEventPayload { value, gdpr })
    });
    new_event(proto::PublishEvent {
        id: event.id,
        tenant_id: event.tenant_id,
        r#type: event.r#type,
        stream: event.stream,
        reason: event.reason,
        options: event.options,
        metadata: event.metadata,
        payload: payload.collect(),
    })
}

/// Converts an event of a publisher. The tenant is left to the caller, who needs it for the log.
pub fn new_event(event: proto::PublishEvent) -> Result<NewEvent, Invalid> {
    let proto::PublishEvent { id, tenant_id: _, r#type, stream, reason, options: _, metadata, payload } = event;
    let proto::EventMetadata { correlation_id, causation_id, user_id, deployment_id, order_serial: _, retry_number: _ } =
        metadata.unwrap_or_default();
    let (payload, gdpr) = new_payload(payload)?;
    let metadata = Metadata { correlation_id, causation_id, user_id, deployment_id };
    NewEvent { id, stream, event_type: r#type, reason, raised_at: None, metadata, payload, gdpr }.check()
}

fn new_payload(fields: BTreeMap<String, proto::PublishEventPayload>) -> Result<(Json, Gdpr), Invalid> {
    let (mut text, mut gdpr) = (String::from("{"), Gdpr::new());
    for (name, proto::PublishEventPayload { value, gdpr: personal }) in fields {
        let value = Json::parse(&value).map_err(|Invalid(why)| Invalid(format!("the field {name:?} is {why}")))?;
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(&name).expect("a text always serializes"));
        text.push(':');
        text.push_str(value.as_str());
        if let Some(proto::PublishEventGdprValue { id, default }) = personal {
            // Clients that cannot send an id leave it to the server.
            let id = if id.is_empty() { Uuid::now_v7().to_string() } else { id };
            gdpr.insert(name, GdprField::new(id, default_of(&default))?);
        }
    }
    text.push('}');
    Ok((Json::parse_object(&text)?, gdpr))
}

/// Returns a default as JSON; a text that is no JSON becomes a JSON string. The result is never empty: clients stall on
/// an empty default.
pub fn default_of(default: &str) -> Json {
    Json::parse(default).unwrap_or_else(|_| Json::text(default))
}
