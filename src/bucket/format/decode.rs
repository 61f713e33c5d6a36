use std::io::{ErrorKind, Read};

use bytes::Bytes;
use flate2::bufread::GzDecoder;

use crate::bucket::format::line;
use crate::event::{Event, Log};

/// The largest event, and some more.
const MEMBER_JSON_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// A decoded member: its events, in the order of their positions.
#[derive(Debug)]
pub struct Member {
    pub events: Vec<Event>,
    /// Bytes it takes in memory, about.
    pub weight: usize,
}

/// Decodes one member and checks it against what the catalog says of it. Never takes more memory than the JSON that
/// is expected.
pub fn decode_member(
    log: &Log,
    compressed: &[u8],
    json_bytes: i64,
    (first_position, last_position, count): (i64, i64, i64),
) -> Result<Member, String> {
    let mut json = Vec::with_capacity(json_bytes as usize);
    let mut decoder = GzDecoder::new(compressed);
    decoder
        .by_ref()
        .take(json_bytes as u64 + 1)
        .read_to_end(&mut json)
        .map_err(|error| format!("a member does not decompress: {error}"))?;
    if json.len() as i64 != json_bytes || !decoder.into_inner().is_empty() {
        return Err(format!("a member does not hold the {json_bytes} bytes of JSON that it should"));
    }
    let buffer = Bytes::from(json);
    let events = events_of(log, &buffer)?;
    let found = (
        events.first().map_or(0, |event| event.position),
        events.last().map_or(0, |event| event.position),
        events.len() as i64,
    );
    if found != (first_position, last_position, count) {
        return Err(format!(
            "a member holds {} events at positions {} to {}, and not {count} at {first_position} to {last_position}",
            found.2, found.0, found.1
        ));
    }
    if !events.is_sorted_by(|event, next| event.position < next.position) {
        return Err("the events of a member are out of order".into());
    }
    let weight = buffer.len() + events.iter().map(|event| event.weight() - event.payload.byte_len()).sum::<usize>();
    Ok(Member { events, weight })
}

/// A member that was found without an index.
#[derive(Debug)]
pub struct FoundMember {
    pub events: Vec<Event>,
    /// That it takes in the object.
    pub bytes: usize,
    pub json_bytes: i64,
}

/// The member that these bytes begin with; `None` if they end inside of it.
pub fn find_member(log: &Log, bytes: &[u8]) -> Result<Option<FoundMember>, String> {
    let mut json = Vec::new();
    let mut decoder = GzDecoder::new(bytes);
    match decoder.by_ref().take(MEMBER_JSON_BYTES_MAX + 1).read_to_end(&mut json) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome.map_err(|error| format!("a member does not decompress: {error}"))?,
    };
    if json.len() as u64 > MEMBER_JSON_BYTES_MAX {
        return Err("a member is larger than any that was ever written".into());
    }
    let (bytes, json_bytes) = (bytes.len() - decoder.into_inner().len(), json.len() as i64);
    let events = events_of(log, &Bytes::from(json))?;
    if events.is_empty() || !events.is_sorted_by(|event, next| event.position < next.position) {
        return Err("the events of a member are out of order".into());
    }
    Ok(Some(FoundMember { events, bytes, json_bytes }))
}

fn events_of(log: &Log, buffer: &Bytes) -> Result<Vec<Event>, String> {
    let text: &[u8] = match buffer.as_ref() {
        [b'[' | b',', b'\n', rest @ ..] => rest,
        _ => return Err("a member does not start between two events".into()),
    };
    let text = text.strip_suffix(b"\n]\n").unwrap_or(text);
    text.split(|byte| *byte == b'\n')
        .map(|line| line::read(log, buffer, line.strip_suffix(b",").unwrap_or(line)))
        .collect()
}
