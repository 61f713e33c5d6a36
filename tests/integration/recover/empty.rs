//! All archived events come back from the objects alone when the database is lost.

use coldstream::event::{Event, Gdpr, GdprField, Json, Log, NewEvent};
use coldstream::store::RecoveredLog;
use serde_json::json;
use uuid::Uuid;

use crate::recover::{check_reads, recover};
use crate::support::{
    Kind, MARKER, World, archive, edit, event, import, old_event, publish, read_all, settings, young_event,
};

/// Returns an event with a field of a person.
fn personal(number: usize) -> NewEvent {
    let field = GdprField::new(format!("person-{}", number % 2), Json::text("gone")).unwrap();
    NewEvent { gdpr: Gdpr::from([("name".to_owned(), field)]), ..old_event(number) }
}

async fn archived_positions(world: &World) -> Vec<(i64, i64)> {
    sqlx::query_as("SELECT first_position, last_position FROM archives ORDER BY first_position")
        .fetch_all(&world.sql)
        .await
        .unwrap()
}

#[tokio::test]
async fn every_archived_event_comes_back() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    // Positions 5, 6 and 9 are too young for an archive, and 12 and 16 are too few for one.
    let young = [4, 5, 8, 12, 13, 14];
    let events = (0..16).map(|number| match young.contains(&number) {
        true => young_event(number),
        false => personal(number),
    });
    import(&store, &log, events).await;
    // This name is longer than metadata have room for: only the events have it.
    let long = Log::new("é".repeat(500), "long").unwrap();
    import(&store, &long, (0..4).map(old_event)).await;
    let global = Log::new("", "_").unwrap();
    import(&store, &global, (0..4).map(old_event)).await;
    assert_eq!(archive(&store).await, 16);
    edit(&store, &log, "event-2", r#"{"price":1e999}"#).await;
    store.invalidate_gdpr(&log, "person-1").await.unwrap();
    store.introduce_gdpr(&log, "event-0", "number", Json::text("none")).await.unwrap();
    store.rename_type(log.topic(), "type-3", "renamed").await.unwrap();
    store.rewrite().await.unwrap();
    let before = read_all(&store, &log).await;
    let others = [read_all(&store, &long).await, read_all(&store, &global).await];
    assert_eq!(archived_positions(&world).await, [(1, 4), (1, 4), (1, 4), (7, 11)]);

    world.lose_database().await;
    let store = world.store(settings(4));
    let recovery = recover(&store).await;
    assert_eq!((recovery.archives, recovery.events), (4, 16));
    assert_eq!(recovery.gaps, [RecoveredLog { log: log.clone(), head_position: 11, gone: 3 }]);
    let archived: Vec<Event> =
        before.into_iter().filter(|event| [1, 2, 3, 4, 7, 8, 10, 11].contains(&event.position)).collect();
    check_reads(&store, &log, &archived).await;
    check_reads(&store, &long, &others[0]).await;
    check_reads(&store, &global, &others[1]).await;
    world.audit().await;

    // Nothing is left to do.
    let again = recover(&store).await;
    assert_eq!((again.archives, again.gaps), (0, recovery.gaps));

    // Personal fields are found by their GDPR ids, as ever, whether they were personal when archived or became so.
    store.invalidate_gdpr(&log, "person-0").await.unwrap();
    let introduced = archived[0].gdpr["number"].id.clone();
    store.invalidate_gdpr(&log, &introduced).await.unwrap();
    let read = read_all(&store, &log).await;
    assert!(read.iter().flat_map(|event| event.gdpr.values()).all(|field| field.is_invalidated), "{read:?}");
    edit(&store, &log, "event-3", r#"{"number":0}"#).await;
    store.rename_type(log.topic(), "renamed", "again").await.unwrap();
    assert_eq!(publish(&store, &log, vec![event(20)]).await[0].position, 12);
    import(&store, &log, (21..24).map(old_event)).await;
    import(&store, &log, [old_event(24)]).await;
    assert_eq!(archive(&store).await, 4);
    store.rewrite().await.unwrap();
    let all = read_all(&store, &log).await;
    assert_eq!(all.iter().filter(|event| event.event_type == "again").count(), 2);
    check_reads(&store, &log, &all).await;
    world.audit().await;
}

#[tokio::test]
async fn an_empty_database_becomes_the_one_that_the_bucket_belongs_to() {
    let mut world = World::new().await;
    let store = world.store(settings(4));
    import(&store, &world.log(), (0..4).map(old_event)).await;
    archive(&store).await;
    let deployment = "SELECT id FROM deployment";
    let first: Uuid = sqlx::query_scalar(deployment).fetch_one(&world.sql).await.unwrap();
    store.claim_bucket().await.unwrap();
    let marker =
        async |world: &World| -> serde_json::Value { serde_json::from_slice(&world.bucket.get(MARKER).await).unwrap() };
    let before = marker(&world).await;
    assert_eq!((&before["format"], &before["deployment_id"]), (&json!(2), &json!(first)));

    world.lose_database().await;
    recover(&world.store(settings(4))).await;
    assert_eq!(sqlx::query_scalar::<_, Uuid>(deployment).fetch_one(&world.sql).await.unwrap(), first);
    let after = marker(&world).await;
    assert_eq!(after["deployment_id"], before["deployment_id"]);
    assert_eq!((&before["owner"]["epoch"], &after["owner"]["epoch"]), (&json!(1), &json!(2)), "the bucket is owned");
    assert_ne!(after["owner"]["database"], before["owner"]["database"]);
    world.audit().await;

    // A database that is not empty does not take the bucket over.
    world.lose_database().await;
    let store = world.store(settings(4));
    publish(&store, &Log::new("", "other").unwrap(), vec![event(0)]).await;
    let refused = store.recover(|_| {}).await.unwrap_err().to_string();
    assert!(refused.contains(&first.to_string()) && refused.contains("not empty"), "{refused}");
    let other: Uuid = sqlx::query_scalar(deployment).fetch_one(&world.sql).await.unwrap();
    assert_ne!(other, first);
    sqlx::query("DELETE FROM events").execute(&world.sql).await.unwrap();
    sqlx::query("DELETE FROM logs").execute(&world.sql).await.unwrap();
    recover(&store).await;
    world.audit().await;
}

#[tokio::test]
async fn an_object_is_read_once() {
    let mut world = World::new().await;
    let store = world.store(settings(4));
    import(&store, &world.log(), (0..12).map(old_event)).await;
    assert_eq!(archive(&store).await, 12);
    store.claim_bucket().await.unwrap();
    world.lose_database().await;
    let store = world.store(settings(4));
    world.proxy.take_seen();
    let mut told = Vec::new();
    store.recover(|events| told.push(events)).await.unwrap();
    assert_eq!(told, [4, 8, 12]);
    // One GET is for the marker; and each object is looked at once more under the lease of its topic.
    let count = |kind| world.proxy.count(kind);
    assert_eq!((count(Kind::Get), count(Kind::Head), count(Kind::ListObjects)), (4, 6, 2));
    world.audit().await;
}
