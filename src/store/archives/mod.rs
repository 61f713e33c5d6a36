//! The nouns that the store's verbs share: an archive's object and what it holds, the edits that lie over it, the lease
//! under which it is written, the bucket's owner, and the troubles of single objects.
//!
//! These modules write an object only through [`object`], after the catalog has an intent for it. So the next lease
//! holder finds everything by that intent that a dead process has left.

pub mod background;
pub mod contents;
pub mod fetch;
pub mod lease;
mod members;
pub mod object;
pub mod overlay;
pub mod ownership;
mod promote;
pub mod source;
pub mod troubles;
