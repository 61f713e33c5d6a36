//! Repairers that put a version back may lose their lease or their requests: no event is lost.

use std::sync::Arc;

use coldstream::event::{Event, Log};
use coldstream::store::Store;
use futures::future::join_all;

use super::repair::repair;
use crate::support::{Kind, Loss, World, archive, edit, import, old_event, payload, read_all, settings, unpaced};

/// Returns one archive of four events, whose object has versions from now on.
async fn archived() -> (World, Arc<Store>, Log, Vec<Event>) {
    let world = World::new().await;
    world.bucket.keep_versions().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert_eq!(archive(&store).await, 4);
    let before = read_all(&store, &log).await;
    (world, store, log, before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repairer_that_lost_its_turn_changes_nothing_when_it_wakes() {
    let (mut world, sleeper, log, before) = archived().await;
    world.bucket.delete(&world.key(&world.only_archive(&sleeper).await)).await;
    let gate = world.proxy.hold_first(Kind::CompleteUpload);
    let sleeping = tokio::spawn(async move { repair(&sleeper).await });
    gate.arrival().await;
    world.proxy.heal();
    world.expire_leases().await;
    let other = world.store(settings(4));
    assert_eq!(repair(&other).await.left, []);
    assert_eq!(read_all(&other, &log).await, before);
    edit(&other, &log, "event-2", r#"{"name":"NEW-VALUE"}"#).await;
    other.rewrite().await.unwrap();
    gate.open();
    assert_eq!(sleeping.await.unwrap().left, []);
    let events = read_all(&world.store(settings(4)), &log).await;
    assert_eq!(events[2].payload.as_str(), payload(2, "NEW-VALUE"));
    assert_eq!(world.only_archive(&other).await.generation, 3);
    world.audit().await;
}

/// The pending edit goes into the object when that is put back.
#[tokio::test]
async fn an_edit_that_is_pending_is_rewritten_with_it() {
    let (mut world, store, log, _) = archived().await;
    let key = world.key(&world.only_archive(&store).await);
    edit(&store, &log, "event-2", r#"{"name":"NEW-VALUE"}"#).await;
    let before = read_all(&store, &log).await;
    world.bucket.put(&key, b"garbage".to_vec()).await;
    // The catalog does not know where members are, either.
    sqlx::query("UPDATE members SET byte_end = byte_end - 1").execute(&world.sql).await.unwrap();
    assert_eq!(repair(&store).await.left, []);
    assert_eq!(read_all(&world.store(settings(4)), &log).await, before);
    assert_eq!(store.rewrite().await.unwrap(), 0);
    world.audit().await;
}

/// The later generation, which is gone as well, holds what an older database has forgotten.
#[tokio::test]
async fn nothing_is_put_back_in_the_place_of_a_later_version() {
    let (mut world, store, log, _) = archived().await;
    let key = world.key(&world.only_archive(&store).await);
    let (first, first_said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    let backup = world.backup().await;
    edit(&store, &log, "event-2", r#"{"name":"erased"}"#).await;
    store.rewrite().await.unwrap();
    let expected = read_all(&store, &log).await;
    let (later, later_said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    world.bucket.put_saying(&key, first, &first_said).await;
    world.bucket.put_saying(&key, later.clone(), &later_said).await;
    world.bucket.delete(&key).await;

    world.restore(&backup).await;
    let store = world.store(settings(4));
    let outcome = repair(&store).await;
    assert_eq!((outcome.repaired.len(), outcome.left.len()), (0, 1), "{outcome:?}");
    assert_eq!(world.bucket.keys().await, Vec::<String>::new());
    world.bucket.put_saying(&key, later, &later_said).await;
    assert_eq!(store.recover(|_| {}).await.unwrap().archives, 1);
    assert_eq!(read_all(&store, &log).await, expected);
    edit(&store, &log, "event-2", r#"{"name":"erased again"}"#).await;
    store.rewrite().await.unwrap();
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_of_a_repair_may_get_lost() {
    join_all(Loss::EACH.map(lose_each)).await;
}

async fn lose_each(loss: Loss) {
    let (mut world, store, log, _) = archived().await;
    let key = world.key(&world.only_archive(&store).await);
    for k in 1.. {
        let (repairer, before) = (world.store(settings(4)), read_all(&store, &log).await);
        world.bucket.delete(&key).await;
        loss.strike(&world.proxy, k);
        let outcome = repairer.repair(&unpaced, |_| {}).await;
        let is_reached = world.proxy.heal_after(k);
        drop(repairer);
        let case = format!("{loss:?}, request {k}: {outcome:?}");
        let next = world.store(settings(4));
        world.recover(&next).await;
        assert_eq!(repair(&next).await.left, [], "{case}");
        assert_eq!(read_all(&next, &log).await, before, "{case}");
        // Superseded versions go with the next rewrite at the latest.
        edit(&next, &log, "event-2", &format!(r#"{{"name":"name-{k}"}}"#)).await;
        next.rewrite().await.unwrap();
        world.audit().await;
        if !is_reached {
            assert!(outcome.is_ok_and(|outcome| outcome.left.is_empty()) && k > 10, "{case}");
            break;
        }
    }
}
