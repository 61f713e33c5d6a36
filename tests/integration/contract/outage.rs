//! S3 may be away, or say nothing: archived events are worth another try, and hot events do not depend on S3.

use coldstream::api::proto::PublishEvent;
use tonic::Code;

use crate::grpc::{Scene, TENANT, event, ids};
use crate::support::{Fate, Gate, Kind, Role, Subscriber};

/// A name, and the fate of every request.
type Away = (&'static str, fn() -> Fate);

const ARCHIVED: usize = 3;
/// The number of attempts that clients make, with 100 ms between.
const ATTEMPTS_OF_CLIENTS: usize = 50;

async fn scene_with_archive() -> Scene {
    let scene = Scene::new().await;
    scene.publish((0..5).map(event).collect()).await.unwrap();
    assert_eq!(scene.archive(ARCHIVED as u64).await, ARCHIVED as i64);
    scene
}

/// Checks that everything that needs no archived event works and asks S3 nothing. No number may come twice.
async fn hot_is_as_ever(scene: &Scene, number: usize) {
    scene.world.proxy.take_seen();
    scene.publish(vec![PublishEvent { stream: "hot".into(), ..event(number) }]).await.unwrap();
    assert_eq!(scene.event(TENANT, "event-4").await.unwrap().id, "event-4");
    let id = format!("event-{number}");
    assert_eq!(scene.last(TENANT).await.unwrap().id, id);
    assert_eq!(scene.last_of(&["type-0", "type-1"]).await.unwrap().id, id);
    assert_eq!(ids(&scene.page_after("event-3", &[], (0, 1)).await.unwrap()), ["event-4"]);
    assert!(!scene.is_stream_empty("hot").await);
    assert_eq!(scene.world.proxy.take_asked(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_archived_events_are_unavailable_until_s3_is_back() {
    let scene = scene_with_archive().await;
    let away: [Away; 3] = [
        ("nobody listens", || Fate::LoseRequest),
        ("no reply comes", || Fate::LoseReply),
        ("too busy", || Fate::Answer(503, "<Error><Code>SlowDown</Code></Error>")),
    ];
    for (round, (case, fate)) in away.into_iter().enumerate() {
        scene.world.proxy.script(move |_| fate());
        let refused = [
            scene.event(TENANT, "event-1").await.err(),
            scene.page(&[], (0, 2)).await.err(),
            scene.page_after("event-0", &["type-1"], (0, 1)).await.err(),
        ];
        for status in refused {
            assert_eq!(status.expect(case).code(), Code::Unavailable, "{case}");
        }
        hot_is_as_ever(&scene, 10 + round).await;
    }
    // A client that goes on trying is answered by the first attempt after S3 is back.
    for attempt in 1..=ATTEMPTS_OF_CLIENTS {
        match scene.event(TENANT, "event-1").await {
            Err(status) if attempt < 4 => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            Err(status) => panic!("S3 is back: {status}"),
            Ok(found) => {
                assert_eq!((attempt, found.id.as_str()), (4, "event-1"));
                break;
            }
        }
        if attempt == 3 {
            scene.world.proxy.heal();
        }
    }
    let ids = ids(&scene.page(&[], (0, 100)).await.unwrap()).join(" ");
    assert_eq!(ids, "event-0 event-1 event-2 event-3 event-4 event-10 event-11 event-12");
    scene.finish().await;
}

/// A server that takes the request and says nothing is the worst of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_events_do_not_wait_for_a_reader_that_waits_for_s3() {
    let scene = scene_with_archive().await;
    let gate = scene.world.proxy.hold_first(Kind::Get);
    let (mut waiting, mut answered) = (Box::pin(scene.event(TENANT, "event-1")), false);
    tokio::select! {
        () = gate.arrival() => {}
        _ = &mut waiting => answered = true,
    }
    assert!(!answered, "the reader waits for S3");
    hot_is_as_ever(&scene, 10).await;
    gate.open();
    assert_eq!(waiting.await.unwrap().id, "event-1");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_wait_for_s3_for_ever() {
    let scene = scene_with_archive().await;
    let gate = scene.world.proxy.hold_first(Kind::Get);
    let status = scene.event(TENANT, "event-1").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    gate.open();
    assert_eq!(scene.event(TENANT, "event-1").await.unwrap().id, "event-1");
    scene.finish().await;
}

/// Events that were read ahead are forgotten when nothing is acked for a second; they have to be read again before the
/// events that a slow answer of S3 brings then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_of_a_slow_archive_gets_everything() {
    let scene = Scene::new().await;
    scene.publish((0..8).map(event).collect()).await.unwrap();
    scene.archive(4).await;
    let gate = Gate::new();
    let (held, mut count) = (gate.clone(), 0);
    scene.world.proxy.script(move |request| {
        count += i32::from(request.kind == Kind::Get);
        if request.kind == Kind::Get && count == 2 { Fate::Hold(held.clone()) } else { Fate::Pass }
    });
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    let first = subscriber.event().await;
    gate.arrival().await;
    for _ in 0..5 {
        subscriber.quiet().await;
    }
    gate.open();
    subscriber.quiet().await;
    subscriber.ack(&first);
    let expected: Vec<String> = (1..8).map(|number| format!("event-{number}")).collect();
    assert_eq!(subscriber.handled_ids(7).await, expected);
    scene.finish().await;
}
