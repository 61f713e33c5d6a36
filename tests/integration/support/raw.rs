//! The bucket as a stranger sees it, past the store and its proxy.

use std::io::Read;
use std::net::SocketAddr;

use flate2::read::MultiGzDecoder;
use reqwest::{Method, RequestBuilder, Response, StatusCode};

/// The server looks at who asks, and does not check the signature.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=stranger/20200101/us-east-1/s3/aws4_request, \
                             SignedHeaders=host, Signature=0";

pub struct RawBucket {
    http: reqwest::Client,
    base: String,
}

impl RawBucket {
    pub async fn create(server: SocketAddr, name: &str) -> RawBucket {
        let bucket = RawBucket { http: reqwest::Client::new(), base: format!("http://{server}/{name}") };
        bucket.send(bucket.request(Method::PUT, "")).await;
        bucket
    }

    fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{rest}", self.base)).header("authorization", AUTHORIZATION)
    }

    async fn send(&self, request: RequestBuilder) -> Response {
        let response = request.send().await.expect("moto answers");
        assert!(response.status().is_success(), "{response:?}");
        response
    }

    /// In the order of the keys.
    pub async fn keys(&self) -> Vec<String> {
        texts(&self.send(self.request(Method::GET, "?list-type=2")).await.text().await.expect("a document"), "Key")
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        let response = self.send(self.request(Method::GET, &path(key))).await;
        response.bytes().await.expect("the whole object").to_vec()
    }

    /// Replaces an object, as somebody who does not know of the store would; what the object says of itself is kept.
    /// Gives the new ETag.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> String {
        let head = self.request(Method::HEAD, &path(key)).send().await.expect("moto answers");
        let mut request = self.request(Method::PUT, &path(key)).header("content-type", "application/gzip").body(bytes);
        for (name, value) in head.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-")) {
            request = request.header(name, value);
        }
        let response = self.send(request).await;
        response.headers()["etag"].to_str().expect("an ETag is text").to_owned()
    }

    pub async fn delete(&self, key: &str) {
        self.send(self.request(Method::DELETE, &path(key))).await;
    }

    /// Keys of uploads that were begun, and neither completed nor aborted.
    pub async fn unfinished_uploads(&self) -> Vec<String> {
        texts(&self.send(self.request(Method::GET, "?uploads")).await.text().await.expect("a document"), "Key")
    }

    /// Gives no way to complete it.
    pub async fn begin_upload(&self, key: &str) {
        self.send(self.request(Method::POST, &format!("{}?uploads", path(key)))).await;
    }

    pub async fn abort_uploads(&self, key: &str) {
        let listed = self.send(self.request(Method::GET, "?uploads")).await.text().await.expect("a document");
        for (found, id) in texts(&listed, "Key").iter().zip(texts(&listed, "UploadId")) {
            if found == key {
                self.send(self.request(Method::DELETE, &format!("{}?uploadId={id}", path(key)))).await;
            }
        }
    }

    pub async fn keep_versions(&self) {
        let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        self.send(self.request(Method::PUT, "?versioning").body(body)).await;
    }

    /// What every version in the bucket holds, in no certain order; delete markers hold nothing.
    pub async fn versions(&self) -> Vec<Vec<u8>> {
        let listed = self.send(self.request(Method::GET, "?versions")).await.text().await.expect("a document");
        let mut contents = Vec::new();
        for (key, version) in texts(&listed, "Key").iter().zip(texts(&listed, "VersionId")) {
            let request = self.request(Method::GET, &format!("{}?versionId={version}", path(key)));
            let response = request.send().await.expect("moto answers");
            if response.status() != StatusCode::METHOD_NOT_ALLOWED {
                assert!(response.status().is_success(), "{response:?}");
                contents.push(response.bytes().await.expect("the whole object").to_vec());
            }
        }
        contents
    }
}

/// The text of a gzip file, of all its members.
pub fn unzip(object: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(object).read_to_string(&mut text).expect("it is a gzip file");
    text
}

/// Keys are kept in ASCII, so that only their percent signs need a coat.
fn path(key: &str) -> String {
    assert!(key.is_ascii(), "{key}");
    format!("/{}", key.replace('%', "%25"))
}

/// The texts of all elements of a name.
fn texts(document: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let after = document.split(&open).skip(1);
    after.filter_map(|rest| rest.split(&close).next().map(str::to_owned)).collect()
}
