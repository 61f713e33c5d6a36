//! Large events, and larger pages.

use coldstream::api::proto::{Event, PublishEvent};
use futures::future::join_all;
use sha2::{Digest, Sha256};

use crate::grpc::{Scene, TENANT, event, everywhere, fields, is_permanent};

const MIB: usize = 1024 * 1024;
const EVENTS: usize = 50;

fn large(number: usize, bytes: usize) -> PublishEvent {
    let pattern = format!("{number:07} ");
    let value = format!("\"{}\"", pattern.repeat(bytes / pattern.len()));
    PublishEvent { payload: fields([("text", &value)]), ..event(number) }
}

/// The whole event; its value by its length and digest, so that a failure can be read.
fn summary(event: Event) -> (Event, usize, Vec<u8>) {
    let value = event.payload["text"].value.as_bytes();
    let (length, digest) = (value.len(), Sha256::digest(value).to_vec());
    (Event { payload: Default::default(), ..event }, length, digest)
}

fn check(found: &[(Event, usize, Vec<u8>)], published: &[PublishEvent]) {
    assert_eq!(found.len(), published.len());
    for ((event, length, digest), published) in found.iter().zip(published) {
        let value = &published.payload["text"].value;
        assert_eq!((&event.id, *length), (&published.id, value.len()));
        assert_eq!(digest[..], Sha256::digest(value)[..], "{}", event.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_45_ten_mib_are_published_and_fifty_read_at_once() {
    let scene = Scene::new().await;
    let published: Vec<PublishEvent> = (0..EVENTS).map(|number| large(number, MIB)).collect();
    for ten in published.chunks(10) {
        scene.publish(ten.to_vec()).await.unwrap();
    }
    let page = everywhere(&scene, EVENTS as i64, async || {
        let page = scene.page(&[], (0, EVENTS as i64)).await.unwrap();
        page.into_iter().map(summary).collect::<Vec<_>>()
    })
    .await;
    check(&page, &published);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_45_one_event_of_ten_mib() {
    let scene = Scene::new().await;
    let events = [large(0, 10 * MIB), large(1, 10 * MIB)];
    for event in &events {
        scene.publish(vec![event.clone()]).await.unwrap();
    }
    let found = everywhere(&scene, 2, async || {
        let found = join_all(["event-0", "event-1"].map(|id| scene.event(TENANT, id))).await;
        found.into_iter().map(|event| summary(event.unwrap())).collect::<Vec<_>>()
    });
    check(&found.await, &events);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_45_what_is_too_large_is_refused_for_good() {
    let scene = Scene::new().await;
    is_permanent(scene.publish(vec![large(0, 17 * MIB)]).await, "at most 16777216 are taken");
    is_permanent(scene.last(TENANT).await, "unable to find last event");
    scene.finish().await;
}
