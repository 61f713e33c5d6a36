//! Coldstream: an event store on Postgres that never outgrows Postgres. Old events move to S3 in batches; reads join
//! both places; edits reach both.
//!
//! An arrow is an import, and `tests/layers.rs` checks them all:
//!
//! ```text
//!                main                    signals
//!                 |
//!              command ──── embedded     a verb of the command line │ Postgres and S3 without installing either
//!             /   |   \
//!          api   jobs  config            gRPC, HTTP │ ticks │ the only reader of the environment
//!             \   |   /
//!               store                    publish · read · subscribe · archive · edit · rewrite · restore · recover ·
//! verify
//!              /     \
//!        database   bucket               all SQL │ all S3, and the archive format
//!              \     /
//!               event                    words and rules, no IO
//! ```

pub mod api;
pub mod bucket;
pub mod command;
pub mod config;
pub mod database;
pub mod embedded;
pub mod event;
pub mod jobs;
pub mod store;
