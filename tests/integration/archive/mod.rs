//! Old events move to S3 in whole batches, each event once.

mod losses;
mod writers;

use std::collections::BTreeSet;

use coldstream::event::{Eligibility, Event, Instant, Json, Log, NewEvent};
use coldstream::store::{Archived, Settings, Store};

use crate::support::{
    DAY_NANOS, Gate, Kind, StatementFate, World, archive, edit, import, noise, now, old_event, older_than, payload,
    read_all, settings, unzip, young_event,
};

async fn store_counts(store: &Store, log: &Log) -> (usize, i64) {
    let archives = store.archives(log).await.unwrap();
    (archives.len(), archives.iter().map(|archive| archive.count).sum())
}

#[tokio::test]
async fn a_batch_is_never_smaller_and_no_object_larger() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..9).map(old_event)).await;
    assert_eq!(archive(&store).await, 0);
    assert!(world.bucket.keys().await.is_empty());
    import(&store, &log, (9..35).map(old_event)).await;
    let mut steps = Vec::new();
    let done = store.archive(|topic, done| steps.push((topic.log.clone(), done.events))).await.unwrap();
    assert_eq!(done, Archived { archives: 3, events: 30, put_off: 0 });
    assert_eq!(steps, [10, 20, 30].map(|events| (log.clone(), events)));
    let archives = store.archives(&log).await.unwrap();
    assert!(archives.iter().all(|archive| archive.count == 10));
    assert_eq!(world.hot_positions().await, [31, 32, 33, 34, 35]);
    assert_eq!(archive(&store).await, 0);
    world.audit().await;
}

#[tokio::test]
async fn the_oldest_go_first_and_the_young_stay() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..5).map(old_event).chain((5..8).map(young_event)).chain((8..14).map(old_event))).await;
    assert_eq!(archive(&store).await, 8);
    let ranges: Vec<_> =
        store.archives(&log).await.unwrap().iter().map(|it| (it.first_position, it.last_position)).collect();
    assert_eq!(ranges, [(1, 4), (5, 11)], "an archive reaches across young events");
    assert_eq!(world.hot_positions().await, [6, 7, 8, 12, 13, 14]);
    world.audit().await;
}

/// The oldest events are the first ones in topic `first`, have younger ones between them in `apart`, and are together,
/// further behind, in `behind`.
#[tokio::test]
async fn among_the_old_positions_say_which_go_first() {
    let mut world = World::new().await;
    let store = world.store(settings(4));
    for (topic, ages) in [("first", [0, 1, 2, 3, 4]), ("apart", [0, 9, 1, 2, 3]), ("behind", [8, 0, 1, 2, 3])] {
        let log = Log::new("acme", topic).unwrap();
        import(&store, &log, ages.map(old_event)).await;
        assert_eq!(archive(&store).await, 4);
        let archive = store.archives(&log).await.unwrap().remove(0);
        assert_eq!((archive.first_position, archive.last_position), (1, 4), "{topic}");
    }
    world.audit().await;
}

/// The batch has more ranges of positions than one statement deletes.
#[tokio::test]
async fn every_second_event_goes_and_the_ones_between_stay() {
    const OLD: usize = 10_001;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(OLD as u64)), world.log());
    let events = (0..2 * OLD).map(|number| if number % 2 == 0 { old_event(number) } else { young_event(number) });
    import(&store, &log, events).await;
    let before = read_all(&store, &log).await;
    assert_eq!(archive(&store).await, OLD as i64);
    assert!(world.hot_positions().await.into_iter().eq((1..=OLD as i64).map(|number| number * 2)));
    assert!(read_all(&world.store(settings(1)), &log).await == before, "every event is where a reader finds it");
    world.audit().await;
}

/// Rows leave in pieces that begin and end between events that stay; and there are more batches than there is leisure
/// for.
#[tokio::test]
async fn archiving_at_leisure_moves_the_same() {
    const OLD: usize = 3_600;
    let is_old = |number: usize| number % 7 < 3;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(OLD as u64 / 6)), world.log());
    let events = (0..OLD / 3 * 7).map(|number| if is_old(number) { old_event(number) } else { young_event(number) });
    import(&store, &log, events).await;
    let before = read_all(&store, &log).await;
    let archived = store.archive_at_leisure().await.unwrap();
    assert_eq!((archived.archives, archived.events), (6, OLD as i64));
    assert!(world.hot_positions().await.into_iter().all(|position| !is_old(position as usize - 1)));
    assert!(read_all(&world.store(settings(1)), &log).await == before, "every event is where a reader finds it");
    world.audit().await;
}

/// Vacuum, which waits for the oldest snapshot, and edits go on between the pieces of an export.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_pieces_there_is_no_snapshot_and_an_edit_is_noticed() {
    const OLD: usize = 600;
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let direct = world.store(settings(OLD as u64));
    import(&direct, &log, (0..OLD).map(old_event)).await;
    let gate = Gate::new();
    let held = gate.clone();
    postgres.script(move |statement| match statement.starts_with("COPY") {
        true => StatementFate::Hold(held.clone()),
        false => StatementFate::Pass,
    });
    let store = world.store_behind(&postgres, settings(OLD as u64));
    let archiving = tokio::spawn(async move { store.archive_at_leisure().await });
    gate.arrival().await;
    gate.open();
    gate.arrival().await;
    let snapshots = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'coldstream' AND backend_xmin IS NOT NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(snapshots).fetch_one(&world.sql).await.unwrap(), 0);
    edit(&direct, &log, "event-0", r#"{"name":"edited"}"#).await;
    gate.open();
    assert_eq!(archiving.await.unwrap().unwrap(), Archived { archives: 0, events: 0, put_off: 1 });

    let before = read_all(&direct, &log).await;
    assert_eq!(before[0].payload.as_str(), payload(0, "edited"));
    direct.sweep().await.unwrap();
    assert_eq!(archive(&direct).await, OLD as i64);
    assert!(read_all(&world.store(settings(1)), &log).await == before, "every event is where a reader finds it");
    world.audit().await;
}

/// The planner expects so few rows of a large table without statistics that it reads and sorts all of them: these must
/// not be all that is left of the batch, piece after piece.
#[tokio::test]
async fn no_plan_reads_a_batch_again_and_again() {
    const OLD: usize = 5_000;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(OLD as u64)), world.log());
    sqlx::query("ALTER TABLE events SET (autovacuum_enabled = off)").execute(&world.sql).await.unwrap();
    import(&store, &log, (0..OLD).map(old_event)).await;
    let seem_large = "UPDATE pg_class SET reltuples = 500000, relpages = pg_relation_size(oid) / 8192
                      WHERE oid = 'events'::regclass";
    sqlx::query(seem_large).execute(&world.sql).await.unwrap();
    assert_eq!(store.archive_at_leisure().await.unwrap().events, OLD as i64);
    world.end(store).await;
    let read = "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables WHERE relname = 'events'";
    let read: i64 = sqlx::query_scalar(read).fetch_one(&world.sql).await.unwrap();
    // Claiming, exporting and deleting each read the rows.
    assert!((OLD as i64..=4 * OLD as i64).contains(&read), "{read} rows were read to archive {OLD}");
    world.audit().await;
}

/// The archived positions in between are more than one statement exports or deletes.
#[tokio::test]
async fn what_was_archived_before_is_passed_over() {
    const SIZE: usize = 600;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(SIZE as u64)), world.log());
    import(&store, &log, std::iter::once(young_event(0)).chain((1..2 * SIZE).map(old_event))).await;
    let before = read_all(&store, &log).await;
    assert_eq!(store.archive_at_leisure().await.unwrap().events, SIZE as i64);
    let grow_old = "UPDATE events SET raised_at = (SELECT min(raised_at) FROM events)";
    sqlx::query(grow_old).execute(&world.sql).await.unwrap();
    assert_eq!(store.archive_at_leisure().await.unwrap().events, SIZE as i64);
    let archives = store.archives(&log).await.unwrap();
    let extents: Vec<_> = archives.iter().map(|it| (it.first_position, it.last_position, it.count)).collect();
    assert_eq!(extents, [(1, 1_200, 600), (2, 601, 600)]);
    assert_eq!(world.hot_positions().await, [0; 0]);
    let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&read_all(&store, &log).await), ids(&before));
    world.audit().await;
}

#[tokio::test]
async fn age_is_counted_from_when_an_event_was_raised() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    let minute = 60_000_000_000;
    let raised = [
        30 * DAY_NANOS + minute,
        30 * DAY_NANOS - minute,
        -365 * DAY_NANOS,
        now().unix_nanos() - i64::MIN / 2,
        now().unix_nanos() - i64::MAX,
    ];
    let raised = raised.map(|age| Instant::from_unix_nanos(now().unix_nanos().saturating_sub(age)));
    let events = raised.into_iter().enumerate();
    import(&store, &log, events.map(|(number, at)| NewEvent { raised_at: Some(at), ..old_event(number) })).await;
    assert_eq!(archive(&store).await, 2);
    assert_eq!(world.hot_positions().await, [2, 3, 5], "the future is not old");
    assert_eq!(archive(&world.store(older_than(0, 1))).await, 3, "with 0 days everything is");
    assert_eq!(read_all(&store, &log).await.iter().map(|event| event.raised_at).collect::<Vec<_>>(), raised);
    world.audit().await;
}

#[tokio::test]
async fn each_topic_waits_for_its_own_batch_and_excluded_ones_for_ever() {
    let mut world = World::new().await;
    let excluded_topics = BTreeSet::from(["short-lived".to_owned()]);
    let base = settings(5);
    let store =
        world.store(Settings { eligibility: Eligibility { excluded_topics, ..base.eligibility.clone() }, ..base });
    let counts =
        [("a", "orders", 4), ("b", "orders", 4), ("a", "payments", 6), ("a", "short-lived", 9), ("", "short-lived", 9)];
    for (tenant, topic, count) in counts {
        import(&store, &Log::new(tenant, topic).unwrap(), (0..count).map(old_event)).await;
    }
    assert_eq!(archive(&store).await, 5);
    let [key] = world.bucket.keys().await.try_into().unwrap();
    assert!(key.starts_with("a/payments/"), "{key}");
    world.audit().await;
}

#[tokio::test]
async fn a_plain_reader_of_gzip_and_json_finds_every_field() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    let raised_at = Some(Instant::parse("2020-02-29T23:59:59.000000001Z").unwrap());
    let personal = coldstream::event::GdprField::new("person-7".into(), Json::parse("\"?\"").unwrap()).unwrap();
    let full =
        NewEvent { raised_at, reason: "because".into(), gdpr: [("name".to_owned(), personal)].into(), ..old_event(1) };
    import(&store, &log, [NewEvent { raised_at, metadata: Default::default(), ..old_event(0) }, full]).await;
    archive(&store).await;
    let found = world.only_archive(&store).await;
    assert_eq!(world.bucket.keys().await, [format!("acme/orders/{}.json.gz", found.id)]);
    let text = unzip(&world.bucket.get(&world.key(&found)).await);
    let lines = [
        "[".to_owned(),
        format!(
            r#"{{"position":1,"id":"event-0","tenant_id":"acme","topic":"orders","stream":"stream-0","type":"type-0","raised_at":"2020-02-29T23:59:59.000000001Z","payload":{}}},"#,
            payload(0, "original")
        ),
        format!(
            r#"{{"position":2,"id":"event-1","tenant_id":"acme","topic":"orders","stream":"stream-1","type":"type-1","raised_at":"2020-02-29T23:59:59.000000001Z","reason":"because","metadata":{{"deployment_id":0,"correlation_id":"correlation-1"}},"payload":{},"gdpr":{{"name":{{"id":"person-7","default":"?","is_invalidated":false}}}}}}"#,
            payload(1, "original")
        ),
        "]".to_owned(),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    world.audit().await;
}

#[tokio::test]
async fn a_large_batch_goes_in_members_and_parts() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(24)), world.log());
    let large = |number| {
        let payload = Json::parse_object(&format!(r#"{{"noise":"{}"}}"#, noise(number, 550_000))).unwrap();
        NewEvent { payload, ..old_event(number) }
    };
    import(&store, &log, (0..24).map(large)).await;
    let hot = read_all(&store, &log).await;
    assert_eq!(archive(&store).await, 24);
    assert!(world.proxy.count(Kind::PutPart) > 1, "{:?}", world.proxy.take_seen());
    let reader = world.store(settings(24));
    assert_eq!(reader.event(&log, "event-17").await.unwrap().as_ref(), Some(&hot[16 + 1]));
    assert!(read_all(&reader, &log).await == hot);
    world.audit().await;
}
