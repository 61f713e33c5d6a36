//! Everything that can be repaired without guessing is, and nothing else.

use std::sync::Arc;

use coldstream::database::catalog::archives::Archive;
use coldstream::event::{Event, Json, Log};
use coldstream::store::{Error, Repaired, Store};

use crate::support::{
    Fate, Kind, Program, World, archive, edit, import, old_event, publish, read_all, settings, unpaced, young_event,
};

/// Changes to the catalog by hand, while the object is what it was.
const DAMAGES: [&str; 16] = [
    "UPDATE archives SET count = count + 1",
    "UPDATE archives SET first_position = first_position + 1",
    "UPDATE archives SET raised_at_min = raised_at_min - 1",
    "UPDATE archives SET types[1] = 'another'",
    "UPDATE archives SET object_bytes = object_bytes + 1",
    "UPDATE archives SET json_bytes = json_bytes + 1",
    "UPDATE lookups SET runs = 0",
    "UPDATE lookups SET archive_ids = ARRAY[NULL]::uuid[]",
    "DELETE FROM lookups",
    "UPDATE archives SET digest = set_byte(digest, 0, get_byte(digest, 0) # 1)",
    "UPDATE archives SET etag = '\"another\"'",
    "UPDATE members SET byte_end = byte_end - 1",
    "UPDATE members SET type_counts[1] = 9",
    "DELETE FROM members",
    "DELETE FROM lookup_pages WHERE kind = 3",
    "UPDATE lookup_pages SET entries = set_byte(entries, 3, get_byte(entries, 3) # 1) WHERE kind = 2",
];

pub async fn repair(store: &Store) -> Repaired {
    store.repair(&unpaced, |_| {}).await.unwrap()
}

/// Returns an archive of four events, of which one has a personal field, and three hot events.
async fn archived() -> (World, Arc<Store>, Log, Vec<Event>) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event).chain((4..7).map(young_event))).await;
    store.introduce_gdpr(&log, "event-1", "name", Json::text("gone")).await.unwrap();
    assert_eq!(archive(&store).await, 4);
    let before = read_all(&store, &log).await;
    (world, store, log, before)
}

#[tokio::test]
async fn a_catalog_that_disagrees_with_a_sound_object_is_made_anew() {
    let (mut world, store, log, before) = archived().await;
    edit(&store, &log, "event-2", r#"{"name":"pending"}"#).await;
    store.rename_type(log.topic(), "type-1", "type-2").await.unwrap();
    let before_edits = before;
    let before = read_all(&store, &log).await;
    assert_ne!(before, before_edits);
    let of_topic = [
        "UPDATE logs SET archived_json_bytes = archived_json_bytes + 1",
        "UPDATE logs SET archived_to = archived_to - 1",
    ];
    for damage in DAMAGES.into_iter().chain(of_topic) {
        let changed = sqlx::query(damage).execute(&world.sql).await.unwrap();
        assert!(changed.rows_affected() > 0, "{damage}");
        assert_ne!(store.verify(|_| {}).await.unwrap(), [], "{damage}");
        let outcome = repair(&store).await;
        assert_eq!(outcome.left, [], "{damage}");
        assert_ne!(outcome.repaired, [], "{damage}");
        let next = world.store(settings(4));
        assert_eq!(read_all(&next, &log).await, before, "{damage}");
        assert_eq!(next.event(&log, "event-1").await.unwrap().as_ref(), Some(&before[1]), "{damage}");
        assert_eq!(publish(&next, &log, vec![old_event(3)]).await[0].position, 4, "{damage}");
    }
    store.rewrite().await.unwrap();
    assert_eq!(read_all(&store, &log).await, before);
    assert_eq!(repair(&store).await, Repaired::default());
    let gdpr_id = before[1].gdpr["name"].id.clone();
    store.invalidate_gdpr(&log, &gdpr_id).await.unwrap();
    assert!(store.event(&log, "event-1").await.unwrap().unwrap().payload.as_str().contains("gone"));
    store.rewrite().await.unwrap();
    world.audit().await;
}

#[tokio::test]
async fn what_would_have_to_be_guessed_is_left() {
    let (mut world, store, log, before) = archived().await;
    let key = world.key(&world.only_archive(&store).await);
    let original = world.bucket.get(&key).await;
    edit(&store, &log, "event-2", r#"{"name":"NEW-VALUE"}"#).await;
    store.rewrite().await.unwrap();
    let rewritten = world.bucket.get(&key).await;
    assert_ne!(read_all(&store, &log).await, before);
    let mut flipped = rewritten.clone();
    flipped[rewritten.len() / 2] ^= 1;
    // The first object is sound, bears the metadata that it should, and holds what was edited away.
    for bytes in [original, flipped, rewritten[..rewritten.len() - 1].to_vec(), Vec::new()] {
        world.bucket.put(&key, bytes).await;
        let outcome = repair(&store).await;
        assert_eq!((outcome.repaired.len(), outcome.left.len()), (0, 1), "{outcome:?}");
        assert!(world.store(settings(4)).event(&log, "event-2").await.is_err());
    }
    world.bucket.put(&key, rewritten).await;
    let outcome = repair(&store).await;
    assert_eq!((outcome.repaired.len(), outcome.left.len()), (1, 0), "the bytes are the right ones: {outcome:?}");

    for (damage, undo) in [
        (
            "UPDATE logs SET head_position = head_position + 1, hot_magnitude = magnitude(4)",
            "UPDATE logs SET head_position = head_position - 1, hot_magnitude = magnitude(3)",
        ),
        ("UPDATE events SET position = 60 WHERE position = 6", "UPDATE events SET position = 6 WHERE position = 60"),
    ] {
        sqlx::query(damage).execute(&world.sql).await.unwrap();
        let outcome = repair(&store).await;
        assert!(outcome.repaired.is_empty() && !outcome.left.is_empty(), "{damage}: {outcome:?}");
        sqlx::query(undo).execute(&world.sql).await.unwrap();
    }
    world.audit().await;
}

#[tokio::test]
async fn a_version_with_the_right_bytes_is_put_back() {
    for is_deleted in [true, false] {
        let (mut world, store, log, before) = archived().await;
        world.bucket.keep_versions().await;
        // An object from before versions were kept has no version to go back to.
        edit(&store, &log, "event-2", r#"{"name":"first"}"#).await;
        store.rewrite().await.unwrap();
        let before = [&read_all(&store, &log).await[..4], &before[4..]].concat();
        let key = world.key(&world.only_archive(&store).await);
        match is_deleted {
            true => world.bucket.delete(&key).await,
            false => drop(world.bucket.put(&key, b"garbage".to_vec()).await),
        }
        assert!(world.store(settings(4)).event(&log, "event-2").await.is_err());
        let outcome = repair(&store).await;
        assert_eq!((outcome.repaired.len(), outcome.left.len()), (1, 0), "{outcome:?}");
        assert_eq!(read_all(&world.store(settings(4)), &log).await, before);
        // The archive is as good as any other.
        edit(&store, &log, "event-2", r#"{"name":"second"}"#).await;
        store.rewrite().await.unwrap();
        world.audit().await;
    }
}

/// The database was restored to an earlier time, and the version that it knows was not purged: nothing goes back to
/// that.
#[tokio::test]
async fn an_older_database_puts_no_older_version_back() {
    let (mut world, store, log, _) = archived().await;
    world.bucket.keep_versions().await;
    let key = world.key(&world.only_archive(&store).await);
    let object = async || (world.bucket.get(&key).await, world.bucket.said(&key).await);
    let (known, known_said) = object().await;
    let backup = world.backup().await;
    edit(&store, &log, "event-2", r#"{"name":"erased"}"#).await;
    store.rewrite().await.unwrap();
    let expected = read_all(&store, &log).await;
    let (later, later_said) = object().await;
    world.bucket.put_saying(&key, known, &known_said).await;
    world.bucket.put_saying(&key, later.clone(), &later_said).await;

    world.restore(&backup).await;
    let store = world.store(settings(4));
    let outcome = repair(&store).await;
    assert_eq!((outcome.repaired.len(), outcome.left.len()), (0, 1), "{outcome:?}");
    assert_eq!(world.bucket.get(&key).await, later);
    assert_eq!(store.recover(|_| {}).await.unwrap().archives, 1);
    assert_eq!(read_all(&store, &log).await, expected);
    edit(&store, &log, "event-2", r#"{"name":"erased again"}"#).await;
    store.rewrite().await.unwrap();
    world.audit().await;
}

const HOT_COPY: &str = "INSERT INTO events
     SELECT log_id, $1, $2, deployment_id, $3, $4, $5, '', $6, '', '', $7, NULL FROM events WHERE position = 5";

#[tokio::test]
async fn rows_of_archived_events_leave_if_they_are_the_same() {
    let (mut world, store, log, before) = archived().await;
    let insert = async |event: &Event, payload: &str| {
        sqlx::query(HOT_COPY)
            .bind(event.position)
            .bind(event.raised_at.unix_nanos())
            .bind(&event.id)
            .bind(&event.stream)
            .bind(&event.event_type)
            .bind(&event.metadata.correlation_id)
            .bind(payload.to_owned())
            .execute(&world.sql)
            .await
            .unwrap();
    };
    insert(&before[2], before[2].payload.as_str()).await;
    insert(&before[3], r#"{"another":1}"#).await;
    assert!(store.verify(|_| {}).await.unwrap()[0].what.contains("positions 3 to 4 are in two places"));
    let outcome = repair(&store).await;
    assert!(outcome.left[0].what.contains("positions 4 to 4 are in two places"), "{outcome:?}");
    assert_eq!((outcome.repaired.len(), outcome.left.len()), (1, 1), "{outcome:?}");
    sqlx::query("DELETE FROM events WHERE position = 4").execute(&world.sql).await.unwrap();
    assert_eq!(repair(&store).await, Repaired::default());
    assert_eq!(read_all(&store, &log).await, before);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_are_printed_and_what_is_left_fails() {
    let (mut world, store, _, _) = archived().await;
    let run = async |arguments: &'static [&'static str]| Program::new(&world, 4).run(arguments).await;
    sqlx::query("DELETE FROM lookup_pages WHERE kind = 1").execute(&world.sql).await.unwrap();
    assert_eq!(run(&["verify"]).await.code, Some(1));
    let said = run(&["verify", "--repair", "--bytes-per-second", "1000000"]).await.succeeded();
    assert!(
        said.starts_with("repaired: \"acme\"/\"orders\" archive ") && said.contains("the lookup pages do not lead"),
        "{said}"
    );
    assert_eq!(run(&["verify"]).await.code, Some(0));
    let (archive, sql) = (world.only_archive(&store).await, world.sql.clone());
    let object = world.bucket.get(&world.key(&archive)).await;
    world.bucket.delete(&world.key(&archive)).await;
    let ended = run(&["verify", "--repair"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.output.contains("there is no object") && ended.errors.concat().contains("1 findings"), "{ended:?}");
    let etag = world.bucket.put(&world.key(&archive), object).await;
    sqlx::query("UPDATE archives SET etag = $1").bind(etag).execute(&sql).await.unwrap();
    world.audit().await;
}

/// A scrub takes one archive a turn, first those that had theirs the longest ago.
#[tokio::test]
async fn a_scrub_goes_through_all_archives() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..12).map(old_event)).await;
    assert_eq!(archive(&store).await, 12);
    let read = std::sync::atomic::AtomicI64::new(0);
    let count = |bytes| {
        read.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        unpaced(bytes)
    };
    for turn in 1..=3 {
        assert!(store.scrub(&count).await.unwrap());
        let scrubbed = "SELECT count(*) FROM archives WHERE scrubbed_at IS NOT NULL";
        assert_eq!(sqlx::query_scalar::<_, i64>(scrubbed).fetch_one(&world.sql).await.unwrap(), turn);
    }
    let bytes: i64 = store.archives(&log).await.unwrap().iter().map(|archive| archive.object_bytes).sum();
    assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), bytes);
    assert!(!world.store(settings(4)).scrub(&count).await.unwrap(), "all had their turn");
    let oldest = store.archives(&log).await.unwrap()[1].id;
    sqlx::query("UPDATE archives SET scrubbed_at = now() - interval '8 days' WHERE id = $1")
        .bind(oldest)
        .execute(&world.sql)
        .await
        .unwrap();
    world.proxy.take_seen();
    assert!(store.scrub(&count).await.unwrap());
    assert!(world.proxy.take_seen().iter().all(|request| request.target.contains(&oldest.to_string())));
    assert!(!store.scrub(&count).await.unwrap());
    world.audit().await;
}

/// An archive that was not read has not had its turn; nobody reads one that somebody else is reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_that_is_broken_off_has_its_turn_again() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    let scrub = async || world.store(settings(4)).scrub(&unpaced).await;
    let [first, second] = store.archives(&log).await.unwrap().try_into().unwrap();
    let only_read = |archive: &Archive| {
        let seen = world.proxy.take_seen();
        assert!(!seen.is_empty() && seen.iter().all(|request| request.target.contains(&archive.id.to_string())));
    };
    world.proxy.script(|_| Fate::LoseRequest);
    assert!(matches!(scrub().await, Err(Error::Unavailable(_))));
    world.proxy.heal();

    let gate = world.proxy.hold_first(Kind::Get);
    world.proxy.take_seen();
    let scrubbing = tokio::spawn({
        let store = store.clone();
        async move { store.scrub(&unpaced).await.unwrap() }
    });
    gate.arrival().await;
    only_read(&first);
    world.proxy.heal();
    assert!(scrub().await.unwrap());
    only_read(&second);
    assert!(!scrub().await.unwrap(), "one has had its turn, the other is being read");
    gate.open();
    assert!(scrubbing.await.unwrap());

    // A process died in the middle of the first archive, yesterday.
    for (id, scrubbed, begun) in [(first.id, "8 days", "25 hours"), (second.id, "9 days", "23 hours")] {
        sqlx::query(
            "UPDATE archives SET scrubbed_at = now() - $2::interval, scrub_begun_at = now() - $3::interval WHERE id = $1",
        )
        .bind(id)
        .bind(scrubbed)
        .bind(begun)
        .execute(&world.sql)
        .await
        .unwrap();
    }
    world.proxy.take_seen();
    assert!(scrub().await.unwrap());
    only_read(&first);
    assert!(!scrub().await.unwrap());
    world.audit().await;
}
