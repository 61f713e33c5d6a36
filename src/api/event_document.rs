//! Events as JSON documents, which the HTTP API gives and takes, and an import reads.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::event::{
    Event, Gdpr, GdprField, Instant, Invalid, Json, Log, Metadata, NewEvent, read_from_objects, written_as_derived,
};

/// An event at its place in a log.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventDocument<'a> {
    /// The event's place in the log: from 1, without gaps, in the order in which events became visible.
    position: i64,
    id: &'a str,
    tenant_id: &'a str,
    topic: &'a str,
    stream: &'a str,
    r#type: &'a str,
    /// RFC 3339, in UTC, with nanoseconds.
    raised_at: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "MetadataDocument::is_default")]
    metadata: MetadataDocument,
    /// A JSON object, whose values are given to the letter as they were published.
    #[schema(value_type = Object)]
    payload: &'a RawValue,
    /// The personal fields of the payload: field → its data.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gdpr: BTreeMap<&'a str, GdprDocument<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct GdprDocument<'a> {
    id: &'a str,
    /// The value that the field shows once it is invalidated.
    #[schema(value_type = Value)]
    default: &'a RawValue,
    is_invalidated: bool,
}

/// The facts that a publisher gives about an event beside its payload. Each text has at most 1,020 bytes in UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct MetadataDocument {
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1020, pattern = r"^[^\x00]*$")]
    correlation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1020, pattern = r"^[^\x00]*$")]
    causation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1020, pattern = r"^[^\x00]*$")]
    user_id: String,
    #[serde(deserialize_with = "whole_number")]
    deployment_id: i64,
}

/// Reads a whole number. JSON has one kind of number, so that `2.0` is a whole one.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let whole =
        number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT_MAX).map(|float| float as i64);
    number.as_i64().or(whole).ok_or_else(|| D::Error::custom(format!("{number} is no whole number of 64 bits")))
}

/// 2^53: up to it, floating point numbers hold every whole number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// An event that is to be published. Its texts, its payload without white space, and the names, ids and defaults of its
/// personal fields have at most `EVENT_BYTES_MAX` bytes together, 16 MiB unless it is set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NewEventDocument {
    /// The event's id, unique in its log. Publishing the same event again changes nothing. An event without an id gets
    /// one, so that publishing it again publishes another event. At most 255 bytes in UTF-8.
    #[serde(default)]
    #[schema(max_length = 255, pattern = r"^[^\x00]*$")]
    id: String,
    /// The name of the event's stream: the events of one entity inside a topic. At most 1,020 bytes in UTF-8.
    #[serde(default)]
    #[schema(max_length = 1020, pattern = r"^[^\x00]*$")]
    stream: String,
    /// The name of the event's type. At most 1,020 bytes in UTF-8.
    #[schema(min_length = 1, max_length = 1020, pattern = r"^[^\x00]*$")]
    r#type: String,
    #[serde(default)]
    #[schema(pattern = r"^[^\x00]*$")]
    reason: String,
    #[serde(default)]
    metadata: MetadataDocument,
    /// A JSON object, nested 128 levels deep at most. Its values are kept to the letter.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
    #[serde(default)]
    gdpr: BTreeMap<String, NewGdprDocument>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NewGdprDocument {
    /// The GDPR id, which may stand for many fields and events. A field without one gets one. At most 255 bytes in
    /// UTF-8.
    #[serde(default)]
    #[schema(max_length = 255, pattern = r"^[^\x00]*$")]
    id: String,
    #[schema(value_type = Value)]
    default: Box<RawValue>,
    /// The field was invalidated before. Only an import may say so, of an event that comes from elsewhere.
    #[serde(default)]
    #[schema(ignore)]
    is_invalidated: bool,
}

/// A line of an import: an event with its log and its time. Every event that the HTTP API gives can be imported.
#[derive(Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ImportLine {
    /// The position is not read: events get new positions, in the order in which they come.
    #[serde(default, rename = "position")]
    _position: Option<i64>,
    id: String,
    #[serde(default)]
    tenant_id: String,
    topic: String,
    #[serde(default)]
    stream: String,
    r#type: String,
    raised_at: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    metadata: MetadataDocument,
    payload: Box<RawValue>,
    #[serde(default)]
    gdpr: BTreeMap<String, NewGdprDocument>,
}

read_from_objects!(MetadataDocument, NewEventDocument, NewGdprDocument, ImportLine);
written_as_derived!(MetadataDocument);

impl MetadataDocument {
    fn is_default(&self) -> bool {
        *self == MetadataDocument::default()
    }
}

impl<'a> EventDocument<'a> {
    pub fn new(log: &'a Log, event: &'a Event) -> EventDocument<'a> {
        let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr } = event;
        let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata.clone();
        let gdpr = gdpr.iter().map(|(name, field)| {
            let GdprField { id, default, is_invalidated } = field;
            (name.as_str(), GdprDocument { id, default: raw(default), is_invalidated: *is_invalidated })
        });
        EventDocument {
            position: *position,
            id,
            tenant_id: log.tenant(),
            topic: log.topic(),
            stream,
            r#type: event_type,
            raised_at: raised_at.to_rfc3339(),
            reason,
            metadata: MetadataDocument { correlation_id, causation_id, user_id, deployment_id },
            payload: raw(payload),
            gdpr: gdpr.collect(),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        self.append_to(&mut json);
        json
    }

    pub fn append_to(&self, json: &mut Vec<u8>) {
        serde_json::to_writer(json, self).expect("texts, numbers and raw JSON always serialize");
    }
}

fn raw(json: &Json) -> &RawValue {
    serde_json::from_str(json.as_str()).expect("a Json is valid JSON")
}

impl TryFrom<NewEventDocument> for NewEvent {
    type Error = Invalid;

    fn try_from(document: NewEventDocument) -> Result<NewEvent, Invalid> {
        let NewEventDocument { id, stream, r#type, reason, metadata, payload, gdpr } = document;
        if gdpr.values().any(|field| field.is_invalidated) {
            return Err(Invalid("an event cannot be published with an invalidated field".into()));
        }
        Ok(NewEvent {
            id,
            stream,
            event_type: r#type,
            reason,
            raised_at: None,
            metadata: metadata.into(),
            payload: payload_of(&payload)?,
            gdpr: gdpr_of(gdpr)?,
        })
    }
}

impl From<MetadataDocument> for Metadata {
    fn from(document: MetadataDocument) -> Metadata {
        let MetadataDocument { correlation_id, causation_id, user_id, deployment_id } = document;
        Metadata { correlation_id, causation_id, user_id, deployment_id }
    }
}

impl ImportLine {
    pub fn parse(line: &str) -> Result<(Log, NewEvent), Invalid> {
        let line: ImportLine = serde_json::from_str(line).map_err(|error| Invalid(error.to_string()))?;
        let ImportLine {
            _position: _,
            id,
            tenant_id,
            topic,
            stream,
            r#type,
            raised_at,
            reason,
            metadata,
            payload,
            gdpr,
        } = line;
        if id.is_empty() {
            return Err(Invalid("the id is empty: an import that is run again would not know the event".into()));
        }
        let payload = payload_of(&payload)?;
        let mut gdpr = gdpr_of(gdpr)?;
        // An edit may have erased a field that GDPR data are about.
        gdpr.retain(|name, _| payload.members().iter().any(|member| member.key().is_ok_and(|key| key == *name)));
        let event = NewEvent {
            id,
            stream,
            event_type: r#type,
            reason,
            raised_at: Some(Instant::parse(&raised_at)?),
            metadata: metadata.into(),
            payload,
            gdpr,
        };
        Ok((Log::new(tenant_id, topic)?, event))
    }
}

fn payload_of(payload: &RawValue) -> Result<Json, Invalid> {
    Json::parse_object(payload.get()).map_err(|Invalid(why)| Invalid(format!("the payload: {why}")))
}

fn gdpr_of(gdpr: BTreeMap<String, NewGdprDocument>) -> Result<Gdpr, Invalid> {
    let fields = gdpr.into_iter().map(|(name, NewGdprDocument { id, default, is_invalidated })| {
        let id = if id.is_empty() { Uuid::now_v7().to_string() } else { id };
        let field = GdprField::new(id, Json::parse(default.get())?)?;
        Ok((name, GdprField { is_invalidated, ..field }))
    });
    fields.collect()
}
