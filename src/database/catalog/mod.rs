//! The catalog: archives and their members, intents and the leases under which they are written, and what was found
//! wrong.

pub mod archives;
pub mod claims;
pub mod intents;
pub mod leases;
pub mod members;
pub mod moves;
pub mod overview;
pub mod recovery;
pub mod runs;
pub mod scrubs;
pub mod troubles;
