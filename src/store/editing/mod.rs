//! Changing what was published: payload edits, personal fields, renamed groups and streams, wherever the event is.
//!
//! An edit is one transaction. Of an archived event it becomes a pending edit, which every read applies from then on and
//! a rewrite puts into the object later.

pub mod edit;
mod personal;
mod rename;
