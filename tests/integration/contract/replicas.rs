//! Several replicas on one database hand their work to each other, and idle subscriptions cost little.

use std::time::{Duration, Instant};

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::{EventOptions, PublishEvent};
use tonic::transport::Channel;

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, connect, event, fields};
use crate::support::{Program, Role, Service, Subscriber, retry_number};

const MIB: usize = 1024 * 1024;

/// Starts another replica, and returns a client of it, too.
async fn another(scene: &Scene) -> (Service, ServiceClient<Channel>) {
    let service = Service::start(Program::new(&scene.world, 1_000_000)).await;
    let client = ServiceClient::new(connect(&service).await).max_decoding_message_size(64 * MIB);
    (service, client)
}

async fn count(scene: &Scene, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&scene.world.sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replicas_work_moves_to_another() {
    let scene = Scene::new().await;
    let (dying, its_client) = another(&scene).await;
    let role = Role::of("group");
    let mut first = Subscriber::start(&its_client, role.clone()).await;
    scene.publish((0..4).map(event).collect()).await.unwrap();
    assert_eq!(first.handled_ids(1).await, ["event-0"]);
    let in_flight = first.event().await;
    assert_eq!(in_flight.id, "event-1");
    until_handled(&scene, &role, "event-0").await;
    let mut second = Subscriber::start(&scene.client, role.clone()).await;
    second.quiet().await;
    let killed_at = Instant::now();
    dying.kill().await;
    let again = second.event().await;
    let moved_after = killed_at.elapsed();
    println!("the work of a killed replica moved after {moved_after:?}");
    assert!(moved_after < Duration::from_secs(5), "{moved_after:?}");
    assert_eq!(again.id, "event-1");
    second.ack(&again);
    assert_eq!(second.handled_ids(2).await, ["event-2", "event-3"]);
    assert_eq!(count(&scene, "SELECT max(epoch) FROM group_progress").await, 2);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends_gives_its_work_over_at_once() {
    let scene = Scene::new().await;
    let (ending, its_client) = another(&scene).await;
    let mut first = Subscriber::start(&its_client, Role::of("group")).await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    assert_eq!(first.handled_ids(1).await, ["event-0"]);
    let mut second = Subscriber::start(&scene.client, Role::of("group")).await;
    until_handled(&scene, &Role::of("group"), "event-0").await;
    let asked_at = Instant::now();
    ending.terminate();
    assert_eq!(second.handled_ids(1).await, ["event-1"]);
    assert!(asked_at.elapsed() < Duration::from_secs(2), "{:?}", asked_at.elapsed());
    assert_eq!(ending.end().await.code, Some(0));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_that_wakes_after_its_lease_changes_nothing() {
    let scene = Scene::new().await;
    let (paused, its_client) = another(&scene).await;
    let role = Role::of("group");
    let mut first = Subscriber::start(&its_client, role.clone()).await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    let held = first.event().await;
    let mut second = Subscriber::start(&scene.client, role.clone()).await;
    second.quiet().await;
    paused.pause();
    let again = second.event().await;
    assert_eq!(again.id, "event-0");
    paused.resume();
    first.ack(&held);
    while first.event_or_end().await.is_some() {}
    let position = count(&scene, "SELECT position FROM group_progress").await;
    assert_eq!(position, 0, "the ack at the paused replica does not count");
    second.ack(&again);
    assert_eq!(second.handled_ids(2).await, ["event-1", "event-2"]);
    until_handled(&scene, &role, "event-2").await;
    paused.finish().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replicas_subscribers_refuse_another_replica_gets() {
    let scene = Scene::new().await;
    let (other, its_client) = another(&scene).await;
    let mut unable = Subscriber::start(&scene.client, Role::of("group")).await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    let refused = unable.event().await;
    let mut able = Subscriber::start(&its_client, Role::of("group")).await;
    // The first replica knows of the second one's group after two beats.
    scene.world.watch_beats(2).await;
    unable.fail(&refused, "no handler", true);
    let event = able.handled().await;
    assert_eq!((event.id.as_str(), retry_number(&event)), ("event-0", 1));
    assert_eq!(able.handled_ids(1).await, ["event-1"]);
    other.finish().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_broadcast_reaches_the_subscribers_of_every_replica() {
    let scene = Scene::new().await;
    let (other, its_client) = another(&scene).await;
    let client = scene.client.clone();
    let mut near = Subscriber::start(&client, Role::of("near")).await;
    let mut far = Subscriber::start(&its_client, Role::of("far")).await;
    // Both subscribers are known of, and both listen, once they have handled an event.
    scene.publish(vec![event(0)]).await.unwrap();
    near.handled_ids(1).await;
    far.handled_ids(1).await;
    let value = format!("\"{}\"", "x".repeat(10 * MIB));
    let options = Some(EventOptions { broadcast: true });
    let payload = fields([("text", &value)]);
    scene.publish(vec![PublishEvent { options, payload, ..event(1) }]).await.unwrap();
    for subscriber in [&mut near, &mut far] {
        let event = subscriber.event().await;
        assert_eq!((event.id.as_str(), &event.payload["text"].value), ("event-1", &value));
    }
    other.finish().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_subscriptions_cost_no_queries_of_their_own() {
    const TRANSACTIONS: &str =
        "SELECT (xact_commit + xact_rollback)::bigint FROM pg_stat_database WHERE datname = current_database()";
    let scene = Scene::new().await;
    scene.publish(vec![event(0)]).await.unwrap();
    let mut subscribers = Vec::new();
    for number in 0..100 {
        let mut subscriber = Subscriber::start(&scene.client, Role::of(&format!("group-{number}"))).await;
        subscriber.handled_ids(1).await;
        subscribers.push(subscriber);
    }
    until_handled(&scene, &Role::of("group-99"), "event-0").await;
    // Statistics are written when a connection rests: those of earlier work come with the first beats.
    scene.world.watch_beats(3).await;
    let before = count(&scene, TRANSACTIONS).await;
    scene.world.watch_beats(5).await;
    let transactions = count(&scene, TRANSACTIONS).await - before;
    println!("{transactions} transactions in five beats with 100 idle subscriptions");
    assert!(transactions < 100, "{transactions} transactions in five beats with 100 idle subscriptions");
    drop(subscribers);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_topics_do_not_delay_the_answer() {
    const TOPICS: usize = 10_000;
    let scene = Scene::new().await;
    scene.publish(vec![event(0)]).await.unwrap();
    sqlx::query("INSERT INTO logs (tenant, topic, head_position) SELECT 'acme', 'topic-' || n, 1 FROM generate_series(1, $1) AS n")
        .bind(TOPICS as i64)
        .execute(&scene.world.sql)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO events (log_id, position, raised_at, deployment_id, id, stream, type, reason, correlation_id,
                             causation_id, user_id, payload)
         SELECT id, 1, 0, 0, 'event', 'stream', 'type', '', '', '', '', '{}' FROM logs WHERE topic LIKE 'topic-%'",
    )
    .execute(&scene.world.sql)
    .await
    .unwrap();
    let started = Instant::now();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    println!("subscribed to {TOPICS} topics after {:?}", subscriber.subscribed_after);
    assert!(subscriber.subscribed_after < Duration::from_secs(1), "{:?}", subscriber.subscribed_after);
    subscriber.event().await;
    println!("the first event came after {:?}", started.elapsed());
    drop(subscriber);
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    subscriber.handled_ids(TOPICS / 10).await;
    println!("a tenth of all events was handled after {:?}", started.elapsed());
    drop(subscriber);
    sqlx::query("DELETE FROM events WHERE log_id IN (SELECT id FROM logs WHERE topic LIKE 'topic-%')")
        .execute(&scene.world.sql)
        .await
        .unwrap();
    sqlx::query("DELETE FROM logs WHERE topic LIKE 'topic-%'").execute(&scene.world.sql).await.unwrap();
    scene.finish().await;
}
