//! Checking that the bucket and the catalog agree: verification, scrubs at leisure, repair, and sweeping up objects that
//! nobody needs.
//!
//! Verification changes nothing. Repair and sweeping hold the log's lease, and can be stopped at any moment: the same
//! call goes on.

pub mod leftovers;
pub mod repair;
mod scrub;
mod sweep;
pub mod verify;
