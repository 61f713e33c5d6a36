//! The ledger of edits: each edit, the edits that no object holds yet, and personal ids that edits introduced.

pub mod edits;
pub mod introduced;
