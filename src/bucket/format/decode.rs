use std::io::{ErrorKind, Read};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use libdeflater::Decompressor;

use crate::bucket::format::line::{self, LogLines};
use crate::bucket::format::member::{Member, MemberEvent};
use crate::event::{BorrowedEvent, Event, Json, Log};

const ARRAY_END: &[u8] = b"\n]\n";

/// The most JSON of a member whose size nobody knows: events are far smaller.
const MEMBER_JSON_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The JSON of a member.
#[derive(Debug)]
pub struct MemberText {
    /// The bytes that the member has in its object.
    pub bytes: i64,
    pub json: Bytes,
    /// Somebody else may have written the member without checking anything.
    is_strange: bool,
}

impl MemberText {
    pub fn is_first(&self) -> bool {
        self.json.starts_with(b"[")
    }

    pub fn is_last(&self) -> bool {
        self.json.ends_with(ARRAY_END)
    }

    /// The log that the member's first event names.
    pub fn log(&self) -> Result<Log, String> {
        let line = lines_of(&self.json)?.next().unwrap_or_default();
        line::log_of(line)
    }

    /// Passes on the member's events, in the order of their positions.
    pub fn each_event<'a>(
        &'a self,
        log: &Log,
        mut take: impl FnMut(BorrowedEvent<'a>) -> Result<(), String>,
    ) -> Result<(), String> {
        let (lines, mut reached) = (LogLines::new(log.clone()), i64::MIN);
        for line in lines_of(&self.json)? {
            let event = if self.is_strange { lines.read(line)? } else { lines.read_own(line)? };
            if event.position <= reached {
                return Err("the events of a member are out of order".into());
            }
            reached = event.position;
            take(event)?;
        }
        Ok(())
    }

    /// Makes one of the member's events an event of its own, whose payload remains a slice of the member.
    pub fn event(&self, event: BorrowedEvent<'_>) -> Result<Event, String> {
        let payload = Json::trusted(self.json.slice_ref(event.payload.as_bytes()));
        event.into_event(payload).map_err(|error| error.to_string())
    }
}

/// Decompresses the member that some bytes of an object begin with; `None` if the bytes end before the member does.
pub fn find_member(bytes: &[u8]) -> Result<Option<MemberText>, String> {
    let (mut json, mut decoder) = (Vec::new(), GzDecoder::new(bytes));
    match decoder.by_ref().take(MEMBER_JSON_BYTES_MAX + 1).read_to_end(&mut json) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(format!("a member does not decompress: {error}")),
    }
    if json.len() as u64 > MEMBER_JSON_BYTES_MAX {
        return Err(format!("a member has more than {MEMBER_JSON_BYTES_MAX} bytes of JSON"));
    }
    let bytes = (bytes.len() - decoder.into_inner().len()) as i64;
    Ok(Some(MemberText { bytes, json: json.into(), is_strange: true }))
}

/// Decompresses a member of ours that has a known size and takes all of these bytes. Never uses more memory than the
/// expected JSON.
pub fn decompress_member(compressed: &[u8], json_bytes: i64) -> Result<MemberText, String> {
    let mut json = vec![0; json_bytes as usize];
    let length = Decompressor::new()
        .gzip_decompress(compressed, &mut json)
        .map_err(|error| format!("a member does not decompress: {error}"))?;
    // libdeflate checks the bytes that it reads, and does not say where it stopped; a gzip member ends with the length
    // of its text.
    if length as i64 != json_bytes || !compressed.ends_with(&(json_bytes as u32).to_le_bytes()) {
        return Err(format!("a member does not hold the {json_bytes} bytes of JSON that it should"));
    }
    Ok(MemberText { bytes: compressed.len() as i64, json: json.into(), is_strange: false })
}

/// Decodes one member and checks it against the catalog.
pub fn decode_member(
    log: &Log,
    compressed: &[u8],
    json_bytes: i64,
    (first_position, last_position, count): (i64, i64, i64),
) -> Result<Member, String> {
    let text = decompress_member(compressed, json_bytes)?;
    let mut member = Member::new(text.json.clone(), count as usize);
    text.each_event(log, |event| member.push(event))?;
    let found = (
        member.events().next().map_or(0, MemberEvent::position),
        member.events().next_back().map_or(0, MemberEvent::position),
        member.events().count() as i64,
    );
    if found != (first_position, last_position, count) {
        return Err(format!(
            "a member holds {} events at positions {} to {}, and not {count} at {first_position} to {last_position}",
            found.2, found.0, found.1
        ));
    }
    Ok(member)
}

fn lines_of(json: &[u8]) -> Result<impl Iterator<Item = &[u8]>, String> {
    let [b'[' | b',', b'\n', text @ ..] = json else {
        return Err("a member does not start between two events".into());
    };
    let text = text.strip_suffix(ARRAY_END).unwrap_or(text);
    let ends = memchr::memchr_iter(b'\n', text).chain([text.len()]);
    let lines = ends.scan(0, |start, end| Some(&text[std::mem::replace(start, end + 1)..end]));
    Ok(lines.map(|line| line.strip_suffix(b",").unwrap_or(line)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(json: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(json).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_member_is_found_once_all_of_it_is_there() {
        let (first, second) = (gzip(b"[\n{}"), gzip(b",\n{}\n]\n"));
        let object = [&first[..], &second].concat();
        for end in 0..first.len() {
            assert!(find_member(&object[..end]).unwrap().is_none(), "{end}");
        }
        let found = find_member(&object).unwrap().unwrap();
        assert_eq!((found.bytes as usize, &found.json[..]), (first.len(), &b"[\n{}"[..]));
        assert!(found.is_first() && !found.is_last());
        let last = find_member(&object[first.len()..]).unwrap().unwrap();
        assert!(last.bytes as usize == second.len() && !last.is_first() && last.is_last());
        assert!(find_member(b"<html>no gzip file</html>").is_err());
    }

    #[test]
    fn a_bomb_does_not_fill_the_memory() {
        let zeros = vec![0; 1024 * 1024];
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
        for _ in 0..=MEMBER_JSON_BYTES_MAX / zeros.len() as u64 {
            encoder.write_all(&zeros).unwrap();
        }
        assert!(find_member(&encoder.finish().unwrap()).unwrap_err().contains("bytes of JSON"));
    }
}
