//! Coldstream: an event store on Postgres that never outgrows Postgres.

pub mod bucket;
pub mod config;
pub mod database;
pub mod embedded;
pub mod event;
pub mod jobs;
pub mod store;
