//! The lease of a replica. Its couriers deliver for as long as the lease lasts, because others may own its progress
//! then.

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub struct ReplicaLease {
    pub replica_id: Uuid,
    /// Cancelled when other replicas may own what this one owned.
    pub lost: CancellationToken,
    pub ends_at: Mutex<Option<Instant>>,
}

impl ReplicaLease {
    pub fn new(replica_id: Uuid) -> ReplicaLease {
        ReplicaLease { replica_id, lost: CancellationToken::new(), ends_at: Mutex::default() }
    }

    /// Returns whether no other replica can have taken what this one owns.
    pub fn is_live(&self) -> bool {
        let ends_at = *self.ends_at.lock();
        !self.lost.is_cancelled() && ends_at.is_some_and(|end| Instant::now() < end)
    }
}
