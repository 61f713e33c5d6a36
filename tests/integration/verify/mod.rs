//! Everything that is wrong is found, and nothing that is right.

mod putting_back;
mod repair;

use coldstream::event::Json;
use coldstream::store::Finding;

use crate::support::{Program, World, archive, edit, import, old_event, publish, settings, young_event};

/// A change to the catalog by hand, what is found then, and how the change is undone.
const DAMAGES: [(&str, &str, &str); 11] = [
    (
        "UPDATE archives SET count = count + 1",
        "events in the object: 4, in the catalog: 5",
        "UPDATE archives SET count = count - 1",
    ),
    (
        "UPDATE archives SET raised_at_min = raised_at_min - 1",
        "raised_at in the object",
        "UPDATE archives SET raised_at_min = raised_at_min + 1",
    ),
    ("UPDATE archives SET types[1] = 'another'", "types in the object", "UPDATE archives SET types[1] = 'type-0'"),
    (
        "UPDATE logs SET archived_json_bytes = archived_json_bytes + 1",
        "archived bytes of JSON",
        "UPDATE logs SET archived_json_bytes = archived_json_bytes - 1",
    ),
    (
        "UPDATE logs SET archived_to = 3",
        "the last archived position: 4, 3 in the topic's row",
        "UPDATE logs SET archived_to = 4",
    ),
    (
        "UPDATE logs SET hot_magnitude = hot_magnitude + 1",
        "binary digits of the number of hot events: 2, 3 in the topic's row",
        "UPDATE logs SET hot_magnitude = hot_magnitude - 1",
    ),
    (
        "UPDATE logs SET head_position = head_position + 1",
        "1 positions are nowhere, and 0 events were deleted",
        "UPDATE logs SET head_position = head_position - 1",
    ),
    (
        "UPDATE events SET position = 4 WHERE position = 5",
        "positions 4 to 4 are in two places",
        "UPDATE events SET position = 5 WHERE position = 4",
    ),
    (
        "UPDATE events SET position = 60 WHERE position = 6",
        "positions 6 to 6 are nowhere",
        "UPDATE events SET position = 6 WHERE position = 60",
    ),
    (
        "UPDATE lookup_pages SET entries = set_byte(entries, 3, get_byte(entries, 3) # 1) WHERE kind = 1",
        "the lookup pages do not lead to its events",
        "UPDATE lookup_pages SET entries = set_byte(entries, 3, get_byte(entries, 3) # 1) WHERE kind = 1",
    ),
    (
        "UPDATE archives SET digest = set_byte(digest, 0, get_byte(digest, 0) # 1)",
        "the object's digest is not the one that the catalog knows",
        "UPDATE archives SET digest = set_byte(digest, 0, get_byte(digest, 0) # 1)",
    ),
];

#[tokio::test]
async fn a_catalog_that_disagrees_is_found() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event).chain((4..7).map(young_event))).await;
    assert_eq!(archive(&store).await, 4);
    for (damage, expected, undo) in DAMAGES {
        sqlx::query(damage).execute(&world.sql).await.unwrap();
        let found: Vec<String> = store.verify(|_| {}).await.unwrap().into_iter().map(|found| found.what).collect();
        assert!(found.iter().any(|what| what.contains(expected)), "{damage}: {found:?}");
        sqlx::query(undo).execute(&world.sql).await.unwrap();
        assert_eq!(store.verify(|_| {}).await.unwrap(), [], "{undo}");
    }
    world.audit().await;
}

#[tokio::test]
async fn what_is_pending_is_no_finding() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    publish(&store, &log, vec![young_event(8)]).await;
    edit(&store, &log, "event-2", r#"{"name":"x"}"#).await;
    store.rename_type(log.topic(), "type-1", "type-2").await.unwrap();
    store.introduce_gdpr(&log, "event-3", "name", Json::text("gone")).await.unwrap();
    assert_eq!(store.verify(|_| {}).await.unwrap(), []);
    store.rewrite().await.unwrap();
    let mut told = Vec::new();
    assert_eq!(store.verify(|events| told.push(events)).await.unwrap(), []);
    assert_eq!(told, [4, 8]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_are_printed_and_fail() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    archive(&store).await;
    let verify = || Program::new(&world, 4);
    assert!(verify().run(&["verify"]).await.succeeded().contains("verified 4 archived events"));
    let [key] = world.bucket.keys().await.try_into().unwrap();
    let original = world.bucket.get(&key).await;
    world.bucket.delete(&key).await;
    let ended = verify().run(&["verify"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.output.contains(&key), "{ended:?}");
    assert!(ended.errors.concat().contains("1 findings"), "{ended:?}");

    let etag = world.bucket.put(&key, original).await;
    let found: Finding = store.verify(|_| {}).await.unwrap().remove(0);
    world.expect_etag(found.archive_id.unwrap(), &etag).await;
    world.audit().await;
}
