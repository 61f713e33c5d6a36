use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Invalid;
use crate::store;

/// Seconds after which a call that found something away may be tried again.
const RETRY_AFTER_SECONDS: &str = "5";

/// The reason why a request was not fulfilled (RFC 9457, `application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of the problem: `urn:coldstream:problem:…`.
    r#type: String,
    title: String,
    status: u16,
    /// The fault of this very request.
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &str, detail: impl ToString) -> Problem {
        Problem {
            r#type: format!("urn:coldstream:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.to_string(),
        }
    }

    pub fn invalid(detail: impl ToString) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "invalid", "The request is invalid", detail)
    }

    pub fn not_found(detail: impl ToString) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    pub fn not_editable(detail: impl ToString) -> Problem {
        let title = "Only the payload of an event can be edited";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-editable", title, detail)
    }

    pub fn unavailable(detail: impl ToString) -> Problem {
        let title = "Something that is needed is away, try again later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail)
    }

    /// Makes the problem of a status that a library beneath has answered without a document.
    pub fn of_status(status: StatusCode, detail: impl ToString) -> Problem {
        let title = status.canonical_reason().unwrap_or("The request failed");
        Problem::new(status, &title.to_lowercase().replace(' ', "-"), title, detail)
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Problem {
        Problem::invalid(error)
    }
}

/// Converts an error to a status, for every operation.
impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Problem {
        match error {
            store::Error::Invalid(error) => Problem::invalid(error),
            store::Error::NotFound(_) => Problem::not_found(error),
            store::Error::Conflict { .. } => {
                Problem::new(StatusCode::CONFLICT, "conflict", "The id was published before with other content", error)
            }
            store::Error::TooLarge { .. } => {
                Problem::new(StatusCode::BAD_REQUEST, "too-large", "The page is too large", error)
            }
            store::Error::Unavailable(_) | store::Error::NoBucket | store::Error::GaveWay(_) => {
                Problem::unavailable(error)
            }
            store::Error::Damaged(_) => {
                tracing::error!(%error, "what is stored is damaged");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "What is stored is damaged", error)
            }
            store::Error::ObjectRefused(_) => {
                tracing::error!(%error, "an object is refused");
                let title = "S3 refuses an object that is needed";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "object-refused", title, error)
            }
            store::Error::Refused(_) => {
                tracing::error!(%error, "a server beneath refused");
                let title = "A server beneath refused";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "refused", title, "see the log of the service")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("texts and numbers always serialize");
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}
