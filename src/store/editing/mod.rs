//! Changes of published events: edits of payloads, personal fields and renamed types, wherever the events are.
//!
//! An edit is one transaction. An edit of an archived event becomes a pending edit: every read applies it from then on,
//! and a rewrite puts it into the object later.

pub mod edit;
mod personal;
mod rename;
