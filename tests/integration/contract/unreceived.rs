//! An event that no client of a group can receive becomes erroneous; an event that only looks like one does not.

use std::time::Duration;

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::subscribe_response::Payload;
use coldstream::api::proto::{Event, ListErroneousEventsRequest, PublishEvent, ResendErroneousEventRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, TENANT, TOPIC, connect, event, fields};
use crate::support::{Program, Role, Subscriber, World};

/// A size that a client does not take by default, which is 4 MiB.
const TOO_LARGE_BYTES: usize = 5 * 1024 * 1024;
const LARGE_BYTES: usize = 100 * 1024;
const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);

fn of_bytes(number: usize, bytes: usize) -> PublishEvent {
    PublishEvent { payload: fields([("text", &format!("\"{}\"", "x".repeat(bytes)))]), ..event(number) }
}

/// Starts a service that makes few attempts, so that a miscount shows soon.
async fn scene() -> Scene {
    let world = World::new().await;
    let program = Program::new(&world, 1_000_000).set("STREAMS_DELIVERY_ATTEMPTS_MAX", ATTEMPTS);
    Scene::start(world, program).await
}

async fn small_client(scene: &Scene) -> ServiceClient<Channel> {
    ServiceClient::new(connect(&scene.service).await)
}

/// Connects again and again, as applications do, until so many events are handled. Returns their ids, and the number of
/// connections that could not receive what came.
async fn handled_at_last(
    scene: &Scene,
    client: &ServiceClient<Channel>,
    role: &Role,
    count: usize,
) -> (Vec<String>, usize) {
    let (mut ids, mut failures) = (Vec::new(), 0);
    while ids.len() < count {
        let mut subscriber = Subscriber::start(client, role.clone()).await;
        while ids.len() < count {
            match subscriber.next().await {
                Ok(Some(Payload::Event(event))) => {
                    subscriber.ack_stream(&event);
                    ids.push(event.id);
                    // An ack may be lost with its connection.
                    if ids.len() == count {
                        until_handled(scene, role, &ids[count - 1]).await;
                    }
                }
                Err(_) => {
                    failures += 1;
                    break;
                }
                other => panic!("no event: {other:?}"),
            }
        }
    }
    (ids, failures)
}

async fn erroneous(scene: &Scene, is_parallel: bool) -> Vec<(String, String)> {
    let request = ListErroneousEventsRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        parallel_topic_processing: is_parallel,
        ..ListErroneousEventsRequest::default()
    };
    let listed = scene.client.clone().list_erroneous_events(request).await.unwrap().into_inner().events;
    listed.into_iter().map(|listed| (listed.event.unwrap().id, listed.error)).collect()
}

async fn counted(scene: &Scene) -> bool {
    let metrics = reqwest::get(format!("{}/metrics", scene.service.http)).await.unwrap().text().await.unwrap();
    metrics.lines().any(|line| line == "coldstream_events_unreceived_total 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_client_of_a_group_can_receive_is_erroneous_and_the_next_one_flows() {
    for role in [Role::of("group"), Role::parallel("group")] {
        let (scene, parallel) = (scene().await, role.is_parallel);
        // The events are of one stream, so that they have one order in parallel mode, too.
        let events = [event(0), of_bytes(1, TOO_LARGE_BYTES), event(2)];
        let of_one_stream = |event: PublishEvent| PublishEvent { stream: "one".into(), ..event };
        scene.publish(events.map(of_one_stream).to_vec()).await.unwrap();
        let small = small_client(&scene).await;
        let (ids, failures) = handled_at_last(&scene, &small, &role, 2).await;
        assert_eq!(
            (ids, failures),
            (vec!["event-0".into(), "event-2".into()], ATTEMPTS),
            "in order, after bounded attempts"
        );
        let listed = erroneous(&scene, parallel).await;
        assert!(listed.len() == 1 && listed[0].0 == "event-1", "{listed:?}");
        assert!(listed[0].1.contains("3 connections in a row"), "{listed:?}");
        assert!(counted(&scene).await);
        // Attempts at the event that is sent once more are bounded again, though each was the group's last subscriber.
        let resend = ResendErroneousEventRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            consumer_group: role.group.clone(),
            event_id: "event-1".into(),
            parallel_topic_processing: parallel,
        };
        scene.client.clone().resend_erroneous_event(resend.clone()).await.unwrap();
        scene.publish(vec![event(3)]).await.unwrap();
        let (ids, _) = handled_at_last(&scene, &small, &role, 1).await;
        assert_eq!(ids, ["event-3"]);
        tokio::select! {
            () = scene.world.until("SELECT EXISTS (SELECT FROM erroneous_events)", PATIENCE) => {}
            _ = handled_at_last(&scene, &small, &role, 1) => panic!("a client received what it cannot receive"),
        }
        // A client that takes more gets the event.
        scene.client.clone().resend_erroneous_event(resend).await.unwrap();
        let mut large = Subscriber::start(&scene.client, role.clone()).await;
        assert_eq!(large.handled_ids(1).await, ["event-1"]);
        drop(large);
        scene.finish().await;
    }
}

/// Returns a client whose connection can be cut, as that of a process that is killed.
async fn cuttable(scene: &Scene) -> (ServiceClient<Channel>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, service) = (listener.local_addr().unwrap(), scene.service.grpc.replace("http://", ""));
    let connection = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(service).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (ServiceClient::new(channel), connection)
}

async fn is_next(subscriber: &mut Subscriber, id: &str) -> Event {
    let event = subscriber.event().await;
    assert_eq!(event.id, id);
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_are_killed_lose_nothing_however_often() {
    let scene = scene().await;
    scene.publish(vec![of_bytes(0, LARGE_BYTES), event(1)]).await.unwrap();
    for _ in 0..2 * ATTEMPTS {
        let (client, connection) = cuttable(&scene).await;
        let mut subscriber = Subscriber::start(&client, Role::of("group")).await;
        is_next(&mut subscriber, "event-0").await;
        connection.abort();
        assert!(subscriber.next().await.is_err());
    }
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled_ids(2).await, ["event-0", "event-1"]);
    assert_eq!(erroneous(&scene, false).await, []);
    drop(subscriber);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_leave_lose_nothing_however_often() {
    let scene = scene().await;
    scene.publish(vec![event(0), of_bytes(1, LARGE_BYTES), event(2)]).await.unwrap();
    // Every client can receive a small event.
    for _ in 0..2 * ATTEMPTS {
        let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
        is_next(&mut subscriber, "event-0").await;
    }
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    subscriber.handled_ids(1).await;
    until_handled(&scene, &Role::of("group"), "event-0").await;
    drop(subscriber);
    // All subscribers of a group leave: none of them comes back for the event.
    let mut group = Vec::new();
    for _ in 0..2 * ATTEMPTS {
        group.push(Subscriber::start(&scene.client, Role::of("group")).await);
    }
    while !group.is_empty() {
        let (event, holder, _) =
            futures::future::select_all(group.iter_mut().map(|subscriber| Box::pin(subscriber.event()))).await;
        assert_eq!(event.id, "event-1");
        drop(group.remove(holder));
    }
    // A subscriber that takes the event each time, and is stopped and started, received it: here it answers in between.
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    let large = is_next(&mut subscriber, "event-1").await;
    subscriber.fail(&large, "try again", true);
    is_next(&mut subscriber, "event-1").await;
    drop(subscriber);
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled_ids(2).await, ["event-1", "event-2"]);
    assert_eq!(erroneous(&scene, false).await, []);
    drop(subscriber);
    scene.finish().await;
}
