//! Archiving loses nothing when requests or replies get lost, when a server is busy, lies or is away, and without a
//! bucket.

use coldstream::event::Event;
use coldstream::store::Error;
use futures::future::join_all;

use super::store_counts;
use crate::support::{Fate, Kind, Loss, World, archive, import, old_event, read_all, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_may_get_lost() {
    join_all(Loss::EACH.map(lose_each)).await;
}

async fn lose_each(loss: Loss) {
    let mut world = World::new().await;
    let log = world.log();
    let mut events = 0;
    let mut expected: Vec<Event> = Vec::new();
    for k in 1.. {
        let archiver = world.store(settings(3));
        import(&archiver, &log, (events..events + 3).map(old_event)).await;
        events += 3;
        expected.extend(read_all(&archiver, &log).await.split_off(expected.len()));
        loss.strike(&world.proxy, k);
        let outcome = archiver.archive(|_, _| {}).await;
        let is_reached = world.proxy.heal_after(k);
        assert_eq!(read_all(&archiver, &log).await, expected, "{loss:?} {k}: {outcome:?}");
        drop(archiver);
        let next = world.store(settings(3));
        world.recover(&next).await;
        assert_eq!(store_counts(&next, &log).await.1, events as i64, "{loss:?} {k}: {outcome:?}");
        assert_eq!(read_all(&next, &log).await, expected, "{loss:?} {k}: {outcome:?}");
        world.audit().await;
        if !is_reached {
            assert!(outcome.is_ok() && k > 4, "{loss:?} {k}: {outcome:?}");
            break;
        }
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let mut seen = Vec::new();
    world.proxy.script(move |request| {
        seen.push(request.kind);
        let is_busy = seen.iter().filter(|kind| **kind == request.kind).count() <= 2;
        if is_busy { Fate::Answer(503, "<Error><Code>SlowDown</Code></Error>") } else { Fate::Pass }
    });
    assert_eq!(archive(&store).await, 3);
    world.proxy.heal();
    world.audit().await;
}

#[tokio::test]
async fn completing_can_fail_behind_a_status_of_200() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let mut is_first = true;
    world.proxy.script(move |request| {
        if request.kind == Kind::CompleteUpload && std::mem::take(&mut is_first) {
            Fate::Answer(200, "<Error><Code>InternalError</Code></Error>")
        } else {
            Fate::Pass
        }
    });
    assert_eq!(archive(&store).await, 3);
    assert_eq!(world.proxy.count(Kind::CompleteUpload), 2);
    world.audit().await;
}

#[tokio::test]
async fn nothing_leaves_when_the_object_cannot_be_read_back_whole() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    world.proxy.script(|request| if request.kind == Kind::Get { Fate::CutBody(100) } else { Fate::Pass });
    let outcome = store.archive(|_, _| {}).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(world.hot_positions().await, [1, 2, 3]);
    assert!(world.bucket.keys().await.is_empty());
    let run = store.status().await.unwrap().last_run.unwrap();
    assert!(run.error.is_some() && run.events == 0, "{run:?}");
    world.proxy.heal();
    assert_eq!(archive(&store).await, 3);
    world.audit().await;
}

#[tokio::test]
async fn without_s3_publishing_and_hot_reads_go_on() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    world.proxy.script(|_| Fate::LoseRequest);
    let outcome = store.archive(|_, _| {}).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    import(&store, &log, (3..6).map(old_event)).await;
    assert_eq!(read_all(&store, &log).await.len(), 6);
    world.proxy.heal();
    world.recover(&store).await;
    assert_eq!(store_counts(&store, &log).await, (2, 6));
    world.audit().await;
}

#[tokio::test]
async fn without_a_bucket_nothing_is_archived_and_archived_events_are_an_error() {
    let mut world = World::new().await;
    let (store, bare, log) = (world.store(settings(3)), world.store_without_bucket(), world.log());
    import(&bare, &log, (0..4).map(old_event)).await;
    assert!(matches!(bare.archive(|_, _| {}).await, Err(Error::NoBucket)));
    assert!(!bare.has_archives().await.unwrap());
    assert_eq!(archive(&store).await, 3);
    assert!(bare.has_archives().await.unwrap());
    assert!(matches!(bare.event(&log, "event-1").await, Err(Error::NoBucket)));
    assert_eq!(bare.event(&log, "event-3").await.unwrap().unwrap().position, 4);
    world.audit().await;
}
