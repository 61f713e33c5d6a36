//! Postgres may be away for a while, restarted or full: callers are told what cannot be done, and everything goes on
//! without a restart.

use std::cell::Cell;

use coldstream::store::Error;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tonic::Code;

use super::PATIENCE;
use crate::grpc::{self, TENANT, TOPIC, ids};
use crate::support::{
    OwnPostgres, PostgresProxy, Program, Role, StatementFate, Subscriber, World, archive, event, import, in_order,
    old_event, publish, read_all, settings,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_away_and_the_service_comes_back_with_it() {
    let world = World::new().await;
    let postgres = world.postgres_proxy().await;
    let program = Program::new(&world, 3).set("POSTGRES_CONNECTION", postgres.url());
    let program = program.set("STREAMS_ARCHIVE_OLDER_THAN_DAYS", 0).set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 1);
    let scene = grpc::Scene::start(world, program).await;
    scene.publish(vec![grpc::event(0)]).await.unwrap();
    let mut subscriber = Subscriber::start(&scene.client, Role::of("group")).await;
    assert_eq!(subscriber.handled().await.id, "event-0");

    postgres.leave();
    for status in [scene.publish(vec![grpc::event(1)]).await.err(), scene.event(TENANT, "event-0").await.err()] {
        assert_eq!(status.expect("Postgres is away").code(), Code::Unavailable);
    }
    let url = |path: &str| format!("{}{path}", scene.service.http);
    for path in [format!("/v1/topics/{TOPIC}/events?tenant={TENANT}"), "/ready".to_owned()] {
        let answer = reqwest::get(url(&path)).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true), "{path}");
    }
    assert_eq!(reqwest::get(url("/health")).await.unwrap().status(), 200);

    postgres.heal();
    scene.publish((1..3).map(grpc::event).collect()).await.unwrap();
    assert_eq!(reqwest::get(url("/ready")).await.unwrap().status(), 200);
    // Jobs go on by themselves, and so do subscriptions; a stream whose lease has expired meanwhile has ended.
    scene.world.until("SELECT EXISTS (SELECT FROM archives)", PATIENCE).await;
    let mut next = 1;
    while next < 3 {
        match subscriber.event_or_end().await {
            Some(event) => {
                subscriber.ack(&event);
                let number: usize = event.id.trim_start_matches("event-").parse().unwrap();
                assert!(number <= next, "event-{next} is passed over");
                next = next.max(number + 1);
            }
            None => subscriber = Subscriber::start(&scene.client, Role::of("group")).await,
        }
    }
    assert_eq!(ids(&scene.page(&[], (0, 10)).await.unwrap()), ["event-0", "event-1", "event-2"]);
    scene.finish().await;
}

/// The server itself is killed in the middle of everything, and comes back; nobody tells the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_crashes_again_and_again_under_a_service() {
    const EVENTS: usize = 80;
    let mut postgres = OwnPostgres::start().await;
    let world = World::over(postgres.database()).await;
    let program = Program::new(&world, 10).set("STREAMS_ARCHIVE_OLDER_THAN_DAYS", 0);
    let program = program.set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 1).set("STREAMS_ARCHIVE_LEASE_SECONDS", 3);
    let scene = grpc::Scene::start(world, program).await;
    let (said, mut published) = watch::channel(0);
    let publishing = async {
        let mut failures = 0;
        for number in 0..EVENTS {
            while let Err(status) = scene.publish(vec![grpc::event(number)]).await {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                failures += 1;
            }
            said.send_replace(number);
        }
        failures
    };
    let subscribing = async {
        let (mut next, mut deliveries) = (0, 0);
        while next < EVENTS {
            let Ok(mut subscriber) = Subscriber::try_start(&scene.client, Role::of("group")).await else { continue };
            while next < EVENTS
                && let Some(event) = subscriber.event_or_end().await
            {
                subscriber.ack(&event);
                let number: usize = event.id.trim_start_matches("event-").parse().unwrap();
                assert!(number <= next, "event-{next} is passed over");
                next = next.max(number + 1);
                deliveries += 1;
            }
        }
        deliveries
    };
    let crashing = async {
        for number in [20, 40, 60] {
            published.wait_for(|published| *published >= number).await.unwrap();
            postgres.crash().await;
        }
    };
    let (failures, deliveries, ()) = tokio::join!(publishing, subscribing, crashing);
    assert!(failures > 0, "nobody noticed");
    assert!((EVENTS..EVENTS + 20).contains(&deliveries), "{deliveries}");
    scene.world.until("SELECT count(*) = 8 FROM archives", PATIENCE).await;
    let expected: Vec<String> = (0..EVENTS).map(|number| format!("event-{number}")).collect();
    assert_eq!(ids(&scene.page(&[], (0, EVENTS as i64)).await.unwrap()), expected);
    scene.finish().await;
}

/// Every tenth statement finds that all connections are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_restarted_again_and_again_under_publishers() {
    const EVENTS: usize = 60;
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_behind(&postgres, settings(10));
    let (sender, mut restarts) = unbounded_channel();
    let mut count = 0;
    postgres.script(move |_| {
        count += 1;
        if count % 10 == 0 {
            let _ = sender.send(());
        }
        StatementFate::Pass
    });
    let publishing = async {
        for number in 0..EVENTS {
            while let Err(error) = store.publish(&log, vec![event(number)]).await {
                assert!(matches!(error, Error::Unavailable(_)), "{error}");
            }
        }
    };
    let severed = Cell::new(0);
    let restarting = async {
        while restarts.recv().await.is_some() {
            postgres.sever();
            severed.set(severed.get() + 1);
        }
    };
    tokio::select! {
        () = publishing => {}
        () = restarting => unreachable!("the proxy has the sender"),
    }
    assert!(severed.get() > 3, "{}", severed.get());
    let ids: Vec<String> = read_all(&store, &log).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, (0..EVENTS).map(|number| format!("event-{number}")).collect::<Vec<_>>());
    world.audit().await;
}

/// The connection breaks off, and the commit happens all the same: the archiver finds that out by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_whose_commit_was_not_answered_is_live() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_behind(&postgres, settings(3));
    import(&store, &log, (0..3).map(old_event)).await;
    let mut is_committing = false;
    postgres.script(move |statement| {
        is_committing |= statement.starts_with("INSERT INTO archives");
        if statement == "COMMIT" && std::mem::take(&mut is_committing) {
            return StatementFate::LoseReply;
        }
        StatementFate::Pass
    });
    let outcome = store.archive(|_, _| {}).await;
    assert!(matches!(&outcome, Err(Error::Unavailable(why)) if why.contains("did not say")), "{outcome:?}");
    assert_eq!(world.only_archive(&store).await.count, 3);
    assert_eq!(read_all(&store, &log).await, in_order(0..3));
    assert_eq!(archive(&store).await, 0);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_postgres_loses_nothing_that_was_acknowledged() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_behind(&postgres, settings(3));
    publish(&store, &log, vec![old_event(0)]).await;
    let full = |postgres: &PostgresProxy, insert: &'static str| {
        postgres.script(move |statement| match statement.contains(insert) {
            true => StatementFate::Refuse("53100"),
            false => StatementFate::Pass,
        });
    };
    full(&postgres, "INSERT INTO events");
    let refused = store.publish(&log, (1..3).map(old_event).collect()).await;
    assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(read_all(&store, &log).await, in_order(0..1), "reads go on");
    postgres.heal();
    publish(&store, &log, (1..3).map(old_event).collect()).await;
    full(&postgres, "INSERT INTO archives");
    let refused = store.archive(|_, _| {}).await;
    assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(read_all(&store, &log).await, in_order(0..3));
    postgres.heal();
    world.recover(&store).await;
    assert_eq!(world.only_archive(&store).await.count, 3);
    assert_eq!(read_all(&store, &log).await, in_order(0..3));
    world.audit().await;
}
