//! The events of the file, as they stand in it, and as every way of reading gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use coldstream::api::proto;
use coldstream::event;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::Program;

pub const EVENTS: usize = 262_200;

/// An event as it stands in the file, and as it comes out again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loan {
    #[serde(default)]
    pub position: usize,
    pub id: String,
    tenant_id: String,
    topic: String,
    pub stream: String,
    pub r#type: String,
    #[serde(with = "time::serde::rfc3339")]
    raised_at: OffsetDateTime,
    payload: Box<RawValue>,
}

impl Loan {
    /// Returns the event as one to publish once more.
    pub fn to_new(&self) -> event::NewEvent {
        event::NewEvent {
            id: self.id.clone(),
            stream: self.stream.clone(),
            event_type: self.r#type.clone(),
            reason: String::new(),
            raised_at: Some(event::Instant::from_unix_nanos(self.raised_at.unix_timestamp_nanos() as i64)),
            metadata: event::Metadata::default(),
            payload: event::Json::parse_object(self.payload.get()).unwrap(),
            gdpr: event::Gdpr::new(),
        }
    }

    /// Checks an event of gRPC, where a payload is a map of its values.
    pub fn assert_is(&self, found: &proto::Event) {
        let Loan { position, id, tenant_id, topic, stream, r#type, raised_at, payload } = self;
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(payload.get()).unwrap();
        let field = |value: &RawValue| proto::EventPayload { value: value.get().to_owned(), gdpr: None };
        let expected = proto::Event {
            tenant_id: tenant_id.clone(),
            topic: topic.clone(),
            id: id.clone(),
            r#type: r#type.clone(),
            stream: stream.clone(),
            reason: String::new(),
            options: Some(proto::EventOptions { broadcast: false }),
            metadata: Some(proto::EventMetadata { order_serial: *position as i64, ..Default::default() }),
            payload: fields.into_iter().map(|(name, value)| (name, field(&value))).collect(),
            raised_at: raised_at.unix_timestamp_nanos() as i64,
        };
        assert_eq!(*found, expected);
    }
}

impl PartialEq for Loan {
    /// Compares the payload to the letter.
    fn eq(&self, other: &Loan) -> bool {
        let Loan { position, id, tenant_id, topic, stream, r#type, raised_at, payload } = self;
        let texts = [id, tenant_id, topic, stream, r#type];
        texts == [&other.id, &other.tenant_id, &other.topic, &other.stream, &other.r#type]
            && (*position, *raised_at) == (other.position, other.raised_at)
            && payload.get() == other.payload.get()
    }
}

pub fn source(file: &Path) -> Vec<Loan> {
    let lines = BufReader::new(GzDecoder::new(BufReader::new(File::open(file).unwrap()))).lines();
    let loans =
        lines.zip(1..).map(|(line, position)| Loan { position, ..serde_json::from_str(&line.unwrap()).unwrap() });
    let loans: Vec<Loan> = loans.collect();
    assert_eq!(loans.len(), EVENTS);
    assert_eq!(loans.iter().map(|loan| &loan.id).collect::<BTreeSet<_>>().len(), EVENTS);
    loans
}

/// Returns the file of the real events or, if it is not at hand, of as many of the same shape.
pub fn loan_applications(program: &Program) -> PathBuf {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loan-applications.ndjson.gz");
    if real.exists() {
        return real;
    }
    println!("{} is not there: {EVENTS} events of the same shape are made instead", real.display());
    let path = program.folder().join("made.ndjson.gz");
    let mut out = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    let start = OffsetDateTime::from_unix_timestamp(1_317_422_324).unwrap();
    for number in 0..EVENTS {
        let raised_at = (start + time::Duration::milliseconds(50_546 * number as i64)).format(&Rfc3339).unwrap();
        // Every application goes on for a while beside many others; some cross the boundary of the archives.
        let (stream, step) = (173_688 + number % 97 + number / 2_100 * 97, number % 36);
        writeln!(
            out,
            r#"{{"id":"made-{number}","tenant_id":"acme-bank","topic":"loan-applications","stream":"{stream}","type":"A_STEP_{step}.COMPLETE","raised_at":"{raised_at}","payload":{{"org_resource":"{}","amount_req":"{}"}}}}"#,
            number % 113,
            number % 50 * 1_000,
        )
        .unwrap();
    }
    out.finish().unwrap();
    path
}
