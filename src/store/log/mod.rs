//! A log: publishing to it, importing into it, its streams and their snapshots, and reading it wherever its events are.
//!
//! A publish is one transaction: if the process dies, all of it is in the log or nothing. A read changes nothing.

pub mod import;
pub mod publish;
pub mod read;
pub mod streams;
