use http::Method;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bucket::client::Request;
use crate::bucket::{Bucket, Error};
use crate::event::{read_from_objects, written_as_derived};

/// No archive has such a key: theirs have three segments.
const MARKER_KEY: &str = "coldstream.json";
/// Of the layout of a bucket.
const FORMAT_VERSION: u32 = 1;

pub fn is_marker(key: &str) -> bool {
    key == MARKER_KEY
}

/// Says whose bucket it is.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Marker {
    format: u32,
    deployment_id: Uuid,
}

read_from_objects!(Marker);
written_as_derived!(Marker);

impl Bucket {
    /// The deployment whose archives are in the bucket; `None` if it does not say.
    pub async fn owner(&self) -> Result<Option<Uuid>, Error> {
        let body = match self.client.repeat_whole(&Request::new(Method::GET, MARKER_KEY)).await {
            Ok((_, body)) => body,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |why: String| Error::Damaged { object: MARKER_KEY.to_owned(), why };
        let Marker { format, deployment_id } =
            serde_json::from_slice(&body).map_err(|error| damaged(format!("it is no marker of a bucket: {error}")))?;
        if format != FORMAT_VERSION {
            return Err(damaged(format!("it is of format {format}, and {FORMAT_VERSION} is known here")));
        }
        Ok(Some(deployment_id))
    }

    /// Marks a bucket that is nobody's, and says whose it then is: of two that do so at once the later one has it.
    pub async fn claim(&self, deployment_id: Uuid) -> Result<Option<Uuid>, Error> {
        let marker = Marker { format: FORMAT_VERSION, deployment_id };
        let text = serde_json::to_vec(&marker).expect("a marker always serializes into memory");
        let request = Request::new(Method::PUT, MARKER_KEY).header("content-type", "application/json").body(text);
        self.client.repeat(&request).await?;
        self.owner().await
    }
}
