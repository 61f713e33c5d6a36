use std::sync::atomic::Ordering;

use http::Method;
use uuid::Uuid;

use crate::bucket::client::Request;
use crate::bucket::{Bucket, Error};

/// Never the key of an archive, which has three segments.
const PROBE_PREFIX: &str = "coldstream.probe/";
/// No object bears it.
const NO_ETAG: &str = "\"0\"";

pub fn is_probe(key: &str) -> bool {
    key.starts_with(PROBE_PREFIX)
}

/// What a bucket does beyond reading, writing and listing. Nothing rests on it: whoever operates it wants to know, and
/// rewrites copy where they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A read is refused if the object is not the expected one. The ETag of the answer is compared all the same.
    pub conditional_reads: bool,
    /// A write is refused if there is an object already. Writers are kept apart by their leases and by aborted uploads.
    pub conditional_writes: bool,
    /// What is replaced or deleted is kept as a noncurrent version, which a purge has to delete.
    pub versions: bool,
    /// Parts of an upload can be copied from an object.
    pub range_copies: bool,
}

impl Bucket {
    /// Tries each on an object of its own, which is deleted at the end; if the process dies before, it remains.
    pub async fn probe(&self) -> Result<Abilities, Error> {
        self.may_write().await?;
        let key = format!("{PROBE_PREFIX}{}", Uuid::now_v7());
        let abilities = self.try_abilities(&key).await;
        self.delete_whole(&key).await?;
        if let Ok(Abilities { range_copies, .. }) = &abilities {
            self.range_copies.store(*range_copies, Ordering::Relaxed);
        }
        abilities
    }

    async fn try_abilities(&self, key: &str) -> Result<Abilities, Error> {
        let put = || Request::new(Method::PUT, key).body("probe");
        let (headers, _) = self.client.repeat_whole(&put()).await?;
        let versions = headers.contains_key("x-amz-version-id");
        let get = Request::new(Method::GET, key).header("if-match", NO_ETAG);
        let conditional_reads = self.is_refused(&get).await?;
        let conditional_writes = self.is_refused(&put().header("if-none-match", "*")).await?;
        Ok(Abilities { conditional_reads, conditional_writes, versions, range_copies: self.copies_ranges(key).await? })
    }

    /// Whether the condition of a request, which is not met, is honoured.
    async fn is_refused(&self, request: &Request) -> Result<bool, Error> {
        match self.client.repeat(request).await {
            Ok(_) | Err(Error::Refused { status: 400 | 501, .. }) => Ok(false),
            Err(Error::Changed { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn copies_ranges(&self, key: &str) -> Result<bool, Error> {
        let upload_id = self.upload_id(&Request::new(Method::POST, key).query("uploads", "")).await?;
        let copy = Request::new(Method::PUT, key).query("partNumber", "1").query("uploadId", &upload_id).copying(
            &self.name,
            key,
            (1, 3),
        );
        let copied = self.client.repeat_whole(&copy).await;
        self.abort_upload(key, &upload_id).await?;
        match copied {
            Ok((_, body)) => Ok(String::from_utf8_lossy(&body).contains("<CopyPartResult")),
            Err(Error::Refused { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
