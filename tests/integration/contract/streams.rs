//! Clients loop over streams wherever their events are.

use coldstream::api::proto::{Event, PaginateStreamAfterEventIdRequest, PaginateStreamRequest, PublishEvent};

use tonic::Status;

use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, ids};

pub const STREAM: &str = "account-1";

/// A client's request for a page of the stream.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub after: &'a str,
    pub page: i64,
    pub per_page: i64,
    pub deployment_id: i64,
    pub snapshot: &'a str,
    pub without: bool,
}

/// The first page of everything.
pub const FIRST: Ask = Ask { after: "", page: 0, per_page: 100, deployment_id: 0, snapshot: "", without: false };

pub fn entry(number: usize) -> PublishEvent {
    PublishEvent { stream: STREAM.into(), ..event(number) }
}

/// Returns the events, and the snapshot that they were read through.
pub async fn ask(scene: &Scene, ask: Ask<'_>) -> (Vec<Event>, String) {
    ask_of(scene, STREAM, ask).await.unwrap()
}

/// Asks the same of any stream.
pub async fn ask_of(scene: &Scene, stream: &str, ask: Ask<'_>) -> Result<(Vec<Event>, String), Status> {
    let Ask { after, page, per_page, deployment_id, snapshot, without } = ask;
    if after.is_empty() {
        let request = PaginateStreamRequest {
            tenant_id: TENANT.into(),
            topic: TOPIC.into(),
            stream: stream.into(),
            page,
            per_page,
            deployment_id,
            snapshot_event_id: snapshot.into(),
            do_not_use_snapshots: without,
        };
        let response = scene.client.clone().paginate_stream(request).await?.into_inner();
        return Ok((response.events, response.snapshot_event_id));
    }
    let request = PaginateStreamAfterEventIdRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: stream.into(),
        event_id: after.into(),
        page,
        per_page,
        deployment_id,
        snapshot_event_id: snapshot.into(),
        do_not_use_snapshots: without,
    };
    let response = scene.client.clone().paginate_stream_after_event_id(request).await?.into_inner();
    Ok((response.events, response.snapshot_event_id))
}

/// Reads a stream as a client does: page after page, handing back the snapshot that the page before was read through,
/// until a page is empty.
pub async fn iterate(scene: &Scene, first: Ask<'_>) -> Vec<Event> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_empty_if_it_has_no_event_anywhere() {
    let scene = Scene::new().await;
    assert!(scene.is_stream_empty("stream-0").await, "nobody published to the topic");
    scene.publish((0..5).map(event).collect()).await.unwrap();
    let other = PublishEvent { tenant_id: "other".into(), stream: "of another".into(), ..event(0) };
    let are_empty = everywhere(&scene, 5, async || {
        let mut are_empty = Vec::new();
        // The third stream has no hot event when half of the events are archived.
        for stream in ["stream-0", "stream-1", "stream-2", "stream-3", "", "of another"] {
            are_empty.push(scene.is_stream_empty(stream).await);
        }
        are_empty
    });
    assert_eq!(are_empty.await, [false, false, false, true, true, true]);
    scene.publish(vec![other, PublishEvent { stream: "stream-3".into(), ..event(5) }]).await.unwrap();
    assert!(!scene.is_stream_empty("stream-3").await && scene.is_stream_empty("of another").await);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_loops_see_each_event_once_and_end() {
    const ENTRIES: usize = 7;
    let scene = Scene::new().await;
    for number in 0..ENTRIES {
        scene.publish(vec![entry(number), event(100 + number)]).await.unwrap();
    }
    let sizes = [1, 2, ENTRIES as i64, ENTRIES as i64 + 1];
    // Pages begin behind entries, and behind events of other streams.
    let behind = |after: &str| match after {
        "" => 0,
        other => other.rsplit_once('-').unwrap().1.parse::<usize>().unwrap() % 100 + 1,
    };
    everywhere(&scene, 2 * ENTRIES as i64, async || {
        let mut answers = Vec::new();
        for per_page in sizes {
            for after in ["", "event-0", "event-3", "event-103", "event-6", "event-106"] {
                for without in [false, true] {
                    let found = iterate(&scene, Ask { after, per_page, without, ..FIRST }).await;
                    let expected = (behind(after)..ENTRIES).map(|number| format!("event-{number}"));
                    assert_eq!(ids(&found), expected.collect::<Vec<_>>(), "{after:?} {per_page}");
                    answers.push(found);
                }
            }
            // Pages past the end are empty, and so are pages of nothing.
            for (page, per_page) in [(8, per_page), (i64::MAX, per_page), (0, 0), (0, -1)] {
                for after in ["", "event-3"] {
                    let (found, through) = ask(&scene, Ask { after, page, per_page, ..FIRST }).await;
                    assert_eq!((found, through.as_str()), (Vec::new(), ""), "{after:?} {page} {per_page}");
                }
            }
        }
        answers
    })
    .await;
    scene.finish().await;
}
