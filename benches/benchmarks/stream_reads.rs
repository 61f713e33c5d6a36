//! Reads of a whole stream: from rows, from archives, and from the tables that people make for it.

use std::sync::Arc;
use std::time::Instant;

use coldstream::embedded::Durability;
use coldstream::event::{Filter, NewEvent};
use coldstream::store::{Query, Store};
use sqlx::PgConnection;

use crate::report::{Report, count, median, ratio};
use crate::servers::Servers;
use crate::{Mode, events, publish, usage};

/// The events of each stream.
const STREAM_EVENTS: u64 = 20;

/// A reader of one stream after the other.
enum Reader {
    ByHand(PgConnection),
    MessageDb(PgConnection),
    Coldstream(Arc<Store>),
}

pub async fn run(mode: Mode) -> Report {
    let (streams, reads, rounds) = (mode.pick(2_000, 20), mode.pick(500, 5), mode.pick(5, 1));
    let servers = Servers::start(Durability::None).await;
    let (hot, archived) = ("streams_hot", "streams_archived");
    for database in [hot, archived] {
        servers.execute("postgres", &format!("CREATE DATABASE {database}")).await;
        fill(&servers.store(database, 1).await, streams).await;
    }
    let archiver = servers.store(archived, streams * STREAM_EVENTS).await;
    assert_eq!(archiver.archive(|_, _| {}).await.expect("events can be archived").archives, 1);
    let mut ways = ways(&servers, (hot, archived), streams).await;
    for database in [hot, archived, "by_hand"] {
        servers.execute(database, "VACUUM ANALYZE").await;
    }
    let mut costs: Vec<Vec<(f64, f64)>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds + 1 {
        for ((_, reader), costs) in ways.iter_mut().zip(&mut costs) {
            let numbers = (round * reads..(round + 1) * reads).map(|read| events::splitmix(read) % streams);
            let cost = measure(&servers, reader, numbers).await;
            // The first round fills caches.
            if round > 0 {
                costs.push(cost);
            }
        }
    }

    let mut report = Report::new("Reading a stream");
    report.paragraph(format!(
        "One of {} streams of {STREAM_EVENTS} events of 840 bytes, whole, by one reader. *By hand* is a SELECT with an \
         index for it; *Message DB* is its `get_stream_messages`, where MESSAGE_DB names a file with its SQL. Archived \
         streams lie scattered over one archive, so a stream that nothing is cached of is as many GETs as it has events. \
         CPU is that of the reader and of Postgres, without the S3 server's. Medians of {rounds} interleaved rounds.",
        count(streams as f64)
    ));
    let of = |costs: &[(f64, f64)], figure: fn(&(f64, f64)) -> f64| median(costs.iter().map(figure).collect());
    let by_hand = of(&costs[0], |cost| cost.0);
    report.table(
        ["a stream", "p50", "CPU", "time against by hand"],
        ways.iter().zip(&costs).map(|((name, _), costs)| {
            let (p50, cpu) = (of(costs, |cost| cost.0), of(costs, |cost| cost.1));
            [(*name).to_owned(), format!("{p50:.2} ms"), format!("{cpu:.2} ms"), ratio(p50 / by_hand)]
        }),
    );
    report
}

/// Fills what is beside Coldstream, and returns a reader of each, by its name.
async fn ways(servers: &Servers, (hot, archived): (&str, &str), streams: u64) -> Vec<(&'static str, Reader)> {
    servers.execute("postgres", "CREATE DATABASE by_hand").await;
    servers.execute("by_hand", publish::BY_HAND).await;
    let series = format!("generate_series(0, {}) AS number", streams * STREAM_EVENTS - 1);
    let data = format!("'{}'::jsonb", events::payload(1));
    servers
        .execute(
            "by_hand",
            &format!("SELECT append(1, gen_random_uuid(), 'order-' || number % {streams}, 'order.placed', {data}) FROM {series}"),
        )
        .await;

    let mut ways = vec![("by hand", Reader::ByHand(servers.connect("by_hand").await))];
    if servers.make_message_db().await {
        let mut connection = servers.connect_to_message_db().await;
        let write = format!(
            "SELECT write_message(gen_random_uuid()::text, 'order-' || number % {streams}, 'order.placed', {data}) FROM {series}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(write)).execute(&mut connection).await.expect("messages can be written");
        servers.execute("message_db", "VACUUM ANALYZE").await;
        ways.push(("Message DB", Reader::MessageDb(connection)));
    }
    ways.push(("Coldstream, hot", Reader::Coldstream(servers.store(hot, 1).await)));
    ways.push(("Coldstream, archived", Reader::Coldstream(servers.forgetful_store(archived).await)));
    ways.push(("Coldstream, archived and cached", Reader::Coldstream(servers.store(archived, 1).await)));
    ways
}

/// Reads streams one after the other, and returns the milliseconds that one took, by the median, and those of CPU.
async fn measure(servers: &Servers, reader: &mut Reader, numbers: impl Iterator<Item = u64>) -> (f64, f64) {
    let (mut took, before) = (Vec::new(), servers.postgres_cpu_seconds() + usage::own_cpu_seconds());
    for number in numbers {
        let began = Instant::now();
        assert_eq!(reader.read(format!("order-{number}")).await as u64, STREAM_EVENTS);
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = servers.postgres_cpu_seconds() + usage::own_cpu_seconds() - before;
    let reads = took.len() as f64;
    (median(took), cpu * 1e3 / reads)
}

/// Fills a log whose streams are interleaved, as those of a busy service are.
async fn fill(store: &Arc<Store>, streams: u64) {
    for from in (0..streams * STREAM_EVENTS).step_by(1_000) {
        let numbers = from..(from + 1_000).min(streams * STREAM_EVENTS);
        let batch = numbers.map(|number| NewEvent {
            stream: format!("order-{}", number % streams),
            raised_at: Some(coldstream::event::Instant::from_unix_nanos(0)),
            ..events::event(events::id(number), number)
        });
        store.publish(&events::log(), batch.collect()).await.expect("it can be published");
    }
}

impl Reader {
    /// Reads a stream, and returns how many events there were.
    async fn read(&mut self, stream: String) -> usize {
        match self {
            Reader::ByHand(connection) => {
                let select = sqlx::query(
                    "SELECT position, id, type, data::text, time FROM messages WHERE log = 1 AND stream = $1
                     ORDER BY position LIMIT 1000",
                );
                select.bind(stream).fetch_all(connection).await.expect("it can be read").len()
            }
            Reader::MessageDb(connection) => {
                let select = sqlx::query("SELECT * FROM get_stream_messages($1, 0, 1000)").bind(stream);
                select.fetch_all(connection).await.expect("it can be read").len()
            }
            Reader::Coldstream(store) => {
                let query = Query { filter: Filter::Stream(stream), from: 1, skip: 0, limit: 1_000 };
                store.read(&events::log(), &query).await.expect("it can be read").events.len()
            }
        }
    }
}
