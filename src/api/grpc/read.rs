use tonic::Status;

use crate::api::grpc::proto::{
    Event, GetEventRequest, GetLastEventByTypesRequest, GetLastEventRequest, IsStreamEmptyRequest,
    IsStreamEmptyResponse, PaginateEventsAfterEventIdRequest, PaginateEventsAfterEventIdResponse,
    PaginateEventsRequest, PaginateEventsResponse, PaginateStreamAfterEventIdRequest,
    PaginateStreamAfterEventIdResponse, PaginateStreamRequest, PaginateStreamResponse,
};
use crate::api::grpc::{convert, status};
use crate::event::{Filter, Log};
use crate::store::{Query, SnapshotChoice, Store, StreamPage, StreamQuery};

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

/// Clients look for the words of `none`.
async fn last(store: &Store, log: Log, types: &[String], none: &'static str) -> Result<Event, Status> {
    let event = store.last_event(&log, types).await.map_err(status::status)?;
    Ok(convert::event(&log, event.ok_or_else(|| Status::unknown(none))?))
}

pub async fn paginate_events(store: &Store, request: PaginateEventsRequest) -> Result<PaginateEventsResponse, Status> {
    let PaginateEventsRequest { tenant_id, topic, types, page, per_page } = request;
    let events = page_of(store, convert::log(tenant_id, topic)?, Filter::types(types), 1, (page, per_page)).await?;
    Ok(PaginateEventsResponse { events })
}

pub async fn paginate_events_after_event_id(
    store: &Store,
    request: PaginateEventsAfterEventIdRequest,
) -> Result<PaginateEventsAfterEventIdResponse, Status> {
    let PaginateEventsAfterEventIdRequest { tenant_id, topic, types, event_id, page, per_page } = request;
    let log = convert::log(tenant_id, topic)?;
    let from = after(store, &log, &event_id).await?;
    let events = page_of(store, log, Filter::types(types), from, (page, per_page)).await?;
    Ok(PaginateEventsAfterEventIdResponse { events })
}

pub async fn is_stream_empty(store: &Store, request: IsStreamEmptyRequest) -> Result<IsStreamEmptyResponse, Status> {
    let IsStreamEmptyRequest { tenant_id, topic, stream } = request;
    let events = page_of(store, convert::log(tenant_id, topic)?, Filter::Stream(stream), 1, (0, 1)).await?;
    Ok(IsStreamEmptyResponse { is_empty: events.is_empty() })
}

/// Behind no event is from the start.
pub async fn paginate_stream(store: &Store, request: PaginateStreamRequest) -> Result<PaginateStreamResponse, Status> {
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
    let PaginateStreamAfterEventIdResponse { events, snapshot_event_id } =
        paginate_stream_after_event_id(store, request).await?;
    Ok(PaginateStreamResponse { events, snapshot_event_id })
}

pub async fn paginate_stream_after_event_id(
    store: &Store,
    request: PaginateStreamAfterEventIdRequest,
) -> Result<PaginateStreamAfterEventIdResponse, Status> {
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
    let StreamPage { events, snapshot_id } = store.read_stream(&log, &query).await.map_err(status::status)?;
    let events = events.into_iter().map(|event| convert::event(&log, event)).collect();
    // Empty if there was none.
    Ok(PaginateStreamAfterEventIdResponse { events, snapshot_event_id: snapshot_id.unwrap_or_default() })
}

/// A page behind the first one without a snapshot is read without: one that was made meanwhile would shift it.
fn snapshot_choice(snapshot_event_id: String, do_not_use_snapshots: bool, page: i64) -> SnapshotChoice {
    match (do_not_use_snapshots, snapshot_event_id.is_empty()) {
        (true, _) => SnapshotChoice::None,
        (false, false) => SnapshotChoice::Named(snapshot_event_id),
        (false, true) if page > 0 => SnapshotChoice::None,
        (false, true) => SnapshotChoice::Newest,
    }
}

/// The position behind an event; behind no event, the first one.
async fn after(store: &Store, log: &Log, event_id: &str) -> Result<i64, Status> {
    if event_id.is_empty() {
        return Ok(1);
    }
    let position = store.position_of(log, event_id).await.map_err(status::status)?;
    let position = position.ok_or_else(|| Status::unknown(format!("unable to find event {event_id:?}")))?;
    Ok(position + 1)
}

/// A page of nothing, and one past the end, are empty.
async fn page_of(
    store: &Store,
    log: Log,
    filter: Filter,
    from: i64,
    (page, per_page): (i64, i64),
) -> Result<Vec<Event>, Status> {
    if per_page <= 0 {
        return Ok(Vec::new());
    }
    let query = Query { filter, from, skip: page.max(0).saturating_mul(per_page), limit: per_page };
    let page = store.read(&log, &query).await.map_err(status::status)?;
    Ok(page.events.into_iter().map(|event| convert::event(&log, event)).collect())
}
