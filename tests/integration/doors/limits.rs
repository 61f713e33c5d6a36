//! Connections and descriptors are limited: clients beyond a limit wait, and find room as soon as there is some.

use std::time::{Duration, Instant};

use coldstream::api::proto::service_client::ServiceClient;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{PATIENCE, PREFACE, Scene, connect, until_let_go};
use crate::support::{
    Fate, Gate, Kind, Program, Role, Service, Subscriber, World, archive, import, old_event, settings,
};

const ASKED: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_nothing_makes_room_and_whoever_waits_for_an_answer_gets_it() {
    let mut world = World::new().await;
    let store = world.store(settings(1));
    import(&store, &world.log(), [old_event(0)]).await;
    assert_eq!(archive(&store).await, 1);
    let service = Service::start(Program::new(&world, 1_000).set("HTTP_CONNECTIONS_MAX", 4)).await;
    let gate = world.proxy.hold_first(Kind::Get);
    let cold = b"GET /v1/topics/orders/events/event-0?tenant=acme HTTP/1.1\r\nHost: x\r\n\r\n";
    let busy = connect(&service.http, cold).await;
    gate.arrival().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect(&service.http, b"").await);
    }
    let answer = timeout(PATIENCE, until_let_go(connect(&service.http, ASKED).await)).await.expect("there is room");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for stranger in silent {
        assert_eq!(until_let_go(stranger).await, "");
    }
    gate.open();
    let answer = until_let_go(busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("event-0"), "{answer}");
    service.finish().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_finds_no_place_at_grpc_waits_for_one() {
    let scene = Scene::new(&[("GRPC_CONNECTIONS_MAX", "2")]).await;
    let first = scene.at_grpc(PREFACE).await;
    let _second = scene.at_grpc(PREFACE).await;
    while scene.metric("coldstream_connections{door=\"grpc\"}").await < 2 {}
    let url = scene.service.grpc.clone();
    let waiting = tokio::spawn(async move {
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        Subscriber::start(&ServiceClient::new(channel), Role::of("group")).await
    });
    while scene.metric("coldstream_connections_waited_total{door=\"grpc\"}").await == 0 {}
    drop(first);
    drop(timeout(PATIENCE, waiting).await.expect("a place is free").unwrap());
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_256_descriptors_serves_beside_as_many_strangers() {
    let mut world = World::new().await;
    let store = world.store(settings(3));
    import(&store, &world.log(), (0..3).map(old_event)).await;
    let program = Program::new(&world, 3).descriptors(256).set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 1);
    let service = Service::start(program).await;
    let mut strangers = Vec::new();
    for _ in 0..256 {
        strangers.push(connect(&service.grpc, b"").await);
        strangers.push(connect(&service.http, b"").await);
    }
    let url = format!("{}/v1/topics/orders/events?tenant=acme", service.http);
    let is_archived = "SELECT NOT EXISTS (SELECT FROM events)";
    world.until(is_archived, PATIENCE).await;
    for _ in 0..40 {
        let answer = timeout(PATIENCE, reqwest::get(&url)).await.expect("an answer").unwrap();
        assert_eq!(answer.status(), 200);
    }
    service.terminate();
    let ended = service.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.iter().any(|line| line.contains("HTTP_CONNECTIONS_MAX is 64")), "{ended:?}");
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_descriptors_accepts_again_once_it_has_some() {
    let mut scene = Scene::new(&[("GRPC_KEEPALIVE_SECONDS", "1")]).await;
    scene.publish("before").await;
    let silent = scene.at_grpc(b"").await;
    while scene.metric("coldstream_connections{door=\"grpc\"}").await < 1 {}
    let before = scene.service.limit_descriptors(1);
    let _waiting_too = scene.at_grpc(PREFACE).await;
    let waiting = scene.at_http(ASKED).await;
    for _ in ["http", "grpc"] {
        scene.service.says("nobody can be let in for a moment").await;
    }
    let (waited, worked) = (Instant::now(), scene.service.processor_time());
    until_let_go(silent).await;
    let worked = scene.service.processor_time() - worked;
    assert!(worked < waited.elapsed().max(Duration::from_millis(200)) / 2, "{worked:?} of {:?}", waited.elapsed());
    scene.service.limit_descriptors(before);
    assert!(until_let_go(waiting).await.starts_with("HTTP/1.1 200 OK"));
    scene.publish("after").await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_has_ended_within_5_s_whatever_it_waits_for() {
    let mut world = World::new().await;
    let store = world.store(settings(1));
    import(&store, &world.log(), [old_event(0)]).await;
    assert_eq!(archive(&store).await, 1);
    let service = Service::start(Program::new(&world, 1)).await;
    let gate = Gate::new();
    let held = gate.clone();
    world.proxy.script(move |_| Fate::Hold(held.clone()));
    let cold = b"GET /v1/topics/orders/events/event-0?tenant=acme HTTP/1.1\r\nHost: x\r\n\r\n";
    let _asking = connect(&service.http, cold).await;
    gate.arrival().await;
    let _strangers = [connect(&service.http, super::HALF_A_BODY).await, connect(&service.grpc, PREFACE).await];
    let asked_at = Instant::now();
    service.finish().await;
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
    world.proxy.heal();
    // The next process need not wait for the lease of this one.
    import(&store, &world.log(), [old_event(1)]).await;
    assert_eq!(archive(&store).await, 1);
    world.audit().await;
}
