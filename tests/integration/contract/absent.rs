//! Groups may be gone for long and go on where they were, or be gone for good and cost the others nothing.

use std::time::Duration;

use coldstream::event::{Instant, Log, NewEvent};
use coldstream::store::Delivery;

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, event};
use crate::support::{
    DAY_NANOS, Role, Subscriber, World, archive, import, now, old_event, publish, settings, subscribing, young_event,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn days_ago(number: usize, days: i64) -> NewEvent {
    let raised_at = Instant::from_unix_nanos(now().unix_nanos() - days * DAY_NANOS);
    NewEvent { raised_at: Some(raised_at), ..old_event(number) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_a_year_behind_goes_on_where_it_was() {
    const PER_DAY: usize = 3;
    const DAYS: usize = 366;
    for role in [Role::of("group"), Role::parallel("group")] {
        let scene = Scene::new().await;
        let (log, store) = (scene.world.log(), scene.world.store(settings(200)));
        import(&store, &log, (0..PER_DAY).map(|number| days_ago(number, DAYS as i64))).await;
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        assert_eq!(subscriber.handled_ids(2).await.len(), 2);
        until_handled(&scene, &role, "event-1").await;
        drop(subscriber);
        // The events of that year are archived as they get old, except those of the last month.
        let events = PER_DAY..PER_DAY * DAYS;
        import(&store, &log, events.map(|number| days_ago(number, (DAYS - number / PER_DAY) as i64))).await;
        assert_eq!(archive(&store).await, 1_000);
        let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
        let mut ids = Vec::new();
        while ids.len() < PER_DAY * DAYS - 2 {
            let event = subscriber.event().await;
            subscriber.ack_stream(&event);
            ids.push(event.id);
        }
        if !role.is_parallel {
            let in_order: Vec<String> = (2..PER_DAY * DAYS).map(|number| format!("event-{number}")).collect();
            assert_eq!(ids, in_order);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), PER_DAY * DAYS - 2);
        scene.publish(vec![event(PER_DAY * DAYS)]).await.unwrap();
        assert_eq!(subscriber.handled_ids(1).await.len(), 1);
        drop(subscriber);
        scene.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_that_are_gone_for_good_cost_the_others_nothing() {
    const TOPICS: i64 = 20;
    const READ: &str = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
                        WHERE relname = 'group_progress'";
    let mut world = World::new().await;
    let store = world.store(settings(1));
    let logs: Vec<Log> = (0..TOPICS).map(|number| Log::new("acme", format!("topic-{number}")).unwrap()).collect();
    for log in &logs {
        publish(&store, log, vec![young_event(0)]).await;
    }
    sqlx::raw_sql(
        "INSERT INTO group_progress (group_name, is_parallel, log_id, epoch)
         SELECT 'gone-' || number, number % 2 = 0, logs.id, 1 FROM logs, generate_series(1, 1000) AS number;
         ANALYZE group_progress",
    )
    .execute(&world.sql)
    .await
    .unwrap();
    world.end(store).await;
    let before: i64 = sqlx::query_scalar(READ).fetch_one(&world.sql).await.unwrap();
    let store = world.store(settings(1));
    let (subscription, mut deliveries) = store.subscribe(subscribing("group")).unwrap();
    for round in 1..3 {
        for _ in 0..TOPICS {
            let next = tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("nothing came");
            let Some(Delivery::Event { log, event, .. }) = next else { panic!("no event: {next:?}") };
            subscription.acked(&log, event.stream, String::new(), false).await;
        }
        if round == 1 {
            for log in &logs {
                publish(&store, log, vec![young_event(1)]).await;
            }
        }
    }
    drop(subscription);
    store.close_subscriptions();
    store.subscriptions_closed().await;
    world.end(store).await;
    let read = sqlx::query_scalar::<_, i64>(READ).fetch_one(&world.sql).await.unwrap() - before;
    // The group's own rows are read some times each. Reading those of the groups that are gone once would be 20,000.
    assert!(read < 100 * TOPICS, "{read} rows were read");
    world.audit().await;
}
