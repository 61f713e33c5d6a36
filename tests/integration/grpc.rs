//! The gRPC contract, with a client made from its proto: the same answers while events are hot, half archived and all
//! archived, and the statuses that published clients act upon.

use std::collections::{BTreeMap, BTreeSet};

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::{
    Event, EventMetadata, GetEventRequest, GetLastEventByTypesRequest, GetLastEventRequest, IsStreamEmptyRequest,
    PaginateEventsAfterEventIdRequest, PaginateEventsRequest, PublishEvent, PublishEventGdprValue, PublishEventPayload,
    PublishRequest,
};
use futures::future::join_all;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Fate, Program, Service, World, archive, older_than};

const SERVICE: &str = "freym.streams.management.Service";
pub const TOPIC: &str = "orders";
pub const TENANT: &str = "acme";
const MIB: usize = 1024 * 1024;

/// A service that archives nothing by itself: when it is done, the tests say.
pub struct Scene {
    pub world: World,
    pub service: Service,
    pub client: ServiceClient<Channel>,
}

impl Scene {
    pub async fn new() -> Scene {
        let world = World::new().await;
        let program = Program::new(&world, 1_000_000);
        Scene::start(world, program).await
    }

    pub async fn start(world: World, program: Program) -> Scene {
        let service = Service::start(program).await;
        let client = ServiceClient::new(connect(&service).await).max_decoding_message_size(256 * MIB);
        Scene { world, service, client }
    }

    /// A client that says what it was made with.
    pub async fn as_agent(&self, agent: &'static str) -> ServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(self.service.grpc.clone()).unwrap().user_agent(agent).unwrap();
        ServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// To the service that is there now.
    pub async fn reconnect(&mut self) {
        self.client = ServiceClient::new(connect(&self.service).await).max_decoding_message_size(256 * MIB);
    }

    /// Archives what there is in batches of so many events, each topic by itself; not while a rewrite has its turn.
    pub async fn archive(&self, batch_size: u64) -> i64 {
        self.settled().await;
        archive(&self.world.store(older_than(0, batch_size))).await
    }

    pub async fn publish(&self, events: Vec<PublishEvent>) -> Result<(), Status> {
        let request = PublishRequest { topic: TOPIC.into(), events };
        self.client.clone().publish(request).await.map(drop)
    }

    pub async fn event(&self, tenant: &str, id: &str) -> Result<Event, Status> {
        let request = GetEventRequest { tenant_id: tenant.into(), topic: TOPIC.into(), id: id.into() };
        self.client.clone().get_event(request).await.map(|response| response.into_inner())
    }

    pub async fn last(&self, tenant: &str) -> Result<Event, Status> {
        let request = GetLastEventRequest { tenant_id: tenant.into(), topic: TOPIC.into() };
        self.client.clone().get_last_event(request).await.map(|response| response.into_inner())
    }

    pub async fn last_of(&self, types: &[&str]) -> Result<Event, Status> {
        let request = GetLastEventByTypesRequest { tenant_id: TENANT.into(), topic: TOPIC.into(), types: texts(types) };
        self.client.clone().get_last_event_by_types(request).await.map(|response| response.into_inner())
    }

    pub async fn page(&self, types: &[&str], (page, per_page): (i64, i64)) -> Result<Vec<Event>, Status> {
        let request = PaginateEventsRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            types: texts(types),
            page,
            per_page,
        };
        self.client.clone().paginate_events(request).await.map(|response| response.into_inner().events)
    }

    pub async fn page_after(
        &self,
        id: &str,
        types: &[&str],
        (page, per_page): (i64, i64),
    ) -> Result<Vec<Event>, Status> {
        let request = PaginateEventsAfterEventIdRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            types: texts(types),
            event_id: id.into(),
            page,
            per_page,
        };
        self.client.clone().paginate_events_after_event_id(request).await.map(|response| response.into_inner().events)
    }

    pub async fn is_stream_empty(&self, stream: &str) -> bool {
        let request = IsStreamEmptyRequest { tenant_id: TENANT.into(), topic: TOPIC.into(), stream: stream.into() };
        self.client.clone().is_stream_empty(request).await.unwrap().into_inner().is_empty
    }

    /// As a client goes over everything: page 0 behind the last id that it saw, until it has seen the last event.
    async fn iterate(&self, types: &[&str], per_page: i64) -> Vec<Event> {
        let mut seen: Vec<Event> = Vec::new();
        loop {
            let id = seen.last().map_or("", |event| &event.id).to_owned();
            let page = self.page_after(&id, types, (0, per_page)).await.unwrap();
            if page.is_empty() {
                return seen;
            }
            assert!(page.len() as i64 <= per_page);
            seen.extend(page);
        }
    }

    /// Returns when nothing is left to rewrite or purge, by the service or by this.
    pub async fn settled(&self) {
        let store = self.world.store(older_than(0, 1_000_000));
        let leased = "SELECT count(*) FROM topics WHERE lease_holder IS NOT NULL";
        while store.has_unfinished().await.unwrap()
            || sqlx::query_scalar::<_, i64>(leased).fetch_one(&self.world.sql).await.unwrap() > 0
        {
            store.rewrite().await.unwrap();
            store.sweep().await.unwrap();
        }
    }

    pub async fn finish(mut self) {
        self.settled().await;
        self.service.terminate();
        let ended = self.service.end().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        self.world.audit().await;
    }
}

pub async fn connect(service: &Service) -> Channel {
    Endpoint::from_shared(service.grpc.clone()).unwrap().connect().await.unwrap()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn fields<const N: usize>(fields: [(&str, &str); N]) -> BTreeMap<String, PublishEventPayload> {
    let field = |value: &str| PublishEventPayload { value: value.to_owned(), gdpr: None };
    fields.into_iter().map(|(name, value)| (name.to_owned(), field(value))).collect()
}

/// Its number says everything: id `event-7`, one of three streams, one of two types.
pub fn event(number: usize) -> PublishEvent {
    PublishEvent {
        id: format!("event-{number}"),
        tenant_id: TENANT.into(),
        r#type: format!("type-{}", number % 2),
        stream: format!("stream-{}", number % 3),
        reason: "because".into(),
        options: None,
        metadata: Some(EventMetadata {
            correlation_id: format!("correlation-{number}"),
            causation_id: "cause".into(),
            user_id: "user".into(),
            deployment_id: i64::MAX - 1,
            ..EventMetadata::default()
        }),
        payload: fields([("number", &number.to_string()), ("price", "64.30"), ("name", r#""Eva""#)]),
    }
}

pub fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

pub fn serial(event: &Event) -> i64 {
    event.metadata.as_ref().expect("metadata are always sent").order_serial
}

/// What clients do not try again.
#[track_caller]
pub fn is_permanent<T: std::fmt::Debug>(outcome: Result<T, Status>, text: &str) {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert!(status.message().contains(text), "{status}");
}

/// Checks answers, and that they stay the same when half of the events are archived, and when all are.
pub async fn everywhere<T: PartialEq + std::fmt::Debug>(scene: &Scene, events: i64, ask: impl AsyncFn() -> T) -> T {
    let hot = ask().await;
    assert_eq!(scene.archive(events as u64 / 2 + 1).await, events / 2 + 1);
    assert_eq!(ask().await, hot, "half archived");
    scene.archive(1).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&scene.world.sql).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(ask().await, hot, "all archived");
    hot
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_back_in_every_field() {
    let scene = Scene::new().await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    let found = everywhere(&scene, 3, async || {
        let ids = ["event-0", "event-1", "event-2"];
        join_all(ids.map(|id| scene.event(TENANT, id))).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap()
    })
    .await;
    for (number, found) in found.iter().enumerate() {
        let PublishEvent { id, tenant_id, r#type, stream, reason, options: _, metadata, payload } = event(number);
        assert_eq!((&found.id, &found.tenant_id, &found.topic), (&id, &tenant_id, &TOPIC.to_owned()));
        assert_eq!((&found.r#type, &found.stream, &found.reason), (&r#type, &stream, &reason));
        let order_serial = number as i64 + 1;
        assert_eq!(found.metadata, metadata.map(|metadata| EventMetadata { order_serial, ..metadata }));
        let values = |name: &String| found.payload[name].value.clone();
        assert!(
            payload.iter().all(|(name, field)| values(name) == field.value) && payload.len() == found.payload.len()
        );
        assert!(found.raised_at > 1_700_000_000_000_000_000, "nanoseconds");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_loop_over_everything_once_and_in_order() {
    const EVENTS: usize = 7;
    let scene = Scene::new().await;
    scene.publish((0..EVENTS).map(event).collect()).await.unwrap();
    let count = EVENTS as i64;
    let answers = everywhere(&scene, count, async || {
        let mut answers = Vec::new();
        for types in [&[] as &[&str], &["type-1"], &["type-0", "type-1"], &["nothing"]] {
            for per_page in [1, 2, count, count + 1] {
                answers.push(scene.iterate(types, per_page).await);
                for page in 0..=count {
                    answers.push(scene.page(types, (page, per_page)).await.unwrap());
                }
            }
            // In the archive, on both sides of the boundary, in hot rows, and at the end.
            for number in 0..EVENTS {
                answers.push(scene.page_after(&format!("event-{number}"), types, (0, 2)).await.unwrap());
                answers.push(scene.page_after(&format!("event-{number}"), types, (1, 2)).await.unwrap());
            }
        }
        answers
    })
    .await;
    assert_eq!(answers[0].iter().map(serial).collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
    assert_eq!(ids(&scene.iterate(&["type-1"], 2).await), ["event-1", "event-3", "event-5"]);
    assert_eq!(ids(&scene.page(&[], (1, 3)).await.unwrap()), ["event-3", "event-4", "event-5"]);
    assert_eq!(ids(&scene.page_after("event-2", &["type-0"], (0, 9)).await.unwrap()), ["event-4", "event-6"]);
    assert_eq!(ids(&scene.page_after("event-0", &[], (2, 2)).await.unwrap()), ["event-5", "event-6"]);
    for (page, per_page) in [(1, count), (i64::MAX, i64::MAX), (0, 0), (0, -1)] {
        assert_eq!(scene.page(&[], (page, per_page)).await.unwrap(), [], "{page} {per_page}");
    }
    is_permanent(scene.page_after("nobody", &[], (0, 1)).await, "nobody");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_not_is_said_in_the_words_that_clients_look_for() {
    let scene = Scene::new().await;
    is_permanent(scene.last(TENANT).await, "unable to find last event");
    is_permanent(scene.last_of(&[]).await, "unable to find last event by types");
    assert!(scene.is_stream_empty("stream-0").await);
    scene.publish((0..4).map(event).collect()).await.unwrap();
    let is_empty = everywhere(&scene, 4, async || {
        is_permanent(scene.event(TENANT, "nobody").await, "nobody");
        is_permanent(scene.event("another", "event-1").await, "event-1");
        is_permanent(scene.last("another").await, "unable to find last event");
        is_permanent(scene.last_of(&["nothing"]).await, "unable to find last event by types");
        assert_eq!(scene.last(TENANT).await.unwrap().id, "event-3");
        assert_eq!(scene.last_of(&["type-0"]).await.unwrap().id, "event-2");
        assert_eq!(scene.last_of(&["nothing", "type-1"]).await.unwrap().id, "event-3");
        assert_eq!(scene.last_of(&[]).await.unwrap().id, "event-3");
        [scene.is_stream_empty("stream-0").await, scene.is_stream_empty("stream-9").await]
    });
    assert_eq!(is_empty.await, [false, true]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_many_tenants_is_published_whole_or_not_at_all() {
    let scene = Scene::new().await;
    let of = |tenant: &str, number| PublishEvent { tenant_id: tenant.into(), ..event(number) };
    let bad = [
        PublishEvent { r#type: String::new(), ..of("b", 2) },
        PublishEvent { payload: fields([("name", "Eva")]), ..of("b", 2) },
        PublishEvent { payload: fields([("name", "")]), ..of("b", 2) },
        PublishEvent { id: "a\0b".into(), ..of("b", 2) },
    ];
    for bad in bad {
        is_permanent(scene.publish(vec![of("a", 0), bad, of("", 1)]).await, "event 1");
        for tenant in ["a", "b", ""] {
            is_permanent(scene.last(tenant).await, "unable to find last event");
        }
    }
    let batch = vec![of("a", 0), of("b", 0), of("", 1), of("a", 1), of("_", 1)];
    for is_archived in [false, true] {
        if is_archived {
            assert_eq!(scene.archive(1).await, 5);
            let keys = scene.world.bucket.keys().await;
            assert_eq!(keys.iter().filter(|key| key.starts_with("_/orders/")).count(), 1, "{keys:?}");
        }
        scene.publish(batch.clone()).await.unwrap();
        let other = PublishEvent { reason: "another".into(), ..of("b", 0) };
        is_permanent(scene.publish(vec![of("a", 9), other]).await, "event-0");
        is_permanent(scene.event("a", "event-9").await, "event-9");
        for (tenant, last) in [("a", 2), ("b", 1), ("", 1), ("_", 1)] {
            assert_eq!(serial(&scene.last(tenant).await.unwrap()), last, "{tenant}");
            assert_eq!(scene.last(tenant).await.unwrap().tenant_id, tenant);
        }
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_personal_field_has_an_id_and_a_default_that_is_json() {
    let scene = Scene::new().await;
    let defaults = [("given", "given", r#""x""#, r#""x""#), ("", "empty", "", r#""""#), ("", "raw", "x y", r#""x y""#)];
    let payload = defaults.map(|(id, name, default, _)| {
        let gdpr = Some(PublishEventGdprValue { id: id.into(), default: default.into() });
        (name.to_owned(), PublishEventPayload { value: r#""secret""#.into(), gdpr })
    });
    let personal = PublishEvent { payload: payload.into(), ..event(0) };
    scene.publish(vec![personal.clone()]).await.unwrap();
    let found = everywhere(&scene, 1, async || scene.event(TENANT, "event-0").await.unwrap()).await;
    let mut seen = BTreeSet::new();
    for (id, name, _, default) in defaults {
        let field = &found.payload[name];
        let gdpr = field.gdpr.as_ref().unwrap();
        assert_eq!((field.value.as_str(), gdpr.default.as_str(), gdpr.is_invalidated), (r#""secret""#, default, false));
        assert!(if id.is_empty() { gdpr.id.len() == 36 } else { gdpr.id == id }, "{name}: {}", gdpr.id);
        seen.insert(gdpr.id.clone());
    }
    assert_eq!(seen.len(), defaults.len(), "ids are not given twice");
    scene.publish(vec![personal]).await.expect("the ids that the server gave do not make it another event");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_skips_nothing_while_others_publish_and_archive() {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 12;
    let scene = Scene::new().await;
    let publishers = join_all((0..PUBLISHERS).map(async |publisher| {
        for round in 0..EACH {
            scene.publish(vec![event(publisher * EACH + round)]).await.unwrap();
        }
    }));
    let reader = async {
        let mut seen: Vec<Event> = Vec::new();
        while seen.len() < PUBLISHERS * EACH {
            let id = seen.last().map_or("", |event| &event.id).to_owned();
            seen.extend(scene.page_after(&id, &[], (0, 5)).await.unwrap());
            // Between two pages, and under the feet of the publishers.
            scene.archive(10).await;
        }
        seen
    };
    let (_, seen) = tokio::join!(publishers, reader);
    assert_eq!(seen.iter().map(serial).collect::<Vec<_>>(), (1..=seen.len() as i64).collect::<Vec<_>>());
    assert_eq!(ids(&seen).into_iter().collect::<BTreeSet<_>>().len(), PUBLISHERS * EACH);
    assert_eq!(scene.iterate(&[], 1_000).await, seen);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_away_is_worth_another_try() {
    let scene = Scene::new().await;
    scene.publish((0..4).map(event).collect()).await.unwrap();
    assert_eq!(scene.archive(3).await, 3);
    scene.world.proxy.script(|_| Fate::LoseRequest);
    assert_eq!(scene.event(TENANT, "event-1").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(scene.page(&[], (0, 2)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(scene.event(TENANT, "event-3").await.unwrap().id, "event-3");
    scene.world.proxy.heal();
    assert_eq!(scene.event(TENANT, "event-1").await.unwrap().id, "event-1");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_and_larger_pages() {
    let scene = Scene::new().await;
    let value = format!("\"{}\"", "x".repeat(10 * MIB));
    for number in 0..5 {
        scene.publish(vec![PublishEvent { payload: fields([("text", &value)]), ..event(number) }]).await.unwrap();
    }
    let lengths = everywhere(&scene, 5, async || {
        let page = scene.page(&[], (0, 5)).await.unwrap();
        page.iter().map(|event| event.payload["text"].value.len()).collect::<Vec<_>>()
    });
    assert_eq!(lengths.await, [value.len(); 5]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_listed_and_serving() {
    let scene = Scene::new().await;
    let channel = connect(&scene.service).await;
    for service in ["", SERVICE] {
        let request = HealthCheckRequest { service: service.into() };
        let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    }
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let asked = futures::stream::iter([request]);
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    assert!(list.service.iter().any(|listed| listed.name == SERVICE), "{list:?}");
    scene.finish().await;
}
