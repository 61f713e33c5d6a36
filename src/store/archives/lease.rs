//! The lease: the right to write archives of one log.
//!
//! The log's row in Postgres holds the lease and its epoch, which every committing transaction checks. So a writer that
//! sleeps through the end of its lease changes nothing when it wakes. If the process dies, the lease expires.

use std::collections::HashSet;
use std::future::Future;

use parking_lot::MutexGuard;
use uuid::Uuid;

use crate::database;
use crate::database::catalog::leases::{self, Lease};
use crate::store::{Error, GaveWay, Store};

impl Store {
    /// Calls `work` with the lease of a log, and renews the lease meanwhile. `None` if another writer holds the lease.
    pub(in crate::store) async fn with_lease<T>(
        &self,
        log_id: i64,
        work: impl AsyncFnOnce(Lease) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut transaction = self.database.begin_job().await?;
        let taken = leases::take(&mut transaction, log_id, Uuid::new_v4(), self.settings.lease_term).await?;
        let Some(lease) = taken else { return Ok(None) };
        // The process knows the lease from before its commit until its release, so that it can release it when it ends.
        self.leases().retain(|held| held.log_id != log_id);
        self.leases().insert(lease);
        database::commit(transaction).await?;
        // Boxed, because the future of a whole move is large.
        let outcome = self.while_held(&lease, Box::pin(work(lease))).await;
        self.release(&lease).await;
        outcome.map(Some)
    }

    /// Releases the leases that dropped work and failed releases have left behind. A process calls this as it ends.
    pub async fn release_leases(&self) {
        let held: Vec<Lease> = self.leases().iter().copied().collect();
        for lease in &held {
            self.release(lease).await;
        }
    }

    fn leases(&self) -> MutexGuard<'_, HashSet<Lease>> {
        self.leases.lock()
    }

    /// Drops `work` as soon as the lease is known to be lost.
    async fn while_held<T>(&self, lease: &Lease, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            outcome = work => outcome,
            () = self.until_lost(lease) => Err(GaveWay::LeaseLost.into()),
        }
    }

    async fn until_lost(&self, lease: &Lease) {
        let term = self.settings.lease_term;
        loop {
            tokio::time::sleep(term / 3).await;
            match self.renew(lease).await {
                Ok(true) => {}
                Ok(false) => return,
                // A failed renewal does not prove that the lease is lost, and the commit checks the epoch.
                Err(error) => tracing::debug!(%error, log_id = lease.log_id, "the lease was not renewed"),
            }
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, Error> {
        let mut transaction = self.database.begin_job().await?;
        let renewed = leases::renew(&mut transaction, lease, self.settings.lease_term).await?;
        database::commit(transaction).await?;
        Ok(renewed)
    }

    async fn release(&self, lease: &Lease) {
        let released = async {
            let mut transaction = self.database.begin_job().await?;
            leases::release(&mut transaction, lease).await?;
            Ok::<_, Error>(database::commit(transaction).await?)
        };
        match released.await {
            Ok(()) => {
                self.leases().remove(lease);
            }
            Err(error) => {
                tracing::debug!(%error, log_id = lease.log_id, "the lease was not released and will expire");
            }
        }
    }
}
