//! Restorers may die, lose their lease or their requests, or meet editors and readers: no event is lost, and no edit.

use coldstream::event::{Event, Gdpr, GdprField, Json, Log, NewEvent, PositionRange};
use coldstream::store::{Error, Selection, Store};
use futures::future::join_all;
use time::OffsetDateTime;

use super::{HOLD_DAYS, archived, restore, seen};
use crate::support::{
    Kind, Loss, Mover, Step, World, archive, edit, import, old_event, payload, publish, read_all, settings,
};

fn held_until() -> Option<OffsetDateTime> {
    Some(OffsetDateTime::now_utc() + time::Duration::days(1))
}

#[tokio::test]
async fn a_restorer_may_die_after_any_step() {
    for last in [Step::RestoreBegun, Step::RestWritten, Step::Restored] {
        for range in [(1, 10), (3, 6)] {
            let (mut world, dying, log) = archived().await;
            world.bucket.keep_versions().await;
            edit(&dying, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
            let before = seen(&dying, &log).await;
            let archive_id = dying.archives(&log).await.unwrap()[0].id;
            let selection = Selection::Range(log.clone(), PositionRange::closed(range.0, range.1));
            let lease = world.lease(&log).await;
            let case = format!("{last:?} {range:?}");
            let count = range.1 - range.0 + 1;
            let moved = if last == Step::Restored { count } else { 0 };
            let restorer = Mover::restorer(&dying, lease, archive_id, &selection, held_until(), last).await;
            assert_eq!(restorer.moved(), moved, "{case}");
            drop(restorer);
            drop(dying);

            let next = world.store(settings(10));
            assert_eq!(next.sweep().await.unwrap(), 0, "{case}: the lease has not expired");
            assert_eq!(seen(&next, &log).await, before, "{case}");
            assert_eq!(world.hot_positions().await.len(), 5 + moved as usize, "{case}");
            let unpurged = "SELECT count(*) FROM edits WHERE purged_at IS NULL";
            assert_eq!(sqlx::query_scalar::<_, i64>(unpurged).fetch_one(&world.sql).await.unwrap(), 1, "{case}");
            world.recover(&next).await;
            assert_eq!(seen(&next, &log).await, before, "{case}");
            assert_eq!(world.hot_positions().await.len(), 5 + moved as usize, "{case}");
            world.audit().await;
            let rest = next.restore(&selection, HOLD_DAYS, |_| {}).await.unwrap();
            assert_eq!((rest.events, rest.hot), (count - moved, moved), "{case}");
            assert_eq!(seen(&next, &log).await, before, "{case}");
            world.audit().await;
        }
    }
}

#[tokio::test]
async fn a_restorer_that_lost_its_turn_changes_nothing_when_it_wakes() {
    for last in [Step::RestoreBegun, Step::RestWritten] {
        for range in [(1, 10), (3, 6)] {
            let (mut world, sleeper, log) = archived().await;
            let other = world.store(settings(10));
            let before = seen(&sleeper, &log).await;
            let archive_id = other.archives(&log).await.unwrap()[0].id;
            let selection = Selection::Range(log.clone(), PositionRange::closed(range.0, range.1));
            let lease = world.lease(&log).await;
            let restorer = Mover::restorer(&sleeper, lease, archive_id, &selection, held_until(), last).await;
            world.expire_leases().await;
            assert_eq!(restore(&other, selection).await.events, range.1 - range.0 + 1);
            assert!(restorer.drive(Step::Restored).await.is_err(), "{last:?} {range:?}");
            assert_eq!(seen(&other, &log).await, before, "{last:?} {range:?}");
            world.audit().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_during_a_restore_is_in_the_rows_and_in_the_rest() {
    for kind in [Kind::Get, Kind::StartUpload, Kind::CompleteUpload] {
        let (mut world, store, log) = archived().await;
        let editor = world.store(settings(10));
        let gate = world.proxy.hold_first(kind);
        let selection = Selection::Range(log.clone(), PositionRange::closed(3, 6));
        let restoring = tokio::spawn(async move { restore(&store, selection).await });
        gate.arrival().await;
        world.proxy.heal();
        for number in [4, 8, 22] {
            edit(&editor, &log, &format!("event-{number}"), r#"{"name":"NEW-VALUE"}"#).await;
        }
        let before = seen(&editor, &log).await;
        gate.open();
        assert_eq!(restoring.await.unwrap().events, 4, "{kind:?}");
        assert_eq!(seen(&world.store(settings(10)), &log).await, before, "{kind:?}");
        assert_eq!(before[0][4].payload.as_str(), payload(4, "NEW-VALUE"));
        world.recover(&editor).await;
        assert_eq!(seen(&editor, &log).await, before, "{kind:?}");
        world.audit().await;
    }
}

/// Changes of many events look at rows first: events that move there meanwhile must not escape them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_into_rows_escapes_no_change() {
    for change in ["invalidate", "rename", "edit"] {
        let mut world = World::new().await;
        let (store, log) = (world.store(settings(10)), world.log());
        let gdpr = GdprField::new("ada".into(), Json::text("gone")).unwrap();
        let personal = |number| NewEvent { gdpr: Gdpr::from([("name".into(), gdpr.clone())]), ..old_event(number) };
        import(&store, &log, (0..10).map(personal)).await;
        assert_eq!(archive(&store).await, 10);
        let archive_id = world.only_archive(&store).await.id;
        let selection = Selection::Range(log.clone(), PositionRange::closed(1, 8));
        let (lease, until) = (world.lease(&log).await, held_until());
        let restorer = Mover::restorer(&store, lease, archive_id, &selection, until, Step::RestWritten).await;
        let mut holding = world.sql.begin().await.unwrap();
        sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *holding).await.unwrap();
        let (moved, ()) = tokio::join!(restorer.next(), async {
            world.lock_waits(1).await;
            let (changer, log) = (world.store(settings(10)), log.clone());
            let changing = tokio::spawn(async move {
                match change {
                    "invalidate" => changer.invalidate_gdpr(&log, "ada").await.unwrap(),
                    "rename" => changer.rename_type(log.topic(), "type-1", "begun").await.unwrap(),
                    _ => drop(edit(&changer, &log, "event-5", r#"{"name":"gone"}"#).await),
                }
            });
            world.lock_waits(2).await;
            holding.rollback().await.unwrap();
            changing.await.unwrap();
        });
        assert_eq!(moved.unwrap().moved(), 8, "{change}");
        let events = read_all(&world.store(settings(10)), &log).await;
        match change {
            "invalidate" => assert!(events.iter().all(|event| event.payload.as_str().contains("gone"))),
            "rename" => assert!(events.iter().all(|event| event.event_type != "type-1")),
            _ => assert_eq!(events[5].payload.as_str(), payload(5, "gone")),
        }
        assert_eq!(world.hot_positions().await.len(), 8, "{change}");
        world.recover(&store).await;
        assert_eq!(read_all(&store, &log).await, events, "{change}");
        world.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_meets_a_restore_begins_anew() {
    let (mut world, store, log) = archived().await;
    let before = read_all(&store, &log).await;
    let gate = world.proxy.hold_first(Kind::Get);
    let (reader, of_reader) = (world.store(settings(10)), log.clone());
    let reading = tokio::spawn(async move { read_all(&reader, &of_reader).await });
    gate.arrival().await;
    world.proxy.heal();
    restore(&store, Selection::Range(log.clone(), PositionRange::closed(3, 6))).await;
    gate.open();
    assert_eq!(reading.await.unwrap(), before);
    world.audit().await;
}

/// Reads, publishes and verifies while everything goes back and forth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_what_goes_back_and_forth() {
    let (mut world, mover, log) = archived().await;
    let before = read_all(&mover, &log).await;
    let moving = tokio::spawn({
        let (mover, log) = (mover.clone(), log.clone());
        async move {
            for stream in ["stream-0", "stream-1", "stream-2", "stream-0", "stream-1"] {
                mover.restore(&Selection::Stream(log.clone(), stream.into()), 0, |_| {}).await.unwrap();
                archive(&mover).await;
            }
        }
    });
    let reader = world.store(settings(10));
    while !moving.is_finished() {
        assert_eq!(read_all(&reader, &log).await, before);
        let published = publish(&reader, &log, vec![old_event(7)]).await;
        assert_eq!((published[0].position, published[0].is_new), (8, false));
        assert_eq!(reader.verify(|_| {}).await.unwrap(), []);
    }
    moving.await.unwrap();
    world.recover(&mover).await;
    assert_eq!(read_all(&reader, &log).await, before);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_of_a_restore_may_get_lost() {
    join_all(Loss::EACH.map(lose_each)).await;
}

async fn lose_each(loss: Loss) {
    let (mut world, store, log) = archived().await;
    world.bucket.keep_versions().await;
    let before: Vec<Event> = read_all(&store, &log).await;
    for k in 1.. {
        let restorer = world.store(settings(10));
        let selection = Selection::Range(log.clone(), PositionRange::closed(3, 6));
        loss.strike(&world.proxy, k);
        let outcome = restorer.restore(&selection, 0, |_| {}).await;
        let is_reached = world.proxy.heal_after(k);
        drop(restorer);
        let case = format!("{loss:?}, request {k}: {outcome:?}");
        let next = world.store(settings(10));
        assert_eq!(read_all(&next, &log).await, before, "{case}");
        expect_told(&outcome, &world, &case).await;
        settle(&world, &next, &log).await;
        assert_eq!(read_all(&next, &log).await, before, "{case}");
        world.audit().await;
        if !is_reached {
            assert!(outcome.is_ok() && k > 8, "{case}");
            break;
        }
    }
}

async fn expect_told(outcome: &Result<coldstream::store::Restored, Error>, world: &World, case: &str) {
    if outcome.is_ok() {
        assert_eq!(world.hot_positions().await.len(), 9, "{case}");
    }
}

/// Archives everything again, in batches as before.
async fn settle(world: &World, next: &Store, log: &Log) {
    world.expire_leases().await;
    next.sweep().await.unwrap();
    next.restore(&Selection::Range(log.clone(), PositionRange::closed(1, 20)), 0, |_| {}).await.unwrap();
    assert_eq!(archive(next).await, 20);
}
