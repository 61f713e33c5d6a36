//! Encoding events, and compressing them into members.

use std::cell::RefCell;

use libdeflater::{CompressionLvl, Compressor};

use crate::bucket::format::MEMBER_JSON_BYTES;
use crate::bucket::format::line::LogLines;
use crate::event::{BorrowedEvent, Event, Log};

const COMPRESSION_LEVEL: i32 = 6;

thread_local! {
    /// A compressor, and the buffer that it writes to. Both are costly to make anew for every member.
    static COMPRESSOR: RefCell<(Compressor, Vec<u8>)> = RefCell::new((
        Compressor::new(CompressionLvl::new(COMPRESSION_LEVEL).expect("there is such a level")),
        Vec::new(),
    ));
}

/// Writes events, in the order of their positions, as the members of one archive.
pub struct ArchiveWriter {
    lines: LogLines,
    open: Option<RawMember>,
    members_started: usize,
}

/// A member before it is compressed.
pub struct RawMember {
    /// The number of the member in its archive, from 0.
    pub member: usize,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    json: Vec<u8>,
}

pub struct EncodedMember {
    pub member: usize,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    pub json_bytes: i64,
    pub bytes: Vec<u8>,
}

impl ArchiveWriter {
    pub fn new(log: Log) -> ArchiveWriter {
        ArchiveWriter { lines: LogLines::new(log), open: None, members_started: 0 }
    }

    /// Adds the next event. Returns the member before it, if that one is full.
    pub fn push(&mut self, event: &BorrowedEvent<'_>) -> Option<RawMember> {
        let full = self.open.take_if(|open| open.json.len() >= MEMBER_JSON_BYTES);
        let open = self.open.get_or_insert_with(|| {
            self.members_started += 1;
            RawMember::new(self.members_started - 1, event.position)
        });
        open.push(&self.lines, event);
        full
    }

    /// The number of the member that the last event went into.
    pub fn current_member(&self) -> usize {
        self.members_started.saturating_sub(1)
    }

    /// Ends the archive, and returns its last member; `None` if there was no event.
    pub fn finish(mut self) -> Option<RawMember> {
        let mut last = self.open.take()?;
        last.close_array();
        Some(last)
    }
}

impl RawMember {
    fn new(member: usize, first_position: i64) -> RawMember {
        let json = Vec::with_capacity(MEMBER_JSON_BYTES + MEMBER_JSON_BYTES / 8);
        RawMember { member, first_position, last_position: first_position, count: 0, json }
    }

    fn push(&mut self, lines: &LogLines, event: &BorrowedEvent<'_>) {
        let separator: &[u8] = if self.member == 0 && self.count == 0 { b"[\n" } else { b",\n" };
        self.json.extend_from_slice(separator);
        lines.write(event, &mut self.json);
        self.last_position = event.position;
        self.count += 1;
    }

    fn close_array(&mut self) {
        self.json.extend_from_slice(b"\n]\n");
    }

    /// Makes a member that replaces another one of the same events.
    pub fn rewritten(log: &Log, member: usize, events: &[Event], is_last: bool) -> RawMember {
        let lines = LogLines::new(log.clone());
        let mut raw = RawMember::new(member, events.first().map_or(0, |event| event.position));
        for event in events {
            raw.push(&lines, &event.borrowed());
        }
        if is_last {
            raw.close_array();
        }
        raw
    }

    pub fn compress(self) -> EncodedMember {
        let RawMember { member, first_position, last_position, count, json } = self;
        let bytes = COMPRESSOR.with_borrow_mut(|(compressor, room)| {
            room.resize(compressor.gzip_compress_bound(json.len()), 0);
            let length = compressor.gzip_compress(&json, room).expect("what is bounded fits");
            room[..length].to_vec()
        });
        EncodedMember { member, first_position, last_position, count, json_bytes: json.len() as i64, bytes }
    }
}
