//! Cleans up after writers that died: settles their intents, and purges what their rewrites superseded. A sweep can be
//! stopped at any moment, and the next one goes on.

use crate::database::catalog::intents;
use crate::database::catalog::troubles::TroubleKind;
use crate::database::ledger::edits;
use crate::database::log::rows;
use crate::database::{self, ArchiveKey};
use crate::store::archives::troubles::{Failures, Retry};
use crate::store::{Error, Store};

impl Store {
    /// Settles intents, and returns how many. It leaves alone what another writer is at work on. A failure does not
    /// keep the rest from being settled.
    pub async fn sweep(&self) -> Result<usize, Error> {
        self.sweep_what(Retry::All).await
    }

    /// Sweeps as [`Store::sweep`] does, for a job that repeats it: the trouble of one object is no failure of the
    /// sweep, and is tried again rarely.
    pub async fn sweep_due(&self) -> Result<usize, Error> {
        self.sweep_what(Retry::Due).await
    }

    async fn sweep_what(&self, retry: Retry) -> Result<usize, Error> {
        let mut transaction = self.database.begin_job().await?;
        let log_ids = intents::logs_with_stale(&mut transaction).await?;
        drop(transaction);
        let (mut settled, mut failures) = (0, Failures::new(retry));
        for log_id in log_ids {
            match self.with_lease(log_id, async |lease| self.settle(lease, retry).await).await {
                Ok(outcome) => {
                    let (count, failure) = outcome.unwrap_or_default();
                    settled += count;
                    failure.into_iter().for_each(|error| failures.add(error));
                }
                Err(error) => {
                    tracing::warn!(%error, log_id, "the intents of a log were not settled");
                    failures.add(error);
                }
            }
        }
        self.purge_leftovers(retry, &mut failures).await?;
        self.count_troubles().await?;
        failures.outcome(settled)
    }

    /// Returns whether there is something left to settle, rewrite or purge. It may be another writer's for now.
    pub async fn has_unfinished(&self) -> Result<bool, Error> {
        let mut view = self.database.begin_job().await?;
        Ok(intents::has_unfinished(&mut view).await?)
    }

    async fn purge_leftovers(&self, retry: Retry, failures: &mut Failures) -> Result<(), Error> {
        let put_off = self.put_off(retry).await?;
        let mut transaction = self.database.begin_job().await?;
        edits::mark_hot_purged(&mut transaction).await?;
        let mut unpurged = edits::unpurged_archives(&mut transaction).await?;
        unpurged.retain(|(key, _)| !put_off.contains(&(*key, TroubleKind::Delete)));
        let mut log_rows = Vec::new();
        for (key, _) in &unpurged {
            log_rows.push(rows::by_id(&mut transaction, key.log_id).await?);
        }
        database::commit(transaction).await?;
        for ((ArchiveKey { log_id, archive_id }, sequence_max), log_row) in unpurged.into_iter().zip(log_rows) {
            if let Err(error) = self.purge(&log_row, archive_id, sequence_max).await {
                tracing::warn!(%error, log_id, %archive_id, "superseded versions were not purged");
                failures.add(error);
            }
        }
        Ok(())
    }
}
