//! An object that may not be read, for good or until somebody does something about it, is named, and all else is read.

use std::time::Duration;

use coldstream::event::{Filter, PositionRange};
use coldstream::store::{Error, Query, Selection, TroubleKind};

use super::{DENIED, EVERY, GLACIER, NO_KEY, Scene};
use crate::support::{
    Fate, Kind, Program, Service, edit, everything, payload, publish, read_all, unpaced, young_event,
};

/// A name, the requests that are refused, and how.
type Refusal = (&'static str, &'static [Kind], u16, &'static str);

const REFUSALS: [Refusal; 6] = [
    ("moved to a class that cannot be read at once", &[Kind::Get], 403, GLACIER),
    ("its key is disabled", &[Kind::Get], 400, NO_KEY),
    ("denied", &[Kind::Get], 403, DENIED),
    ("denied, and nothing is said of it", EVERY, 403, DENIED),
    ("no method of it is allowed", EVERY, 405, "<Error><Code>MethodNotAllowed</Code></Error>"),
    ("gone for good", EVERY, 410, ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_refused_is_named_and_everything_else_is_read() {
    let scene = Scene::new().await;
    for (case, kinds, status, body) in REFUSALS {
        scene.refuse(kinds, status, body);
        let (store, log) = (scene.store(), &scene.log);
        for filter in [Filter::All, Filter::Types(vec![scene.before[0].event_type.clone()])] {
            scene.is_named(&store.read(log, &Query { filter, ..everything() }).await, case);
        }
        scene.is_named(&store.event(log, "event-1").await, case);
        scene.has_trouble(TroubleKind::Read, case).await;
        let elsewhere = store.read(log, &Query { from: 5, ..everything() }).await.unwrap();
        assert_eq!(elsewhere.events, scene.before[4..], "{case}");
        assert_eq!(store.event(log, "event-6").await.unwrap().as_ref(), Some(&scene.before[6]), "{case}");

        let findings = store.verify(|_| {}).await.unwrap();
        assert_eq!(findings.len(), 1, "{case}: {findings:?}");
        assert_eq!(findings[0].archive_id, Some(scene.victim.id), "{case}");
        let repaired = store.repair(&unpaced, |_| {}).await.unwrap();
        assert_eq!((repaired.repaired, repaired.left), (vec![], findings), "{case}");
        scene.world.proxy.heal();
        assert_eq!(store.verify(|_| {}).await.unwrap(), [], "{case}");
        assert_eq!(scene.troubles().await, [], "{case}");
    }
    assert_eq!(read_all(&scene.store(), &scene.log).await, scene.before);
    scene.finish().await;
}

/// A refusal of every object is an outage, which passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_of_everything_is_no_trouble_of_an_object() {
    let scene = Scene::new().await;
    for body in [DENIED, "", "<Error><Code>ExpiredToken</Code></Error>"] {
        scene.world.proxy.script(move |_| Fate::Answer(403, body));
        let store = scene.store();
        let outcomes = [
            store.event(&scene.log, "event-1").await.err(),
            store.verify(|_| {}).await.err(),
            store.recover(|_| {}).await.err(),
            store.unreconciled().await.err(),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Some(Error::Unavailable(_))), "{body}: {outcome:?}");
        }
        assert_eq!(scene.troubles().await, [], "{body}");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_counts_its_turn_and_goes_on_to_the_next() {
    let scene = Scene::new().await;
    scene.refuse(EVERY, 403, GLACIER);
    let store = scene.store();
    let scrub = || store.scrub(&unpaced);
    assert_eq!([scrub().await.unwrap(), scrub().await.unwrap(), scrub().await.unwrap()], [true, true, false]);
    scene.has_trouble(TroubleKind::Read, "scrubbed").await;
    scene.world.proxy.heal();
    store.verify(|_| {}).await.unwrap();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrite_of_a_refused_object_waits_and_others_do_not() {
    for kinds in [&[Kind::Get][..], EVERY] {
        let scene = Scene::new().await;
        let (store, log) = (scene.store(), &scene.log);
        edit(&store, log, "event-1", r#"{"name":"first"}"#).await;
        edit(&store, log, "event-6", r#"{"name":"second"}"#).await;
        scene.refuse(kinds, 403, GLACIER);
        scene.is_named(&store.rewrite().await, "asked for");
        let pending: Vec<i64> =
            sqlx::query_scalar("SELECT first_position FROM pending_edits").fetch_all(&scene.world.sql).await.unwrap();
        assert_eq!(pending, [2], "the other archive was rewritten");
        // A job asks for the object again later; what an operator asks for is done at once.
        scene.world.proxy.take_seen();
        assert_eq!(store.rewrite_due().await.unwrap(), 0);
        assert_eq!(scene.world.proxy.take_seen(), []);
        edit(&store, log, "event-7", r#"{"name":"third"}"#).await;
        assert_eq!(store.rewrite_due().await.unwrap(), 1, "the other archive is rewritten all the same");
        scene.is_named(&store.rewrite().await, "asked for again");
        scene.world.proxy.heal();
        scene.world.expire_leases().await;
        store.sweep().await.unwrap();
        assert_eq!(store.rewrite().await.unwrap(), 1);
        assert_eq!(scene.troubles().await, []);
        assert_eq!(store.event(log, "event-1").await.unwrap().unwrap().payload.as_str(), payload(1, "first"));
        scene.finish().await;
    }
}

/// The trouble is made due again, as time does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_asked_for_again_ever_more_rarely() {
    let scene = Scene::new().await;
    let store = scene.store();
    edit(&store, &scene.log, "event-1", r#"{"name":"new"}"#).await;
    scene.refuse(&[Kind::Get], 403, GLACIER);
    let mut waits: Vec<i64> = Vec::new();
    for _ in 0..12 {
        assert_eq!(store.rewrite_due().await.unwrap(), 0);
        let wait: f64 = sqlx::query_scalar("SELECT extract(epoch FROM retry_at - now())::float8 FROM troubles")
            .fetch_one(&scene.world.sql)
            .await
            .unwrap();
        waits.push((wait / 60.0).round() as i64);
        sqlx::query("UPDATE troubles SET retry_at = now()").execute(&scene.world.sql).await.unwrap();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]);
    scene.world.proxy.heal();
    assert_eq!(store.rewrite_due().await.unwrap(), 1);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_what_it_can_and_names_the_rest() {
    let scene = Scene::new().await;
    let (store, log) = (scene.store(), &scene.log);
    scene.refuse(&[Kind::Get], 403, GLACIER);
    let range = Selection::Range(log.clone(), PositionRange::closed(1, 8));
    let mut events = 0;
    scene.is_named(&store.restore(&range, 0, |restored| events = restored.events).await, "restored");
    assert_eq!(events, 4);
    let archives = store.archives(log).await.unwrap();
    assert_eq!(archives.iter().map(|archive| archive.id).collect::<Vec<_>>(), [scene.victim.id]);
    scene.has_trouble(TroubleKind::Read, "restored").await;
    scene.world.proxy.heal();
    assert_eq!(store.restore(&range, 0, |_| {}).await.unwrap().events, 4);
    store.sweep().await.unwrap();
    assert_eq!(scene.troubles().await, [], "the archive is gone, and its trouble with it");
    assert_eq!(read_all(&store, log).await, scene.before);
    scene.finish().await;
}

/// A damaged object, or one of another size, is a trouble to every verb, as a refused one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_keeps_nothing_else_from_its_turn() {
    let scene = Scene::new().await;
    let (store, log) = (scene.store(), &scene.log);
    let (original, said) = (scene.world.bucket.get(&scene.key).await, scene.world.bucket.said(&scene.key).await);
    edit(&store, log, "event-1", r#"{"name":"first"}"#).await;
    edit(&store, log, "event-6", r#"{"name":"second"}"#).await;
    scene.world.bucket.put(&scene.key, original[..original.len() - 1].to_vec()).await;
    scene.is_named(&store.rewrite().await, "rewritten");
    assert_eq!(store.rewrite_due().await.unwrap(), 0);
    publish(&store, log, (10..14).map(young_event).collect()).await;
    let old = crate::support::older_than(0, 4);
    assert_eq!(scene.world.store(old).archive(|_, _| {}).await.unwrap().events, 4);
    scene.has_trouble(TroubleKind::Read, "damaged").await;
    let etag = scene.world.bucket.put_saying(&scene.key, original, &said).await;
    scene.world.expect_etag(scene.victim.id, &etag).await;
    assert_eq!(store.rewrite().await.unwrap(), 1);
    scene.finish().await;
}

/// Clients and operators are told of the trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_object_is_a_problem_of_its_own_and_is_in_the_status() {
    let scene = Scene::new().await;
    scene.refuse(&[Kind::Get], 403, GLACIER);
    let program = || Program::new(&scene.world, 4);
    let verified = program().run(&["verify"]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(verified.output.contains(&scene.key) && verified.errors.last().unwrap().contains("1 findings"));
    let status = program().run(&["status"]).await.succeeded();
    assert!(status.contains("objects in trouble: 1") && status.contains("cannot be read since"), "{status}");
    assert!(status.contains(&scene.key) && status.contains("InvalidObjectState"), "{status}");

    let service = Service::start(program()).await;
    let url = |id: &str| format!("{}/v1/topics/orders/events/{id}?tenant=acme", service.http);
    let answer = reqwest::get(url("event-1")).await.unwrap();
    assert_eq!(answer.status(), 500);
    let problem: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(problem["type"], "urn:coldstream:problem:object-refused");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&scene.key) && detail.contains("InvalidObjectState"), "{detail}");
    assert_eq!(reqwest::get(url("event-6")).await.unwrap().status(), 200);
    // The sweep that a service begins with finds the trouble.
    let counted = async {
        let metrics = format!("{}/metrics", service.http);
        let gauge = "coldstream_objects_in_trouble{kind=\"read\"} 1";
        while !reqwest::get(&metrics).await.unwrap().text().await.unwrap().contains(gauge) {}
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("the metrics do not tell");
    service.finish().await;

    scene.world.proxy.heal();
    assert!(program().run(&["verify"]).await.succeeded().contains("verified 8 archived events"));
    assert!(!program().run(&["status"]).await.succeeded().contains("trouble"));
    scene.finish().await;
}

/// Some events cannot be compared with an archive that may hold them. The others are imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_goes_on_beside_what_it_cannot_compare() {
    let scene = Scene::new().await;
    scene.refuse(&[Kind::Get], 403, GLACIER);
    let line = |id: &str, topic: &str| {
        format!(
            r#"{{"id":"{id}","tenant_id":"acme","topic":"{topic}","type":"t","raised_at":"2020-01-01T00:00:00Z","payload":{{}}}}"#
        )
    };
    let lines = [line("event-1", "orders"), line("new-1", "bills"), line("event-2", "orders"), line("new-2", "bills")];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let ended = Program::new(&scene.world, 4).unset("STREAMS_ARCHIVE").run(&["import", path]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.output.starts_with("imported 2 events in"), "{ended:?}");
    let named = format!("{path}, line 1: 2 events of {} are not imported: the object {}", scene.log, scene.key);
    assert!(ended.errors.iter().any(|line| line.contains(&named)), "{ended:?}");
    assert!(ended.errors.last().unwrap().contains("2 events were not imported"), "{ended:?}");
    scene.finish().await;
}
