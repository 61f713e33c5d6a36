use std::error::Error;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::api::door::Late;
use crate::api::http::problem::Problem;
use crate::event::{Filter, Log};

/// The query of a request. A parameter that is unknown, or comes twice where it may not, is refused: a misspelt filter
/// must not give everything.
pub struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Parameters, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        // Bytes that are no UTF-8 would become this character, and mean another name.
        if pairs.iter().any(|(_, value)| value.contains('\u{fffd}')) {
            return Err(Problem::invalid("the query is not valid UTF-8"));
        }
        if let Some((name, _)) = pairs.iter().find(|(_, value)| value.contains('\0')) {
            return Err(Problem::invalid(format!("the parameter {name:?} contains a NUL character")));
        }
        Ok(Parameters(pairs))
    }
}

impl Parameters {
    pub fn allow(&self, names: &[&str]) -> Result<(), Problem> {
        match self.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => {
                Err(Problem::invalid(format!("there is no parameter {name:?}; there are {}", names.join(", "))))
            }
            None => Ok(()),
        }
    }

    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid(format!("the parameter {name:?} comes twice")));
        }
        Ok(first)
    }

    pub fn many(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Returns the value of a parameter that is a whole number within a range.
    pub fn number(&self, name: &str, (min, max): (i64, i64)) -> Result<Option<i64>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::invalid(format!("the parameter {name:?} is no whole number from {min} to {max}"))),
        }
    }

    /// Returns a filter by type or by stream, not by both.
    pub fn filter(&self) -> Result<Filter, Problem> {
        let types = self.many("type");
        match self.one("stream")? {
            None => Ok(Filter::types(types)),
            Some(_) if !types.is_empty() => Err(Problem::invalid("events are read by type or by stream, not by both")),
            Some(stream) => Ok(Filter::Stream(stream.to_owned())),
        }
    }
}

/// The log that a request is about: `tenant` in the query, where none or an empty one is the global tenant, and the
/// topic in the path.
pub struct LogOfPath(pub Log);

impl<S: Send + Sync> FromRequestParts<S> for LogOfPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<LogOfPath, Problem> {
        let topic = path_parameter(parts, state, "topic").await?;
        let parameters = Parameters::from_request_parts(parts, state).await?;
        Ok(LogOfPath(Log::new(parameters.one("tenant")?.unwrap_or_default(), topic)?))
    }
}

/// The `event_id` in the path.
pub struct EventIdOfPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for EventIdOfPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<EventIdOfPath, Problem> {
        path_parameter(parts, state, "event_id").await.map(EventIdOfPath)
    }
}

/// The body of a request, whole.
pub struct Content(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Content {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Content, Problem> {
        Bytes::from_request(request, state).await.map(Content).map_err(|rejection| {
            let mut causes = std::iter::successors(Some(&rejection as &dyn Error), |error| (*error).source());
            match causes.any(|cause| cause.is::<Late>()) {
                true => Problem::of_status(StatusCode::REQUEST_TIMEOUT, Late),
                false => Problem::of_status(rejection.status(), rejection.body_text()),
            }
        })
    }
}

async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Problem> {
    let path =
        RawPathParams::from_request_parts(parts, state).await.map_err(|error| Problem::invalid(error.body_text()))?;
    let value = path.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    match value {
        Some(value) if value.contains('\0') => Err(Problem::invalid(format!("the {name} contains a NUL character"))),
        Some(value) => Ok(value),
        None => Err(Problem::invalid(format!("there is no {name} in the path"))),
    }
}
