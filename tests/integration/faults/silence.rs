//! Nothing passes any more over connections to Postgres that a middle box has forgotten: nobody waits for ever, and
//! everything goes on over new connections.

use std::time::Duration;

use coldstream::database::Database;
use coldstream::store::Error;
use futures::future::join_all;
use tokio::time::timeout;

use super::{PATIENCE, impatient};
use crate::grpc;
use crate::support::{
    Program, Role, StatementFate, Subscriber, World, archive, edit, event, import, in_order, old_event, publish,
    read_all, settings,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_when_all_connections_fall_silent_between_calls() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_with(&impatient(postgres.url()), settings(3));
    import(&store, &log, (0..3).map(old_event)).await;
    assert_eq!(archive(&store).await, 3);
    publish(&store, &log, vec![event(3)]).await;
    for round in 0..2 {
        // The reads come at once, so that every pool has some connections to lose.
        join_all((0..6).map(|_| read_all(&store, &log))).await;
        postgres.fall_silent();
        publish(&store, &log, vec![event(4 + round)]).await;
        postgres.fall_silent();
        assert_eq!(read_all(&store, &log).await.len(), 5 + round);
        postgres.fall_silent();
        edit(&store, &log, "event-3", &format!(r#"{{"name":"hot-{round}"}}"#)).await;
        postgres.fall_silent();
        edit(&store, &log, "event-0", &format!(r#"{{"name":"archived-{round}"}}"#)).await;
        postgres.fall_silent();
        store.check().await.unwrap();
        postgres.fall_silent();
        store.rewrite().await.unwrap();
        postgres.fall_silent();
        assert_eq!(archive(&store).await, 0);
        postgres.fall_silent();
        store.sweep().await.unwrap();
    }
    world.audit().await;
}

/// A log has one leader: later publishers do not wait behind a leader that nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_answers_frees_its_log() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_with(&impatient(postgres.url()), settings(3));
    publish(&store, &log, vec![old_event(0)]).await;
    let gate = postgres.hold_first("UPDATE logs SET head_position");
    let first = tokio::spawn({
        let (store, log) = (store.clone(), log.clone());
        async move { store.publish(&log, vec![old_event(1)]).await }
    });
    gate.arrival().await;
    postgres.fall_silent();
    let second = timeout(PATIENCE, store.publish(&log, vec![old_event(2)])).await.unwrap();
    let first = first.await.unwrap();
    assert!(first.is_ok() && second.is_ok(), "{first:?}, {second:?}");
    assert_eq!(read_all(&store, &log).await, in_order(0..3));
    world.audit().await;
}

/// The callers are twice as many as the connections: their places are free afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_nobody_answers_give_their_connections_up() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_with(&impatient(postgres.url()), settings(3));
    publish(&store, &log, vec![old_event(0)]).await;
    postgres.script(|statement| match statement.contains("FROM events") {
        true => StatementFate::SwallowStatement,
        false => StatementFate::Pass,
    });
    let everything = crate::support::everything();
    let reads = timeout(PATIENCE, join_all((0..16).map(|_| store.read(&log, &everything)))).await.unwrap();
    for read in reads {
        assert!(matches!(&read, Err(Error::Unavailable(why)) if why.contains("did not answer")), "{read:?}");
    }
    postgres.heal();
    assert_eq!(read_all(&store, &log).await, in_order(0..1));
    world.audit().await;
}

/// Callers are told when not even new connections are answered; and so is a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_answers_nobody_is_told() {
    let mut world = World::new().await;
    let postgres = world.postgres_proxy().await;
    let store = world.store_with(&impatient(postgres.url()), settings(3));
    store.check().await.unwrap();
    postgres.fall_silent();
    postgres.script(|_| StatementFate::SwallowStatement);
    let (checked, read) = timeout(PATIENCE, async {
        let migrated = Database::open(&impatient(postgres.url())).unwrap().migrate().await;
        assert!(matches!(migrated, Err(coldstream::database::Error::Unavailable(_))), "{migrated:?}");
        tokio::join!(store.check(), store.status())
    })
    .await
    .unwrap();
    assert!(matches!(checked, Err(Error::Unavailable(_))), "{checked:?}");
    assert!(matches!(read, Err(Error::Unavailable(_))));
    postgres.heal();
    store.check().await.unwrap();
    world.audit().await;
}

/// A statement that waits for a lock does not wait on once its caller has gone, however long the lock is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_ends_what_nobody_waits_for_any_more() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_with(&impatient(postgres.url()), settings(3));
    publish(&store, &log, vec![old_event(0)]).await;
    let mut holding = world.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *holding).await.unwrap();
    let refused = timeout(PATIENCE, store.publish(&log, vec![old_event(1)])).await.unwrap();
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    let nobody_waits = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                           WHERE datname = current_database() AND wait_event_type = 'Lock')";
    world.until(nobody_waits, PATIENCE).await;
    holding.rollback().await.unwrap();
    publish(&store, &log, vec![old_event(1)]).await;
    assert_eq!(read_all(&store, &log).await, in_order(0..2));
    world.audit().await;
}

/// Clients of the service see this: subscribers come back, and `/ready` tells in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_on_over_new_connections() {
    let world = World::new().await;
    let postgres = world.postgres_proxy().await;
    let program = Program::new(&world, 1_000_000).set("POSTGRES_CONNECTION", postgres.url());
    let scene = grpc::Scene::start(world, program.set("POSTGRES_TIMEOUT_SECONDS", 5)).await;
    scene.publish(vec![grpc::event(0)]).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled().await.id, "event-0");
    for number in 1..4 {
        postgres.fall_silent();
        scene.publish(vec![grpc::event(number)]).await.unwrap();
        loop {
            match subscriber.event_or_end().await {
                Some(event) => {
                    subscriber.ack(&event);
                    if event.id == format!("event-{number}") {
                        break;
                    }
                }
                None => subscriber = Subscriber::start(&scene.client, Role::of("group")).await,
            }
        }
    }
    let ready = format!("{}/ready", scene.service.http);
    postgres.fall_silent();
    assert_eq!(reqwest::get(&ready).await.unwrap().status(), 200);
    postgres.fall_silent();
    postgres.script(|_| StatementFate::SwallowStatement);
    let answer = timeout(Duration::from_secs(15), reqwest::get(&ready)).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    postgres.heal();
    assert_eq!(reqwest::get(&ready).await.unwrap().status(), 200);
    scene.finish().await;
}
