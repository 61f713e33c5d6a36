//! Multipart uploads. An object is visible once its upload is completed; until then its bytes are in parts, which a
//! process that dies leaves behind with the unfinished upload.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Method;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bucket::documents::{document, error_code, has_root, parse_xml};
use crate::bucket::objects::etag;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Checksum, Error, ObjectMetadata, object_key};
use crate::event::Log;

/// The smallest part that S3 takes, if it is not the last one.
const PART_BYTES_MIN: usize = 5 * 1024 * 1024;
/// The size of a part: 10,000 parts make 80 GB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// The largest part that is copied: S3 copies 5 GB at once, and says nothing until it has.
const COPY_BYTES_MAX: i64 = 256 * 1024 * 1024;
const PARTS_IN_FLIGHT_MAX: usize = 2;

/// An object that is being uploaded. Its bytes become visible when it is completed, never before.
pub struct Upload<'a> {
    bucket: &'a Bucket,
    key: String,
    upload_id: String,
    write_id: Uuid,
    buffer: BytesMut,
    /// The range to copy before anything else is written.
    copied: Option<Copied>,
    has_copies: bool,
    parts_started: usize,
    in_flight: FuturesUnordered<futures::future::BoxFuture<'a, Result<Part, Error>>>,
    parts: Vec<Part>,
    digest: Sha256,
    bytes: i64,
}

/// A range of bytes of the object that is to be replaced.
struct Copied {
    etag: String,
    start: i64,
    end: i64,
}

#[derive(Serialize)]
struct Part {
    #[serde(rename = "PartNumber")]
    number: usize,
    #[serde(rename = "ETag")]
    etag: String,
    /// The checksum of the part as the server gives it. Not every server gives one; one that does wants it again at the
    /// end.
    #[serde(rename = "ChecksumSHA256", skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

#[derive(Serialize)]
struct CompleteMultipartUpload<'a> {
    #[serde(rename = "Part")]
    parts: &'a [Part],
}

/// An object whose bytes all are with the server, and which is not visible yet.
pub struct Uploaded<'a> {
    bucket: &'a Bucket,
    key: String,
    upload_id: String,
    write_id: Uuid,
    parts: Vec<Part>,
    has_copies: bool,
    /// The SHA-256 of the object.
    pub digest: Vec<u8>,
    pub bytes: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Initiated {
    upload_id: String,
}

#[derive(Deserialize)]
struct CopyPartResult {
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumSHA256")]
    sha256: Option<String>,
}

impl Bucket {
    pub async fn upload(&self, log: &Log, archive_id: Uuid, metadata: &ObjectMetadata) -> Result<Upload<'_>, Error> {
        let key = object_key(log, archive_id);
        let request = Request::new(Method::POST, &key).query("uploads", "").header("content-type", "application/gzip");
        let request = self.writing.archive(metadata.said(request, log, archive_id));
        let upload_id = self.start_upload(log, archive_id, &request).await?;
        Ok(Upload {
            bucket: self,
            key,
            upload_id,
            write_id: metadata.write_id,
            buffer: BytesMut::with_capacity(PART_BYTES),
            copied: None,
            has_copies: false,
            parts_started: 0,
            in_flight: FuturesUnordered::new(),
            parts: Vec::new(),
            digest: Sha256::new(),
            bytes: 0,
        })
    }

    /// Starts an upload. If an answer is lost, an upload may have been started whose id nobody knows: it is aborted
    /// before the next one is started.
    async fn start_upload(&self, log: &Log, archive_id: Uuid, request: &Request) -> Result<String, Error> {
        self.may_write().await?;
        let mut attempts = 0;
        let start = || {
            attempts += 1;
            let is_repeated = attempts > 1;
            async move {
                if is_repeated {
                    self.abort_uploads(log, archive_id).await?;
                }
                self.upload_id(request).await
            }
        };
        self.client.attempt(start).await
    }

    /// The id of the upload that a request starts.
    pub(super) async fn upload_id(&self, request: &Request) -> Result<String, Error> {
        // Parts may bear no other checksum than the one that was announced.
        let request = match self.client.checksum() {
            Checksum::Sha256 => &request.clone().header("x-amz-checksum-algorithm", "SHA256"),
            Checksum::Md5 | Checksum::Off => request,
        };
        let (_, body) = self.client.once_whole(request).await?;
        let Initiated { upload_id } = parse_xml("InitiateMultipartUploadResult", "a new upload", &body)?;
        Ok(upload_id)
    }

    /// Stops copying on a server that refused a copy: it may refuse some copies, or parts of different sizes, though it
    /// takes others. From then on all bytes are sent.
    fn unlearn(&self, error: &Error) {
        if matches!(error, Error::Refused { .. }) && self.range_copies.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "rewrites copy nothing on the server any more");
        }
    }
}

impl<'a> Upload<'a> {
    /// Returns whether the next bytes, at least `bytes` of them, may be copied from the object that is there instead
    /// of being sent.
    pub fn can_copy(&self, bytes: i64) -> bool {
        let is_between_parts = self.buffer.is_empty() || self.buffer.len() >= PART_BYTES_MIN;
        is_between_parts && bytes >= PART_BYTES_MIN as i64 && self.bucket.range_copies.load(Ordering::Relaxed)
    }

    /// Adds the next bytes, which the server has: they begin at `start` in the object with this ETag. A copy may begin
    /// only if [`Upload::can_copy`] says so.
    pub async fn copy(&mut self, bytes: &[u8], etag: &str, start: i64) -> Result<(), Error> {
        if self.copied.is_none() && !self.buffer.is_empty() {
            let part = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PART_BYTES));
            self.send(part.freeze()).await?;
        }
        self.digest.update(bytes);
        self.bytes += bytes.len() as i64;
        let copied = self.copied.get_or_insert_with(|| Copied { etag: etag.to_owned(), start, end: start });
        copied.end += bytes.len() as i64;
        Ok(())
    }

    /// Adds the next bytes. Waits while `PARTS_IN_FLIGHT_MAX` parts are in flight.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.send_copied().await?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as i64;
        let mut rest = bytes;
        while !rest.is_empty() {
            // If nothing is copied, all parts but the last have the same size, which some servers demand.
            let (fitting, behind) = rest.split_at(rest.len().min(PART_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(fitting);
            rest = behind;
            if self.buffer.len() == PART_BYTES {
                let part = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PART_BYTES));
                self.send(part.freeze()).await?;
            }
        }
        self.look_after_parts()
    }

    /// Lets the parts in flight get on while others are made.
    fn look_after_parts(&mut self) -> Result<(), Error> {
        while let Some(Some(part)) = self.in_flight.next().now_or_never() {
            self.parts.push(part?);
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<Uploaded<'a>, Error> {
        self.send_copied().await?;
        let rest = std::mem::take(&mut self.buffer).freeze();
        if !rest.is_empty() || self.parts_started == 0 {
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_one().await?;
        }
        let Upload { bucket, key, upload_id, write_id, mut parts, has_copies, digest, bytes, .. } = self;
        parts.sort_by_key(|part| part.number);
        Ok(Uploaded { bucket, key, upload_id, write_id, parts, has_copies, digest: digest.finalize().to_vec(), bytes })
    }

    async fn send(&mut self, body: Bytes) -> Result<(), Error> {
        let (number, request) = self.next_part().await?;
        let (bucket, key, request) = (self.bucket, self.key.clone(), request.content(body));
        self.in_flight.push(Box::pin(async move {
            let (headers, _) = bucket.client.repeat_whole(&request).await?;
            let sha256 = headers.get("x-amz-checksum-sha256").and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok(Part { number, etag: etag(&key, &headers)?, sha256 })
        }));
        Ok(())
    }

    /// Makes the server copy the pending range, in parts of about the same size.
    async fn send_copied(&mut self) -> Result<(), Error> {
        let Some(Copied { etag, start, end }) = self.copied.take() else { return Ok(()) };
        self.has_copies = true;
        let parts = (end - start + COPY_BYTES_MAX - 1) / COPY_BYTES_MAX;
        let boundary = |part: i64| start + (end - start) * part / parts;
        for part in 0..parts {
            let (number, request) = self.next_part().await?;
            let request = request
                .copying(&self.bucket.name, &self.key, (boundary(part), boundary(part + 1) - 1))
                .header("x-amz-copy-source-if-match", &etag);
            let bucket = self.bucket;
            self.in_flight.push(Box::pin(async move {
                let (_, body) =
                    bucket.client.repeat_whole(&request).await.inspect_err(|error| bucket.unlearn(error))?;
                let CopyPartResult { etag, sha256 } = parse_xml("CopyPartResult", "a copied part", &body)?;
                Ok(Part { number, etag, sha256 })
            }));
        }
        Ok(())
    }

    /// The number and the request of the next part. Waits while `PARTS_IN_FLIGHT_MAX` parts are in flight.
    async fn next_part(&mut self) -> Result<(usize, Request), Error> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.await_one().await?;
        }
        self.parts_started += 1;
        let request = Request::new(Method::PUT, &self.key)
            .query("partNumber", self.parts_started.to_string())
            .query("uploadId", &self.upload_id);
        Ok((self.parts_started, request))
    }

    async fn await_one(&mut self) -> Result<(), Error> {
        if let Some(part) = self.in_flight.next().await {
            self.parts.push(part?);
        }
        Ok(())
    }
}

impl Uploaded<'_> {
    /// Makes the object visible. If the answer is lost, the object is looked up: it bears this upload's write-id if the
    /// upload was completed.
    pub async fn complete(self) -> Result<(), Error> {
        let request = Request::new(Method::POST, &self.key)
            .query("uploadId", &self.upload_id)
            .header("content-type", "application/xml")
            .body(document(&CompleteMultipartUpload { parts: &self.parts }));
        let complete = || async {
            self.bucket.may_write().await?;
            let Err(error) = self.try_complete(&request).await else { return Ok(()) };
            if self.has_copies {
                self.bucket.unlearn(&error);
            }
            let is_in_doubt = error.is_transient() || matches!(error, Error::NotFound { .. });
            if is_in_doubt && self.is_visible().await? { Ok(()) } else { Err(error) }
        };
        self.bucket.client.attempt(complete).await
    }

    /// Aborts the upload of a writer that lost its lease. The next lease holder may have looked for unfinished uploads
    /// before this one began.
    pub async fn abort(self) {
        if let Err(error) = self.bucket.abort_upload(&self.key, &self.upload_id).await {
            tracing::warn!(%error, object = self.key, "an unfinished upload remains in the bucket");
        }
    }

    /// Completes the upload once. The server can fail after it has sent a status of 200, so the body decides.
    async fn try_complete(&self, request: &Request) -> Result<(), Error> {
        let unknown = |what: String| Error::Unknown { what: format!("POST {}: {what}", self.key) };
        let response = self.bucket.client.once(request).await?;
        let body = response.text().await.map_err(|error| unknown(error.to_string()))?;
        if has_root(&body, "CompleteMultipartUploadResult").unwrap_or(false) {
            Ok(())
        } else {
            Err(unknown(error_code(&body).unwrap_or("the answer is no result".into())))
        }
    }

    async fn is_visible(&self) -> Result<bool, Error> {
        match self.bucket.head_of(&self.key).await {
            Ok(head) => Ok(head.said.write_id == Some(self.write_id)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_upload_names_its_parts_as_s3_wants_them() {
        let part = |number, sha256: Option<&str>| Part {
            number,
            etag: format!("\"{number}a\""),
            sha256: sha256.map(str::to_owned),
        };
        assert_eq!(
            document(&CompleteMultipartUpload { parts: &[part(1, Some("c2hh+/=")), part(2, None)] }),
            "<CompleteMultipartUpload>\
             <Part><PartNumber>1</PartNumber><ETag>\"1a\"</ETag><ChecksumSHA256>c2hh+/=</ChecksumSHA256></Part>\
             <Part><PartNumber>2</PartNumber><ETag>\"2a\"</ETag></Part>\
             </CompleteMultipartUpload>"
        );
    }
}
