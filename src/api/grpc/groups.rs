use std::sync::Arc;

use tonic::Status;

use crate::api::grpc::proto::{
    BackchannelRequest, BackchannelResponse, ErroneousEvent, Event, EventMetadata, GetLastHandledEventRequest,
    ListErroneousEventsRequest, ListErroneousEventsResponse, ResendErroneousEventRequest, ResendErroneousEventResponse,
    WaitForTransactionalConsistencyRequest, WaitForTransactionalConsistencyResponse, backchannel_request::Payload,
};
use crate::api::grpc::{SENT_BYTES_MAX, convert, status};
use crate::event::check_group;
use crate::store::{self, Group, Store};

/// The limit of a list where the request names none.
const ERRONEOUS_EVENTS: usize = 100;

pub fn group(name: String, is_parallel: bool) -> Result<Group, Status> {
    check_group(&name).map_err(status::invalid)?;
    Ok(Group { name, is_parallel })
}

/// Returns the last event that a group has handled. Clients look for the words of the error.
pub async fn get_last_handled_event(store: &Store, request: GetLastHandledEventRequest) -> Result<Event, Status> {
    let GetLastHandledEventRequest { tenant_id, topic, group: name, parallel_topic_processing } = request;
    let (log, group) = (convert::log(tenant_id, topic)?, group(name, parallel_topic_processing)?);
    let event = store.last_handled(&log, &group).await.map_err(status::status)?;
    let none = || Status::unknown("unable to find last handled event: unable to find last event");
    Ok(convert::event(&log, event.ok_or_else(none)?))
}

/// Waits until groups have handled the events of a correlation. An event that was not handled is an answer, since
/// clients take a status for a failure of the call.
pub async fn wait_for_transactional_consistency(
    store: &Arc<Store>,
    request: WaitForTransactionalConsistencyRequest,
) -> Result<WaitForTransactionalConsistencyResponse, Status> {
    let WaitForTransactionalConsistencyRequest {
        tenant_id,
        topic,
        correlation_id,
        consumer_groups,
        parallel_topic_processing,
    } = request;
    let log = convert::log(tenant_id, topic)?;
    let groups = consumer_groups.into_iter().map(|name| group(name, parallel_topic_processing));
    let groups: Vec<Group> = groups.collect::<Result<_, _>>()?;
    let outcome = store.wait_until_handled(&log, &correlation_id, &groups).await.map_err(status::status)?;
    let (success, error) = (outcome.is_ok(), outcome.err().unwrap_or_default());
    Ok(WaitForTransactionalConsistencyResponse { success, error })
}

pub async fn list_erroneous_events(
    store: &Store,
    request: ListErroneousEventsRequest,
) -> Result<ListErroneousEventsResponse, Status> {
    let ListErroneousEventsRequest { tenant_id, topic, event_types, limit, parallel_topic_processing } = request;
    let log = convert::log(tenant_id, topic)?;
    let limit = if limit <= 0 { ERRONEOUS_EVENTS } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    let limits = (limit, SENT_BYTES_MAX as i64 / 2);
    let erroneous = store.erroneous_events(&log, parallel_topic_processing, event_types, limits);
    let events = erroneous.await.map_err(status::status)?.into_iter().map(|erroneous| {
        let store::ErroneousEvent { event, group_name, error, retry_number } = erroneous;
        let mut event = convert::event(&log, event);
        event.metadata = event.metadata.map(|metadata| EventMetadata { retry_number, ..metadata });
        ErroneousEvent { event: Some(event), consumer_group: group_name, error }
    });
    Ok(ListErroneousEventsResponse { events: events.collect() })
}

pub async fn resend_erroneous_event(
    store: &Store,
    request: ResendErroneousEventRequest,
) -> Result<ResendErroneousEventResponse, Status> {
    let ResendErroneousEventRequest { tenant_id, topic, consumer_group, event_id, parallel_topic_processing } = request;
    let (log, group) = (convert::log(tenant_id, topic)?, group(consumer_group, parallel_topic_processing)?);
    store.resend_erroneous(&log, &group, &event_id).await.map_err(status::status)?;
    Ok(ResendErroneousEventResponse {})
}

/// Takes a notice from another process. Replicas of Coldstream notify each other through Postgres; a notice that comes
/// this way does the same.
pub async fn backchannel(store: &Arc<Store>, request: BackchannelRequest) -> Result<BackchannelResponse, Status> {
    match request.payload {
        None => return Err(Status::unknown("the payload is missing")),
        Some(Payload::Broadcast(event)) => {
            let log = convert::log(event.tenant_id.clone(), event.topic.clone())?;
            let event = convert::received_broadcast(event).map_err(status::invalid)?;
            store.broadcast_here(&log, event);
        }
        Some(Payload::Notice(notice)) => {
            let log = convert::log(notice.tenant_id, notice.topic)?;
            store.look_at(&log).await.map_err(status::status)?;
        }
        Some(Payload::Handled(notice)) => {
            convert::log(notice.tenant_id, notice.topic)?;
            store.look_at_progress();
        }
    }
    Ok(BackchannelResponse {})
}
