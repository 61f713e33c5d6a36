//! Merged lookups say what those of each archive said, whatever happens to the archives meanwhile.

mod random;

use std::sync::Arc;

use coldstream::event::{Event, Filter, Gdpr, GdprField, Json, Log, NewEvent, PositionRange};
use coldstream::store::{Error, Query, Selection, Store};

use crate::support::{
    Mover, SET_UP, StatementFate, Step, World, archive, edit, everything, import, old_event, publish, read_all,
    settings, unpaced,
};

/// Returns the level and the number of archives of each of the lookups, sorted.
async fn lookups(world: &World) -> Vec<(i16, i32)> {
    sqlx::query_as("SELECT level, cardinality(array_remove(archive_ids, NULL)) FROM lookups ORDER BY 1, 2")
        .fetch_all(&world.sql)
        .await
        .unwrap()
}

/// Returns the number of archives of each of the lookups whose sums are known.
async fn summed_up(world: &World) -> Vec<i32> {
    sqlx::query_scalar("SELECT cardinality(archive_ids) FROM lookups WHERE type_counts IS NOT NULL ORDER BY 1")
        .fetch_all(&world.sql)
        .await
        .unwrap()
}

/// Returns a digest of all lookups and pages.
async fn fingerprint(world: &World) -> String {
    sqlx::query_scalar(
        "SELECT (SELECT md5(string_agg(lookups::text, '' ORDER BY id)) FROM lookups)
             || (SELECT md5(string_agg(lookup_pages::text, '' ORDER BY lookup_id, kind, run, first_hash)) FROM lookup_pages)",
    )
    .fetch_one(&world.sql)
    .await
    .unwrap()
}

fn personal_event(number: usize) -> NewEvent {
    let name = GdprField::new(format!("person-{}", number % 5), Json::text("gone")).unwrap();
    NewEvent { gdpr: Gdpr::from([("name".to_owned(), name)]), ..old_event(number) }
}

/// Returns a log with archives of two events each, none of them merged yet.
async fn unmerged(archives: usize) -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    import(&store, &log, (0..archives * 2).map(personal_event)).await;
    let lease = world.lease(&log).await;
    for _ in 0..archives {
        Mover::archiver(&store, lease, Step::Archived).await;
    }
    assert_eq!(lookups(&world).await, vec![(0, 1); archives]);
    world.expire_leases().await;
    (world, store, log)
}

/// Checks everything that lookups are for.
async fn check(world: &World, log: &Log) {
    let store = world.store(settings(2));
    let events = read_all(&store, log).await;
    for event in &events {
        assert_eq!(store.event(log, &event.id).await.unwrap().as_ref(), Some(event));
        let number = event.id["event-".len()..].parse().unwrap();
        let published = publish(&store, log, vec![personal_event(number)]).await;
        assert_eq!((published[0].position, published[0].is_new), (event.position, false));
    }
    for stream in 0..3 {
        let stream = format!("stream-{stream}");
        let filter = Filter::Stream(stream.clone());
        let query = Query { filter, ..everything() };
        let of_stream: Vec<_> = events.iter().filter(|event| event.stream == stream).cloned().collect();
        assert_eq!(store.read(log, &query).await.unwrap().events, of_stream);
    }
    check_pages(&store, log, &events).await;
}

/// Checks pages by type and number, from the beginning and from the middle of an archive.
async fn check_pages(store: &Store, log: &Log, events: &[Event]) {
    for types in [&["type-0"][..], &["type-1", "type-3"], &["type-2"], &["renamed"]] {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        let of_types: Vec<_> = events.iter().filter(|event| types.contains(&event.event_type)).cloned().collect();
        for from in [1, 6] {
            let behind: Vec<_> = of_types.iter().filter(|event| event.position >= from).cloned().collect();
            for skip in 0..=behind.len() {
                let query = Query { filter: Filter::Types(types.clone()), from, skip: skip as i64, limit: 2 };
                let page: Vec<_> = behind.iter().skip(skip).take(2).cloned().collect();
                assert_eq!(store.read(log, &query).await.unwrap().events, page, "{types:?}, {from}, {skip}");
            }
        }
    }
}

/// Checks that a repair mends each of the sums of a merge.
async fn check_repairs_of_sums(world: &World, store: &Arc<Store>) {
    for wrong in ["first_position = 2", "last_position = 19", "types[1] = 'type-9'", "type_counts[1] = 4"] {
        let statement = format!("UPDATE lookups SET {wrong} WHERE level = 1");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&world.sql).await.unwrap();
        let repaired = store.repair(&unpaced, |_| {}).await.unwrap();
        assert_eq!((repaired.repaired.len(), repaired.left), (1, Vec::new()), "{wrong}");
    }
}

async fn damage_merged_pages(world: &World) {
    sqlx::query(
        "UPDATE lookup_pages SET entries = '\\x80' FROM lookups WHERE id = lookup_id AND level = 1 AND kind = 1",
    )
    .execute(&world.sql)
    .await
    .unwrap();
}

async fn lose_merged_lookups(world: &World) {
    sqlx::query(
        "WITH lost AS (DELETE FROM lookups WHERE level = 1 RETURNING id)
         DELETE FROM lookup_pages USING lost WHERE lookup_id = lost.id",
    )
    .execute(&world.sql)
    .await
    .unwrap();
}

#[tokio::test]
async fn the_archives_of_a_merge_may_change_and_leave() {
    let (mut world, store, log) = unmerged(12).await;
    // The first pass of a process merges the lookups that an earlier process left.
    assert_eq!(archive(&store).await, 0);
    assert_eq!(lookups(&world).await, [(0, 1), (0, 1), (1, 10)]);
    assert_eq!(summed_up(&world).await, [10]);
    check(&world, &log).await;

    store.rename_type(log.topic(), "type-2", "renamed").await.unwrap();
    assert_eq!(summed_up(&world).await, [10]);
    check(&world, &log).await;
    check_repairs_of_sums(&world, &store).await;
    check(&world, &log).await;

    edit(&store, &log, "event-3", r#"{"number":1000}"#).await;
    store.invalidate_gdpr(&log, "person-2").await.unwrap();
    store.rewrite().await.unwrap();
    let events = read_all(&store, &log).await;
    let invalidated = events.iter().filter(|event| event.gdpr["name"].is_invalidated).count();
    assert_eq!(invalidated, events.len().div_ceil(5), "in every archive");
    check(&world, &log).await;

    // One archive is restored as a whole, another one in part: the rest of that is an archive of its own.
    let archives = store.archives(&log).await.unwrap();
    store.restore(&Selection::Archive(archives[2].id), 0, |_| {}).await.unwrap();
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(8, 8)), 0, |_| {}).await.unwrap();
    assert_eq!(lookups(&world).await, [(0, 1), (0, 1), (0, 1), (1, 8)]);
    assert_eq!(summed_up(&world).await, [0; 0]);
    check(&world, &log).await;
    assert_eq!(archive(&store).await, 2);
    check(&world, &log).await;

    // A repair makes the rows of an archive anew, its lookups too.
    damage_merged_pages(&world).await;
    assert_eq!(store.verify(|_| {}).await.unwrap().len(), 8);
    let repaired = store.repair(&unpaced, |_| {}).await.unwrap();
    assert_eq!((repaired.repaired.len(), repaired.left), (8, Vec::new()));
    assert_eq!(lookups(&world).await, vec![(0, 1); 12]);
    check(&world, &log).await;
    archive(&world.store(settings(2))).await;
    assert_eq!(lookups(&world).await, [(0, 1), (0, 1), (1, 10)]);
    check(&world, &log).await;

    // Sums do not count unless they are of all archives.
    let events = read_all(&store, &log).await;
    lose_merged_lookups(&world).await;
    check_pages(&store, &log, &events).await;
    assert_eq!(store.repair(&unpaced, |_| {}).await.unwrap().repaired.len(), 10);

    let whole = Selection::Range(log.clone(), PositionRange::closed(1, 24));
    store.restore(&whole, 30, |_| {}).await.unwrap();
    assert_eq!(lookups(&world).await, []);
    world.audit().await;
}

#[tokio::test]
async fn what_is_recovered_is_merged_by_the_next_pass() {
    let (mut world, store, log) = unmerged(11).await;
    assert_eq!(archive(&store).await, 0);
    world.lose_database().await;
    let store = world.store(settings(2));
    store.recover(|_| {}).await.unwrap();
    assert_eq!(lookups(&world).await, vec![(0, 1); 11]);
    assert_eq!(archive(&store).await, 0);
    assert_eq!(lookups(&world).await, [(0, 1), (1, 10)]);
    check(&world, &log).await;
    world.audit().await;
}

#[tokio::test]
async fn archives_are_merged_while_they_are_made() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    import(&store, &log, (0..113).map(personal_event)).await;
    assert_eq!(archive(&store).await, 113);
    assert_eq!(lookups(&world).await, [(0, 1), (0, 1), (0, 1), (1, 10), (2, 100)]);
    assert_eq!(summed_up(&world).await, [10, 100]);
    check(&world, &log).await;
    world.audit().await;
}

#[tokio::test]
async fn a_merger_that_lost_its_turn_changes_nothing() {
    let (mut world, store, log) = unmerged(10).await;
    let postgres = world.postgres_proxy().await;
    let sleeper = world.store_behind(&postgres, settings(2));
    let older = world.lease(&log).await;
    let gate = postgres.hold_first("INSERT INTO lookups");
    let sleeping = tokio::spawn(async move { sleeper.merge_lookups(older).await });
    gate.arrival().await;
    world.expire_leases().await;
    let newer = world.lease(&log).await;
    let before = fingerprint(&world).await;
    gate.open();
    assert!(matches!(sleeping.await.unwrap(), Err(Error::GaveWay(_))));
    assert_eq!(fingerprint(&world).await, before);
    store.merge_lookups(newer).await.unwrap();
    assert_eq!(lookups(&world).await, [(1, 10)]);
    world.expire_leases().await;
    check(&world, &log).await;
    world.audit().await;
}

/// A reader asks which archive an entry is about once it has found the entry, and the lookups may be gone by then.
#[tokio::test]
async fn lookups_may_be_merged_while_somebody_looks_through_them() {
    let (mut world, store, log) = unmerged(10).await;
    let postgres = world.postgres_proxy().await;
    let publisher = world.store_behind(&postgres, settings(2));
    // The publisher can then append to a topic that it knows, without a snapshot.
    publish(&publisher, &log, vec![personal_event(1_000)]).await;
    let gate = postgres.hold_first("lookups.archive_ids[");
    let publishing = tokio::spawn({
        let log = log.clone();
        async move { publish(&publisher, &log, vec![personal_event(3)]).await }
    });
    gate.arrival().await;
    assert_eq!(archive(&store).await, 0);
    assert_eq!(lookups(&world).await, [(1, 10)]);
    gate.open();
    let published = publishing.await.unwrap();
    assert_eq!((published[0].position, published[0].is_new), (4, false));
    check(&world, &log).await;
    world.audit().await;
}

#[tokio::test]
async fn a_merger_may_die_at_any_statement() {
    let (mut world, _, log) = unmerged(10).await;
    let postgres = world.postgres_proxy().await;
    let store = world.store_behind(&postgres, settings(2));
    let lease = world.lease(&log).await;
    let before = fingerprint(&world).await;
    for last in 1.. {
        let mut count = 0;
        postgres.script(move |statement| {
            // A connection that turns out to be dead at its first statement is replaced by another one.
            let begins = statement == SET_UP || statement.starts_with("BEGIN");
            // Nobody waits for the end of a transaction that is given up.
            let is_counted = statement != "ROLLBACK" && !begins;
            count += i32::from(is_counted);
            if is_counted && count == last { StatementFate::LoseStatement } else { StatementFate::Pass }
        });
        store.merge_lookups(lease).await.unwrap_err();
        if fingerprint(&world).await != before {
            // The statement that was lost came behind the commit.
            assert!(last > 40, "{last}");
            break;
        }
    }
    postgres.heal();
    assert_eq!(lookups(&world).await, [(1, 10)]);
    world.expire_leases().await;
    check(&world, &log).await;
    world.audit().await;
}
