//! Archives of every version that was ever written stay readable, by us and by anything that reads gzip and JSON.
//!
//! `tests/archives/` holds one object of each version, as it was written then. New objects are added; none is edited.

use std::fs;
use std::io::Read;
use std::path::Path;

use coldstream::bucket::{ArchiveWriter, EncodedMember, MemberEvent, decode_member};
use coldstream::event::{Event, GdprField, Instant, Json, Log, Metadata};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

type MemberOf = (usize, usize, i64, (i64, i64, i64));

/// Byte range, bytes of JSON, first and last position and count of each member of the frozen object, as the catalog
/// had them.
const V1_MEMBERS: [MemberOf; 2] = include!("archives/v1.members");

fn frozen(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives").join(name)).unwrap()
}

fn log() -> Log {
    Log::new("acme \"bank\"\n", "loans/é").unwrap()
}

/// Returns events with every field that an event can have, at positions that are not all neighbours, over two members.
fn events() -> Vec<Event> {
    let payloads = [
        r#"{"price":64.30,"big":9007199254740993,"huge":1e999,"b":1,"a":2}"#,
        r#"{"nul":"\u0000","quote":"\"","é":"\u00e9","nested":{"list":[null,true,{}]}}"#,
        r#"{}"#,
    ];
    let mut events: Vec<Event> = (1..=40)
        .map(|number: i64| Event {
            position: number * 3,
            id: format!("event-{number}"),
            stream: if number % 5 == 0 { String::new() } else { format!("stream \\{}", number % 4) },
            event_type: "loan.requested".into(),
            reason: if number % 7 == 0 { "imported\tby hand".into() } else { String::new() },
            raised_at: Instant::from_unix_nanos(1_317_420_000_123_456_789 * (number % 3 - 1) + number),
            metadata: Metadata::default(),
            payload: Json::parse_object(payloads[number as usize % 3]).unwrap(),
            gdpr: Default::default(),
        })
        .collect();
    events[1].metadata = Metadata {
        correlation_id: "c-1".into(),
        causation_id: "e\u{2028}".into(),
        user_id: "u".into(),
        deployment_id: i64::MAX,
    };
    let field = GdprField::new("gdpr-1".into(), Json::parse(r#""unknown""#).unwrap()).unwrap();
    events[2].payload = Json::parse_object(r#"{"name":"Éva","note":"x"}"#).unwrap();
    events[2].gdpr = [("name".to_owned(), field.clone())].into();
    events[3].payload = Json::parse_object(r#"{"name":"unknown"}"#).unwrap();
    events[3].gdpr = [("name".to_owned(), GdprField { is_invalidated: true, ..field })].into();
    // This payload fills the first member.
    events[20].payload = Json::parse_object(&format!(r#"{{"text":"{}"}}"#, "0123456789".repeat(30_000))).unwrap();
    events
}

fn encode(events: &[Event]) -> Vec<EncodedMember> {
    let mut writer = ArchiveWriter::new(log());
    let mut members: Vec<EncodedMember> =
        events.iter().filter_map(|event| writer.push(&event.borrowed())).map(|full| full.compress()).collect();
    members.extend(writer.finish().map(|last| last.compress()));
    members
}

fn unzip(object: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(object).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn version_1_is_read_as_it_was_written() {
    let object = frozen("v1.json.gz");
    let mut read = Vec::new();
    for (start, end, json_bytes, expected) in V1_MEMBERS {
        read.extend(
            decode_member(&log(), &object[start..end], json_bytes, expected)
                .unwrap()
                .events()
                .map(MemberEvent::to_event),
        );
    }
    assert_eq!(V1_MEMBERS[1].1, object.len());
    assert_eq!(read, events());
}

#[test]
fn what_is_written_today_is_version_1() {
    let members = encode(&events());
    let object: Vec<u8> = members.iter().flat_map(|member| member.bytes.clone()).collect();
    assert_eq!(members.len(), V1_MEMBERS.len());
    assert_eq!(unzip(&object), unzip(&frozen("v1.json.gz")));
}

#[test]
fn any_reader_of_gzip_and_json_can_read_it() {
    let text = unzip(&frozen("v1.json.gz"));
    let array: Vec<Value> = serde_json::from_str(&text.replace("1e999", "1e99")).unwrap();
    assert_eq!(array.len(), events().len());
    assert_eq!(text.lines().count(), events().len() + 2, "one line an event, and one for each bracket");
    for (value, event) in array.iter().zip(events()) {
        assert_eq!(value["position"], event.position);
        assert_eq!(value["id"], event.id.as_str());
        assert_eq!(value["tenant_id"], log().tenant());
        assert_eq!(value["topic"], log().topic());
        assert_eq!(value["raised_at"], event.raised_at.to_rfc3339());
    }
}

#[test]
fn what_is_not_what_it_should_be_is_refused() {
    let object = frozen("v1.json.gz");
    let (start, end, json_bytes, expected) = V1_MEMBERS[1];
    let member = &object[start..end];
    let decode = |member: &[u8], json_bytes, expected| decode_member(&log(), member, json_bytes, expected).map(drop);
    decode(member, json_bytes, expected).unwrap();
    let events = decode_member(&log(), member, json_bytes, expected)
        .unwrap()
        .events()
        .map(MemberEvent::to_event)
        .collect::<Vec<_>>();
    let mut caught = 0;
    for at in 0..member.len() {
        let mut flipped = member.to_vec();
        flipped[at] ^= 0x10;
        // A flipped bit may make gzip copy a repeated piece of text from another place: then the text is the same.
        match decode_member(&log(), &flipped, json_bytes, expected) {
            Ok(member) => {
                assert_eq!(member.events().map(MemberEvent::to_event).collect::<Vec<_>>(), events, "byte {at}")
            }
            Err(_) => caught += 1,
        }
    }
    assert!(caught > member.len() * 9 / 10, "{caught} of {}", member.len());
    for end in 0..member.len() {
        assert!(decode(&member[..end], json_bytes, expected).is_err(), "cut at {end}");
    }
    let mut longer = member.to_vec();
    longer.push(0);
    assert!(decode(&longer, json_bytes, expected).is_err(), "trailing garbage");
    assert!(decode(member, json_bytes - 1, expected).is_err(), "a bomb is cut off");
    let (first, last, count) = expected;
    for wrong in [(first - 1, last, count), (first, last + 1, count), (first, last, count + 1)] {
        assert!(decode(member, json_bytes, wrong).is_err(), "{wrong:?}");
    }
    let other = Log::new("", "loans/é").unwrap();
    assert!(decode_member(&other, member, json_bytes, expected).is_err(), "another log's");
    assert!(decode(b"<html>503</html>", json_bytes, expected).is_err());
}

#[test]
fn members_out_of_order_are_refused() {
    let mut shuffled = events();
    shuffled.swap(30, 31);
    let member = encode(&shuffled).pop().unwrap();
    let expected = (member.first_position, member.last_position, member.count);
    let error = decode_member(&log(), &member.bytes, member.json_bytes, expected).unwrap_err();
    assert!(error.contains("out of order"), "{error}");
}
