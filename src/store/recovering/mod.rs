//! Rebuilds the catalog from the bucket, after a database was lost or put back to an earlier moment.
//!
//! A recovery takes over every object in a transaction of its own, so a recovery that dies goes on where it was.

pub mod reconcile;
pub mod recover;
mod set_aside;
mod take_over;
