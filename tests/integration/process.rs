//! The binary may be killed at every request that it makes: another run makes up for whatever was under way.

use coldstream::event::Log;
use tokio::net::TcpStream;

use crate::support::{
    Kind, Moment, Program, Service, World, archive, edit, import, in_order, old_event, payload, read_all, run_twice,
    settings, unzip,
};

const BATCH: usize = 3;

/// Kills `coldstream archive` at its request number `k`, and runs it again to its end. Returns false if the first run
/// ended before.
async fn archive_in_two_runs(world: &World, moment: Moment, k: usize) -> bool {
    let is_reached = run_twice(world, ("archive", BATCH), moment, k).await;
    // A process that died with nothing left to do but to give back its lease must keep nobody waiting.
    world.expire_leases().await;
    is_reached
}

async fn kill_each_archiver(moment: Moment) {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), world.log());
    for k in 1.. {
        import(&store, &log, ((k - 1) * BATCH..k * BATCH).map(old_event)).await;
        let is_reached = archive_in_two_runs(&world, moment, k).await;
        assert_eq!(world.hot_count().await, 0, "{moment:?} {k}");
        let reader = world.store(settings(1));
        assert_eq!(read_all(&reader, &log).await, in_order(0..k * BATCH), "{moment:?} {k}");
        world.audit().await;
        if !is_reached {
            assert!(k > 6, "{moment:?}: {k} requests are too few for an archive");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_may_be_killed_at_any_request() {
    kill_each_archiver(Moment::Asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_may_be_killed_before_any_reply() {
    kill_each_archiver(Moment::Answered).await;
}

async fn kill_each_rewriter(moment: Moment) {
    const EDITED: usize = 1;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), world.log());
    world.bucket.keep_versions().await;
    import(&store, &log, (0..BATCH).map(old_event)).await;
    assert_eq!(archive(&store).await, BATCH as i64);
    let mut old = payload(EDITED, "original");
    for k in 1.. {
        let new = payload(EDITED, &format!("name-{k}"));
        edit(&store, &log, &format!("event-{EDITED}"), &format!(r#"{{"name":"name-{k}"}}"#)).await;
        let is_reached = archive_in_two_runs(&world, moment, k).await;
        let mut expected = in_order(0..BATCH);
        expected[EDITED].payload = coldstream::event::Json::parse_object(&new).unwrap();
        assert_eq!(read_all(&world.store(settings(1)), &log).await, expected, "{moment:?} {k}");
        let [version] = world.bucket.versions().await.try_into().unwrap();
        let text = unzip(&version);
        assert!(text.contains(&new) && !text.contains(&old), "{moment:?} {k}: {text}");
        world.audit().await;
        if !is_reached {
            assert!(k > 6, "{moment:?}: {k} requests are too few for a rewrite");
            break;
        }
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriter_may_be_killed_at_any_request() {
    kill_each_rewriter(Moment::Asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriter_may_be_killed_before_any_reply() {
    kill_each_rewriter(Moment::Answered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_asked_to_end_answers_what_it_was_asked_before() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), Log::new("", "orders").unwrap());
    import(&store, &log, (0..BATCH).map(old_event)).await;
    archive(&store).await;
    let service = Service::start(Program::new(&world, BATCH as u64)).await;
    let gate = world.proxy.hold_first(Kind::Get);
    let url = format!("{}/v1/topics/orders/events/event-1", service.http);
    let asking = tokio::spawn(async move { reqwest::get(url).await.unwrap() });
    gate.arrival().await;
    service.terminate();
    let address = service.http.trim_start_matches("http://").to_owned();
    while TcpStream::connect(&address).await.is_ok() {}
    gate.open();
    let answer = asking.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains(&payload(1, "original")));
    let ended = service.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_asked_to_end_lets_the_next_one_archive_at_once() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), world.log());
    import(&store, &log, (0..BATCH).map(old_event)).await;
    let gate = world.proxy.hold_first(Kind::PutPart);
    let service = Service::start(Program::new(&world, BATCH as u64)).await;
    gate.arrival().await;
    service.finish().await;
    assert_eq!(archive(&store).await, BATCH as i64);
    assert_eq!(read_all(&store, &log).await, in_order(0..BATCH));
    world.audit().await;
}
