//! Costs that may grow with the data: by events of one log, and by logs that mostly are idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::embedded::Durability;
use coldstream::store::Store;

use crate::plot::Plot;
use crate::report::{Report, count, median, ratio};
use crate::servers::Servers;
use crate::{Mode, events};

const EVENT_JSON_BYTES: f64 = 840.0;
/// Adds other logs, which have some hot events each and nothing to archive.
const IDLE_TOPICS: &str = "
    INSERT INTO logs (tenant, topic, head_position, hot_magnitude)
    SELECT 'idle-' || number, 'orders', number % 100, magnitude(number % 100)
    FROM generate_series((SELECT count(*) FROM logs), {topics} - 1) AS number";

pub async fn run(mode: Mode) -> Report {
    let servers = Servers::start(Durability::None).await;
    let mut report = Report::new("Growth");
    by_events(&servers, mode, &mut report).await;
    by_topics(&servers, mode, &mut report).await;
    report
}

async fn by_events(servers: &Servers, mode: Mode, report: &mut Report) {
    let batch_size = mode.pick(10_000, 100);
    let learning = mode.pick(Duration::from_secs(15), Duration::ZERO);
    let (mut rows, mut points): (Vec<[String; 6]>, Vec<(f64, f64)>) = Default::default();
    let mut first: Option<[f64; 4]> = None;
    let sizes = mode.pick(&[10_000, 100_000, 1_000_000, 10_000_000][..], &[200, 1_200]);
    for events in sizes.iter().filter(|events| **events <= events::max()) {
        let (database, archived) = archive(servers, mode, *events, batch_size).await;
        servers.execute(&database, "VACUUM (FULL, ANALYZE) lookup_pages").await;
        let bytes = catalog_bytes(servers, &database).await as f64 / *events as f64;
        let store = servers.forgetful_store(&database).await;
        let point_ms = point_read_ms(&store, *events, mode.pick(200, 3)).await;
        let replayed = replay(&store, *events).await;
        // The first publish makes the process learn which ids are archived.
        publish_ms(&store, *events, 1).await;
        tokio::time::sleep(learning).await;
        let publish_ms = publish_ms(&store, *events + 1, mode.pick(200, 3)).await;
        let costs = [archived, point_ms, replayed, publish_ms];
        let [archived_first, point_first, replayed_first, publish_first] = *first.get_or_insert(costs);
        points.push((*events as f64, point_ms));
        rows.push([
            count(*events as f64),
            format!("{} ({})", count(archived), ratio(archived / archived_first)),
            format!("{point_ms:.2} ms ({})", ratio(point_ms / point_first)),
            format!("{} ({})", count(replayed), ratio(replayed / replayed_first)),
            format!("{publish_ms:.2} ms ({})", ratio(publish_ms / publish_first)),
            format!("{bytes:.1} ({:.2} %)", 100.0 * bytes / EVENT_JSON_BYTES),
        ]);
    }
    report.paragraph(format!(
        "One log, archived {} events at a time (840 bytes of JSON each), by how many events it has. In brackets: against \
         the smallest log, and, of the catalog, against the raw bytes. The catalog is everything that Postgres keeps of \
         archived events, with its indexes: archives, members, lookups. Publishing is measured {} s after the first event was \
         published, for which the ids of archived ones were learnt.",
        count(batch_size as f64),
        learning.as_secs()
    ));
    let heads = [
        "events",
        "archived/s",
        "one event by its id, p50",
        "replayed/s",
        "publishing one, p50",
        "catalog, bytes an event",
    ];
    report.table(heads, rows);
    report.plot(Plot {
        name: "growth",
        title: "One archived event by its id".into(),
        x: "events of the log",
        y: "ms",
        lines: vec![("p50".into(), points)],
    });
}

/// Imports and archives a log, and returns a database with it and the events that were archived a second.
async fn archive(servers: &Servers, mode: Mode, events: u64, batch_size: u64) -> (String, f64) {
    let (mut database, mut archived) = (String::new(), Vec::new());
    // Short runs are repeated.
    for round in 0..mode.pick(1_000_000 / events, 1).clamp(1, 10) {
        database = format!("events_{events}_{round}");
        events::import(servers, &database, events).await;
        let store = servers.store(&database, batch_size).await;
        let began = Instant::now();
        assert_eq!(store.archive(|_, _| {}).await.expect("events can be archived").events as u64, events);
        archived.push(events as f64 / began.elapsed().as_secs_f64());
    }
    (database, median(archived))
}

async fn by_topics(servers: &Servers, mode: Mode, report: &mut Report) {
    const DATABASE: &str = "topics";
    let (batch_size, rounds) = (mode.pick(10_000, 100), mode.pick(50, 3));
    events::import(servers, DATABASE, batch_size).await;
    let store = servers.store(DATABASE, batch_size).await;
    store.archive(|_, _| {}).await.expect("events can be archived");
    let reader = servers.forgetful_store(DATABASE).await;
    let (mut rows, mut published) = (Vec::new(), batch_size);
    let mut first: Option<[f64; 3]> = None;
    for topics in mode.pick(&[1, 1_000, 100_000][..], &[1, 100]) {
        servers.execute(DATABASE, &IDLE_TOPICS.replace("{topics}", &topics.to_string())).await;
        servers.execute(DATABASE, "VACUUM ANALYZE").await;
        let mut passes = Vec::new();
        for _ in 0..rounds {
            let began = Instant::now();
            assert_eq!(store.archive(|_, _| {}).await.expect("there is nothing to do").events, 0);
            passes.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let publish_ms = publish_ms(&store, published, rounds).await;
        published += rounds;
        let costs = [median(passes), point_read_ms(&reader, batch_size, rounds).await, publish_ms];
        let against = first.get_or_insert(costs);
        let [pass, point, publish] =
            [0, 1, 2].map(|index| format!("{:.2} ms ({})", costs[index], ratio(costs[index] / against[index])));
        rows.push([count(*topics as f64), pass, point, publish]);
    }
    report.paragraph(
        "One busy log among others that have up to 99 hot events each and nothing to do. In brackets: against the busy log \
         alone. Medians.",
    );
    report.table(["logs", "a pass of the archiver", "one archived event by its id", "publishing one"], rows);
}

async fn point_read_ms(store: &Store, events: u64, times: u64) -> f64 {
    let mut took = Vec::new();
    for time in 0..=times {
        let number = events::splitmix(time) % events;
        let began = Instant::now();
        let event = store.event(&events::log(), &events::id(number)).await.expect("it can be read");
        assert_eq!(event.expect("it is there").position as u64, number + 1);
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    // The first read made the connection.
    median(took.split_off(1))
}

/// The median time to publish a new event, one a call, to a log whose events are numbered below `first_number`.
async fn publish_ms(store: &Arc<Store>, first_number: u64, times: u64) -> f64 {
    let mut took = Vec::new();
    for number in first_number..first_number + times {
        let event = events::event(events::id(number), number);
        let began = Instant::now();
        store.publish(&events::log(), vec![event]).await.expect("it can be published");
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    median(took)
}

/// Replays the log, and returns the events a second.
async fn replay(store: &Arc<Store>, events: u64) -> f64 {
    let began = Instant::now();
    assert_eq!(events::replay(store).await, events);
    events as f64 / began.elapsed().as_secs_f64()
}

async fn catalog_bytes(servers: &Servers, database: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT sum(pg_total_relation_size(name::regclass))::bigint
         FROM unnest(ARRAY['archives', 'members', 'lookups', 'lookup_pages']) AS name",
    )
    .fetch_one(&mut servers.connect(database).await)
    .await
    .expect("the tables have a size")
}
