//! One event, the last one, and the last one of some types are found wherever they are; clients know by the words of
//! the error that there is none.

use std::time::Duration;

use crate::grpc::{Scene, TENANT, event, everywhere, is_permanent, serial};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_there_is_unknown_at_once() {
    let scene = Scene::new().await;
    let ask = async |tenant, id| {
        let asked = tokio::time::timeout(Duration::from_secs(1), scene.event(tenant, id)).await;
        is_permanent(asked.expect("nobody waits for a missing event"), "unable to find event");
    };
    ask(TENANT, "event-1").await;
    scene.publish((0..4).map(event).collect()).await.unwrap();
    everywhere(&scene, 4, async || {
        for (tenant, id) in [(TENANT, "nobody"), (TENANT, ""), (TENANT, "event-10"), ("another", "event-1")] {
            ask(tenant, id).await;
        }
    })
    .await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_topic_has_no_last_event() {
    let scene = Scene::new().await;
    is_permanent(scene.last(TENANT).await, "unable to find last event");
    scene.publish((0..4).map(event).collect()).await.unwrap();
    everywhere(&scene, 4, async || is_permanent(scene.last("another").await, "unable to find last event")).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_event_is_found_though_all_are_archived() {
    let scene = Scene::new().await;
    scene.publish((0..4).map(event).collect()).await.unwrap();
    let last = everywhere(&scene, 4, async || scene.last(TENANT).await.unwrap()).await;
    assert_eq!((last.id.as_str(), serial(&last)), ("event-3", 4));
    scene.publish(vec![event(4)]).await.unwrap();
    assert_eq!(scene.last(TENANT).await.unwrap().id, "event-4", "a hot event comes behind all archived ones");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_event_of_some_types_is_found_wherever_it_is() {
    let scene = Scene::new().await;
    is_permanent(scene.last_of(&[]).await, "unable to find last event by types");
    scene.publish((0..4).map(event).collect()).await.unwrap();
    let found = everywhere(&scene, 4, async || {
        is_permanent(scene.last_of(&["nothing"]).await, "unable to find last event by types");
        let mut found = Vec::new();
        for types in [&["type-0"] as &[&str], &["type-1"], &["nothing", "type-0"], &["type-0", "type-1"], &[]] {
            found.push(scene.last_of(types).await.unwrap());
        }
        found
    })
    .await;
    assert_eq!(found.iter().map(serial).collect::<Vec<_>>(), [3, 4, 3, 4, 4]);
    for found in found {
        assert_eq!(found, scene.event(TENANT, &found.id).await.unwrap());
    }
    scene.finish().await;
}
