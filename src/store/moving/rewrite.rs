//! Rewriting an archive in place, so that its object holds the edits that were laid over it.
//!
//! The write-id, the members and the digest of the next generation are recorded before the object is replaced. If the
//! process dies before the object is replaced, the next lease holder drops the intent. If it dies after that, the next
//! process to look at the object, even for a reader, finds the new write-id in it and promotes the generation. One
//! rewrite takes all pending edits of an archive.
//!
//! If the object is gone or damaged, a rewrite can copy a noncurrent version instead.

use std::sync::Arc;

use uuid::Uuid;

use crate::bucket::{
    Bucket, EncodedMember, MemberEvent, ObjectMetadata, RawMember, Scan, Upload, Uploaded, decode_member,
};
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::intents::{self, Intent, UploadedFacts};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::members::{self, MemberRow};
use crate::database::catalog::troubles::{self, TroubleKind};
use crate::database::ledger::edits::{self, PendingEdit};
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, ArchiveKey};
use crate::event::{Event, Log};
use crate::store::archives::background;
use crate::store::archives::overlay::Overlay;
use crate::store::archives::troubles::{Failures, Retry};
use crate::store::{Error, GaveWay, Store};

/// A rewrite whose intent is written.
pub struct Rewrite<'a> {
    store: &'a Store,
    bucket: &'a Arc<Bucket>,
    log_row: LogRow,
    archive: Archive,
    members: Vec<MemberRow>,
    edits: Vec<PendingEdit>,
    /// The noncurrent version that is copied; `None` if it is the object itself.
    version: Option<String>,
    lease: Lease,
    intent: Intent,
}

/// A rewrite whose bytes are all uploaded and recorded. The object still is the old one.
pub struct Prepared<'a> {
    rewrite: Rewrite<'a>,
    uploaded: Uploaded<'a>,
    members: Vec<MemberRow>,
}

/// A rewrite whose object is the new one. The catalog still knows the old one.
pub struct Replaced<'a> {
    rewrite: Rewrite<'a>,
    members: Vec<MemberRow>,
}

impl Store {
    /// Rewrites every archive that has pending edits, and returns how many were rewritten. Archives of a log whose
    /// lease another writer holds are left to the next call.
    pub async fn rewrite(&self) -> Result<usize, Error> {
        self.rewrite_pending(Retry::All).await
    }

    /// Does what [`Store::rewrite`] does, for a periodic job: trouble with one object is no failure, and is retried
    /// with a growing backoff.
    pub async fn rewrite_due(&self) -> Result<usize, Error> {
        self.rewrite_pending(Retry::Due).await
    }

    async fn rewrite_pending(&self, retry: Retry) -> Result<usize, Error> {
        let put_off = self.put_off(retry).await?;
        let mut transaction = self.database.begin_job().await?;
        let mut archives = edits::archives_with_pending(&mut transaction).await?;
        archives.retain(|key| !put_off.contains(&(*key, TroubleKind::Read)));
        drop(transaction);
        if !archives.is_empty() {
            self.own().await?;
        }
        let (mut rewritten, mut failures) = (0, Failures::new(retry));
        for ArchiveKey { log_id, archive_id } in archives {
            match self.with_lease(log_id, async |lease| self.rewrite_archive(lease, archive_id, retry).await).await {
                Ok(count) => rewritten += count.unwrap_or_default(),
                Err(error @ Error::GaveWay(_)) => tracing::info!(%error, log_id, %archive_id, "a rewrite is put off"),
                Err(error) => {
                    tracing::warn!(%error, log_id, %archive_id, "an archive was not rewritten");
                    failures.add(error);
                }
            }
        }
        failures.outcome(rewritten)
    }

    /// Returns 1 if the archive was rewritten, or 0 if nothing was pending for it.
    async fn rewrite_archive(&self, lease: Lease, archive_id: Uuid, retry: Retry) -> Result<usize, Error> {
        if retry == Retry::All {
            // An intent of an earlier rewrite of this archive may have been put off.
            self.settle(lease, retry).await?;
        }
        let Some(rewrite) = self.begin_rewrite(lease, archive_id).await? else { return Ok(0) };
        let (log, key) = (rewrite.log_row.log.clone(), ArchiveKey::new(rewrite.log_row.id, archive_id));
        let prepared = match rewrite.upload().await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.note_trouble(&log, key, TroubleKind::Read, &error).await;
                return Err(error);
            }
        };
        self.clear_troubles(&log, key, &[TroubleKind::Read]).await;
        prepared.replace().await?.promote().await.map(|()| 1)
    }

    /// Writes an intent to rewrite an archive. `None` if no edit is pending for it.
    pub async fn begin_rewrite(&self, lease: Lease, archive_id: Uuid) -> Result<Option<Rewrite<'_>>, Error> {
        self.begin_copy(lease, archive_id, None).await
    }

    /// Writes an intent to make a noncurrent version the object again, with the pending edits of its archive. `None` if
    /// the archive is no longer in the catalog.
    pub(in crate::store) async fn begin_put_back(
        &self,
        lease: Lease,
        archive_id: Uuid,
        version: String,
    ) -> Result<Option<Rewrite<'_>>, Error> {
        self.begin_copy(lease, archive_id, Some(version)).await
    }

    async fn begin_copy(
        &self,
        lease: Lease,
        archive_id: Uuid,
        version: Option<String>,
    ) -> Result<Option<Rewrite<'_>>, Error> {
        let bucket = self.bucket()?;
        self.own().await?;
        self.settle_due_intents(lease).await?;
        let mut transaction = self.database.begin_job().await?;
        let log_row = rows::by_id(&mut transaction, lease.log_id).await?;
        let edits = edits::pending_of_archive(&mut transaction, log_row.id, archive_id).await?;
        let archive = archives::find(&mut transaction, log_row.id, archive_id).await?;
        let Some(archive) = archive.filter(|_| version.is_some() || !edits.is_empty()) else { return Ok(None) };
        if intents::of_archive(&mut transaction, log_row.id, archive_id).await?.is_some() {
            return Err(Error::Damaged(format!(
                "what became of an earlier rewrite of archive {archive_id} is not known"
            )));
        }
        let members =
            members::of_archive(&mut transaction, ArchiveKey::new(log_row.id, archive_id), archive.generation).await?;
        let edit_sequence = edits.iter().map(|edit| edit.sequence).max().unwrap_or_default();
        let intent = Intent::of_rewrite(&archive, edit_sequence);
        intents::insert(&mut transaction, &intent, &lease).await?;
        database::commit(transaction).await?;
        Ok(Some(Rewrite { store: self, bucket, log_row, archive, members, edits, version, lease, intent }))
    }
}

impl<'a> Rewrite<'a> {
    /// Copies the object, and encodes the members anew that an edit touches.
    pub async fn upload(self) -> Result<Prepared<'a>, Error> {
        let metadata = ObjectMetadata {
            generation: self.intent.generation,
            write_id: self.intent.write_id,
            first_position: self.archive.first_position,
            last_position: self.archive.last_position,
            count: self.archive.count,
        };
        let (log, archive_id) = (&self.log_row.log, self.archive.id);
        let mut scan = match &self.version {
            None => self.bucket.scan(log, archive_id).await?,
            Some(version) => self.bucket.scan_version(log, archive_id, version).await?,
        };
        if scan.etag() != self.archive.etag {
            return Err(scan.damaged("it is not the one that the catalog knows").into());
        }
        let mut upload = self.bucket.upload(log, archive_id, &metadata).await?;
        let members = self.copy(&mut scan, &mut upload).await?;
        let damaged = scan.damaged("its digest is not the one that the catalog knows");
        if scan.finish().await? != self.archive.digest {
            return Err(damaged.into());
        }
        let uploaded = upload.finish().await?;
        if let Err(error) = self.record(&members, &uploaded).await {
            uploaded.abort().await;
            return Err(error);
        }
        Ok(Prepared { rewrite: self, uploaded, members })
    }

    /// Copies the members, with the edits applied. S3 itself copies long runs of untouched members; they are read all
    /// the same, for the digest.
    async fn copy(&self, scan: &mut Scan, upload: &mut Upload<'_>) -> Result<Vec<MemberRow>, Error> {
        let overlay = Arc::new(Overlay::new(self.edits.clone()));
        let is_touched = |member: &MemberRow| overlay.touches(member.first_position, member.last_position);
        let mut rows = Vec::with_capacity(self.members.len());
        let (mut bytes, mut is_copying) = (0, false);
        for (index, old) in self.members.iter().enumerate() {
            let mut row = old.clone();
            let mut compressed = scan.next(old.byte_end - old.byte_start).await?;
            if is_touched(old) {
                let (log, old, overlay) = (self.log_row.log.clone(), old.clone(), Arc::clone(&overlay));
                let is_last = index + 1 == self.members.len();
                let edited = background::spawn(move || edit_member(&log, &old, &compressed, &overlay, is_last));
                let encoded = edited.await.expect("encoding does not panic").map_err(|why| scan.damaged(why))?;
                row.json_bytes = encoded.json_bytes;
                compressed = encoded.bytes.into();
                is_copying = false;
            } else if !is_copying && self.version.is_none() {
                let untouched = self.members[index..].iter().take_while(|member| !is_touched(member));
                is_copying = upload.can_copy(untouched.last().map_or(0, |last| last.byte_end - old.byte_start));
            }
            match is_copying {
                true => upload.copy(&compressed, scan.etag(), old.byte_start).await?,
                false => upload.write(&compressed).await?,
            }
            row.byte_start = bytes;
            bytes += compressed.len() as i64;
            row.byte_end = bytes;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Records the members and the digest. From then on, a process that finds the new write-id in the object knows what
    /// the object holds.
    async fn record(&self, members: &[MemberRow], uploaded: &Uploaded<'_>) -> Result<(), Error> {
        let facts = UploadedFacts {
            digest: uploaded.digest.clone(),
            json_bytes: members.iter().map(|member| member.json_bytes).sum(),
            object_bytes: uploaded.bytes,
        };
        let mut transaction = self.store.database.begin_job().await?;
        let key = ArchiveKey::new(self.log_row.id, self.archive.id);
        members::insert(&mut transaction, key, self.intent.generation, members).await?;
        if !intents::complete(&mut transaction, &self.intent, &facts).await?
            || leases::check(&mut transaction, &self.lease).await?.is_none()
        {
            return Err(GaveWay::LeaseLost.into());
        }
        Ok(database::commit(transaction).await?)
    }
}

impl<'a> Prepared<'a> {
    /// Replaces the object with the new one.
    pub async fn replace(self) -> Result<Replaced<'a>, Error> {
        let Prepared { rewrite, uploaded, members } = self;
        uploaded.complete().await?;
        Ok(Replaced { rewrite, members })
    }
}

impl Replaced<'_> {
    /// Reads the new object back, makes the catalog follow, and purges the old versions.
    pub async fn promote(self) -> Result<(), Error> {
        let Replaced { rewrite, members } = self;
        let Rewrite { store, bucket, log_row, archive, intent, .. } = rewrite;
        let mut scan = bucket.scan(&log_row.log, archive.id).await?;
        for member in &members {
            scan.next(member.byte_end - member.byte_start).await?;
        }
        let etag = scan.etag().to_owned();
        let damaged = scan.damaged("it does not hold what was uploaded");
        let digest = scan.finish().await?;
        let intents = store.intent_of(log_row.id, archive.id).await?;
        // A reader may have promoted it already.
        if let Some(current) = intents.filter(|current| current.write_id == intent.write_id) {
            if current.uploaded.as_ref().is_none_or(|uploaded| uploaded.digest != digest) {
                return Err(damaged.into());
            }
            store.promote(&log_row, &archive, &current, &etag).await?;
        }
        store.purge(&log_row, archive.id, intent.edit_sequence).await
    }
}

impl Store {
    async fn intent_of(&self, log_id: i64, archive_id: Uuid) -> Result<Option<Intent>, Error> {
        let mut transaction = self.database.begin_job().await?;
        Ok(intents::of_archive(&mut transaction, log_id, archive_id).await?)
    }

    /// Purges the noncurrent versions of an object, and marks its archive's edits up to `sequence_max` as purged.
    pub(in crate::store) async fn purge(
        &self,
        log_row: &LogRow,
        archive_id: Uuid,
        sequence_max: i64,
    ) -> Result<(), Error> {
        self.own().await?;
        let key = ArchiveKey::new(log_row.id, archive_id);
        if let Err(error) = self.bucket()?.purge(&log_row.log, archive_id).await {
            let error = error.into();
            self.note_trouble(&log_row.log, key, TroubleKind::Delete, &error).await;
            return Err(error);
        }
        let mut transaction = self.database.begin_job().await?;
        edits::mark_purged(&mut transaction, log_row.id, archive_id, sequence_max).await?;
        troubles::delete(&mut transaction, key, &[TroubleKind::Delete]).await?;
        Ok(database::commit(transaction).await?)
    }
}

fn edit_member(
    log: &Log,
    old: &MemberRow,
    compressed: &[u8],
    overlay: &Overlay,
    is_last: bool,
) -> Result<EncodedMember, String> {
    let expected = (old.first_position, old.last_position, old.count);
    let member = decode_member(log, compressed, old.json_bytes, expected)?;
    let mut events: Vec<Event> = member.events().map(MemberEvent::to_event).collect();
    events.iter_mut().for_each(|event| overlay.apply(event));
    let encoded = RawMember::rewritten(log, old.member as usize, &events, is_last).compress();
    decode_member(log, &encoded.bytes, encoded.json_bytes, expected)?;
    Ok(encoded)
}
