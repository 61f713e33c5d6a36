use std::sync::Arc;

use tonic::{Response, Status};

use crate::api::grpc::proto::{
    Event, GetEventRequest, GetLastEventByTypesRequest, GetLastEventRequest, IsStreamEmptyRequest,
    IsStreamEmptyResponse, PaginateEventsAfterEventIdRequest, PaginateEventsAfterEventIdResponse,
    PaginateEventsRequest, PaginateEventsResponse, PaginateStreamAfterEventIdRequest,
    PaginateStreamAfterEventIdResponse, PaginateStreamRequest, PaginateStreamResponse,
};
use crate::api::grpc::{SENT_BYTES_MAX, convert, status};
use crate::event::{Filter, Log};
use crate::store::{Held, PageSize, Query, SnapshotChoice, Store, StreamPage, StreamQuery};

/// The size of a page where the client asks for the next one by its number.
const WHOLE: PageSize = PageSize::Whole(SENT_BYTES_MAX as i64);
/// The size of a page where the client asks for the events behind the last one next.
const CUT: PageSize = PageSize::Cut(SENT_BYTES_MAX as i64);

pub async fn get_event(store: &Store, request: GetEventRequest) -> Result<Event, Status> {
    let GetEventRequest { tenant_id, topic, id } = request;
    let log = convert::log(tenant_id, topic)?;
    let event = store.event(&log, &id).await.map_err(status::status)?;
    let event = event.ok_or_else(|| Status::unknown(format!("unable to find event {id:?}")))?;
    Ok(convert::event(&log, event))
}

pub async fn get_last_event(store: &Store, request: GetLastEventRequest) -> Result<Event, Status> {
    let GetLastEventRequest { tenant_id, topic } = request;
    last(store, convert::log(tenant_id, topic)?, &[], "unable to find last event").await
}

pub async fn get_last_event_by_types(store: &Store, request: GetLastEventByTypesRequest) -> Result<Event, Status> {
    let GetLastEventByTypesRequest { tenant_id, topic, types } = request;
    last(store, convert::log(tenant_id, topic)?, &types, "unable to find last event by types").await
}

/// Returns the newest event of these types, or the error `none`, for whose words clients look.
async fn last(store: &Store, log: Log, types: &[String], none: &'static str) -> Result<Event, Status> {
    let event = store.last_event(&log, types).await.map_err(status::status)?;
    Ok(convert::event(&log, event.ok_or_else(|| Status::unknown(none))?))
}

pub async fn paginate_events(
    store: &Store,
    request: PaginateEventsRequest,
) -> Result<Response<PaginateEventsResponse>, Status> {
    let PaginateEventsRequest { tenant_id, topic, types, page, per_page } = request;
    let query = query(Filter::types(types), 1, (page, per_page));
    let (events, held) = page_of(store, convert::log(tenant_id, topic)?, query, WHOLE).await?;
    Ok(held_with(PaginateEventsResponse { events }, held))
}

pub async fn paginate_events_after_event_id(
    store: &Store,
    request: PaginateEventsAfterEventIdRequest,
) -> Result<Response<PaginateEventsAfterEventIdResponse>, Status> {
    let PaginateEventsAfterEventIdRequest { tenant_id, topic, types, event_id, page, per_page } = request;
    let log = convert::log(tenant_id, topic)?;
    let from = after(store, &log, &event_id).await?;
    // Clients that ask for page 0 go on behind the last event that they saw.
    let size = if page <= 0 { CUT } else { WHOLE };
    let (events, held) = page_of(store, log, query(Filter::types(types), from, (page, per_page)), size).await?;
    Ok(held_with(PaginateEventsAfterEventIdResponse { events }, held))
}

pub async fn is_stream_empty(store: &Store, request: IsStreamEmptyRequest) -> Result<IsStreamEmptyResponse, Status> {
    let IsStreamEmptyRequest { tenant_id, topic, stream } = request;
    let is_empty = store.is_stream_empty(&convert::log(tenant_id, topic)?, &stream).await.map_err(status::status)?;
    Ok(IsStreamEmptyResponse { is_empty })
}

/// Reads a stream from its start, which is the same as behind no event.
pub async fn paginate_stream(
    store: &Store,
    request: PaginateStreamRequest,
) -> Result<Response<PaginateStreamResponse>, Status> {
    let PaginateStreamRequest {
        tenant_id,
        topic,
        stream,
        page,
        per_page,
        deployment_id,
        snapshot_event_id,
        do_not_use_snapshots,
    } = request;
    let request = PaginateStreamAfterEventIdRequest {
        tenant_id,
        topic,
        stream,
        event_id: String::new(),
        page,
        per_page,
        deployment_id,
        snapshot_event_id,
        do_not_use_snapshots,
    };
    Ok(paginate_stream_after_event_id(store, request).await?.map(|response| {
        let PaginateStreamAfterEventIdResponse { events, snapshot_event_id } = response;
        PaginateStreamResponse { events, snapshot_event_id }
    }))
}

pub async fn paginate_stream_after_event_id(
    store: &Store,
    request: PaginateStreamAfterEventIdRequest,
) -> Result<Response<PaginateStreamAfterEventIdResponse>, Status> {
    let PaginateStreamAfterEventIdRequest {
        tenant_id,
        topic,
        stream,
        event_id,
        page,
        per_page,
        deployment_id,
        snapshot_event_id,
        do_not_use_snapshots,
    } = request;
    let log = convert::log(tenant_id, topic)?;
    let from = after(store, &log, &event_id).await?;
    let snapshot = snapshot_choice(snapshot_event_id, do_not_use_snapshots, page);
    let query = StreamQuery { stream, from, page, per_page, deployment_id, snapshot };
    // Clients go on with page 1, 2, 3… of the same request, so that no page may be cut short.
    let (page, held) = store.read_stream(&log, &query, WHOLE).await.map_err(status::status)?;
    let StreamPage { events, snapshot_id } = page;
    let events = convert::events(&log, events, WHOLE).map_err(status::status)?;
    // An empty id says that the page was read without a snapshot.
    let snapshot_event_id = snapshot_id.unwrap_or_default();
    Ok(held_with(PaginateStreamAfterEventIdResponse { events, snapshot_event_id }, held))
}

/// Chooses the snapshot of a page. If the first page was read without one, the pages behind it are, too: a snapshot
/// that was made meanwhile would shift them.
fn snapshot_choice(snapshot_event_id: String, do_not_use_snapshots: bool, page: i64) -> SnapshotChoice {
    match (do_not_use_snapshots, snapshot_event_id.is_empty()) {
        (true, _) => SnapshotChoice::None,
        (false, false) => SnapshotChoice::Named(snapshot_event_id),
        (false, true) if page > 0 => SnapshotChoice::None,
        (false, true) => SnapshotChoice::Newest,
    }
}

/// Returns the position behind an event, or the first position if no event is named.
async fn after(store: &Store, log: &Log, event_id: &str) -> Result<i64, Status> {
    if event_id.is_empty() {
        return Ok(1);
    }
    let position = store.position_of(log, event_id).await.map_err(status::status)?;
    let position = position.ok_or_else(|| Status::unknown(format!("unable to find event {event_id:?}")))?;
    Ok(position + 1)
}

fn query(filter: Filter, from: i64, (page, per_page): (i64, i64)) -> Query {
    Query { filter, from, skip: page.max(0).saturating_mul(per_page), limit: per_page }
}

/// Reads a page, which is empty if it is to have no events or lies past the end.
async fn page_of(store: &Store, log: Log, query: Query, size: PageSize) -> Result<(Vec<Event>, Held), Status> {
    if query.limit <= 0 {
        return Ok((Vec::new(), Held::default()));
    }
    let (page, held) = store.read_page(&log, &query, size).await.map_err(status::status)?;
    Ok((convert::events(&log, page.events, size).map_err(status::status)?, held))
}

fn held_with<T>(response: T, held: Held) -> Response<T> {
    let mut response = Response::new(response);
    response.extensions_mut().insert(Arc::new(held));
    response
}
