use http::Method;
use serde::Deserialize;
use uuid::Uuid;

use crate::bucket::documents::parse_xml;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error, object_key};
use crate::event::Log;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionPage {
    #[serde(default, rename = "$value")]
    entries: Vec<VersionEntry>,
}

/// One entry of the document, which mixes versions, delete markers and its own fields.
#[derive(Deserialize)]
enum VersionEntry {
    Version(Version),
    DeleteMarker(Version),
    IsTruncated(bool),
    NextKeyMarker(String),
    NextVersionIdMarker(String),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    key: String,
    version_id: String,
    is_latest: bool,
}

struct Superseded {
    version: String,
    is_marker: bool,
    is_latest: bool,
}

impl Bucket {
    /// Deletes every version of an object but the current one, and returns how many there were. To have the current one
    /// deleted as well, delete the object first: only a delete marker is left of it then, and that goes too.
    pub async fn purge(&self, log: &Log, archive_id: Uuid) -> Result<usize, Error> {
        self.purge_versions(&object_key(log, archive_id)).await
    }

    /// Deletes an object with all its versions; succeeds if there is none.
    pub async fn delete_whole(&self, key: &str) -> Result<(), Error> {
        self.delete_key(key).await?;
        self.purge_versions(key).await.map(drop)
    }

    /// Deletes the superseded entries of `key`. A version that cannot be deleted keeps no other from being deleted, and
    /// its delete marker remains, which hides it.
    pub(super) async fn purge_versions(&self, key: &str) -> Result<usize, Error> {
        let mut superseded = self.superseded(key).await?;
        superseded.sort_by_key(|superseded| superseded.is_marker);
        let (mut purged, mut failure) = (0, None);
        for Superseded { version, is_marker, is_latest } in superseded {
            if is_marker && is_latest && failure.is_some() {
                continue;
            }
            match self.delete_version(key, &version).await {
                Ok(()) => purged += 1,
                Err(error @ Error::ObjectRefused { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        failure.map_or(Ok(purged), Err)
    }

    /// The noncurrent versions of an object, the newest first, as servers list them.
    pub async fn noncurrent_versions(&self, log: &Log, archive_id: Uuid) -> Result<Vec<String>, Error> {
        let superseded = self.superseded(&object_key(log, archive_id)).await?.into_iter();
        Ok(superseded.filter(|superseded| !superseded.is_marker).map(|superseded| superseded.version).collect())
    }

    /// The superseded entries of `key`: noncurrent versions, and delete markers.
    async fn superseded(&self, key: &str) -> Result<Vec<Superseded>, Error> {
        let mut superseded = Vec::new();
        // Not every server takes an empty marker for none.
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let request = Request::new(Method::GET, "")
                .about(key)
                .query("versions", "")
                .query("prefix", key)
                .query_if("key-marker", key_marker.take())
                .query_if("version-id-marker", version_marker.take());
            let (_, body) = match self.client.repeat_whole(&request).await {
                // A server that does not know versions keeps none.
                Err(
                    Error::Refused { status: 400 | 405 | 501, .. } | Error::ObjectRefused { status: 400 | 405, .. },
                ) => return Ok(superseded),
                answer => answer?,
            };
            let page: VersionPage = parse_xml("ListVersionsResult", key, &body)?;
            let mut is_truncated = false;
            for entry in page.entries {
                match entry {
                    // "null" is the only version of an object in a bucket that keeps none.
                    VersionEntry::Version(version) if version.key == key && !version.is_latest => {
                        superseded.push(Superseded { version: version.version_id, is_marker: false, is_latest: false });
                    }
                    VersionEntry::DeleteMarker(marker) if marker.key == key => {
                        let Version { version_id: version, is_latest, .. } = marker;
                        superseded.push(Superseded { version, is_marker: true, is_latest });
                    }
                    VersionEntry::IsTruncated(truncated) => is_truncated = truncated,
                    VersionEntry::NextKeyMarker(marker) => key_marker = Some(marker),
                    VersionEntry::NextVersionIdMarker(marker) => version_marker = Some(marker),
                    _ => {}
                }
            }
            if !is_truncated {
                return Ok(superseded);
            }
        }
    }

    async fn delete_version(&self, key: &str, version: &str) -> Result<(), Error> {
        self.may_write().await?;
        match self.client.repeat_empty(&Request::new(Method::DELETE, key).query("versionId", version)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
