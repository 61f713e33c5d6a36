//! Everything that an edit superseded goes: noncurrent versions, and objects that were on their way.

use coldstream::event::Log;
use coldstream::store::Error;
use futures::future::join_all;

use super::no_version_holds;
use crate::support::{Mover, Step, World, archive, edit, import, old_event, payload, read_all, settings, unzip};

#[tokio::test]
async fn a_versioned_bucket_keeps_no_version_with_the_old_value() {
    let world = World::new().await;
    let (mut world, log) = (world, Log::new("acme", "orders").unwrap());
    world.bucket.keep_versions().await;
    let store = world.store(settings(5));
    import(&store, &log, (0..10).map(old_event)).await;
    assert_eq!(archive(&store).await, 10);
    for name in ["second", "third"] {
        edit(&store, &log, "event-3", &format!(r#"{{"name":"{name}"}}"#)).await;
        assert_eq!(store.rewrite().await.unwrap(), 1);
    }
    no_version_holds(&world, &payload(3, "original")).await;
    no_version_holds(&world, "second").await;
    assert_eq!(world.bucket.versions().await.len(), 2);
    world.audit().await;
}

#[tokio::test]
async fn an_orphan_of_a_versioned_bucket_leaves_no_version() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(5)), world.log());
    world.bucket.keep_versions().await;
    import(&store, &log, (0..5).map(old_event)).await;
    let archiver = Mover::archiver(&store, world.lease(&log).await, Step::ReadBack).await;
    let outcome = edit(&store, &log, "event-3", r#"{"name":"NEW-VALUE"}"#).await;
    let line = outcome.edit.unwrap();
    assert!(line.purged_at.is_none(), "an object on its way has the old value");
    assert!(matches!(archiver.next().await, Err(Error::GaveWay(_))));
    store.sweep().await.unwrap();
    assert!(store.edit_by_id(line.id).await.unwrap().unwrap().purged_at.is_none(), "the lease has not expired");
    world.expire_leases().await;
    store.sweep().await.unwrap();
    assert_eq!(world.bucket.versions().await.len(), 0);
    assert!(store.edit_by_id(line.id).await.unwrap().unwrap().purged_at.is_some());
    world.audit().await;
}

/// An object that was begun after the edit has the new value: only an older one keeps the ledger open.
#[tokio::test]
async fn a_hot_edit_is_purged_once_no_older_object_is_on_its_way() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    let lease = world.lease(&log).await;
    let archiver = Mover::archiver(&store, lease, Step::ReadBack).await;
    let line = edit(&store, &log, "event-2", r#"{"name":"NEW-VALUE"}"#).await.edit.unwrap();
    let purged_at = async || store.edit_by_id(line.id).await.unwrap().unwrap().purged_at;
    assert_eq!(store.sweep().await.unwrap(), 0, "the writer lives");
    assert_eq!((line.purged_at, purged_at().await), (None, None));
    assert!(matches!(archiver.next().await, Err(Error::GaveWay(_))));

    let archiver = Mover::archiver(&store, lease, Step::Claimed).await;
    let intents: Vec<i64> =
        sqlx::query_scalar("SELECT edit_sequence FROM intents").fetch_all(&world.sql).await.unwrap();
    assert_eq!(intents, [line.sequence], "the older one is settled, and one that knows of the edit is under way");
    assert_eq!(store.sweep().await.unwrap(), 0);
    assert!(purged_at().await.is_some());
    assert_eq!(archiver.drive(Step::Archived).await.unwrap().moved(), 4);
    no_version_holds(&world, &payload(2, "original")).await;
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_archiving_and_rewriting_all_at_once() {
    const EVENTS: usize = 40;
    let mut world = World::new().await;
    let log = world.log();
    let processes = [world.store(settings(5)), world.store(settings(5)), world.store(settings(5))];
    import(&processes[0], &log, (0..EVENTS).map(old_event)).await;
    let editors = (0..2).map(|editor| {
        let (store, log) = (processes[editor].clone(), log.clone());
        tokio::spawn(async move {
            for round in 0..3 {
                for number in (editor..EVENTS).step_by(2) {
                    let patch = format!(r#"{{"name":"round {round}"}}"#);
                    let event = edit(&store, &log, &format!("event-{number}"), &patch).await.event;
                    let seen = store.event(&log, &event.id).await.unwrap().unwrap();
                    assert_eq!(seen.payload.as_str(), payload(number, &format!("round {round}")));
                }
            }
        })
    });
    let editors = tokio::spawn(join_all(editors));
    let movers = processes.clone().map(|store| async move {
        store.archive(|_, _| {}).await.unwrap();
        store
            .rewrite()
            .await
            .map(drop)
            .or_else(|error| if matches!(error, Error::GaveWay(_)) { Ok(()) } else { Err(error) })
    });
    for mover in movers {
        mover.await.unwrap();
    }
    while !editors.is_finished() {
        let rounds = processes.iter().map(|store| async {
            store.archive(|_, _| {}).await.unwrap();
            match store.rewrite().await {
                Ok(_) | Err(Error::GaveWay(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
        join_all(rounds).await;
    }
    for editor in editors.await.unwrap() {
        editor.unwrap();
    }
    world.recover(&processes[0]).await;
    assert_eq!(archive(&processes[0]).await, 0);
    let events = read_all(&world.store(settings(5)), &log).await;
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.payload.as_str(), payload(number, "round 2"));
    }
    assert_eq!(events.len(), EVENTS);
    for version in world.bucket.versions().await {
        let text = unzip(&version);
        assert!(["original", "round 0", "round 1"].iter().all(|old| !text.contains(old)), "{text}");
    }
    world.audit().await;
}
