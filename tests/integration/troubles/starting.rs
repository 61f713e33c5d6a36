//! A fault of one object is no sign that the database is of another time, and stops no start.

use std::time::{Duration, Instant};

use coldstream::store::TroubleKind;
use uuid::Uuid;

use super::{EVERY, Scene, batches_of_four};
use crate::support::{Fate, Gate, Kind, Program, Service, World, edit, import, old_event, read_all};

/// Checks that a service serves hot events and those of other archives, and names the object.
async fn is_served(scene: &Scene, case: &str) {
    let service = Service::start(Program::new(&scene.world, 4)).await;
    for id in ["event-6", "event-9"] {
        let url = format!("{}/v1/topics/orders/events/{id}?tenant=acme", service.http);
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200, "{case}: {id}");
    }
    let url = format!("{}/v1/topics/orders/events/event-1?tenant=acme", service.http);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 500, "{case}");
    service.terminate();
    let ended = service.end().await;
    assert_eq!(ended.code, Some(0), "{case}: {ended:?}");
    assert!(ended.errors.iter().any(|line| line.contains(&scene.key)), "{case}: {ended:?}");
    scene.has_trouble(TroubleKind::Read, case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_of_a_known_archive_stops_no_start() {
    let scene = Scene::new().await;
    let store = scene.store();
    let (old, old_said) = (scene.world.bucket.get(&scene.key).await, scene.world.bucket.said(&scene.key).await);
    edit(&store, &scene.log, "event-1", r#"{"name":"new"}"#).await;
    store.rewrite().await.unwrap();
    let before = read_all(&store, &scene.log).await;
    let (original, said) = (scene.world.bucket.get(&scene.key).await, scene.world.bucket.said(&scene.key).await);
    let mut flipped = original.clone();
    flipped[original.len() / 2] ^= 1;
    let cases = [
        ("another's", b"<html></html>".to_vec(), vec![]),
        ("truncated", original[..original.len() - 1].to_vec(), said.clone()),
        ("flipped", flipped, said.clone()),
        ("an older generation", old, old_said),
    ];
    for (case, bytes, its_said) in cases {
        scene.world.bucket.put_saying(&scene.key, bytes, &its_said).await;
        is_served(&scene, case).await;
        sqlx::query("DELETE FROM troubles").execute(&scene.world.sql).await.unwrap();
    }
    // The object is missing, as in a replica of a bucket that is behind.
    scene.world.bucket.delete(&scene.key).await;
    is_served(&scene, "missing").await;
    scene.world.bucket.put_saying(&scene.key, original, &said).await;
    assert!(Program::new(&scene.world, 4).run(&["verify", "--repair"]).await.code == Some(0));
    assert_eq!(read_all(&scene.store(), &scene.log).await, before);
    scene.finish().await;
}

/// The only archive may have been copied, or be damaged: another size tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_bucket_is_told_from_a_damaged_object() {
    let mut world = World::new().await;
    let (store, log) = (world.store(batches_of_four()), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    crate::support::archive(&store).await;
    let before = read_all(&store, &log).await;
    let key = world.key(&world.only_archive(&store).await);
    let original = world.bucket.get(&key).await;
    world.bucket.put(&key, original.clone()).await;
    let line = Program::new(&world, 4).run(&["archive"]).await.failed();
    assert!(line.contains("`coldstream recover`") && line.contains(&key), "{line}");
    world.bucket.put(&key, original[..10].to_vec()).await;
    assert_eq!(Program::new(&world, 4).run(&["archive"]).await.code, Some(0));

    // A recovery tells of an object of the same size that is no copy, and the object stops no start any more.
    let mut flipped = original.clone();
    flipped[original.len() / 2] ^= 1;
    world.bucket.put(&key, flipped).await;
    assert_eq!(Program::new(&world, 4).run(&["recover"]).await.code, Some(1));
    assert_eq!(Program::new(&world, 4).run(&["archive"]).await.code, Some(0));
    world.bucket.put(&key, original).await;
    Program::new(&world, 4).run(&["recover"]).await.succeeded();
    assert_eq!(read_all(&world.store(batches_of_four()), &log).await, before);
    world.audit().await;
}

/// S3 says nothing of an object that its list names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_head_is_refused_stops_no_start() {
    let scene = Scene::new().await;
    let name = scene.world.key(&scene.victim).replace(&scene.victim.id.to_string(), &Uuid::now_v7().to_string());
    scene.world.bucket.put_saying(&name, b"who knows".to_vec(), &[]).await;
    let refused = name.clone();
    scene.world.proxy.script(move |request| {
        let is_refused = EVERY.contains(&request.kind) && request.target.contains(&refused);
        if is_refused { Fate::Answer(403, "") } else { Fate::Pass }
    });
    let service = Service::start(Program::new(&scene.world, 4)).await;
    let url = format!("{}/v1/topics/orders/events/event-1?tenant=acme", service.http);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    service.terminate();
    let ended = service.end().await;
    assert!(ended.code == Some(0) && ended.errors.iter().any(|line| line.contains(&name)), "{ended:?}");
    scene.world.proxy.heal();
    scene.world.bucket.delete(&name).await;
    scene.finish().await;
}

/// XML has no way to write some of the characters that a key may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_any_name_are_passed_over_and_told() {
    let scene = Scene::new().await;
    let names =
        ["notes/\u{1}\u{2}\u{1b}[31m", "tab\tand\u{b}\u{c}", "two words+more %41", "acme/orders/\u{7f}\u{fffe}é"];
    for name in names {
        scene.world.bucket.put_saying(name, b"mine".to_vec(), &[]).await;
    }
    let store = scene.store();
    let unreconciled = store.unreconciled().await.unwrap();
    assert_eq!((unreconciled.archives.len(), unreconciled.strangers.len()), (0, names.len()));
    store.claim_bucket().await.unwrap();
    let said = Program::new(&scene.world, 4).run(&["sweep"]).await.succeeded();
    for name in names {
        assert!(said.contains(&format!("not ours: {}\n", name.escape_debug())), "{name:?}: {said}");
    }
    for name in names {
        scene.world.bucket.delete(name).await;
    }
    scene.finish().await;
}

/// The list has a hundred thousand strangers, each with the longest name there is: nothing is kept of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_by_the_million_take_no_memory() {
    const PAGES: usize = 100;
    const PEAK_BYTES_MAX: usize = 80 * 1024 * 1024;
    let scene = Scene::new().await;
    let entry = format!("<Contents><Key>{}</Key><ETag>\"0\"</ETag><Size>1</Size></Contents>", "x".repeat(1_000));
    let page = |more: &str| format!("<ListBucketResult>{}{more}</ListBucketResult>", entry.repeat(1_000));
    let more: &'static str = page("<NextContinuationToken>more</NextContinuationToken>").leak();
    let last: &'static str = page("").leak();
    let mut pages = 0;
    scene.world.proxy.script(move |request| {
        let is_whole_list = request.kind == Kind::ListObjects && !request.target.contains("max-keys");
        pages += usize::from(is_whole_list);
        match pages {
            _ if !is_whole_list => Fate::Pass,
            PAGES => Fate::Answer(200, last),
            _ => Fate::Answer(200, more),
        }
    });
    let program = Program::new(&scene.world, 4).set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0");
    let mut running = program.start(&["serve"]);
    while let Some(line) = running.line().await {
        if line.contains("serving") {
            break;
        }
    }
    let peak = running.peak_memory_bytes();
    assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
    running.terminate();
    assert_eq!(running.end().await.code, Some(0));
    scene.finish().await;
}

/// An S3 server that takes connections and answers nothing is away, too: hot events do not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_s3_server_stops_no_start() {
    let scene = Scene::new().await;
    let gate = Gate::new();
    scene.world.proxy.script({
        let gate = gate.clone();
        move |_| Fate::Hold(gate.clone())
    });
    let started = Instant::now();
    let service = Service::start(Program::new(&scene.world, 4)).await;
    assert!(started.elapsed() < Duration::from_secs(60), "the start waited for S3");
    let url = |id: &str| format!("{}/v1/topics/orders/events/{id}?tenant=acme", service.http);
    assert_eq!(reqwest::get(url("event-9")).await.unwrap().status(), 200);
    gate.lose();
    scene.world.proxy.heal();
    while reqwest::get(url("event-1")).await.unwrap().status() != 200 {}
    service.finish().await;
    scene.finish().await;
}
