//! Recovery of a database that was restored to an earlier time takes over what came to the bucket since, and loses
//! nothing that the database knows.

use std::sync::Arc;

use coldstream::event::{Event, Log};
use coldstream::store::{RecoveredLog, Selection, Store};

use crate::recover::{check_reads, recover};
use crate::support::{
    Mover, Step, World, archive, edit, event, import, old_event, payload, publish, read_all, settings, young_event,
};

async fn unreconciled(store: &Store) -> usize {
    store.unreconciled().await.unwrap().archives.len()
}

async fn generations(store: &Store, log: &Log) -> Vec<i64> {
    store.archives(log).await.unwrap().iter().map(|archive| archive.generation).collect()
}

/// Returns a log whose positions 1 to 4 are archived; 5 to 10 are hot, of which 9 is too young for an archive.
async fn archived_in_part() -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert_eq!(archive(&store).await, 4);
    import(&store, &log, (4..8).map(old_event).chain([young_event(8), old_event(9)])).await;
    (world, store, log)
}

fn at(events: &[Event], positions: &[i64]) -> Vec<Event> {
    events.iter().filter(|event| positions.contains(&event.position)).cloned().collect()
}

#[tokio::test]
async fn what_was_archived_and_edited_since_is_taken_over() {
    let (mut world, store, log) = archived_in_part().await;
    assert_eq!(unreconciled(&store).await, 0);
    let backup = world.backup().await;
    // A hot event is edited and archived, archived events are edited, and events are published that are to be lost.
    edit(&store, &log, "event-5", r#"{"name":"hot"}"#).await;
    assert_eq!(archive(&store).await, 4);
    edit(&store, &log, "event-6", r#"{"name":"archived"}"#).await;
    edit(&store, &log, "event-1", r#"{"name":"archived"}"#).await;
    store.rename_type(log.topic(), "type-2", "renamed").await.unwrap();
    store.rewrite().await.unwrap();
    publish(&store, &log, vec![event(10), event(11)]).await;
    import(&store, &log, (12..15).map(old_event)).await;
    assert_eq!(archive(&store).await, 4);
    publish(&store, &log, vec![event(20)]).await;
    let later = read_all(&store, &log).await;

    world.restore(&backup).await;
    let store = world.store(settings(4));
    assert_eq!(unreconciled(&store).await, 3);
    let recovery = recover(&store).await;
    assert_eq!((recovery.archives, recovery.events), (3, 12));
    // Positions 11 and 12 were published after the backup; 16 was, too, and nobody knows of it.
    assert_eq!(recovery.gaps, [RecoveredLog { log: log.clone(), head_position: 15, gone: 2 }]);
    assert_eq!(unreconciled(&store).await, 0);
    assert_eq!(generations(&store, &log).await, [2, 2, 1]);
    let expected = at(&later, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15]);
    assert_eq!(expected[1].payload.as_str(), payload(1, "archived"));
    assert_eq!(expected[5].payload.as_str(), payload(5, "hot"));
    check_reads(&store, &log, &expected).await;
    world.audit().await;

    assert_eq!(publish(&store, &log, vec![event(30)]).await[0].position, 16);
    edit(&store, &log, "event-1", r#"{"name":"again"}"#).await;
    import(&store, &log, (31..35).map(old_event)).await;
    assert_eq!(archive(&store).await, 4);
    store.rewrite().await.unwrap();
    let all = read_all(&store, &log).await;
    assert_eq!(all.len(), 18);
    check_reads(&store, &log, &all).await;
    world.audit().await;
}

#[tokio::test]
async fn what_was_pending_then_is_pending_still() {
    let (mut world, store, log) = archived_in_part().await;
    edit(&store, &log, "event-1", r#"{"name":"pending"}"#).await;
    store.rename_type(log.topic(), "type-2", "renamed").await.unwrap();
    let backup = world.backup().await;
    store.rewrite().await.unwrap();
    edit(&store, &log, "event-3", r#"{"name":"later"}"#).await;
    store.rewrite().await.unwrap();
    let later = read_all(&store, &log).await;

    world.restore(&backup).await;
    let store = world.store(settings(4));
    assert_eq!(recover(&store).await.archives, 1);
    assert_eq!(generations(&store, &log).await, [3]);
    check_reads(&store, &log, &later).await;
    assert_eq!(store.verify(|_| {}).await.unwrap(), []);
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(generations(&store, &log).await, [4]);
    check_reads(&store, &log, &later).await;
    world.audit().await;
}

/// The backup was made when an archiver had written its intent.
#[tokio::test]
async fn an_archive_that_was_intended_then() {
    for is_rewritten in [false, true] {
        let (mut world, store, log) = archived_in_part().await;
        let lease = world.lease(&log).await;
        let archiver = Mover::archiver(&store, lease, Step::Claimed).await;
        let backup = world.backup().await;
        assert_eq!(archiver.drive(Step::Archived).await.unwrap().moved(), 4);
        world.expire_leases().await;
        if is_rewritten {
            edit(&store, &log, "event-5", r#"{"name":"archived"}"#).await;
            store.rewrite().await.unwrap();
        }
        let later = read_all(&store, &log).await;

        world.restore(&backup).await;
        let store = world.store(settings(4));
        // The events of the object are hot, unless an edit was folded in: then the object alone has the new value.
        assert_eq!(unreconciled(&store).await, usize::from(is_rewritten));
        if is_rewritten {
            world.expire_leases().await;
            assert!(store.sweep().await.is_err(), "the object is not deleted");
        }
        world.expire_leases().await;
        assert_eq!(recover(&store).await.archives, i64::from(is_rewritten));
        check_reads(&store, &log, &later).await;
        world.recover(&store).await;
        check_reads(&store, &log, &later).await;
        assert_eq!(store.archives(&log).await.unwrap().len(), 2);
        world.audit().await;
    }
}

/// The backup was made in the middle of a rewrite, before or after that was recorded.
#[tokio::test]
async fn a_rewrite_that_was_intended_then() {
    for is_recorded in [false, true] {
        let (mut world, store, log) = archived_in_part().await;
        edit(&store, &log, "event-1", r#"{"name":"pending"}"#).await;
        let archive = world.only_archive(&store).await;
        let last = if is_recorded { Step::RewriteUploaded } else { Step::RewriteBegun };
        let rewriter = Mover::rewriter(&store, world.lease(&log).await, archive.id, last).await;
        let backup = world.backup().await;
        rewriter.drive(Step::Promoted).await.unwrap();
        let later = read_all(&store, &log).await;

        world.restore(&backup).await;
        world.expire_leases().await;
        let store = world.store(settings(4));
        // A rewrite that was recorded is known, and promoted by the next process that meets it.
        assert_eq!(unreconciled(&store).await, usize::from(!is_recorded));
        assert_eq!(recover(&store).await.archives, i64::from(!is_recorded));
        check_reads(&store, &log, &later).await;
        world.recover(&store).await;
        check_reads(&store, &log, &later).await;
        world.audit().await;
    }
}

/// A restorer that died left its object behind: the rows count.
#[tokio::test]
async fn what_a_restore_has_left_is_not_taken_back() {
    for is_intended in [true, false] {
        let (mut world, store, log) = archived_in_part().await;
        edit(&store, &log, "event-1", r#"{"name":"first"}"#).await;
        store.rewrite().await.unwrap();
        edit(&store, &log, "event-2", r#"{"name":"erased"}"#).await;
        let later = read_all(&store, &log).await;
        let archive = world.only_archive(&store).await;
        let (lease, selection) = (world.lease(&log).await, Selection::Archive(archive.id));
        let restorer = Mover::restorer(&store, lease, archive.id, &selection, None, Step::Restored).await;
        assert_eq!(restorer.moved(), 4);
        world.expire_leases().await;
        let store = world.store(settings(4));
        if is_intended {
            assert_eq!(unreconciled(&store).await, 0);
            assert_eq!(recover(&store).await.archives, 0);
        } else {
            // The state is the same as if the object had come back out of a copy of the bucket.
            sqlx::query("DELETE FROM intents").execute(&world.sql).await.unwrap();
            assert_eq!(unreconciled(&store).await, 1);
            let [left] = store.recover(|_| {}).await.unwrap().unrecovered.try_into().unwrap();
            assert!(left.why.contains("position 3: the hot event was edited"), "{}", left.why);
            world.bucket.delete(&world.key(&archive)).await;
        }
        check_reads(&store, &log, &later).await;
        world.recover(&store).await;
        check_reads(&store, &log, &later).await;
        world.audit().await;
    }
}

/// The bucket was copied by a tool that uploads otherwise: the same bytes bear other ETags.
#[tokio::test]
async fn an_object_that_was_copied_is_followed() {
    let (mut world, store, log) = archived_in_part().await;
    let before = read_all(&store, &log).await;
    let key = world.key(&world.only_archive(&store).await);
    let bytes = world.bucket.get(&key).await;
    world.bucket.put(&key, bytes.clone()).await;
    assert_eq!(unreconciled(&store).await, 1);
    assert_eq!(recover(&store).await.archives, 1);
    check_reads(&store, &log, &before).await;
    // The object says the same of itself, but does not hold the same.
    let mut damaged = bytes.clone();
    damaged[4] ^= 1;
    world.bucket.put(&key, damaged).await;
    let [found] = store.recover(|_| {}).await.unwrap().unrecovered.try_into().unwrap();
    assert!(found.object == key && found.why.contains("digest"), "{found:?}");
    world.bucket.put(&key, bytes).await;
    assert_eq!(unreconciled(&store).await, 0);
    world.audit().await;
}

/// Somebody went on with the restored database before it knew its bucket.
#[tokio::test]
async fn a_place_that_is_taken_is_left_as_it_is() {
    for case in ["edited", "taken", "id", "archived"] {
        let (mut world, store, log) = archived_in_part().await;
        let backup = world.backup().await;
        assert_eq!(archive(&store).await, 4);
        import(&store, &log, (10..14).map(old_event)).await;
        assert_eq!(archive(&store).await, 4);
        let keys = world.bucket.keys().await;

        world.restore(&backup).await;
        let store = world.store(settings(4));
        let expected = match case {
            "edited" => {
                edit(&store, &log, "event-5", r#"{"name":"here"}"#).await;
                "position 6: the hot event was edited after it was archived"
            }
            "taken" => {
                publish(&store, &log, vec![event(20)]).await;
                "position 11: a hot event that is another one has that, too"
            }
            "id" => {
                import(&store, &log, [young_event(20), young_event(21), young_event(22), young_event(23)]).await;
                for statement in [
                    "UPDATE events SET position = position + 10 WHERE position > 10",
                    "UPDATE events SET id = 'event-12' WHERE position = 22",
                    "UPDATE logs SET head_position = 24, deleted_count = 10",
                ] {
                    sqlx::query(statement).execute(&world.sql).await.unwrap();
                }
                "position 22: a hot event there has the id of one of its events"
            }
            _ => {
                assert_eq!(archive(&store).await, 4);
                "position 5: another archive holds that, too"
            }
        };
        let hot = "SELECT position, payload FROM events ORDER BY position";
        let before: Vec<(i64, String)> = sqlx::query_as(hot).fetch_all(&world.sql).await.unwrap();
        let unrecovered = store.recover(|_| {}).await.unwrap().unrecovered;
        assert_eq!(unrecovered.len(), 1, "{case}: {unrecovered:?}");
        assert!(unrecovered[0].why.ends_with(expected), "{case}: {unrecovered:?}");
        assert!(keys.contains(&unrecovered[0].object) && unrecovered[0].why.contains(&unrecovered[0].object));
        assert_eq!(unreconciled(&store).await, 1, "{case}");
        let after: Vec<(i64, String)> = sqlx::query_as(hot).fetch_all(&world.sql).await.unwrap();
        assert!(after.iter().all(|row| before.contains(row)) && !after.is_empty(), "{case}");
        assert_eq!(store.verify(|_| {}).await.unwrap(), [], "{case}");
        // An audit passes once one of the two is deleted as the wrong one.
        world.bucket.delete(&unrecovered[0].object).await;
        world.recover(&store).await;
        world.audit().await;
    }
}

/// The positions of one archive lie between those of another one, and are not the same.
#[tokio::test]
async fn archives_may_interleave() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..16).map(|n| if n % 2 == 0 { old_event(n) } else { young_event(n) })).await;
    let backup = world.backup().await;
    assert_eq!(archive(&store).await, 8);
    let before = read_all(&store, &log).await;
    let store_of_all = world.store(crate::support::older_than(0, 4));
    assert_eq!(archive(&store_of_all).await, 8);
    world.restore(&backup).await;
    let store = world.store(settings(4));
    let recovery = recover(&store).await;
    assert_eq!((recovery.archives, recovery.gaps), (4, vec![]));
    check_reads(&store, &log, &before).await;
    world.audit().await;
}
