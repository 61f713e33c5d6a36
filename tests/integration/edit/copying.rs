//! The server copies what no edit touches when a large object is rewritten.

use std::sync::Arc;

use coldstream::event::{Json, Log, NewEvent};
use coldstream::store::Store;

use crate::support::{Fate, Kind, World, archive, edit, import, noise, old_event, read_all, settings};

const EVENTS: usize = 24;
const MIB: usize = 1024 * 1024;

/// Returns an event that is a member of its own, of about 0.75 MiB when compressed.
fn large_event(number: usize) -> NewEvent {
    let filler = noise(number, MIB);
    let payload = Json::parse_object(&format!(r#"{{"name":"original","filler":"{filler}"}}"#)).unwrap();
    NewEvent { payload, ..old_event(number) }
}

/// Returns one archive of large events, and a process that knows whether its server copies.
async fn archived() -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let bucket = world.bucket_client();
    assert!(bucket.probe().await.unwrap().range_copies, "the server copies ranges");
    let store = Arc::new(Store::new(world.database(), Some(Arc::new(bucket)), settings(EVENTS as u64)));
    let log = world.log();
    import(&store, &log, (0..EVENTS).map(large_event)).await;
    assert_eq!(archive(&store).await, EVENTS as i64);
    (world, store, log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_edit_touches_is_copied_on_the_server() {
    let (mut world, store, log) = archived().await;
    let mut expected = read_all(&store, &log).await;
    // A case is the edited events, the number of copied ranges, and the least and the most MiB that are sent.
    for (edited, copies, sent) in [
        (vec![0], 1, (5, 6)),
        (vec![EVENTS - 1], 1, (0, 1)),
        (vec![7, 9], 2, (5, 6)),
        (vec![3, 6, 9, 12, 15, 18, 21], 0, (17, 19)),
    ] {
        for number in &edited {
            let outcome = edit(&store, &log, &format!("event-{number}"), r#"{"name":"edited"}"#).await;
            expected[*number] = outcome.event;
        }
        world.proxy.take_seen();
        assert_eq!(store.rewrite().await.unwrap(), 1);
        let seen = world.proxy.take_seen();
        assert_eq!(seen.iter().filter(|request| request.kind == Kind::CopyPart).count(), copies, "{edited:?}");
        let bytes: usize = seen.iter().filter(|it| it.kind == Kind::PutPart).map(|it| it.bytes).sum();
        assert!((sent.0 * MIB..=sent.1 * MIB).contains(&bytes), "{edited:?}: {bytes}");
    }
    assert!(read_all(&world.store(settings(1)), &log).await == expected);
    world.audit().await;
}

/// Some servers copy, and then demand parts of one size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_copies_is_sent_all() {
    for refused in [Kind::CopyPart, Kind::CompleteUpload] {
        let (mut world, store, log) = archived().await;
        edit(&store, &log, "event-0", r#"{"name":"edited"}"#).await;
        let expected = read_all(&store, &log).await;
        world.proxy.script(move |request| match request.kind == refused {
            true => Fate::Answer(400, "<Error><Code>InvalidPart</Code></Error>"),
            false => Fate::Pass,
        });
        store.rewrite().await.unwrap_err();
        world.proxy.heal();
        world.proxy.take_seen();
        world.recover(&store).await;
        assert_eq!(world.only_archive(&store).await.generation, 2);
        assert!(world.proxy.take_seen().iter().all(|request| request.kind != Kind::CopyPart), "the refusal is known");
        assert!(read_all(&world.store(settings(1)), &log).await == expected);
        world.audit().await;
    }
}
