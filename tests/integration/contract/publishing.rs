//! A batch is published as a whole or not at all, once, to the tenants that it names, and never behind the back of a
//! reader.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coldstream::api::proto::{Event, EventMetadata, EventOptions, EventPayload, PaginateEventsRequest, PublishEvent};
use futures::future::join_all;

use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, fields, ids, is_permanent, serial};

fn of(tenant: &str, number: usize) -> PublishEvent {
    PublishEvent { tenant_id: tenant.into(), ..event(number) }
}

/// Returns an event without personal fields as a reader is to see it.
fn as_read(published: PublishEvent, order_serial: i64, raised_at: i64) -> Event {
    let PublishEvent { id, tenant_id, r#type, stream, reason, options: _, metadata, payload } = published;
    let payload = payload.into_iter().map(|(name, field)| (name, EventPayload { value: field.value, gdpr: None }));
    Event {
        tenant_id,
        topic: TOPIC.into(),
        id,
        r#type,
        stream,
        reason,
        options: Some(EventOptions { broadcast: false }),
        metadata: metadata.map(|metadata| EventMetadata { order_serial, ..metadata }),
        payload: payload.collect(),
        raised_at,
    }
}

fn unix_nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Returns everything that a tenant has.
async fn all_of(scene: &Scene, tenant: &str) -> Vec<Event> {
    let (tenant_id, topic) = (tenant.to_owned(), TOPIC.to_owned());
    let request = PaginateEventsRequest { tenant_id, topic, types: Vec::new(), page: 0, per_page: 100 };
    scene.client.clone().paginate_events(request).await.unwrap().into_inner().events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_events_are_published_and_got_one_by_one() {
    let scene = Scene::new().await;
    let begun_at = unix_nanos();
    scene.publish((0..3).map(event).collect()).await.unwrap();
    let ended_at = unix_nanos();
    let found = everywhere(&scene, 3, async || {
        let ids = ["event-0", "event-1", "event-2"];
        join_all(ids.map(|id| scene.event(TENANT, id))).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap()
    })
    .await;
    for (number, found) in found.iter().enumerate() {
        assert!((begun_at..=ended_at).contains(&found.raised_at), "{} is in nanoseconds", found.raised_at);
        assert_eq!(*found, as_read(event(number), number as i64 + 1, found.raised_at));
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_invalid_event_keeps_its_batch_out() {
    let scene = Scene::new().await;
    let bad = [
        PublishEvent { r#type: String::new(), ..of("b", 2) },
        PublishEvent { payload: fields([("name", "Eva")]), ..of("b", 2) },
        PublishEvent { payload: fields([("name", "")]), ..of("b", 2) },
        PublishEvent { id: "a\0b".into(), ..of("b", 2) },
    ];
    for bad in bad {
        let publishing = scene.publish(vec![of("a", 0), bad, of("", 1)]);
        let refused = tokio::time::timeout(Duration::from_secs(1), publishing).await;
        is_permanent(refused.expect("the batch is refused at once"), "event 1");
        for tenant in ["a", "b", ""] {
            is_permanent(scene.last(tenant).await, "unable to find last event");
            assert_eq!(all_of(&scene, tenant).await, []);
        }
        is_permanent(scene.event("a", "event-0").await, "event-0");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_sees_its_own_events_of_a_mixed_batch() {
    let scene = Scene::new().await;
    let tenants = ["a", "b", "", "_"];
    let numbers = |tenant: &str| if tenant == "b" { [5, 1, 3] } else { [0, 1, 2] };
    let batch = (0..3).flat_map(|round| tenants.map(|tenant| of(tenant, numbers(tenant)[round])));
    scene.publish(batch.collect()).await.unwrap();
    let found = everywhere(&scene, 3, async || {
        for tenant in tenants {
            let last = format!("event-{}", numbers(tenant)[2]);
            assert_eq!(scene.last(tenant).await.unwrap(), scene.event(tenant, &last).await.unwrap());
        }
        is_permanent(scene.event("a", "event-5").await, "event-5");
        is_permanent(scene.event("c", "event-1").await, "event-1");
        join_all(tenants.map(|tenant| all_of(&scene, tenant))).await
    })
    .await;
    for (tenant, found) in tenants.iter().zip(found) {
        let expected = numbers(tenant).into_iter().zip(1..).zip(&found);
        let expected = expected.map(|((number, serial), found)| as_read(of(tenant, number), serial, found.raised_at));
        assert_eq!(found, expected.collect::<Vec<_>>(), "{tenant:?}");
        assert_eq!(found.len(), 3, "{tenant:?}");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_published_again_changes_nothing() {
    let scene = Scene::new().await;
    let batch = || vec![of("a", 0), of("b", 0), of("a", 1), of("b", 1), of("a", 2), of("b", 2)];
    scene.publish(batch()).await.unwrap();
    let found = everywhere(&scene, 3, async || {
        scene.publish(batch()).await.unwrap();
        let other = PublishEvent { reason: "another".into(), ..of("b", 0) };
        is_permanent(scene.publish(vec![of("a", 9), other]).await, "event-0");
        is_permanent(scene.event("a", "event-9").await, "event-9");
        [all_of(&scene, "a").await, all_of(&scene, "b").await]
    });
    for found in found.await {
        assert_eq!(found.iter().map(serial).collect::<Vec<_>>(), [1, 2, 3]);
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_empty_tenant_has_a_place_of_its_own() {
    let scene = Scene::new().await;
    // Another tenant has the name that object keys have for the empty one.
    scene.publish(vec![of("", 0), of("", 1), of("", 2), of("_", 3), of("_", 4), of("_", 5)]).await.unwrap();
    let found = everywhere(&scene, 3, async || {
        is_permanent(scene.event("_", "event-0").await, "event-0");
        is_permanent(scene.event("", "event-3").await, "event-3");
        (scene.event("", "event-1").await.unwrap(), scene.last("").await.unwrap(), all_of(&scene, "").await)
    });
    let (second, last, all) = found.await;
    assert_eq!(ids(&all), ["event-0", "event-1", "event-2"]);
    assert_eq!((&second, &last), (&all[1], &all[2]));
    assert!(all.iter().all(|event| event.tenant_id.is_empty()));
    let folders: Vec<String> = scene.world.bucket.keys().await;
    let folders: BTreeSet<&str> = folders.iter().map(|key| key.rsplit_once('/').unwrap().0).collect();
    assert_eq!(folders, BTreeSet::from(["_/orders", "%5F/orders"]));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_skips_nothing_while_eight_publish() {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 12;
    let scene = Scene::new().await;
    let publishers = join_all((0..PUBLISHERS).map(async |publisher| {
        for round in 0..EACH {
            scene.publish(vec![event(publisher * EACH + round)]).await.unwrap();
        }
    }));
    let reader = async {
        let mut seen: Vec<Event> = Vec::new();
        while seen.len() < PUBLISHERS * EACH {
            let id = seen.last().map_or("", |event| &event.id).to_owned();
            seen.extend(scene.page_after(&id, &[], (0, 5)).await.unwrap());
            // The archiver runs between two pages, and under the feet of the publishers.
            scene.archive(10).await;
        }
        seen
    };
    let (_, seen) = tokio::join!(publishers, reader);
    assert_eq!(seen.iter().map(serial).collect::<Vec<_>>(), (1..=seen.len() as i64).collect::<Vec<_>>());
    assert_eq!(ids(&seen).into_iter().collect::<BTreeSet<_>>().len(), PUBLISHERS * EACH);
    assert_eq!(scene.iterate(&[], 1_000).await, seen);
    scene.finish().await;
}
