//! The bucket as a stranger sees it, past the store and its proxy.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use s3::creds::Credentials;

use super::s3::Server;

/// The object that says whose bucket it is; a process leaves it there, a test's own store does not.
pub const MARKER: &str = "coldstream.json";
/// The prefix of probes: a process that is killed while it probes the bucket leaves an object, or an upload of one.
pub const PROBE_PREFIX: &str = "coldstream.probe/";

const VALID_SECONDS: u32 = 600;

type Query<'a> = &'a [(&'a str, &'a str)];

/// A client whose requests are signed by rust-s3, as addresses that anybody may call.
pub struct RawBucket {
    http: reqwest::Client,
    bucket: Box<s3::Bucket>,
}

impl RawBucket {
    pub async fn create(server: &Server, name: &str) -> RawBucket {
        let Server { address, access_key, secret_key, region } = server;
        let region = s3::Region::Custom { region: region.clone(), endpoint: format!("http://{address}") };
        let credentials = Credentials::new(Some(access_key), Some(secret_key), None, None, None);
        let bucket = s3::Bucket::new(name, region, credentials.expect("they are given")).expect("the name is one");
        let bucket = RawBucket { http: reqwest::Client::new(), bucket: bucket.with_path_style() };
        bucket.send_put("/", &[], HeaderMap::new(), Vec::new()).await;
        bucket
    }

    async fn try_get(&self, key: &str, query: Query<'_>) -> Response {
        let url = self.bucket.presign_get(key, VALID_SECONDS, owned(query)).await.expect("a signed URL");
        self.http.get(url).send().await.expect("the server answers")
    }

    async fn send_get(&self, key: &str, query: Query<'_>) -> Response {
        successful(self.try_get(key, query).await)
    }

    async fn send_put(&self, key: &str, query: Query<'_>, headers: HeaderMap, body: Vec<u8>) -> Response {
        let url = self.bucket.presign_put(key, VALID_SECONDS, Some(headers.clone()), owned(query)).await;
        // An empty body has a length as well, which some servers want to be told.
        let request = self.http.put(url.expect("a signed URL")).headers(headers).header(CONTENT_LENGTH, body.len());
        let request = request.body(body);
        successful(request.send().await.expect("the server answers"))
    }

    async fn listing(&self, query: Query<'_>) -> String {
        self.send_get("/", query).await.text().await.expect("a document")
    }

    /// Returns the keys of everything but the marker and probes, in their order.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.listing(&[("list-type", "2")]).await;
        texts(&listed, "Key").into_iter().filter(|key| !is_aside(key)).collect()
    }

    /// Returns whether the bucket says whose it is.
    pub async fn is_marked(&self) -> bool {
        self.try_get(MARKER, &[]).await.status().is_success()
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        self.send_get(key, &[]).await.bytes().await.expect("the whole object").to_vec()
    }

    /// Replaces an object, as somebody who does not know of the store would, and keeps what it says of itself. Returns
    /// the new ETag.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> String {
        self.put_saying(key, bytes, &self.said(key).await).await
    }

    /// Returns what an object says of itself; nothing if it is not there.
    pub async fn said(&self, key: &str) -> Vec<(String, String)> {
        let there = self.try_get(key, &[]).await;
        let said = there.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"));
        said.map(|(name, value)| (name.to_string(), value.to_str().expect("a text").to_owned())).collect()
    }

    /// Puts an object that says certain things of itself, and returns its ETag.
    pub async fn put_saying(&self, key: &str, bytes: Vec<u8>, said: &[(String, String)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
        let response = self.send_put(key, &[], headers, bytes).await;
        response.headers()["etag"].to_str().expect("an ETag is text").to_owned()
    }

    pub async fn delete(&self, key: &str) {
        let url = self.bucket.presign_delete(key, VALID_SECONDS).await.expect("a signed URL");
        successful(self.http.delete(url).send().await.expect("the server answers"));
    }

    /// Returns the keys of uploads that were begun, and neither completed nor aborted.
    pub async fn unfinished_uploads(&self) -> Vec<String> {
        let listed = self.listing(&[("uploads", "")]).await;
        texts(&listed, "Key").into_iter().filter(|key| !is_aside(key)).collect()
    }

    /// Begins an upload, and gives no way to complete it.
    pub async fn begin_upload(&self, key: &str) {
        self.bucket.initiate_multipart_upload(key, "text/plain").await.expect("the server begins the upload");
    }

    pub async fn abort_uploads(&self, key: &str) {
        let listed = self.listing(&[("uploads", "")]).await;
        for (found, id) in texts(&listed, "Key").iter().zip(texts(&listed, "UploadId")) {
            if found == key {
                self.bucket.abort_upload(key, &id).await.expect("the server aborts the upload");
            }
        }
    }

    pub async fn keep_versions(&self) {
        let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        self.send_put("/", &[("versioning", "")], HeaderMap::new(), body.into()).await;
    }

    /// Keeps versions from now on, every one of which can be held.
    pub async fn keep_locked_versions(&self) {
        self.lock_versions("").await;
    }

    /// Retains everything that is written from now on for a day.
    pub async fn retain_all(&self) {
        let retention = "<DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention>";
        self.lock_versions(&format!("<Rule>{retention}</Rule>")).await;
    }

    async fn lock_versions(&self, rule: &str) {
        self.keep_versions().await;
        let enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>";
        let body = format!("<ObjectLockConfiguration>{enabled}{rule}</ObjectLockConfiguration>");
        self.send_put("/", &[("object-lock", "")], HeaderMap::new(), body.into()).await;
    }

    /// Forbids that the current version of an object is deleted, and returns the version's id.
    pub async fn hold(&self, key: &str) -> String {
        let there = self.send_get(key, &[]).await;
        let version = there.headers()["x-amz-version-id"].to_str().expect("an id is text").to_owned();
        self.set_hold(key, &version, "ON").await;
        version
    }

    pub async fn release(&self, key: &str, version: &str) {
        self.set_hold(key, version, "OFF").await;
    }

    async fn set_hold(&self, key: &str, version: &str, status: &str) {
        let body = format!("<LegalHold><Status>{status}</Status></LegalHold>");
        self.send_put(key, &[("legal-hold", ""), ("versionId", version)], HeaderMap::new(), body.into()).await;
    }

    /// Keeps the current version of an object until then, and returns the version's id.
    pub async fn retain(&self, key: &str, until: &str) -> String {
        let there = self.send_get(key, &[]).await;
        let version = there.headers()["x-amz-version-id"].to_str().expect("an id is text").to_owned();
        self.retain_version(key, &version, until).await;
        version
    }

    pub async fn retain_version(&self, key: &str, version: &str, until: &str) {
        let body = format!("<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
        self.send_put(key, &[("retention", ""), ("versionId", version)], HeaderMap::new(), body.into()).await;
    }

    /// Returns what the server says of its versions; `None` if it keeps none.
    async fn listed_versions(&self) -> Option<String> {
        let listed = self.try_get("/", &[("versions", "")]).await;
        if listed.status() == StatusCode::NOT_IMPLEMENTED {
            return None;
        }
        Some(successful(listed).text().await.expect("a document"))
    }

    /// Returns the keys of every version and delete marker but those of the marker and of probes, sorted.
    pub async fn version_keys(&self) -> Vec<String> {
        let Some(listed) = self.listed_versions().await else { return self.keys().await };
        let mut keys = texts(&listed, "Key");
        keys.retain(|key| !is_aside(key));
        keys.sort_unstable();
        keys
    }

    /// Returns what every version holds but those of the marker and of probes, in no certain order; delete markers hold
    /// nothing. A server that keeps no versions has the objects alone.
    pub async fn versions(&self) -> Vec<Vec<u8>> {
        let mut contents = Vec::new();
        let Some(listed) = self.listed_versions().await else {
            for key in self.keys().await {
                contents.push(self.get(&key).await);
            }
            return contents;
        };
        let (keys, ids) = (texts(&listed, "Key"), texts(&listed, "VersionId"));
        for (key, version) in keys.iter().zip(ids).filter(|(key, _)| !is_aside(key)) {
            let response = self.try_get(key, &[("versionId", &version)]).await;
            if response.status() != StatusCode::METHOD_NOT_ALLOWED {
                contents.push(successful(response).bytes().await.expect("the whole object").to_vec());
            }
        }
        contents
    }
}

fn owned(query: Query<'_>) -> Option<HashMap<String, String>> {
    Some(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn successful(response: Response) -> Response {
    assert!(response.status().is_success(), "{response:?}");
    response
}

fn is_aside(key: &str) -> bool {
    key == MARKER || key.starts_with(PROBE_PREFIX)
}

/// Returns the text of a gzip file, of all its members.
pub fn unzip(object: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(object).read_to_string(&mut text).expect("a gzip file");
    text
}

/// Returns the texts of all elements of a name.
fn texts(document: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let after = document.split(&open).skip(1);
    after.filter_map(|rest| rest.split(&close).next().map(str::to_owned)).collect()
}
