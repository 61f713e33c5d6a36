//! The nouns that the store's verbs share: an archive's object and what it holds, the edits that lie over it, the lease
//! under which it is written, the bucket's owner, and the troubles of single objects.
//!
//! This room writes an object only through [`object`], whose intent is in the catalog before; so a process that dies
//! leaves what the next holder of the lease finds by that intent.

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
