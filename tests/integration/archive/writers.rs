//! Archivers may die, sleep, meet others or lose their lease: nothing is lost, and nothing is doubled.

use coldstream::event::Log;
use coldstream::store::{Archived, Error, Settings, Store};
use futures::future::join_all;

use super::store_counts;
use crate::support::{
    Fate, Kind, Mover, Step, World, archive, edit, import, old_event, payload, read_all, settings, unzip,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archivers_do_not_get_in_each_others_way() {
    let mut world = World::new().await;
    let log = world.log();
    let archivers = [world.store(settings(5)), world.store(settings(5))];
    for round in 0..4 {
        import(&archivers[0], &log, (round * 20..round * 20 + 20).map(old_event)).await;
        let moved = join_all(archivers.iter().map(|store| archive(store))).await;
        assert_eq!(moved.iter().sum::<i64>(), 20, "{moved:?}");
    }
    assert_eq!(read_all(&world.store(settings(5)), &log).await.len(), 80);
    world.audit().await;
}

#[tokio::test]
async fn an_archiver_whose_intent_was_settled_leaves_no_lookups() {
    let mut world = World::new().await;
    let log = world.log();
    let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
    import(&sleeper, &log, (0..4).map(old_event)).await;
    let archiver = Mover::archiver(&sleeper, world.lease(&log).await, Step::Claimed).await;
    world.expire_leases().await;
    assert_eq!(other.sweep().await.unwrap(), 1);
    let outcome = archiver.next().await.err();
    assert!(matches!(outcome, Some(Error::GaveWay(_))), "{outcome:?}");
    world.audit().await;
}

async fn lease_expires_at(world: &World) -> time::OffsetDateTime {
    sqlx::query_scalar("SELECT lease_expires_at FROM logs").fetch_one(&world.sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_archiver_keeps_its_turn() {
    let mut world = World::new().await;
    let log = world.log();
    let lease_term = std::time::Duration::from_secs(1);
    let [slow, other] = [(); 2].map(|()| world.store(Settings { lease_term, ..settings(4) }));
    import(&slow, &log, (0..8).map(old_event)).await;
    let gate = world.proxy.hold_first(Kind::PutPart);
    let archiving = tokio::spawn(async move { archive(&slow).await });
    gate.arrival().await;
    for _ in 0..4 {
        let expires_at = lease_expires_at(&world).await;
        // The waits add up to more than the first term of the lease.
        while lease_expires_at(&world).await == expires_at {}
        assert_eq!(archive(&other).await, 0, "the slow archiver has the lease");
        assert_eq!(other.sweep().await.unwrap(), 0);
    }
    gate.open();
    assert_eq!(archiving.await.unwrap(), 8);
    world.audit().await;
}

#[tokio::test]
async fn an_archiver_may_die_after_any_step() {
    for last in [Step::Claimed, Step::Uploaded, Step::ReadBack, Step::Archived] {
        let mut world = World::new().await;
        let log = world.log();
        let dying = world.store(settings(4));
        import(&dying, &log, (0..6).map(old_event)).await;
        let before = read_all(&dying, &log).await;
        let moved = Mover::archiver(&dying, world.lease(&log).await, last).await.moved();
        assert_eq!(moved, if last == Step::Archived { 4 } else { 0 }, "{last:?}");
        drop(dying);

        let next = world.store(settings(4));
        assert_eq!(next.sweep().await.unwrap(), 0, "{last:?}: the lease has not expired");
        assert_eq!(read_all(&next, &log).await, before, "{last:?}");
        world.expire_leases().await;
        assert_eq!(next.sweep().await.unwrap(), if last == Step::Archived { 0 } else { 1 }, "{last:?}");
        let objects = world.bucket.keys().await.len();
        assert_eq!(objects, if last == Step::Archived { 1 } else { 0 }, "{last:?}: orphans are deleted");
        assert_eq!(archive(&next).await, if last == Step::Archived { 0 } else { 4 }, "{last:?}");
        assert_eq!(read_all(&next, &log).await, before, "{last:?}");
        world.audit().await;
    }
}

/// A successor looks for uploads to abort, and then for the object: nobody would know of an object that is completed
/// after that.
#[tokio::test]
async fn an_archiver_whose_turn_is_being_taken_over_completes_no_upload() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    let archiver = Mover::archiver(&store, world.lease(&log).await, Step::Claimed).await;
    world.expire_leases().await;
    world.lease(&log).await;
    let outcome = archiver.next().await.err();
    assert!(matches!(outcome, Some(Error::GaveWay(_))), "{outcome:?}");
    assert_eq!(world.bucket.keys().await, Vec::<String>::new());
    assert_eq!(world.bucket.unfinished_uploads().await, Vec::<String>::new());
    world.recover(&store).await;
    world.audit().await;
}

#[tokio::test]
async fn an_archiver_that_lost_its_turn_changes_nothing_when_it_wakes() {
    for last in [Step::Claimed, Step::Uploaded, Step::ReadBack] {
        let mut world = World::new().await;
        let log = world.log();
        let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
        import(&sleeper, &log, (0..6).map(old_event)).await;
        let before = read_all(&sleeper, &log).await;
        let archiver = Mover::archiver(&sleeper, world.lease(&log).await, last).await;
        take_over(&world, &other).await;
        let outcome = archiver.next().await.err();
        let expected = match last {
            // The successor has deleted the object.
            Step::Uploaded => matches!(outcome, Some(Error::Damaged(_))),
            _ => matches!(outcome, Some(Error::GaveWay(_))),
        };
        assert!(expected, "{last:?}: {outcome:?}");
        assert_eq!(read_all(&other, &log).await, before, "{last:?}");
        assert_eq!(store_counts(&other, &log).await, (1, 4), "{last:?}");
        world.audit().await;
    }
}

/// Nobody has settled the intent of the older writer: the epoch alone says that its lease is over.
#[tokio::test]
async fn a_writer_with_an_older_epoch_commits_nothing_and_settles_nothing() {
    let mut world = World::new().await;
    let log = world.log();
    let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
    import(&sleeper, &log, (0..8).map(old_event)).await;
    let older = world.lease(&log).await;
    let archiver = Mover::archiver(&sleeper, older, Step::ReadBack).await;
    world.expire_leases().await;
    let newer = world.lease(&log).await;
    assert!(matches!(archiver.next().await, Err(Error::GaveWay(_))));
    let archiver = Mover::archiver(&other, newer, Step::ReadBack).await;
    assert!(matches!(sleeper.claim(older).await, Err(Error::GaveWay(_))));
    assert_eq!(archiver.next().await.unwrap().moved(), 4, "the object is where it was");
    world.recover(&other).await;
    assert_eq!(store_counts(&other, &log).await, (2, 8));
    world.audit().await;
}

async fn take_over(world: &World, other: &Store) {
    world.expire_leases().await;
    assert_eq!(archive(other).await, 4);
}

#[tokio::test]
async fn a_sweep_that_fails_for_one_topic_goes_on_to_the_others() {
    let mut world = World::new().await;
    let dying = world.store(settings(4));
    let logs = ["failing", "fine"].map(|topic| Log::new("acme", topic).unwrap());
    for log in &logs {
        import(&dying, log, (0..4).map(old_event)).await;
        Mover::archiver(&dying, world.lease(log).await, Step::Uploaded).await;
    }
    world.expire_leases().await;
    world.proxy.script(|request| match request.target.contains("failing") {
        true => Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        false => Fate::Pass,
    });
    let next = world.store(settings(4));
    let outcome = next.sweep().await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "the failure is told: {outcome:?}");
    let left = "SELECT topic FROM intents JOIN logs ON logs.id = log_id";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_all(&world.sql).await.unwrap();
    assert_eq!(left, ["failing"]);
    let keys = world.bucket.keys().await;
    assert!(keys.len() == 1 && keys[0].starts_with("acme/failing/"), "{keys:?}");
    world.proxy.heal();
    world.recover(&next).await;
    for log in &logs {
        assert_eq!(store_counts(&next, log).await, (1, 4));
    }
    world.audit().await;
}

/// The intent is settled at the last moment possible: every byte is uploaded, and the upload is not completed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_aborted_cannot_be_completed() {
    let mut world = World::new().await;
    let log = world.log();
    let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
    import(&sleeper, &log, (0..6).map(old_event)).await;
    let gate = world.proxy.hold_first(Kind::CompleteUpload);
    let sleeping = tokio::spawn(async move { sleeper.archive(|_, _| {}).await });
    gate.arrival().await;
    take_over(&world, &other).await;
    gate.open();
    let outcome = sleeping.await.unwrap();
    assert!(matches!(outcome, Ok(Archived { events: 0, .. }) | Err(_)), "{outcome:?}");
    assert_eq!(store_counts(&other, &log).await, (1, 4));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_during_the_upload_puts_the_batch_off() {
    for kind in [Kind::StartUpload, Kind::PutPart, Kind::CompleteUpload, Kind::Get] {
        let mut world = World::new().await;
        let log = world.log();
        let (archiver, editor) = (world.store(settings(4)), world.store(settings(4)));
        import(&archiver, &log, (0..6).map(old_event)).await;
        let gate = world.proxy.hold_first(kind);
        let archiving = tokio::spawn(async move { (archiver.archive(|_, _| {}).await, archiver) });
        gate.arrival().await;
        edit(&editor, &log, "event-2", r#"{"name":"EDITED"}"#).await;
        gate.open();
        let (outcome, archiver) = archiving.await.unwrap();
        assert_eq!(outcome.unwrap(), Archived { put_off: 1, ..Archived::default() }, "{kind:?}");
        assert!(world.bucket.keys().await.is_empty(), "{kind:?}: the uploaded object is gone");
        assert_eq!(read_all(&editor, &log).await[2].payload.as_str(), payload(2, "EDITED"));

        world.recover(&archiver).await;
        let object = unzip(&world.bucket.get(&world.key(&world.only_archive(&editor).await)).await);
        assert!(object.contains(&payload(2, "EDITED")) && !object.contains(&payload(2, "original")), "{kind:?}");
        assert_eq!(read_all(&world.store(settings(4)), &log).await[2].payload.as_str(), payload(2, "EDITED"));
        world.audit().await;
    }
}

/// The connection breaks off while Postgres commits: the writer does not know the outcome, and must not clean up before
/// it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_is_waited_for() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    let lease = world.lease(&log).await;
    Mover::archiver(&store, lease, Step::Uploaded).await;
    let keys = world.bucket.keys().await;

    // The commit of an archive ends like this: it holds the topic's row, and deletes the intent.
    let mut committing = world.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *committing).await.unwrap();
    sqlx::query("DELETE FROM intents").execute(&mut *committing).await.unwrap();
    sqlx::query("DELETE FROM events").execute(&mut *committing).await.unwrap();
    let settling = tokio::spawn({
        let store = store.clone();
        async move { store.claim(lease).await.unwrap().is_none() }
    });
    world.lock_waits(1).await;
    assert_eq!(world.bucket.keys().await, keys, "nothing is deleted while nobody knows");
    committing.rollback().await.unwrap();
    assert!(!settling.await.unwrap(), "nothing was committed, and the next batch is claimed");
    assert_ne!(world.bucket.keys().await, keys, "the object that was not committed is gone");

    world.recover(&store).await;
    assert_eq!(read_all(&store, &log).await.len(), 4);
    world.audit().await;
}
