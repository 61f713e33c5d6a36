//! One connection of a subscriber. Its stream never ends with UNKNOWN, which clients take for the end of everything.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, Streaming};

use crate::api::grpc::proto::{
    Handled, Panic, Subscribe, SubscribeMetadata, SubscribeRequest, SubscribeResponse, Subscribed,
    subscribe_request::Payload, subscribe_response,
};
use crate::api::grpc::{convert, status};
use crate::event::{Invalid, Log, check_group, check_subscriber_id, check_topic};
use crate::store::{Deliveries, Delivery, Group, Store, Subscribing, Subscription};

/// The time that a client has to say what it subscribes to.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The part of a user agent whose clients ack broadcasts.
const ACKING_AGENT: &str = "grpc-node";

pub type Responses = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

/// The steps of a connection, in their order.
enum Step {
    Opening {
        store: Arc<Store>,
        requests: Streaming<SubscribeRequest>,
        acks_broadcasts: bool,
    },
    /// The client has been told that it is subscribed.
    Joining {
        store: Arc<Store>,
        requests: Streaming<SubscribeRequest>,
        subscribing: Subscribing,
    },
    /// Events flow until the subscription is dropped, because the client has gone, or closed.
    Delivering {
        deliveries: Deliveries,
    },
    Ended,
}

pub fn subscribe(store: &Arc<Store>, request: Request<Streaming<SubscribeRequest>>) -> Responses {
    let acks_broadcasts = acks_broadcasts(request.metadata());
    let first = Step::Opening { store: Arc::clone(store), requests: request.into_inner(), acks_broadcasts };
    Box::pin(futures::stream::unfold(first, step))
}

fn acks_broadcasts(metadata: &MetadataMap) -> bool {
    let agent = metadata.get("user-agent").and_then(|agent| agent.to_str().ok());
    agent.is_some_and(|agent| agent.contains(ACKING_AGENT))
}

async fn step(step: Step) -> Option<(Result<SubscribeResponse, Status>, Step)> {
    let mut step = step;
    loop {
        step = match step {
            Step::Opening { store, requests, acks_broadcasts } => {
                let (response, next) = open(store, requests, acks_broadcasts).await?;
                return Some((Ok(response), next));
            }
            Step::Joining { store, requests, subscribing } => match store.subscribe(subscribing) {
                Ok((subscription, deliveries)) => {
                    tokio::spawn(take_acks(requests, subscription));
                    Step::Delivering { deliveries }
                }
                Err(error) => return Some((Err(Status::unavailable(error.to_string())), Step::Ended)),
            },
            Step::Delivering { mut deliveries } => {
                return Some(match deliveries.next().await {
                    Some(delivery) => (Ok(response(delivery)), Step::Delivering { deliveries }),
                    None => (Err(Status::unavailable("the subscription has ended: connect again")), Step::Ended),
                });
            }
            Step::Ended => return None,
        }
    }
}

/// Reads what the client subscribes to, and returns the answer with the next step. Returns `None` if the client says
/// something else, or nothing in time.
async fn open(
    store: Arc<Store>,
    mut requests: Streaming<SubscribeRequest>,
    acks_broadcasts: bool,
) -> Option<(SubscribeResponse, Step)> {
    let first = tokio::time::timeout(SUBSCRIBE_TIMEOUT, requests.message()).await.ok()?.ok()??;
    let Some(Payload::Subscribe(subscribe)) = first.payload else { return None };
    let (error, next) = match subscribing(subscribe, acks_broadcasts) {
        Ok(subscribing) => (String::new(), Step::Joining { store, requests, subscribing }),
        Err(Invalid(why)) => (why, Step::Ended),
    };
    let payload = Some(subscribe_response::Payload::Subscribed(Subscribed { error }));
    Some((SubscribeResponse { payload }, next))
}

fn subscribing(subscribe: Subscribe, acks_broadcasts: bool) -> Result<Subscribing, Invalid> {
    let Subscribe { metadata, topics } = subscribe;
    let SubscribeMetadata { group, subscriber_id, deployment_id, parallel_topic_processing } =
        metadata.ok_or_else(|| Invalid("the metadata are missing".into()))?;
    check_group(&group)?;
    check_subscriber_id(&subscriber_id)?;
    topics.iter().try_for_each(|topic| check_topic(topic))?;
    let topics: BTreeSet<String> = topics.into_iter().collect();
    let group = Group { name: group, is_parallel: parallel_topic_processing };
    Ok(Subscribing { group, subscriber_id, deployment_id, topics, acks_broadcasts })
}

/// Takes acks until the client has gone or the subscription is closed.
async fn take_acks(mut requests: Streaming<SubscribeRequest>, subscription: Subscription) {
    loop {
        let request = tokio::select! {
            biased;
            request = requests.message() => request,
            () = subscription.closed() => match requests.message().now_or_never() {
                // The half of the connection that delivers was gone first.
                Some(request) => request,
                None => return,
            },
        };
        let payload = match request {
            Ok(Some(SubscribeRequest { payload })) => payload,
            // A connection that breaks off is UNKNOWN, since it bears no code of HTTP/2.
            Err(status) if status.code() == Code::Unknown => return,
            Ok(None) | Err(_) => return subscription.ended_by_client(),
        };
        // A second Subscribe changes nothing.
        let Some(Payload::Handled(handled)) = payload else { continue };
        let Handled { tenant_id, topic, error, retry, stream } = handled;
        match Log::new(tenant_id, topic) {
            Ok(log) => subscription.acked(&log, stream, error, retry).await,
            Err(error) => tracing::debug!(status = %status::invalid(error), "an ack names no valid log"),
        }
    }
}

fn response(delivery: Delivery) -> SubscribeResponse {
    let payload = match delivery {
        Delivery::Event { log, event, retry_number } => {
            subscribe_response::Payload::Event(convert::delivered(&log, *event, retry_number))
        }
        Delivery::Broadcast { log, event } => {
            subscribe_response::Payload::Event(convert::broadcast(&log, (*event).clone()))
        }
        Delivery::Panic { reason } => subscribe_response::Payload::Panic(Panic { reason }),
    };
    SubscribeResponse { payload: Some(payload) }
}
