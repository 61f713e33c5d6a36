//! The memory that all reads take together. A large page waits until there is room for it, for as long as is
//! configured. Readers that read ahead take free room, or read less at a time.
//!
//! Dropping a [`Held`] gives its room back. The room of a page that is sent to a client is given back with the last
//! byte of the page.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{Error, ReadingSettings};

/// The bytes below which a page takes no room: small pages are many, and nobody should wait for one.
pub const SMALL_BYTES: i64 = 1024 * 1024;
/// A page is in memory twice while it is made: as events, and as the bytes that are sent.
const COPIES: i64 = 2;
const UNIT_BYTES: u64 = 1024;
/// Replays and couriers, which read ahead, have one part in so many of the memory.
const AHEAD_SHARE: u64 = 4;

pub struct Memory {
    pages: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    bytes_max: u64,
    wait: Duration,
}

/// Room that is taken until this is dropped.
#[derive(Debug, Default)]
pub struct Held(#[allow(dead_code, reason = "it is only there to be dropped")] Option<OwnedSemaphorePermit>);

impl Memory {
    pub fn new(settings: &ReadingSettings) -> Memory {
        let ReadingSettings { bytes_max, wait } = *settings;
        let semaphore = |bytes| Arc::new(Semaphore::new(units(bytes) as usize));
        let ahead_bytes = bytes_max / AHEAD_SHARE;
        Memory { pages: semaphore(bytes_max - ahead_bytes), ahead: semaphore(ahead_bytes), bytes_max, wait }
    }

    /// Returns the bytes of the largest page that ever has room.
    pub fn page_bytes_max(&self) -> i64 {
        i64::try_from(self.bytes_max).unwrap_or(i64::MAX) / COPIES
    }

    /// Takes room for a page of about `page_bytes`. A page that is larger than all the room takes all of it.
    pub async fn take_for_page(&self, page_bytes: i64) -> Result<Held, Error> {
        let all = units(self.bytes_max - self.bytes_max / AHEAD_SHARE);
        let wanted = units(page_bytes.saturating_mul(COPIES).max(0) as u64).min(all);
        let taking = Arc::clone(&self.pages).acquire_many_owned(wanted);
        match tokio::time::timeout(self.wait, taking).await {
            Ok(permit) => Ok(Held(Some(permit.expect("the semaphore is never closed")))),
            Err(_) => {
                metrics::counter!("coldstream_reads_put_off_total").increment(1);
                let why = format!("there was no memory for a page of {page_bytes} bytes for {} s", self.wait.as_secs());
                Err(Error::Unavailable(why))
            }
        }
    }

    /// Takes room to read `bytes` ahead; `None` if not enough is free.
    pub fn take_ahead(&self, bytes: i64) -> Option<Held> {
        let permit = Arc::clone(&self.ahead).try_acquire_many_owned(units(bytes.max(0) as u64)).ok()?;
        Some(Held(Some(permit)))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32)
}
