//! Merging a log's lookups as its archives add up.
//!
//! A merge is one transaction under the log's lease: readers see the lookups from before or the merged one. If the
//! process dies in the middle, nothing has happened. The next archive run that archives a batch of the log merges the
//! lookups that are due, and so does the first archive run of the next process.

use crate::database;
use crate::database::catalog::leases::{self, Lease};
use crate::database::lookups::merges::{self, Merge};
use crate::database::lookups::sums;
use crate::store::{Error, GaveWay, Store};

impl Store {
    /// Merges the lookups of a log until no merge is due.
    pub async fn merge_lookups(&self, lease: Lease) -> Result<(), Error> {
        while let Some(merge) = self.due_merge(lease).await? {
            self.merge(lease, &merge).await?;
        }
        Ok(())
    }

    async fn due_merge(&self, lease: Lease) -> Result<Option<Merge>, Error> {
        let mut view = self.database.view_for_job().await?;
        Ok(merges::due(&mut view, lease.log_id).await?)
    }

    async fn merge(&self, lease: Lease, merge: &Merge) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        let (id, archives) = merges::merge(&mut transaction, merge).await?;
        // The log's row is locked last: publishers wait for it, and only for as long as a commit takes.
        if leases::check(&mut transaction, &lease).await?.is_none() {
            return Err(GaveWay::LeaseLost.into());
        }
        sums::sum_up(&mut transaction, lease.log_id, &[id]).await?;
        database::commit(transaction).await?;
        tracing::debug!(log_id = lease.log_id, archives, "lookups were merged");
        Ok(())
    }

    /// Merges, once in a process, the lookups that an earlier process, a recovery or a version without merges has left.
    pub(in crate::store) async fn catch_up_on_merges(&self) -> Result<(), Error> {
        let caught_up = self.merges_caught_up.get_or_try_init(async || {
            let mut view = self.database.view_for_job().await?;
            let log_ids = merges::logs_with_due(&mut view).await?;
            drop(view);
            let mut failure = None;
            for log_id in log_ids {
                match self.with_lease(log_id, async |lease| self.merge_lookups(lease).await).await {
                    Ok(Some(())) => {}
                    Ok(None) => failure = Some(GaveWay::LeaseHeld.into()),
                    Err(error) => {
                        tracing::warn!(%error, log_id, "lookups were not merged");
                        failure = Some(error);
                    }
                }
            }
            failure.map_or(Ok(()), Err)
        });
        caught_up.await.copied()
    }
}
