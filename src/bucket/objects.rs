use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::Method;
use http::header::{ETAG, HeaderMap, RANGE};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::bucket::documents::document;
use crate::bucket::metadata::{FORMAT_VERSION, Said};
use crate::bucket::pace::Pace;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error, object_key};
use crate::event::Log;

/// The deadline of a ranged read: its caller waits, and can ask again.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The least pace at which the body of a whole object has to come.
const PACE: Pace = Pace { patience: Duration::from_secs(60), bytes_per_second_min: 10_000.0 };
const DEFAULT_REGION: &str = "us-east-1";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateBucketConfiguration<'a> {
    location_constraint: &'a str,
}

/// The data by which an object is known without being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub etag: String,
    pub said: Said,
}

impl Bucket {
    /// Proves that the bucket is there and that the credentials open it. The request is a list, because its answer says
    /// why if they do not; the answer to a HEAD would have no body.
    pub async fn open(&self) -> Result<(), Error> {
        match self.list("", Some(1)).await {
            Err(Error::Refused { code, .. }) if code == "NoSuchBucket" => {
                Err(Error::NotFound { object: self.name.clone() })
            }
            outcome => outcome.map(drop),
        }
    }

    /// Like [`Bucket::open`], and makes the bucket if it is missing.
    pub async fn ensure(&self) -> Result<(), Error> {
        match self.open().await {
            Err(Error::NotFound { .. }) => {}
            outcome => return outcome,
        }
        match self.client.repeat(&self.creation()).await {
            Ok(_) => {
                tracing::info!(bucket = self.name, "bucket made");
                Ok(())
            }
            // Another replica was faster, or a stranger.
            Err(refusal @ Error::Refused { status: 409, .. }) => match self.open().await {
                Err(Error::Refused { .. }) => Err(refusal),
                outcome => outcome,
            },
            Err(error) => Err(error),
        }
    }

    /// The request that makes the bucket. Some servers refuse to be told the default region; AWS wants to be told every
    /// other one.
    fn creation(&self) -> Request {
        let request = Request::new(Method::PUT, "");
        if self.region == DEFAULT_REGION {
            return request;
        }
        request.body(document(&CreateBucketConfiguration { location_constraint: &self.region }))
    }

    /// Proves that the bucket answers.
    pub async fn check(&self) -> Result<(), Error> {
        self.client.repeat(&Request::new(Method::HEAD, "")).await.map(drop)
    }

    pub async fn head(&self, log: &Log, archive_id: Uuid) -> Result<Head, Error> {
        self.head_of(&object_key(log, archive_id)).await
    }

    pub async fn head_of(&self, key: &str) -> Result<Head, Error> {
        head(key, self.client.repeat(&Request::new(Method::HEAD, key)).await?.headers())
    }

    /// Streams a whole object, or a version of it. A body that breaks off in the middle is an error, never an early
    /// end.
    pub(super) async fn get(
        &self,
        request: &Request,
    ) -> Result<(Head, impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>), Error> {
        let (key, response) = (request.key(), self.client.repeat(request).await?);
        let head = head(key, response.headers())?;
        check_format(key, &head.said)?;
        Ok((head, body_of(key.to_owned(), response)))
    }

    /// Reads the bytes `start..end` of the object that bears `expected_etag` and is `object_bytes` long.
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
        check_format(key, &Said::from_headers(&headers))?;
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

    /// Deletes the object of an archive; succeeds if there is none.
    pub async fn delete(&self, log: &Log, archive_id: Uuid) -> Result<(), Error> {
        self.delete_key(&object_key(log, archive_id)).await
    }

    pub(super) async fn delete_key(&self, key: &str) -> Result<(), Error> {
        self.may_write().await?;
        match self.client.repeat_empty(&Request::new(Method::DELETE, key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn body_of(
    key: String,
    response: reqwest::Response,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<> {
    Box::pin(PACE.keep(format!("GET {key}"), Box::pin(response.bytes_stream())))
}

/// The ETag in quotes, as it is in the headers of an answer: some servers leave the quotes out of lists.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}

fn head(key: &str, headers: &HeaderMap) -> Result<Head, Error> {
    Ok(Head { etag: etag(key, headers)?, said: Said::from_headers(headers) })
}

/// Refuses an object of another format, which a later version of ours may have written. An object that names no format
/// is read.
fn check_format(key: &str, said: &Said) -> Result<(), Error> {
    match said.format {
        Some(format) if format != FORMAT_VERSION => Err(Error::Damaged {
            object: key.to_owned(),
            why: format!("its format is version {format}, and only version {FORMAT_VERSION} is known"),
        }),
        _ => Ok(()),
    }
}

pub(super) fn etag(key: &str, headers: &HeaderMap) -> Result<String, Error> {
    let etag = headers.get(ETAG).and_then(|value| value.to_str().ok());
    etag.map(str::to_owned).ok_or_else(|| Error::Damaged { object: key.to_owned(), why: "it bears no ETag".into() })
}
