//! The memory that reads take, all together. A page that takes much waits until there is room for it, as long as is
//! configured; what reads ahead takes room that is free, or reads less at a time.
//!
//! Room is given back when what it was taken for is dropped: for a page that is on its way to a client, with the last
//! of its bytes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{Error, ReadingSettings};

/// A page of so many bytes takes no room: there are many of them, and nobody is to wait for one.
pub const SMALL_BYTES: i64 = 1024 * 1024;
/// A page is in memory twice while it is made: as events, and as what is sent.
const COPIES: i64 = 2;
const UNIT_BYTES: u64 = 1024;
/// The share of what reads ahead, of replays and couriers.
const AHEAD_SHARE: u64 = 4;

pub struct Memory {
    pages: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    bytes_max: u64,
    wait: Duration,
}

/// Room that was taken, until it is dropped.
#[derive(Debug, Default)]
pub struct Held(#[allow(dead_code, reason = "it is only there to be dropped")] Option<OwnedSemaphorePermit>);

impl Memory {
    pub fn new(settings: &ReadingSettings) -> Memory {
        let ReadingSettings { bytes_max, wait } = *settings;
        let semaphore = |bytes| Arc::new(Semaphore::new(units(bytes) as usize));
        let ahead_bytes = bytes_max / AHEAD_SHARE;
        Memory { pages: semaphore(bytes_max - ahead_bytes), ahead: semaphore(ahead_bytes), bytes_max, wait }
    }

    /// The largest page that there ever is room for.
    pub fn page_bytes_max(&self) -> i64 {
        i64::try_from(self.bytes_max).unwrap_or(i64::MAX) / COPIES
    }

    /// Room for a page of about so many bytes. One that takes more than all the room is alone.
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

    /// Room to read so many bytes ahead, if some is free.
    pub fn take_ahead(&self, bytes: i64) -> Option<Held> {
        let permit = Arc::clone(&self.ahead).try_acquire_many_owned(units(bytes.max(0) as u64)).ok()?;
        Some(Held(Some(permit)))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32)
}
