//! Writing an archive's object: from events to an object, streaming, and back. Memory is bounded by a few members and
//! parts, whatever the batch.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::task::JoinHandle;

use crate::bucket::{ArchiveWriter, EncodedMember, ObjectMetadata, RawMember, Upload};
use crate::database::{self, Archive, HashKey, Intent, LookupRun, MemberRow, Topic, UploadedFacts};
use crate::event::Event;
use crate::store::archive::{PositionRanges, read_member};
use crate::store::{Error, Store};

/// Members that are compressed at once.
const COMPRESSIONS_MAX: usize = 2;

/// An object that is to be there, and whose intent is written.
pub struct Object<'a> {
    pub store: &'a Store,
    pub topic: Topic,
    pub intent: Intent,
    /// The first and the last position that it is to hold, and how many events.
    pub extent: (i64, i64, i64),
}

/// What the catalog is to know of an object.
pub struct Export {
    pub members: Vec<MemberRow>,
    pub positions: PositionRanges,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    pub raised_at_min: i64,
    pub raised_at_max: i64,
    pub types: Vec<String>,
    pub type_counts: Vec<i64>,
    pub json_bytes: i64,
    pub object_bytes: i64,
    pub digest: Vec<u8>,
    pub lookup_runs: i32,
}

/// An object on its way, which takes events in the order of their positions.
pub struct Writer<'a> {
    object: &'a Object<'a>,
    pipeline: Pipeline<'a>,
    writer: ArchiveWriter,
    tally: Tally,
    key: HashKey,
    lookups: LookupRun,
    lookup_runs: i32,
}

/// What is counted while events go by.
pub struct Tally {
    pub positions: PositionRanges,
    pub count: i64,
    pub raised_at: (i64, i64),
    types: HashMap<String, usize>,
    /// Of each member, in the order of the types.
    pub type_counts: Vec<Vec<i64>>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally {
            positions: PositionRanges::default(),
            count: 0,
            raised_at: (i64::MAX, i64::MIN),
            types: HashMap::new(),
            type_counts: Vec::new(),
        }
    }

    pub fn add(&mut self, event: &Event, member: usize) {
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
    pub fn types(&self) -> Vec<String> {
        let mut types: Vec<(&String, &usize)> = self.types.iter().collect();
        types.sort_by_key(|(_, index)| **index);
        types.into_iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn total(&self) -> Vec<i64> {
        let mut total = vec![0; self.types.len()];
        for counts in &self.type_counts {
            counts.iter().enumerate().for_each(|(index, count)| total[index] += count);
        }
        total
    }
}

/// Members on their way into the upload, in order.
struct Pipeline<'a> {
    upload: Upload<'a>,
    compressing: FuturesOrdered<JoinHandle<EncodedMember>>,
    members: Vec<MemberRow>,
    bytes: i64,
    json_bytes: i64,
}

impl Pipeline<'_> {
    async fn push(&mut self, member: RawMember) -> Result<(), Error> {
        self.compressing.push_back(tokio::task::spawn_blocking(move || member.compress()));
        while self.compressing.len() >= COMPRESSIONS_MAX {
            self.write_next().await?;
        }
        Ok(())
    }

    async fn write_next(&mut self) -> Result<(), Error> {
        let Some(encoded) = self.compressing.next().await else { return Ok(()) };
        let EncodedMember { member, first_position, last_position, count, json_bytes, bytes } =
            encoded.expect("compressing does not panic");
        self.upload.write(&bytes).await?;
        let byte_start = self.bytes;
        self.bytes += bytes.len() as i64;
        self.json_bytes += json_bytes;
        self.members.push(MemberRow {
            member: member as i32,
            byte_start,
            byte_end: self.bytes,
            json_bytes,
            first_position,
            last_position,
            count,
            type_counts: Vec::new(),
        });
        Ok(())
    }
}

impl<'a> Object<'a> {
    pub async fn begin(&'a self) -> Result<Writer<'a>, Error> {
        let Object { store, topic, intent, extent: (first_position, last_position, count) } = self;
        let metadata = ObjectMetadata {
            generation: intent.generation,
            write_id: intent.write_id,
            first_position: *first_position,
            last_position: *last_position,
            count: *count,
        };
        let mut transaction = store.database.begin_job().await?;
        let key = store.hash_key(&mut transaction).await?;
        drop(transaction);
        let upload = store.bucket()?.upload(&topic.log, intent.archive_id, &metadata).await?;
        Ok(Writer {
            object: self,
            pipeline: Pipeline {
                upload,
                compressing: FuturesOrdered::new(),
                members: Vec::new(),
                bytes: 0,
                json_bytes: 0,
            },
            writer: ArchiveWriter::new(topic.log.clone()),
            tally: Tally::new(),
            key,
            lookups: LookupRun::new(key),
            lookup_runs: 0,
        })
    }

    /// For a writer that failed: whoever took the turn over may have settled the intent before there was an upload to
    /// abort.
    pub async fn give_up(&self) {
        let aborted = async {
            Ok::<_, Error>(self.store.bucket()?.abort_uploads(&self.topic.log, self.intent.archive_id).await?)
        };
        if let Err(error) = aborted.await {
            tracing::warn!(%error, topic_id = self.topic.id, "an unfinished upload may remain in the bucket");
        }
    }

    /// Reads the object as a reader would, every byte of it, and gives its ETag.
    pub async fn read_back(&self, export: &Export) -> Result<String, Error> {
        let mut scan = self.store.bucket()?.scan(&self.topic.log, self.intent.archive_id).await?;
        let mut positions = PositionRanges::default();
        for row in &export.members {
            let events = read_member(&mut scan, &self.topic.log, row).await?;
            events.iter().for_each(|event| positions.push(event.position));
        }
        let etag = scan.etag().to_owned();
        let damaged = scan.damaged("it does not hold what was uploaded");
        if scan.finish().await? != export.digest || positions != export.positions {
            return Err(damaged.into());
        }
        Ok(etag)
    }

    async fn record_uploaded(&self, facts: &UploadedFacts) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_job().await?;
        if !database::complete_intent(&mut transaction, &self.intent, facts).await? {
            return Err(Error::GaveWay(format!("{}: the intent was settled by another writer", self.topic.log)));
        }
        Ok(database::commit(transaction).await?)
    }
}

impl Writer<'_> {
    pub async fn push(&mut self, event: &Event) -> Result<(), Error> {
        if let Some(full) = self.writer.push(event) {
            self.pipeline.push(full).await?;
        }
        let member = u16::try_from(self.writer.current_member())
            .map_err(|_| Error::Refused("the batch has more than 65,536 members: lower STREAMS_ARCHIVE_SIZE".into()))?;
        self.tally.add(event, usize::from(member));
        self.lookups.add(&event.id, &event.stream, event.gdpr_ids(), member);
        if self.lookups.is_full() {
            self.save_lookups().await?;
        }
        Ok(())
    }

    /// They are written as they come, and read by nobody before the archive is live.
    async fn save_lookups(&mut self) -> Result<(), Error> {
        let full = std::mem::replace(&mut self.lookups, LookupRun::new(self.key));
        let Object { store, topic, intent, .. } = self.object;
        let mut transaction = store.database.begin_job().await?;
        database::insert_run(&mut transaction, (topic.id, intent.archive_id), self.lookup_runs, full).await?;
        database::commit(transaction).await?;
        self.lookup_runs += 1;
        Ok(())
    }

    /// The object becomes complete.
    pub async fn finish(mut self) -> Result<Export, Error> {
        if !self.lookups.is_empty() {
            self.save_lookups().await?;
        }
        let Writer { object, mut pipeline, writer, tally, lookup_runs, .. } = self;
        if let Some(last) = writer.finish() {
            pipeline.push(last).await?;
        }
        while !pipeline.compressing.is_empty() {
            pipeline.write_next().await?;
        }
        let Pipeline { upload, mut members, json_bytes, .. } = pipeline;
        let ranges = tally.positions.ranges();
        let (Some((first_position, _)), Some((_, last_position))) = (ranges.first().copied(), ranges.last().copied())
        else {
            return Err(Error::GaveWay(format!("{}: the batch is gone", object.topic.log)));
        };
        let (types, type_counts) = (tally.types(), tally.total());
        for (row, counts) in members.iter_mut().zip(tally.type_counts) {
            row.type_counts = counts;
        }
        let uploaded = upload.finish().await?;
        let facts = UploadedFacts { digest: uploaded.digest.clone(), json_bytes, object_bytes: uploaded.bytes };
        object.record_uploaded(&facts).await?;
        uploaded.complete().await?;
        let UploadedFacts { digest, json_bytes, object_bytes } = facts;
        Ok(Export {
            members,
            positions: tally.positions,
            first_position,
            last_position,
            count: tally.count,
            raised_at_min: tally.raised_at.0,
            raised_at_max: tally.raised_at.1,
            types,
            type_counts,
            json_bytes,
            object_bytes,
            digest,
            lookup_runs,
        })
    }
}

impl Export {
    /// What the catalog is to know, and the members.
    pub fn into_archive(self, intent: &Intent, etag: String) -> (Archive, Vec<MemberRow>) {
        let Export {
            members,
            positions: _,
            first_position,
            last_position,
            count,
            raised_at_min,
            raised_at_max,
            types,
            type_counts,
            json_bytes,
            object_bytes,
            digest,
            lookup_runs,
        } = self;
        let archive = Archive {
            topic_id: intent.topic_id,
            id: intent.archive_id,
            generation: intent.generation,
            write_id: intent.write_id,
            etag,
            digest,
            first_position,
            last_position,
            count,
            raised_at_min,
            raised_at_max,
            json_bytes,
            object_bytes,
            types,
            type_counts,
            lookup_runs,
        };
        (archive, members)
    }
}
