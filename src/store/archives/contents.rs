//! The contents of an object, read from its first byte to its last as a reader would. Everything that the catalog says
//! of an object comes from such a read, both for an object that was just uploaded and for one that the catalog has
//! lost. Two members are in memory at a time. Nothing is written, so a process that dies leaves nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::bucket::{MemberText, ObjectMetadata, Scan, decompress_member};
use crate::database::ArchiveKey;
use crate::database::catalog::archives::Archive;
use crate::database::catalog::members::MemberRow;
use crate::database::lookups::{HashKey, LookupRun};
use crate::event::{Event, Instant, Log, PositionRange, PositionSet};
use crate::store::Error;
use crate::store::archives::background;
use crate::store::archives::overlay::Overlay;

/// The contents of an object that was read to its end.
pub struct Contents {
    pub etag: String,
    pub digest: Vec<u8>,
    pub members: Vec<MemberRow>,
    pub positions: PositionSet,
    pub count: i64,
    raised_at: (i64, i64),
    types: Vec<String>,
    type_counts: Vec<i64>,
    json_bytes: i64,
    object_bytes: i64,
}

impl Contents {
    /// Returns the archive's row for the catalog.
    pub fn archive(
        &self,
        ArchiveKey { log_id, archive_id: id }: ArchiveKey,
        generation: i64,
        write_id: Uuid,
    ) -> Archive {
        let positions = self.positions.span().expect("it has a member, which has an event");
        Archive {
            log_id,
            id,
            generation,
            write_id,
            etag: self.etag.clone(),
            digest: self.digest.clone(),
            first_position: positions.start,
            last_position: positions.last(),
            count: self.count,
            raised_at_min: self.raised_at.0,
            raised_at_max: self.raised_at.1,
            json_bytes: self.json_bytes,
            object_bytes: self.object_bytes,
            types: self.types.clone(),
            type_counts: self.type_counts.clone(),
        }
    }

    /// Returns whether the contents are those that the object's metadata claims.
    pub fn is_as_said(&self, metadata: &ObjectMetadata) -> bool {
        let ObjectMetadata { first_position, last_position, count, .. } = *metadata;
        (self.positions.span(), self.count) == (Some(PositionRange::closed(first_position, last_position)), count)
    }
}

/// A function that is told how many bytes of an object were read, and may take its time.
pub type Pacing<'a> = &'a (dyn Fn(i64) -> BoxFuture<'static, ()> + Send + Sync + 'a);

/// Takes no time.
pub fn unpaced(_: i64) -> BoxFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}

/// An object that is being read.
pub struct ContentsReader {
    scan: Scan,
    /// The bytes of each member and of its JSON, if they are known. Otherwise the end of each member is found by
    /// decompressing it.
    known: Option<std::vec::IntoIter<(i64, i64)>>,
    /// The next member, or the end, which was scanned while the member before it was read.
    ahead: Option<Result<Option<MemberText>, Error>>,
    members: Vec<MemberRow>,
    has_ended: bool,
    /// `None` while a member is being read.
    census: Option<Census>,
}

impl ContentsReader {
    /// Begins to read an object. `overlay` has the edits that the catalog counts already, and the object does not hold
    /// yet.
    pub fn new(scan: Scan, log: Log, key: HashKey, overlay: Overlay) -> ContentsReader {
        let census = Census {
            log,
            key,
            overlay,
            tally: Tally::default(),
            lookups: LookupRun::new(key),
            left_out: HashSet::new(),
            runs: VecDeque::new(),
            runs_made: 0,
        };
        ContentsReader { scan, known: None, ahead: None, members: Vec::new(), has_ended: false, census: Some(census) }
    }

    /// Reads the object by members whose sizes are known: the bytes of each, and of its JSON.
    pub fn with_known_members(self, members: Vec<(i64, i64)>) -> ContentsReader {
        ContentsReader { known: Some(members.into_iter()), ..self }
    }

    /// Leaves these GDPR ids out of the lookups.
    pub fn without_gdpr_ids(mut self, gdpr_ids: HashSet<String>) -> ContentsReader {
        self.census().left_out = gdpr_ids;
        self
    }

    /// Reads on, without keeping events, until a run of lookup pages is complete. `None` once the object was read to
    /// its end and every run was given. `pace` is told how many bytes were read.
    pub async fn next_run(&mut self, pace: Pacing<'_>) -> Result<Option<(i32, LookupRun)>, Error> {
        loop {
            if let Some(run) = self.census().runs.pop_front() {
                return Ok(Some(run));
            }
            let reached = self.bytes();
            if !self.pass().await? && self.census().runs.is_empty() {
                return Ok(None);
            }
            pace(self.bytes() - reached).await;
        }
    }

    /// Reads the next member, and returns its events; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, Error> {
        self.advance(Some(Vec::new())).await.map(Option::flatten)
    }

    /// Reads the next member without keeping its events. False at the end.
    async fn pass(&mut self) -> Result<bool, Error> {
        Ok(self.advance(None).await?.is_some())
    }

    /// Reads the next member. Its events are returned if `kept` has room for them.
    async fn advance(&mut self, mut kept: Option<Vec<Event>>) -> Result<Option<Option<Vec<Event>>>, Error> {
        let next = match self.ahead.take() {
            Some(next) => next,
            None => self.scan_next().await,
        };
        let Some(text) = next? else {
            if !self.has_ended {
                return Err(self.scan.damaged("it ends too early").into());
            }
            self.census().end_run();
            return Ok(None);
        };
        let member = u16::try_from(self.members.len()).map_err(|_| self.scan.damaged("it has too many members"))?;
        let mut census = self.census.take().expect("one member is read after the other");
        let read = background::spawn(move || {
            let read = census.read(&text, member, kept.as_mut());
            (census, kept, read)
        });
        let (read, next) = tokio::join!(read, self.scan_next());
        self.ahead = Some(next);
        let (census, kept, read) = read.expect("decoding does not panic");
        self.census = Some(census);
        let ReadMember { is_first, is_last, mut row } = read.map_err(|why| self.scan.damaged(why))?;
        if self.has_ended || is_first != (member == 0) {
            return Err(self.scan.damaged("its members are not those of one array").into());
        }
        self.has_ended = is_last;
        if row.first_position <= self.members.last().map_or(0, |last| last.last_position) {
            return Err(self.scan.damaged("its members are out of order").into());
        }
        (row.byte_start, row.byte_end) = (self.bytes(), self.bytes() + row.byte_end);
        self.members.push(row);
        Ok(Some(kept))
    }

    async fn scan_next(&mut self) -> Result<Option<MemberText>, Error> {
        let Some(known) = &mut self.known else { return Ok(self.scan.next_member().await?) };
        let Some((bytes, json_bytes)) = known.next() else { return Ok(None) };
        let compressed = self.scan.next(bytes).await?;
        let decompressed = background::spawn(move || decompress_member(&compressed, json_bytes));
        let text = decompressed.await.expect("decompressing does not panic").map_err(|why| self.scan.damaged(why))?;
        Ok(Some(text))
    }

    fn census(&mut self) -> &mut Census {
        self.census.as_mut().expect("no member is being read")
    }

    /// Returns how many bytes of the object were read so far.
    fn bytes(&self) -> i64 {
        self.members.last().map_or(0, |last| last.byte_end)
    }

    /// Takes the runs of lookup pages that are complete, with their numbers. The caller takes them after each member
    /// and at the end, so that they do not add up in memory.
    pub fn take_runs(&mut self) -> Vec<(i32, LookupRun)> {
        self.census().runs.drain(..).collect()
    }

    /// Returns the contents, once no member is left.
    pub async fn finish(mut self) -> Result<Contents, Error> {
        let object_bytes = self.bytes();
        let tally = std::mem::take(&mut self.census().tally);
        let ContentsReader { scan, mut members, .. } = self;
        let etag = scan.etag().to_owned();
        let digest = scan.finish().await?;
        let (types, type_counts) = (tally.types(), tally.total());
        for (row, counts) in members.iter_mut().zip(tally.type_counts) {
            row.type_counts = counts;
        }
        Ok(Contents {
            etag,
            digest,
            positions: tally.positions,
            count: tally.count,
            raised_at: tally.raised_at,
            types,
            type_counts,
            json_bytes: members.iter().map(|member| member.json_bytes).sum(),
            object_bytes,
            members,
        })
    }
}

/// The counts and lookups of the events read so far.
struct Census {
    log: Log,
    key: HashKey,
    overlay: Overlay,
    tally: Tally,
    lookups: LookupRun,
    /// The GDPR ids that are left out of the lookups.
    left_out: HashSet<String>,
    runs_made: i32,
    /// The complete runs that were not taken yet.
    runs: VecDeque<(i32, LookupRun)>,
}

struct ReadMember {
    is_first: bool,
    is_last: bool,
    /// The member's row, with bytes as if the member were the only one of its object, and without the counts of types.
    row: MemberRow,
}

impl Census {
    fn read(
        &mut self,
        text: &MemberText,
        member: u16,
        mut kept: Option<&mut Vec<Event>>,
    ) -> Result<ReadMember, String> {
        let (log, mut first_position, mut last_position, mut count) = (self.log.clone(), 0, 0, 0);
        text.each_event(&log, |event| {
            if count == 0 {
                first_position = event.position;
            }
            last_position = event.position;
            count += 1;
            // Most events are only counted, and nothing of them is copied.
            if kept.is_none() && event.gdpr.is_none() && self.overlay.is_empty() {
                self.look_up(&event.id, &event.stream, std::iter::empty(), member);
                self.tally.add(event.position, event.raised_at, &event.event_type, member);
                return Ok(());
            }
            let mut event = text.event(event)?;
            self.look_up(&event.id, &event.stream, event.gdpr_ids(), member);
            self.overlay.apply(&mut event);
            self.tally.add(event.position, event.raised_at, &event.event_type, member);
            if let Some(kept) = &mut kept {
                kept.push(event);
            }
            Ok(())
        })?;
        // A run has all events of its members, so that it can be compared with pages by member.
        if self.lookups.is_full() {
            self.end_run();
        }
        let row = MemberRow {
            member: member.into(),
            byte_start: 0,
            byte_end: text.bytes,
            json_bytes: text.json.len() as i64,
            first_position,
            last_position,
            count,
            type_counts: Vec::new(),
        };
        Ok(ReadMember { is_first: text.is_first(), is_last: text.is_last(), row })
    }

    fn look_up<'a>(&mut self, id: &str, stream: &str, gdpr_ids: impl Iterator<Item = &'a str>, member: u16) {
        let gdpr_ids = gdpr_ids.filter(|gdpr_id| !self.left_out.contains(*gdpr_id));
        self.lookups.add(id, stream, gdpr_ids, member);
    }

    fn end_run(&mut self) {
        if !self.lookups.is_empty() {
            self.runs.push_back((self.runs_made, std::mem::replace(&mut self.lookups, LookupRun::new(self.key))));
            self.runs_made += 1;
        }
    }
}

/// The counts of the events read so far.
struct Tally {
    positions: PositionSet,
    count: i64,
    raised_at: (i64, i64),
    types: HashMap<String, usize>,
    /// The counts of each member, in the order of the types.
    type_counts: Vec<Vec<i64>>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            positions: PositionSet::default(),
            count: 0,
            raised_at: (i64::MAX, i64::MIN),
            types: HashMap::new(),
            type_counts: Vec::new(),
        }
    }
}

impl Tally {
    fn add(&mut self, position: i64, raised_at: Instant, event_type: &str, member: u16) {
        self.positions.insert(position);
        self.count += 1;
        let (nanos, member) = (raised_at.unix_nanos(), usize::from(member));
        self.raised_at = (self.raised_at.0.min(nanos), self.raised_at.1.max(nanos));
        let next = self.types.len();
        let index = match self.types.get(event_type) {
            Some(index) => *index,
            None => *self.types.entry(event_type.to_owned()).or_insert(next),
        };
        if self.type_counts.len() <= member {
            self.type_counts.resize(member + 1, Vec::new());
        }
        let counts = &mut self.type_counts[member];
        if counts.len() <= index {
            counts.resize(index + 1, 0);
        }
        counts[index] += 1;
    }

    /// Returns the types in the order in which `type_counts` has their counts.
    fn types(&self) -> Vec<String> {
        let mut types: Vec<(&String, &usize)> = self.types.iter().collect();
        types.sort_by_key(|(_, index)| **index);
        types.into_iter().map(|(name, _)| name.clone()).collect()
    }

    fn total(&self) -> Vec<i64> {
        let mut total = vec![0; self.types.len()];
        for counts in &self.type_counts {
            counts.iter().enumerate().for_each(|(index, count)| total[index] += count);
        }
        total
    }
}
