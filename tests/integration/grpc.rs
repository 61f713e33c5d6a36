//! Tests of the gRPC API with a client made from its proto. The tests in `contract` use the `Scene` of this module.

use std::collections::{BTreeMap, BTreeSet};

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::{
    Event, EventMetadata, GetEventRequest, GetLastEventByTypesRequest, GetLastEventRequest, IsStreamEmptyRequest,
    PaginateEventsAfterEventIdRequest, PaginateEventsRequest, PublishEvent, PublishEventGdprValue, PublishEventPayload,
    PublishRequest,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Program, Service, World, archive, older_than};

const SERVICE: &str = "freym.streams.management.Service";
pub const TOPIC: &str = "orders";
pub const TENANT: &str = "acme";
const MIB: usize = 1024 * 1024;

/// A service that archives nothing by itself: a test says when it does.
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

    /// Returns a client that says in its user agent what it was made with.
    pub async fn as_agent(&self, agent: &'static str) -> ServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(self.service.grpc.clone()).unwrap().user_agent(agent).unwrap();
        ServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// Connects to the service that is there now.
    pub async fn reconnect(&mut self) {
        self.client = ServiceClient::new(connect(&self.service).await).max_decoding_message_size(256 * MIB);
    }

    /// Archives each topic in batches of so many events, once no rewrite is under way.
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

    /// Reads everything as a client does: it asks for the last event, and then for page 0 behind the last id that it
    /// saw, until a page is empty or ends behind that event.
    pub async fn iterate(&self, types: &[&str], per_page: i64) -> Vec<Event> {
        let last = if types.is_empty() { self.last(TENANT).await } else { self.last_of(types).await };
        let last = match last {
            Ok(last) => serial(&last),
            Err(none) => {
                is_permanent(Err::<(), _>(none), "unable to find last event");
                return Vec::new();
            }
        };
        let mut seen: Vec<Event> = Vec::new();
        loop {
            let id = seen.last().map_or("", |event| &event.id).to_owned();
            let page = self.page_after(&id, types, (0, per_page)).await.unwrap();
            let Some(reached) = page.last().map(serial) else { return seen };
            assert!(page.len() as i64 <= per_page);
            assert!(seen.last().is_none_or(|before| serial(before) < reached), "the iteration would never end");
            seen.extend(page);
            if reached > last {
                return seen;
            }
        }
    }

    /// Returns when neither the service nor this test has anything left to rewrite or purge.
    pub async fn settled(&self) {
        let store = self.world.store(older_than(0, 1_000_000));
        let leased = "SELECT count(*) FROM logs WHERE lease_expires_at > clock_timestamp()";
        while store.has_unfinished().await.unwrap()
            || sqlx::query_scalar::<_, i64>(leased).fetch_one(&self.world.sql).await.unwrap() > 0
        {
            store.rewrite().await.unwrap();
            store.sweep().await.unwrap();
        }
    }

    pub async fn finish(mut self) {
        self.settled().await;
        self.service.finish().await;
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

/// Returns an event whose number says everything: id `event-7`, one of three streams, one of two types.
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

/// Checks that the outcome is an error that clients do not retry.
#[track_caller]
pub fn is_permanent<T: std::fmt::Debug>(outcome: Result<T, Status>, text: &str) {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert!(status.message().contains(text), "{status}");
}

/// Checks answers, and that they stay the same when half of the events are archived, and when all are. Each log has the
/// given number of events.
pub async fn everywhere<T: PartialEq + std::fmt::Debug>(scene: &Scene, events: i64, ask: impl AsyncFn() -> T) -> T {
    let hot = ask().await;
    let logs: i64 = sqlx::query_scalar("SELECT count(*) FROM logs").fetch_one(&scene.world.sql).await.unwrap();
    assert_eq!(scene.archive(events as u64 / 2 + 1).await, logs * (events / 2 + 1));
    assert_eq!(ask().await, hot, "half archived");
    scene.archive(1).await;
    let left = scene.world.hot_count().await;
    assert_eq!(left, 0);
    assert_eq!(ask().await, hot, "all archived");
    hot
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
    assert_eq!(seen.len(), defaults.len(), "no id is given twice");
    scene.publish(vec![personal]).await.expect("the ids that the server gave do not make it another event");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_it_speaks_tls_only() {
    let mut world = World::new().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let program = Program::new(&world, 1_000_000);
    let certificate = program.write("certificate.pem", made.cert.pem());
    let key = program.write("key.pem", made.signing_key.serialize_pem());
    let program = program.set("GRPC_TLS_CERTIFICATE", certificate.display()).set("GRPC_TLS_KEY", key.display());
    let service = Service::start(program).await;
    let trusted =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(made.cert.pem())).domain_name("localhost");
    let endpoint = Endpoint::from_shared(service.grpc.replace("http://", "https://")).unwrap();
    let channel = endpoint.tls_config(trusted).unwrap().connect().await.unwrap();
    let request = PublishRequest { topic: TOPIC.into(), events: vec![event(1)] };
    ServiceClient::new(channel).publish(request.clone()).await.unwrap();
    let plain = Endpoint::from_shared(service.grpc.clone()).unwrap().connect_lazy();
    assert!(ServiceClient::new(plain).publish(request).await.is_err());
    service.finish().await;
    world.audit().await;
}
