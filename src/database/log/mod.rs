//! The log: its row, its hot events, the snapshots of its streams, and the ids of events that were deleted once they
//! were consumed.

pub mod consumed;
pub mod events;
pub mod rows;
pub mod snapshots;
