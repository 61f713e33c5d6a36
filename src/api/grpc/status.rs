use tonic::Status;

use crate::event::Invalid;
use crate::store;

/// Converts an error to a status, for every call. Clients repeat a call unless its status is UNKNOWN, so that permanent
/// errors are UNKNOWN.
pub fn status(error: store::Error) -> Status {
    match error {
        store::Error::Unavailable(_) | store::Error::NoBucket | store::Error::GaveWay(_) => {
            Status::unavailable(error.to_string())
        }
        store::Error::Invalid(_)
        | store::Error::Conflict { .. }
        | store::Error::TooLarge { .. }
        | store::Error::NotFound(_) => Status::unknown(error.to_string()),
        store::Error::Damaged(_) => {
            tracing::error!(%error, "what is stored is damaged");
            Status::unknown(error.to_string())
        }
        store::Error::ObjectRefused(_) => {
            tracing::error!(%error, "an object is refused");
            Status::unknown(error.to_string())
        }
        store::Error::Refused(_) => {
            tracing::error!(%error, "a server beneath refused");
            Status::unknown("a server beneath refused: see the log of the service")
        }
    }
}

pub fn invalid(error: Invalid) -> Status {
    Status::unknown(error.to_string())
}
