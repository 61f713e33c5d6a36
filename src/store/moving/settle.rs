//! Settling the intents of writers that died or lost their lease.
//!
//! An object bears the write-id of its writer, which proves whether it was replaced. If the process dies half way, the
//! intent remains, and the next lease holder settles it.

use crate::bucket;
use crate::database::catalog::intents::{self, Intent};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::troubles::TroubleKind;
use crate::database::catalog::{archives, members};
use crate::database::ledger::edits;
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, ArchiveKey, lookups};
use crate::store::archives::troubles::Retry;
use crate::store::{Error, GaveWay, Store};

/// The kinds of trouble that put off settling the intent of an object.
const KINDS: [TroubleKind; 2] = [TroubleKind::Read, TroubleKind::Delete];

impl Store {
    /// Settles every intent of a log, and returns how many were settled. The lease proves that none of their writers
    /// can begin to commit. A commit under way, even our own whose reply was lost, holds the log's row, which is locked
    /// here before the intents are read. An error of one object is returned once the others are settled.
    pub(in crate::store) async fn settle_intents(&self, lease: Lease) -> Result<usize, Error> {
        let (settled, failure) = self.settle(lease, Retry::All).await?;
        failure.map_or(Ok(settled), Err)
    }

    /// Settles the intents of a log except those whose objects failed a short while ago. Trouble with one object is no
    /// error, so that the caller's own work on the log goes on.
    pub(in crate::store) async fn settle_due_intents(&self, lease: Lease) -> Result<(), Error> {
        self.settle(lease, Retry::Due).await.map(drop)
    }

    /// Settles the intents of a log, and returns how many were settled, with the last error of one object.
    pub(in crate::store) async fn settle(&self, lease: Lease, retry: Retry) -> Result<(usize, Option<Error>), Error> {
        let mut transaction = self.database.begin_job().await?;
        if leases::check(&mut transaction, &lease).await?.is_none() {
            return Err(GaveWay::LeaseLost.into());
        }
        let log_row = rows::by_id(&mut transaction, lease.log_id).await?;
        let mut intents = intents::of_log(&mut transaction, log_row.id).await?;
        drop(transaction);
        if intents.is_empty() {
            return Ok((0, None));
        }
        self.own().await?;
        let put_off = self.put_off(retry).await?;
        let is_put_off =
            |intent: &Intent, kind| put_off.contains(&(ArchiveKey::new(log_row.id, intent.archive_id), kind));
        intents.retain(|intent| !KINDS.iter().any(|kind| is_put_off(intent, *kind)));
        let (mut settled, mut failure) = (0, None);
        for intent in &intents {
            let key = ArchiveKey::new(log_row.id, intent.archive_id);
            match self.settle_intent(&log_row, intent).await {
                Ok(()) => {
                    settled += 1;
                    self.clear_troubles(&log_row.log, key, &[TroubleKind::Delete]).await;
                }
                Err(error) if error.is_of_one_object() => {
                    self.note_trouble(&log_row.log, key, TroubleKind::Delete, &error).await;
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((settled, failure))
    }

    async fn settle_intent(&self, log_row: &LogRow, intent: &Intent) -> Result<(), Error> {
        let bucket = self.bucket()?;
        // Nobody can complete an upload any more that its writer did not abort.
        bucket.abort_uploads(&log_row.log, intent.archive_id).await?;
        let mut transaction = self.database.begin_job().await?;
        let archive = archives::find(&mut transaction, log_row.id, intent.archive_id).await?;
        drop(transaction);
        let head = bucket.head(&log_row.log, intent.archive_id).await;
        let Some(archive) = archive else {
            // An object from a time that this database does not know may hold events that nothing else holds.
            let (id, log) = (intent.archive_id, &log_row.log);
            let kept = |why: String| Err(Error::Damaged(format!("the object of archive {id} of {log} {why}")));
            match head {
                Err(bucket::Error::NotFound { .. }) => {}
                head => {
                    let said = head?.said;
                    if said.write_id != Some(intent.write_id) {
                        return kept("was written by somebody else".into());
                    }
                    if let Some(missing) = self.stands_in_for(log, id, &said).await? {
                        return kept(format!("may be all that is left of archive {missing}: recover it"));
                    }
                }
            }
            return self.drop_orphan(log_row, intent).await;
        };
        match head {
            Ok(head) if head.said.write_id == Some(intent.write_id) => {
                self.promote(log_row, &archive, intent, &head.etag).await
            }
            // The rewrite did not happen, and never will. Readers and verifying find out what became of the object that
            // it was to replace.
            Ok(_) | Err(bucket::Error::NotFound { .. }) => self.drop_rewrite(log_row, intent).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the object of an archive that never became live, or whose events are elsewhere now.
    async fn drop_orphan(&self, log_row: &LogRow, intent: &Intent) -> Result<(), Error> {
        let bucket = self.bucket()?;
        bucket.delete(&log_row.log, intent.archive_id).await?;
        bucket.purge(&log_row.log, intent.archive_id).await?;
        let mut transaction = self.database.begin_job().await?;
        edits::mark_purged(&mut transaction, log_row.id, intent.archive_id, intent.edit_sequence).await?;
        // The intent is deleted first: a writer that holds it may be inserting its lookup pages.
        intents::delete(&mut transaction, intent).await?;
        lookups::delete(&mut transaction, ArchiveKey::new(log_row.id, intent.archive_id)).await?;
        database::commit(transaction).await?;
        tracing::info!(log = %log_row.log, archive_id = %intent.archive_id, "an orphan was deleted");
        Ok(())
    }

    async fn drop_rewrite(&self, log_row: &LogRow, intent: &Intent) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        if intents::delete(&mut transaction, intent).await? {
            let key = ArchiveKey::new(log_row.id, intent.archive_id);
            members::delete(&mut transaction, key, intent.generation).await?;
        }
        Ok(database::commit(transaction).await?)
    }
}
