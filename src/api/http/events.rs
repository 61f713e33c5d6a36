use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::event_document::{EventDocument, NewEventDocument};
use crate::api::held::hold;
use crate::api::http::cursor;
use crate::api::http::parameters::{Content, EventIdOfPath, LogOfPath, Parameters};
use crate::api::http::problem::Problem;
use crate::event::{Event, Invalid, Log, NewEvent, read_from_objects};
use crate::store::{self, PageSize, Query, Store};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 10_000;
/// The bytes of a page in memory, about; a page always has room for one event.
const PAGE_BYTES_MAX: i64 = 32 * 1024 * 1024;
const NDJSON: &str = "application/x-ndjson";

/// Events of one log, which are published all or not at all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PublishRequest {
    events: Vec<NewEventDocument>,
}

read_from_objects!(PublishRequest);

#[derive(Debug, Serialize, ToSchema)]
pub struct PublishResponse {
    /// The results, in the order of the events.
    published: Vec<PublishedDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PublishedDocument {
    id: String,
    position: i64,
    /// False if the event had been published before.
    is_new: bool,
}

/// Events in the order of their positions.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageDocument<'a> {
    events: Vec<EventDocument<'a>>,
    /// The cursor to read on with, now or later: there may be events behind the last page some day.
    next_cursor: String,
    /// There may be more events already.
    has_more: bool,
    /// The position of the log's newest event; 0 if it has none.
    head_position: i64,
}

/// Publish events
///
/// Publishes all of the events or none. They can be read once the call is answered. An event that was published before
/// with the same content is left alone; if its content is another one, nothing is published.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/events", tag = "events",
    params(("topic" = String, Path), ("tenant" = Option<String>, Query, description = "none is the global tenant")),
    request_body = PublishRequest,
    responses((status = 201, body = PublishResponse), (status = 400, body = Problem), (status = 409, body = Problem),
              (status = 503, body = Problem)),
)]
pub async fn publish(
    State(store): State<Arc<Store>>,
    LogOfPath(log): LogOfPath,
    parameters: Parameters,
    Content(body): Content,
) -> Result<Response, Problem> {
    parameters.allow(&["tenant"])?;
    let PublishRequest { events } = serde_json::from_slice(&body).map_err(Problem::invalid)?;
    let checked = events.into_iter().enumerate().map(|(index, event)| {
        let event = NewEvent::try_from(event).and_then(NewEvent::check);
        event.map_err(|Invalid(why)| Problem::invalid(format!("event {index}: {why}")))
    });
    let published = store.publish(&log, checked.collect::<Result<_, _>>()?).await?;
    let published = published.into_iter().map(|published| {
        let store::Published { id, position, is_new } = published;
        PublishedDocument { id, position, is_new }
    });
    Ok((StatusCode::CREATED, Json(PublishResponse { published: published.collect() })).into_response())
}

/// Read events
///
/// The answer is a page as JSON, of about 32 MiB at most: `next_cursor` leads on. A page that `page` asks for is whole,
/// or refused if it is too large. The answer to `Accept: application/x-ndjson` is everything up to the end of the log
/// as it is when it is reached, one event a line. Events come in the order of their positions, wherever they are
/// stored. A stream of lines that cannot be completed is broken off, never ended.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/events", tag = "events",
    params(
        ("topic" = String, Path), ("tenant" = Option<String>, Query, description = "none is the global tenant"),
        ("cursor" = Option<String>, Query, description = "where the last page said to read on"),
        ("from" = Option<i64>, Query, description = "the first position that is wanted", minimum = 1),
        ("after_id" = Option<String>, Query, description = "the event behind which to begin"),
        ("page" = Option<i64>, Query, description = "how many pages of `limit` events to pass over", minimum = 0),
        ("limit" = Option<i64>, Query, description = "events on a page, 100 if not said; lines may be more", minimum = 1,
         maximum = 10_000),
        ("type" = Option<Vec<String>>, Query, description = "events of any of these types; repeat the parameter"),
        ("stream" = Option<String>, Query, description = "events of this stream"),
    ),
    responses((status = 200, content((PageDocument = "application/json"), (EventDocument = "application/x-ndjson"))),
              (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)),
)]
pub async fn read(
    State(store): State<Arc<Store>>,
    LogOfPath(log): LogOfPath,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.allow(&["tenant", "cursor", "from", "after_id", "page", "limit", "type", "stream"])?;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_lines = accept.contains(NDJSON);
    let limit = parameters.number("limit", (1, if is_lines { i64::MAX } else { LIMIT_MAX }))?;
    let limit = limit.unwrap_or(if is_lines { i64::MAX } else { LIMIT_DEFAULT });
    let page = parameters.number("page", (0, i64::MAX))?;
    // A reader that counts pages would miss the events that a shorter page leaves out.
    let size = if page.is_some() { PageSize::Whole(i64::MAX) } else { PageSize::Cut(PAGE_BYTES_MAX) };
    let query = Query {
        filter: parameters.filter()?,
        from: begin(&store, &log, &parameters).await?,
        skip: page.unwrap_or_default().saturating_mul(limit),
        limit,
    };
    if is_lines { lines(&store, log, query).await } else { one_page(&store, &log, &query, size).await }
}

async fn begin(store: &Store, log: &Log, parameters: &Parameters) -> Result<i64, Problem> {
    let from = parameters.number("from", (1, i64::MAX))?;
    match (parameters.one("cursor")?, from, parameters.one("after_id")?) {
        (None, None, None) => Ok(1),
        (Some(cursor), None, None) => cursor::parse(cursor),
        (None, Some(from), None) => Ok(from),
        (None, None, Some(id)) => Ok(find(store, log, id).await?.position + 1),
        _ => Err(Problem::invalid("a page begins at a cursor, from a position or after an id: only one of them")),
    }
}

async fn find(store: &Store, log: &Log, id: &str) -> Result<Event, Problem> {
    let event = store.event(log, id).await?;
    event.ok_or_else(|| Problem::not_found(format!("there is no event {id:?} in {log}")))
}

async fn one_page(store: &Store, log: &Log, query: &Query, size: PageSize) -> Result<Response, Problem> {
    let (page, held) = store.read_page(log, query, size).await?;
    let has_more = page.is_cut || page.events.len() as i64 == query.limit;
    let next = match page.events.last() {
        Some(last) if has_more => last.position + 1,
        // The read has passed everything up to the head.
        _ => query.from.max(page.head_position + 1),
    };
    let document = PageDocument {
        events: page.events.iter().map(|event| EventDocument::new(log, event)).collect(),
        next_cursor: next.to_string(),
        has_more,
        head_position: page.head_position,
    };
    let body = Bytes::from(serde_json::to_vec(&document).map_err(Problem::invalid)?);
    Ok(([(header::CONTENT_TYPE, "application/json")], hold(body, held.into())).into_response())
}

async fn lines(store: &Arc<Store>, log: Log, query: Query) -> Result<Response, Problem> {
    let mut windows = Box::pin(store.replay(log.clone(), query));
    // An error before the first line still has a status.
    let first = windows.next().await.transpose()?.unwrap_or_default();
    let body = futures::stream::iter([Ok(first)]).chain(windows).map(move |window| {
        window.map(|events| {
            let mut lines = Vec::new();
            for event in events {
                EventDocument::new(&log, &event).append_to(&mut lines);
                lines.push(b'\n');
            }
            Bytes::from(lines)
        })
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response())
}

/// Read one event
#[utoipa::path(
    get, path = "/v1/topics/{topic}/events/{event_id}", tag = "events",
    params(("topic" = String, Path), ("event_id" = String, Path),
           ("tenant" = Option<String>, Query, description = "none is the global tenant")),
    responses((status = 200, body = EventDocument), (status = 404, body = Problem), (status = 503, body = Problem)),
)]
pub async fn event(
    State(store): State<Arc<Store>>,
    LogOfPath(log): LogOfPath,
    EventIdOfPath(event_id): EventIdOfPath,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.allow(&["tenant"])?;
    let event = find(&store, &log, &event_id).await?;
    Ok(Json(EventDocument::new(&log, &event)).into_response())
}

/// Read the newest event
#[utoipa::path(
    get, path = "/v1/topics/{topic}/last-event", tag = "events",
    params(("topic" = String, Path), ("tenant" = Option<String>, Query, description = "none is the global tenant"),
           ("type" = Option<Vec<String>>, Query, description = "of any of these types; repeat the parameter")),
    responses((status = 200, body = EventDocument), (status = 404, body = Problem), (status = 503, body = Problem)),
)]
pub async fn last_event(
    State(store): State<Arc<Store>>,
    LogOfPath(log): LogOfPath,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.allow(&["tenant", "type"])?;
    let event = store.last_event(&log, &parameters.many("type")).await?;
    let event = event.ok_or_else(|| Problem::not_found(format!("there is no such event in {log}")))?;
    Ok(Json(EventDocument::new(&log, &event)).into_response())
}
