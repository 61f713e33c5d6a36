//! Decoded members that were fetched a short time ago, so that readers of one history fetch each of them once.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::bucket::{Bucket, Error, Member, decode_member, object_key};
use crate::event::Log;

/// The longest time that a decoded member is kept. An edit may have erased data from the object since.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// The longest time that a read waits for its turn while `reads_max` others are under way.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// The place of a member, and the contents that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    pub archive_id: Uuid,
    /// The ETag of the object that the catalog knows.
    pub etag: String,
    pub object_bytes: i64,
    pub member: i32,
    pub byte_start: i64,
    pub byte_end: i64,
    pub json_bytes: i64,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
}

/// The bytes that the cache takes for a member beside the member itself, about.
const ENTRY_BYTES: usize = 512;
/// The most JSON of the members that are fetched and decoded at the same time, in bytes; a larger member is fetched
/// alone.
const FETCHED_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Decoded members, shared by all readers and bounded by the bytes that they take in memory. The ETag is part of the
/// key, so the members of a rewritten object are other members.
pub struct MemberCache {
    members: Cache<(Uuid, String, i32), Arc<Member>>,
    reads: Semaphore,
    read_bytes: Semaphore,
}

impl MemberCache {
    pub fn new(bytes_max: u64, reads_max: usize) -> MemberCache {
        let members = Cache::builder()
            .max_capacity(bytes_max)
            .time_to_live(KEPT)
            .weigher(|_, member: &Arc<Member>| u32::try_from(member.weight() + ENTRY_BYTES).unwrap_or(u32::MAX))
            .build();
        MemberCache {
            members,
            reads: Semaphore::new(reads_max),
            read_bytes: Semaphore::new(FETCHED_BYTES_MAX as usize),
        }
    }
}

impl Bucket {
    /// Returns a member from the cache, or else fetches it. One fetch serves all readers that wait for the same member.
    pub async fn member(&self, log: &Log, address: &MemberAddress) -> Result<Arc<Member>, Error> {
        let key = (address.archive_id, address.etag.clone(), address.member);
        let cached = self.members.members.entry(key).or_try_insert_with(self.fetch_member(log, address));
        let cached = cached.await.map_err(|error: Arc<Error>| (*error).clone())?;
        if cached.is_fresh() {
            // Members above the limit are dropped now, not some time later.
            self.members.members.run_pending_tasks().await;
        }
        Ok(cached.into_value())
    }

    /// Drops members that were kept long enough: without a reader, nobody else would.
    pub async fn forget_old_members(&self) {
        self.members.members.run_pending_tasks().await;
    }

    async fn fetch_member(&self, log: &Log, address: &MemberAddress) -> Result<Arc<Member>, Error> {
        let key = object_key(log, address.archive_id);
        let Ok(permit) = tokio::time::timeout(TURN_TIMEOUT, self.members.reads.acquire()).await else {
            return Err(Error::Unavailable { what: format!("GET {key}: too many reads are waiting") });
        };
        let _permit = permit.expect("the semaphore is never closed");
        let bytes = u32::try_from(address.json_bytes).unwrap_or(u32::MAX).min(FETCHED_BYTES_MAX);
        let _bytes = self.members.read_bytes.acquire_many(bytes).await.expect("the semaphore is never closed");
        let MemberAddress { byte_start, byte_end, json_bytes, first_position, last_position, count, .. } = *address;
        let compressed = self.get_range(&key, (byte_start, byte_end), &address.etag, address.object_bytes).await?;
        let log = log.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            decode_member(&log, &compressed, json_bytes, (first_position, last_position, count))
        });
        let member =
            decoded.await.expect("decoding does not panic").map_err(|why| Error::Damaged { object: key, why })?;
        metrics::counter!("coldstream_members_fetched_total").increment(1);
        Ok(Arc::new(member))
    }
}
