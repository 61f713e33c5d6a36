//! The cost of reading archived events, by how many archives there are; and a replay of a whole log, hot and archived.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use coldstream::embedded::Durability;
use coldstream::event::Filter;
use coldstream::store::{Query, Store};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::report::{Report, count, median, ratio};
use crate::servers::Servers;
use crate::{Mode, events, usage};

/// The events of every archive here, so that the archives differ only in their number.
const ARCHIVE_EVENTS: u64 = 50;
const PAGE: i64 = 50;
const GETS: &str = "coldstream_s3_requests_total{method=\"GET\"}";
const RECEIVED_BYTES: &str = "coldstream_s3_received_bytes_total";

#[derive(Debug, Clone, Copy)]
enum Read {
    ById,
    ByPosition,
    AfterId,
    ByType,
    ByTypeDeep,
    OfStream,
    Newest,
}

const READS: [(Read, &str); 7] = [
    (Read::ById, "one event by its id"),
    (Read::ByPosition, "a page by position"),
    (Read::AfterId, "a page after an id"),
    (Read::ByType, "a page of a type"),
    (Read::ByTypeDeep, "a page of a type, by its number"),
    (Read::OfStream, "a stream"),
    (Read::Newest, "the newest event"),
];

/// The cost of one read.
struct Cost {
    p50_ms: f64,
    cpu_ms: f64,
    gets: f64,
    received_bytes: f64,
}

pub async fn run(mode: Mode) -> Report {
    let servers = Servers::start(Durability::None).await;
    let mut report = Report::new("Reading archived events");
    report.paragraph(format!(
        "Single reads at random places of a log, all of which is archived, {ARCHIVE_EVENTS} events an archive (840 bytes of \
         JSON each), by a process that keeps nothing of what it has read. A page has {PAGE} events; a stream has one event \
         among 1 and 100 archives, and ten, in ten archives, among 10,000. GETs are requests for objects. CPU is that of \
         the reader and of Postgres, without the S3 server's. The ratio is the time against that of one archive."
    ));
    let (mut rows, mut of_one) = (Vec::new(), Vec::new());
    for archives in mode.pick(&[1, 100, 10_000][..], &[1, 12]) {
        let (database, events) = (format!("archives_{archives}"), archives * ARCHIVE_EVENTS);
        events::import(&servers, &database, events).await;
        let archiver = servers.store(&database, ARCHIVE_EVENTS).await;
        assert_eq!(archiver.archive(|_, _| {}).await.expect("events can be archived").archives as u64, *archives);
        servers.execute(&database, "VACUUM ANALYZE").await;
        let store = servers.forgetful_store(&database).await;
        for (index, (read, name)) in READS.into_iter().enumerate() {
            let cost = measure(&servers, &store, read, events, mode.pick(200, 3)).await;
            if of_one.len() == index {
                of_one.push(cost.p50_ms);
            }
            rows.push((
                index,
                [
                    format!("{name}, {} archives", count(*archives as f64)),
                    format!("{:.1}", cost.gets),
                    format!("{:.1} kB", cost.received_bytes / 1e3),
                    format!("{:.2} ms", cost.cpu_ms),
                    format!("{:.2} ms", cost.p50_ms),
                    ratio(cost.p50_ms / of_one[index]),
                ],
            ));
        }
    }
    rows.sort_by_key(|(index, _)| *index);
    report.table(
        ["a read", "GETs", "received", "CPU", "p50", "against one archive"],
        rows.into_iter().map(|(_, row)| row),
    );
    replay(&servers, mode, &mut report).await;
    report
}

async fn measure(servers: &Servers, store: &Arc<Store>, read: Read, events: u64, times: u64) -> Cost {
    // The first read prepares statements and makes connections.
    perform(store, read, events, 0).await;
    let (gets, received, cpu) = (counted(GETS), counted(RECEIVED_BYTES), cpu_seconds(servers));
    let mut took = Vec::new();
    for time in 1..=times {
        let began = Instant::now();
        perform(store, read, events, time).await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Cost {
        p50_ms: median(took),
        cpu_ms: (cpu_seconds(servers) - cpu) * 1e3 / times as f64,
        gets: (counted(GETS) - gets) / times as f64,
        received_bytes: (counted(RECEIVED_BYTES) - received) / times as f64,
    }
}

async fn perform(store: &Arc<Store>, read: Read, events: u64, time: u64) {
    let (log, number) = (events::log(), events::splitmix(time) % events);
    let page = async |filter, from, skip| {
        let query = Query { filter, from, skip, limit: PAGE };
        store.read(&log, &query).await.expect("the log can be read").events
    };
    let by_id = async || store.event(&log, &events::id(number)).await.expect("it can be read").expect("it is there");
    let of_type = || Filter::Types(vec!["order.placed".to_owned()]);
    match read {
        Read::ById => assert_eq!(by_id().await.position as u64, number + 1),
        Read::ByPosition => assert!(!page(Filter::All, number as i64 + 1, 0).await.is_empty()),
        Read::AfterId => drop(page(Filter::All, by_id().await.position + 1, 0).await),
        Read::ByType => assert!(!page(of_type(), number as i64 + 1, 0).await.is_empty()),
        Read::ByTypeDeep => assert!(!page(of_type(), 1, number as i64).await.is_empty()),
        Read::OfStream => assert!(!page(Filter::Stream(format!("order-{}", number % 50_000)), 1, 0).await.is_empty()),
        Read::Newest => {
            let newest = store.last_event(&log, &[]).await.expect("it can be read").expect("it is there");
            assert_eq!(newest.position as u64, events);
        }
    }
}

/// Replays the same events through the same call, from rows and from an archive.
async fn replay(servers: &Servers, mode: Mode, report: &mut Report) {
    let (events, rounds) = (mode.pick(100_000, 500), mode.pick(5, 1));
    events::import(servers, "hot", events).await;
    servers.copy_database("hot", "cold").await;
    let archiver = servers.store("cold", events).await;
    assert_eq!(archiver.archive(|_, _| {}).await.expect("events can be archived").events as u64, events);
    let stores = [servers.forgetful_store("hot").await, servers.forgetful_store("cold").await];
    let mut costs: [Vec<(f64, f64)>; 2] = Default::default();
    for _ in 0..rounds {
        for (store, costs) in stores.iter().zip(&mut costs) {
            let (began, cpu) = (Instant::now(), cpu_seconds(servers));
            assert_eq!(events::replay(store).await, events);
            costs.push((began.elapsed().as_secs_f64(), cpu_seconds(servers) - cpu));
        }
    }
    report.paragraph(format!(
        "A replay of {} events from the first to the last, through the same call, once from rows and once from one archive. \
         Medians of {rounds} interleaved rounds.",
        count(events as f64)
    ));
    let seconds = costs.each_ref().map(|costs| median(costs.iter().map(|cost| cost.0).collect()));
    let cpu = costs.each_ref().map(|costs| median(costs.iter().map(|cost| cost.1).collect()));
    report.table(
        ["a replay", "events/s", "CPU", "as fast as hot"],
        ["hot", "archived"].into_iter().enumerate().map(|(index, name)| {
            [
                name.to_owned(),
                count(events as f64 / seconds[index]),
                format!("{:.2} s", cpu[index]),
                ratio(seconds[0] / seconds[index]),
            ]
        }),
    );
}

fn cpu_seconds(servers: &Servers) -> f64 {
    servers.postgres_cpu_seconds() + usage::own_cpu_seconds()
}

/// The value of a counter of this process.
fn counted(name: &str) -> f64 {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let metrics =
        METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().expect("nobody else records metrics"));
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("it is a number"))
}
