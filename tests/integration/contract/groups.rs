//! The progress of groups, as clients ask for it, and topics whose events go once they are consumed.

use std::time::{Duration, Instant};

use coldstream::api::proto::{
    Event, GetLastHandledEventRequest, PublishEvent, WaitForTransactionalConsistencyRequest,
    WaitForTransactionalConsistencyResponse,
};
use tonic::Status;

use crate::grpc::{Scene, TENANT, TOPIC, event, ids, is_permanent};
use crate::support::{Program, Role, Subscriber, World};

const NONE: &str = "unable to find last handled event: unable to find last event";

pub async fn last_handled(scene: &Scene, role: &Role) -> Result<Event, Status> {
    let request = GetLastHandledEventRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        group: role.group.clone(),
        parallel_topic_processing: role.is_parallel,
    };
    scene.client.clone().get_last_handled_event(request).await.map(|response| response.into_inner())
}

/// Returns once the group has handled the event, since acks are not answered.
pub async fn until_handled(scene: &Scene, role: &Role, id: &str) {
    let until = async { while last_handled(scene, role).await.map_or(true, |event| event.id != id) {} };
    tokio::time::timeout(Duration::from_secs(10), until).await.expect("the group does not get so far");
}

pub async fn wait(
    scene: &Scene,
    correlation_id: &str,
    role: &Role,
    groups: &[&str],
) -> WaitForTransactionalConsistencyResponse {
    let request = WaitForTransactionalConsistencyRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        correlation_id: correlation_id.into(),
        consumer_groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        parallel_topic_processing: role.is_parallel,
    };
    scene.client.clone().wait_for_transactional_consistency(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_handled_event_is_that_of_a_group_in_one_mode() {
    for archived in [0, 2, 3] {
        for role in [Role::of("group"), Role::parallel("group")] {
            let scene = Scene::new().await;
            is_permanent(last_handled(&scene, &role).await, NONE);
            scene.publish((0..3).map(event).collect()).await.unwrap();
            let error = last_handled(&scene, &role).await.unwrap_err();
            assert_eq!(error.message(), NONE);
            if archived > 0 {
                scene.archive(archived).await;
            }
            let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
            assert_eq!(subscriber.handled_ids(2).await, ["event-0", "event-1"]);
            until_handled(&scene, &role, "event-1").await;
            let found = last_handled(&scene, &role).await.unwrap();
            assert_eq!(found, scene.event(TENANT, "event-1").await.unwrap());
            let other_mode = Role { is_parallel: !role.is_parallel, ..role.clone() };
            is_permanent(last_handled(&scene, &other_mode).await, NONE);
            is_permanent(last_handled(&scene, &Role { group: "other".into(), ..role }).await, NONE);
            scene.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_correlation_ends_once_it_is_handled_or_erroneous() {
    for archived in [0, 2, 4] {
        let scene = Scene::new().await;
        scene.publish((0..4).map(event).collect()).await.unwrap();
        if archived > 0 {
            scene.archive(archived).await;
        }
        for (correlation_id, groups) in [("nothing", &["group"][..]), ("", &["group"]), ("correlation-1", &[])] {
            let answer = wait(&scene, correlation_id, &Role::of(""), groups).await;
            assert!(answer.success, "{correlation_id:?} {groups:?}: {answer:?}");
        }
        for role in [Role::of("group"), Role::parallel("group")] {
            let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
            let waiting = wait(&scene, "correlation-1", &role, &["group"]);
            let handling = async {
                let first = subscriber.handled().await;
                let second = subscriber.event().await;
                assert_eq!((first.id.as_str(), second.id.as_str()), ("event-0", "event-1"));
                let acked_at = Instant::now();
                subscriber.ack(&second);
                acked_at
            };
            let (answer, acked_at) = tokio::join!(waiting, handling);
            assert!(answer.success && answer.error.is_empty(), "{answer:?}");
            assert!(acked_at.elapsed() < Duration::from_secs(2), "{:?}", acked_at.elapsed());
            let third = subscriber.event().await;
            subscriber.fail(&third, "out of paper", false);
            let answer = wait(&scene, "correlation-2", &role, &["group"]).await;
            assert!(!answer.success && answer.error.contains("out of paper"), "{answer:?}");
        }
        scene.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_correlation_for_ever() {
    let world = World::new().await;
    let program = Program::new(&world, 1_000_000).set("STREAMS_CONSISTENCY_WAIT_SECONDS", 1);
    let scene = Scene::start(world, program).await;
    scene.publish(vec![event(0)]).await.unwrap();
    let answer = wait(&scene, "correlation-0", &Role::of(""), &["nobody"]).await;
    assert!(!answer.success && answer.error.contains("within 1 s"), "{answer:?}");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_once_they_are_consumed() {
    for (key, is_parallel) in [("deleteAfterConsumption", false), ("deleteAfterParallelConsumption", true)] {
        let role = |group: &str| Role { is_parallel, ..Role::of(group) };
        let world = World::new().await;
        let program = Program::new(&world, 1_000_000);
        let file = format!("{key}:\n  {TOPIC}: {{ requiredConsumptionGroups: [one, two] }}\n");
        let path = program.write("config.yaml", file);
        let scene = Scene::start(world, program.set("CONFIG_FILE", path.display())).await;
        scene.publish((0..4).map(event).collect()).await.unwrap();
        let mut one = Subscriber::start(&scene.client, role("one")).await;
        let mut other_mode = Subscriber::start(&scene.client, Role { is_parallel: !is_parallel, ..role("two") }).await;
        one.handled_ids(4).await;
        other_mode.handled_ids(4).await;
        until_handled(&scene, &role("one"), "event-3").await;
        assert_eq!(scene.page(&[], (0, 9)).await.unwrap().len(), 4, "one of two groups, and one of two modes");
        let mut two = Subscriber::start(&scene.client, role("two")).await;
        two.handled().await;
        let failed = two.event().await;
        two.fail(&failed, "not this one", false);
        two.handled_ids(2).await;
        let left = async { while scene.page(&[], (0, 9)).await.unwrap().len() > 1 {} };
        tokio::time::timeout(Duration::from_secs(10), left).await.expect("consumed events are still there");
        let left = scene.page(&[], (0, 9)).await.unwrap();
        assert_eq!(ids(&left), ["event-1"], "erroneous events stay");
        // A publisher that got no answer publishes the events again.
        scene.publish((0..4).map(event).collect()).await.unwrap();
        assert_eq!(ids(&scene.page(&[], (0, 9)).await.unwrap()), ["event-1"]);
        // A group that comes later gets the events that are left, and the log goes on.
        scene.publish(vec![event(4), PublishEvent { id: "event-5".into(), ..event(5) }]).await.unwrap();
        let mut late = Subscriber::start(&scene.client, Role::of("late")).await;
        assert_eq!(late.handled_ids(3).await, ["event-1", "event-4", "event-5"]);
        assert_eq!(one.handled_ids(2).await, ["event-4", "event-5"]);
        scene.finish().await;
    }
}
