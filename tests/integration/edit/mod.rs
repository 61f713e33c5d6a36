//! Every later read shows an edit, wherever the event is; the object is rewritten in place, and what the rewrite
//! superseded goes.

mod copying;
mod purging;
mod rewriters;

use std::sync::Arc;

use coldstream::event::{Event, Filter, Json, Log, NewEvent};
use coldstream::store::{EditRequest, Error, Query, Store};
use futures::StreamExt;

use crate::support::{
    Kind, World, archive, edit, edit_request, import, old_event, payload, publish, read_all, settings, unzip,
};

/// Returns a world with an archive of the first nine of ten events.
async fn archived() -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(9)), world.log());
    import(&store, &log, (0..10).map(old_event)).await;
    assert_eq!(archive(&store).await, 9);
    world.proxy.take_seen();
    (world, store, log)
}

/// Returns the event that every way of reading shows.
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

/// Returns every row about edits, as text.
async fn ledger(world: &World) -> String {
    let rows: Vec<String> = sqlx::query_scalar("SELECT row_to_json(edits)::text FROM edits ORDER BY sequence")
        .fetch_all(&world.sql)
        .await
        .unwrap();
    rows.join("\n")
}

async fn no_version_holds(world: &World, text: &str) {
    for version in world.bucket.versions().await {
        assert!(!unzip(&version).contains(text), "the old value is left");
    }
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
    // A process that has the member in memory sees the edit as well as one that has not.
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
        NewEvent { payload: Json::parse_object(&text).unwrap(), ..old_event(number) }
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
            EditRequest { actor: "eve@example.com".into(), ..request.clone() },
            EditRequest { reason: "asked by eve@example.com".into(), ..request.clone() },
            EditRequest { ticket: "mail of eve@example.com".into(), ..request.clone() },
            EditRequest { actor: "x".repeat(1001), ..request.clone() },
            EditRequest { ticket: "\0".into(), ..request.clone() },
        ];
        for bad in bad {
            let refused = store.edit(&log, id, &bad).await;
            assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
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
            assert!(!publish(&store, &log, vec![old_event(number)]).await[0].is_new);
            import(&store, &log, [old_event(number)]).await;
            assert_eq!(seen_by_every_read(&store, &log, number).await.payload.as_str(), payload(number, "edited"));
        }
    }
    assert_eq!(publish(&store, &log, vec![old_event(2)]).await[0].position, 3);
    world.audit().await;
}

/// The second edit overtakes the first one, which has read the event already: the first one does not answer with what
/// it has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_edits_of_one_archived_event_both_answer_what_readers_see_afterwards() {
    let (mut world, first, log) = archived().await;
    let second = world.store(settings(9));
    let gate = world.proxy.hold_first(Kind::Get);
    let editing = tokio::spawn({
        let log = log.clone();
        async move { edit(&first, &log, "event-4", r#"{"name":"FIRST"}"#).await }
    });
    gate.arrival().await;
    let reader = world.store(settings(9));
    let of_second = edit(&second, &log, "event-4", r#"{"price":1}"#).await;
    assert_eq!(of_second.event.payload.as_str(), payload(4, "original").replace("64.30", "1"));
    assert_eq!(seen_by_every_read(&reader, &log, 4).await, of_second.event);
    gate.open();
    let of_first = editing.await.unwrap();
    assert_eq!(of_first.event.payload.as_str(), payload(4, "FIRST").replace("64.30", "1"));
    assert_eq!(seen_by_every_read(&reader, &log, 4).await, of_first.event);
    assert_eq!(
        (of_first.edit.unwrap().changed, of_second.edit.unwrap().changed),
        (vec!["/name".to_owned()], vec!["/price".to_owned()])
    );
    world.recover(&second).await;
    assert_eq!(seen_by_every_read(&world.store(settings(9)), &log, 4).await, of_first.event);
    world.audit().await;
}
