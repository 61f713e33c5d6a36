use std::sync::atomic::Ordering;

use http::Method;
use uuid::Uuid;

use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error};

/// The beginning of a probe's key. No archive has such a key: keys of archives have three segments.
const PROBE_PREFIX: &str = "coldstream.probe/";
/// An ETag that no object bears.
const NO_ETAG: &str = "\"0\"";

pub fn is_probe(key: &str) -> bool {
    key.starts_with(PROBE_PREFIX)
}

/// The abilities of a bucket beyond reading, writing and listing. Nothing rests on them: operators want to know them,
/// and rewrites copy on the server if they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A read is refused if the object is not the expected one. The ETag of the answer is compared all the
    /// same.
    pub conditional_reads: bool,
    /// A write is refused if there is an object already. Writers are kept apart by their leases and by aborted
    /// uploads.
    pub conditional_writes: bool,
    /// A replaced or deleted object is kept as a noncurrent version, which a purge has to delete.
    pub versions: bool,
    /// Parts of an upload can be copied from an object.
    pub range_copies: bool,
}

impl Bucket {
    /// Tries each ability on an object that is made for it and deleted at the end; if the process dies before, the
    /// object remains. Nothing is tried if the object could not be deleted, so that starts do not fill a bucket that
    /// keeps everything.
    pub async fn probe(&self) -> Result<Abilities, Error> {
        self.may_write().await?;
        let key = format!("{PROBE_PREFIX}{}", Uuid::now_v7());
        self.check_deletable(&key).await?;
        let abilities = self.try_abilities(&key).await;
        self.delete_whole(&key).await?;
        if let Ok(Abilities { range_copies, .. }) = &abilities {
            self.range_copies.store(*range_copies, Ordering::Relaxed);
        }
        abilities
    }

    async fn check_deletable(&self, key: &str) -> Result<(), Error> {
        if self.configuration("object-lock").await?.contains("<DefaultRetention>") {
            return Err(Error::Refused {
                status: 0,
                code: "ObjectLock".into(),
                what: format!("DELETE {key}"),
                advice: "the bucket retains whatever is written, so nothing was tried".into(),
            });
        }
        // The deletion of an object that is not there takes the same right. Without a version in the request, a bucket
        // that keeps versions would keep a delete marker.
        let delete = Request::new(Method::DELETE, key);
        let delete = match self.configuration("versioning").await?.contains("<Status>Enabled</Status>") {
            true => delete.query("versionId", "null"),
            false => delete,
        };
        match self.client.repeat(&delete).await {
            Err(
                error @ (Error::Refused { status: 401 | 403, .. } | Error::ObjectRefused { status: 401 | 403, .. }),
            ) => Err(error),
            Err(error) if error.is_transient() => Err(error),
            _ => Ok(()),
        }
    }

    /// The bucket's configuration of a subject; empty if the server does not tell it, or not to us.
    async fn configuration(&self, subject: &'static str) -> Result<String, Error> {
        match self.client.repeat_whole(&Request::new(Method::GET, "").query(subject, "")).await {
            Ok((_, body)) => Ok(String::from_utf8_lossy(&body).into_owned()),
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(String::new()),
        }
    }

    async fn try_abilities(&self, key: &str) -> Result<Abilities, Error> {
        let put = || self.writing.object(Request::new(Method::PUT, key).content("probe"));
        let (headers, _) = self.client.repeat_written(&put()).await?;
        let versions = headers.contains_key("x-amz-version-id");
        let get = Request::new(Method::GET, key).header("if-match", NO_ETAG);
        let conditional_reads = self.is_refused(&get).await?;
        let conditional_writes = self.is_refused(&put().header("if-none-match", "*")).await?;
        Ok(Abilities { conditional_reads, conditional_writes, versions, range_copies: self.copies_ranges(key).await? })
    }

    /// Returns whether the server honours the condition of a request, which does not hold.
    async fn is_refused(&self, request: &Request) -> Result<bool, Error> {
        match self.client.repeat(request).await {
            Ok(_) | Err(Error::Refused { status: 400 | 501, .. } | Error::ObjectRefused { status: 400, .. }) => {
                Ok(false)
            }
            Err(Error::Changed { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn copies_ranges(&self, key: &str) -> Result<bool, Error> {
        let start = self.writing.object(Request::new(Method::POST, key).query("uploads", ""));
        let upload_id = self.upload_id(&start).await?;
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
