use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::Method;
use http::header::{ETAG, HeaderMap, RANGE};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::bucket::client::Request;
use crate::bucket::upload::{ARCHIVE_ID_HEADER, WRITE_ID_HEADER};
use crate::bucket::{Bucket, Error, object_key};
use crate::event::Log;

/// Somebody waits for it, and can ask again.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_REGION: &str = "us-east-1";

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub etag: String,
    pub archive_id: Option<Uuid>,
    pub write_id: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub bytes: i64,
    /// `None` where the server does not say.
    pub modified_at: Option<OffsetDateTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListPage {
    #[serde(default)]
    contents: Vec<ListEntry>,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListEntry {
    key: String,
    size: i64,
    #[serde(default)]
    last_modified: String,
}

impl Bucket {
    /// Makes the bucket where it is missing, and proves that the credentials open it.
    pub async fn ensure(&self) -> Result<(), Error> {
        let head = Request::new(Method::HEAD, "");
        match self.client.repeat(&head).await {
            Ok(_) => return self.list("", Some(1)).await.map(drop),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.client.repeat(&self.creation()).await {
            Ok(_) => {
                tracing::info!(bucket = self.name, "bucket made");
                Ok(())
            }
            // Another replica was faster.
            Err(Error::Refused { status: 409, .. }) => self.client.repeat(&head).await.map(drop),
            Err(error) => Err(error),
        }
    }

    /// In the default region some servers refuse to be told the region, elsewhere AWS wants to be.
    fn creation(&self) -> Request {
        let request = Request::new(Method::PUT, "");
        if self.region == DEFAULT_REGION {
            return request;
        }
        request.body(format!(
            "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
            self.region
        ))
    }

    /// Whether it answers.
    pub async fn check(&self) -> Result<(), Error> {
        self.client.repeat(&Request::new(Method::HEAD, "")).await.map(drop)
    }

    pub async fn head(&self, log: &Log, archive_id: Uuid) -> Result<Head, Error> {
        self.head_of(&object_key(log, archive_id)).await
    }

    pub(super) async fn head_of(&self, key: &str) -> Result<Head, Error> {
        let response = self.client.repeat(&Request::new(Method::HEAD, key)).await?;
        let id = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.and_then(|id| Uuid::parse_str(id).ok())
        };
        let etag = etag(key, response.headers())?;
        Ok(Head { etag, archive_id: id(ARCHIVE_ID_HEADER), write_id: id(WRITE_ID_HEADER) })
    }

    /// The whole object as it comes, and its ETag. What breaks off in the middle is an error, never an early end.
    pub async fn get(
        &self,
        log: &Log,
        archive_id: Uuid,
    ) -> Result<(String, impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>), Error> {
        let key = object_key(log, archive_id);
        let response = self.client.repeat(&Request::new(Method::GET, &key)).await?;
        Ok((etag(&key, response.headers())?, body_of(key, response)))
    }

    /// What a request answers, as it comes.
    pub(super) async fn body(
        &self,
        request: &Request,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        Ok(body_of(request.key().to_owned(), self.client.repeat(request).await?))
    }

    /// Bytes `start..end` of the object that bears `expected_etag`, which is `object_bytes` long.
    pub(super) async fn get_range(
        &self,
        key: &str,
        (start, end): (i64, i64),
        expected_etag: &str,
        object_bytes: i64,
    ) -> Result<Bytes, Error> {
        let request = Request::new(Method::GET, key)
            .header(RANGE.as_str(), format!("bytes={start}-{}", end - 1))
            .header("if-match", expected_etag);
        let damaged = |why: String| Error::Damaged { object: key.to_owned(), why };
        let answer = tokio::time::timeout(READ_TIMEOUT, self.client.repeat_whole(&request)).await;
        let silent =
            || Error::Unavailable { what: format!("GET {key}: no answer within {} s", READ_TIMEOUT.as_secs()) };
        let (headers, body) = answer.map_err(|_| silent())?.map_err(|error| match error {
            Error::Refused { status: 416, .. } => damaged(format!("it ends before byte {start}")),
            error => error,
        })?;
        // Not every server honours the condition.
        if etag(key, &headers)? != expected_etag {
            return Err(Error::Changed { object: key.to_owned() });
        }
        let expected_range = format!("bytes {start}-{}/{object_bytes}", end - 1);
        let range = headers.get("content-range").and_then(|value| value.to_str().ok()).unwrap_or("no range");
        if range != expected_range {
            return Err(damaged(format!("the answer bears {range:?} and not {expected_range:?}")));
        }
        if body.len() as i64 != end - start {
            return Err(damaged(format!("the answer has {} bytes and not {}", body.len(), end - start)));
        }
        Ok(body)
    }

    /// Whether it was there or not, it is gone afterwards.
    pub async fn delete(&self, log: &Log, archive_id: Uuid) -> Result<(), Error> {
        self.delete_key(&object_key(log, archive_id)).await
    }

    pub(super) async fn delete_key(&self, key: &str) -> Result<(), Error> {
        match self.client.repeat(&Request::new(Method::DELETE, key)).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The objects below a prefix, in the order of their keys; all, or at most as many as are wanted.
    pub async fn list(&self, prefix: &str, objects_max: Option<usize>) -> Result<Vec<ListedObject>, Error> {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let (objects, next) = self.list_page(prefix, from, objects_max).await?;
            found.extend(objects);
            from = next;
            if from.is_none() || objects_max.is_some_and(|objects_max| found.len() >= objects_max) {
                return Ok(found);
            }
        }
    }

    /// As many as the server gives at once, and where the next ones begin.
    pub async fn list_page(
        &self,
        prefix: &str,
        from: Option<String>,
        objects_max: Option<usize>,
    ) -> Result<(Vec<ListedObject>, Option<String>), Error> {
        let request = Request::new(Method::GET, "")
            .query("list-type", "2")
            .query("prefix", prefix)
            .query_if("continuation-token", from)
            .query_if("max-keys", objects_max.map(|objects_max| objects_max.to_string()));
        let (_, body) = self.client.repeat_whole(&request).await?;
        let page: ListPage = parse_xml(&self.name, &body)?;
        let objects = page.contents.into_iter().map(|ListEntry { key, size, last_modified }| ListedObject {
            key,
            bytes: size,
            modified_at: parse_instant(&last_modified),
        });
        Ok((objects.collect(), page.next_continuation_token))
    }
}

pub(super) fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn body_of(
    key: String,
    response: reqwest::Response,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<> {
    let body = response.bytes_stream();
    Box::pin(body.map_err(move |error| Error::Unavailable { what: format!("GET {key} broke off: {error}") }))
}

fn etag(key: &str, headers: &HeaderMap) -> Result<String, Error> {
    let etag = headers.get(ETAG).and_then(|value| value.to_str().ok());
    etag.map(str::to_owned).ok_or_else(|| Error::Damaged { object: key.to_owned(), why: "it bears no ETag".into() })
}

pub(super) fn parse_xml<T: serde::de::DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, Error> {
    let text = String::from_utf8_lossy(body);
    quick_xml::de::from_str(&text)
        .map_err(|error| Error::Unavailable { what: format!("the answer for {what} is no S3 document: {error}") })
}
