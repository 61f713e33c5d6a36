//! From rows to an object, streaming: memory is bounded by a few members and parts, whatever the batch.

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::task::JoinHandle;

use crate::bucket::{ArchiveWriter, EncodedMember, RawMember, Upload};
use crate::database::{self, UploadedFacts};
use crate::store::Error;
use crate::store::archive::{Batch, PositionRanges};

/// Members that are compressed at once.
const COMPRESSIONS_MAX: usize = 2;

/// What went into an object.
pub struct Export {
    pub positions: PositionRanges,
    pub digest: Vec<u8>,
}

/// Members on their way into the upload, in order.
struct Pipeline<'a> {
    upload: Upload<'a>,
    compressing: FuturesOrdered<JoinHandle<EncodedMember>>,
    json_bytes: i64,
}

impl Pipeline<'_> {
    async fn push(&mut self, member: RawMember) -> Result<(), Error> {
        if u16::try_from(member.member).is_err() {
            return Err(Error::Refused("the batch has more than 65,536 members: lower STREAMS_ARCHIVE_SIZE".into()));
        }
        self.compressing.push_back(tokio::task::spawn_blocking(move || member.compress()));
        while self.compressing.len() >= COMPRESSIONS_MAX {
            self.write_next().await?;
        }
        Ok(())
    }

    async fn write_next(&mut self) -> Result<(), Error> {
        let Some(encoded) = self.compressing.next().await else { return Ok(()) };
        let EncodedMember { json_bytes, bytes, .. } = encoded.expect("compressing does not panic");
        self.json_bytes += json_bytes;
        Ok(self.upload.write(&bytes).await?)
    }
}

pub async fn run(batch: &Batch<'_>) -> Result<Export, Error> {
    let Batch { store, topic, intent, range, raised_at_max, .. } = batch;
    let upload = store.bucket()?.upload(&topic.log, intent.archive_id, &batch.metadata()).await?;
    let mut pipeline = Pipeline { upload, compressing: FuturesOrdered::new(), json_bytes: 0 };
    let mut writer = ArchiveWriter::new(topic.log.clone());
    let mut positions = PositionRanges::default();
    let mut connection = store.database.job_connection().await?;
    let mut rows = database::export(connection.as_mut(), topic.id, raised_at_max.unix_nanos(), *range);
    while let Some(event) = rows.next().await {
        let event = event?;
        positions.push(event.position);
        if let Some(full) = writer.push(&event) {
            pipeline.push(full).await?;
        }
    }
    drop(rows);
    drop(connection);
    let Some(last) = writer.finish() else {
        return Err(Error::GaveWay(format!("{}: the batch is gone", topic.log)));
    };
    pipeline.push(last).await?;
    while !pipeline.compressing.is_empty() {
        pipeline.write_next().await?;
    }
    finish(batch, pipeline, positions).await
}

async fn finish(batch: &Batch<'_>, pipeline: Pipeline<'_>, positions: PositionRanges) -> Result<Export, Error> {
    let Pipeline { upload, json_bytes, .. } = pipeline;
    let uploaded = upload.finish().await?;
    let facts = UploadedFacts { digest: uploaded.digest.clone(), json_bytes, object_bytes: uploaded.bytes };
    batch.record_uploaded(&facts).await?;
    uploaded.complete().await?;
    Ok(Export { positions, digest: facts.digest })
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
