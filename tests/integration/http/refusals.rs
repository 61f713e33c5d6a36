//! Every wrong request is refused, hostile names have their own places, and hot events are served while S3 is away.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{ARCHIVED, EVENTS, ORDERS, Scene, batch, positions};
use crate::support::Fate;

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
        r#"[[{"type":"t","payload":{}}]]"#,
        r#"{"events":[["a","s","t","",{},{"name":1},{}]]}"#,
        r#"{"events":[{"type":"t","payload":{},"metadata":["c","","",0]}]}"#,
        r#"{"events":[{"type":"t","payload":{"name":1},"gdpr":{"name":["g",null,false]}}]}"#,
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
    assert_eq!(scene.positions("").await.len(), EVENTS, "nothing was published");
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
async fn hostile_names_have_their_own_places() {
    let scene = Scene::new().await;
    let long = "%F0%9F%98%80".repeat(255);
    // A name as it stands in a path, as it stands in a query, and what it means.
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
