//! Settling what somebody set out to write and nobody took over: its writer died, or lost its turn.
//!
//! Whether an object was replaced is not guessed: it bears the write-id of whoever wrote it.

use crate::bucket;
use crate::database::catalog::intents::{self, Intent};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::troubles::TroubleKind;
use crate::database::catalog::{archives, members};
use crate::database::ledger::edits;
use crate::database::log::rows::{self, LogRow};
use crate::database::lookups;
use crate::database::{self, ArchiveKey};
use crate::store::archives::troubles::Retry;
use crate::store::{Error, GaveWay, Store};

/// Whatever is wrong with an object, its intent waits for it.
const KINDS: [TroubleKind; 2] = [TroubleKind::Read, TroubleKind::Delete];

impl Store {
    /// Settles every intent of a topic. The lease makes sure that none of their writers can still begin to commit; and
    /// a commit that is under way, our own of which we lost the answer included, holds the topic's row, which is locked
    /// here before the intents are read. An error of one object is the outcome once the others are settled.
    pub(in crate::store) async fn settle_intents(&self, lease: Lease) -> Result<usize, Error> {
        let (settled, failure) = self.settle(lease, Retry::All).await?;
        failure.map_or(Ok(settled), Err)
    }

    /// The same for whoever has something else to do in the topic: that goes on beside what is wrong with one object.
    pub(in crate::store) async fn settle_due_intents(&self, lease: Lease) -> Result<(), Error> {
        self.settle(lease, Retry::Due).await.map(drop)
    }

    /// How many intents were settled, and why the last was not that was not.
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
        // An upload that its writer forgot to give up can be completed by nobody any more.
        bucket.abort_uploads(&log_row.log, intent.archive_id).await?;
        let mut transaction = self.database.begin_job().await?;
        let archive = archives::find(&mut transaction, log_row.id, intent.archive_id).await?;
        drop(transaction);
        let head = bucket.head(&log_row.log, intent.archive_id).await;
        let Some(archive) = archive else {
            // One of a time that this database does not know may hold what nothing else does.
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
            // It did not happen, and never will. What became of the object that was to be replaced is for readers and
            // for verifying to say.
            Ok(_) | Err(bucket::Error::NotFound { .. }) => self.drop_rewrite(log_row, intent).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The object of an archive that never became live, or whose events are elsewhere now.
    async fn drop_orphan(&self, log_row: &LogRow, intent: &Intent) -> Result<(), Error> {
        let bucket = self.bucket()?;
        bucket.delete(&log_row.log, intent.archive_id).await?;
        bucket.purge(&log_row.log, intent.archive_id).await?;
        let mut transaction = self.database.begin_job().await?;
        edits::mark_purged(&mut transaction, log_row.id, intent.archive_id, intent.edit_sequence).await?;
        // The intent first: a writer that holds it is still at its lookup pages.
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
