//! Uploads that were begun, and neither completed nor aborted. A process that dies while it uploads leaves one.

use http::Method;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::bucket::documents::parse_xml;
use crate::bucket::listing::decoded;
use crate::bucket::objects::parse_instant;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error, object_key};
use crate::event::Log;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadPage {
    #[serde(default)]
    upload: Vec<UploadEntry>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadEntry {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

/// An upload that was begun, and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    pub key: String,
    /// The time at which the upload was begun; `None` if the server does not say.
    pub initiated_at: Option<OffsetDateTime>,
    upload_id: String,
}

/// The place in the list of uploads where a page begins.
pub type UploadMarker = (Option<String>, Option<String>);

impl Bucket {
    /// Aborts every unfinished upload of an object, so that none of them can be completed any more.
    pub async fn abort_uploads(&self, log: &Log, archive_id: Uuid) -> Result<usize, Error> {
        let key = object_key(log, archive_id);
        let (mut aborted, mut from) = (0, None);
        loop {
            let (uploads, next) = self.uploads_page(&key, from).await?;
            for upload in uploads.iter().filter(|upload| upload.key == key) {
                self.abort(upload).await?;
                aborted += 1;
            }
            if next.is_none() {
                return Ok(aborted);
            }
            from = next;
        }
    }

    /// A page of unfinished uploads, as long as the server makes it, and where the next page begins.
    pub async fn uploads_page(
        &self,
        prefix: &str,
        from: Option<UploadMarker>,
    ) -> Result<(Vec<UnfinishedUpload>, Option<UploadMarker>), Error> {
        // Not every server takes an empty marker for none.
        let (key_marker, id_marker) = from.unwrap_or_default();
        let request = Request::new(Method::GET, "")
            .query("uploads", "")
            .query("encoding-type", "url")
            .query("prefix", prefix)
            .query_if("key-marker", key_marker)
            .query_if("upload-id-marker", id_marker);
        let (_, body) = self.client.repeat_whole(&request).await?;
        let page: UploadPage = parse_xml("ListMultipartUploadsResult", prefix, &body)?;
        let is_encoded = page.encoding_type.is_some();
        let uploads = page.upload.into_iter().map(|UploadEntry { key, upload_id, initiated }| UnfinishedUpload {
            key: decoded(key, is_encoded),
            initiated_at: parse_instant(&initiated),
            upload_id,
        });
        let next_key = page.next_key_marker.map(|key| decoded(key, is_encoded));
        let next = (next_key, page.next_upload_id_marker);
        Ok((uploads.collect(), page.is_truncated.then_some(next)))
    }

    pub async fn abort(&self, upload: &UnfinishedUpload) -> Result<(), Error> {
        self.abort_upload(&upload.key, &upload.upload_id).await
    }

    pub(super) async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), Error> {
        self.may_write().await?;
        match self.client.repeat_empty(&Request::new(Method::DELETE, key).query("uploadId", upload_id)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
