//! Streams, and the snapshots that they are read through: the same answers while events are hot, half archived and all
//! archived.

use coldstream::api::proto::{
    CreateStreamSnapshotRequest, Event, EventMetadata, PaginateStreamAfterEventIdRequest, PaginateStreamRequest,
    PublishEvent,
};
use tonic::Status;

use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, fields, ids, is_permanent, serial};

const STREAM: &str = "account-1";

/// How a client asks for a page of the stream.
#[derive(Clone, Copy)]
struct Ask<'a> {
    after: &'a str,
    page: i64,
    per_page: i64,
    deployment_id: i64,
    snapshot: &'a str,
    without: bool,
}

/// The first page of everything.
const FIRST: Ask = Ask { after: "", page: 0, per_page: 100, deployment_id: 0, snapshot: "", without: false };

fn entry(number: usize) -> PublishEvent {
    PublishEvent { stream: STREAM.into(), ..event(number) }
}

fn snapshot(id: &str, deployment_id: i64) -> PublishEvent {
    PublishEvent {
        id: id.into(),
        r#type: "balance".into(),
        metadata: Some(EventMetadata { deployment_id, ..EventMetadata::default() }),
        payload: fields([("balance", "64.30")]),
        ..PublishEvent::default()
    }
}

async fn create(scene: &Scene, stream: &str, last: &str, snapshot: PublishEvent) -> Result<(), Status> {
    let request = CreateStreamSnapshotRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: stream.into(),
        last_snapshotted_event_id: last.into(),
        snapshot_event: Some(snapshot),
    };
    scene.client.clone().create_stream_snapshot(request).await.map(drop)
}

/// The events, and the snapshot that they were read through.
async fn ask(scene: &Scene, ask: Ask<'_>) -> (Vec<Event>, String) {
    let Ask { after, page, per_page, deployment_id, snapshot, without } = ask;
    if after.is_empty() {
        let request = PaginateStreamRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            stream: STREAM.into(),
            page,
            per_page,
            deployment_id,
            snapshot_event_id: snapshot.into(),
            do_not_use_snapshots: without,
        };
        let response = scene.client.clone().paginate_stream(request).await.unwrap().into_inner();
        return (response.events, response.snapshot_event_id);
    }
    let request = PaginateStreamAfterEventIdRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: STREAM.into(),
        event_id: after.into(),
        page,
        per_page,
        deployment_id,
        snapshot_event_id: snapshot.into(),
        do_not_use_snapshots: without,
    };
    let response = scene.client.clone().paginate_stream_after_event_id(request).await.unwrap().into_inner();
    (response.events, response.snapshot_event_id)
}

/// As a client goes over a stream: page after page, handing back the snapshot that the page before was read through,
/// until a page is empty.
async fn iterate(scene: &Scene, first: Ask<'_>) -> Vec<Event> {
    let (mut seen, mut through) = (Vec::new(), String::new());
    for page in 0.. {
        let (events, snapshot) = ask(scene, Ask { page, snapshot: &through, ..first }).await;
        assert!(page == 0 || snapshot == through, "every page says the snapshot, an empty one too");
        if events.is_empty() {
            break;
        }
        seen.extend(events);
        through = snapshot;
    }
    seen
}

/// Eight events of the stream among others, and a snapshot of the first five.
async fn scene_with_snapshot() -> Scene {
    let scene = Scene::new().await;
    for number in 0..8 {
        scene.publish(vec![entry(number), event(100 + number)]).await.unwrap();
    }
    create(&scene, STREAM, "event-4", snapshot("snapshot", 0)).await.unwrap();
    scene
}

/// Scenarios 18 to 21 and 24.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_through_its_snapshot() {
    let scene = scene_with_snapshot().await;
    let answers = everywhere(&scene, 16, async || {
        let mut answers = Vec::new();
        for per_page in [1, 3, 100] {
            answers.push(iterate(&scene, Ask { per_page, ..FIRST }).await);
            answers.push(iterate(&scene, Ask { per_page, without: true, ..FIRST }).await);
            for after in ["event-2", "event-4", "event-5", "snapshot"] {
                answers.push(iterate(&scene, Ask { after, per_page, ..FIRST }).await);
            }
        }
        assert!(!scene.is_stream_empty(STREAM).await && scene.is_stream_empty("account-2").await);
        answers
    })
    .await;
    for of_size in answers.chunks(6) {
        assert_eq!(ids(&of_size[0]), ["snapshot", "event-5", "event-6", "event-7"]);
        assert_eq!(ids(&of_size[1]), (0..8).map(|number| format!("event-{number}")).collect::<Vec<_>>());
        assert_eq!(ids(&of_size[2]), ["snapshot", "event-5", "event-6", "event-7"], "before the snapshotted one");
        assert_eq!(ids(&of_size[3]), ["event-5", "event-6", "event-7"], "behind it");
        assert_eq!(ids(&of_size[4]), ["event-6", "event-7"]);
        assert_eq!(ids(&of_size[5]), ["event-5", "event-6", "event-7"], "behind the snapshot itself");
    }
    assert_eq!(serial(&answers[0][0]), serial(&answers[1][4]), "its serial is that of the last one it stands for");
    assert_eq!(answers[0][0].payload["balance"].value, "64.30");
    assert_eq!(ask(&scene, Ask { without: true, ..FIRST }).await.1, "");
    assert_eq!(ask(&scene, Ask { page: 9, snapshot: "snapshot", ..FIRST }).await, (Vec::new(), "snapshot".into()));
    assert_eq!(ask(&scene, Ask { per_page: 0, ..FIRST }).await, (Vec::new(), "snapshot".into()));
    scene.finish().await;
}

/// Scenario 22.
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

/// Scenario 23.
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
async fn a_snapshot_is_no_event_of_its_log() {
    let scene = scene_with_snapshot().await;
    assert_eq!(scene.page(&[], (0, 100)).await.unwrap().len(), 16);
    assert_eq!(scene.page(&["balance"], (0, 100)).await.unwrap(), []);
    assert_eq!(scene.last(TENANT).await.unwrap().id, "event-107");
    let behind = scene.page_after("snapshot", &[], (0, 2)).await.unwrap();
    assert_eq!(ids(&behind), ["event-104", "event-5"], "its id works as the last event that it stands for");

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
