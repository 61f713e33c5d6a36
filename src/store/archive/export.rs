//! From rows to an object, streaming: memory is bounded by a few members and parts, whatever the batch.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::task::JoinHandle;

use crate::bucket::{ArchiveWriter, EncodedMember, RawMember, Upload};
use crate::database::{self, LookupRun, MemberRow, UploadedFacts};
use crate::event::Event;
use crate::store::Error;
use crate::store::archive::{Batch, PositionRanges};

/// Members that are compressed at once.
const COMPRESSIONS_MAX: usize = 2;

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

/// What is counted while events go by.
struct Tally {
    positions: PositionRanges,
    count: i64,
    raised_at: (i64, i64),
    types: HashMap<String, usize>,
    /// Of each member, in the order of the types.
    type_counts: Vec<Vec<i64>>,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            positions: PositionRanges::default(),
            count: 0,
            raised_at: (i64::MAX, i64::MIN),
            types: HashMap::new(),
            type_counts: Vec::new(),
        }
    }

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

pub async fn run(batch: &Batch<'_>) -> Result<Export, Error> {
    let Batch { store, topic, intent, range, raised_at_max, .. } = batch;
    let upload = store.bucket()?.upload(&topic.log, intent.archive_id, &batch.metadata()).await?;
    let mut pipeline =
        Pipeline { upload, compressing: FuturesOrdered::new(), members: Vec::new(), bytes: 0, json_bytes: 0 };
    let mut writer = ArchiveWriter::new(topic.log.clone());
    let mut tally = Tally::new();
    let mut connection = store.database.job_connection().await?;
    let key = store.hash_key(connection.as_mut()).await?;
    let mut lookups = LookupRun::new(key);
    let mut lookup_runs = 0;

    let mut rows = database::export(connection.as_mut(), topic.id, raised_at_max.unix_nanos(), *range);
    while let Some(event) = rows.next().await {
        let event = event?;
        if let Some(full) = writer.push(&event) {
            pipeline.push(full).await?;
        }
        let member = u16::try_from(writer.current_member())
            .map_err(|_| Error::Refused("the batch has more than 65,536 members: lower STREAMS_ARCHIVE_SIZE".into()))?;
        tally.add(&event, usize::from(member));
        lookups.add(&event.id, &event.stream, event.gdpr_ids(), member);
        if lookups.is_full() {
            save_lookups(batch, lookup_runs, std::mem::replace(&mut lookups, LookupRun::new(key))).await?;
            lookup_runs += 1;
        }
    }
    drop(rows);
    drop(connection);
    if !lookups.is_empty() {
        save_lookups(batch, lookup_runs, lookups).await?;
        lookup_runs += 1;
    }
    if let Some(last) = writer.finish() {
        pipeline.push(last).await?;
    }
    while !pipeline.compressing.is_empty() {
        pipeline.write_next().await?;
    }
    finish(batch, pipeline, tally, lookup_runs).await
}

async fn finish(batch: &Batch<'_>, pipeline: Pipeline<'_>, tally: Tally, lookup_runs: i32) -> Result<Export, Error> {
    let Pipeline { upload, mut members, json_bytes, .. } = pipeline;
    let (Some((first_position, _)), Some((_, last_position))) =
        (tally.positions.0.first().copied(), tally.positions.0.last().copied())
    else {
        return Err(Error::GaveWay(format!("{}: the batch is gone", batch.topic.log)));
    };
    let (types, type_counts) = (tally.types(), tally.total());
    for (row, counts) in members.iter_mut().zip(tally.type_counts) {
        row.type_counts = counts;
    }
    let uploaded = upload.finish().await?;
    let facts = UploadedFacts { digest: uploaded.digest.clone(), json_bytes, object_bytes: uploaded.bytes };
    batch.record_uploaded(&facts).await?;
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

impl Batch<'_> {
    async fn record_uploaded(&self, facts: &UploadedFacts) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_job().await?;
        if !database::complete_intent(&mut transaction, &self.intent, facts).await? {
            return Err(Error::GaveWay(format!("{}: the intent was settled by another writer", self.topic.log)));
        }
        Ok(database::commit(transaction).await?)
    }
}

/// They are written as they come, and read by nobody before the archive is live. Whoever takes the turn over deletes
/// them once: a writer that wakes after that must not write more.
async fn save_lookups(batch: &Batch<'_>, run: i32, lookups: LookupRun) -> Result<(), Error> {
    let mut transaction = batch.store.database.begin_job().await?;
    let key = (batch.topic.id, batch.intent.archive_id);
    database::insert_run(&mut transaction, key, run, lookups).await?;
    if database::check_lease(&mut transaction, &batch.lease).await?.is_none() {
        return Err(Error::GaveWay("another writer has taken over the topic's archives".into()));
    }
    Ok(database::commit(transaction).await?)
}
