//! The HTTP API over the wire: every path, every way to ask it wrongly, and names that were made to get in the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use coldstream::event::Log;
use coldstream::store::Store;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Fate, Program, Service, World, archive, import, old_event, payload, read_all, settings, unzip};

const ARCHIVED: usize = 5;
const EVENTS: usize = 8;
const ORDERS: &str = "/v1/topics/orders/events";

/// A service, and a log of some archived and some hot events. Nothing more is eligible.
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

    /// Positions of a page of the usual log.
    async fn positions(&self, query: &str) -> Vec<i64> {
        positions(&self.get(&format!("{ORDERS}?tenant=acme&{query}")).await.ok())
    }

    async fn finish(mut self) {
        self.service.terminate();
        let ended = self.service.end().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // A tick that was broken off did not give its lease back.
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

    /// The detail of a problem document that says what it should.
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
        for patch in ["{}", "[]", r#"{"payload":1}"#, r#"{"payload":{"a":1,"a":2}}"#, "{"] {
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
async fn what_is_asked_wrongly_is_a_problem() {
    let scene = Scene::new().await;
    let read = |query: &str| format!("{ORDERS}?tenant=acme&{query}");
    let invalid = [
        "lmit=1",
        "limit=0",
        "limit=10001",
        "limit=x",
        "limit=1&limit=2",
        "page=-1",
        "from=0",
        "cursor=x",
        "type=a&stream=b",
        "from=1&after_id=event-1",
        "tenant=b",
        "stream=%FF",
    ];
    for query in invalid {
        scene.get(&read(query)).await.problem(400, "invalid");
    }
    for target in
        [read("after_id=nobody"), format!("{ORDERS}/nobody"), "/v1/topics/orders/last-event".into(), "/v2".into()]
    {
        scene.get(&target).await.problem(404, "not-found");
    }
    let target = format!("{ORDERS}?tenant=acme");
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"events":[],"events":[]}"#,
        r#"{"events":[],"more":1}"#,
        r#"{"events":[{"type":"t"}]}"#,
    ] {
        scene.post(&target, body).await.problem(400, "invalid");
    }
    let conflict = scene.post(&target, batch("event-1", "{}")).await.problem(409, "conflict");
    assert!(conflict.contains("event-1"), "{conflict}");
    scene.post(&target, vec![b' '; 16 * 1024 * 1024 + 1]).await.problem(413, "payload-too-large");
    let encoded = scene.send(Method::POST, &target, &[("content-encoding", "gzip")], "x").await;
    encoded.problem(415, "unsupported-media-type");
    let refused = scene.send(Method::DELETE, &target, &[], "").await;
    refused.problem(405, "method-not-allowed");
    let allowed: BTreeSet<&str> = refused.header("allow").split(',').map(str::trim).collect();
    assert_eq!(allowed, BTreeSet::from(["GET", "HEAD", "POST"]));
    assert_eq!(scene.positions("").await.len(), EVENTS, "nothing of it was published");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_nobody_could_read_are_not_stored() {
    let scene = Scene::new().await;
    let nested = format!(r#"{{"deep":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let broken =
        batch("a", r#"{"name":"?"}"#).into_bytes().into_iter().map(|byte| if byte == b'?' { 0xff } else { byte });
    let bodies = [batch("a", &nested).into_bytes(), batch("a", r#"{"x":1,"\u0078":2}"#).into_bytes(), broken.collect()];
    for body in bodies {
        scene.post("/v1/topics/never/events", body).await.problem(400, "invalid");
    }
    let topics = scene.get("/v1/topics").await.ok();
    let names: Vec<&str> =
        topics["topics"].as_array().unwrap().iter().map(|it| it["topic"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders"]);
    assert_eq!(positions(&scene.get("/v1/topics/never/events").await.ok()), [0; 0]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_events_are_served_while_s3_is_away() {
    let scene = Scene::new().await;
    scene.world.proxy.script(|_| Fate::LoseRequest);
    for target in [format!("{ORDERS}/event-1?tenant=acme"), format!("{ORDERS}?tenant=acme"), "/ready".to_owned()] {
        scene.get(&target).await.problem(503, "unavailable");
    }
    assert_eq!(scene.positions(&format!("from={}", ARCHIVED + 1)).await, [6, 7, 8]);
    assert_eq!(scene.get(&format!("{ORDERS}/event-6?tenant=acme")).await.ok()["position"], 7);
    assert_eq!(scene.get("/health").await.status, StatusCode::OK);
    scene.world.proxy.heal();
    assert_eq!(scene.get(&format!("{ORDERS}/event-1?tenant=acme")).await.ok()["position"], 2);
    assert_eq!(scene.get("/ready").await.status, StatusCode::OK);
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
    let metrics = scene.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let counted = r#"coldstream_http_requests_total{method="GET",route="/v1/topics",status="200"} 1"#;
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_have_their_own_places() {
    let scene = Scene::new().await;
    let long = "%F0%9F%98%80".repeat(255);
    // As they stand in a path, in a query, and what they mean.
    let names = [
        ("a%2Fb", "a/b"),
        ("..%2Fother", "../other"),
        ("a%0Ab", "a\nb"),
        ("a%252Fb", "a%2Fb"),
        ("%5C", "\\"),
        ("_", "_"),
        (&long, &"😀".repeat(255)),
    ];
    for (index, (encoded, meant)) in names.iter().enumerate() {
        for tenant in [*encoded, ""] {
            let target = format!("/v1/topics/{encoded}/events?tenant={tenant}");
            let id = format!("{index}-{}", tenant.len());
            scene.post(&target, batch(&id, "{}")).await.ok();
            let page = scene.get(&target).await.ok();
            let [event] = page["events"].as_array().unwrap().as_slice() else { panic!("{page}") };
            let tenant_meant = if tenant.is_empty() { "" } else { *meant };
            assert_eq!(
                (&event["id"], &event["topic"], &event["tenant_id"]),
                (&json!(id), &json!(meant), &json!(tenant_meant))
            );
        }
        let id = if meant.len() > 255 { "short" } else { meant };
        let target = format!("/v1/topics/ids/events?tenant={encoded}");
        scene.post(&target, batch(&id.escape_default().to_string(), "{}")).await.ok();
        if id != "short" {
            let target = format!("/v1/topics/ids/events/{encoded}?tenant={encoded}");
            assert_eq!(scene.get(&target).await.ok()["id"], *meant);
        }
    }
    for target in ["/v1/topics/x%00/events", "/v1/topics/x/events?tenant=%00", "/v1/topics/%FF/events"] {
        scene.post(target, batch("a", "{}")).await.problem(400, "invalid");
    }
    let too_long = format!("/v1/topics/{long}x/events");
    scene.post(&too_long, batch("a", "{}")).await.problem(400, "invalid");
    scene.finish().await;
}
