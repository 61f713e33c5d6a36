//! Calls that Postgres alone can answer do not even ask S3. Each call is tried in a log whose archive reaches over hot
//! events.

use coldstream::api::proto::{
    Event, IntroduceGdprOnEventFieldRequest, InvalidateGdprRequest, PublishEvent, RenameEventTypeRequest,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tonic::Code;

use super::erroneous::{erroneous, listed, resend};
use super::groups::{last_handled, until_handled, wait};
use super::snapshots::{create, snapshot};
use super::streams::{Ask, FIRST};
use crate::grpc::{Scene, TENANT, TOPIC, event, ids, is_permanent};
use crate::support::{Fate, Kind, Program, Role, Subscriber, World, archive, import, old_event, settings, young_event};

/// The events at positions 1, 2, 5 and 6 are archived, in one member, and those at 3, 4 and 7 to 12 are hot.
const OLD: [usize; 4] = [0, 1, 4, 5];
const EVENTS: usize = 12;
const EVENTS_PATH: &str = "/v1/topics/orders/events";

async fn interleaved(world: World) -> Scene {
    let store = world.store(settings(OLD.len() as u64));
    let events = (0..EVENTS).map(|number| if OLD.contains(&number) { old_event(number) } else { young_event(number) });
    import(&store, &world.log(), events).await;
    assert_eq!(archive(&store).await, OLD.len() as i64);
    let program = Program::new(&world, 1_000_000).set("STREAMS_CONSISTENCY_WAIT_SECONDS", 1);
    Scene::start(world, program).await
}

impl Scene {
    fn lose_s3(&self) {
        self.world.proxy.script(|_| Fate::LoseRequest);
        self.world.proxy.take_seen();
    }

    #[track_caller]
    fn asked_nothing(&self) {
        assert_eq!(self.world.proxy.take_asked(), [], "S3 was asked something");
    }

    async fn http(&self, method: Method, target: &str, body: &'static str) -> (StatusCode, String) {
        let url = format!("{}{target}", self.service.http);
        let request =
            reqwest::Client::new().request(method, url).header("content-type", "application/merge-patch+json");
        let response = request.body(body).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn get(&self, target: &str) -> String {
        let (status, text) = self.http(Method::GET, target, "").await;
        assert_eq!(status, 200, "{target}: {text}");
        text
    }

    /// Returns the ids on a page over HTTP.
    async fn page_ids(&self, query: &str) -> Vec<String> {
        let page: Value = serde_json::from_str(&self.get(&format!("{EVENTS_PATH}?tenant=acme&{query}")).await).unwrap();
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

async fn stream(scene: &Scene, stream: &str, asked: Ask<'_>) -> (Vec<Event>, String) {
    super::streams::ask_of(scene, stream, asked).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_by_id_and_the_last_ones_are_read_without_s3() {
    let scene = interleaved(World::new().await).await;
    scene.lose_s3();
    for id in ["event-2", "event-3", "event-6", "event-11"] {
        assert_eq!(scene.event(TENANT, id).await.unwrap().id, id);
        let path = format!("{EVENTS_PATH}/{id}?tenant=acme");
        assert!(scene.get(&path).await.contains(id));
    }
    is_permanent(scene.event(TENANT, "unknown").await, "unable to find event");
    assert_eq!(scene.last(TENANT).await.unwrap().id, "event-11");
    assert_eq!(scene.last_of(&["type-0", "type-2"]).await.unwrap().id, "event-10");
    assert_eq!(scene.last_of(&["type-0"]).await.unwrap().id, "event-8");
    is_permanent(scene.last_of(&["unknown"]).await, "unable to find last event by types");
    assert!(scene.get("/v1/topics/orders/last-event?tenant=acme&type=type-3").await.contains("event-11"));
    assert!(scene.get("/v1/topics").await.contains("orders"));
    scene.asked_nothing();
    assert_eq!(scene.event(TENANT, "event-4").await.unwrap_err().code(), Code::Unavailable, "the event is archived");
    scene.world.proxy.heal();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_hot_events_are_read_without_s3() {
    let scene = interleaved(World::new().await).await;
    scene.lose_s3();
    let of_types = |types: &'static [&'static str], page| scene.page(types, page);
    let pages = [
        (of_types(&[], (1, 2)).await, "event-2 event-3"),
        (of_types(&[], (3, 2)).await, "event-6 event-7"),
        (of_types(&[], (9, 2)).await, ""),
        (of_types(&["type-2", "type-3"], (0, 3)).await, "event-2 event-3 event-6"),
        (of_types(&["type-2", "type-3"], (1, 2)).await, "event-6 event-7"),
        (of_types(&["type-0"], (2, 1)).await, "event-8"),
        (scene.page_after("event-2", &[], (0, 1)).await, "event-3"),
        (scene.page_after("event-2", &["type-0", "type-3"], (0, 1)).await, "event-3"),
        (scene.page_after("event-6", &[], (1, 2)).await, "event-9 event-10"),
        (scene.page_after("event-6", &["type-3"], (0, 9)).await, "event-7 event-11"),
        (scene.page_after("event-11", &[], (0, 9)).await, ""),
    ];
    for (page, expected) in pages {
        assert_eq!(ids(&page.unwrap()).join(" "), expected);
    }
    let queries = [
        ("from=3&limit=2", "event-2 event-3"),
        ("after_id=event-6&limit=2&page=1", "event-9 event-10"),
        ("type=type-2&limit=2", "event-2 event-6"),
        ("stream=stream-2&after_id=event-6", "event-8 event-11"),
    ];
    for (query, expected) in queries {
        assert_eq!(scene.page_ids(query).await.join(" "), expected, "{query}");
    }
    scene.asked_nothing();
    scene.world.proxy.heal();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_snapshots_of_hot_events_are_read_without_s3() {
    let scene = interleaved(World::new().await).await;
    scene.lose_s3();
    assert!(!scene.is_stream_empty("stream-0").await, "a stream of hot and archived events");
    assert!(scene.is_stream_empty("unknown").await, "no archive can have any");
    for _ in 0..2 {
        create(&scene, "stream-0", "event-6", snapshot("snapshot", 0)).await.unwrap();
    }
    let taken = create(&scene, "stream-0", "event-6", snapshot("event-2", 0)).await;
    is_permanent(taken, "was published before with other content");
    let asks = [
        (FIRST, "snapshot event-9"),
        (Ask { per_page: 1, ..FIRST }, "snapshot"),
        (Ask { per_page: 1, page: 1, snapshot: "snapshot", ..FIRST }, "event-9"),
        (Ask { per_page: 1, page: 2, snapshot: "snapshot", ..FIRST }, ""),
        (Ask { after: "snapshot", ..FIRST }, "event-9"),
        (Ask { after: "event-6", without: true, ..FIRST }, "event-9"),
    ];
    for (asked, expected) in asks {
        assert_eq!(ids(&stream(&scene, "stream-0", asked).await.0).join(" "), expected);
    }
    scene.asked_nothing();
    scene.world.proxy.heal();
    assert!(!scene.is_stream_empty("stream-1").await);
    scene.finish().await;
}

/// A stream whose events are all archived costs a look into S3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_an_archived_stream_is_empty_costs_one_read() {
    let scene = Scene::new().await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    scene.archive(3).await;
    scene.world.proxy.take_seen();
    assert!(!scene.is_stream_empty("stream-1").await);
    assert_eq!(scene.world.proxy.count(Kind::Get), 1);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_and_changing_hot_events_asks_s3_nothing() {
    let scene = interleaved(World::new().await).await;
    scene.lose_s3();
    scene.publish(vec![event(100)]).await.unwrap();
    scene.publish(vec![event(100)]).await.unwrap();
    let other = || PublishEvent { reason: "another".into(), ..event(100) };
    is_permanent(scene.publish(vec![other()]).await, "was published before with other content");
    let mixed = vec![event(0), other()];
    is_permanent(scene.publish(mixed).await, "was published before with other content");
    let path = format!("{EVENTS_PATH}/event-3?tenant=acme&actor=dpo");
    let (status, text) = scene.http(Method::PATCH, &path, r#"{"payload":{"name":"erased"}}"#).await;
    assert_eq!(status, 200, "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    let line = scene.get(&format!("/v1/edits/{}", line["edit"]["id"].as_str().unwrap())).await;
    assert!(line.contains("event-3"), "{line}");
    let introduce = IntroduceGdprOnEventFieldRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        event_id: "event-2".into(),
        field_name: "name".into(),
        default_value: "gone".into(),
    };
    scene.client.clone().introduce_gdpr_on_event_field(introduce).await.unwrap();
    let found = scene.event(TENANT, "event-2").await.unwrap();
    let gdpr_id = found.payload["name"].gdpr.as_ref().unwrap().id.clone();
    let invalidate = InvalidateGdprRequest { tenant_id: TENANT.into(), topic: TOPIC.into(), gdpr_id };
    scene.client.clone().invalidate_gdpr(invalidate).await.unwrap();
    assert_eq!(scene.event(TENANT, "event-2").await.unwrap().payload["name"].value, r#""gone""#);
    let rename = RenameEventTypeRequest { topic: TOPIC.into(), old_type: "type-2".into(), new_type: "renamed".into() };
    scene.client.clone().rename_event_type(rename).await.unwrap();
    assert_eq!(scene.last_of(&["renamed"]).await.unwrap().id, "event-10");
    scene.asked_nothing();
    scene.world.proxy.heal();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_past_the_archives_need_no_s3() {
    for role in [Role::of("group"), Role::parallel("group")] {
        let scene = interleaved(World::new().await).await;
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        for number in 0..EVENTS {
            let event = subscriber.event().await;
            assert_eq!(event.id, format!("event-{number}"));
            match number {
                3 | 7 => subscriber.fail(&event, "cannot", false),
                _ => subscriber.ack(&event),
            }
        }
        until_handled(&scene, &role, "event-11").await;
        scene.lose_s3();
        assert_eq!(last_handled(&scene, &role).await.unwrap().id, "event-11");
        let answer = wait(&scene, "correlation-11", &role, &["group"]).await;
        assert!(answer.success, "{answer:?}");
        let answer = wait(&scene, "correlation-7", &role, &["group"]).await;
        assert!(!answer.success && answer.error.contains("cannot"), "{answer:?}");
        let answer = wait(&scene, "correlation-11", &role, &["nobody"]).await;
        assert!(!answer.success && answer.error.contains("within 1 s"), "{answer:?}");
        let found = erroneous(&scene, &[], 100, role.is_parallel).await;
        assert_eq!(listed(&found), [("event-3", "group", "cannot"), ("event-7", "group", "cannot")]);
        resend(&scene, &role, "event-3").await.unwrap();
        assert_eq!(subscriber.handled().await.id, "event-3");
        scene.publish(vec![event(100)]).await.unwrap();
        assert_eq!(subscriber.handled().await.id, "event-100");
        until_handled(&scene, &role, "event-100").await;
        scene.asked_nothing();
        scene.world.proxy.heal();
        scene.finish().await;
    }
}

/// A page, a window and the deliveries to a group go as far as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_events_before_an_archive_that_is_away_are_read_and_delivered() {
    let world = World::new().await;
    let store = world.store(settings(1));
    import(&store, &world.log(), [young_event(0), young_event(1), old_event(2), young_event(3)]).await;
    assert_eq!(archive(&store).await, 1);
    let program = Program::new(&world, 1_000_000);
    let scene = Scene::start(world, program).await;
    scene.lose_s3();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled_ids(2).await, ["event-0", "event-1"]);
    assert_eq!(ids(&scene.page_after("", &[], (0, 9)).await.unwrap()), ["event-0", "event-1"]);
    assert_eq!(scene.page_ids("limit=9").await, ["event-0", "event-1"]);
    assert_eq!(scene.page(&[], (0, 9)).await.unwrap_err().code(), Code::Unavailable, "page 1 would miss event 2");
    subscriber.quiet().await;
    scene.world.proxy.heal();
    assert_eq!(subscriber.handled_ids(2).await, ["event-2", "event-3"]);
    scene.finish().await;
}
