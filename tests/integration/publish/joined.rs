//! Calls that publish to one log at the same time share transactions, and nothing else.

use coldstream::event::{Gdpr, GdprField, Json, NewEvent, PositionRange};
use coldstream::store::{Error, Published, Selection};
use futures::FutureExt;
use futures::future::join_all;
use uuid::Uuid;

use super::positions;
use crate::support::{Kind, World, archive, event, old_event, publish, read_all, settings};

/// Keeps the log from growing until the transaction is rolled back.
async fn hold(world: &World) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut holding = world.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *holding).await.unwrap();
    holding
}

/// Returns the outcomes of calls that all wait while the log is held.
async fn together(world: &World, calls: Vec<Vec<NewEvent>>) -> Vec<Result<Vec<Published>, Error>> {
    let (store, log) = (world.store(settings(2)), world.log());
    // The first call can then append to a topic that the store knows.
    publish(&store, &log, vec![event(1_000)]).await;
    let holding = hold(world).await;
    let mut waiting = Box::pin(join_all(calls.into_iter().map(|events| store.publish(&log, events))));
    assert!((&mut waiting).now_or_never().is_none(), "the log is held");
    holding.rollback().await.unwrap();
    waiting.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_each_other_share_a_transaction() {
    let mut world = World::new().await;
    let published =
        together(&world, (0..64).map(|number| vec![event(2 * number), event(2 * number + 1)]).collect()).await;
    for (published, first) in published.into_iter().zip((2..).step_by(2)) {
        assert_eq!(positions(&published.unwrap()), [first, first + 1], "in the order in which they were called");
    }
    let transactions: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM events").fetch_one(&world.sql).await.unwrap();
    // One transaction is older; the leader may have begun with the first calls before the last one was there.
    assert!(transactions <= 4, "{transactions}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_refused_leaves_the_others_alone() {
    let mut world = World::new().await;
    let other = NewEvent { reason: "another".into(), ..event(1_000) };
    let calls = vec![
        vec![event(0)],
        vec![event(1), other.clone(), event(2)],
        vec![event(1_000), event(3)],
        vec![event(3)],
        vec![NewEvent { reason: "another".into(), ..event(3) }],
        vec![event(1)],
    ];
    let published = together(&world, calls).await;
    let places: Vec<_> =
        published.iter().map(|published| published.as_ref().ok().map(|published| positions(published))).collect();
    assert_eq!(places, [Some(vec![2]), None, Some(vec![1, 3]), Some(vec![3]), None, Some(vec![4])]);
    for refused in [&published[1], &published[4]] {
        assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    }
    let ids: Vec<String> =
        read_all(&world.store(settings(2)), &world.log()).await.into_iter().map(|it| it.id).collect();
    assert_eq!(ids, ["event-1000", "event-0", "event-3", "event-1"]);
    world.audit().await;
}

/// A publisher's view of a topic is out of date as soon as another process archives or restores.
#[tokio::test]
async fn what_left_its_row_since_is_not_published_again() {
    let mut world = World::new().await;
    let (publisher, other, log) = (world.store(settings(1)), world.store(settings(1)), world.log());
    publish(&publisher, &log, vec![old_event(0)]).await;
    publish(&publisher, &log, vec![old_event(1)]).await;
    assert_eq!(archive(&other).await, 2);
    let again = publish(&publisher, &log, vec![old_event(0)]).await;
    assert!(positions(&again) == [1] && !again[0].is_new, "{again:?}");

    // The number of archived events stays the same, but the events are others: two come back, two others go.
    assert_eq!(positions(&publish(&publisher, &log, vec![old_event(2), old_event(3)]).await), [3, 4]);
    assert_eq!(positions(&publish(&publisher, &log, vec![event(4)]).await), [5], "in a topic that the publisher knows");
    let restored =
        other.restore(&Selection::Range(log.clone(), PositionRange::closed(1, 2)), 30, |_| {}).await.unwrap();
    assert_eq!(restored.events, 2);
    assert_eq!(archive(&other).await, 2);
    let again = publish(&publisher, &log, vec![old_event(2), old_event(1)]).await;
    assert!(positions(&again) == [3, 2] && again.iter().all(|it| !it.is_new), "{again:?}");
    world.audit().await;
}

/// No call waits for S3 behind one that has to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_looks_into_archives_holds_up_no_other() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    publish(&store, &log, vec![old_event(0)]).await;
    assert_eq!(archive(&store).await, 1);
    let gate = world.proxy.hold_first(Kind::Get);
    let looking = tokio::spawn({
        let (store, log) = (world.store(settings(1)), log.clone());
        async move { publish(&store, &log, vec![old_event(0)]).await }
    });
    gate.arrival().await;
    assert_eq!(positions(&publish(&store, &log, vec![event(1)]).await), [2]);
    gate.open();
    assert_eq!(positions(&looking.await.unwrap()), [1]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gives_up_takes_nobody_along() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    publish(&store, &log, vec![event(0)]).await;
    let holding = hold(&world).await;
    let mut waiting: Vec<_> = (1..9).map(|number| Box::pin(store.publish(&log, vec![event(number)]))).collect();
    for call in &mut waiting {
        assert!(call.now_or_never().is_none(), "the log is held");
    }
    // The first call leads, if any does.
    drop(waiting.remove(0));
    holding.rollback().await.unwrap();
    for published in join_all(waiting).await {
        assert!(published.unwrap()[0].is_new);
    }
    assert_eq!(positions(&publish(&store, &log, vec![event(1)]).await), [2], "the event was published for nobody");
    world.audit().await;
}

/// An append must not wait for the archiver with the topic locked: the archiver wants the topic next, and would lose
/// its run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_being_archived_is_published_again_without_waiting() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    publish(&store, &log, vec![old_event(0)]).await;
    set_lease(&world, Some(Uuid::new_v4())).await;
    let mut archiving = world.sql.begin().await.unwrap();
    sqlx::query("DELETE FROM events").execute(&mut *archiving).await.unwrap();
    let again = publish(&store, &log, vec![old_event(0)]).await;
    assert!(!again[0].is_new, "{again:?}");
    archiving.rollback().await.unwrap();
    set_lease(&world, None).await;
    world.audit().await;
}

/// An archiver that has lost its lease can still delete rows. The append and the deletion then wait for each other,
/// until Postgres ends one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_and_a_deletion_that_wait_for_each_other_come_to_an_end() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    publish(&store, &log, vec![old_event(0)]).await;
    let mut deleting = world.sql.begin().await.unwrap();
    sqlx::query("DELETE FROM events").execute(&mut *deleting).await.unwrap();
    let again = tokio::spawn({
        let (store, log) = (store.clone(), log.clone());
        async move { publish(&store, &log, vec![old_event(0)]).await }
    });
    world.lock_waits(1).await;
    // Postgres may end either of the two; the archiver gives way if Postgres does not end it.
    let locked = sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *deleting).await;
    deleting.rollback().await.unwrap();
    let again = again.await.unwrap();
    assert_eq!((positions(&again), again[0].is_new), (vec![1], false), "{locked:?}");
    assert_eq!(positions(&publish(&store, &log, vec![event(1)]).await), [2]);
    world.audit().await;
}

/// Sets the lease's holder: a process that deletes rows has the lease.
async fn set_lease(world: &World, holder: Option<Uuid>) {
    let set = sqlx::query(
        "UPDATE logs SET lease_holder = $1::uuid, lease_expires_at = CASE WHEN $1::uuid IS NOT NULL THEN now() + interval '1 minute' END",
    );
    set.bind(holder).execute(&world.sql).await.unwrap();
}

/// Many events are published with COPY, and the same rules hold for them.
#[tokio::test]
async fn many_events_are_published_all_or_not_at_all() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    publish(&store, &log, vec![event(0)]).await;
    let personal = GdprField::new("someone".into(), Json::parse("null").unwrap()).unwrap();
    let mut many: Vec<NewEvent> = (1..=1_000).map(event).collect();
    many[500] = NewEvent {
        payload: Json::parse_object("{\"text\":\"\\u0000 a\\tb \\\\N é\"}").unwrap(),
        reason: "a\tb\nc\\N é".into(),
        gdpr: Gdpr::from([("text".to_owned(), personal)]),
        ..event(501)
    };
    let published = publish(&store, &log, many.clone()).await;
    assert_eq!(positions(&published), (2..=1_001).collect::<Vec<i64>>());
    let found = read_all(&store, &log).await;
    assert!(found[1..].iter().zip(&many).all(|(found, new)| new.is_same_as(found)), "every column is where it belongs");

    // One event of the batch is there: first with other content, and then with the same.
    let mut more: Vec<NewEvent> = (2_000..2_600).map(event).collect();
    more.push(NewEvent { reason: "another".into(), ..event(7) });
    let refused = store.publish(&log, more.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    assert_eq!(read_all(&store, &log).await.len(), found.len(), "no event of the batch is there");
    *more.last_mut().unwrap() = event(7);
    let published = publish(&store, &log, more).await;
    assert_eq!(published.iter().filter(|it| !it.is_new).map(|it| it.position).collect::<Vec<_>>(), [8]);
    assert_eq!(published[599].position, 1_601);
    world.audit().await;
}
