//! Every group sees every event once or more, in order, while everything happens at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coldstream::api::proto::PublishEvent;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::grpc::{Scene, event, serial};
use crate::support::{Program, Role, Service, Subscriber, edit, older_than, retry_number};

/// The variable with the length of the test in seconds; by hand it is a minute and more.
const LENGTH: &str = "COLDSTREAM_SOAK_SECONDS";
const LENGTH_DEFAULT: u64 = 4;
const TENANTS: usize = 3;

/// The deliveries to a group: tenant → positions as they came.
type Seen = BTreeMap<String, Vec<i64>>;

fn length() -> Duration {
    let seconds = std::env::var(LENGTH).ok().map(|text| text.parse().expect("seconds"));
    Duration::from_secs(seconds.unwrap_or(LENGTH_DEFAULT))
}

/// Subscribes, again whenever its stream ends, until it is told that all was published and nothing more comes.
async fn consume(scene: &Scene, role: Role, heads: &CancellationToken, expected: &tokio::sync::OnceCell<i64>) -> Seen {
    let mut seen = Seen::new();
    let mut subscriber = Subscriber::start(&scene.client, role.clone()).await;
    let mut handled = 0u64;
    loop {
        let event = tokio::select! {
            event = subscriber.event_or_end() => event,
            () = until_whole(&seen, heads, expected) => return seen,
        };
        match event {
            Some(event) => {
                seen.entry(event.tenant_id.clone()).or_default().push(serial(&event));
                handled += 1;
                match handled % 50 {
                    // A consumer dies with an event in its hands now and then, or asks for it again; it asks once,
                    // since a consumer that asks five times is told to panic.
                    0 => subscriber = Subscriber::start(&scene.client, role.clone()).await,
                    1 if retry_number(&event) == 0 => subscriber.fail(&event, "again", true),
                    _ if role.is_parallel => subscriber.ack_stream(&event),
                    _ => subscriber.ack(&event),
                }
            }
            None => subscriber = Subscriber::start(&scene.client, role.clone()).await,
        }
    }
}

async fn until_whole(seen: &Seen, published: &CancellationToken, expected: &tokio::sync::OnceCell<i64>) {
    published.cancelled().await;
    let count: usize = seen.values().map(|positions| positions.iter().collect::<BTreeSet<_>>().len()).sum();
    if Some(&(count as i64)) != expected.get() {
        std::future::pending::<()>().await;
    }
}

/// Publishes events of each tenant until the end, and returns how many there were.
async fn publish(scene: &Scene, end_at: Instant) -> i64 {
    let each = join_all((0..TENANTS).map(async |tenant| {
        let mut number = 0;
        while Instant::now() < end_at {
            let batch = (number..number + 3)
                .map(|number| PublishEvent { tenant_id: format!("tenant-{tenant}"), ..event(number) });
            scene.publish(batch.collect()).await.unwrap();
            number += 3;
        }
        number as i64
    }));
    each.await.into_iter().sum()
}

/// Archives, and edits an event, until the end.
async fn archive(scene: &Scene, end_at: Instant) {
    let store = scene.world.store(older_than(0, 40));
    let log = coldstream::event::Log::new("tenant-0", crate::grpc::TOPIC).unwrap();
    let mut round = 0;
    while Instant::now() < end_at {
        let _ = store.archive(|_, _| {}).await;
        if store.event(&log, "event-1").await.unwrap().is_some() {
            edit(&store, &log, "event-1", &format!(r#"{{"name":"name-{round}"}}"#)).await;
            round += 1;
        }
    }
}

/// A replica comes, takes part, and is killed, again and again until the end.
async fn visit(scene: &Scene, end_at: Instant) {
    while Instant::now() < end_at {
        let service = Service::start(Program::new(&scene.world, 1_000_000)).await;
        let client = coldstream::api::proto::service_client::ServiceClient::new(crate::grpc::connect(&service).await);
        let mut guest = Subscriber::start(&client, Role::of("ordered")).await;
        let _ = tokio::time::timeout(Duration::from_millis(500), guest.event_or_end()).await;
        service.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_get_every_event_while_everything_happens_at_once() {
    let scene = Scene::new().await;
    let (end_at, published, expected) =
        (Instant::now() + length(), CancellationToken::new(), tokio::sync::OnceCell::new());
    let publishers = async {
        let count = publish(&scene, end_at).await;
        expected.set(count).expect("the count is set once");
        published.cancel();
        count
    };
    let groups = async {
        tokio::join!(
            consume(&scene, Role::of("ordered"), &published, &expected),
            consume(&scene, Role::parallel("parallel"), &published, &expected),
        )
    };
    let (count, (), (), (ordered, parallel)) =
        tokio::join!(publishers, archive(&scene, end_at), visit(&scene, end_at), groups);
    println!("{count} events, {} and {} deliveries", total(&ordered), total(&parallel));
    for (tenant, positions) in &ordered {
        let mut reached = 0;
        for position in positions {
            assert!(*position <= reached + 1, "{tenant}: {position} came after {reached}");
            reached = reached.max(*position);
        }
    }
    for seen in [&ordered, &parallel] {
        for (tenant, positions) in seen {
            let each: BTreeSet<i64> = positions.iter().copied().collect();
            assert!(each.iter().copied().eq(1..=each.len() as i64), "{tenant}: events are missing");
        }
    }
    scene.settled().await;
    let store = scene.world.store(older_than(0, 40));
    scene.world.recover(&store).await;
    scene.finish().await;
}

fn total(seen: &Seen) -> usize {
    seen.values().map(Vec::len).sum()
}
