use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bucket::{Bucket, Error, FoundMember, find_member, object_key};
use crate::event::Log;

/// About what two members take.
const FIND_BYTES: usize = 128 * 1024;

/// A whole object, read once from its first byte to its last.
pub struct Scan {
    key: String,
    etag: String,
    body: BoxStream<'static, Result<Bytes, Error>>,
    buffer: BytesMut,
    digest: Sha256,
}

impl Bucket {
    pub async fn scan(&self, log: &Log, archive_id: Uuid) -> Result<Scan, Error> {
        let (etag, body) = self.get(log, archive_id).await?;
        let key = object_key(log, archive_id);
        Ok(Scan { key, etag, body: body.boxed(), buffer: BytesMut::new(), digest: Sha256::new() })
    }
}

impl Scan {
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The bytes that follow: a compressed member.
    pub async fn next(&mut self, bytes: i64) -> Result<Bytes, Error> {
        let wanted = bytes as usize;
        if !self.fill(wanted).await? {
            return Err(self.damaged("it ends too early"));
        }
        Ok(self.buffer.split_to(wanted).freeze())
    }

    /// The member that follows, found without an index; `None` at the end.
    pub async fn find_next(&mut self, log: &Log) -> Result<Option<FoundMember>, Error> {
        let mut wanted = FIND_BYTES;
        loop {
            let is_whole = !self.fill(wanted).await?;
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let (log, bytes) = (log.clone(), self.buffer.clone().freeze());
            let found = tokio::task::spawn_blocking(move || find_member(&log, &bytes));
            match found.await.expect("decoding does not panic").map_err(|why| self.damaged(why))? {
                Some(member) => {
                    self.buffer.advance(member.bytes);
                    return Ok(Some(member));
                }
                None if is_whole => return Err(self.damaged("it ends too early")),
                None => wanted = self.buffer.len() * 2,
            }
        }
    }

    /// Reads on until so many bytes are there. False if there are not so many.
    async fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        while self.buffer.len() < wanted {
            let Some(chunk) = self.body.next().await else { return Ok(false) };
            let chunk = chunk?;
            self.digest.update(&chunk);
            self.buffer.extend_from_slice(&chunk);
        }
        Ok(true)
    }

    /// Its SHA-256, once nothing follows any more.
    pub async fn finish(mut self) -> Result<Vec<u8>, Error> {
        let rest = self.body.next().await.transpose()?;
        if !self.buffer.is_empty() || rest.is_some_and(|rest| !rest.is_empty()) {
            return Err(self.damaged("something follows its last member"));
        }
        Ok(self.digest.finalize().to_vec())
    }

    pub fn damaged(&self, why: impl Into<String>) -> Error {
        Error::Damaged { object: self.key.clone(), why: why.into() }
    }
}
