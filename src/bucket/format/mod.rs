//! Version 1 of the archive format; `docs/format.md` is its description.
//!
//! An object is one gzip file that holds one JSON array, an event a line, ordered by position. Inside it is many gzip
//! members, each holding whole events, so that one can be fetched and decoded alone. Nothing in here may change what
//! is written or refuse what was written: `tests/archives/` holds objects of every version.

mod decode;
mod encode;
mod line;
mod member;

pub use decode::{MemberText, decode_member, decompress_member, find_member};
pub use encode::{ArchiveWriter, EncodedMember, RawMember};
pub use member::{Member, MemberEvent};
