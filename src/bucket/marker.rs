//! The marker: the object that says whose bucket it is.

use http::Method;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bucket::keys::MARKER_KEY;
use crate::bucket::objects::etag;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error};
use crate::event::{read_from_objects, written_as_derived};

/// The version of a bucket's layout. The first version knew deployments and no owners.
const FORMAT_VERSION: u32 = 2;
const FORMAT_WITHOUT_OWNER: u32 = 1;

/// The deployment and the owner of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    pub deployment_id: Uuid,
    /// The owner's claim; `None` in a marker from before there were owners.
    pub owner: Option<Claim>,
    /// The claim of a database that takes the bucket over unless the owner answers.
    pub challenger: Option<Claim>,
}

/// One database's claim to a bucket; no other claim is equal to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Claim {
    /// The number of the claim, higher than that of any claim before.
    pub epoch: i64,
    pub token: Uuid,
    /// The identifier of the Postgres cluster, if it is known, as text: not every reader of JSON holds such a number.
    pub cluster: Option<String>,
    pub database: i64,
    /// The time at which the Postgres server was started, in microseconds.
    pub instance: i64,
}

/// A marker, and the ETag with which it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub marker: Marker,
    pub etag: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct MarkerDocument {
    format: u32,
    deployment_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Claim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    challenger: Option<Claim>,
}

read_from_objects!(Claim, MarkerDocument);
written_as_derived!(Claim);
written_as_derived!(MarkerDocument);

impl Bucket {
    /// Reads the marker; `None` if the bucket has none.
    pub async fn marker(&self) -> Result<Option<Marked>, Error> {
        let (headers, body) = match self.client.repeat_whole(&Request::new(Method::GET, MARKER_KEY)).await {
            Ok(answer) => answer,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Marked { marker: parse(&body)?, etag: etag(MARKER_KEY, &headers)? }))
    }

    /// Writes a marker in place of the one that bears `expected_etag`, or where there is none. False if another one is
    /// there by now. If the server honours no condition, the later of two writers has it: both look again.
    pub async fn mark(&self, marker: &Marker, expected_etag: Option<&str>) -> Result<bool, Error> {
        self.refuse_if_read_only()?;
        let conditional = match expected_etag {
            Some(etag) => self.put(marker).header(IF_MATCH.as_str(), etag),
            None => self.put(marker).header(IF_NONE_MATCH.as_str(), "*"),
        };
        match self.client.repeat(&conditional).await {
            Ok(_) => return Ok(true),
            // Not every server knows conditions; one that does refuses a retry of a write that has happened.
            Err(Error::Changed { .. } | Error::NotFound { .. } | Error::Refused { status: 400 | 409 | 501, .. }) => {}
            Err(error) => return Err(error),
        }
        let found = self.marker().await?;
        if found.as_ref().is_some_and(|found| found.marker == *marker) {
            return Ok(true);
        }
        if found.as_ref().map(|found| found.etag.as_str()) != expected_etag {
            return Ok(false);
        }
        self.client.repeat_written(&self.put(marker)).await?;
        Ok(true)
    }

    fn put(&self, marker: &Marker) -> Request {
        let request = Request::new(Method::PUT, MARKER_KEY).header("content-type", "application/json");
        self.writing.object(request.content(document(marker)))
    }
}

fn document(marker: &Marker) -> Vec<u8> {
    let Marker { deployment_id, owner, challenger } = marker.clone();
    let document = MarkerDocument { format: FORMAT_VERSION, deployment_id, owner, challenger };
    serde_json::to_vec(&document).expect("a marker always serializes into memory")
}

fn parse(body: &[u8]) -> Result<Marker, Error> {
    let damaged = |why: String| Error::Damaged { object: MARKER_KEY.to_owned(), why };
    let MarkerDocument { format, deployment_id, owner, challenger } =
        serde_json::from_slice(body).map_err(|error| damaged(format!("it is no marker of a bucket: {error}")))?;
    match (format, &owner) {
        (FORMAT_WITHOUT_OWNER, None) | (FORMAT_VERSION, Some(_)) => Ok(Marker { deployment_id, owner, challenger }),
        (FORMAT_WITHOUT_OWNER | FORMAT_VERSION, _) => Err(damaged("it does not say who owns the bucket".into())),
        _ => Err(damaged(format!("it is of format {format}, and {FORMAT_VERSION} is known here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let claim = |epoch| Claim {
            epoch,
            token: Uuid::from_u128(7),
            cluster: Some("7423456789012345678".into()),
            database: 16_384,
            instance: 1_700_000_000_000_000,
        };
        for challenger in [None, Some(claim(2))] {
            let marker = Marker { deployment_id: Uuid::from_u128(1), owner: Some(claim(1)), challenger };
            assert_eq!(parse(&document(&marker)).unwrap(), marker);
        }
    }

    #[test]
    fn a_marker_from_before_there_were_owners_is_read() {
        let text = r#"{"format":1,"deployment_id":"00000000-0000-0000-0000-000000000001"}"#;
        let expected = Marker { deployment_id: Uuid::from_u128(1), owner: None, challenger: None };
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        for wrong in [text.replace(":1,", ":2,"), text.replace(":1,", ":3,"), "<html></html>".to_owned()] {
            assert!(matches!(parse(wrong.as_bytes()), Err(Error::Damaged { .. })), "{wrong}");
        }
    }
}
