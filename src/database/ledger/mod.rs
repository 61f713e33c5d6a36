//! The ledger of edits: all edits, the edits that no object holds yet, and the GDPR ids that edits introduced.

pub mod edits;
pub mod introduced;
