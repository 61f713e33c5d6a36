//! Streams are read through snapshots, which stand for their first events.

use coldstream::api::proto::{CreateStreamSnapshotRequest, Event, EventMetadata, PublishEvent};
use tonic::Status;

use super::streams::{Ask, FIRST, STREAM, ask, entry, iterate};
use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, fields, ids, is_permanent, serial};

pub fn snapshot(id: &str, deployment_id: i64) -> PublishEvent {
    PublishEvent {
        id: id.into(),
        r#type: "balance".into(),
        metadata: Some(EventMetadata { deployment_id, ..EventMetadata::default() }),
        payload: fields([("balance", "64.30")]),
        ..PublishEvent::default()
    }
}

pub async fn create(scene: &Scene, stream: &str, last: &str, snapshot: PublishEvent) -> Result<(), Status> {
    let request = CreateStreamSnapshotRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: stream.into(),
        last_snapshotted_event_id: last.into(),
        snapshot_event: Some(snapshot),
    };
    scene.client.clone().create_stream_snapshot(request).await.map(drop)
}

/// Returns a scene with eight events of the stream among others, and a snapshot of the first five.
async fn scene_with_snapshot() -> Scene {
    let scene = Scene::new().await;
    for number in 0..8 {
        scene.publish(vec![entry(number), event(100 + number)]).await.unwrap();
    }
    create(&scene, STREAM, "event-4", snapshot("snapshot", 0)).await.unwrap();
    scene
}

/// Loops over the stream with pages of all sizes, wherever its events are; returns the loop with the first size.
async fn loop_everywhere(first: Ask<'_>) -> Vec<Event> {
    let scene = scene_with_snapshot().await;
    let mut answers = everywhere(&scene, 16, async || {
        let mut answers = Vec::new();
        for per_page in [1, 3, 100] {
            answers.push(iterate(&scene, Ask { per_page, ..first }).await);
        }
        answers
    })
    .await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    scene.finish().await;
    answers.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_through_its_snapshot() {
    let found = loop_everywhere(FIRST).await;
    assert_eq!(ids(&found), ["snapshot", "event-5", "event-6", "event-7"]);
    // Two events are published at a time, one of them of the stream.
    assert_eq!(
        found.iter().map(serial).collect::<Vec<_>>(),
        [9, 11, 13, 15],
        "the snapshot bears the serial of the last event it stands for"
    );
    assert_eq!(found[0].payload["balance"].value, "64.30");
    assert_eq!((found[0].stream.as_str(), found[0].r#type.as_str()), (STREAM, "balance"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_names_the_snapshot() {
    let scene = scene_with_snapshot().await;
    everywhere(&scene, 16, async || {
        let through = (Vec::new(), "snapshot".to_owned());
        assert_eq!(ask(&scene, Ask { page: 9, snapshot: "snapshot", ..FIRST }).await, through);
        assert_eq!(ask(&scene, Ask { per_page: 0, ..FIRST }).await, through);
        assert_eq!(ask(&scene, Ask { page: 1, per_page: 3, snapshot: "snapshot", ..FIRST }).await.1, through.1);
    })
    .await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_without_its_snapshot_on_demand() {
    let found = loop_everywhere(Ask { without: true, ..FIRST }).await;
    assert_eq!(ids(&found), (0..8).map(|number| format!("event-{number}")).collect::<Vec<_>>());
    let found = loop_everywhere(Ask { after: "event-2", without: true, ..FIRST }).await;
    assert_eq!(ids(&found), (3..8).map(|number| format!("event-{number}")).collect::<Vec<_>>());
    let scene = scene_with_snapshot().await;
    for snapshot in ["", "snapshot"] {
        assert_eq!(ask(&scene, Ask { without: true, snapshot, ..FIRST }).await.1, "");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_a_newer_deployment_is_not_used() {
    let scene = scene_with_snapshot().await;
    create(&scene, STREAM, "event-6", snapshot("newer", 5)).await.unwrap();
    let through = async |deployment_id| ask(&scene, Ask { deployment_id, ..FIRST }).await.1;
    assert_eq!(through(4).await, "snapshot");
    assert_eq!(through(5).await, "newer");
    assert_eq!(through(0).await, "snapshot");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_made_in_the_middle_shifts_no_page() {
    let scene = Scene::new().await;
    scene.publish((0..8).map(entry).collect()).await.unwrap();
    let (first, through) = ask(&scene, Ask { per_page: 3, ..FIRST }).await;
    assert_eq!((ids(&first), through.as_str()), (vec!["event-0", "event-1", "event-2"], ""));
    create(&scene, STREAM, "event-4", snapshot("snapshot", 0)).await.unwrap();
    let (second, through) = ask(&scene, Ask { page: 1, per_page: 3, snapshot: &through, ..FIRST }).await;
    assert_eq!((ids(&second), through.as_str()), (vec!["event-3", "event-4", "event-5"], ""));

    let (first, through) = ask(&scene, Ask { per_page: 2, ..FIRST }).await;
    assert_eq!((ids(&first), through.as_str()), (vec!["snapshot", "event-5"], "snapshot"));
    create(&scene, STREAM, "event-6", snapshot("newer", 0)).await.unwrap();
    let (second, through) = ask(&scene, Ask { page: 1, per_page: 2, snapshot: &through, ..FIRST }).await;
    assert_eq!((ids(&second), through.as_str()), (vec!["event-6", "event-7"], "snapshot"));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_behind_a_snapshot_begin_behind_the_events_that_it_stands_for() {
    let behind = |first: usize| (first..8).map(|number| format!("event-{number}")).collect::<Vec<_>>();
    assert_eq!(
        ids(&loop_everywhere(Ask { after: "snapshot", ..FIRST }).await),
        behind(5),
        "behind the snapshot itself"
    );
    assert_eq!(
        ids(&loop_everywhere(Ask { after: "event-4", ..FIRST }).await),
        behind(5),
        "behind the last it stands for"
    );
    assert_eq!(ids(&loop_everywhere(Ask { after: "event-5", ..FIRST }).await), behind(6), "behind a later one");
    let before = loop_everywhere(Ask { after: "event-2", ..FIRST }).await;
    assert_eq!(ids(&before), ["snapshot", "event-5", "event-6", "event-7"], "before the last it stands for");
    let scene = scene_with_snapshot().await;
    let found = everywhere(&scene, 16, async || scene.page_after("snapshot", &[], (0, 2)).await.unwrap()).await;
    assert_eq!(ids(&found), ["event-104", "event-5"], "in the topic, too");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_no_event_of_its_log() {
    let scene = scene_with_snapshot().await;
    assert_eq!(scene.page(&[], (0, 100)).await.unwrap().len(), 16);
    assert_eq!(scene.page(&["balance"], (0, 100)).await.unwrap(), []);
    assert_eq!(scene.last(TENANT).await.unwrap().id, "event-107");
    create(&scene, STREAM, "event-4", snapshot("snapshot", 0)).await.unwrap();
    let other = PublishEvent { payload: fields([("balance", "0")]), ..snapshot("snapshot", 0) };
    is_permanent(create(&scene, STREAM, "event-4", other).await, "other content");
    is_permanent(create(&scene, STREAM, "event-4", snapshot("event-1", 0)).await, "event-1");
    is_permanent(create(&scene, STREAM, "event-104", snapshot("another", 0)).await, "event-104");
    is_permanent(create(&scene, "account-2", "event-4", snapshot("another", 0)).await, "event-4");
    let invalid = PublishEvent { payload: fields([("balance", "NaN")]), ..snapshot("another", 0) };
    is_permanent(create(&scene, STREAM, "event-4", invalid).await, "balance");
    scene.finish().await;
}
