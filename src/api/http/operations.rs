use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::http::cursor;
use crate::api::http::parameters::Parameters;
use crate::api::http::problem::Problem;
use crate::event::Instant;
use crate::store::{Store, TopicStatus, TopicsPage};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// Topics in the order in which they were made.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopicsDocument {
    topics: Vec<TopicDocument>,
    /// The cursor to read on with; none on the last page.
    next_cursor: Option<String>,
    has_more: bool,
    /// Bytes on disk of all hot events, with their indexes.
    table_bytes: i64,
}

#[derive(Debug, Serialize, ToSchema)]
struct TopicDocument {
    tenant_id: String,
    topic: String,
    /// The position of the newest event.
    head_position: i64,
    hot_events: i64,
    /// The bytes of the hot events' rows in Postgres, about, without their share of the indexes.
    hot_bytes: i64,
    oldest_hot_raised_at: Option<String>,
    archived_events: i64,
    /// The bytes of the topic's objects.
    archived_bytes: i64,
}

/// List topics
///
/// Each topic is listed with its events and bytes in Postgres and in the bucket.
#[utoipa::path(
    get, path = "/v1/topics", tag = "operations",
    params(
        ("cursor" = Option<String>, Query, description = "where the last page said to read on"),
        ("limit" = Option<i64>, Query, description = "topics on a page, 100 if not said", minimum = 1, maximum = 1_000),
    ),
    responses((status = 200, body = TopicsDocument), (status = 400, body = Problem), (status = 503, body = Problem)),
)]
pub async fn topics(State(store): State<Arc<Store>>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.allow(&["cursor", "limit"])?;
    let limit = parameters.number("limit", (1, LIMIT_MAX))?.unwrap_or(LIMIT_DEFAULT);
    let after = parameters.one("cursor")?.map(cursor::parse).transpose()?.unwrap_or(0);
    let TopicsPage { topics, has_more, table_bytes } = store.topics(after, limit).await?;
    let next_cursor = topics.last().filter(|_| has_more).map(|last| last.log_row.id.to_string());
    let topics = topics.into_iter().map(|TopicStatus { log_row, hot_bytes, oldest_hot_raised_at }| TopicDocument {
        tenant_id: log_row.log.tenant().to_owned(),
        topic: log_row.log.topic().to_owned(),
        head_position: log_row.head_position,
        hot_events: log_row.hot_count(),
        hot_bytes,
        oldest_hot_raised_at: oldest_hot_raised_at.map(Instant::to_rfc3339),
        archived_events: log_row.archived_count,
        archived_bytes: log_row.archived_object_bytes,
    });
    Ok(Json(TopicsDocument { topics: topics.collect(), next_cursor, has_more, table_bytes }).into_response())
}

/// Check that the process lives
#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, body = str)))]
pub async fn health() -> &'static str {
    "ok\n"
}

/// Check that the process can serve
#[utoipa::path(
    get, path = "/ready", tag = "operations",
    responses((status = 200, body = str), (status = 503, body = Problem)),
)]
pub async fn ready(State(store): State<Arc<Store>>) -> Result<String, Problem> {
    store.check().await.map_err(Problem::unavailable)?;
    // A process that may not write to the bucket serves all the same.
    let fenced = store.fenced().map_or_else(String::new, |why| format!("{why}\n"));
    Ok(format!("ready\n{fenced}"))
}

/// Read the metrics in the format of Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = str)))]
pub async fn metrics(State(handle): State<PrometheusHandle>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
}
