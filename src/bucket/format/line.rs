//! One event of an archive, as a line. Frozen: renaming a field of the domain changes nothing here.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{Event, Instant, Json, Log, Metadata};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    position: i64,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    raised_at: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    metadata: LineMetadata<'a>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow, default)]
    gdpr: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LineMetadata<'a> {
    #[serde(borrow)]
    correlation_id: Cow<'a, str>,
    #[serde(borrow)]
    causation_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    deployment_id: i64,
}

/// Appends the line of an event, without a line break. What is empty is left out.
pub fn write(log: &Log, event: &Event, out: &mut Vec<u8>) {
    let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr: _ } = event;
    out.extend_from_slice(b"{\"position\":");
    out.extend_from_slice(position.to_string().as_bytes());
    write_text(out, ",\"id\":", id);
    write_text(out, ",\"tenant_id\":", log.tenant());
    write_text(out, ",\"topic\":", log.topic());
    write_text(out, ",\"stream\":", stream);
    write_text(out, ",\"type\":", event_type);
    write_text(out, ",\"raised_at\":", &raised_at.to_rfc3339());
    if !reason.is_empty() {
        write_text(out, ",\"reason\":", reason);
    }
    write_metadata(out, metadata);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(payload.as_str().as_bytes());
    if let Some(gdpr) = event.gdpr_json() {
        out.extend_from_slice(b",\"gdpr\":");
        out.extend_from_slice(gdpr.as_bytes());
    }
    out.push(b'}');
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    if *metadata == Metadata::default() {
        return;
    }
    out.extend_from_slice(b",\"metadata\":{\"deployment_id\":");
    out.extend_from_slice(deployment_id.to_string().as_bytes());
    let texts = [("correlation_id", correlation_id), ("causation_id", causation_id), ("user_id", user_id)];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        write_text(out, &format!(",\"{name}\":"), text);
    }
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, label: &str, text: &str) {
    out.extend_from_slice(label.as_bytes());
    serde_json::to_writer(out, text).expect("a text always serializes into memory");
}

/// The log that a line names.
pub fn log_of(line: &[u8]) -> Result<Log, String> {
    let line: Line = parse(line)?;
    Log::new(line.tenant_id, line.topic).map_err(|error| error.to_string())
}

fn parse(line: &[u8]) -> Result<Line<'_>, String> {
    serde_json::from_slice(line).map_err(|error| format!("a line is no event: {error}"))
}

/// Reads the line of an event of `log`. The payload remains a slice of `buffer`, which `line` is a part of.
pub fn read(log: &Log, buffer: &Bytes, line: &[u8]) -> Result<Event, String> {
    let Line { position, id, tenant_id, topic, stream, event_type, raised_at, reason, metadata, payload, gdpr } =
        parse(line)?;
    if tenant_id != log.tenant() || topic != log.topic() {
        return Err(format!("the event at position {position} is of another log"));
    }
    let LineMetadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    Ok(Event {
        position,
        id: id.into_owned(),
        stream: stream.into_owned(),
        event_type: event_type.into_owned(),
        reason: reason.into_owned(),
        raised_at: Instant::parse(&raised_at).map_err(|error| error.to_string())?,
        metadata: Metadata {
            correlation_id: correlation_id.into_owned(),
            causation_id: causation_id.into_owned(),
            user_id: user_id.into_owned(),
            deployment_id,
        },
        payload: Json::trusted(buffer.slice_ref(payload.get().as_bytes())),
        gdpr: Event::gdpr_from_json(gdpr.map(RawValue::get)).map_err(|error| error.to_string())?,
    })
}
