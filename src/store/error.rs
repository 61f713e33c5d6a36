//! The errors of the store's verbs. Each variant is an error that a caller treats differently from the others.

use crate::bucket;
use crate::database::{self, CommitError};
use crate::event::Invalid;

/// The reason why a call gave way to another one. Nothing happened, and the same call can succeed at once.
#[derive(Debug, thiserror::Error)]
pub enum GaveWay {
    #[error("another writer is at work on the log's archives")]
    LeaseHeld,
    #[error("another writer has taken over the log's archives")]
    LeaseLost,
    #[error("another writer has settled the intent")]
    IntentSettled,
    #[error("events were edited meanwhile")]
    Edited,
    /// The events, their archive or its object are no longer where they were.
    #[error("{0} was moved or replaced meanwhile")]
    Moved(String),
    #[error("other processes claim the bucket at the same time")]
    BucketClaimed,
    /// Postgres ended the transaction for the sake of another one.
    #[error(transparent)]
    Statement(database::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An event of the same id was published before with other content.
    #[error("the event {id:?} was published before with other content")]
    Conflict { id: String },
    /// Postgres or S3 is unavailable or busy: the same call can succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// The stored data differs from the data that was written.
    #[error("{0}")]
    Damaged(String),
    /// S3 refuses one object and gives others: a retry fails until an operator has acted.
    #[error("{0}")]
    ObjectRefused(String),
    /// The event is archived, and this process was started without a bucket.
    #[error(
        "the event is archived, and no bucket is configured: set S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY"
    )]
    NoBucket,
    /// Another call came first: nothing happened, and the same call can succeed at once.
    #[error(transparent)]
    GaveWay(#[from] GaveWay),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("the page has about {bytes} bytes, at most {bytes_max} are sent: ask for fewer events at once")]
    TooLarge { bytes: i64, bytes_max: i64 },
}

impl Error {
    /// Returns whether Postgres or S3 is unavailable, or no bucket is configured. Calls that need neither can succeed.
    pub(in crate::store) fn is_away(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::NoBucket)
    }

    /// Returns whether only one object is in trouble, so that work on other objects can go on.
    pub fn is_of_one_object(&self) -> bool {
        matches!(self, Error::Damaged(_) | Error::ObjectRefused(_))
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Error {
        match error {
            database::Error::Unavailable(_) | database::Error::ReadOnly => Error::Unavailable(error.to_string()),
            database::Error::GaveWay(_) => GaveWay::Statement(error).into(),
            database::Error::Damaged(_) => Error::Damaged(error.to_string()),
            database::Error::Refused(_) | database::Error::Migrate(_) | database::Error::Unusable(_) => {
                Error::Refused(error.to_string())
            }
        }
    }
}

impl From<bucket::Error> for Error {
    fn from(error: bucket::Error) -> Error {
        match error {
            bucket::Error::Unavailable { .. } | bucket::Error::Unknown { .. } | bucket::Error::NoCredentials { .. } => {
                Error::Unavailable(error.to_string())
            }
            bucket::Error::NotFound { .. } | bucket::Error::Changed { .. } | bucket::Error::Damaged { .. } => {
                Error::Damaged(error.to_string())
            }
            bucket::Error::ObjectRefused { .. } => Error::ObjectRefused(error.to_string()),
            // The credentials have expired or lack a permission: an operator replaces them, and callers retry.
            bucket::Error::Refused { status: 401 | 403, .. } => Error::Unavailable(error.to_string()),
            bucket::Error::Refused { .. } | bucket::Error::Fenced { .. } | bucket::Error::ReadOnly { .. } => {
                Error::Refused(error.to_string())
            }
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Error {
        match error {
            CommitError::Refused(error) => error.into(),
            CommitError::Unknown(_) => Error::Unavailable(error.to_string()),
        }
    }
}
