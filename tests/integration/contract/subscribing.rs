//! Subscribers get their events in order, again when they refuse them, in both modes, with broadcasts and deployments.

use std::time::Duration;

use coldstream::api::proto::{Event, EventMetadata, EventOptions, PublishEvent, subscribe_response};
use tonic::Code;

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, TENANT, event, ids, serial};
use crate::support::{Role, Subscriber, retry_number};

fn in_stream(number: usize, stream: &str) -> PublishEvent {
    PublishEvent { stream: stream.into(), ..event(number) }
}

fn broadcast(number: usize) -> PublishEvent {
    let options = Some(EventOptions { broadcast: true });
    PublishEvent { id: format!("broadcast-{number}"), options, ..event(number) }
}

fn of_deployment(number: usize, deployment_id: i64) -> PublishEvent {
    let metadata = Some(EventMetadata { deployment_id, ..EventMetadata::default() });
    PublishEvent { metadata, ..event(number) }
}

fn is_broadcast(event: &Event) -> bool {
    event.options.as_ref().expect("options are always sent").broadcast
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_of_a_backlog_comes_after_the_answer_to_subscribe() {
    let scene = Scene::new().await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    for round in 0..60 {
        let role = Role::of(&format!("group-{round}"));
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        assert!(subscriber.subscribed_after < Duration::from_secs(1), "{:?}", subscriber.subscribed_after);
        let first = subscriber.event().await;
        // The delay is measured from when the answer was read, which on a busy machine is a while after it came.
        let delay = subscriber.subscribed_at.elapsed();
        assert!(delay > Duration::from_millis(10), "the first event came {delay:?} after the answer");
        // A client that is not ready yet answers so.
        subscriber.fail(&first, "not subscribed", false);
        let again = subscriber.event().await;
        assert_eq!(again, first, "no retry is counted");
        subscriber.ack(&again);
        assert_eq!(subscriber.handled_ids(2).await, ["event-1", "event-2"]);
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_group_starts_at_the_beginning() {
    const EVENTS: usize = 40;
    for archived in [0, 25, 40] {
        for role in [Role::of("group"), Role::parallel("group")] {
            let scene = Scene::new().await;
            scene.publish((0..EVENTS).map(|number| in_stream(number, "one")).collect()).await.unwrap();
            if archived > 0 {
                assert_eq!(scene.archive(archived).await, archived as i64);
            }
            let mut subscriber = Subscriber::start(&scene.client, role).await;
            let mut seen = Vec::new();
            for _ in 0..EVENTS {
                seen.push(subscriber.handled().await);
            }
            assert_eq!(seen, scene.page(&[], (0, 100)).await.unwrap());
            scene.publish(vec![event(EVENTS)]).await.unwrap();
            assert_eq!(subscriber.handled().await.id, format!("event-{EVENTS}"));
            scene.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_group_gets_each_event_once() {
    const EVENTS: usize = 30;
    let scene = Scene::new().await;
    let mut both = Vec::new();
    for _ in 0..2 {
        both.push(Subscriber::start(&scene.client, Role::of("pair")).await);
    }
    let mut alone = Subscriber::start(&scene.client, Role::of("alone")).await;
    let mut elsewhere = Subscriber::start(&scene.client, Role::topics("picky", &["other"])).await;
    scene.publish((0..EVENTS).map(event).collect()).await.unwrap();
    let mut pair = both.into_iter();
    let (mut first, mut second) = (pair.next().unwrap(), pair.next().unwrap());
    let mut shared = Vec::new();
    while shared.len() < EVENTS {
        let event = tokio::select! {
            event = first.handled() => event,
            event = second.handled() => event,
        };
        shared.push(event);
    }
    let expected: Vec<String> = (0..EVENTS).map(|number| format!("event-{number}")).collect();
    assert_eq!(ids(&shared), expected.iter().map(String::as_str).collect::<Vec<_>>(), "in order, each once");
    assert_eq!(alone.handled_ids(EVENTS).await, expected);
    first.quiet().await;
    elsewhere.quiet().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_made_later_are_included() {
    let scene = Scene::new().await;
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    subscriber.quiet().await;
    scene.publish(vec![PublishEvent { tenant_id: "new".into(), ..event(0) }, event(1)]).await.unwrap();
    let mut found = subscriber.handled_ids(2).await;
    found.sort();
    assert_eq!(found, ["event-0", "event-1"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_comes_again_until_it_is_acked() {
    let scene = Scene::new().await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    for retry in 0..3 {
        let event = subscriber.event().await;
        assert_eq!((event.id.as_str(), retry_number(&event)), ("event-0", retry), "order is kept");
        subscriber.fail(&event, "no handler", true);
    }
    let mut other = Subscriber::start(&scene.client, Role::of("group")).await;
    let mut refused = tokio::select! {
        event = subscriber.event() => (event, true),
        event = other.event() => (event, false),
    };
    assert_eq!((refused.0.id.as_str(), retry_number(&refused.0)), ("event-0", 3));
    // The other subscriber is asked next, whichever one refuses now.
    refused = match refused.1 {
        true => {
            subscriber.fail(&refused.0, "no handler", true);
            (other.event().await, false)
        }
        false => {
            other.fail(&refused.0, "no handler", true);
            (subscriber.event().await, true)
        }
    };
    assert_eq!((refused.0.id.as_str(), retry_number(&refused.0)), ("event-0", 4));
    match refused.1 {
        true => subscriber.ack(&refused.0),
        false => other.ack(&refused.0),
    }
    let next = tokio::select! {
        event = subscriber.handled() => event,
        event = other.handled() => event,
    };
    assert_eq!((next.id.as_str(), retry_number(&next)), ("event-1", 0));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_are_told_when_none_of_them_can_handle_an_event() {
    let scene = Scene::new().await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    loop {
        match subscriber.next().await.unwrap().expect("the stream goes on") {
            subscribe_response::Payload::Event(event) => {
                assert_eq!(event.id, "event-0");
                subscriber.fail(&event, "no handler", true);
            }
            subscribe_response::Payload::Panic(panic) => {
                assert!(panic.reason.contains("no handler"), "{}", panic.reason);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // Clients disconnect then. The number of refusals is not forgotten.
    drop(subscriber);
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    let event = subscriber.event().await;
    assert_eq!((event.id.as_str(), retry_number(&event)), ("event-0", 5));
    subscriber.fail(&event, "no handler", true);
    assert_eq!(retry_number(&subscriber.event().await), 6, "nobody is told twice");
    drop(subscriber);
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled_ids(2).await, ["event-0", "event-1"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_of_a_consumer_that_dies_goes_to_another() {
    let scene = Scene::new().await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let mut dying = Subscriber::start(&scene.client, Role::of("group")).await;
    let event = dying.event().await;
    let mut other = Subscriber::start(&scene.client, Role::of("group")).await;
    other.quiet().await;
    drop(dying);
    let again = other.handled().await;
    assert_eq!((again.id.as_str(), retry_number(&again)), (event.id.as_str(), 0));
    assert_eq!(other.handled_ids(1).await, ["event-1"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_run_side_by_side_if_acks_name_them() {
    let scene = Scene::new().await;
    let streams = ["a", "b", "a", "c", "b"];
    scene
        .publish(streams.iter().enumerate().map(|(number, stream)| in_stream(number, stream)).collect())
        .await
        .unwrap();
    let role = Role::parallel("group");
    let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
    let first = subscriber.event().await;
    assert_eq!(first.id, "event-0");
    subscriber.quiet().await;
    subscriber.ack_stream(&first);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(subscriber.event().await);
    }
    assert_eq!(ids(&waiting), ["event-1", "event-2", "event-3"], "one of each stream");
    subscriber.quiet().await;
    // The other streams do not wait for the slowest, and progress does.
    subscriber.ack_stream(&waiting[2]);
    subscriber.ack_stream(&waiting[1]);
    until_handled(&scene, &role, "event-0").await;
    subscriber.ack_stream(&waiting[0]);
    until_handled(&scene, &role, "event-3").await;
    assert_eq!(subscriber.event().await.id, "event-4");
    // Events that are handled behind the watermark are remembered.
    drop(subscriber);
    let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
    assert_eq!(subscriber.handled_ids(1).await, ["event-4"]);
    until_handled(&scene, &role, "event-4").await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_has_one_event_in_flight_if_acks_name_no_stream() {
    let scene = Scene::new().await;
    scene.publish((0..6).map(event).collect()).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let mut other = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let (one, two) = (subscriber.event().await, other.event().await);
    assert_ne!(one.stream, two.stream);
    subscriber.quiet().await;
    other.quiet().await;
    subscriber.ack(&one);
    other.ack(&two);
    let mut found = vec![one.id, two.id];
    while found.len() < 6 {
        let event = tokio::select! {
            event = subscriber.handled() => event,
            event = other.handled() => event,
        };
        found.push(event.id);
    }
    found.sort();
    assert_eq!(found, (0..6).map(|number| format!("event-{number}")).collect::<Vec<_>>());
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_gets_every_event_once_in_each_mode() {
    let scene = Scene::new().await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    for role in [Role::of("group"), Role::parallel("group")] {
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        assert_eq!(subscriber.handled_ids(3).await, ["event-0", "event-1", "event-2"]);
        until_handled(&scene, &role, "event-2").await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_goes_to_every_subscriber_beside_a_persisted_event() {
    let scene = Scene::new().await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let mut acking = Subscriber::start(&scene.as_agent("grpc-node-js/1.9").await, Role::of("js")).await;
    let mut silent = Subscriber::start(&scene.as_agent("grpc-go/1.60").await, Role::of("go")).await;
    let mut second = Subscriber::start(&scene.client, Role::of("go")).await;
    let in_flight = acking.event().await;
    let elsewhere = tokio::select! {
        event = silent.event() => (event, true),
        event = second.event() => (event, false),
    };
    scene.publish(vec![broadcast(7)]).await.unwrap();
    for subscriber in [&mut acking, &mut silent, &mut second] {
        let event = subscriber.event().await;
        assert!(is_broadcast(&event) && event.id == "broadcast-7" && serial(&event) == 0, "{event:?}");
        assert_eq!((event.tenant_id.as_str(), event.payload.len()), (TENANT, 3));
    }
    // The two acks cannot be told from each other: only both of them mean that the event is handled.
    acking.ack(&in_flight);
    acking.quiet().await;
    acking.ack(&in_flight);
    assert_eq!(acking.handled().await.id, "event-1");
    match elsewhere.1 {
        true => silent.ack_stream(&elsewhere.0),
        false => second.ack_stream(&elsewhere.0),
    }
    let next = tokio::select! {
        event = silent.event() => event,
        event = second.event() => event,
    };
    assert_eq!(next.id, "event-1", "the event's only ack is enough");
    assert_eq!(scene.last(TENANT).await.unwrap().id, "event-1", "broadcasts are not kept");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_takes_events_that_are_not_newer() {
    let scene = Scene::new().await;
    let deployments = [0, 4, 5, 6, 5];
    let events = deployments.iter().enumerate().map(|(number, deployment_id)| of_deployment(number, *deployment_id));
    scene.publish(events.collect()).await.unwrap();
    for (deployment_id, taken) in [(0, 5), (6, 5), (5, 3), (4, 2), (3, 1), (1, 1)] {
        let role = Role::deployment(&format!("group-{deployment_id}"), deployment_id);
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        let expected: Vec<String> = (0..taken).map(|number| format!("event-{number}")).collect();
        assert_eq!(subscriber.handled_ids(taken).await, expected, "deployment {deployment_id}");
        subscriber.quiet().await;
        // A later subscriber that may take it gets the event that held the others up.
        let mut newer = Subscriber::start(&scene.client, Role { deployment_id: 6, ..role.clone() }).await;
        let mut seen = taken;
        while seen < deployments.len() {
            let event = tokio::select! {
                event = subscriber.handled() => event,
                event = newer.handled() => event,
            };
            assert_eq!(event.id, format!("event-{seen}"));
            seen += 1;
        }
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_says_nothing_is_ended() {
    let scene = Scene::new().await;
    let mut silent = Subscriber::silent(&scene.client).await;
    let ended = silent.next().await;
    assert!(!matches!(&ended, Err(status) if status.code() == Code::Unknown), "{ended:?}");
    assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_keeps_no_subscriber_waiting() {
    let scene = Scene::new().await;
    scene.publish(vec![event(0)]).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    subscriber.event().await;
    scene.service.terminate();
    let ended = subscriber.next().await;
    assert!(matches!(&ended, Err(status) if status.code() == Code::Unavailable), "{ended:?}");
    let Scene { service, mut world, .. } = scene;
    assert_eq!(service.end().await.code, Some(0));
    world.audit().await;
}
