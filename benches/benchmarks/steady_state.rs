//! Publishing, reading and archiving for as long as a hundred batches take: the size of the table, and the latency of
//! publishing and of hot reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coldstream::embedded::Durability;
use coldstream::event::{Filter, NewEvent};
use coldstream::store::{Query, Store};
use futures::future::join_all;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::plot::Plot;
use crate::report::{Report, count, median, percentile, ratio};
use crate::servers::Servers;
use crate::{Mode, events};

const PUBLISHERS: u32 = 8;
const CALL_EVENTS: u64 = 10;
const PAGE_EVENTS: i64 = 100;

/// The load: publishers, and a reader of the newest events, whatever else goes on.
struct Load {
    store: Arc<Store>,
    /// The time between two calls of a publisher, or of the reader.
    interval: Duration,
    hot_for: Duration,
    newest_position: AtomicI64,
}

/// The longest of 99 of 100 calls, in milliseconds.
#[derive(Clone, Copy)]
struct Felt {
    publish: f64,
    read: f64,
}

/// The figures of one step of a soak.
struct Step {
    published: u64,
    felt: Felt,
    /// The hot events at the end of the step.
    hot: i64,
    table_bytes: i64,
}

/// The size and pace of a soak.
struct Plan {
    batch_size: u64,
    step_events: u64,
    steps: u64,
    interval: Duration,
    /// The time from the publishing of an event until it is old enough to be archived. Many more events are published
    /// in it than die between two vacuums.
    hot_for: Duration,
}

/// The figures of one database.
struct Soak {
    steps: Vec<Step>,
    archived: i64,
    pages_read: usize,
}

pub async fn run(mode: Mode) -> Report {
    let plan = Plan {
        batch_size: mode.pick(5_000, 100),
        step_events: mode.pick(40_000, 400),
        steps: mode.pick(11, 3),
        interval: mode.pick(Duration::from_millis(40), Duration::from_millis(2)),
        hot_for: mode.pick(Duration::from_secs(20), Duration::ZERO),
    };
    let servers = Servers::start(mode.pick(Durability::Full, Durability::None)).await;
    // Events are hot for seconds here, not for weeks.
    servers.execute("postgres", "ALTER SYSTEM SET autovacuum_naptime = '1s'").await;
    servers.execute("postgres", "SELECT pg_reload_conf()").await;
    let without = soak(&servers, "growing", &plan, false).await;
    servers.execute("postgres", "DROP DATABASE growing WITH (FORCE)").await;
    servers.execute("postgres", "CHECKPOINT").await;
    let beside = soak(&servers, "steady", &plan, true).await;

    let (_, bytes) = figures(&servers, "steady").await;
    let fresh = freshly_loaded_bytes(&servers).await;

    let mut report = Report::new("Steady state");
    report.paragraph(format!(
        "{PUBLISHERS} publishers, {CALL_EVENTS} events of 840 bytes a call, each with a call every {} ms; one reader of the \
         newest {PAGE_EVENTS} events at the same pace; one who pages through the whole log, and an archiver with batches of \
         {}. Events are archived {} s after they were published. Before that, the same in another database, without an \
         archiver. How long a call took counts from when it was due. Autovacuum looks every second instead of every minute, \
         since events are hot for seconds instead of weeks.",
        plan.interval.as_millis(),
        plan.batch_size,
        plan.hot_for.as_secs()
    ));
    report_steps(&mut report, &beside, &without);
    report_end(&mut report, &beside, &without, (bytes, fresh));
    report
}

/// The size that the hot events would have in a table of their own, with its indexes.
async fn freshly_loaded_bytes(servers: &Servers) -> i64 {
    servers
        .execute("steady", "CREATE TABLE fresh (LIKE events INCLUDING ALL); INSERT INTO fresh SELECT * FROM events")
        .await;
    sqlx::query_scalar("SELECT pg_total_relation_size('fresh')")
        .fetch_one(&mut servers.connect("steady").await)
        .await
        .expect("the table has a size")
}

fn report_steps(report: &mut Report, beside: &Soak, without: &Soak) {
    let heads = [
        "published",
        "hot events",
        "table with indexes",
        "publish p99",
        "hot read p99",
        "without: table",
        "without: publish p99",
        "without: hot read p99",
    ];
    let rows = beside.steps.iter().zip(&without.steps).map(|(beside, without)| {
        [
            count(beside.published as f64),
            count(beside.hot as f64),
            format!("{:.1} MB", megabytes(beside.table_bytes)),
            format!("{:.1} ms", beside.felt.publish),
            format!("{:.1} ms", beside.felt.read),
            format!("{:.1} MB", megabytes(without.table_bytes)),
            format!("{:.1} ms", without.felt.publish),
            format!("{:.1} ms", without.felt.read),
        ]
    });
    report.table(heads, rows);
    let sizes = |soak: &Soak| {
        soak.steps.iter().map(|step| (step.published as f64, megabytes(step.table_bytes))).collect::<Vec<(f64, f64)>>()
    };
    report.plot(Plot {
        name: "steady_state",
        title: "Size of the table of hot events, with its indexes".into(),
        x: "events published",
        y: "MB",
        lines: vec![("with the archiver".into(), sizes(beside)), ("without".into(), sizes(without))],
    });
}

/// Reports the size of the table at the end, beside that of the same rows freshly loaded, and the latencies.
fn report_end(report: &mut Report, beside: &Soak, without: &Soak, (bytes, fresh): (i64, i64)) {
    let most_hot = beside.steps.iter().map(|step| megabytes(step.table_bytes)).fold(0.0, f64::max);
    let felt = |soak: &Soak, of: fn(&Felt) -> f64| median(soak.steps.iter().map(|step| of(&step.felt)).collect());
    report.paragraph(format!(
        "{} events were archived meanwhile, and {} pages read. At the end the table had {:.1} MB (at most {most_hot:.1} \
         MB before), and the same rows freshly loaded have {:.1} MB: {}. Beside the archiver, publishing had a p99 of \
         {:.1} ms and a hot read one of {:.1} ms; without it {:.1} ms and {:.1} ms, all of them medians of the rows.",
        count(beside.archived as f64),
        beside.pages_read,
        megabytes(bytes),
        megabytes(fresh),
        ratio(bytes as f64 / fresh as f64),
        felt(beside, |felt| felt.publish),
        felt(beside, |felt| felt.read),
        felt(without, |felt| felt.publish),
        felt(without, |felt| felt.read),
    ));
}

/// Runs the load on a new database; the first step is for warming up.
async fn soak(servers: &Servers, database: &str, plan: &Plan, is_archived: bool) -> Soak {
    servers.execute("postgres", &format!("CREATE DATABASE {database}")).await;
    let store = servers.store(database, plan.batch_size).await;
    let load = Load {
        store: Arc::clone(&store),
        interval: plan.interval,
        hot_for: plan.hot_for,
        newest_position: AtomicI64::new(0),
    };
    let over = CancellationToken::new();
    let reading = tokio::spawn(read(Arc::clone(&store), over.clone()));
    load.run(plan.step_events).await;
    let archiving = is_archived.then(|| tokio::spawn(archive(store, over.clone())));
    let mut steps = Vec::new();
    for published in (2..=plan.steps + 1).map(|number| number * plan.step_events) {
        let felt = load.run(plan.step_events).await;
        let (hot, table_bytes) = figures(servers, database).await;
        steps.push(Step { published, felt, hot, table_bytes });
    }
    over.cancel();
    let archived = match archiving {
        Some(archiving) => archiving.await.expect("archiving does not panic"),
        None => 0,
    };
    Soak { steps, archived, pages_read: reading.await.expect("reading does not panic") }
}

fn megabytes(bytes: i64) -> f64 {
    bytes as f64 / 1e6
}

impl Load {
    /// Publishes `events` events, while the reader reads.
    async fn run(&self, events: u64) -> Felt {
        let calls = events / u64::from(PUBLISHERS) / CALL_EVENTS;
        let publishers = (0..PUBLISHERS).map(|publisher| {
            self.repeat(calls, self.interval * publisher / PUBLISHERS, async || {
                let batch = (0..CALL_EVENTS).map(|number| young_event(number, self.hot_for)).collect();
                let published = self.store.publish(&events::log(), batch).await.expect("it can be published");
                let newest = published.last().map_or(0, |last| last.position);
                self.newest_position.fetch_max(newest, Ordering::Relaxed);
            })
        });
        let reader = self.repeat(calls, self.interval / PUBLISHERS / 2, async || {
            let from = self.newest_position.load(Ordering::Relaxed) - PAGE_EVENTS + 1;
            let query = Query { filter: Filter::All, from: from.max(1), skip: 0, limit: PAGE_EVENTS };
            self.store.read(&events::log(), &query).await.expect("hot events can be read");
        });
        let (publishes, mut reads) = tokio::join!(join_all(publishers), reader);
        Felt { publish: percentile(&mut publishes.concat(), 99), read: percentile(&mut reads, 99) }
    }

    /// Calls at an even pace, and returns how many milliseconds after it was due each call was over.
    async fn repeat(&self, calls: u64, offset: Duration, call: impl AsyncFn()) -> Vec<f64> {
        let (mut due, mut took) = (Instant::now() + offset, Vec::new());
        for _ in 0..calls {
            tokio::time::sleep_until(due).await;
            call().await;
            took.push(due.elapsed().as_secs_f64() * 1e3);
            due += self.interval;
        }
        took
    }
}

/// An event that is old enough for the archiver after `hot_for`.
fn young_event(number: u64, hot_for: Duration) -> NewEvent {
    let raised_at = OffsetDateTime::now_utc() - Duration::from_secs(30 * 24 * 60 * 60) + hot_for;
    let raised_at = coldstream::event::Instant::from_unix_nanos(raised_at.unix_timestamp_nanos() as i64);
    NewEvent { raised_at: Some(raised_at), ..events::event(Uuid::new_v4().to_string(), number) }
}

/// Archives pass after pass as a service does, and returns how many events there were.
async fn archive(store: Arc<Store>, over: CancellationToken) -> i64 {
    let mut events = 0;
    while !over.is_cancelled() {
        events += store.archive_at_leisure().await.expect("events can be archived").events;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    events
}

/// Reads from the first page to the last, again and again, and returns how many pages there were.
async fn read(store: Arc<Store>, over: CancellationToken) -> usize {
    let (mut pages, mut from) = (0, 1);
    while !over.is_cancelled() {
        let query = Query { filter: Filter::All, from, skip: 0, limit: PAGE_EVENTS };
        let page = store.read(&events::log(), &query).await.expect("the log can be read");
        from = page.events.last().map_or(1, |last| last.position + 1);
        pages += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pages
}

/// The hot events, and the bytes of their table with its indexes.
async fn figures(servers: &Servers, database: &str) -> (i64, i64) {
    sqlx::query_as("SELECT (SELECT count(*) FROM events), pg_total_relation_size('events')")
        .fetch_one(&mut servers.connect(database).await)
        .await
        .expect("the table has a size")
}
