//! An edit is what every later read shows, wherever the event is; the object follows in place, and what it superseded
//! goes.

use std::sync::Arc;

use coldstream::event::{Event, Filter, Log};
use coldstream::store::{EditRequest, Error, Query, Store};
use futures::StreamExt;
use futures::future::join_all;

use crate::support::{
    Fate, Gate, Kind, World, archive, edit, edit_request, import, old_event, payload, publish, read_all, settings,
    unzip,
};

/// A world with an archive of the first nine of ten events.
async fn archived() -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(9)), world.log());
    import(&store, &log, (0..10).map(old_event)).await;
    assert_eq!(archive(&store).await, 9);
    world.proxy.take_seen();
    (world, store, log)
}

/// The event as every way of reading shows it.
async fn seen_by_every_read(store: &Arc<Store>, log: &Log, number: usize) -> Event {
    let event = store.event(log, &format!("event-{number}")).await.unwrap().unwrap();
    let position = number as i64 + 1;
    for filter in [Filter::All, Filter::Types(vec![event.event_type.clone()]), Filter::Stream(event.stream.clone())] {
        let query = Query { filter, from: position, skip: 0, limit: 1 };
        assert_eq!(store.read(log, &query).await.unwrap().events, std::slice::from_ref(&event));
        let replayed: Vec<_> = store.replay(log.clone(), query).collect().await;
        assert_eq!(replayed[0].as_ref().unwrap()[0], event);
    }
    assert_eq!(read_all(store, log).await[number], event);
    let of_type = store.last_event(log, std::slice::from_ref(&event.event_type)).await.unwrap().unwrap();
    assert!(of_type == event || of_type.position > position);
    event
}

/// Every row about edits, as text.
async fn ledger(world: &World) -> String {
    let rows: Vec<String> = sqlx::query_scalar("SELECT row_to_json(edits)::text FROM edits ORDER BY sequence")
        .fetch_all(&world.sql)
        .await
        .unwrap();
    rows.join("\n")
}

#[tokio::test]
async fn a_hot_event_is_edited_in_its_row() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let outcome = edit(&store, &log, "event-1", r#"{"name":"NEW-VALUE","nested":{"b":null},"phone":1}"#).await;
    assert_eq!(outcome.missing, ["/phone"]);
    assert_eq!(outcome.event.payload.as_str(), r#"{"price":64.30,"name":"NEW-VALUE","number":1,"nested":{"a":[]}}"#);
    let line = outcome.edit.unwrap();
    assert_eq!((line.changed, line.archive_id), (vec!["/name".to_owned(), "/nested/b".to_owned()], None));
    assert!(line.applied_at.is_some() && line.purged_at.is_some());
    assert_eq!(seen_by_every_read(&world.store(settings(10)), &log, 1).await, outcome.event);
    let known = store.edit_by_id(line.id).await.unwrap().unwrap();
    assert_eq!((known.actor.as_str(), known.ticket.as_str(), known.position), ("operator", "T-1", Some(2)));
    let ledger = ledger(&world).await;
    assert!(!ledger.contains("NEW-VALUE") && !ledger.contains("original") && ledger.contains("/name"), "{ledger}");
    assert_eq!(read_all(&store, &log).await[0].payload.as_str(), payload(0, "original"));
    world.audit().await;
}

#[tokio::test]
async fn an_archived_event_is_edited_at_once_and_its_object_follows_in_place() {
    let (mut world, store, log) = archived().await;
    let before = world.only_archive(&store).await;
    let old_text = unzip(&world.bucket.get(&world.key(&before)).await);
    // Whoever has the member in memory sees the edit as well as who has not.
    let warm = world.store(settings(9));
    read_all(&warm, &log).await;

    let outcome = edit(&store, &log, "event-8", r#"{"name":"NEW-VALUE","price":0.10}"#).await;
    assert_eq!(outcome.event.payload.as_str(), payload(8, "NEW-VALUE").replace("64.30", "0.10"));
    assert_eq!(seen_by_every_read(&warm, &log, 8).await, outcome.event);
    assert_eq!(seen_by_every_read(&world.store(settings(9)), &log, 8).await, outcome.event);
    assert_eq!(warm.last_event(&log, &["type-0".to_owned()]).await.unwrap().unwrap(), outcome.event);
    assert_eq!(unzip(&world.bucket.get(&world.key(&before)).await), old_text, "the object comes later");
    let line = outcome.edit.unwrap();
    assert_eq!((line.archive_id, line.applied_at, line.purged_at), (Some(before.id), None, None));

    store.rewrite_wanted().await;
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(store.rewrite().await.unwrap(), 0);
    let after = world.only_archive(&store).await;
    assert_eq!((after.id, after.generation), (before.id, before.generation + 1));
    let new_text = unzip(&world.bucket.get(&world.key(&before)).await);
    for (number, (old, new)) in old_text.lines().zip(new_text.lines()).enumerate() {
        // The first line opens the array.
        let edited = old.replace("original", "NEW-VALUE").replace("64.30", "0.10");
        assert_eq!(new, if number == 9 { &edited } else { old });
    }
    assert_eq!(old_text.lines().count(), new_text.lines().count());
    assert_eq!(seen_by_every_read(&warm, &log, 8).await, outcome.event);
    assert_eq!(seen_by_every_read(&world.store(settings(9)), &log, 8).await, outcome.event);
    let known = store.edit_by_id(line.id).await.unwrap().unwrap();
    assert!(known.applied_at.is_some() && known.purged_at.is_some());
    let ledger = ledger(&world).await;
    assert!(!ledger.contains("NEW-VALUE") && !ledger.contains("original"), "{ledger}");
    world.audit().await;
}

#[tokio::test]
async fn many_edits_of_an_archive_are_one_rewrite() {
    let (mut world, store, log) = archived().await;
    for round in 0..3 {
        for number in 0..9 {
            edit(&store, &log, &format!("event-{number}"), &format!(r#"{{"name":"round {round}"}}"#)).await;
        }
    }
    world.proxy.take_seen();
    assert_eq!(store.rewrite().await.unwrap(), 1);
    let seen = world.proxy.take_seen();
    let count = |kind| seen.iter().filter(|request| request.kind == kind).count();
    assert_eq!((count(Kind::StartUpload), count(Kind::PutPart), count(Kind::CompleteUpload)), (1, 1, 1));
    assert!(seen.len() < 10, "{seen:?}");
    let names = read_all(&world.store(settings(9)), &log).await;
    assert!((0..9).all(|number| names[number].payload.as_str() == payload(number, "round 2")));
    assert_eq!(world.only_archive(&store).await.generation, 2);
    world.audit().await;
}

#[tokio::test]
async fn only_members_that_an_edit_touches_are_written_anew() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(12)), world.log());
    let large = |number| {
        let text = format!(r#"{{"name":"original","filler":"{}"}}"#, "x".repeat(100_000));
        coldstream::event::NewEvent {
            payload: coldstream::event::Json::parse_object(&text).unwrap(),
            ..old_event(number)
        }
    };
    import(&store, &log, (0..12).map(large)).await;
    archive(&store).await;
    let key = world.key(&world.only_archive(&store).await);
    let members: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT byte_start, byte_end, first_position FROM members ORDER BY member")
            .fetch_all(&world.sql)
            .await
            .unwrap();
    assert!(members.len() > 3);
    let old = world.bucket.get(&key).await;
    edit(&store, &log, &format!("event-{}", members[1].2 - 1), r#"{"name":"other than before"}"#).await;
    store.rewrite().await.unwrap();
    let new = world.bucket.get(&key).await;
    assert!(unzip(&new).contains("other than before"));
    assert_eq!(new[..members[0].1 as usize], old[..members[0].1 as usize]);
    assert!(new.ends_with(&old[members[2].0 as usize..]));
    assert_ne!(new, old);
    world.audit().await;
}

#[tokio::test]
async fn what_cannot_be_edited_is_said() {
    let (mut world, store, log) = archived().await;
    let request = edit_request(r#"{"name":"x"}"#);
    assert!(store.edit(&log, "never published", &request).await.unwrap().is_none());
    assert!(store.edit(&Log::new("acme", "elsewhere").unwrap(), "event-1", &request).await.unwrap().is_none());
    for id in ["event-1", "event-9"] {
        let bad = [
            EditRequest { reason: "asked by eve@example.com".into(), ..request.clone() },
            EditRequest { actor: "x".repeat(1001), ..request.clone() },
            EditRequest { ticket: "\0".into(), ..request.clone() },
        ];
        for bad in bad {
            assert!(matches!(store.edit(&log, id, &bad).await, Err(Error::Invalid(_))));
        }
        let same = edit(&store, &log, id, r#"{"name":"original","phone":null,"nested":{"x/y":1}}"#).await;
        assert!(same.edit.is_none(), "nothing changed, so there is nothing to record");
        assert_eq!(same.missing, ["/nested/x~1y", "/phone"]);
    }
    assert_eq!(ledger(&world).await, "");
    assert_eq!(store.rewrite().await.unwrap(), 0);
    world.audit().await;
}

#[tokio::test]
async fn publishing_the_old_content_again_does_not_undo_an_edit() {
    let (mut world, store, log) = archived().await;
    for id in ["event-1", "event-9"] {
        edit(&store, &log, id, r#"{"name":"edited"}"#).await;
    }
    for is_rewritten in [false, true] {
        if is_rewritten {
            store.rewrite().await.unwrap();
        }
        for number in [1, 9] {
            let again = store.publish(&log, vec![old_event(number)]).await;
            assert!(matches!(again, Err(Error::Conflict { .. })), "{again:?}");
            import(&store, &log, [old_event(number)]).await;
            assert_eq!(seen_by_every_read(&store, &log, number).await.payload.as_str(), payload(number, "edited"));
        }
    }
    assert_eq!(publish(&store, &log, vec![old_event(2)]).await[0].position, 3);
    world.audit().await;
}

/// How far a rewriter comes that is stopped on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begun,
    Uploaded,
    Replaced,
    Promoted,
}

#[tokio::test]
async fn a_rewriter_may_die_after_any_step() {
    for last in [Step::Begun, Step::Uploaded, Step::Replaced, Step::Promoted] {
        for is_read_first in [true, false] {
            let (mut world, dying, log) = archived().await;
            world.bucket.keep_versions().await;
            let archive_id = world.only_archive(&dying).await.id;
            edit(&dying, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
            let lease = world.lease(&log).await;
            let rewrite = dying.begin_rewrite(lease, archive_id).await.unwrap().unwrap();
            if last != Step::Begun {
                let prepared = rewrite.upload().await.unwrap();
                if last != Step::Uploaded {
                    let replaced = prepared.replace().await.unwrap();
                    if last == Step::Promoted {
                        replaced.promote().await.unwrap();
                    }
                }
            }
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

async fn no_version_holds(world: &World, text: &str) {
    for version in world.bucket.versions().await {
        assert!(!unzip(&version).contains(text), "the old value is left");
    }
}

#[tokio::test]
async fn a_rewriter_that_lost_its_turn_changes_nothing_when_it_wakes() {
    for last in [Step::Begun, Step::Uploaded, Step::Replaced] {
        for is_rewritten_by_other in [true, false] {
            let (mut world, sleeper, log) = archived().await;
            let other = world.store(settings(9));
            let archive_id = world.only_archive(&other).await.id;
            edit(&sleeper, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
            let lease = world.lease(&log).await;
            let take_over = async {
                world.expire_leases().await;
                if is_rewritten_by_other {
                    other.rewrite().await.unwrap();
                } else {
                    assert_eq!(other.sweep().await.unwrap(), 1);
                }
            };
            let rewrite = sleeper.begin_rewrite(lease, archive_id).await.unwrap().unwrap();
            let outcome = match last {
                Step::Begun => {
                    take_over.await;
                    rewrite.upload().await.err()
                }
                Step::Uploaded => {
                    let prepared = rewrite.upload().await.unwrap();
                    take_over.await;
                    prepared.replace().await.err()
                }
                _ => {
                    let replaced = rewrite.upload().await.unwrap().replace().await.unwrap();
                    take_over.await;
                    let outcome = replaced.promote().await;
                    assert!(outcome.is_ok(), "it is done already: {outcome:?}");
                    None
                }
            };
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
    let rewrite = store.begin_rewrite(lease, archive_id).await.unwrap().unwrap();
    edit(&store, &log, "event-4", r#"{"name":"second"}"#).await;
    edit(&store, &log, "event-5", r#"{"name":"third"}"#).await;
    rewrite.upload().await.unwrap().replace().await.unwrap().promote().await.unwrap();
    let expected = payload(4, "second").replace("64.30", "1");
    let reader = world.store(settings(9));
    assert_eq!(seen_by_every_read(&reader, &log, 4).await.payload.as_str(), expected);
    assert_eq!(seen_by_every_read(&reader, &log, 5).await.payload.as_str(), payload(5, "third"));
    world.recover(&store).await;
    assert_eq!(world.only_archive(&store).await.generation, 3);
    assert_eq!(seen_by_every_read(&reader, &log, 4).await.payload.as_str(), expected);
    world.audit().await;
}

#[tokio::test]
async fn a_versioned_bucket_keeps_no_version_with_the_old_value() {
    let world = World::new().await;
    let (mut world, log) = (world, Log::new("acme", "orders").unwrap());
    world.bucket.keep_versions().await;
    let store = world.store(settings(5));
    import(&store, &log, (0..10).map(old_event)).await;
    assert_eq!(archive(&store).await, 10);
    for name in ["second", "third"] {
        edit(&store, &log, "event-3", &format!(r#"{{"name":"{name}"}}"#)).await;
        assert_eq!(store.rewrite().await.unwrap(), 1);
    }
    no_version_holds(&world, &payload(3, "original")).await;
    no_version_holds(&world, "second").await;
    assert_eq!(world.bucket.versions().await.len(), 2);
    world.audit().await;
}

#[tokio::test]
async fn an_orphan_of_a_versioned_bucket_leaves_no_version() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(5)), world.log());
    world.bucket.keep_versions().await;
    import(&store, &log, (0..5).map(old_event)).await;
    let verified =
        store.claim(world.lease(&log).await).await.unwrap().unwrap().upload().await.unwrap().read_back().await.unwrap();
    let outcome = edit(&store, &log, "event-3", r#"{"name":"NEW-VALUE"}"#).await;
    let line = outcome.edit.unwrap();
    assert!(line.purged_at.is_none(), "an object on its way has the old value");
    assert!(matches!(verified.commit().await, Err(Error::GaveWay(_))));
    store.sweep().await.unwrap();
    assert!(store.edit_by_id(line.id).await.unwrap().unwrap().purged_at.is_none(), "the lease has not expired");
    world.expire_leases().await;
    store.sweep().await.unwrap();
    assert_eq!(world.bucket.versions().await.len(), 0);
    assert!(store.edit_by_id(line.id).await.unwrap().unwrap().purged_at.is_some());
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_archiving_and_rewriting_all_at_once() {
    const EVENTS: usize = 40;
    let mut world = World::new().await;
    let log = world.log();
    let processes = [world.store(settings(5)), world.store(settings(5)), world.store(settings(5))];
    import(&processes[0], &log, (0..EVENTS).map(old_event)).await;
    let editors = (0..2).map(|editor| {
        let (store, log) = (processes[editor].clone(), log.clone());
        tokio::spawn(async move {
            for round in 0..3 {
                for number in (editor..EVENTS).step_by(2) {
                    let patch = format!(r#"{{"name":"round {round}"}}"#);
                    let event = edit(&store, &log, &format!("event-{number}"), &patch).await.event;
                    let seen = store.event(&log, &event.id).await.unwrap().unwrap();
                    assert_eq!(seen.payload.as_str(), payload(number, &format!("round {round}")));
                }
            }
        })
    });
    let editors = tokio::spawn(join_all(editors));
    let movers = processes.clone().map(|store| async move {
        store.archive(|_, _| {}).await.unwrap();
        store
            .rewrite()
            .await
            .map(drop)
            .or_else(|error| if matches!(error, Error::GaveWay(_)) { Ok(()) } else { Err(error) })
    });
    for mover in movers {
        mover.await.unwrap();
    }
    while !editors.is_finished() {
        let rounds = processes.iter().map(|store| async {
            store.archive(|_, _| {}).await.unwrap();
            match store.rewrite().await {
                Ok(_) | Err(Error::GaveWay(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
        join_all(rounds).await;
    }
    for editor in editors.await.unwrap() {
        editor.unwrap();
    }
    world.recover(&processes[0]).await;
    assert_eq!(archive(&processes[0]).await, 0);
    let events = read_all(&world.store(settings(5)), &log).await;
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.payload.as_str(), payload(number, "round 2"));
    }
    assert_eq!(events.len(), EVENTS);
    for version in world.bucket.versions().await {
        let text = unzip(&version);
        assert!(["original", "round 0", "round 1"].iter().all(|old| !text.contains(old)), "{text}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_meets_a_rewrite_begins_anew() {
    for kind_of_other in [Step::Replaced, Step::Promoted] {
        let (mut world, store, log) = archived().await;
        let archive_id = world.only_archive(&store).await.id;
        let gate = Gate::new();
        let mut held = Some(gate.clone());
        world.proxy.script(move |request| match held.take_if(|_| request.kind == Kind::Get) {
            Some(gate) => Fate::Hold(gate),
            None => Fate::Pass,
        });
        let (reader, reader_log) = (world.store(settings(9)), log.clone());
        let reading = tokio::spawn(async move { read_all(&reader, &reader_log).await });
        gate.arrival().await;
        edit(&store, &log, "event-4", r#"{"name":"NEW-VALUE"}"#).await;
        let rewrite = store.begin_rewrite(world.lease(&log).await, archive_id).await.unwrap().unwrap();
        let replaced = rewrite.upload().await.unwrap().replace().await.unwrap();
        if kind_of_other == Step::Promoted {
            replaced.promote().await.unwrap();
        }
        gate.open();
        let found = reading.await.unwrap();
        assert_eq!(found[4].payload.as_str(), payload(4, "NEW-VALUE"));
        assert_eq!(found.len(), 10);
        world.recover(&store).await;
        world.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_of_a_rewrite_may_get_lost() {
    let losses = [(false, false), (false, true), (true, false), (true, true)];
    join_all(losses.map(|(is_reply, is_for_good)| lose_each(is_reply, is_for_good))).await;
}

async fn lose_each(is_reply: bool, is_for_good: bool) {
    let (mut world, _, log) = archived().await;
    world.bucket.keep_versions().await;
    let mut name = String::from("original");
    for k in 1.. {
        let rewriter = world.store(settings(9));
        let old = std::mem::replace(&mut name, format!("name-{k}"));
        edit(&rewriter, &log, "event-4", &format!(r#"{{"name":"{name}"}}"#)).await;
        let mut count = 0;
        world.proxy.take_seen();
        world.proxy.script(move |_| {
            count += 1;
            match count {
                _ if count < k || (count > k && !is_for_good) => Fate::Pass,
                _ if count == k && is_reply => Fate::LoseReply,
                _ => Fate::LoseRequest,
            }
        });
        let outcome = rewriter.rewrite().await;
        let requests = world.proxy.take_seen().len();
        world.proxy.heal();
        drop(rewriter);
        let case = format!("reply {is_reply}, for good {is_for_good}, request {k}: {outcome:?}");
        let next = world.store(settings(9));
        assert_eq!(read_all(&next, &log).await[4].payload.as_str(), payload(4, &name), "{case}");
        world.recover(&next).await;
        assert_eq!(read_all(&next, &log).await[4].payload.as_str(), payload(4, &name), "{case}");
        no_version_holds(&world, &payload(4, &old)).await;
        world.audit().await;
        if requests < k {
            assert!(outcome.is_ok() && k > 5, "{case}");
            break;
        }
    }
}
