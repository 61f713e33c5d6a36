use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use tonic::Status;

use crate::api::grpc::proto::{
    CreateStreamSnapshotRequest, CreateStreamSnapshotResponse, IntroduceGdprOnEventFieldRequest,
    IntroduceGdprOnEventFieldResponse, InvalidateGdprRequest, InvalidateGdprResponse, PublishRequest, PublishResponse,
    RenameEventTypeRequest, RenameEventTypeResponse,
};
use crate::api::grpc::{PUBLISHED_BYTES_MAX, convert, status};
use crate::event::{Invalid, Log, NewEvent};
use crate::store::Store;

/// Publishes events of one topic and any number of tenants. Broadcasts go out once all other events are stored.
pub async fn publish(store: &Arc<Store>, request: PublishRequest) -> Result<PublishResponse, Status> {
    let bytes = request.encoded_len();
    if bytes > PUBLISHED_BYTES_MAX {
        let why = format!("the request has {bytes} bytes, at most {PUBLISHED_BYTES_MAX} are taken");
        return Err(status::invalid(Invalid(why)));
    }
    let PublishRequest { topic, events } = request;
    let mut batches: BTreeMap<Log, Vec<NewEvent>> = BTreeMap::new();
    let mut broadcasts: Vec<(Log, NewEvent)> = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        let tenant = event.tenant_id.clone();
        let is_broadcast = event.options.as_ref().is_some_and(|options| options.broadcast);
        let checked = Log::new(tenant, topic.clone()).and_then(|log| Ok((log, convert::new_event(event)?)));
        let (log, event) = checked.map_err(|Invalid(why)| status::invalid(Invalid(format!("event {index}: {why}"))))?;
        match is_broadcast {
            true => broadcasts.push((log, event)),
            false => batches.entry(log).or_default().push(event),
        }
    }
    // A broadcast that is refused keeps the whole batch from being published.
    store.check_events(broadcasts.iter().map(|(_, event)| event)).map_err(status::invalid)?;
    store.publish_all(batches).await.map_err(status::status)?;
    store.broadcast(broadcasts).await.map_err(status::status)?;
    Ok(PublishResponse {})
}

pub async fn create_stream_snapshot(
    store: &Store,
    request: CreateStreamSnapshotRequest,
) -> Result<CreateStreamSnapshotResponse, Status> {
    let CreateStreamSnapshotRequest { tenant_id, topic, stream, last_snapshotted_event_id, snapshot_event } = request;
    let log = convert::log(tenant_id, topic)?;
    let snapshot = snapshot_event.ok_or_else(|| Status::unknown("there is no snapshot event"))?;
    let snapshot = convert::new_event(snapshot).map_err(status::invalid)?;
    store.create_snapshot(&log, &stream, &last_snapshotted_event_id, snapshot).await.map_err(status::status)?;
    Ok(CreateStreamSnapshotResponse {})
}

pub async fn introduce_gdpr_on_event_field(
    store: &Store,
    request: IntroduceGdprOnEventFieldRequest,
) -> Result<IntroduceGdprOnEventFieldResponse, Status> {
    let IntroduceGdprOnEventFieldRequest { tenant_id, topic, event_id, field_name, default_value } = request;
    let log = convert::log(tenant_id, topic)?;
    let default = convert::default_of(&default_value);
    store.introduce_gdpr(&log, &event_id, &field_name, default).await.map_err(status::status)?;
    Ok(IntroduceGdprOnEventFieldResponse {})
}

pub async fn invalidate_gdpr(store: &Store, request: InvalidateGdprRequest) -> Result<InvalidateGdprResponse, Status> {
    let InvalidateGdprRequest { tenant_id, topic, gdpr_id } = request;
    let log = convert::log(tenant_id, topic)?;
    store.invalidate_gdpr(&log, &gdpr_id).await.map_err(status::status)?;
    Ok(InvalidateGdprResponse {})
}

/// Renames a type on a task of its own: many hot events take longer than a client waits, and the client's next attempt
/// finds the work done.
pub async fn rename_event_type(
    store: &Arc<Store>,
    request: RenameEventTypeRequest,
) -> Result<RenameEventTypeResponse, Status> {
    let RenameEventTypeRequest { topic, old_type, new_type } = request;
    let store = Arc::clone(store);
    let renamed = tokio::spawn(async move { store.rename_type(&topic, &old_type, &new_type).await });
    renamed.await.map_err(|error| Status::unavailable(error.to_string()))?.map_err(status::status)?;
    Ok(RenameEventTypeResponse {})
}
