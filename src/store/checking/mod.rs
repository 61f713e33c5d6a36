//! Checks that the bucket and the catalog agree: verification, scrubs in the background, repair, and the sweep of
//! objects that nobody needs.
//!
//! Verification changes nothing. Repair and sweep hold the log's lease. Both can be stopped at any moment, and the same
//! call goes on.

pub mod leftovers;
pub mod repair;
mod scrub;
mod sweep;
pub mod verify;
