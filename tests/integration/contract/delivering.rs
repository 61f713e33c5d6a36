//! Every event comes in order and in time, whatever coincides between a log and its subscribers.

use std::time::{Duration, Instant};

use coldstream::api::proto::{
    BackchannelNotice, BackchannelRequest, EventOptions, PublishEvent, PublishRequest, backchannel_request,
};
use coldstream::event::Log;
use coldstream::store::Delivery;

use crate::contract::groups::until_handled;
use crate::grpc::{Scene, TENANT, TOPIC, event, ids};
use crate::support::{
    Fate, Gate, Kind, Program, Role, Subscriber, World, archive, import, old_event, publish, settings, subscribing,
    young_event,
};

fn in_stream(number: usize, stream: &str) -> PublishEvent {
    PublishEvent { stream: stream.into(), ..event(number) }
}

/// The longest time that a test waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn broadcast(number: usize) -> PublishEvent {
    let options = Some(EventOptions { broadcast: true });
    PublishEvent { id: format!("broadcast-{number}"), options, ..event(number) }
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("event-{number}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_while_more_is_read_is_read_again() {
    let scene = Scene::new().await;
    let (log, store) = (scene.world.log(), scene.world.store(settings(8)));
    import(&store, &log, (0..4).map(young_event)).await;
    import(&store, &log, (4..12).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    let gate = scene.world.proxy.hold_first(Kind::Get);
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    let first = subscriber.event().await;
    gate.arrival().await;
    // The events that were read ahead are forgotten after three beats.
    scene.world.watch_beats(3).await;
    gate.open();
    subscriber.ack(&first);
    assert_eq!(subscriber.handled_ids(11).await, numbered(1..12));
    scene.finish().await;
}

/// A topic that waits for its turn asks nothing: otherwise each of ten thousand would cost what all of them cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_turn_asks_nothing() {
    const TOPICS: i64 = 300;
    const LOOKS: &str = "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'logs'";
    let mut world = World::new().await;
    let store = world.store(settings(1));
    for number in 0..TOPICS {
        publish(&store, &Log::new("acme", format!("topic-{number}")).unwrap(), vec![young_event(0)]).await;
    }
    world.end(store).await;
    let before: i64 = sqlx::query_scalar(LOOKS).fetch_one(&world.sql).await.unwrap();
    let store = world.store(settings(1));
    let (subscription, mut deliveries) = store.subscribe(subscribing("group")).unwrap();
    for handled in 1..=TOPICS {
        let next = tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("nothing came");
        let Some(Delivery::Event { log, event, .. }) = next else { panic!("no event: {next:?}") };
        subscription.acked(&log, event.stream, String::new(), false).await;
        // The acks come so slowly that the other topics wait.
        let count = || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM group_progress WHERE position = 1");
        let written_down = async { while count().fetch_one(&world.sql).await.unwrap() < handled {} };
        tokio::time::timeout(PATIENCE, written_down).await.expect("the progress is not written down");
    }
    drop(subscription);
    store.close_subscriptions();
    store.subscriptions_closed().await;
    world.end(store).await;
    let looks = sqlx::query_scalar::<_, i64>(LOOKS).fetch_one(&world.sql).await.unwrap() - before;
    // The looks take the topic's progress, read its event, ask whether that was edited, and write down that it was
    // handled; where that takes long, everything is looked at now and then. When all topics asked at each turn, there
    // were 13 looks and more a topic.
    assert!((3 * TOPICS..10 * TOPICS).contains(&looks), "{looks} looks at {TOPICS} topics");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_for_a_small_room_is_not_taken_for_the_end() {
    const EVENTS: usize = 1_300;
    let scene = Scene::new().await;
    let stream = |number: usize| if number == 0 { "slow".to_owned() } else { format!("stream-{}", number % 200) };
    scene.publish((0..EVENTS).map(|number| in_stream(number, &stream(number))).collect()).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let slow = subscriber.event().await;
    assert_eq!(slow.id, "event-0");
    let mut helper = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let mut seen = vec![slow.id.clone()];
    while seen.len() < 500 {
        let event = helper.event().await;
        helper.ack_stream(&event);
        seen.push(event.id);
    }
    // The next read has room for less than it would take otherwise, and takes long.
    let mut lock = scene.world.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(500), helper.event()).await {
        helper.ack_stream(&event);
        seen.push(event.id);
    }
    subscriber.ack_stream(&slow);
    scene.world.until("SELECT max(position) > 700 FROM group_progress", PATIENCE).await;
    lock.rollback().await.unwrap();
    while seen.len() < EVENTS {
        let (event, subscriber) = tokio::select! {
            event = subscriber.event() => (event, &subscriber),
            event = helper.event() => (event, &helper),
        };
        subscriber.ack_stream(&event);
        seen.push(event.id);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), EVENTS);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcasts_ack_is_counted_while_an_event_is_written_down() {
    let scene = Scene::new().await;
    let mut subscriber = Subscriber::start(&scene.as_agent("grpc-node-js/1.9").await, Role::of("group")).await;
    scene.publish(vec![event(0)]).await.unwrap();
    assert_eq!(subscriber.handled_ids(1).await, ["event-0"]);
    until_handled(&scene, &Role::of("group"), "event-0").await;
    scene.publish(vec![event(1)]).await.unwrap();
    let first = subscriber.event().await;
    let mut lock = scene.world.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM group_progress FOR UPDATE").execute(&mut *lock).await.unwrap();
    subscriber.ack(&first);
    scene.world.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)", PATIENCE).await;
    scene.publish(vec![broadcast(0)]).await.unwrap();
    assert_eq!(subscriber.handled().await.id, "broadcast-0");
    // The ack is on its way.
    subscriber.quiet().await;
    lock.rollback().await.unwrap();
    until_handled(&scene, &Role::of("group"), "event-1").await;
    for number in 2..4 {
        scene.publish(vec![event(number)]).await.unwrap();
        assert_eq!(subscriber.handled().await.id, format!("event-{number}"));
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_gets_what_was_forgotten_for_somebody_slow() {
    let scene = Scene::new().await;
    scene.publish(vec![in_stream(0, "slow"), in_stream(1, "other")]).await.unwrap();
    let mut slow = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let held = slow.event().await;
    assert_eq!(held.id, "event-0");
    scene.world.watch_beats(3).await;
    let mut second = Subscriber::start(&scene.client, Role::parallel("group")).await;
    assert_eq!(second.handled_ids(1).await, ["event-1"]);
    slow.ack(&held);
    until_handled(&scene, &Role::parallel("group"), "event-1").await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_streams_go_on_behind_a_slow_one() {
    let scene = Scene::new().await;
    scene.publish((0..300).map(|number| in_stream(number, "slow")).collect()).await.unwrap();
    let mut one = Subscriber::start(&scene.client, Role::parallel("group")).await;
    let held = one.event().await;
    let mut two = Subscriber::start(&scene.client, Role::parallel("group")).await;
    scene.world.watch_beats(3).await;
    for number in 300..303 {
        scene.publish(vec![in_stream(number, "other")]).await.unwrap();
        assert_eq!(two.handled_ids(1).await, [format!("event-{number}")]);
    }
    one.ack(&held);
    let mut seen = Vec::new();
    while seen.len() < 299 {
        let event = tokio::select! {
            event = one.handled() => event,
            event = two.handled() => event,
        };
        seen.push(event.id);
    }
    assert_eq!(seen, numbered(1..300), "each in order");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_needless_look_makes_nobody_deaf() {
    let scene = Scene::new().await;
    scene.publish(vec![event(0)]).await.unwrap();
    let mut first = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(first.handled_ids(1).await, ["event-0"]);
    until_handled(&scene, &Role::of("group"), "event-0").await;
    drop(first);
    scene.world.until("SELECT NOT EXISTS (SELECT FROM replicas)", PATIENCE).await;
    let mut second = Subscriber::start(&scene.client, Role::of("group")).await;
    scene.world.until("SELECT EXISTS (SELECT FROM replicas)", PATIENCE).await;
    second.quiet().await;
    let notice = BackchannelNotice { tenant_id: TENANT.into(), topic: TOPIC.into() };
    let payload = Some(backchannel_request::Payload::Notice(notice));
    scene.client.clone().backchannel(BackchannelRequest { payload }).await.unwrap();
    second.quiet().await;
    let published_at = Instant::now();
    scene.publish(vec![event(1)]).await.unwrap();
    assert_eq!(second.handled_ids(1).await, ["event-1"]);
    assert!(published_at.elapsed() < Duration::from_secs(2), "{:?}", published_at.elapsed());
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_events_do_not_wait_for_archived_ones() {
    let scene = Scene::new().await;
    let store = scene.world.store(settings(2));
    for number in 0..6 {
        let log = Log::new(format!("tenant-{number}"), TOPIC).unwrap();
        import(&store, &log, (0..2).map(old_event)).await;
    }
    assert_eq!(archive(&store).await, 12);
    let gate = Gate::new();
    let held = gate.clone();
    scene.world.proxy.script(move |request| match request.kind {
        Kind::Get => Fate::Hold(held.clone()),
        _ => Fate::Pass,
    });
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    for _ in 0..4 {
        gate.arrival().await;
    }
    let published_at = Instant::now();
    let request = PublishRequest { topic: "hot".into(), events: vec![event(99)] };
    scene.client.clone().publish(request).await.unwrap();
    assert_eq!(subscriber.handled_ids(1).await, ["event-99"]);
    assert!(published_at.elapsed() < Duration::from_secs(2), "{:?}", published_at.elapsed());
    scene.world.proxy.heal();
    (0..100).for_each(|_| gate.open());
    subscriber.handled_ids(12).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_both_lists_keeps_what_one_mode_still_needs() {
    let world = World::new().await;
    let program = Program::new(&world, 1_000_000);
    let list = |key: &str| format!("{key}:\n  {TOPIC}: {{ requiredConsumptionGroups: [one] }}\n");
    let file = list("deleteAfterConsumption") + &list("deleteAfterParallelConsumption");
    let path = program.write("config.yaml", file);
    let scene = Scene::start(world, program.set("CONFIG_FILE", path.display())).await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    let mut one = Subscriber::start(&scene.client, Role::of("one")).await;
    one.handled_ids(3).await;
    scene.publish(vec![event(3)]).await.unwrap();
    one.handled_ids(1).await;
    scene.world.until("SELECT max(position) = 4 FROM group_progress", PATIENCE).await;
    one.quiet().await;
    assert_eq!(ids(&scene.page(&[], (0, 9)).await.unwrap()).len(), 4);
    let mut parallel = Subscriber::start(&scene.client, Role::parallel("one")).await;
    assert_eq!(parallel.handled_ids(4).await, numbered(0..4));
    scene.world.until("SELECT NOT EXISTS (SELECT FROM events)", PATIENCE).await;
    scene.finish().await;
}
