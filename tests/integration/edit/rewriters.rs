//! Rewriters may die, sleep, meet readers, or lose their lease or their requests: no edit is lost.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::{archived, no_version_holds, seen_by_every_read};
use crate::support::{Kind, Loss, Mover, Program, Service, Step, edit, import, old_event, payload, read_all, settings};

#[tokio::test]
async fn a_rewriter_may_die_after_any_step() {
    for last in [Step::RewriteBegun, Step::RewriteUploaded, Step::Replaced, Step::Promoted] {
        for is_read_first in [true, false] {
            let (mut world, dying, log) = archived().await;
            world.bucket.keep_versions().await;
            let archive_id = world.only_archive(&dying).await.id;
            edit(&dying, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
            Mover::rewriter(&dying, world.lease(&log).await, archive_id, last).await;
            drop(dying);

            let next = world.store(settings(9));
            let reader = world.store(settings(9));
            if is_read_first {
                let seen = seen_by_every_read(&reader, &log, 4).await;
                assert_eq!(seen.payload.as_str(), payload(4, "NEW-VALUE"), "{last:?}");
                let is_promoted = matches!(last, Step::Replaced | Step::Promoted);
                assert_eq!(world.only_archive(&reader).await.generation, if is_promoted { 2 } else { 1 }, "{last:?}");
            }
            world.recover(&next).await;
            let seen = seen_by_every_read(&reader, &log, 4).await;
            assert_eq!(seen.payload.as_str(), payload(4, "NEW-VALUE"), "{last:?}");
            assert_eq!(world.only_archive(&reader).await.generation, 2, "{last:?} {is_read_first}");
            no_version_holds(&world, &payload(4, "original")).await;
            world.audit().await;
        }
    }
}

#[tokio::test]
async fn a_rewriter_that_lost_its_turn_changes_nothing_when_it_wakes() {
    for last in [Step::RewriteBegun, Step::RewriteUploaded, Step::Replaced] {
        for is_rewritten_by_other in [true, false] {
            let (mut world, sleeper, log) = archived().await;
            let other = world.store(settings(9));
            let archive_id = world.only_archive(&other).await.id;
            edit(&sleeper, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
            let rewriter = Mover::rewriter(&sleeper, world.lease(&log).await, archive_id, last).await;
            world.expire_leases().await;
            if is_rewritten_by_other {
                other.rewrite().await.unwrap();
            } else {
                assert_eq!(other.sweep().await.unwrap(), 1);
            }
            let outcome = rewriter.next().await.err();
            // The successor has promoted a rewrite that had replaced the object.
            assert_eq!(outcome.is_some(), last != Step::Replaced, "{last:?}: {outcome:?}");
            let seen = seen_by_every_read(&world.store(settings(9)), &log, 4).await;
            assert_eq!(seen.payload.as_str(), payload(4, "NEW-VALUE"), "{last:?}");
            world.recover(&other).await;
            assert_eq!(world.only_archive(&other).await.generation, 2, "{last:?}");
            world.audit().await;
        }
    }
}

#[tokio::test]
async fn an_edit_during_a_rewrite_waits_for_the_next_one() {
    let (mut world, store, log) = archived().await;
    let archive_id = world.only_archive(&store).await.id;
    edit(&store, &log, "event-4", r#"{"name":"first","price":1}"#).await;
    let lease = world.lease(&log).await;
    let rewriter = Mover::rewriter(&store, lease, archive_id, Step::RewriteBegun).await;
    edit(&store, &log, "event-4", r#"{"name":"second"}"#).await;
    edit(&store, &log, "event-5", r#"{"name":"third"}"#).await;
    rewriter.drive(Step::Promoted).await.unwrap();
    let expected = payload(4, "second").replace("64.30", "1");
    let reader = world.store(settings(9));
    assert_eq!(seen_by_every_read(&reader, &log, 4).await.payload.as_str(), expected);
    assert_eq!(seen_by_every_read(&reader, &log, 5).await.payload.as_str(), payload(5, "third"));
    world.recover(&store).await;
    assert_eq!(world.only_archive(&store).await.generation, 3);
    assert_eq!(seen_by_every_read(&reader, &log, 4).await.payload.as_str(), expected);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_meets_a_rewrite_begins_anew() {
    for last in [Step::Replaced, Step::Promoted] {
        let (mut world, store, log) = archived().await;
        let archive_id = world.only_archive(&store).await.id;
        let gate = world.proxy.hold_first(Kind::Get);
        let (reader, reader_log) = (world.store(settings(9)), log.clone());
        let reading = tokio::spawn(async move { read_all(&reader, &reader_log).await });
        gate.arrival().await;
        edit(&store, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
        Mover::rewriter(&store, world.lease(&log).await, archive_id, last).await;
        gate.open();
        let found = reading.await.unwrap();
        assert_eq!(found[4].payload.as_str(), payload(4, "NEW-VALUE"));
        assert_eq!(found.len(), 10);
        world.recover(&store).await;
        world.audit().await;
    }
}

/// An event that was archived once can be edited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_archives_nothing_any_more_still_rewrites() {
    let (mut world, store, log) = archived().await;
    import(&store, &log, (10..30).map(old_event)).await;
    let service = Service::start(Program::new(&world, 9).set("STREAMS_ARCHIVE", "false")).await;
    let url = format!("{}/v1/topics/orders/events/event-4?tenant=acme", service.http);
    let request = reqwest::Client::new().patch(url).body(r#"{"payload":{"name":"NEW-VALUE"}}"#);
    let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    let id = Uuid::parse_str(answer["edit"]["id"].as_str().unwrap()).unwrap();
    let purged = async { while store.edit_by_id(id).await.unwrap().unwrap().purged_at.is_none() {} };
    tokio::time::timeout(Duration::from_secs(60), purged).await.expect("the object is rewritten");
    assert_eq!(world.only_archive(&store).await.generation, 2, "and nothing more was archived");
    no_version_holds(&world, &payload(4, "original")).await;
    service.finish().await;
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_of_a_rewrite_may_get_lost() {
    join_all(Loss::EACH.map(lose_each)).await;
}

async fn lose_each(loss: Loss) {
    let (mut world, _, log) = archived().await;
    world.bucket.keep_versions().await;
    let mut name = String::from("original");
    for k in 1.. {
        let rewriter = world.store(settings(9));
        let old = std::mem::replace(&mut name, format!("name-{k}"));
        edit(&rewriter, &log, "event-4", &format!(r#"{{"name":"{name}"}}"#)).await;
        loss.strike(&world.proxy, k);
        let outcome = rewriter.rewrite().await;
        let is_reached = world.proxy.heal_after(k);
        drop(rewriter);
        let case = format!("{loss:?}, request {k}: {outcome:?}");
        let next = world.store(settings(9));
        assert_eq!(read_all(&next, &log).await[4].payload.as_str(), payload(4, &name), "{case}");
        world.recover(&next).await;
        assert_eq!(read_all(&next, &log).await[4].payload.as_str(), payload(4, &name), "{case}");
        no_version_holds(&world, &payload(4, &old)).await;
        world.audit().await;
        if !is_reached {
            assert!(outcome.is_ok() && k > 5, "{case}");
            break;
        }
    }
}
