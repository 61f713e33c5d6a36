//! Moving events between rows and objects: archiving, restoring, rewriting with pending edits, and settling what an
//! earlier process left half done.
//!
//! Each move has one Postgres transaction as its commit point. If the process dies before the commit, an intent in the
//! catalog knows the object that is left in the bucket, and [`settle`] settles that intent.

pub mod archive;
mod breaks;
pub mod merge;
mod missing;
pub mod remainders;
pub mod restore;
pub mod rewrite;
mod settle;
