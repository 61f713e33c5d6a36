//! Version 1 of the archive format; `docs/format.md` is its description.
//!
//! An object is one gzip file of one JSON array, an event a line, ordered by position. The gzip file is many gzip
//! members, each of whole events, so that one member can be fetched and decoded alone. No change in here may change the
//! text that is written, or refuse a text that was written: `tests/archives/` holds objects of every version.

mod decode;
mod encode;
mod line;
mod member;

/// The JSON at which a member is full. Larger members compress better, and smaller ones cost less to fetch. It may
/// change: readers take members of any size, and the catalog has the size of each (docs/format.md, The members).
const MEMBER_JSON_BYTES: usize = 256 * 1024;

pub use decode::{MemberText, decode_member, decompress_member, find_member};
pub use encode::{ArchiveWriter, EncodedMember, RawMember};
pub use member::{Member, MemberEvent};
