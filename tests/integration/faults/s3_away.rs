//! S3 may throttle, be locked or be gone: reads of archived events are worth another try, hot events do not depend on
//! S3, and everything is made up for.

use std::sync::Arc;

use coldstream::store::{Error, Store};
use futures::future::join_all;

use super::PATIENCE;
use crate::support::{
    Fate, Kind, Program, Service, World, archive, edit, everything, import, in_order, old_event, payload, publish,
    read_all, settings, unzip, young_event,
};

const EXPIRED: &str = "<Error><Code>ExpiredToken</Code></Error>";
const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code></Error>";

/// Returns a world with three archived events, and a hot one.
async fn archived() -> (World, Arc<Store>) {
    let world = World::new().await;
    let store = world.store(settings(3));
    import(&store, &world.log(), (0..3).map(old_event).chain([young_event(3)])).await;
    assert_eq!(archive(&store).await, 3);
    (world, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_are_named_and_what_they_kept_from_happening_is_made_up_for() {
    let (mut world, store) = archived().await;
    let log = world.log();
    import(&store, &log, (4..7).map(old_event)).await;
    let cold = world.store(settings(3));
    world.proxy.script(|_| Fate::Answer(403, EXPIRED));
    for refused in [cold.event(&log, "event-1").await.err(), store.archive(|_, _| {}).await.err()] {
        assert!(matches!(&refused, Some(Error::Unavailable(why)) if why.contains("ExpiredToken")), "{refused:?}");
    }
    assert_eq!(cold.event(&log, "event-3").await.unwrap().unwrap().position, 4);
    publish(&store, &log, vec![young_event(7)]).await;
    world.proxy.heal();
    world.recover(&store).await;
    assert_eq!(store.archives(&log).await.unwrap().len(), 2);
    assert_eq!(read_all(&cold, &log).await.len(), 8);
    world.audit().await;
}

/// Each request by itself is tried four times, but all requests together are not four times as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttling_server_is_not_asked_ever_more() {
    const CALLS: usize = 100;
    let (mut world, store) = archived().await;
    world.proxy.script(|_| Fate::Answer(503, SLOW_DOWN));
    world.proxy.take_seen();
    for outcome in join_all((0..CALLS).map(|_| store.check())).await {
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
    let requests = world.proxy.take_seen().len();
    assert_eq!(requests, CALLS + 100);
    assert!(store.check().await.is_err());
    assert_eq!(world.proxy.take_seen().len(), 1, "all retries are spent");
    assert_eq!(store.event(&world.log(), "event-3").await.unwrap().unwrap().position, 4);
    world.proxy.heal();
    assert_eq!(read_all(&store, &world.log()).await.len(), 4);
    world.audit().await;
}

/// The service reports what it cannot do for now, and goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_that_s3_throttles_catches_up_by_itself() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..6).map(old_event)).await;
    world.proxy.script(|request| match request.kind {
        Kind::Bucket | Kind::ListObjects => Fate::Pass,
        // The service asks for these objects when it starts.
        _ if request.target.contains("/coldstream.") => Fate::Pass,
        _ => Fate::Answer(503, SLOW_DOWN),
    });
    let service = Service::start(Program::new(&world, 3).set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 3_600)).await;
    world.until("SELECT count(*) > 1 FROM archive_runs WHERE error IS NOT NULL", PATIENCE).await;
    world.proxy.heal();
    world.until("SELECT coalesce(sum(count), 0) = 6 FROM archives", PATIENCE).await;
    world.until("SELECT count(*) = 0 FROM intents", PATIENCE).await;
    service.finish().await;
    assert_eq!(read_all(&store, &log).await, in_order(0..6));
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_was_deleted_is_an_error_and_not_an_empty_one() {
    let (mut world, store) = archived().await;
    let log = world.log();
    import(&store, &log, (4..7).map(old_event)).await;
    let cold = world.store(settings(3));
    world.proxy.script(|_| Fate::Answer(404, "<Error><Code>NoSuchBucket</Code></Error>"));
    let refused = cold.read(&log, &everything()).await.map(|page| page.events);
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("NoSuchBucket")), "{refused:?}");
    let refused = store.archive(|_, _| {}).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("NoSuchBucket")), "{refused:?}");
    assert_eq!(store.event(&log, "event-5").await.unwrap().unwrap().position, 6, "nothing has left");
    world.proxy.heal();
    world.recover(&store).await;
    assert_eq!(read_all(&cold, &log).await.len(), 7);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_bucket_or_wrong_credentials_stop_the_start() {
    let (world, _) = archived().await;
    let page = "<html><body>It works!</body></html>";
    let missing = Program::new(&world, 3).set("HTTP_ADDR", "127.0.0.1:0").set("S3_BUCKET", "somebody-elses");
    let line = missing.run(&["serve"]).await.failed();
    assert!(line.contains("S3_BUCKET somebody-elses") && line.contains("archived"), "{line}");
    let refused = [
        ("InvalidAccessKeyId", "<Error><Code>InvalidAccessKeyId</Code></Error>"),
        ("SignatureDoesNotMatch", "<Error><Code>SignatureDoesNotMatch</Code></Error>"),
    ];
    for (code, error) in refused {
        // The first request of a start is answered without a body.
        world.proxy.script(move |request| match request.method.as_str() {
            "HEAD" => Fate::Pass,
            _ => Fate::Answer(403, error),
        });
        let line = Program::new(&world, 3).run(&["serve"]).await.failed();
        assert!(line.contains("S3_ACCESS_KEY and S3_SECRET_KEY") && line.contains(code), "{line}");
    }
    world.proxy.script(move |_| Fate::Answer(200, page));
    let fresh = World::new().await;
    let elsewhere = Program::new(&fresh, 3).set("S3_ENDPOINT", world.proxy.address());
    let line = elsewhere.run(&["serve"]).await.failed();
    assert!(line.contains("S3_ENDPOINT") && line.contains("something else has answered"), "{line}");
    world.proxy.heal();
    for mut world in [world, fresh] {
        world.audit().await;
    }
}

/// A version that nobody may delete for now is reported as not purged until it is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_lock_that_forbids_a_purge_is_reported_until_it_is_lifted() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    world.bucket.keep_locked_versions().await;
    import(&store, &log, (0..3).map(old_event)).await;
    archive(&store).await;
    let key = world.key(&world.only_archive(&store).await);
    let version = world.bucket.hold(&key).await;
    let line = edit(&store, &log, "event-1", r#"{"name":"NEW-VALUE"}"#).await.edit.unwrap();
    let refused = store.rewrite().await;
    assert!(matches!(&refused, Err(error) if error.to_string().contains(&key)), "{refused:?}");
    let known = async || store.edit_by_id(line.id).await.unwrap().unwrap();
    assert!(store.sweep().await.is_err());
    assert!(known().await.applied_at.is_some() && known().await.purged_at.is_none());
    assert_eq!(store.event(&log, "event-1").await.unwrap().unwrap().payload.as_str(), payload(1, "NEW-VALUE"));
    assert_eq!(world.bucket.versions().await.len(), 2);
    world.bucket.release(&key, &version).await;
    world.recover(&store).await;
    assert!(known().await.purged_at.is_some());
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versioning_that_is_switched_on_later_keeps_no_old_value() {
    let (mut world, store) = archived().await;
    world.bucket.keep_versions().await;
    let line = edit(&store, &world.log(), "event-1", r#"{"name":"NEW-VALUE"}"#).await.edit.unwrap();
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert!(store.edit_by_id(line.id).await.unwrap().unwrap().purged_at.is_some());
    let [version] = world.bucket.versions().await.try_into().unwrap();
    assert!(!unzip(&version).contains(&payload(1, "original")));
    world.audit().await;
}
