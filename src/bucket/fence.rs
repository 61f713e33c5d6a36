//! The fence: this process looks at the marker before a write, unless it has looked not long ago.
//!
//! A bucket has one owner at a time. A challenger waits for longer than the look interval and a request together, so
//! that the former owner has noticed by then. An adopter does not wait: a fence cannot keep out the requests that the
//! former owner begins in that time.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::bucket::{Bucket, Error};

/// The right of this process to write, as far as it knows.
pub(super) struct Fence {
    is_read_only: bool,
    /// The time for which a look is good.
    look_interval: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The owner's token; `None` while the bucket has no owner.
    token: Option<Uuid>,
    looked_at: Option<Instant>,
}

impl Fence {
    pub fn new(is_read_only: bool, look_interval: Duration) -> Fence {
        Fence { is_read_only, look_interval, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }
}

impl Bucket {
    /// Lets this process write for as long as the marker bears this token.
    pub fn expect_owner(&self, token: Option<Uuid>, looked_at: Instant) {
        *self.fence.seen() = Seen { token, looked_at: Some(looked_at) };
    }

    /// Returns whether this process has found the bucket to be its own, by a token in the marker.
    pub fn expects_owner(&self) -> bool {
        self.fence.seen().token.is_some()
    }

    /// Forgets the time of the last look, so that the next write looks again.
    pub fn look_again(&self) {
        self.fence.seen().looked_at = None;
    }

    /// Returns whether the last look, which found the bucket to be this process', still is good.
    pub fn is_owned_still(&self) -> bool {
        self.fence.seen().looked_at.is_some_and(|looked_at| looked_at.elapsed() < self.fence.look_interval)
    }

    pub fn is_read_only(&self) -> bool {
        self.fence.is_read_only
    }

    pub fn look_interval(&self) -> Duration {
        self.fence.look_interval
    }

    pub fn refuse_if_read_only(&self) -> Result<(), Error> {
        if self.is_read_only() { Err(Error::ReadOnly { bucket: self.name().to_owned() }) } else { Ok(()) }
    }

    /// Proves the right to write. Every request that changes an object, or lets one appear, asks here first; only those
    /// that write the marker do not.
    pub(super) async fn may_write(&self) -> Result<(), Error> {
        self.refuse_if_read_only()?;
        if self.is_owned_still() {
            return Ok(());
        }
        let looked_at = Instant::now();
        let found = self.marker().await?.and_then(|found| found.marker.owner).map(|owner| owner.token);
        let mut seen = self.fence.seen();
        if found != seen.token {
            return Err(Error::Fenced { bucket: self.name().to_owned() });
        }
        seen.looked_at = Some(looked_at);
        Ok(())
    }
}
