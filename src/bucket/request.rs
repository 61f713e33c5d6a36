//! A request to the bucket, before it is signed.

use bytes::Bytes;
use http::Method;
use s3::signing;

/// One request; `key` is empty if the request is about the bucket.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) key: String,
    /// The object that the request is about, if that is not the one at `key`.
    about: Option<String>,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// The body becomes an object, or a part of one.
    pub(super) is_content: bool,
}

impl Request {
    pub fn new(method: Method, key: impl Into<String>) -> Request {
        Request {
            method,
            key: key.into(),
            about: None,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            is_content: false,
        }
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn has_query(&self, name: &str) -> bool {
        self.query.iter().any(|(query, _)| *query == name)
    }

    /// Returns whether the request makes an object, or begins, feeds or completes an upload.
    pub fn is_written(&self) -> bool {
        !self.key.is_empty() && (self.method == Method::PUT || self.method == Method::POST)
    }

    /// Names the object for whose sake the bucket is asked: a refusal is about that object.
    pub fn about(mut self, key: &str) -> Request {
        self.about = Some(key.to_owned());
        self
    }

    pub(super) fn object(&self) -> &str {
        self.about.as_deref().unwrap_or(&self.key)
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.query.push((name, value.into()));
        self
    }

    pub fn query_if(self, name: &'static str, value: Option<String>) -> Request {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    /// Makes the server copy the bytes from `first` to `last`, inclusive, of an object of this bucket.
    pub fn copying(self, bucket: &str, key: &str, (first, last): (i64, i64)) -> Request {
        self.header("x-amz-copy-source", format!("/{bucket}/{}", signing::uri_encode(key, false)))
            .header("x-amz-copy-source-range", format!("bytes={first}-{last}"))
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Request {
        self.body = body.into();
        self
    }

    /// Sets a body that becomes an object, or a part of one, with a checksum for the server to check.
    pub fn content(self, body: impl Into<Bytes>) -> Request {
        Request { is_content: true, ..self.body(body) }
    }
}

/// Shows the method and the key, or a slash for the bucket itself.
impl std::fmt::Display for Request {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.method, if self.key.is_empty() { "/" } else { &self.key })
    }
}
