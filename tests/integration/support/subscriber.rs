//! A subscriber as the published clients are: it acks with a tenant and a topic, and sees events as they come.

use std::collections::BTreeSet;
use std::time::Duration;

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::{
    Event, Handled, Subscribe, SubscribeMetadata, SubscribeRequest, SubscribeResponse, subscribe_request,
    subscribe_response,
};
use coldstream::store::{Group, Subscribing};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// The longest time that a message takes to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time after which a message that has not come was not sent.
const QUIET: Duration = Duration::from_millis(300);

/// A subscriber's description of itself.
#[derive(Debug, Clone)]
pub struct Role {
    pub group: String,
    pub topics: Vec<String>,
    pub deployment_id: i64,
    pub is_parallel: bool,
}

impl Role {
    pub fn of(group: &str) -> Role {
        Role { group: group.into(), topics: Vec::new(), deployment_id: 0, is_parallel: false }
    }

    pub fn parallel(group: &str) -> Role {
        Role { is_parallel: true, ..Role::of(group) }
    }

    pub fn deployment(group: &str, deployment_id: i64) -> Role {
        Role { deployment_id, ..Role::of(group) }
    }

    pub fn topics(group: &str, topics: &[&str]) -> Role {
        Role { topics: topics.iter().map(|topic| (*topic).to_owned()).collect(), ..Role::of(group) }
    }
}

/// Returns a subscription to every topic, without a connection.
pub fn subscribing(group: &str) -> Subscribing {
    Subscribing {
        group: Group { name: group.into(), is_parallel: false },
        subscriber_id: "subscriber".into(),
        deployment_id: 0,
        topics: BTreeSet::new(),
        acks_broadcasts: false,
    }
}

pub struct Subscriber {
    requests: mpsc::UnboundedSender<SubscribeRequest>,
    responses: Streaming<SubscribeResponse>,
    /// The time at which the subscriber was told that it is subscribed, and how long that took.
    pub subscribed_at: Instant,
    pub subscribed_after: Duration,
}

impl Subscriber {
    pub async fn start(client: &ServiceClient<Channel>, role: Role) -> Subscriber {
        Subscriber::try_start(client, role).await.unwrap_or_else(|status| panic!("not subscribed: {status}"))
    }

    /// Subscribes; returns an error if the service cannot do it now.
    pub async fn try_start(client: &ServiceClient<Channel>, role: Role) -> Result<Subscriber, Status> {
        let started = Instant::now();
        let mut subscriber = Subscriber::try_silent(client).await?;
        let Role { group, topics, deployment_id, is_parallel } = role;
        let metadata = SubscribeMetadata {
            group,
            subscriber_id: "subscriber".into(),
            deployment_id,
            parallel_topic_processing: is_parallel,
        };
        let payload = subscribe_request::Payload::Subscribe(Subscribe { metadata: Some(metadata), topics });
        subscriber.say(payload);
        match subscriber.next().await? {
            Some(subscribe_response::Payload::Subscribed(subscribed)) => assert_eq!(subscribed.error, ""),
            other => panic!("not subscribed: {other:?}"),
        }
        (subscriber.subscribed_at, subscriber.subscribed_after) = (Instant::now(), started.elapsed());
        Ok(subscriber)
    }

    /// Returns a subscriber that says nothing.
    pub async fn silent(client: &ServiceClient<Channel>) -> Subscriber {
        Subscriber::try_silent(client).await.unwrap()
    }

    async fn try_silent(client: &ServiceClient<Channel>) -> Result<Subscriber, Status> {
        let (requests, mut receiver) = mpsc::unbounded_channel();
        let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let responses = client.clone().subscribe(Request::new(stream)).await?.into_inner();
        Ok(Subscriber { requests, responses, subscribed_at: Instant::now(), subscribed_after: Duration::ZERO })
    }

    pub fn say(&self, payload: subscribe_request::Payload) {
        let _ = self.requests.send(SubscribeRequest { payload: Some(payload) });
    }

    pub async fn next(&mut self) -> Result<Option<subscribe_response::Payload>, Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("nothing came");
        Ok(message?.map(|response| response.payload.expect("there is a payload")))
    }

    /// Returns the next event, and takes nothing else.
    pub async fn event(&mut self) -> Event {
        match self.next().await {
            Ok(Some(subscribe_response::Payload::Event(event))) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    /// Returns the next event, or `None` if the service has gone.
    pub async fn event_or_end(&mut self) -> Option<Event> {
        match self.next().await {
            Ok(Some(subscribe_response::Payload::Event(event))) => Some(event),
            Ok(Some(other)) => panic!("no event: {other:?}"),
            Ok(None) | Err(_) => None,
        }
    }

    /// Returns the next event and acks it, as clients ack what they have handled.
    pub async fn handled(&mut self) -> Event {
        let event = self.event().await;
        self.ack(&event);
        event
    }

    pub async fn handled_ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            ids.push(self.handled().await.id);
        }
        ids
    }

    /// Asserts that nothing comes for a while.
    pub async fn quiet(&mut self) {
        if let Ok(message) = tokio::time::timeout(QUIET, self.responses.message()).await {
            panic!("something came: {message:?}");
        }
    }

    pub fn ack(&self, event: &Event) {
        self.answer(event, "", "", false);
    }

    /// Acks as clients do that name the stream.
    pub fn ack_stream(&self, event: &Event) {
        self.answer(event, &event.stream, "", false);
    }

    pub fn fail(&self, event: &Event, error: &str, retry: bool) {
        self.answer(event, "", error, retry);
    }

    fn answer(&self, event: &Event, stream: &str, error: &str, retry: bool) {
        self.say(subscribe_request::Payload::Handled(Handled {
            tenant_id: event.tenant_id.clone(),
            topic: event.topic.clone(),
            error: error.into(),
            retry,
            stream: stream.into(),
        }));
    }
}

pub fn retry_number(event: &Event) -> i64 {
    event.metadata.as_ref().expect("metadata are always sent").retry_number
}
