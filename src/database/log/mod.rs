//! The log: its row, its hot events, the snapshots of its streams, and which of its events were deleted once they were consumed.

pub mod consumed;
pub mod events;
pub mod rows;
pub mod snapshots;
