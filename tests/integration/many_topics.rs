//! A tenant is a row: thousands of small topics are looked at a page at a time, and `status` tells the old events that
//! are too few for a batch.

use std::time::Duration;

use coldstream::event::Log;
use serde_json::Value;

use crate::support::{Program, Service, World, archive, import, old_event, settings, young_event};

const TENANTS: i64 = 2_000;
const BATCH: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns a world in which each tenant has a topic of five old events; one of the topics has twelve, and one has three
/// young ones besides.
async fn many() -> World {
    let world = World::new().await;
    let topics = "INSERT INTO logs (tenant, topic, head_position, hot_magnitude)
                  SELECT 'tenant-' || n, 'orders', 5, magnitude(5) FROM generate_series(1, $1) AS n";
    sqlx::query(topics).bind(TENANTS).execute(&world.sql).await.unwrap();
    let events = "INSERT INTO events (log_id, position, raised_at, deployment_id, id, stream, type, reason,
                                      correlation_id, causation_id, user_id, payload)
                  SELECT id, n, 1577836800000000000, 0, 'event-' || n, '', 'made', '', '', '', '', '{}'
                  FROM logs, generate_series(1, 5) AS n";
    sqlx::query(events).execute(&world.sql).await.unwrap();
    let store = world.store(settings(BATCH));
    import(&store, &Log::new("tenant-7", "orders").unwrap(), (100..107).map(old_event)).await;
    import(&store, &Log::new("tenant-8", "orders").unwrap(), (100..103).map(young_event)).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_that_are_too_few_for_a_batch_are_told() {
    let mut world = many().await;
    let store = world.store(settings(BATCH));
    assert_eq!(archive(&store).await, BATCH as i64);
    let remainders = store.remainders().await.unwrap();
    // Two old events are left of the twelve.
    assert_eq!((remainders.topics, remainders.events), (TENANTS, 5 * (TENANTS - 1) + 2));
    let on_disk: i64 =
        sqlx::query_scalar("SELECT pg_total_relation_size('events')").fetch_one(&world.sql).await.unwrap();
    assert!(remainders.bytes > on_disk * 9 / 10 && remainders.bytes < on_disk, "{remainders:?} of {on_disk}");

    let program = Program::new(&world, BATCH);
    let said = program.run(&["status"]).await.succeeded();
    let expected = "not archived: 9,997 old events in 2,000 topics, about ";
    assert!(said.contains(expected) && said.contains("are fewer than STREAMS_ARCHIVE_SIZE (10) each"), "{said}");
    assert!(
        said.contains("all topics: 2,000 with 10,010 events, 10,000 of them in Postgres and 10 archived"),
        "{said}"
    );
    let shown = |said: &str| said.lines().filter(|line| line.starts_with("tenant-")).count();
    assert_eq!(shown(&said), 40, "{said}");
    assert!(said.contains("… and 1,960 more topics, which --all shows"), "{said}");
    assert!(said.lines().nth(1).unwrap().starts_with("tenant-8 "), "the largest is the first: {said}");
    assert_eq!(shown(&program.run(&["status", "--all"]).await.succeeded()), TENANTS as usize);

    let service = Service::start(program).await;
    let told = async {
        loop {
            let metrics = reqwest::get(format!("{}/metrics", service.http)).await.unwrap().text().await.unwrap();
            if let Some(told) = metrics.lines().find(|line| line.starts_with("coldstream_remainder_events ")) {
                return told.to_owned();
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), "coldstream_remainder_events 9997");
    service.finish().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_come_in_pages() {
    let mut world = many().await;
    let service = Service::start(Program::new(&world, 1_000)).await;
    let get = async |query: &str| {
        let answer = reqwest::get(format!("{}/v1/topics{query}", service.http)).await.unwrap();
        (answer.status().as_u16(), serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    let (mut names, mut sizes, mut query) = (Vec::new(), Vec::new(), "?limit=700".to_owned());
    loop {
        let (status, page) = get(&query).await;
        assert_eq!(status, 200, "{page}");
        let topics = page["topics"].as_array().unwrap();
        sizes.push(topics.len());
        for topic in topics {
            let expected = match topic["tenant_id"].as_str().unwrap() {
                "tenant-7" => 12,
                "tenant-8" => 8,
                _ => 5,
            };
            assert_eq!((&topic["hot_events"], &topic["head_position"]), (&expected.into(), &expected.into()));
            assert!(topic["hot_bytes"].as_i64().unwrap() > 0);
            assert!(topic["oldest_hot_raised_at"].as_str().unwrap().starts_with("20"), "{topic}");
        }
        names.extend(topics.iter().map(|topic| topic["tenant_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        assert_eq!(page["has_more"], true);
        query = format!("?limit=700&cursor={cursor}");
    }
    assert_eq!(sizes, [700, 700, 600]);
    assert!(names.into_iter().eq((1..=TENANTS).map(|n| format!("tenant-{n}"))), "topics come once, the oldest first");
    let (_, first) = get("").await;
    assert_eq!(first["topics"].as_array().unwrap().len(), 100);
    for wrong in ["?limit=0", "?limit=1001", "?cursor=x", "?after=x"] {
        assert_eq!(get(wrong).await.0, 400, "{wrong}");
    }
    service.finish().await;
    world.expire_leases().await;
    world.audit().await;
}
