use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bucket::format::find_member;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error, Head, MemberText, object_key};
use crate::event::Log;

/// The bytes in which the end of a member is looked for at first: most members are far smaller, and found at once.
const SEARCHED_BYTES: usize = 1024 * 1024;

/// A whole object, read once from its first byte to its last.
pub struct Scan {
    key: String,
    head: Head,
    body: BoxStream<'static, Result<Bytes, Error>>,
    has_ended: bool,
    buffer: BytesMut,
    digest: Sha256,
    /// The next member, if it was found already.
    found: Option<MemberText>,
}

impl Bucket {
    pub async fn scan(&self, log: &Log, archive_id: Uuid) -> Result<Scan, Error> {
        self.scan_of(&object_key(log, archive_id)).await
    }

    pub async fn scan_of(&self, key: &str) -> Result<Scan, Error> {
        self.scan_at(&Request::new(Method::GET, key)).await
    }

    /// Reads a noncurrent version of an object.
    pub async fn scan_version(&self, log: &Log, archive_id: Uuid, version: &str) -> Result<Scan, Error> {
        let request = Request::new(Method::GET, object_key(log, archive_id));
        self.scan_at(&request.query("versionId", version)).await
    }

    async fn scan_at(&self, request: &Request) -> Result<Scan, Error> {
        let (head, body) = self.get(request).await?;
        let (buffer, digest) = (BytesMut::new(), Sha256::new());
        Ok(Scan {
            key: request.key().to_owned(),
            head,
            body: body.boxed(),
            has_ended: false,
            buffer,
            digest,
            found: None,
        })
    }
}

impl Scan {
    pub fn etag(&self) -> &str {
        &self.head.etag
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Reads the next `bytes` bytes: a compressed member.
    pub async fn next(&mut self, bytes: i64) -> Result<Bytes, Error> {
        let wanted = bytes as usize;
        self.fill(wanted).await?;
        if self.buffer.len() < wanted {
            return Err(self.damaged("it ends too early"));
        }
        Ok(self.buffer.split_to(wanted).freeze())
    }

    /// Reads the next member, and finds where it ends; `None` at the end of the object.
    pub async fn next_member(&mut self) -> Result<Option<MemberText>, Error> {
        if let Some(found) = self.found.take() {
            return Ok(Some(found));
        }
        let mut searched = SEARCHED_BYTES;
        loop {
            self.fill(searched).await?;
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let buffer = std::mem::take(&mut self.buffer);
            let search = tokio::task::spawn_blocking(move || (find_member(&buffer), buffer));
            let (found, buffer) = search.await.expect("decompressing does not panic");
            self.buffer = buffer;
            if let Some(found) = found.map_err(|why| self.damaged(why))? {
                self.buffer.advance(found.bytes as usize);
                return Ok(Some(found));
            }
            if self.has_ended {
                return Err(self.damaged("it ends too early"));
            }
            searched = self.buffer.len() * 2;
        }
    }

    /// The log that the object's first event names.
    pub async fn log(&mut self) -> Result<Log, Error> {
        let Some(first) = self.next_member().await? else { return Err(self.damaged("it is empty")) };
        let log = first.log().map_err(|why| self.damaged(why))?;
        self.found = Some(first);
        Ok(log)
    }

    /// Reads on until the buffer has `bytes` bytes, or the object ends.
    async fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        while self.buffer.len() < bytes && !self.has_ended {
            match self.body.next().await.transpose()? {
                Some(chunk) => {
                    self.digest.update(&chunk);
                    self.buffer.extend_from_slice(&chunk);
                }
                None => self.has_ended = true,
            }
        }
        Ok(())
    }

    /// The SHA-256 of the object; an error if anything follows the last member.
    pub async fn finish(mut self) -> Result<Vec<u8>, Error> {
        self.fill(1).await?;
        if !self.buffer.is_empty() {
            return Err(self.damaged("something follows its last member"));
        }
        Ok(self.digest.finalize().to_vec())
    }

    pub fn damaged(&self, why: impl Into<String>) -> Error {
        Error::Damaged { object: self.key.clone(), why: why.into() }
    }
}
