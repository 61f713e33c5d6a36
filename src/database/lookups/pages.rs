//! The bytes of lookup pages.
//!
//! A page holds entries in the order of their hashes. Neighbouring hashes are close, so each entry holds only its
//! distance from the entry before it. Numbers are LEB128.
//!
//! | | |
//! |---|---|
//! | page | [`FORMAT`], stride, entries |
//! | entry of an event or a GDPR id | distance, place |
//! | entry of a stream | distance, four more bytes of its hash, number of places, and for each place: (distance from the place before) × 2, or that + 1 and a count of events that is not 1 |
//! | place | number of the archive in its merge × stride + member |

use unsigned_varint::{decode, encode};

use crate::database::Error;

/// The most bytes of a page. With its row's header it is a quarter of a Postgres page, and so stays inside its row.
const PAGE_BYTES: usize = 1_960;
const FORMAT: u8 = 0x81;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Kind {
    Event = 1,
    Stream = 2,
    Gdpr = 3,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Event, Kind::Stream, Kind::Gdpr];
}

/// A hash in two halves. The first half finds the page, and has 63 bits, so that it is a positive bigint.
pub type Hash = (i64, u64);

/// Returns the part of a hash's first half that a page keeps. All entries with the same part are in one page.
pub fn head(hash: i64) -> u64 {
    hash as u64 >> 15
}

/// One or more events of a member that a hash leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub head: u64,
    /// Further bytes of a stream's hash; 0 for other kinds.
    pub tail: u32,
    /// The number of the archive in its merge; 0 in an archive's own lookup.
    pub ordinal: u32,
    pub member: u32,
    pub count: u32,
}

impl Entry {
    pub fn new(kind: Kind, (hash, rest): Hash, ordinal: u32, member: u32, count: u32) -> Entry {
        let tail = if kind == Kind::Stream { (rest >> 32) as u32 } else { 0 };
        Entry { head: head(hash), tail, ordinal, member, count }
    }

    fn key(&self) -> (u64, u32, u32, u32) {
        (self.head, self.tail, self.ordinal, self.member)
    }
}

/// Sorts entries, and joins those that mean the same.
pub fn combine(kind: Kind, entries: &mut Vec<Entry>) {
    entries.sort_unstable();
    entries.dedup_by(|next, kept| {
        let is_same = next.key() == kept.key();
        if is_same && kind == Kind::Stream {
            kept.count += next.count;
        }
        is_same
    });
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub kind: Kind,
    pub first_hash: i64,
    pub bytes: Vec<u8>,
}

/// Fills pages of one kind.
pub struct PageWriter {
    kind: Kind,
    /// A number that is greater than every member's.
    stride: u64,
    pages: Vec<Page>,
    last_head: u64,
    scratch: Vec<u8>,
}

impl PageWriter {
    pub fn new(kind: Kind, stride: u32) -> PageWriter {
        PageWriter { kind, stride: stride.into(), pages: Vec::new(), last_head: 0, scratch: Vec::new() }
    }

    /// Adds all entries of the next head, as [`combine`] leaves them.
    pub fn push(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let Some(first) = entries.first() else { return Ok(()) };
        if let Some(entry) = entries.iter().find(|entry| u64::from(entry.member) >= self.stride) {
            return Err(Error::Damaged(format!("a lookup page leads to member {}, which is not there", entry.member)));
        }
        self.scratch.clear();
        self.write_rest(entries);
        let has_room = |page: &Page| page.bytes.len() + NUMBER_BYTES_MAX + self.scratch.len() <= PAGE_BYTES;
        if !self.pages.last().is_some_and(has_room) {
            let mut bytes = Vec::with_capacity(PAGE_BYTES);
            bytes.push(FORMAT);
            write_number(&mut bytes, self.stride);
            self.pages.push(Page { kind: self.kind, first_hash: (first.head << 15) as i64, bytes });
            self.last_head = 0;
        }
        let page = &mut self.pages.last_mut().expect("there is one, or was pushed").bytes;
        write_number(page, first.head - self.last_head);
        page.extend(&self.scratch);
        self.last_head = first.head;
        Ok(())
    }

    /// Writes everything that follows the first distance.
    fn write_rest(&mut self, entries: &[Entry]) {
        let place = |entry: &Entry| u64::from(entry.ordinal) * self.stride + u64::from(entry.member);
        let out = &mut self.scratch;
        match self.kind {
            Kind::Event | Kind::Gdpr => {
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        write_number(out, 0);
                    }
                    write_number(out, place(entry));
                }
            }
            Kind::Stream => {
                for (index, stream) in entries.chunk_by(|one, next| one.tail == next.tail).enumerate() {
                    if index > 0 {
                        write_number(out, 0);
                    }
                    out.extend(stream[0].tail.to_be_bytes());
                    write_number(out, stream.len() as u64);
                    let mut last = 0;
                    for entry in stream {
                        let distance = place(entry) - last;
                        last = place(entry);
                        write_number(out, distance * 2 + u64::from(entry.count != 1));
                        if entry.count != 1 {
                            write_number(out, entry.count.into());
                        }
                    }
                }
            }
        }
    }

    /// Takes the full pages, into which no entry goes any more, once there are at least `count_min` of them.
    pub fn take_full(&mut self, count_min: usize) -> Vec<Page> {
        if self.pages.len() <= count_min {
            return Vec::new();
        }
        let open = self.pages.split_off(self.pages.len() - 1);
        std::mem::replace(&mut self.pages, open)
    }

    pub fn finish(self) -> Vec<Page> {
        self.pages
    }
}

/// Returns the entries of a page, in the order of their heads.
pub fn entries_of(kind: Kind, page: &[u8]) -> Result<Vec<Entry>, Error> {
    match page.split_first() {
        Some((&FORMAT, rest)) => compact_entries(kind, Reader(rest)),
        Some((first, _)) => Err(Error::Damaged(format!("a lookup page has the format {first}"))),
        None => Err(Error::Damaged("a lookup page is empty".into())),
    }
}

fn compact_entries(kind: Kind, mut reader: Reader) -> Result<Vec<Entry>, Error> {
    let stride = reader.number()?;
    if stride == 0 {
        return Err(Error::Damaged("a lookup page has no stride".into()));
    }
    let at = |place: u64| ((place / stride) as u32, (place % stride) as u32);
    let (mut entries, mut head) = (Vec::with_capacity(PAGE_BYTES / 4), 0_u64);
    while !reader.0.is_empty() {
        head = head.wrapping_add(reader.number()?);
        if kind != Kind::Stream {
            let (ordinal, member) = at(reader.number()?);
            entries.push(Entry { head, tail: 0, ordinal, member, count: 1 });
            continue;
        }
        let tail = u32::from_be_bytes(reader.take()?);
        let mut place = 0_u64;
        for _ in 0..reader.number()? {
            let distance = reader.number()?;
            place = place.wrapping_add(distance / 2);
            let count = if distance % 2 == 1 { reader.number()? as u32 } else { 1 };
            let (ordinal, member) = at(place);
            entries.push(Entry { head, tail, ordinal, member, count });
        }
    }
    Ok(entries)
}

/// The most bytes of a number in LEB128.
const NUMBER_BYTES_MAX: usize = 10;

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend(encode::u64(number, &mut encode::u64_buffer()));
}

fn cut_off() -> Error {
    Error::Damaged("a lookup page ends in an entry".into())
}

/// Takes numbers off the front of a page.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, Error> {
        let (number, rest) = decode::u64(self.0).map_err(|error| match error {
            decode::Error::Insufficient => cut_off(),
            _ => Error::Damaged("a number of a lookup page is no LEB128".into()),
        })?;
        self.0 = rest;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn groups() -> impl Strategy<Value = Vec<Entry>> {
        // Heads are close together and far apart, so that some come several times.
        let head = prop_oneof![0..20_u64, 0..1_u64 << 48];
        let entry = (head, 0..3_u32, 0..4_u32, 0..300_u32, 1..4_u32);
        let entry = entry.prop_map(|(head, tail, ordinal, member, count)| Entry { head, tail, ordinal, member, count });
        prop::collection::vec(entry, 0..2_000)
    }

    fn written(kind: Kind, entries: &[Entry]) -> Vec<Page> {
        let mut writer = PageWriter::new(kind, 300);
        for group in entries.chunk_by(|one, next| one.head == next.head) {
            writer.push(group).unwrap();
        }
        writer.finish()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in groups()) {
            for kind in Kind::ALL {
                let mut entries = entries.clone();
                if kind != Kind::Stream {
                    entries.iter_mut().for_each(|entry| (entry.tail, entry.count) = (0, 1));
                }
                combine(kind, &mut entries);
                let pages = written(kind, &entries);
                let read: Vec<Vec<Entry>> =
                    pages.iter().map(|page| entries_of(kind, &page.bytes).unwrap()).collect();
                prop_assert_eq!(read.concat(), entries);
                prop_assert!(pages.is_sorted_by(|one, next| one.first_hash < next.first_hash));
                for (page, entries) in pages.iter().zip(&read) {
                    prop_assert_eq!(page.first_hash, (entries[0].head << 15) as i64);
                    prop_assert!(page.bytes.len() <= PAGE_BYTES || entries[0].head == entries.last().unwrap().head);
                }
            }
        }

        #[test]
        fn bytes_that_nobody_wrote_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for kind in Kind::ALL {
                let _ = entries_of(kind, &bytes);
                let _ = entries_of(kind, &[&[FORMAT, 7], bytes.as_slice()].concat());
            }
        }
    }

    /// The bytes of pages in databases that are there.
    #[test]
    fn pages_keep_their_bytes() {
        let entry = |head, tail, ordinal, member, count| Entry { head, tail, ordinal, member, count };
        let most = (1 << 48) - 1;
        let ids = [entry(0, 0, 0, 0, 1), entry(127, 0, 0, 127, 1), entry(127, 0, 3, 299, 1), entry(most, 0, 1, 0, 1)];
        let streams =
            [entry(5, 0xfedc_ba98, 0, 7, 1), entry(5, 0xfedc_ba98, 2, 9, 256), entry(5, 0xfedc_ba99, 0, 1, 16_384)];
        for kind in [Kind::Event, Kind::Gdpr] {
            assert_eq!(hex::encode(&written(kind, &ids)[0].bytes), "81ac0200007f7f00af0980ffffffffff3fac02");
        }
        let pages = written(Kind::Stream, &streams);
        assert_eq!(hex::encode(&pages[0].bytes), "81ac0205fedcba98020eb509800200fedcba990103808001");
        let mut numbers = Vec::new();
        for number in [0, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            write_number(&mut numbers, number);
        }
        assert_eq!(hex::encode(&numbers), "007f8001ff7f808001ffffffff0fffffffffffffffffff01");
        assert_eq!(entries_of(Kind::Event, &written(Kind::Event, &ids)[0].bytes).unwrap(), ids);
        assert_eq!(entries_of(Kind::Stream, &pages[0].bytes).unwrap(), streams);
    }

    #[test]
    fn a_page_that_is_cut_off_or_of_another_format_is_damaged() {
        let page = &written(Kind::Event, &[Entry { head: 1 << 40, tail: 0, ordinal: 0, member: 1, count: 1 }])[0].bytes;
        for (bytes, why) in [
            (&page[..page.len() - 1], "ends in an entry"),
            (&[], "is empty"),
            (&[0x82, 7], "the format 130"),
            (&[0x01, 7], "the format 1"),
            (&[FORMAT, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "no LEB128"),
        ] {
            let error = entries_of(Kind::Event, bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{bytes:?}: {error}");
        }
    }
}
