//! The database was restored to a time before archived events went back into rows: their object is gone.

use std::sync::Arc;

use coldstream::database::catalog::archives::Archive;
use coldstream::event::{Event, Log, PositionRange, PositionSet};
use coldstream::store::{RecoveredLog, Selection, Store, Superseded};

use crate::recover::{check_reads, recover};
use crate::support::{
    Mover, Program, Step, World, archive, edit, import, old_event, older_than, payload, publish, read_all, settings,
    young_event,
};

/// Returns ten events in one archive.
async fn archived() -> (World, Arc<Store>, Log, Archive) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..10).map(old_event)).await;
    assert_eq!(archive(&store).await, 10);
    let archive = world.only_archive(&store).await;
    (world, store, log, archive)
}

fn without(events: &[Event], positions: std::ops::RangeInclusive<i64>) -> Vec<Event> {
    events.iter().filter(|event| !positions.contains(&event.position)).cloned().collect()
}

fn superseded(log: &Log, archive: &Archive) -> Superseded {
    let Archive { id: archive_id, first_position, last_position, .. } = *archive;
    Superseded { log: log.clone(), archive_id, first_position, last_position }
}

/// The positions of the log whose events are nowhere.
async fn nowhere(store: &Store, log: &Log) -> PositionSet {
    store.nowhere(log, PositionRange::closed(1, 10)).await.unwrap()
}

async fn restore(store: &Store, log: &Log, range: (i64, i64)) {
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(range.0, range.1)), 0, |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stayed_of_an_archive_takes_its_place() {
    for is_pending in [false, true] {
        let (mut world, store, log, old) = archived().await;
        if is_pending {
            edit(&store, &log, "event-1", r#"{"name":"pending"}"#).await;
            edit(&store, &log, "event-3", r#"{"name":"pending"}"#).await;
        }
        let backup = world.backup().await;
        store.rewrite().await.unwrap();
        restore(&store, &log, (3, 6)).await;
        let later = read_all(&store, &log).await;

        world.restore(&backup).await;
        let store = world.store(settings(10));
        assert_eq!(store.unreconciled().await.unwrap().archives.len(), 1);
        if is_pending {
            let said = Program::new(&world, 10).run(&["recover"]).await.succeeded();
            let lost = "\"acme\"/\"orders\": positions 3 to 6 went from an archive into rows, and are lost with them\n";
            assert!(said.contains(lost) && said.contains("4 of 10 positions are gone"), "{said}");
        } else {
            let recovery = recover(&store).await;
            assert_eq!((recovery.archives, recovery.events), (1, 6));
            assert_eq!(recovery.superseded, [superseded(&log, &old)]);
            assert_eq!(recovery.gaps, [RecoveredLog { log: log.clone(), head_position: 10, gone: 4 }]);
        }
        assert_eq!(nowhere(&store, &log).await, PositionSet::from_iter([PositionRange::closed(3, 6)]));
        assert_eq!(store.unreconciled().await.unwrap().archives, Vec::<String>::new());
        let expected = without(&later, 3..=6);
        assert_eq!(expected[1].payload.as_str(), payload(1, if is_pending { "pending" } else { "original" }));
        check_reads(&store, &log, &expected).await;
        store.sweep().await.unwrap();
        world.bucket.delete(crate::support::MARKER).await;
        world.audit().await;
        assert_eq!(publish(&store, &log, vec![old_event(3)]).await[0].position, 11, "the event is nowhere");
    }
}

/// The restored events are archived anew in batches of another size; the last ones are too few for a batch.
#[tokio::test]
async fn what_was_archived_anew_takes_its_place() {
    let (mut world, store, log, old) = archived().await;
    let backup = world.backup().await;
    restore(&store, &log, (1, 10)).await;
    edit(&store, &log, "event-6", r#"{"name":"hot"}"#).await;
    assert_eq!(archive(&world.store(settings(4))).await, 8);
    let later = read_all(&store, &log).await;

    world.restore(&backup).await;
    let store = world.store(settings(10));
    let recovery = recover(&store).await;
    assert_eq!((recovery.archives, recovery.events), (2, 8));
    assert_eq!(recovery.superseded, [superseded(&log, &old)]);
    assert_eq!(nowhere(&store, &log).await, PositionSet::from_iter([PositionRange::closed(9, 10)]));
    check_reads(&store, &log, &without(&later, 9..=10)).await;
    world.audit().await;
}

/// The backup was made in the middle of a restore: the object that the restorer wrote is known by its intent alone.
#[tokio::test]
async fn what_was_intended_then_is_kept_while_it_is_all_that_is_left() {
    for last in [Step::RestoreBegun, Step::RestWritten] {
        let (mut world, store, log, old) = archived().await;
        let (lease, selection) = (world.lease(&log).await, Selection::Range(log.clone(), PositionRange::closed(3, 6)));
        let restorer = Mover::restorer(&store, lease, old.id, &selection, None, last).await;
        let backup = world.backup().await;
        assert_eq!(restorer.drive(Step::Restored).await.unwrap().moved(), 4);
        world.expire_leases().await;
        assert_eq!(store.sweep().await.unwrap(), 1);
        let later = read_all(&store, &log).await;
        let keys = world.bucket.keys().await;

        world.restore(&backup).await;
        world.expire_leases().await;
        let store = world.store(settings(10));
        let refused = store.sweep().await.unwrap_err().to_string();
        assert!(refused.contains(&format!("all that is left of archive {}", old.id)), "{refused}");
        assert_eq!(world.bucket.keys().await, keys);
        assert_eq!(store.unreconciled().await.unwrap().archives, keys);
        world.expire_leases().await;
        let recovery = recover(&store).await;
        assert_eq!((recovery.archives, recovery.events), (1, 6));
        assert_eq!(recovery.superseded, [superseded(&log, &old)]);
        assert_eq!(nowhere(&store, &log).await, PositionSet::from_iter([PositionRange::closed(3, 6)]));
        check_reads(&store, &log, &without(&later, 3..=6)).await;
        assert_eq!(store.sweep().await.unwrap(), 0);
        world.audit().await;
    }
}

/// A missing archive keeps no object from being deleted whose events are elsewhere.
#[tokio::test]
async fn an_orphan_whose_events_are_hot_goes_whatever_is_missing() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(5)), world.log());
    import(&store, &log, (0..10).map(|number| if number % 2 == 0 { old_event(number) } else { young_event(number) }))
        .await;
    assert_eq!(archive(&store).await, 5);
    let (before, key) = (read_all(&store, &log).await, world.key(&world.only_archive(&store).await));
    let of_all = world.store(older_than(0, 5));
    Mover::archiver(&of_all, world.lease(&log).await, Step::Uploaded).await;
    let (object, said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    world.bucket.delete(&key).await;
    world.expire_leases().await;
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(world.bucket.keys().await, Vec::<String>::new());
    world.bucket.put_saying(&key, object, &said).await;
    assert_eq!(recover(&store).await.archives, 1);
    assert_eq!(read_all(&store, &log).await, before);
    world.audit().await;
}

/// An archive that may still be the right one stays in the catalog.
#[tokio::test]
async fn an_archive_is_not_superseded_by_guess() {
    for case in ["a version", "edited", "younger"] {
        let (mut world, store, log, old) = archived().await;
        world.bucket.keep_versions().await;
        let object = async |key: &str| (world.bucket.get(key).await, world.bucket.said(key).await);
        let old_key = world.key(&old);
        let (old_bytes, old_said) = object(&old_key).await;
        let backup = world.backup().await;
        restore(&store, &log, (3, 6)).await;
        let rest_key = world.key(&world.only_archive(&store).await);
        let (rest_bytes, rest_said) = object(&rest_key).await;
        if case != "younger" {
            world.restore(&backup).await;
        }
        let store = world.store(settings(10));
        let (left, expected) = match case {
            "a version" => {
                world.bucket.put_saying(&old_key, old_bytes.clone(), &old_said).await;
                world.bucket.delete(&old_key).await;
                (&rest_key, "held that, too, and there is a version of it to be put back")
            }
            "edited" => {
                store.rename_type(log.topic(), "type-1", "renamed").await.unwrap();
                (&rest_key, "held that, too, and was edited after this one was made")
            }
            // The object that the restore took apart came back, out of a copy of the bucket.
            _ => {
                world.bucket.delete(&rest_key).await;
                world.bucket.put_saying(&old_key, old_bytes.clone(), &old_said).await;
                (&old_key, "is younger, and held that, too")
            }
        };
        let recovery = store.recover(|_| {}).await.unwrap();
        assert_eq!((recovery.archives, recovery.superseded.len(), recovery.unrecovered.len()), (0, 0, 2), "{case}");
        let found = recovery.unrecovered.iter().find(|found| found.object == *left).expect(case);
        assert!(found.why.ends_with(expected), "{case}: {}", found.why);

        // The other object is nobody's once the archive that the catalog knows is there again.
        match case {
            "younger" => drop(world.bucket.put_saying(&rest_key, rest_bytes, &rest_said).await),
            _ => drop(world.bucket.put_saying(&old_key, old_bytes, &old_said).await),
        }
        let recovery = store.recover(|_| {}).await.unwrap();
        assert_eq!((recovery.archives, recovery.unrecovered.len()), (1, 1), "{case}: {recovery:?}");
        assert!(recovery.unrecovered[0].why.ends_with("another archive holds that, too"), "{case}");
        assert_eq!(read_all(&store, &log).await.len(), 10, "{case}");
        world.delete_whole(left).await;
        edit(&store, &log, "event-8", r#"{"name":"edited"}"#).await;
        store.rewrite().await.unwrap();
        world.audit().await;
    }
}
