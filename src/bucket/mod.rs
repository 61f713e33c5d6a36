//! All S3, and the archive format.
//!
//! An object is written through a multipart upload, whatever its size: it appears whole or not at all, and a writer
//! that lost its lease can be fenced, since the upload that it would complete can be aborted. If the process dies on
//! the way, it leaves an unfinished upload, or an object that nothing points at; the intent that was written before
//! finds both.

mod advice;
mod client;
mod credentials;
mod documents;
mod fence;
mod format;
mod keys;
mod listing;
mod marker;
mod member_cache;
mod metadata;
mod objects;
mod pace;
mod probe;
mod purge;
mod refusals;
mod request;
mod retries;
mod scan;
mod settings;
mod unfinished;
mod upload;

use std::sync::atomic::AtomicBool;

use http::Method;

use crate::bucket::client::Client;
use crate::bucket::fence::Fence;

pub use format::{
    ArchiveWriter, EncodedMember, Member, MemberEvent, MemberText, RawMember, decode_member, decompress_member,
};
pub use keys::{archive_in_key, is_marker, log_in_folder, object_folder, object_key};
pub use listing::{Listed, ListedArchive, ListedObject, Strangers};
pub use marker::{Claim, Marked, Marker};
pub use member_cache::{MemberAddress, MemberCache};
pub use metadata::{ObjectMetadata, Said};
pub use objects::Head;
pub use probe::{Abilities, is_probe};
pub use scan::Scan;
pub use settings::{Addressing, BucketName, Checksum, Credentials, Encryption, Endpoint, Settings, Writing};
pub use unfinished::UnfinishedUpload;
pub use upload::{Upload, Uploaded};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no object {object}")]
    NotFound { object: String },
    /// The object that was asked for is gone, and another one has its key.
    #[error("the object {object} was replaced")]
    Changed { object: String },
    /// The request did not happen, or does no harm if it did: try again later.
    #[error("the object store is not available: {what}")]
    Unavailable { what: String },
    /// The request may have happened: look before you repeat it.
    #[error("the object store did not say whether it happened: {what}")]
    Unknown { what: String },
    /// The server refused the request. The advice is for an operator, and empty where none is known.
    #[error("the object store refused {what}: {}", answer(*status, code, advice))]
    Refused { status: u16, code: String, what: String, advice: String },
    /// The server refuses this object and gives others: a retry is no use before somebody has mended the cause.
    #[error("the object {object} is refused, and others are not: {method} {}", answer(*status, code, advice))]
    ObjectRefused { object: String, method: Method, status: u16, code: String, advice: String },
    /// No request can be signed. Try again later: the machine that gives credentials may be busy.
    #[error("S3_ACCESS_KEY and S3_SECRET_KEY are not set, and this machine gives no credentials: {why}")]
    NoCredentials { why: String },
    /// Another database owns the bucket; nothing was written.
    #[error("the bucket {bucket} is not this database's any more")]
    Fenced { bucket: String },
    #[error("S3_READ_ONLY is true: the bucket {bucket} is read, and nothing is written to it")]
    ReadOnly { bucket: String },
    #[error("the object {object} is damaged: {why}")]
    Damaged { object: String, why: String },
}

fn answer(status: u16, code: &str, advice: &str) -> String {
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    let advice = if advice.is_empty() { String::new() } else { format!(": {advice}") };
    format!("{status}{code}{advice}")
}

/// One bucket of an S3-compatible server.
pub struct Bucket {
    client: Client,
    name: String,
    region: String,
    writing: Writing,
    members: MemberCache,
    /// The server copies ranges. This is known once it was probed, and does not hold any more once it has refused a
    /// copy.
    range_copies: AtomicBool,
    fence: Fence,
}

impl Bucket {
    /// Prepares requests to a bucket, and makes no connection.
    pub fn new(settings: &Settings) -> Result<Bucket, Error> {
        Ok(Bucket {
            client: Client::new(settings)?,
            name: settings.bucket.to_string(),
            region: settings.region.clone(),
            writing: settings.writing.clone(),
            members: MemberCache::new(settings.cache_bytes_max, settings.reads_max),
            range_copies: AtomicBool::new(false),
            fence: Fence::new(settings.is_read_only, settings.look_interval),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}
