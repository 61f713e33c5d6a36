//! A stranger that says nothing at a port costs little and is let go, and the clients beside it notice nothing.

mod grpc;
mod limits;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Program, Service, World};

/// The longest time that a test waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first bytes of HTTP/2: its preface, and an empty frame of settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HALF_A_BODY: &[u8] = b"POST /v1/topics/orders/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";

/// A service over a world without archives.
struct Scene {
    world: World,
    service: Service,
}

impl Scene {
    async fn new(settings: &[(&'static str, &str)]) -> Scene {
        let world = World::new().await;
        let program =
            settings.iter().fold(Program::new(&world, 1_000), |program, (name, value)| program.set(name, value));
        Scene { service: Service::start(program).await, world }
    }

    async fn at_http(&self, said: &[u8]) -> TcpStream {
        connect(&self.service.http, said).await
    }

    async fn at_grpc(&self, said: &[u8]) -> TcpStream {
        connect(&self.service.grpc, said).await
    }

    /// Returns the value of a metric.
    async fn metric(&self, series: &str) -> u64 {
        let text = reqwest::get(format!("{}/metrics", self.service.http)).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or(" 0");
        line.trim().parse().unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    async fn publish(&self, id: &str) {
        let body = format!(r#"{{"events":[{{"id":"{id}","type":"made","payload":{{}}}}]}}"#);
        let client = reqwest::Client::new();
        let asking = client.post(format!("{}/v1/topics/orders/events", self.service.http)).body(body).send();
        assert_eq!(timeout(PATIENCE, asking).await.expect("an answer").unwrap().status(), 201);
    }

    async fn finish(mut self) {
        self.service.finish().await;
        self.world.expire_leases().await;
        self.world.audit().await;
    }
}

async fn connect(url: &str, said: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(said).await.unwrap();
    stream
}

/// Returns everything that comes until the service closes the connection.
async fn until_let_go(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the service closes the connection");
    assert!(end.is_ok() || answer.is_empty(), "{end:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_says_nothing_costs_less_than_64_kib() {
    const STRANGERS: usize = 500;
    let scene = Scene::new(&[("HTTP_TIMEOUT_SECONDS", "600"), ("GRPC_KEEPALIVE_SECONDS", "600")]).await;
    scene.publish("first").await;
    let (mut strangers, mut at_http) = (Vec::new(), 0);
    for (door, said) in
        [("http", &b""[..]), ("http", b"GET /health HTT"), ("http", HALF_A_BODY), ("grpc", b""), ("grpc", PREFACE)]
    {
        let series = format!("coldstream_connections{{door=\"{door}\"}}");
        let resident = scene.service.memory_bytes();
        for _ in 0..STRANGERS {
            strangers.push(if door == "http" { scene.at_http(said).await } else { scene.at_grpc(said).await });
        }
        at_http += if door == "http" { STRANGERS } else { 0 };
        let of_door = if door == "http" { at_http } else { strangers.len() - at_http };
        while scene.metric(&series).await < of_door as u64 {}
        let each = scene.service.memory_bytes().saturating_sub(resident) / STRANGERS;
        assert!(each < 64 * 1024, "{door} {}: {each} bytes", String::from_utf8_lossy(said));
        scene.publish(&format!("{door}-{}", said.len())).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_in_the_middle_of_a_request_is_let_go() {
    let scene = Scene::new(&[("HTTP_TIMEOUT_SECONDS", "1")]).await;
    let asked = &b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"[..];
    for said in [&b""[..], b"GET /health HTT", &PREFACE[..10], PREFACE] {
        let answer = until_let_go(scene.at_http(said).await).await;
        assert!(!answer.contains("200 OK"), "{said:?}: {answer}");
    }
    let answer = until_let_go(scene.at_http(asked).await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "a client that asks no more: {answer}");
    let stopped = until_let_go(scene.at_http(HALF_A_BODY).await).await;
    assert!(stopped.starts_with("HTTP/1.1 408 Request Timeout"), "{stopped}");
    assert!(stopped.contains("application/problem+json") && stopped.contains("in time"), "{stopped}");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_a_byte_now_and_then_is_let_go() {
    let scene = Scene::new(&[("HTTP_TIMEOUT_SECONDS", "1")]).await;
    for (begun, bytes) in [
        ("GET /health HTTP/1.1\r\n", b"a"),
        ("POST /v1/topics/orders/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", b" "),
    ] {
        let (mut reading, mut writing) = scene.at_http(begun.as_bytes()).await.into_split();
        let mut often = tokio::time::interval(Duration::from_millis(100));
        let trickle = async {
            loop {
                often.tick().await;
                if writing.write_all(bytes).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        let ended = async { drop(reading.read_to_end(&mut answer).await) };
        tokio::select! {
            ended = timeout(PATIENCE, ended) => ended.expect("the service closes the connection"),
            () = trickle => {}
        }
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_no_answer_is_let_go() {
    let scene = Scene::new(&[("HTTP_TIMEOUT_SECONDS", "1")]).await;
    let text = "x".repeat(8 * 1024 * 1024);
    for id in ["a", "b"] {
        let body = format!(r#"{{"events":[{{"id":"{id}","type":"made","payload":{{"text":"{text}"}}}}]}}"#);
        let url = format!("{}/v1/topics/large/events", scene.service.http);
        assert_eq!(reqwest::Client::new().post(url).body(body).send().await.unwrap().status(), 201);
    }
    let open = "coldstream_connections{door=\"http\"}";
    let asked = b"GET /v1/topics/large/events HTTP/1.1\r\nHost: x\r\n\r\n";
    let deaf = scene.at_http(asked).await;
    // This client takes nothing of the answer, until the reader of the metrics is the only one connected.
    let gone = async { while scene.metric(open).await > 1 {} };
    timeout(PATIENCE, gone).await.expect("the service closes the connection");
    assert!(until_let_go(deaf).await.len() < 2 * text.len(), "the answer was cut");
    scene.finish().await;
}
