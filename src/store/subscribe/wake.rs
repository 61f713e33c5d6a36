//! The bell at a courier's door.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The reasons for which a courier is woken.
#[derive(Default)]
pub struct Wake {
    pub published: AtomicBool,
    pub resends: AtomicBool,
    pub notify: Notify,
}

/// The reason why there may be something to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Published,
    Resent,
    /// The reason is not known.
    Any,
}

impl Wake {
    pub fn wake(&self, cause: Cause) {
        self.published.fetch_or(cause != Cause::Resent, Ordering::Release);
        self.resends.fetch_or(cause != Cause::Published, Ordering::Release);
        self.notify.notify_one();
    }

    pub fn is_woken(&self) -> bool {
        self.published.load(Ordering::Acquire) || self.resends.load(Ordering::Acquire)
    }
}
