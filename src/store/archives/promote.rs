//! Promoting the generation of an object that was replaced, so that the catalog follows. The writer does it, or any
//! process that finds the new object, even for a reader.
//!
//! If the process dies before the commit, the object is new and the catalog is old, and the next process to find that
//! promotes the generation.

use crate::bucket;
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::intents::{self, Intent, UploadedFacts};
use crate::database::catalog::members;
use crate::database::ledger::edits;
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, Amounts, ArchiveKey};
use crate::event::Log;
use crate::store::{Error, GaveWay, Store};
use uuid::Uuid;

impl Store {
    /// Makes the catalog know the generation that an object bears already. Two calls may race: the intent is deleted
    /// once, so the catalog follows once.
    pub(in crate::store) async fn promote(
        &self,
        log_row: &LogRow,
        archive: &Archive,
        intent: &Intent,
        etag: &str,
    ) -> Result<(), Error> {
        let Some(UploadedFacts { digest, json_bytes, object_bytes }) = &intent.uploaded else {
            return Err(Error::Damaged(format!("the rewrite of archive {} was never recorded", archive.id)));
        };
        let key = ArchiveKey::new(log_row.id, archive.id);
        let mut transaction = self.database.begin_job().await?;
        if !intents::delete(&mut transaction, intent).await? {
            return Ok(());
        }
        let written = (intent.write_id, etag, digest.as_slice());
        let bytes = (*json_bytes, *object_bytes);
        if !archives::promote(&mut transaction, key, archive.generation, written, bytes).await? {
            return Err(GaveWay::Moved(format!("archive {}", archive.id)).into());
        }
        members::delete(&mut transaction, key, archive.generation).await?;
        edits::settle(&mut transaction, log_row.id, archive.id, intent.edit_sequence).await?;
        let new = Amounts { json_bytes: *json_bytes, object_bytes: *object_bytes, ..archive.amounts() };
        rows::add_archived(&mut transaction, log_row.id, archive.last_position, new - archive.amounts()).await?;
        database::commit(transaction).await?;
        tracing::info!(
            log = %log_row.log, archive_id = %archive.id, generation = intent.generation, "an archive was rewritten"
        );
        Ok(())
    }

    /// Finds out why a reader found another object than its view knew, and promotes the object's generation if that is
    /// due. True if the read may succeed when it is retried.
    pub(in crate::store) async fn settle_stale(&self, log: &Log, archive_id: Uuid) -> Result<bool, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(true) };
        let archive = archives::find(&mut view, log_row.id, archive_id).await?;
        let intent = intents::of_archive(&mut view, log_row.id, archive_id).await?;
        drop(view);
        let Some(archive) = archive else { return Ok(true) };
        let head = match self.bucket()?.head(log, archive_id).await {
            Err(bucket::Error::NotFound { .. }) => return Ok(false),
            head => head?,
        };
        if head.etag == archive.etag {
            return Ok(true);
        }
        match intent {
            Some(intent) if head.said.write_id == Some(intent.write_id) && intent.uploaded.is_some() => {
                self.promote(&log_row, &archive, &intent, &head.etag).await?;
                Ok(true)
            }
            // Another process has promoted the generation since the view, or the object is damaged. A higher generation
            // in the catalog tells which.
            _ => Ok(head.said.write_id != Some(archive.write_id)
                && self.generation(&log_row, archive_id).await? > archive.generation),
        }
    }

    async fn generation(&self, log_row: &LogRow, archive_id: Uuid) -> Result<i64, Error> {
        let mut view = self.database.view().await?;
        let archive = archives::find(&mut view, log_row.id, archive_id).await?;
        Ok(archive.map_or(0, |archive| archive.generation))
    }
}
