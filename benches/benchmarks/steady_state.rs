//! Publishing, reading and archiving for as long as a hundred batches take: what the disk holds, and what publishers
//! feel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::embedded::Durability;
use coldstream::event::{Filter, NewEvent};
use coldstream::store::{Query, Store};
use futures::future::join_all;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::plot::Plot;
use crate::report::{Report, count, median, percentile, ratio};
use crate::servers::Servers;
use crate::{Mode, events};

const DATABASE: &str = "steady";
const PUBLISHERS: u64 = 8;
const CALL_EVENTS: u64 = 10;

pub async fn run(mode: Mode) -> Report {
    // Events become old enough to be archived so long after they were published: many more than die between two vacuums.
    let hot_for = mode.pick(Duration::from_secs(20), Duration::ZERO);
    let (batch_size, step, steps) = (mode.pick(5_000, 100), mode.pick(40_000, 400), mode.pick(15, 3));
    let servers = Servers::start(Durability::Full).await;
    // Batches follow each other within seconds here, not within minutes.
    servers.execute("postgres", "ALTER SYSTEM SET autovacuum_naptime = '1s'").await;
    servers.execute("postgres", "SELECT pg_reload_conf()").await;
    servers.execute("postgres", &format!("CREATE DATABASE {DATABASE}")).await;
    let store = servers.store(DATABASE, batch_size).await;

    // What publishers feel without an archiver, on the same table.
    let mut alone = publish(&store, step, hot_for).await;
    let alone = percentile(&mut alone, 99);
    let over = CancellationToken::new();
    let archiving = tokio::spawn(archive(Arc::clone(&store), over.clone()));
    let reading = tokio::spawn(read(Arc::clone(&store), over.clone()));
    let (mut rows, mut sizes, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
    for published in (1..=steps).map(|number| number * step) {
        let p99 = percentile(&mut publish(&store, step, hot_for).await, 99);
        let (hot, bytes): (i64, i64) = figures(&servers).await;
        sizes.push((published as f64, bytes as f64 / 1e6));
        p99s.push(p99);
        rows.push([
            count(published as f64),
            count(hot as f64),
            format!("{:.1} MB", bytes as f64 / 1e6),
            format!("{p99:.1} ms"),
        ]);
    }
    over.cancel();
    let archived = archiving.await.expect("archiving does not panic");
    let reads = reading.await.expect("reading does not panic");

    let (_, bytes) = figures(&servers).await;
    servers
        .execute(DATABASE, "CREATE TABLE fresh (LIKE events INCLUDING ALL); INSERT INTO fresh SELECT * FROM events")
        .await;
    let fresh: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('fresh')")
        .fetch_one(&mut servers.connect(DATABASE).await)
        .await
        .expect("the table has a size");
    let most_hot = sizes.iter().map(|(_, size)| *size).fold(0.0, f64::max);

    let mut report = Report::new("Steady state");
    report.paragraph(format!(
        "{PUBLISHERS} publishers, {CALL_EVENTS} events of 840 bytes a call, one reader that pages through the whole log, \
         and an archiver with batches of {batch_size}; events are archived {} s after they were published. Autovacuum \
         looks every second instead of every minute, since time is short.",
        hot_for.as_secs()
    ));
    report.table(["published", "hot events", "table with indexes", "publish p99"], rows);
    report.plot(Plot {
        name: "steady_state",
        title: "Size of the table of hot events".into(),
        x: "events published",
        y: "MB",
        lines: vec![("with indexes".into(), sizes)],
    });
    report.paragraph(format!(
        "{} events were archived meanwhile, and {reads} pages read. At the end the table had {:.1} MB (at most {most_hot:.1} \
         MB before), and the same rows freshly loaded have {:.1} MB: {}. Publishing without an archiver had a p99 of \
         {alone:.1} ms, and beside it {:.1} ms, the median of the rows.",
        count(archived as f64),
        bytes as f64 / 1e6,
        fresh as f64 / 1e6,
        ratio(bytes as f64 / fresh as f64),
        median(p99s),
    ));
    report
}

/// Publishes so many events, and says how many milliseconds each call took.
async fn publish(store: &Arc<Store>, events: u64, hot_for: Duration) -> Vec<f64> {
    let publishers = (0..PUBLISHERS).map(|_| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut took = Vec::new();
            for _ in 0..events / PUBLISHERS / CALL_EVENTS {
                let batch = (0..CALL_EVENTS).map(|number| young_event(number, hot_for)).collect();
                let began = Instant::now();
                store.publish(&events::log(), batch).await.expect("it can be published");
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
            took
        })
    });
    join_all(publishers).await.into_iter().flat_map(|took| took.expect("publishing does not panic")).collect()
}

/// Old enough for the archiver before long.
fn young_event(number: u64, hot_for: Duration) -> NewEvent {
    let raised_at = OffsetDateTime::now_utc() - Duration::from_secs(30 * 24 * 60 * 60) + hot_for;
    let raised_at = coldstream::event::Instant::from_unix_nanos(raised_at.unix_timestamp_nanos() as i64);
    NewEvent { raised_at: Some(raised_at), ..events::event(Uuid::new_v4().to_string(), number) }
}

/// Pass after pass, and says how many events there were.
async fn archive(store: Arc<Store>, over: CancellationToken) -> i64 {
    let mut events = 0;
    while !over.is_cancelled() {
        events += store.archive(|_, _| {}).await.expect("events can be archived").events;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    events
}

/// From the first page to the last, again and again, and says how many there were.
async fn read(store: Arc<Store>, over: CancellationToken) -> usize {
    let (mut pages, mut from) = (0, 1);
    while !over.is_cancelled() {
        let query = Query { filter: Filter::All, from, skip: 0, limit: 100 };
        let page = store.read(&events::log(), &query).await.expect("the log can be read");
        from = page.events.last().map_or(1, |last| last.position + 1);
        pages += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pages
}

/// Hot events, and bytes of their table with its indexes.
async fn figures(servers: &Servers) -> (i64, i64) {
    sqlx::query_as("SELECT (SELECT count(*) FROM events), pg_total_relation_size('events')")
        .fetch_one(&mut servers.connect(DATABASE).await)
        .await
        .expect("the table has a size")
}
