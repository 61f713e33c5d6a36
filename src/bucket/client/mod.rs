//! Signed requests to one bucket.
//!
//! rust-s3 makes the signature. The request itself is sent from here, because rust-s3's own calls know no conditions on
//! completing an upload, no versions, and no idle timeout.

mod signature;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};

use crate::bucket::advice::{self, Refusal, root_cause};
use crate::bucket::credentials::CredentialSource;
use crate::bucket::documents::error_code;
use crate::bucket::keys::{MARKER_KEY, is_marker};
use crate::bucket::refusals::{Reach, reach};
use crate::bucket::request::Request;
use crate::bucket::retries::Retries;
use crate::bucket::{Addressing, Checksum, Error, Settings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time without a byte, after which a connection is given up. A whole answer may take longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// The deadline of a small answer once it has begun: an answer that comes a byte at a time is as good as none.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Client {
    http: reqwest::Client,
    /// The address of the bucket, without a trailing slash.
    base: String,
    region: s3::Region,
    credentials: CredentialSource,
    checksum: Option<Checksum>,
    /// The server takes SHA-256. This holds until the server is found to refuse it.
    takes_sha256: AtomicBool,
    retries: Retries,
}

impl Client {
    pub fn new(settings: &Settings) -> Result<Client, Error> {
        let scheme = if settings.ssl { "https" } else { "http" };
        let Settings { endpoint, bucket, region, .. } = settings;
        let base = match settings.addressing {
            Addressing::Path => format!("{scheme}://{endpoint}/{bucket}"),
            Addressing::Virtual => format!("{scheme}://{bucket}.{endpoint}"),
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // The system has many certificates, and plain text needs none.
            .tls_built_in_root_certs(settings.ssl)
            .build()
            .map_err(|error| refused(format!("the settings of the bucket {bucket}"), "InvalidSettings", &error))?;
        Ok(Client {
            http,
            region: s3::Region::Custom { region: region.clone(), endpoint: base.clone() },
            base,
            credentials: CredentialSource::new(settings)?,
            checksum: settings.writing.checksum,
            takes_sha256: AtomicBool::new(true),
            retries: Retries::new(),
        })
    }

    pub fn checksum(&self) -> Checksum {
        let takes_sha256 = self.takes_sha256.load(Ordering::Relaxed);
        self.checksum.unwrap_or(if takes_sha256 { Checksum::Sha256 } else { Checksum::Md5 })
    }

    /// Gives up SHA-256, which the server does not take. True if another checksum is to be tried now.
    pub fn unlearn_checksum(&self) -> bool {
        self.checksum.is_none() && self.takes_sha256.swap(false, Ordering::Relaxed)
    }

    /// Sends a request that may be repeated without harm, and repeats it while the server is away or busy.
    pub async fn repeat(&self, request: &Request) -> Result<reqwest::Response, Error> {
        self.retries.attempt(|| self.once(request)).await
    }

    /// Like [`Client::repeat`], for small answers that are wanted whole.
    pub async fn repeat_whole(&self, request: &Request) -> Result<(HeaderMap, Bytes), Error> {
        self.retries.attempt(|| self.once_whole(request)).await
    }

    /// Like [`Client::repeat_whole`], for objects that are written at the start: a server that does not know their
    /// checksum is sent another one from then on.
    pub async fn repeat_written(&self, request: &Request) -> Result<(HeaderMap, Bytes), Error> {
        match self.repeat_whole(request).await {
            Err(error @ Error::Refused { status: 400 | 501, .. }) if self.unlearn_checksum() => {
                tracing::warn!(%error, "objects bear Content-MD5 from now on, and no other checksum");
                self.repeat_whole(request).await
            }
            answer => answer,
        }
    }

    /// Like [`Client::repeat`], for requests whose answers are empty. An answer that is not empty does not come from
    /// S3, and S3 may not have received the request.
    pub async fn repeat_empty(&self, request: &Request) -> Result<(), Error> {
        let once = || async {
            let (_, body) = self.once_whole(request).await?;
            let Request { method, key, .. } = request;
            let foreign = || Error::Unavailable { what: format!("{method} {key}: something else has answered") };
            if body.is_empty() { Ok(()) } else { Err(foreign()) }
        };
        self.retries.attempt(once).await
    }

    /// Repeats an action of more than one request, as [`Client::repeat`] repeats one.
    pub async fn attempt<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        self.retries.attempt(attempt).await
    }

    /// Like [`Client::once`], for small answers that are wanted whole.
    pub async fn once_whole(&self, request: &Request) -> Result<(HeaderMap, Bytes), Error> {
        let response = self.once(request).await?;
        let headers = response.headers().clone();
        match tokio::time::timeout(WHOLE_TIMEOUT, response.bytes()).await {
            Ok(body) => Ok((headers, body.map_err(|error| unavailable(request, &error))?)),
            Err(_) => Err(Error::Unavailable { what: format!("{} {}: too slow", request.method, request.key) }),
        }
    }

    /// Sends a request once. A server that is busy or does not answer makes it [`Error::Unavailable`] if the request
    /// cannot have happened, and [`Error::Unknown`] if it may have.
    pub async fn once(&self, request: &Request) -> Result<reqwest::Response, Error> {
        match self.send(request).await {
            Err(Error::Refused { status, code, advice, .. }) if self.is_of_object(request, status, &code).await => {
                let (object, method) = (request.object().to_owned(), request.method.clone());
                Err(Error::ObjectRefused { object, method, status, code, advice })
            }
            outcome => outcome,
        }
    }

    /// Returns whether a refusal is about the object alone.
    async fn is_of_object(&self, request: &Request, status: u16, code: &str) -> bool {
        let object = request.object();
        if object.is_empty() || is_marker(object) {
            return false;
        }
        match reach(&request.method, status, code) {
            Reach::Object => true,
            Reach::Bucket | Reach::Request => false,
            Reach::Unclear => {
                let answer = self.send(&Request::new(Method::GET, MARKER_KEY)).await;
                matches!(answer, Ok(_) | Err(Error::NotFound { .. }))
            }
        }
    }

    async fn send(&self, request: &Request) -> Result<reqwest::Response, Error> {
        let prepared = self.sign(request).await?;
        metrics::counter!("coldstream_s3_requests_total", "method" => request.method.to_string()).increment(1);
        metrics::counter!("coldstream_s3_sent_bytes_total").increment(request.body.len() as u64);
        let response = self.http.execute(prepared).await.map_err(|error| {
            if error.is_connect() { unavailable(request, &error) } else { unknown(request, &error) }
        })?;
        if response.status().is_success() {
            self.retries.earn();
            let received = response.content_length().unwrap_or(0);
            metrics::counter!("coldstream_s3_received_bytes_total").increment(received);
            return Ok(response);
        }
        Err(refusal(request, response).await)
    }
}

/// The error for a request that cannot even be sent.
fn refused(what: String, code: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Refused { status: 0, code: code.to_owned(), what, advice: error.to_string() }
}

fn unavailable(request: &Request, error: &reqwest::Error) -> Error {
    Error::Unavailable { what: failure(request, error) }
}

fn unknown(request: &Request, error: &reqwest::Error) -> Error {
    if request.method == Method::GET || request.method == Method::HEAD {
        return unavailable(request, error);
    }
    Error::Unknown { what: failure(request, error) }
}

fn failure(request: &Request, error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    match advice::of_failure(&cause) {
        Some(advice) => format!("{request}: {cause}: {advice}"),
        None => format!("{request}: {cause}"),
    }
}

async fn refusal(request: &Request, response: reqwest::Response) -> Error {
    let status = response.status();
    let region =
        response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok()).map(str::to_owned);
    let body = tokio::time::timeout(WHOLE_TIMEOUT, response.text()).await.map(Result::unwrap_or_default);
    let body = body.unwrap_or_default();
    failed(request, status, region.as_deref(), &body)
}

/// The error for an answer that is no success.
fn failed(request: &Request, status: StatusCode, region: Option<&str>, body: &str) -> Error {
    let what = request.to_string();
    let code = error_code(body).unwrap_or_default();
    let said = || if code.is_empty() { status.to_string() } else { format!("{} {code}", status.as_u16()) };
    match status {
        StatusCode::NOT_FOUND if code != "NoSuchBucket" => Error::NotFound { object: request.key.clone() },
        StatusCode::PRECONDITION_FAILED => Error::Changed { object: request.key.clone() },
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            Error::Unavailable { what: format!("{what}: {}", said()) }
        }
        // The server failed half way, and nobody knows how far it came.
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            Error::Unknown { what: format!("{what}: {}", said()) }
        }
        status => {
            let status = status.as_u16();
            let advice = Refusal { request, status, code: &code, region, body }.advice();
            Error::Refused { status, code, what, advice }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_busy_or_failing_server_keeps_its_code() {
        let put = Request::new(Method::PUT, "a");
        for (status, body, expected) in [
            (503, "<Error><Code>SlowDown</Code></Error>", "not available: PUT a: 503 SlowDown"),
            (429, "", "not available: PUT a: 429 Too Many Requests"),
            (503, "<html>busy</html>", "not available: PUT a: 503 Service Unavailable"),
            (500, "<Error><Code>InternalError</Code></Error>", "whether it happened: PUT a: 500 InternalError"),
            (507, "<Error><Code>XMinioStorageFull</Code></Error>", "whether it happened: PUT a: 507 XMinioStorageFull"),
            (502, "", "whether it happened: PUT a: 502 Bad Gateway"),
            (404, "<Error><Code>NoSuchKey</Code></Error>", "there is no object a"),
            (404, "<Error><Code>NoSuchBucket</Code></Error>", "refused PUT a: 404 NoSuchBucket: "),
            (501, "<Error><Code>NotImplemented</Code></Error>", "refused PUT a: 501 NotImplemented: "),
        ] {
            let error = failed(&put, StatusCode::from_u16(status).unwrap(), None, body).to_string();
            assert!(error.contains(expected), "{status} {body}: {error}");
        }
    }
}
