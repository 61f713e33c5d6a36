//! Large events and larger pages are taken and sent up to their limits, and refused beyond.

use coldstream::api::proto::{
    CreateStreamSnapshotRequest, Event, EventOptions, IntroduceGdprOnEventFieldRequest, PublishEvent,
};
use futures::future::join_all;
use sha2::{Digest, Sha256};

use super::streams::{FIRST, ask_of};
use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, fields, is_permanent};
use crate::support::{Program, Role, Subscriber, World};

const MIB: usize = 1024 * 1024;
const EVENTS: usize = 50;

fn large(number: usize, bytes: usize) -> PublishEvent {
    let pattern = format!("{number:07} ");
    let value = format!("\"{}\"", pattern.repeat(bytes / pattern.len()));
    PublishEvent { payload: fields([("text", &value)]), ..event(number) }
}

/// Returns the event, and its value by length and digest, so that a failure can be read.
fn summary(event: Event) -> (Event, usize, Vec<u8>) {
    let value = event.payload["text"].value.as_bytes();
    let (length, digest) = (value.len(), Sha256::digest(value).to_vec());
    (Event { payload: Default::default(), ..event }, length, digest)
}

fn check(found: &[(Event, usize, Vec<u8>)], published: &[PublishEvent]) {
    assert_eq!(found.len(), published.len());
    for ((event, length, digest), published) in found.iter().zip(published) {
        let value = &published.payload["text"].value;
        assert_eq!((&event.id, *length), (&published.id, value.len()));
        assert_eq!(digest[..], Sha256::digest(value)[..], "{}", event.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_mib_are_published_and_fifty_read_at_once() {
    let scene = Scene::new().await;
    let published: Vec<PublishEvent> = (0..EVENTS).map(|number| large(number, MIB)).collect();
    for ten in published.chunks(10) {
        scene.publish(ten.to_vec()).await.unwrap();
    }
    let page = everywhere(&scene, EVENTS as i64, async || {
        let page = scene.page(&[], (0, EVENTS as i64)).await.unwrap();
        page.into_iter().map(summary).collect::<Vec<_>>()
    })
    .await;
    check(&page, &published);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_of_ten_mib_is_published_and_read() {
    let scene = Scene::new().await;
    let events = [large(0, 10 * MIB), large(1, 10 * MIB)];
    for event in &events {
        scene.publish(vec![event.clone()]).await.unwrap();
    }
    let found = everywhere(&scene, 2, async || {
        let found = join_all(["event-0", "event-1"].map(|id| scene.event(TENANT, id))).await;
        found.into_iter().map(|event| summary(event.unwrap())).collect::<Vec<_>>()
    });
    check(&found.await, &events);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_is_refused_for_good() {
    let scene = Scene::new().await;
    is_permanent(scene.publish(vec![large(0, 17 * MIB)]).await, "at most 16777216 are taken");
    is_permanent(scene.last(TENANT).await, "unable to find last event");
    scene.finish().await;
}

/// Returns an event of this many bytes, as the limit counts them: those of its id, type and payload.
fn sized(id: &str, bytes: usize) -> PublishEvent {
    let text = "x".repeat(bytes - id.len() - "t".len() - r#"{"text":""}"#.len());
    let payload = fields([("text", &format!("\"{text}\""))]);
    PublishEvent { id: id.into(), tenant_id: TENANT.into(), r#type: "t".into(), payload, ..PublishEvent::default() }
}

fn as_json(event: &PublishEvent, more: &str) -> String {
    format!(r#"{{"id":"{}","type":"t",{more}"payload":{{"text":{}}}}}"#, event.id, event.payload["text"].value)
}

fn as_line(event: &PublishEvent) -> String {
    as_json(event, r#""tenant_id":"acme","topic":"orders","raised_at":"2020-01-01T00:00:00Z","#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_limit_holds_at_every_door() {
    const MAX: usize = 1_000;
    const REFUSED: &str = "has 1001 bytes, at most 1000 are taken";
    let world = World::new().await;
    let program = || Program::new(&world, 1_000_000).set("EVENT_BYTES_MAX", MAX);
    let (importing, serving) = (program().unset("STREAMS_ARCHIVE"), program());
    let scene = Scene::start(world, serving).await;
    // gRPC
    scene.publish(vec![sized("grpc", MAX)]).await.unwrap();
    is_permanent(scene.publish(vec![sized("grpc+", MAX + 1)]).await, REFUSED);
    let options = Some(EventOptions { broadcast: true });
    let broadcast = PublishEvent { options, ..sized("broadcast", MAX + 1) };
    is_permanent(scene.publish(vec![sized("beside", MAX), broadcast]).await, REFUSED);
    is_permanent(scene.event(TENANT, "beside").await, "unable to find event");
    for (bytes, is_refused) in [(MAX, false), (MAX + 1, true)] {
        let request = CreateStreamSnapshotRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            last_snapshotted_event_id: "grpc".into(),
            snapshot_event: Some(sized("snapshot", bytes)),
            ..CreateStreamSnapshotRequest::default()
        };
        let made = scene.client.clone().create_stream_snapshot(request).await;
        if is_refused { is_permanent(made, REFUSED) } else { drop(made.unwrap()) }
    }
    // HTTP
    let (http, url) = (reqwest::Client::new(), format!("{}/v1/topics/orders/events", scene.service.http));
    for (event, status) in [(sized("http", MAX), 201), (sized("http+", MAX + 1), 400)] {
        let body = format!(r#"{{"events":[{}]}}"#, as_json(&event, ""));
        let answer = http.post(format!("{url}?tenant=acme")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(status == 201 || answer.text().await.unwrap().contains(REFUSED));
    }
    // Imports
    importing.write("events", as_line(&sized("import", MAX)) + "\n" + &as_line(&sized("import+", MAX + 1)));
    let line = importing.run(&["import", "events"]).await.failed();
    assert!(line.contains("line 2: ") && line.contains(REFUSED), "{line}");
    // Edits
    let edit = async |text: String| {
        let patch = format!(r#"{{"payload":{{"text":"{text}"}}}}"#);
        let answer = http.patch(format!("{url}/import?tenant=acme")).body(patch).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let length = sized("import", MAX).payload["text"].value.len() - 2;
    let (status, why) = edit("y".repeat(length + 1)).await;
    assert!(status == 400 && why.contains(REFUSED), "{why}");
    let request = IntroduceGdprOnEventFieldRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        event_id: "import".into(),
        field_name: "text".into(),
        default_value: "?".into(),
    };
    is_permanent(scene.client.clone().introduce_gdpr_on_event_field(request.clone()).await, "at most 1000 are taken");
    assert_eq!(edit("y".repeat(length)).await.0, 200);
    assert_eq!(edit("erased".into()).await.0, 200);
    scene.client.clone().introduce_gdpr_on_event_field(request).await.unwrap();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_at_the_limit_goes_everywhere() {
    const MAX: usize = 16 * MIB;
    let scene = Scene::new().await;
    let importing = Program::new(&scene.world, 1_000_000).unset("STREAMS_ARCHIVE");
    let published = sized("limit", MAX);
    importing.write("events", as_line(&published));
    importing.run(&["import", "events"]).await.succeeded();
    let found = everywhere(&scene, 1, async || {
        let mut page = scene.page(&[], (0, 10)).await.unwrap();
        let event = scene.event(TENANT, "limit").await.unwrap();
        assert_eq!(page.pop().as_ref(), Some(&event));
        summary(event)
    });
    check(&[found.await], std::slice::from_ref(&published));
    let url = format!("{}/v1/topics/orders/events/limit?tenant=acme", scene.service.http);
    let answer = reqwest::get(url).await.unwrap().text().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["payload"]["text"].as_str().unwrap().len() + 2, published.payload["text"].value.len());
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled_ids(1).await, ["limit"]);
    drop(subscriber);
    importing.write("events", as_line(&sized("limit+", MAX + 1)));
    let line = importing.run(&["import", "events"]).await.failed();
    assert!(line.contains("line 1: ") && line.contains("at most 16777216 are taken"), "{line}");
    scene.finish().await;
}

/// The service sends at most 32 MiB at once; the test asks for 40.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_above_what_is_sent_is_cut_only_where_clients_go_on_behind_its_last_event() {
    const LARGE: usize = 40;
    const REFUSED: &str = "at most 33554432 are sent";
    let world = World::new().await;
    let program = Program::new(&world, 1_000_000).set("STREAMS_READ_BYTES_MAX", 64 * MIB);
    let scene = Scene::start(world, program).await;
    for ten in (0..LARGE).map(|number| large(number, MIB)).collect::<Vec<_>>().chunks(10) {
        scene
            .publish(ten.iter().map(|event| PublishEvent { stream: "one".into(), ..event.clone() }).collect())
            .await
            .unwrap();
    }
    let seen = everywhere(&scene, LARGE as i64, async || {
        let all = (0, LARGE as i64);
        is_permanent(scene.page(&[], all).await, REFUSED);
        is_permanent(scene.page(&["type-0", "type-1"], all).await, REFUSED);
        is_permanent(ask_of(&scene, "one", FIRST).await, REFUSED);
        let cut = scene.page_after("", &[], all).await.unwrap().len();
        assert!((30..LARGE).contains(&cut), "{cut}");
        scene.iterate(&[], LARGE as i64).await.into_iter().map(summary).collect::<Vec<_>>()
    })
    .await;
    assert_eq!(seen.len(), LARGE);
    scene.finish().await;
}
