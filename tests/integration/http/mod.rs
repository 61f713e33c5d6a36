//! Every path of the HTTP API answers over the wire as it should.

mod description;
mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;

use coldstream::event::Log;
use coldstream::store::Store;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Program, Service, World, archive, import, old_event, payload, read_all, settings, unzip};

const ARCHIVED: usize = 5;
const EVENTS: usize = 8;
const ORDERS: &str = "/v1/topics/orders/events";

/// A service, and a log of some archived and some hot events, of which no more are eligible.
struct Scene {
    world: World,
    store: Arc<Store>,
    log: Log,
    service: Service,
    client: Client,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Scene {
    async fn new() -> Scene {
        let world = World::new().await;
        let (store, log) = (world.store(settings(ARCHIVED as u64)), world.log());
        import(&store, &log, (0..EVENTS).map(old_event)).await;
        assert_eq!(archive(&store).await, ARCHIVED as i64);
        let service = Service::start(Program::new(&world, 1_000)).await;
        Scene { world, store, log, service, client: Client::new() }
    }

    async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let mut request = self.client.request(method, format!("{}{target}", self.service.http)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, &[], "").await
    }

    async fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Method::POST, target, &[], body).await
    }

    async fn patch(&self, target: &str, body: &str) -> Answer {
        self.send(Method::PATCH, target, &[("content-type", "application/merge-patch+json")], body).await
    }

    /// Returns the positions of a page of the usual log.
    async fn positions(&self, query: &str) -> Vec<i64> {
        positions(&self.get(&format!("{ORDERS}?tenant=acme&{query}")).await.ok())
    }

    async fn finish(mut self) {
        self.service.finish().await;
        // A tick that was broken off has not given its lease back.
        self.world.expire_leases().await;
        self.world.audit().await;
    }
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        self.json()
    }

    /// Checks a problem document, and returns its detail.
    fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!((self.status.as_u16(), self.header("content-type")), (status, "application/problem+json"), "{kind}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:coldstream:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        assert_eq!(self.header("retry-after").is_empty(), status != 503, "{kind}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

fn positions(page: &Value) -> Vec<i64> {
    page["events"].as_array().unwrap().iter().map(|event| event["position"].as_i64().unwrap()).collect()
}

fn batch(id: &str, payload: &str) -> String {
    format!(r#"{{"events":[{{"id":"{id}","type":"made","payload":{payload}}}]}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_published_and_read() {
    let scene = Scene::new().await;
    let first = json!({"events": [
        {"id": "a", "type": "made", "stream": "s-1", "payload": {"n": 1}},
        {"type": "made", "payload": {}, "metadata": {"correlation_id": "c", "deployment_id": 7}, "reason": "because"},
    ]});
    let published = scene.post("/v1/topics/new/events", first.to_string()).await;
    assert_eq!(published.status, StatusCode::CREATED);
    let published = published.json()["published"].clone();
    assert_eq!(published[0], json!({"id": "a", "position": 1, "is_new": true}));
    assert_eq!(published[1]["position"], 2);
    let given = published[1]["id"].as_str().unwrap().to_owned();
    let again = scene
        .post("/v1/topics/new/events", batch("a", r#"{"n":1}"#).replace("\"made\"", "\"made\",\"stream\":\"s-1\""))
        .await;
    assert_eq!(again.ok()["published"], json!([{"id": "a", "position": 1, "is_new": false}]));
    let mut event = scene.get(&format!("/v1/topics/new/events/{given}")).await.ok();
    assert!(event["raised_at"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        event,
        json!({
            "position": 2, "id": given, "tenant_id": "", "topic": "new", "stream": "", "type": "made", "raised_at": null,
            "reason": "because", "metadata": {"correlation_id": "c", "deployment_id": 7}, "payload": {},
        })
    );
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_where_the_last_one_ended() {
    let scene = Scene::new().await;
    let target = format!("{ORDERS}?tenant=acme&limit=3");
    let (mut cursor, mut found) = (String::new(), Vec::new());
    loop {
        let page = scene.get(&format!("{target}{cursor}")).await.ok();
        assert_eq!(page["head_position"], EVENTS);
        found.push(positions(&page));
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(found, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8]]);
    let past_the_end = scene.get(&format!("{target}&page=7")).await.ok();
    assert_eq!((positions(&past_the_end), &past_the_end["has_more"]), (vec![], &json!(false)));
    assert_eq!(
        format!("&cursor={}", past_the_end["next_cursor"].as_str().unwrap()),
        cursor,
        "a reader goes on behind the end"
    );
    scene.post(&format!("{ORDERS}?tenant=acme"), batch("later", "{}")).await.ok();
    assert_eq!(positions(&scene.get(&format!("{target}{cursor}")).await.ok()), [9], "a cursor outlives the end");

    let cases: [(&str, &[i64]); 10] = [
        ("limit=3&page=1", &[4, 5, 6]),
        ("limit=3&page=7", &[]),
        ("from=5&limit=2", &[5, 6]),
        ("after_id=event-3&limit=2", &[5, 6]),
        ("after_id=event-3&limit=2&page=1", &[7, 8]),
        ("type=type-1", &[2, 6]),
        ("type=type-1&type=type-2", &[2, 3, 6, 7]),
        ("type=type-1&limit=1&page=1", &[6]),
        ("stream=stream-2", &[3, 6]),
        ("stream=nobody", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(scene.positions(query).await, expected, "{query}");
    }
    let lines =
        scene.send(Method::GET, &format!("{ORDERS}?tenant=acme"), &[("accept", "application/x-ndjson")], "").await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    assert!(lines.text().ends_with('\n'));
    let page = scene.get(&format!("{ORDERS}?tenant=acme")).await.ok();
    let parsed: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::Array(parsed), page["events"], "lines and pages say the same");
    for number in 0..EVENTS {
        let event = scene.get(&format!("{ORDERS}/event-{number}?tenant=acme")).await;
        assert_eq!(event.ok(), page["events"][number]);
        assert!(event.text().contains(&payload(number, "original")), "the payload is kept to the letter");
    }
    assert_eq!(scene.get("/v1/topics/orders/last-event?tenant=acme").await.ok()["id"], "later");
    assert_eq!(scene.get("/v1/topics/orders/last-event?tenant=acme&type=type-0").await.ok()["position"], 5);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_edited_and_nothing_else() {
    let scene = Scene::new().await;
    let ledger = "tenant=acme&actor=dpo&reason=erasure&ticket=GDPR-17";
    let before = read_all(&scene.store, &scene.log).await;
    for number in [1, ARCHIVED + 1] {
        let target = format!("{ORDERS}/event-{number}?{ledger}");
        for named in ["id", "position", "raised_at", "type"] {
            let patch = format!(r#"{{"payload":{{"name":"x"}},"{named}":"x"}}"#);
            assert!(scene.patch(&target, &patch).await.problem(422, "not-editable").contains(named));
        }
        let twice = [
            r#"{"payload":{"name":"x"},"payload":{"name":"y"}}"#,
            r#"{"payload":{"name":"x"},"p\u0061yload":{"name":"y"}}"#,
            r#"{"payload":{"a":1,"a":2}}"#,
        ];
        for patch in ["{}", "[]", r#"{"payload":1}"#, "{"].into_iter().chain(twice) {
            scene.patch(&target, patch).await.problem(400, "invalid");
        }
        let target_with_address = target.replace("reason=erasure", "reason=asked+by+eve%40example.com");
        scene.patch(&target_with_address, r#"{"payload":{"name":"x"}}"#).await.problem(400, "invalid");
    }
    let unknown = format!("{ORDERS}/nobody?{ledger}");
    scene.patch(&unknown, r#"{"payload":{"name":"x"}}"#).await.problem(404, "not-found");
    assert_eq!(read_all(&scene.store, &scene.log).await, before, "nothing has changed");

    for number in [1, ARCHIVED + 1] {
        let patch = r#"{"payload":{"name":"NEW-VALUE","nested":{"b":null},"phone":1}}"#;
        let answer = scene.patch(&format!("{ORDERS}/event-{number}?{ledger}"), patch).await.ok();
        assert_eq!(answer["missing"], json!(["/phone"]));
        let expected = json!({"price": 64.30, "name": "NEW-VALUE", "number": number, "nested": {"a": []}});
        assert_eq!(answer["event"]["payload"], expected);
        let seen = scene.get(&format!("{ORDERS}/event-{number}?tenant=acme")).await.ok();
        assert_eq!(seen, answer["event"]);
        let edit = &answer["edit"];
        assert_eq!(
            (&edit["actor"], &edit["reason"], &edit["ticket"], &edit["changed"]),
            (&json!("dpo"), &json!("erasure"), &json!("GDPR-17"), &json!(["/name", "/nested/b"]))
        );
        let line = format!("/v1/edits/{}", edit["id"].as_str().unwrap());
        // The service rewrites the object by itself, and the ledger says when that is done.
        let mut purged = scene.get(&line).await.ok();
        while purged["purged_at"].is_null() {
            purged = scene.get(&line).await.ok();
        }
        assert_eq!(purged["subject"], format!("event-{number}"));
        assert!(purged["applied_at"].is_string());
    }
    let [key] = scene.world.bucket.keys().await.try_into().unwrap();
    let object = unzip(&scene.world.bucket.get(&key).await);
    assert!(object.contains("NEW-VALUE") && !object.contains(&payload(1, "original")));
    for id in ["no-uuid", "00000000-0000-0000-0000-000000000000"] {
        scene.get(&format!("/v1/edits/{id}")).await.problem(404, "not-found");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_describes_itself() {
    let scene = Scene::new().await;
    let description = scene.get("/openapi.json").await.ok();
    let paths: BTreeSet<&str> = description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let served = [
        "/v1/topics",
        "/v1/topics/{topic}/events",
        "/v1/topics/{topic}/events/{event_id}",
        "/v1/topics/{topic}/last-event",
        "/v1/edits/{edit_id}",
        "/health",
        "/ready",
        "/metrics",
    ];
    assert_eq!(paths, BTreeSet::from(served));
    let text = description.to_string();
    let references: BTreeSet<&str> =
        text.split(r##""$ref":"#"##).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 5, "{references:?}");
    for reference in references {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
    for (target, expected) in [("/health", "ok\n"), ("/ready", "ready\n")] {
        let answer = scene.get(target).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, expected));
    }
    let topics = scene.get("/v1/topics").await.ok();
    assert!(topics["table_bytes"].as_i64().unwrap() > 0);
    let topic = &topics["topics"][0];
    let counts = ["head_position", "archived_events", "hot_events"].map(|name| topic[name].as_u64().unwrap() as usize);
    assert_eq!(counts, [EVENTS, ARCHIVED, EVENTS - ARCHIVED]);
    assert_eq!((&topic["tenant_id"], &topic["topic"]), (&json!("acme"), &json!("orders")));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_methods_that_nobody_can_make_up() {
    let scene = Scene::new().await;
    scene.get("/v1/topics").await.ok();
    for method in ["BREW", "BREW-1", "BREW-2", "get"] {
        let refused = scene.send(Method::from_bytes(method.as_bytes()).unwrap(), "/v1/topics", &[], "").await;
        refused.problem(405, "method-not-allowed");
    }
    let metrics = scene.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let of_route = |line: &&str| line.starts_with("coldstream_http_requests_total{") && line.contains("\"/v1/topics\"");
    let counted: BTreeSet<&str> = metrics.text().lines().filter(of_route).collect();
    let expected = [
        r#"coldstream_http_requests_total{method="GET",route="/v1/topics",status="200"} 1"#,
        r#"coldstream_http_requests_total{method="other",route="/v1/topics",status="405"} 4"#,
    ];
    assert_eq!(counted, BTreeSet::from(expected));
    scene.finish().await;
}
