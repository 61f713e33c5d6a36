//! Signatures of requests, which rust-s3 makes.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Mac;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use md5::Md5;
use s3::signing;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use url::Url;

use crate::bucket::client::{Client, refused};
use crate::bucket::request::Request;
use crate::bucket::{Checksum, Error};

const LONG_DATE: &[BorrowedFormatItem<'static>] = format_description!("[year][month][day]T[hour][minute][second]Z");

impl Client {
    pub(super) async fn sign(&self, request: &Request) -> Result<reqwest::Request, Error> {
        let unsigned = |error: &dyn std::fmt::Display| refused(request.to_string(), "NotSigned", error);
        let credential = self.credentials.get().await?;
        let url = self.url(request).map_err(|error| unsigned(&error))?;
        let now = OffsetDateTime::now_utc();
        let sha256 = Sha256::digest(&request.body);
        let digest = hex::encode(sha256);
        let mut headers = HeaderMap::new();
        let long_date = now.format(LONG_DATE).map_err(|error| unsigned(&error))?;
        let own = [
            (HOST.as_str(), authority(&url)),
            (CONTENT_LENGTH.as_str(), request.body.len().to_string()),
            ("x-amz-content-sha256", digest.clone()),
            ("x-amz-date", long_date),
        ];
        let token = credential.token.clone().map(|token| ("x-amz-security-token", token));
        let checksum = match self.checksum() {
            Checksum::Sha256 if request.is_content => Some(("x-amz-checksum-sha256", BASE64.encode(sha256))),
            Checksum::Md5 if request.is_content => Some(("content-md5", BASE64.encode(Md5::digest(&request.body)))),
            _ => None,
        };
        let given = request.headers.iter().cloned();
        for (name, value) in own.into_iter().chain(token).chain(checksum).chain(given) {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_str(&value).map_err(|error| unsigned(&error))?,
            );
        }
        let region = &self.region;
        let authorization = (|| {
            let canonical = canonical_request(request, &url, &headers, &digest);
            let to_sign = signing::string_to_sign(&now, region, &canonical)?;
            let key = signing::signing_key(&now, &credential.secret_key, region, "s3")?;
            let signature = hex::encode(hmac_sha256(&key, to_sign.as_bytes())?);
            let signed = signing::signed_header_string(&headers);
            signing::authorization_header(&credential.key_id, &now, region, &signed, &signature)
        })()
        .map_err(|error| unsigned(&error))?;
        headers.insert(
            http::header::AUTHORIZATION,
            HeaderValue::from_str(&authorization).map_err(|error| unsigned(&error))?,
        );
        let mut prepared = reqwest::Request::new(request.method.clone(), url);
        *prepared.headers_mut() = headers;
        *prepared.body_mut() = Some(request.body.clone().into());
        Ok(prepared)
    }

    fn url(&self, request: &Request) -> Result<Url, url::ParseError> {
        let mut text = self.base.clone();
        if !request.key.is_empty() {
            text.push('/');
            text.push_str(&signing::uri_encode(&request.key, false));
        }
        let query = request
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", signing::uri_encode(name, true), signing::uri_encode(value, true)));
        let query = query.collect::<Vec<_>>().join("&");
        if !query.is_empty() {
            text.push('?');
            text.push_str(&query);
        }
        Url::parse(&text)
    }
}

/// The canonical form of a request, which is signed. rust-s3's own sorts headers together with their values, which is
/// wrong where one name is the beginning of another.
fn canonical_request(request: &Request, url: &Url, headers: &HeaderMap, digest: &str) -> String {
    let names: BTreeSet<&str> = headers.keys().map(HeaderName::as_str).collect();
    let lines = names.iter().map(|name| format!("{name}:{}\n", headers[*name].to_str().unwrap_or_default().trim()));
    let (method, uri, query) =
        (&request.method, signing::canonical_uri_string(url), signing::canonical_query_string(url));
    let (lines, signed) = (lines.collect::<String>(), signing::signed_header_string(headers));
    format!("{method}\n{uri}\n{query}\n{lines}\n{signed}\n{digest}")
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Result<Vec<u8>, s3::error::S3Error> {
    let mut mac = signing::HmacSha256::new_from_slice(key)?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
