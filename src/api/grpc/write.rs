use std::collections::BTreeMap;

use tonic::Status;

use crate::api::grpc::proto::{
    CreateStreamSnapshotRequest, CreateStreamSnapshotResponse, PublishRequest, PublishResponse,
};
use crate::api::grpc::{convert, status};
use crate::event::{Invalid, Log, NewEvent};
use crate::store::Store;

/// One topic a call; the tenants of a batch may be many. Broadcasts go out once what is to be kept is kept.
pub async fn publish(store: &Store, request: PublishRequest) -> Result<PublishResponse, Status> {
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
    store.publish_all(batches).await.map_err(status::status)?;
    store.broadcast(broadcasts).await.map_err(status::status)?;
    Ok(PublishResponse {})
}

pub async fn create_stream_snapshot(
    store: &Store,
    request: CreateStreamSnapshotRequest,
) -> Result<CreateStreamSnapshotResponse, Status> {
    let CreateStreamSnapshotRequest { tenant_id, topic, stream, last_snapshotted_event_id, snapshot_event } = request;
    let log = Log::new(tenant_id, topic).map_err(status::invalid)?;
    let snapshot = snapshot_event.ok_or_else(|| Status::unknown("there is no snapshot event"))?;
    let snapshot = convert::new_event(snapshot).map_err(status::invalid)?;
    store.create_snapshot(&log, &stream, &last_snapshotted_event_id, snapshot).await.map_err(status::status)?;
    Ok(CreateStreamSnapshotResponse {})
}
