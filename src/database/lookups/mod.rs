//! Lookups lead from an event's id to its member, and from a stream or a GDPR id to the members that hold it.
//!
//! A run is a sorted list of keyed hashes, cut into pages of one row each. An archive has a run for about 65,535 of its
//! events, to the end of a member, so that making one takes bounded memory. As archives add up, their runs are merged
//! ([`merges`]). A row of `lookups` names the archives whose pages are kept together, with their sums ([`sums`]). A page
//! may say "perhaps" (two ids can share a hash), never a false "no": the reader compares what it finds.

pub mod merges;
mod pages;
mod questions;
mod runs;
pub mod sums;

use siphasher::sip128::{Hasher128, SipHasher24};
use uuid::Uuid;

use crate::database::{Connection, Error};

use pages::{Hash, head};

pub use questions::{fingerprints, leads_to, live, members_with_gdpr_id, members_with_ids, members_with_stream};
pub use runs::{LookupRun, delete, insert_run};

/// The key of the hashes. Nobody can guess ids and streams from their hashes without the key.
#[derive(Debug, Clone, Copy)]
pub struct HashKey(u64, u64);

impl HashKey {
    pub fn new(key: Uuid) -> HashKey {
        let (high, low) = key.as_u64_pair();
        HashKey(high, low)
    }

    fn hash(self, text: &str) -> Hash {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        std::hash::Hasher::write(&mut hasher, text.as_bytes());
        let hash = hasher.finish128();
        ((hash.h1 >> 1) as i64, hash.h2)
    }

    /// Returns the part of an id's hash that lookups keep. Two ids can share it.
    pub fn fingerprint(self, id: &str) -> u64 {
        head(self.hash(id).0)
    }
}

/// Returns the hash key of this deployment.
pub async fn hash_key(connection: &mut Connection) -> Result<HashKey, Error> {
    let key: Uuid = sqlx::query_scalar("SELECT hash_key FROM deployment").fetch_one(connection).await?;
    Ok(HashKey::new(key))
}
