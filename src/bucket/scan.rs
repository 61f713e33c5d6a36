use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bucket::{Bucket, Error, object_key};
use crate::event::Log;

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
        while self.buffer.len() < wanted {
            let Some(chunk) = self.body.next().await else {
                return Err(self.damaged("it ends too early"));
            };
            let chunk = chunk?;
            self.digest.update(&chunk);
            self.buffer.extend_from_slice(&chunk);
        }
        Ok(self.buffer.split_to(wanted).freeze())
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
