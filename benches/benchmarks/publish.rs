//! Publishing to one topic, by the number of publishers; and loading a log from elsewhere.

use std::fs::File;
use std::io::BufWriter;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::api::proto::service_client::ServiceClient;
use coldstream::api::proto::{PublishEvent, PublishEventPayload, PublishRequest};
use coldstream::embedded::{Durability, keeper};
use coldstream::event::Log;
use coldstream::store::Store;
use sqlx::PgConnection;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::plot::Plot;
use crate::report::{Report, count, median, percentile, ratio};
use crate::servers::{self, Servers};
use crate::{Mode, events};

const PUBLISHERS: [usize; 3] = [1, 8, 64];
const LIBRARY: &str = "Coldstream, library";
const GRPC: &str = "Coldstream, gRPC";
const GRPC_SHARED: &str = "Coldstream, gRPC, one connection";
/// The hand-written append, which holds the log while it numbers one event.
pub const BY_HAND: &str = "
    CREATE TABLE messages (
        log bigint NOT NULL,
        position bigint NOT NULL,
        id uuid NOT NULL UNIQUE,
        stream text NOT NULL,
        type text NOT NULL,
        data jsonb NOT NULL,
        time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (log, position)
    );
    CREATE INDEX ON messages (log, stream, position);
    CREATE INDEX ON messages (log, type, position);
    CREATE FUNCTION append(of_log bigint, of_id uuid, of_stream text, of_type text, of_data jsonb) RETURNS bigint
    LANGUAGE plpgsql AS $$
    DECLARE
        position bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock(of_log);
        SELECT coalesce(max(messages.position), 0) + 1 INTO position FROM messages WHERE log = of_log;
        INSERT INTO messages (log, position, id, stream, type, data)
        VALUES (of_log, position, of_id, of_stream, of_type, of_data);
        RETURN position;
    END
    $$;
";

/// A publisher of one event after the other.
enum Publisher {
    ByHand(PgConnection),
    MessageDb(PgConnection),
    Library(Arc<Store>, Log),
    Grpc(ServiceClient<Channel>),
}

/// The figures of some publishers together.
struct Rate {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub async fn run(mode: Mode) -> Report {
    let servers = Servers::start(mode.pick(Durability::Full, Durability::None)).await;
    let mut report = Report::new("Publishing");
    report.paragraph(
        "Events of 840 bytes to one topic, one a call, each call acknowledged once it is on disk, on the same Postgres \
         with its default durability. *By hand* is the usual append: a function that locks the log, numbers the event and \
         inserts it, one connection a publisher. *Message DB* is its `write_message`; it is there where MESSAGE_DB names \
         a file with its SQL. Over gRPC each publisher has a connection too, or all share one, as the tasks of an \
         application do. Medians of interleaved rounds.",
    );
    let contenders = Contenders::start(&servers).await;
    let length = mode.pick(Duration::from_secs(3), Duration::from_millis(50));
    let (mut rows, mut lines) = (Vec::new(), vec![("by hand", Vec::new())]);
    lines.extend(contenders.has_message_db.then(|| ("Message DB", Vec::new())));
    lines.extend([LIBRARY, GRPC, GRPC_SHARED].map(|name| (name, Vec::new())));
    for publishers in PUBLISHERS {
        let mut rounds: Vec<Vec<Rate>> = lines.iter().map(|_| Vec::new()).collect();
        for _ in 0..mode.pick(5, 1) {
            for ((name, _), rates) in lines.iter().zip(&mut rounds) {
                let mut all = Vec::new();
                for _ in 0..publishers {
                    all.push(contenders.publisher(name).await);
                }
                rates.push(measure(all, length).await);
            }
        }
        let of = |rates: &[Rate], figure: fn(&Rate) -> f64| median(rates.iter().map(figure).collect());
        let by_hand = of(&rounds[0], |rate| rate.per_second);
        for ((name, line), rates) in lines.iter_mut().zip(&rounds) {
            let per_second = of(rates, |rate| rate.per_second);
            line.push((publishers as f64, per_second));
            rows.push([
                format!("{publishers}, {name}"),
                count(per_second),
                ratio(per_second / by_hand),
                format!("{:.2} ms", of(rates, |rate| rate.p50_ms)),
                format!("{:.2} ms", of(rates, |rate| rate.p99_ms)),
            ]);
        }
    }
    report.table(["publishers", "events/s", "against by hand", "p50", "p99"], rows);
    report.plot(Plot {
        name: "publish",
        title: "Events published to one topic".into(),
        x: "publishers",
        y: "events/s",
        lines: lines.into_iter().map(|(name, line)| (name.to_owned(), line)).collect(),
    });
    drop(contenders);
    load(mode, &servers, &mut report).await;
    report
}

/// Everything that is published to.
struct Contenders<'a> {
    servers: &'a Servers,
    has_message_db: bool,
    store: Arc<Store>,
    service: Service,
    /// The connection that many publishers share.
    shared: ServiceClient<Channel>,
}

impl Contenders<'_> {
    async fn start(servers: &Servers) -> Contenders<'_> {
        let service = Service::start(servers).await;
        servers.execute("postgres", "CREATE DATABASE library").await;
        let store = servers.store("library", 100_000).await;
        servers.execute("postgres", "CREATE DATABASE by_hand").await;
        servers.execute("by_hand", BY_HAND).await;
        let has_message_db = servers.make_message_db().await;
        let shared = service.connect().await;
        Contenders { servers, has_message_db, store, service, shared }
    }

    async fn publisher(&self, name: &str) -> Publisher {
        match name {
            "by hand" => Publisher::ByHand(self.servers.connect("by_hand").await),
            "Message DB" => Publisher::MessageDb(self.servers.connect_to_message_db().await),
            LIBRARY => Publisher::Library(Arc::clone(&self.store), events::log()),
            GRPC => Publisher::Grpc(self.service.connect().await),
            _ => Publisher::Grpc(self.shared.clone()),
        }
    }
}

impl Publisher {
    async fn publish(&mut self, number: u64) {
        let (id, stream, payload) = (Uuid::new_v4(), format!("order-{}", number % 50_000), events::payload(number));
        let event_type = "order.placed";
        match self {
            Publisher::ByHand(connection) => {
                let append = sqlx::query("SELECT append(1, $1, $2, $3, $4::jsonb)");
                let append = append.bind(id).bind(stream).bind(event_type).bind(payload);
                append.execute(connection).await.expect("it can be appended");
            }
            Publisher::MessageDb(connection) => {
                let write = sqlx::query("SELECT message_store.write_message($1, 'orders-1', $2, $3::jsonb)");
                let write = write.bind(id.to_string()).bind(event_type).bind(payload);
                write.execute(connection).await.expect("it can be written");
            }
            Publisher::Library(store, log) => {
                let event = events::event(id.to_string(), number);
                store.publish(log, vec![event]).await.expect("it can be published");
            }
            Publisher::Grpc(client) => {
                let value = PublishEventPayload { value: payload, gdpr: None };
                let event = PublishEvent {
                    id: id.to_string(),
                    tenant_id: events::log().tenant().into(),
                    r#type: event_type.into(),
                    stream,
                    payload: [("order".to_owned(), value)].into(),
                    ..PublishEvent::default()
                };
                let request = PublishRequest { topic: events::log().topic().into(), events: vec![event] };
                client.publish(request).await.map(drop).expect("it can be published");
            }
        }
    }
}

async fn measure(publishers: Vec<Publisher>, length: Duration) -> Rate {
    let started = Instant::now();
    let all: Vec<_> = publishers
        .into_iter()
        .map(|mut publisher| {
            tokio::spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < length {
                    let began = Instant::now();
                    publisher.publish(took.len() as u64).await;
                    took.push(began.elapsed().as_secs_f64() * 1e3);
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for publisher in all {
        took.extend(publisher.await.expect("publishing does not panic"));
    }
    let per_second = took.len() as f64 / started.elapsed().as_secs_f64();
    Rate { per_second, p50_ms: percentile(&mut took, 50), p99_ms: percentile(&mut took, 99) }
}

/// `coldstream serve`, in a process of its own.
struct Service {
    child: Child,
    endpoint: Endpoint,
}

impl Service {
    async fn start(servers: &Servers) -> Service {
        servers.execute("postgres", "CREATE DATABASE service").await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.expect("a port can be had").to_string();
        let mut command = servers.coldstream("service", &["serve"]);
        command.env("STREAMS_ARCHIVE", "false").env("GRPC_ADDR", &address).env("HTTP_ADDR", "127.0.0.1:0");
        let child = keeper::spawn(command).expect("the service can be started");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
        let service = Service { child, endpoint };
        while service.endpoint.connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service
    }

    async fn connect(&self) -> ServiceClient<Channel> {
        ServiceClient::new(self.endpoint.connect().await.expect("the service is up"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A service that has ended by itself is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loads a log from elsewhere: `coldstream import` beside `COPY` into the same table.
async fn load(mode: Mode, servers: &Servers, report: &mut Report) {
    let count_of_events = mode.pick(200_000, 1_000);
    let file = servers.folder.path().join("log.jsonl");
    let lines = File::create(&file).map(BufWriter::new).and_then(|lines| events::write(lines, count_of_events));
    lines.expect("the log can be written");
    let (mut imported, mut copied) = (Vec::new(), Vec::new());
    for round in 0..mode.pick(3, 1) {
        let (import, copy) = (format!("imported_{round}"), format!("copied_{round}"));
        for database in [&import, &copy] {
            servers.execute("postgres", &format!("CREATE DATABASE {database}")).await;
            servers::run(servers.coldstream(database, &["migrate"])).await;
        }
        servers.execute("postgres", "CHECKPOINT").await;
        let mut loading = servers.coldstream(&import, &["import"]);
        loading.arg(&file);
        imported.push(servers::run(loading).await.seconds);
        servers.execute("postgres", "CHECKPOINT").await;
        let mut pipeline = Command::new("sh");
        pipeline.arg("-c").arg(
            "psql --quiet --no-psqlrc --dbname \"$FROM\" --command 'COPY events TO STDOUT' |
             psql --quiet --no-psqlrc --dbname \"$TO\" --command 'COPY events FROM STDIN'",
        );
        pipeline.env("FROM", servers.postgres.connection(&import)).env("TO", servers.postgres.connection(&copy));
        copied.push(servers::run(pipeline).await.seconds);
    }
    report.paragraph(format!(
        "Loading a log of {count_of_events} events into an empty database: `coldstream import`, which parses and checks a \
         file of JSON lines, beside `COPY` out of one such table into another."
    ));
    let per_second = |seconds: Vec<f64>| count_of_events as f64 / median(seconds);
    let (imported, copied) = (per_second(imported), per_second(copied));
    report.table(
        ["", "events/s", "against COPY"],
        [("COPY", copied), ("coldstream import", imported)]
            .map(|(name, rate)| [name.to_owned(), count(rate), ratio(rate / copied)]),
    );
}
