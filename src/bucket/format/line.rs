//! One event of an archive, as a line. Frozen: renaming a field of the domain changes nothing here.

use std::borrow::Cow;
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{BorrowedEvent, BorrowedMetadata, Instant, Log, read_from_objects};

#[derive(Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
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
#[serde(remote = "Self", deny_unknown_fields, default)]
struct LineMetadata<'a> {
    #[serde(borrow)]
    correlation_id: Cow<'a, str>,
    #[serde(borrow)]
    causation_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    deployment_id: i64,
}

read_from_objects!(Line<'_>, LineMetadata<'_>);

/// Writes and reads the lines of one log.
pub struct LogLines {
    log: Log,
    /// The text of each line from behind the id up to the opening quote of the stream.
    names: String,
}

impl LogLines {
    pub fn new(log: Log) -> LogLines {
        let mut names = Vec::new();
        write_text(&mut names, ",\"tenant_id\":", log.tenant());
        write_text(&mut names, ",\"topic\":", log.topic());
        names.extend_from_slice(b",\"stream\":\"");
        LogLines { log, names: String::from_utf8(names).expect("texts make a text") }
    }

    /// Appends the line of an event, without a line break. Optional fields that are empty are left out.
    pub fn write(&self, event: &BorrowedEvent<'_>, out: &mut Vec<u8>) {
        let BorrowedEvent { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr } = event;
        write_number(out, "{\"position\":", *position);
        write_text(out, ",\"id\":", id);
        let names = self.names.strip_suffix('"').expect("they end with a quote");
        write_text(out, names, stream);
        write_text(out, ",\"type\":", event_type);
        out.extend_from_slice(b",\"raised_at\":\"");
        out.extend_from_slice(&raised_at.rfc3339());
        out.push(b'"');
        if !reason.is_empty() {
            write_text(out, ",\"reason\":", reason);
        }
        write_metadata(out, metadata);
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(payload.as_bytes());
        if let Some(gdpr) = gdpr {
            out.extend_from_slice(b",\"gdpr\":");
            out.extend_from_slice(gdpr.as_bytes());
        }
        out.push(b'}');
    }

    /// Reads a line that anybody may have written, and checks every letter of it.
    pub fn read<'a>(&self, line: &'a [u8]) -> Result<BorrowedEvent<'a>, String> {
        let Line { position, id, tenant_id, topic, stream, event_type, raised_at, reason, metadata, payload, gdpr } =
            parse(line)?;
        if tenant_id != self.log.tenant() || topic != self.log.topic() {
            return Err(format!("the event at position {position} is of another log"));
        }
        let LineMetadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
        Ok(BorrowedEvent {
            position,
            id,
            stream,
            event_type,
            reason,
            raised_at: instant(&raised_at)?,
            metadata: BorrowedMetadata { correlation_id, causation_id, user_id, deployment_id },
            payload: payload.get(),
            gdpr: gdpr.map(|gdpr| gdpr.get().into()),
        })
    }

    /// Reads a line that is known to be one of ours: its payload was checked when it was published, and is passed on
    /// without a look inside.
    pub fn read_own<'a>(&self, line: &'a [u8]) -> Result<BorrowedEvent<'a>, String> {
        let text = std::str::from_utf8(line).map_err(|error| format!("a line is no event: {error}"))?;
        // Rare lines (those with escapes or personal fields) may cost more.
        self.skim(text).map_or_else(|| self.read(line), Ok)
    }

    /// Reads a line that [`LogLines::write`] made of an event without escapes in its texts and without GDPR data;
    /// `None` for any other line.
    fn skim<'a>(&self, line: &'a str) -> Option<BorrowedEvent<'a>> {
        let mut rest = Rest(line);
        rest.skip("{\"position\":")?;
        let position = rest.number()?;
        rest.skip(",\"id\":\"")?;
        let id = rest.text()?;
        rest.skip(&self.names)?;
        let stream = rest.text()?;
        rest.skip(",\"type\":\"")?;
        let event_type = rest.text()?;
        rest.skip(",\"raised_at\":\"")?;
        let raised_at = Instant::parse(rest.text()?).ok()?;
        let reason = rest.text_if(",\"reason\":\"")?;
        let mut metadata = BorrowedMetadata::default();
        if rest.skip(",\"metadata\":{\"deployment_id\":").is_some() {
            metadata.deployment_id = rest.number()?;
            metadata.correlation_id = rest.text_if(",\"correlation_id\":\"")?.into();
            metadata.causation_id = rest.text_if(",\"causation_id\":\"")?.into();
            metadata.user_id = rest.text_if(",\"user_id\":\"")?.into();
            rest.skip("}")?;
        }
        rest.skip(",\"payload\":")?;
        let payload = rest.0.strip_suffix('}').filter(|payload| payload.starts_with('{') && payload.ends_with('}'))?;
        // The payload may have a field of that name, too.
        if memchr::memmem::find(payload.as_bytes(), b",\"gdpr\":{").is_some() {
            return None;
        }
        Some(BorrowedEvent {
            position,
            id: id.into(),
            stream: stream.into(),
            event_type: event_type.into(),
            reason: reason.into(),
            raised_at,
            metadata,
            payload,
            gdpr: None,
        })
    }
}

/// The part of a line that is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    fn number(&mut self) -> Option<i64> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'-')?;
        let (number, rest) = self.0.split_at(end);
        self.0 = rest;
        number.parse().ok()
    }

    /// Reads a text up to the closing quote; `None` if it has an escape.
    fn text(&mut self) -> Option<&'a str> {
        let end = memchr::memchr2(b'"', b'\\', self.0.as_bytes())?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix('"')?;
        Some(text)
    }

    /// Reads a text that has this label; empty if the text is left out.
    fn text_if(&mut self, label: &str) -> Option<&'a str> {
        match self.skip(label) {
            Some(()) => self.text(),
            None => Some(""),
        }
    }
}

fn instant(text: &str) -> Result<Instant, String> {
    Instant::parse(text).map_err(|error| error.to_string())
}

fn write_metadata(out: &mut Vec<u8>, metadata: &BorrowedMetadata<'_>) {
    let BorrowedMetadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    if *metadata == BorrowedMetadata::default() {
        return;
    }
    write_number(out, ",\"metadata\":{\"deployment_id\":", *deployment_id);
    let texts =
        [(",\"correlation_id\":", correlation_id), (",\"causation_id\":", causation_id), (",\"user_id\":", user_id)];
    for (label, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        write_text(out, label, text);
    }
    out.push(b'}');
}

fn write_number(out: &mut Vec<u8>, label: &str, number: i64) {
    out.extend_from_slice(label.as_bytes());
    write!(out, "{number}").expect("writing into memory cannot fail");
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-z0-9-]{1,12}", ".{0,12}", Just("a\"b\\c".to_owned())]
    }

    fn payload() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("{}"),
            Just(r#"{"price":64.30,"text":"a \" } b"}"#),
            Just(r#"{"a":{},"gdpr":{"b":{}}}"#),
            Just(r#"{"text":",\"gdpr\":{"}"#),
        ]
    }

    proptest! {
        #[test]
        fn our_own_lines_are_read_as_anybodys_are(
            names in (text(), "[a-z\"]{1,5}"), position: i64, nanos: i64, deployment_id in prop_oneof![Just(0), any::<i64>()],
            texts in prop::array::uniform7(text()), payload in payload(), is_personal: bool,
        ) {
            let [id, stream, event_type, reason, correlation_id, causation_id, user_id] = texts.map(Cow::Owned);
            let gdpr = is_personal.then_some(r#"{"a":{"id":"1","default":"","is_invalidated":false}}"#.into());
            let metadata = BorrowedMetadata { correlation_id, causation_id, user_id, deployment_id };
            let raised_at = Instant::from_unix_nanos(nanos);
            let event = BorrowedEvent { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr };
            let Ok(log) = Log::new(names.0, names.1) else { return Ok(()) };
            let lines = LogLines::new(log);
            let mut line = Vec::new();
            lines.write(&event, &mut line);
            prop_assert_eq!(&lines.read(&line).unwrap(), &event);
            prop_assert_eq!(&lines.read_own(&line).unwrap(), &event);
        }
    }

    #[test]
    fn a_line_of_another_log_is_none_of_ours() {
        let line = br#"{"position":1,"id":"a","tenant_id":"x","topic":"t","stream":"","type":"e","raised_at":"2020-01-01T00:00:00.000000000Z","payload":{}}"#;
        assert!(LogLines::new(Log::new("x", "t").unwrap()).read_own(line).is_ok());
        for (tenant, topic) in [("y", "t"), ("", "t"), ("x", "u")] {
            let lines = LogLines::new(Log::new(tenant, topic).unwrap());
            assert!(lines.read_own(line).unwrap_err().contains("another log"), "{tenant} {topic}");
        }
    }
}
