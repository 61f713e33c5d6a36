//! Writing an archive's object as a stream of events, and reading it back. Memory is bounded by a few members and
//! parts, however large the batch is. If the process dies, the intent that the caller wrote before remains.

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bucket::{ArchiveWriter, EncodedMember, ObjectMetadata, RawMember, Upload};
use crate::database::catalog::intents::{self, Intent, UploadedFacts};
use crate::database::log::rows::LogRow;
use crate::database::lookups::{self, LookupRun};
use crate::database::{self, ArchiveKey};
use crate::event::{BorrowedEvent, Extent, PositionSet};
use crate::store::archives::background;
use crate::store::archives::contents::{Contents, ContentsReader, unpaced};
use crate::store::archives::overlay::Overlay;
use crate::store::{Error, GaveWay, Store};

/// The most members that are compressed at once, or wait for it.
const COMPRESSIONS_MAX: usize = 4;

/// An object that is to be written, and whose intent is written.
pub struct Object<'a> {
    pub store: &'a Store,
    pub log_row: LogRow,
    pub intent: Intent,
    /// The extent of the events that the object is to hold.
    pub extent: Extent,
}

/// The facts about an object that was uploaded.
pub struct Export {
    positions: PositionSet,
    /// The bytes of each member, and of its JSON.
    members: Vec<(i64, i64)>,
    digest: Vec<u8>,
}

/// An object being written, which takes events in the order of their positions.
pub struct Writer<'a> {
    object: &'a Object<'a>,
    pipeline: Pipeline<'a>,
    writer: ArchiveWriter,
    positions: PositionSet,
}

/// The members that are compressed in parallel and uploaded in order.
struct Pipeline<'a> {
    upload: Upload<'a>,
    compressing: FuturesOrdered<JoinHandle<EncodedMember>>,
    members: Vec<(i64, i64)>,
}

impl Pipeline<'_> {
    async fn push(&mut self, member: RawMember) -> Result<(), Error> {
        if u16::try_from(member.member).is_err() {
            return Err(Error::Refused("the batch has more than 65,536 members: lower STREAMS_ARCHIVE_SIZE".into()));
        }
        self.compressing.push_back(background::spawn(move || member.compress()));
        while self.compressing.len() >= COMPRESSIONS_MAX {
            self.write_next().await?;
        }
        Ok(())
    }

    async fn write_next(&mut self) -> Result<(), Error> {
        let Some(encoded) = self.compressing.next().await else { return Ok(()) };
        let EncodedMember { json_bytes, bytes, .. } = encoded.expect("compressing does not panic");
        self.members.push((bytes.len() as i64, json_bytes));
        Ok(self.upload.write(&bytes).await?)
    }
}

impl<'a> Object<'a> {
    pub async fn begin(&'a self) -> Result<Writer<'a>, Error> {
        let Object { store, log_row, intent, extent: Extent { positions, count } } = self;
        let metadata = ObjectMetadata {
            generation: intent.generation,
            write_id: intent.write_id,
            first_position: positions.start,
            last_position: positions.last(),
            count: *count,
        };
        let upload = store.bucket()?.upload(&log_row.log, intent.archive_id, &metadata).await?;
        Ok(Writer {
            object: self,
            pipeline: Pipeline { upload, compressing: FuturesOrdered::new(), members: Vec::new() },
            writer: ArchiveWriter::new(log_row.log.clone()),
            positions: PositionSet::default(),
        })
    }

    /// Aborts the upload of a writer that failed. Settling the intent does not always abort it: the next lease holder
    /// may have settled the intent before the upload began.
    pub async fn give_up(&self) {
        let aborted = async {
            Ok::<_, Error>(self.store.bucket()?.abort_uploads(&self.log_row.log, self.intent.archive_id).await?)
        };
        if let Err(error) = aborted.await {
            tracing::warn!(%error, log_id = self.log_row.id, "an unfinished upload may remain in the bucket");
        }
    }

    /// Reads every byte of the object as a reader would, and returns the contents for the catalog.
    pub async fn read_back(&self, export: &Export) -> Result<Contents, Error> {
        let Object { store, log_row, intent, .. } = self;
        let scan = store.bucket()?.scan(&log_row.log, intent.archive_id).await?;
        let mut transaction = store.database.begin_job().await?;
        let key = store.hash_key(&mut transaction).await?;
        drop(transaction);
        let damaged = scan.damaged("it does not hold what was uploaded");
        let reader = ContentsReader::new(scan, log_row.log.clone(), key, Overlay::default());
        let mut reader = reader.with_known_members(export.members.clone());
        // A run is saved while the next one is read.
        let (sender, mut receiver) = mpsc::channel(1);
        let reading = async move {
            while let Some(run) = reader.next_run(&unpaced).await? {
                // Nobody receives the run if saving has failed, and that failure ends reading, too.
                let _ = sender.send(run).await;
            }
            reader.finish().await
        };
        let saving = async {
            while let Some((run, lookups)) = receiver.recv().await {
                self.save_lookups(run, lookups).await?;
            }
            Ok(())
        };
        let (contents, ()) = tokio::try_join!(reading, saving)?;
        if contents.digest != export.digest || contents.positions != export.positions {
            return Err(damaged.into());
        }
        Ok(contents)
    }

    /// Saves a run of lookup pages. Nobody reads it before the archive is live. The transaction holds the intent: when
    /// another process settles the intent and deletes the pages, no further page is added.
    async fn save_lookups(&self, run: i32, lookups: LookupRun) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_job().await?;
        if !intents::hold(&mut transaction, &self.intent).await? {
            return Err(GaveWay::IntentSettled.into());
        }
        lookups::insert_run(&mut transaction, ArchiveKey::new(self.log_row.id, self.intent.archive_id), run, lookups)
            .await?;
        Ok(database::commit(transaction).await?)
    }

    async fn record_uploaded(&self, facts: &UploadedFacts) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_job().await?;
        if !intents::complete(&mut transaction, &self.intent, facts).await? {
            return Err(GaveWay::IntentSettled.into());
        }
        Ok(database::commit(transaction).await?)
    }
}

impl Writer<'_> {
    pub async fn push(&mut self, event: &BorrowedEvent<'_>) -> Result<(), Error> {
        self.positions.insert(event.position);
        match self.writer.push(event) {
            Some(full) => self.pipeline.push(full).await,
            None => Ok(()),
        }
    }

    /// Completes the object.
    pub async fn finish(self) -> Result<Export, Error> {
        let Writer { object, mut pipeline, writer, positions } = self;
        let Some(last) = writer.finish() else {
            return Err(GaveWay::Moved(format!("the batch of {}", object.log_row.log)).into());
        };
        pipeline.push(last).await?;
        while !pipeline.compressing.is_empty() {
            pipeline.write_next().await?;
        }
        let Pipeline { upload, members, .. } = pipeline;
        let uploaded = upload.finish().await?;
        let json_bytes = members.iter().map(|(_, json_bytes)| json_bytes).sum();
        let facts = UploadedFacts { digest: uploaded.digest.clone(), json_bytes, object_bytes: uploaded.bytes };
        object.record_uploaded(&facts).await?;
        uploaded.complete().await?;
        Ok(Export { positions, members, digest: facts.digest })
    }
}
