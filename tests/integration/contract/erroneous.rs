//! Events that a group could not handle are listed, and sent again to that group alone.

use coldstream::api::proto::{
    ErroneousEvent, ListErroneousEventsRequest, RenameEventTypeRequest, ResendErroneousEventRequest,
};
use tonic::Status;

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, TENANT, TOPIC, event, is_permanent};
use crate::support::{Program, Role, Service, Subscriber, retry_number};

pub async fn erroneous(scene: &Scene, types: &[&str], limit: i64, is_parallel: bool) -> Vec<ErroneousEvent> {
    let request = ListErroneousEventsRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        event_types: types.iter().map(|name| (*name).to_owned()).collect(),
        limit,
        parallel_topic_processing: is_parallel,
    };
    scene.client.clone().list_erroneous_events(request).await.unwrap().into_inner().events
}

pub async fn resend(scene: &Scene, role: &Role, event_id: &str) -> Result<(), Status> {
    let request = ResendErroneousEventRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        consumer_group: role.group.clone(),
        event_id: event_id.into(),
        parallel_topic_processing: role.is_parallel,
    };
    scene.client.clone().resend_erroneous_event(request).await.map(drop)
}

pub fn listed(erroneous: &[ErroneousEvent]) -> Vec<(&str, &str, &str)> {
    erroneous
        .iter()
        .map(|erroneous| {
            let id = erroneous.event.as_ref().expect("an event is sent along").id.as_str();
            (id, erroneous.consumer_group.as_str(), erroneous.error.as_str())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erroneous_event_is_listed_and_sent_again() {
    for archived in [0, 2, 3] {
        for role in [Role::of("group"), Role::parallel("group")] {
            let (scene, parallel) = (Scene::new().await, role.is_parallel);
            scene.publish((0..3).map(event).collect()).await.unwrap();
            if archived > 0 {
                scene.archive(archived).await;
            }
            let mut other = Subscriber::start(&scene.client, Role { group: "other".into(), ..role.clone() }).await;
            let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
            subscriber.handled().await;
            let failed = subscriber.event().await;
            subscriber.fail(&failed, "cannot", false);
            assert_eq!(subscriber.handled_ids(1).await, ["event-2"], "the next event flows");
            other.handled().await;
            let failed = other.event().await;
            other.fail(&failed, "will not", false);
            other.handled().await;
            for role in [&role, &Role { group: "other".into(), ..role.clone() }] {
                until_handled(&scene, role, "event-2").await;
            }
            let all = erroneous(&scene, &[], 0, parallel).await;
            assert_eq!(listed(&all), [("event-1", "group", "cannot"), ("event-1", "other", "will not")]);
            assert_eq!(erroneous(&scene, &["type-1"], 1, parallel).await, all[..1]);
            assert_eq!(erroneous(&scene, &["type-0"], 0, parallel).await, []);
            assert_eq!(erroneous(&scene, &[], 0, !parallel).await, []);
            let request =
                RenameEventTypeRequest { topic: TOPIC.into(), old_type: "type-1".into(), new_type: "odd".into() };
            scene.client.clone().rename_event_type(request).await.unwrap();
            assert_eq!(erroneous(&scene, &["odd"], 0, parallel).await.len(), 2, "as it is read now");

            is_permanent(resend(&scene, &role, "event-0").await, "not erroneous");
            is_permanent(resend(&scene, &role, "nobody").await, "not erroneous");
            resend(&scene, &role, "event-1").await.unwrap();
            assert_eq!(listed(&erroneous(&scene, &[], 0, parallel).await), [("event-1", "other", "will not")]);
            let again = subscriber.event().await;
            assert_eq!((again.id.as_str(), again.r#type.as_str(), retry_number(&again)), ("event-1", "odd", 1));
            subscriber.fail(&again, "still cannot", false);
            scene.publish(vec![event(3)]).await.unwrap();
            assert_eq!(subscriber.handled_ids(1).await, ["event-3"]);
            until_handled(&scene, &role, "event-3").await;
            assert_eq!(listed(&erroneous(&scene, &[], 1, parallel).await), [("event-1", "group", "still cannot")]);
            resend(&scene, &role, "event-1").await.unwrap();
            let again = subscriber.handled().await;
            assert_eq!((again.id.as_str(), retry_number(&again)), ("event-1", 2));
            assert_eq!(other.handled_ids(1).await, ["event-3"], "the other group got none of it");
            scene.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_to_be_sent_again_outlives_a_service() {
    let mut scene = Scene::new().await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let role = Role::of("group");
    let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
    let failed = subscriber.event().await;
    subscriber.fail(&failed, "cannot", false);
    subscriber.handled().await;
    until_handled(&scene, &role, "event-1").await;
    drop(subscriber);
    resend(&scene, &role, "event-0").await.unwrap();
    let service = Service::start(Program::new(&scene.world, 1_000_000)).await;
    std::mem::replace(&mut scene.service, service).kill().await;
    scene.reconnect().await;
    let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
    let again = subscriber.handled().await;
    assert_eq!((again.id.as_str(), retry_number(&again)), ("event-0", 1));
    scene.publish(vec![event(2)]).await.unwrap();
    assert_eq!(subscriber.handled_ids(1).await, ["event-2"]);
    scene.finish().await;
}
