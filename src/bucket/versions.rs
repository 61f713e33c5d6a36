use futures::TryStreamExt;
use http::Method;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bucket::client::Request;
use crate::bucket::{Bucket, Error, ObjectMetadata, object_key};
use crate::event::Log;

impl Bucket {
    /// Makes a noncurrent version with these bytes, by their SHA-256, the current one again: under the same key, with the
    /// same metadata. False if there is none. Versions are left as they are; what is broken off leaves an unfinished
    /// upload.
    pub async fn put_back(
        &self,
        log: &Log,
        archive_id: Uuid,
        metadata: &ObjectMetadata,
        digest: &[u8],
    ) -> Result<bool, Error> {
        let key = object_key(log, archive_id);
        for version in self.noncurrent_versions(&key).await? {
            let request = Request::new(Method::GET, &key).query("versionId", &version);
            let mut found = Sha256::new();
            let mut body = self.body(&request).await?;
            while let Some(chunk) = body.try_next().await? {
                found.update(&chunk);
            }
            if found.finalize()[..] != *digest {
                continue;
            }
            let mut upload = self.upload(log, archive_id, metadata).await?;
            let mut body = self.body(&request).await?;
            while let Some(chunk) = body.try_next().await? {
                upload.write(&chunk).await?;
            }
            let uploaded = upload.finish().await?;
            if uploaded.digest != digest {
                uploaded.abort().await;
                return Err(Error::Changed { object: key });
            }
            uploaded.complete().await?;
            return Ok(true);
        }
        Ok(false)
    }
}
