//! What an object turns out to hold, read from its first byte to its last as a reader would: everything that the
//! catalog says of it comes from here, whether it was uploaded a moment ago or nobody knows of it any more. One member
//! is in memory at a time.

use std::collections::HashMap;

use uuid::Uuid;

use crate::bucket::{FoundMember, ObjectMetadata, Scan};
use crate::database::{Archive, HashKey, LookupRun, MemberRow};
use crate::event::{Event, Log};
use crate::store::Error;
use crate::store::archive::PositionRanges;
use crate::store::overlay::Overlay;

/// An object that was read to its end.
pub(super) struct Contents {
    pub etag: String,
    pub digest: Vec<u8>,
    pub members: Vec<MemberRow>,
    pub positions: PositionRanges,
    pub count: i64,
    raised_at: (i64, i64),
    types: Vec<String>,
    type_counts: Vec<i64>,
    json_bytes: i64,
    object_bytes: i64,
}

impl Contents {
    /// Its row in the catalog.
    pub fn archive(&self, (topic_id, id): (i64, Uuid), generation: i64, write_id: Uuid) -> Archive {
        let (first_position, last_position) = self.positions.span().expect("it has a member, which has an event");
        Archive {
            topic_id,
            id,
            generation,
            write_id,
            etag: self.etag.clone(),
            digest: self.digest.clone(),
            first_position,
            last_position,
            count: self.count,
            raised_at_min: self.raised_at.0,
            raised_at_max: self.raised_at.1,
            json_bytes: self.json_bytes,
            object_bytes: self.object_bytes,
            types: self.types.clone(),
            type_counts: self.type_counts.clone(),
        }
    }

    /// Whether it is what it says of itself.
    pub fn is_as_said(&self, metadata: &ObjectMetadata) -> bool {
        let ObjectMetadata { first_position, last_position, count, .. } = *metadata;
        (self.positions.span(), self.count) == (Some((first_position, last_position)), count)
    }
}

/// An object that is being read.
pub(super) struct ContentsReader {
    scan: Scan,
    log: Log,
    key: HashKey,
    /// What the catalog counts already, and the object does not hold yet.
    overlay: Overlay,
    members: Vec<MemberRow>,
    has_ended: bool,
    tally: Tally,
    lookups: LookupRun,
    runs_made: i32,
    /// Those that nobody took yet.
    runs: Vec<(i32, LookupRun)>,
}

impl ContentsReader {
    pub fn new(scan: Scan, log: Log, key: HashKey, overlay: Overlay) -> ContentsReader {
        ContentsReader {
            scan,
            log,
            key,
            overlay,
            members: Vec::new(),
            has_ended: false,
            tally: Tally::default(),
            lookups: LookupRun::new(key),
            runs_made: 0,
            runs: Vec::new(),
        }
    }

    /// The events of the next member; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, Error> {
        let Some(found) = self.scan.next_member().await? else {
            if !self.has_ended {
                return Err(self.scan.damaged("it ends too early").into());
            }
            if !self.lookups.is_empty() {
                self.end_run();
            }
            return Ok(None);
        };
        let member = u16::try_from(self.members.len()).map_err(|_| self.scan.damaged("it has too many members"))?;
        if self.has_ended || found.is_first() != (member == 0) {
            return Err(self.scan.damaged("its members are not those of one array").into());
        }
        self.has_ended = found.is_last();
        let (bytes, json_bytes) = (found.bytes, found.json.len() as i64);
        let mut events = self.decode(found).await?;
        for event in &mut events {
            self.lookups.add(&event.id, &event.stream, event.gdpr_ids(), member);
            if self.lookups.is_full() {
                self.end_run();
            }
        }
        events.iter_mut().for_each(|event| self.overlay.apply(event));
        events.iter().for_each(|event| self.tally.add(event, usize::from(member)));
        let byte_start = self.bytes();
        self.members.push(MemberRow {
            member: i32::from(member),
            byte_start,
            byte_end: byte_start + bytes,
            json_bytes,
            first_position: events.first().map_or(0, |first| first.position),
            last_position: events.last().map_or(0, |last| last.position),
            count: events.len() as i64,
            type_counts: Vec::new(),
        });
        Ok(Some(events))
    }

    async fn decode(&mut self, found: FoundMember) -> Result<Vec<Event>, Error> {
        let (log, reached) = (self.log.clone(), self.members.last().map_or(0, |last| last.last_position));
        let decoded = tokio::task::spawn_blocking(move || found.events(&log));
        let events = decoded.await.expect("decoding does not panic").map_err(|why| self.scan.damaged(why))?;
        if events.first().is_none_or(|first| first.position <= reached) {
            return Err(self.scan.damaged("its members are out of order").into());
        }
        Ok(events)
    }

    /// Of the object, that were read so far.
    pub fn bytes(&self) -> i64 {
        self.members.last().map_or(0, |last| last.byte_end)
    }

    fn end_run(&mut self) {
        self.runs.push((self.runs_made, std::mem::replace(&mut self.lookups, LookupRun::new(self.key))));
        self.runs_made += 1;
    }

    /// Runs of lookup pages that are complete, with their numbers: to be taken after each member, and at the end.
    pub fn take_runs(&mut self) -> Vec<(i32, LookupRun)> {
        std::mem::take(&mut self.runs)
    }

    /// Once there is no member left.
    pub async fn finish(self) -> Result<Contents, Error> {
        let object_bytes = self.bytes();
        let ContentsReader { scan, mut members, tally, .. } = self;
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

/// What is counted while events go by.
struct Tally {
    positions: PositionRanges,
    count: i64,
    raised_at: (i64, i64),
    types: HashMap<String, usize>,
    /// Of each member, in the order of the types.
    type_counts: Vec<Vec<i64>>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            positions: PositionRanges::default(),
            count: 0,
            raised_at: (i64::MAX, i64::MIN),
            types: HashMap::new(),
            type_counts: Vec::new(),
        }
    }
}

impl Tally {
    fn add(&mut self, event: &Event, member: usize) {
        self.positions.push(event.position);
        self.count += 1;
        let nanos = event.raised_at.unix_nanos();
        self.raised_at = (self.raised_at.0.min(nanos), self.raised_at.1.max(nanos));
        let next = self.types.len();
        let index = match self.types.get(&event.event_type) {
            Some(index) => *index,
            None => *self.types.entry(event.event_type.clone()).or_insert(next),
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

    /// Types in the order of their counts.
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
