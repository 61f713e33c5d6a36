//! The HTTP/JSON API. The tenant is a parameter of the query and not a segment of the path, because the empty tenant
//! and a tenant named `_` are two tenants, and no segment can be empty.

mod cursor;
mod description;
mod edits;
mod events;
mod operations;
mod parameters;
mod problem;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRef, MatchedPath, Request};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::door::{Door, Late, Paced, Patience, Visitor};
use crate::api::http::problem::Problem;
use crate::store::Store;

const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of a request's line and headers. Names and types in a query are long at times.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The number of clients that may connect, and the time for which the server waits for them.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub connections_max: usize,
    /// The limit for a request to begin and for its head to be complete, for the next piece of its body, and for any
    /// byte of an answer to be taken.
    pub timeout: Duration,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Coldstream",
    description = "An event store on Postgres that never outgrows Postgres.",
    license(name = "MIT OR Apache-2.0")
))]
struct Description;

#[derive(Clone, FromRef)]
struct Shared {
    store: Arc<Store>,
    metrics: PrometheusHandle,
}

/// Serves until `shutdown` is cancelled and every request that had begun before is answered.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    store: Arc<Store>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let Settings { connections_max, timeout } = settings;
    let patience = Patience { opening: timeout, silence: None, stall: Some(timeout) };
    let mut door = Door::new("http", listener, connections_max, patience);
    // All connections share one table of routes, of which each has a handle.
    let router = router(store, metrics);
    let visits = TaskTracker::new();
    while let Some(visitor) = shutdown.run_until_cancelled(door.next()).await {
        let (mut crowded, shutdown) = (door.crowded(), shutdown.clone());
        // A client that asks nothing just now makes room for others.
        let leave = async move {
            tokio::select! { _ = crowded.changed() => {}, () = shutdown.cancelled() => {} }
        };
        visits.spawn(attend(visitor, router.clone(), timeout, leave));
    }
    drop(door);
    visits.close();
    visits.wait().await;
    Ok(())
}

/// Answers the requests of one connection until it ends. After `leave`, only requests that have come already are
/// answered.
async fn attend(visitor: Visitor, router: Router, timeout: Duration, leave: impl Future<Output = ()>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(HEAD_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(timeout).keep_alive_timeout(timeout);
    let paced = router.map_request(move |request: axum::http::Request<Incoming>| {
        request.map(|body| Body::new(Paced::new(body, timeout, || Late.into())))
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(visitor), TowerToHyperService::new(paced)));
    tokio::select! {
        // The connection is polled first, so that it answers the requests that have come by now.
        biased;
        // The end of a connection is not logged: a client that left is no error of the service.
        _ = connection.as_mut() => return,
        () = leave => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

fn router(store: Arc<Store>, metrics: PrometheusHandle) -> Router {
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(events::publish, events::read))
        .routes(routes!(events::event, edits::edit))
        .routes(routes!(events::last_event))
        .routes(routes!(edits::edit_by_id))
        .routes(routes!(operations::topics))
        .routes(routes!(operations::health))
        .routes(routes!(operations::ready))
        .routes(routes!(operations::metrics))
        .split_for_parts();
    let description = Bytes::from(description::complete(&description).to_string());
    let description = async move || ([(CONTENT_TYPE, "application/json")], description);
    router
        .route("/openapi.json", routing::get(description))
        .fallback(async || Problem::not_found("there is nothing at this path; /openapi.json lists what there is"))
        .with_state(Shared { store, metrics })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(problems_only))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR, "see the log of the service").into_response()
        }))
        .layer(middleware::from_fn(count))
}

/// Gives refusals of the layers beneath a problem document as well.
async fn problems_only(request: Request, next: Next) -> Response {
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bodies are taken without encoding")
            .into_response();
    }
    let response = next.run(request).await;
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (status, allow) = (response.status(), response.headers().get(ALLOW).cloned());
    if status.is_success() || content_type == "application/problem+json" {
        return response;
    }
    let detail = axum::body::to_bytes(response.into_body(), 1024).await.unwrap_or_default();
    let mut problem = Problem::of_status(status, String::from_utf8_lossy(&detail)).into_response();
    if let Some(allow) = allow {
        problem.headers_mut().insert(ALLOW, allow);
    }
    problem.headers_mut().entry("x-content-type-options").or_insert(HeaderValue::from_static("nosniff"));
    problem
}

async fn count(request: Request, next: Next) -> Response {
    let started = Instant::now();
    // A client can make up any method, and each would be a series of its own.
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::PUT, Method::DELETE, Method::OPTIONS];
    let method = known.iter().find(|known| *known == request.method()).map_or("other", Method::as_str).to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let labels = [("method", method), ("route", route), ("status", response.status().as_u16().to_string())];
    metrics::counter!("coldstream_http_requests_total", &labels).increment(1);
    metrics::histogram!("coldstream_http_request_seconds", &labels).record(started.elapsed().as_secs_f64());
    response
}
