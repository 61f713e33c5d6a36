//! Moving events between rows and objects: archiving, restoring, rewriting with pending edits, and settling what an
//! earlier process left half done.
//!
//! Each move has one Postgres transaction as its commit point. An object that is in the bucket without one has an
//! intent in the catalog, which [`settle`] ends.

pub mod archive;
mod breaks;
pub mod merge;
mod missing;
pub mod remainders;
pub mod restore;
pub mod rewrite;
mod settle;
