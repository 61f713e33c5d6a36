//! The latency of hot reads and of publishing, while S3 does not answer and others want archived events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::embedded::Durability;
use coldstream::event::Filter;
use coldstream::store::{Query, Store};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::report::{Report, count, median, percentile};
use crate::servers::Servers;
use crate::{Mode, events};

const DATABASE: &str = "outage";
const PUBLISHERS: u64 = 4;
/// The readers that want archived events all the time.
const COLD_READERS: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Alone,
    Answering,
    Silent,
}

const SCENES: [(Scene, &str); 3] = [
    (Scene::Alone, "nobody reads archives"),
    (Scene::Answering, "8 read archives, S3 answers"),
    (Scene::Silent, "8 read archives, S3 is silent"),
];

/// The figures of one scene.
struct Felt {
    hot_read_p99_ms: f64,
    publish_p99_ms: f64,
    cold_reads: usize,
    cold_failures: usize,
}

pub async fn run(mode: Mode) -> Report {
    let (archived, length) = (mode.pick(20_000, 200), mode.pick(Duration::from_secs(5), Duration::from_millis(200)));
    let servers = Servers::start(mode.pick(Durability::Full, Durability::None)).await;
    events::import(&servers, DATABASE, archived).await;
    let archiver = servers.store(DATABASE, archived).await;
    assert_eq!(archiver.archive(|_, _| {}).await.expect("events can be archived").events as u64, archived);
    let store = servers.forgetful_store(DATABASE).await;

    let mut felt: [Vec<Felt>; 3] = Default::default();
    for _ in 0..mode.pick(5, 1) {
        for ((scene, _), felt) in SCENES.into_iter().zip(&mut felt) {
            felt.push(play(&servers, &store, scene, archived, length).await);
        }
    }

    let mut report = Report::new("S3 away");
    report.paragraph(format!(
        "{PUBLISHERS} publishers, one event of 840 bytes a call, and one reader of the newest 50 events, for {} s in a row; \
         beside them, or not, {COLD_READERS} who read archived events by their ids, without a cache. S3 is silent when its \
         process is stopped: connections are taken, and nothing is answered. A read of an archived event fails after 10 s \
         then. Medians of interleaved rounds.",
        length.as_secs()
    ));
    report.table(
        ["", "hot read, p99", "publish, p99", "archived reads", "of them failed"],
        SCENES.iter().zip(&felt).map(|((_, name), felt)| {
            let of = |figure: fn(&Felt) -> f64| median(felt.iter().map(figure).collect());
            [
                (*name).to_owned(),
                format!("{:.1} ms", of(|felt| felt.hot_read_p99_ms)),
                format!("{:.1} ms", of(|felt| felt.publish_p99_ms)),
                count(of(|felt| felt.cold_reads as f64)),
                count(of(|felt| felt.cold_failures as f64)),
            ]
        }),
    );
    report
}

async fn play(servers: &Servers, store: &Arc<Store>, scene: Scene, archived: u64, length: Duration) -> Felt {
    let over = CancellationToken::new();
    let paused = (scene == Scene::Silent).then(|| servers.pause_s3());
    let readers = if scene == Scene::Alone { 0 } else { COLD_READERS };
    let cold =
        (0..readers).map(|reader| tokio::spawn(read_archived(Arc::clone(store), reader, archived, over.clone())));
    let cold: Vec<_> = cold.collect();
    let (mut reads, publishes) = tokio::join!(
        repeat(length, async |_| {
            let query = Query { filter: Filter::All, from: archived as i64 + 1, skip: 0, limit: 50 };
            store.read(&events::log(), &query).await.expect("hot events can be read");
        }),
        join_all((0..PUBLISHERS).map(|_| repeat(length, async |number| {
            let event = events::event(Uuid::new_v4().to_string(), number);
            store.publish(&events::log(), vec![event]).await.expect("it can be published");
        }))),
    );
    over.cancel();
    let mut felt = Felt {
        hot_read_p99_ms: percentile(&mut reads, 99),
        publish_p99_ms: percentile(&mut publishes.concat(), 99),
        cold_reads: 0,
        cold_failures: 0,
    };
    for read in join_all(cold).await {
        let (reads, failures) = read.expect("reading does not panic");
        felt.cold_reads += reads;
        felt.cold_failures += failures;
    }
    drop(paused);
    felt
}

/// Repeats a call, and returns the milliseconds that each took.
async fn repeat(length: Duration, call: impl AsyncFn(u64)) -> Vec<f64> {
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < length {
        let began = Instant::now();
        call(took.len() as u64).await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took
}

/// Reads archived events until the scene is over; returns how many reads there were, and how many failed.
async fn read_archived(store: Arc<Store>, reader: u64, archived: u64, over: CancellationToken) -> (usize, usize) {
    let (mut reads, mut failures) = (0, 0);
    while !over.is_cancelled() {
        let id = events::id(events::splitmix(reader << 32 | reads as u64) % archived);
        failures += usize::from(store.event(&events::log(), &id).await.is_err());
        reads += 1;
    }
    (reads, failures)
}
