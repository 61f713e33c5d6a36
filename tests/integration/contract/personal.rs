//! Personal fields are invalidated and introduced wherever the events are.

use coldstream::api::proto::{
    CreateStreamSnapshotRequest, Event, EventGdprValue, IntroduceGdprOnEventFieldRequest, InvalidateGdprRequest,
    PaginateStreamRequest, PublishEvent, PublishEventGdprValue,
};
use coldstream::store::Error;
use tonic::Status;

use crate::grpc::{Scene, TENANT, TOPIC, event, everywhere, fields, is_permanent};
use crate::support::{Kind, Role, Subscriber, archive, edit, edit_request, older_than, unzip};

/// Returns an event with two fields of the person besides those that every event has.
fn personal(number: usize, id: &str, default: &str) -> PublishEvent {
    let mut event = event(number);
    event.payload.extend(fields([("secret", r#""OLD-VALUE""#), ("other", r#""also-OLD-VALUE""#)]));
    for name in ["secret", "other"] {
        let gdpr = PublishEventGdprValue { id: id.into(), default: default.into() };
        event.payload.get_mut(name).unwrap().gdpr = Some(gdpr);
    }
    event
}

async fn invalidate(scene: &Scene, gdpr_id: &str) -> Result<(), Status> {
    let (tenant_id, topic) = (TENANT.into(), TOPIC.into());
    let request = InvalidateGdprRequest { tenant_id, topic, gdpr_id: gdpr_id.into() };
    scene.client.clone().invalidate_gdpr(request).await.map(drop)
}

async fn introduce(scene: &Scene, event_id: &str, field_name: &str, default: &str) -> Result<(), Status> {
    let request = IntroduceGdprOnEventFieldRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        event_id: event_id.into(),
        field_name: field_name.into(),
        default_value: default.into(),
    };
    scene.client.clone().introduce_gdpr_on_event_field(request).await.map(drop)
}

/// Returns the value of a field as a reader sees it, and its GDPR data.
fn field(event: &Event, name: &str) -> (String, Option<EventGdprValue>) {
    let payload = &event.payload[name];
    (payload.value.clone(), payload.gdpr.clone())
}

fn gdpr(id: &str, default: &str, is_invalidated: bool) -> Option<EventGdprValue> {
    Some(EventGdprValue { id: id.into(), default: default.into(), is_invalidated })
}

/// Returns the JSON of every object, once the service has rewritten what it has to.
async fn objects(scene: &Scene) -> String {
    scene.settled().await;
    scene.world.bucket.versions().await.iter().map(|object| unzip(object)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gdpr_field_without_an_id_is_given_one() {
    let scene = Scene::new().await;
    scene.publish(vec![personal(1, "", "null")]).await.unwrap();
    let seen = everywhere(&scene, 1, async || scene.event(TENANT, "event-1").await.unwrap()).await;
    let ids = ["secret", "other"].map(|name| field(&seen, name).1.unwrap().id);
    assert!(ids.iter().all(|id| !id.is_empty()) && ids[0] != ids[1], "{ids:?}");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidated_value_is_nowhere_any_more() {
    for archived in [0, 2, 3] {
        let scene = Scene::new().await;
        let batch = vec![personal(0, "somebody", "1"), personal(1, "ada", r#""gone""#), personal(2, "ada", "{}")];
        scene.publish(batch).await.unwrap();
        if archived > 0 {
            scene.archive(archived).await;
        }
        let neighbours = async || (scene.event(TENANT, "event-0").await.unwrap(), event(0).payload["price"].clone());
        let before = neighbours().await;

        for _ in 0..2 {
            invalidate(&scene, "ada").await.unwrap();
            let [first, second] = ["event-1", "event-2"].map(|id| scene.event(TENANT, id));
            let (first, second) = (first.await.unwrap(), second.await.unwrap());
            for name in ["secret", "other"] {
                assert_eq!(field(&first, name), (r#""gone""#.into(), gdpr("ada", r#""gone""#, true)));
                assert_eq!(field(&second, name), ("{}".into(), gdpr("ada", "{}", true)));
            }
            assert_eq!(field(&first, "price"), ("64.30".into(), None));
            assert_eq!(neighbours().await, before);
            // A publisher that got no answer publishes the event again.
            scene.publish(vec![personal(1, "ada", r#""gone""#)]).await.unwrap();
            assert_eq!(scene.event(TENANT, "event-1").await.unwrap(), first);
        }
        scene.archive(1).await;
        assert_eq!(neighbours().await, before);
        let objects = objects(&scene).await;
        assert_eq!(objects.matches("OLD-VALUE").count(), 2, "the neighbour's, {archived} archived");
        assert_eq!(objects.matches(r#""is_invalidated":true"#).count(), 4);
        scene.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_read_ahead_is_invalidated_too() {
    let scene = Scene::new().await;
    scene.publish(vec![event(0), personal(1, "ada", "null")]).await.unwrap();
    // The first subscriber has one event in hand, and the other event waits for somebody else.
    let mut first = Subscriber::start(&scene.client, Role::parallel("group")).await;
    assert_eq!(first.event().await.id, "event-0");
    invalidate(&scene, "ada").await.unwrap();
    let mut second = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let seen = second.event().await;
    assert_eq!(field(&seen, "secret"), ("null".into(), gdpr("ada", "null", true)));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_invalidated_and_other_logs_are_not() {
    let scene = Scene::new().await;
    let elsewhere = PublishEvent { tenant_id: "other".into(), ..personal(1, "ada", "1") };
    scene.publish(vec![personal(1, "ada", "1"), elsewhere]).await.unwrap();
    let request = CreateStreamSnapshotRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: "stream-1".into(),
        last_snapshotted_event_id: "event-1".into(),
        snapshot_event: Some(PublishEvent { id: "snapshot".into(), ..personal(1, "ada", "1") }),
    };
    scene.client.clone().create_stream_snapshot(request).await.unwrap();
    invalidate(&scene, "ada").await.unwrap();
    invalidate(&scene, "nobody").await.unwrap();
    let request = PaginateStreamRequest {
        tenant_id: TENANT.into(),
        topic: TOPIC.into(),
        stream: "stream-1".into(),
        per_page: 9,
        deployment_id: i64::MAX,
        ..PaginateStreamRequest::default()
    };
    let page = scene.client.clone().paginate_stream(request).await.unwrap().into_inner();
    assert_eq!((page.events.len(), page.snapshot_event_id.as_str()), (1, "snapshot"));
    assert_eq!(field(&page.events[0], "secret"), ("1".into(), gdpr("ada", "1", true)));
    let elsewhere = scene.event("other", "event-1").await.unwrap();
    assert_eq!(field(&elsewhere, "secret"), (r#""OLD-VALUE""#.into(), gdpr("ada", "1", false)));

    // Events that are published later are another matter, archived or not.
    scene.archive(1).await;
    scene.publish(vec![personal(2, "ada", "1")]).await.unwrap();
    for _ in 0..2 {
        let later = scene.event(TENANT, "event-2").await.unwrap();
        assert_eq!(field(&later, "secret").0, r#""OLD-VALUE""#);
        scene.archive(1).await;
    }
    invalidate(&scene, "ada").await.unwrap();
    assert_eq!(field(&scene.event(TENANT, "event-2").await.unwrap(), "secret").0, "1");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_became_personal_is_invalidated_like_any_other() {
    for (default, expected) in [(r#""x""#, r#""x""#), ("x", r#""x""#), ("1.50", "1.50")] {
        for archived in [false, true] {
            let scene = Scene::new().await;
            let mut plain = event(1);
            plain.payload.extend(fields([("secret", r#""OLD-VALUE""#)]));
            scene.publish(vec![event(0), plain, event(2)]).await.unwrap();
            if archived {
                scene.archive(1).await;
            }
            let before = scene.event(TENANT, "event-1").await.unwrap();
            introduce(&scene, "event-1", "secret", default).await.unwrap();
            let introduced = scene.event(TENANT, "event-1").await.unwrap();
            let (value, data) = field(&introduced, "secret");
            let id = data.clone().unwrap().id;
            assert!(!id.is_empty());
            assert_eq!((value.as_str(), data), (r#""OLD-VALUE""#, gdpr(&id, expected, false)));
            introduce(&scene, "event-1", "secret", "again").await.unwrap();
            assert_eq!(scene.event(TENANT, "event-1").await.unwrap(), introduced, "the field is personal already");

            invalidate(&scene, &id).await.unwrap();
            let mut invalidated = scene.event(TENANT, "event-1").await.unwrap();
            assert_eq!(field(&invalidated, "secret"), (expected.into(), gdpr(&id, expected, true)));
            invalidated.payload.insert("secret".into(), before.payload["secret"].clone());
            assert_eq!(invalidated, before, "nothing else has changed");
            scene.archive(1).await;
            assert!(!objects(&scene).await.contains("OLD-VALUE"));
            scene.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidated_field_takes_no_value_and_may_go() {
    for archived in [0, 1] {
        let scene = Scene::new().await;
        scene.publish(vec![personal(1, "ada", "null")]).await.unwrap();
        if archived > 0 {
            scene.archive(archived).await;
        }
        let (store, log) = (scene.world.store(older_than(0, 1)), scene.world.log());
        invalidate(&scene, "ada").await.unwrap();
        let before = scene.event(TENANT, "event-1").await.unwrap();
        let refused = store.edit(&log, "event-1", &edit_request(r#"{"price":1,"secret":"back again"}"#)).await;
        assert!(matches!(&refused, Err(Error::Invalid(why)) if why.to_string().contains("secret")), "{refused:?}");
        assert_eq!(scene.event(TENANT, "event-1").await.unwrap(), before);
        let outcome = edit(&store, &log, "event-1", r#"{"secret":null,"price":1}"#).await;
        assert!(
            outcome.edit.is_some() && !scene.event(TENANT, "event-1").await.unwrap().payload.contains_key("secret")
        );
        scene.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_event_or_field_cannot_become_personal() {
    let scene = Scene::new().await;
    scene.publish(vec![event(1)]).await.unwrap();
    is_permanent(introduce(&scene, "event-9", "name", "1").await, "unable to find event");
    is_permanent(introduce(&scene, "event-1", "nothing", "1").await, "no field");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_default_is_an_empty_text() {
    let scene = Scene::new().await;
    scene.publish(vec![personal(1, "ada", ""), event(2)]).await.unwrap();
    introduce(&scene, "event-2", "name", "").await.unwrap();
    is_permanent(scene.publish(vec![personal(3, "ada", r#""\u0000""#)]).await, "the GDPR default");
    let seen = everywhere(&scene, 2, async || {
        (scene.event(TENANT, "event-1").await.unwrap(), scene.event(TENANT, "event-2").await.unwrap())
    })
    .await;
    assert_eq!(field(&seen.0, "secret").1, gdpr("ada", r#""""#, false));
    assert_eq!(field(&seen.1, "name").1.unwrap().default, r#""""#);
    invalidate(&scene, "ada").await.unwrap();
    assert_eq!(field(&scene.event(TENANT, "event-1").await.unwrap(), "secret").0, r#""""#);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_invalidated_while_it_is_archived_never_comes_back() {
    let scene = Scene::new().await;
    scene.publish(vec![personal(1, "ada", "1"), event(2)]).await.unwrap();
    // The bytes of the object are on their way, and wait there.
    let gate = scene.world.proxy.hold_first(Kind::PutPart);
    let store = scene.world.store(older_than(0, 2));
    let archiving = tokio::spawn(async move { store.archive(|_, _| {}).await });
    gate.arrival().await;
    invalidate(&scene, "ada").await.unwrap();
    let gone = async || {
        let seen = scene.event(TENANT, "event-1").await.unwrap();
        assert_eq!(field(&seen, "secret"), ("1".into(), gdpr("ada", "1", true)));
    };
    gone().await;
    gate.open();
    archiving.await.unwrap().unwrap();
    gone().await;
    assert_eq!(archive(&scene.world.store(older_than(0, 1))).await, 2);
    gone().await;
    assert!(!objects(&scene).await.contains("OLD-VALUE"));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_ahead_for_subscribers_is_read_again_after_it_was_invalidated() {
    for role in [Role::of("group"), Role::parallel("group")] {
        let scene = Scene::new().await;
        scene.publish((0..6).map(|number| personal(number, "person", "null")).collect()).await.unwrap();
        let mut subscriber = Subscriber::start(&scene.client, role).await;
        assert_eq!(field(&subscriber.handled().await, "secret").0, r#""OLD-VALUE""#);
        let in_flight = subscriber.event().await;
        invalidate(&scene, "person").await.unwrap();
        subscriber.ack(&in_flight);
        for _ in 2..6 {
            assert_eq!(field(&subscriber.handled().await, "secret"), ("null".into(), gdpr("person", "null", true)));
        }
        scene.finish().await;
    }
}
