//! A database that is older than its bucket is not served, and neither is one over another deployment's bucket.

use crate::recover::check_reads;
use crate::support::{
    Fate, Kind, MARKER, Mover, Program, Service, Step, World, archive, edit, import, old_event, read_all, settings,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_older_than_its_bucket_is_not_served() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    let backup = world.backup().await;
    assert_eq!(archive(&store).await, 8);
    edit(&store, &log, "event-1", r#"{"name":"edited"}"#).await;
    store.rewrite().await.unwrap();
    let before = read_all(&store, &log).await;
    let program = || Program::new(&world, 4);
    assert!(program().run(&["archive"]).await.succeeded().starts_with("archived 0 events"));
    world.restore(&backup).await;
    let marker = world.bucket.get(MARKER).await;
    let program = || Program::new(&world, 4).set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0");
    program().write("events.ndjson", "");
    for arguments in [&["serve"][..], &["archive"], &["import", "-"]] {
        let line = program().run(arguments).await.failed();
        assert!(line.contains("is older than the bucket") && line.contains("2 archives"), "{arguments:?}: {line}");
        assert!(line.contains("`coldstream recover`") && line.contains("STREAMS_START_UNRECONCILED"), "{line}");
    }
    // An operator may look, and may know better.
    assert!(program().run(&["status"]).await.succeeded().contains("orders"));
    let service =
        Service::start(program().set("STREAMS_START_UNRECONCILED", "true").unset("STREAMS_ARCHIVE_SIZE")).await;
    service.finish().await;

    assert!(program().run(&["recover"]).await.succeeded().starts_with("recovered 8 events in 2 objects"));
    let service = Service::start(program()).await;
    let url = format!("{}/v1/topics/orders/events/event-1?tenant=acme", service.http);
    assert!(reqwest::get(url).await.unwrap().text().await.unwrap().contains("edited"));
    service.finish().await;
    assert_eq!(world.bucket.get(MARKER).await, marker);
    check_reads(&world.store(settings(4)), &log, &before).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_deployments_bucket_is_not_touched() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert!(Program::new(&world, 4).run(&["archive"]).await.succeeded().starts_with("archived 4 events"));
    let before = read_all(&store, &log).await;
    world.lose_database().await;
    let program = || Program::new(&world, 4).set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0");
    let sweep = ["sweep", "--older-than-days", "0", "--delete-unknown"];
    for words in [&["serve"][..], &["archive"], &["verify", "--repair"], &sweep] {
        let line = program().set("STREAMS_START_UNRECONCILED", "true").run(words).await.failed();
        assert!(line.contains("another deployment") && line.contains("`coldstream recover`"), "{words:?}: {line}");
    }
    import(&world.store(settings(4)), &log, (0..4).map(old_event)).await;
    let line = program().run(&["recover"]).await.failed();
    assert!(line.contains("not empty"), "{line}");
    for marker in [&b"<html></html>"[..], br#"{"format":2,"deployment_id":"00000000-0000-0000-0000-000000000000"}"#] {
        world.bucket.put(MARKER, marker.to_vec()).await;
        let line = program().run(&["serve"]).await.failed();
        assert!(line.contains(MARKER) && line.contains("damaged"), "{line}");
    }
    world.bucket.delete(MARKER).await;
    world.lose_database().await;
    let line = Program::new(&world, 4).run(&["archive"]).await.failed();
    assert!(line.contains("is older than the bucket"), "without a marker the archives tell: {line}");
    assert!(Program::new(&world, 4).run(&["recover"]).await.succeeded().starts_with("recovered 4 events"));
    check_reads(&world.store(settings(4)), &log, &before).await;
    let line = Program::new(&world, 4).set("S3_BUCKET", "mistyped").run(&["recover"]).await.failed();
    assert!(line.contains("S3_BUCKET mistyped") && line.contains("is not there"), "no bucket is made: {line}");
    world.audit().await;
}

/// A bucket that is away keeps nobody from hot events; the database is compared with it when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_was_away_at_the_start_is_compared_when_it_is_back() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    archive(&store).await;
    import(&store, &log, (4..8).map(old_event)).await;
    let backup = world.backup().await;
    archive(&store).await;
    for is_older in [true, false] {
        if is_older {
            world.restore(&backup).await;
        }
        world.proxy.script(|_| Fate::LoseRequest);
        // The batch size is so large that the archiver finds nothing to do.
        let program = Program::new(&world, 100);
        let service = Service::start(program).await;
        let url = format!("{}/v1/topics/orders/events/event-5?tenant=acme", service.http);
        let hot = reqwest::get(&url).await.unwrap().status();
        assert_eq!(hot, if is_older { 200 } else { 503 });
        world.proxy.take_seen();
        world.proxy.heal();
        if is_older {
            let ended = service.end().await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.errors.last().unwrap().contains("is older than the bucket"), "{ended:?}");
            assert_eq!(store_of(&world).recover(|_| {}).await.unwrap().archives, 1);
        } else {
            while world.proxy.count(Kind::ListObjects) == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
            service.finish().await;
        }
    }
    world.audit().await;
}

fn store_of(world: &World) -> std::sync::Arc<coldstream::store::Store> {
    world.store(settings(4))
}

/// A replica that archives and rewrites while another one starts is no sign of another time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_may_be_at_work_meanwhile() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    archive(&store).await;
    let starting = world.store(settings(4));
    // The list is older than the objects that are written while its answer is on the way.
    let gate = crate::support::Gate::new();
    let mut held = Some(gate.clone());
    world.proxy.script(move |request| match held.take_if(|_| request.kind == Kind::ListObjects) {
        Some(gate) => Fate::HoldReply(gate),
        None => Fate::Pass,
    });
    let comparing = tokio::spawn({
        let starting = starting.clone();
        async move { starting.unreconciled().await.unwrap() }
    });
    gate.arrival().await;
    edit(&store, &log, "event-1", r#"{"name":"edited"}"#).await;
    store.rewrite().await.unwrap();
    gate.open();
    assert_eq!(comparing.await.unwrap().archives, Vec::<String>::new());

    // None of these is a sign either: an object that is not live yet, one that is replaced and not promoted, and one
    // that is given up.
    import(&store, &log, (4..12).map(old_event)).await;
    let lease = world.lease(&log).await;
    let archiver = Mover::archiver(&store, lease, Step::Uploaded).await;
    assert_eq!(starting.unreconciled().await.unwrap().archives, Vec::<String>::new());
    archiver.drive(Step::Archived).await.unwrap();
    edit(&store, &log, "event-2", r#"{"name":"edited"}"#).await;
    let first = store.archives(&log).await.unwrap().remove(0);
    let rewriter = Mover::rewriter(&store, lease, first.id, Step::Replaced).await;
    assert_eq!(starting.unreconciled().await.unwrap().archives, Vec::<String>::new());
    rewriter.next().await.unwrap();
    Mover::archiver(&store, lease, Step::Uploaded).await;
    let gate = world.proxy.hold_first(Kind::Head);
    let comparing = tokio::spawn({
        let starting = starting.clone();
        async move { starting.unreconciled().await.unwrap() }
    });
    gate.arrival().await;
    world.expire_leases().await;
    let sweeping = tokio::spawn(async move { store.sweep().await.unwrap() });
    assert_eq!(sweeping.await.unwrap(), 1);
    gate.open();
    assert_eq!(comparing.await.unwrap().archives, Vec::<String>::new());
    world.recover(&starting).await;
    world.audit().await;
}

/// Comparing costs a request for 1,000 objects, and no request for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparing_costs_a_request_for_a_thousand_objects() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    assert_eq!(archive(&store).await, 3);
    let puts = (0..1_000).map(|number| {
        let bucket = &world.bucket;
        async move { bucket.put_saying(&format!("notes/{number}"), Vec::new(), &[]).await }
    });
    futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 8)).await;
    world.proxy.take_seen();
    let found = store.unreconciled().await.unwrap();
    assert_eq!((found.archives.len(), found.strangers.len()), (0, 1_000));
    assert_eq!((world.proxy.count(Kind::ListObjects), world.proxy.take_seen().len()), (2, 2));
    for number in 0..1_000 {
        world.bucket.delete(&format!("notes/{number}")).await;
    }
    world.audit().await;
}
