//! A batch is published as a whole or not at all, positions have no gaps, and the same batch twice is published once.

mod archived_ids;
mod joined;

use coldstream::bucket::object_key;
use coldstream::event::{Json, Log, Metadata, NewEvent};
use coldstream::store::{Conflicts, Error, ImportBatch, Published};
use futures::future::try_join_all;

use crate::support::{
    Kind, World, archive, edit, event, everything, import, old_event, publish, read_all, settings, unzip,
};

fn positions(published: &[Published]) -> Vec<i64> {
    published.iter().map(|published| published.position).collect()
}

#[tokio::test]
async fn positions_rise_without_gaps() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    assert_eq!(positions(&publish(&store, &log, (0..3).map(event).collect()).await), [1, 2, 3]);
    assert!(publish(&store, &log, Vec::new()).await.is_empty());
    assert_eq!(positions(&publish(&store, &log, (3..5).map(event).collect()).await), [4, 5]);
    let other = Log::new("acme", "payments").unwrap();
    assert_eq!(positions(&publish(&store, &other, vec![event(0)]).await), [1], "every log counts for itself");
    world.audit().await;
}

#[tokio::test]
async fn one_bad_event_keeps_the_whole_batch_out() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    let bad = [
        NewEvent { event_type: String::new(), ..event(1) },
        NewEvent { id: "a\0b".into(), ..event(1) },
        NewEvent { id: "x".repeat(256), ..event(1) },
        NewEvent { stream: "x".repeat(1021), ..event(1) },
        NewEvent { payload: Json::parse("[]").unwrap(), ..event(1) },
        NewEvent { metadata: Metadata { user_id: "\0".into(), ..Metadata::default() }, ..event(1) },
    ];
    for bad in bad {
        let refused = store.publish(&log, vec![event(0), bad, event(2)]).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(read_all(&store, &log).await, []);
    assert_eq!(positions(&publish(&store, &log, vec![event(0)]).await), [1], "no position was used up");
    world.audit().await;
}

#[tokio::test]
async fn publishing_again_changes_nothing() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    let events: Vec<NewEvent> = (0..5).map(old_event).collect();
    let first = publish(&store, &log, events.clone()).await;
    // All of the events are hot first, and then three of them are archived.
    for expected_archived in [0, 3] {
        if expected_archived > 0 {
            assert_eq!(archive(&store).await, expected_archived);
        }
        let again = publish(&world.store(settings(3)), &log, events.clone()).await;
        assert_eq!(positions(&again), positions(&first));
        assert!(again.iter().all(|published| !published.is_new));
    }
    // A batch may have old and new events, in any order.
    let mixed = publish(&store, &log, vec![old_event(7), events[4].clone(), events[0].clone(), old_event(8)]).await;
    assert_eq!(positions(&mixed), [6, 5, 1, 7]);
    assert_eq!(mixed.iter().map(|published| published.is_new).collect::<Vec<_>>(), [true, false, false, true]);
    world.audit().await;
}

#[tokio::test]
async fn another_content_under_the_same_id_is_refused() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    let events: Vec<NewEvent> = (0..3).map(old_event).collect();
    publish(&store, &log, events.clone()).await;
    assert_eq!(archive(&store).await, 2);
    let hot_and_archived = [&events[0], &events[2]];
    for there in hot_and_archived {
        let other_payload = Json::parse_object(r#"{"price":64.3}"#).unwrap();
        for other in [
            NewEvent { payload: other_payload, ..there.clone() },
            NewEvent { stream: "another".into(), ..there.clone() },
            NewEvent { event_type: "another".into(), ..there.clone() },
            NewEvent { reason: "another".into(), ..there.clone() },
            NewEvent { metadata: Metadata::default(), ..there.clone() },
        ] {
            let refused = store.publish(&log, vec![old_event(9), other]).await;
            assert!(matches!(&refused, Err(Error::Conflict { id }) if *id == there.id), "{refused:?}");
        }
    }
    assert_eq!(read_all(&store, &log).await.len(), 3);
    world.audit().await;
}

#[tokio::test]
async fn publishing_again_after_edits_changes_nothing() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    let events: Vec<NewEvent> = (0..3).map(old_event).collect();
    let typed = |index: usize, name: &str| NewEvent { event_type: name.into(), ..events[index].clone() };
    publish(&store, &log, events.clone()).await;
    assert_eq!(archive(&store).await, 2);
    let first_type = &events[0].event_type;
    for (old, new) in [(first_type.as_str(), "second"), ("second", "third"), ("never", "used")] {
        for index in [0, 2] {
            edit(&store, &log, &events[index].id, &format!(r#"{{"name":"as of {new}"}}"#)).await;
        }
        store.rename_type(log.topic(), old, new).await.unwrap();
        let before = read_all(&store, &log).await;
        let again = publish(&store, &log, events.clone()).await;
        assert!(positions(&again) == [1, 2, 3] && again.iter().all(|published| !published.is_new), "{again:?}");
        for refused in [typed(0, "never"), NewEvent { reason: "another".into(), ..events[2].clone() }] {
            let refused = store.publish(&log, vec![refused]).await;
            assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
        }
        assert_eq!(read_all(&store, &log).await, before);
    }
    for name in ["second", "third"] {
        publish(&store, &log, vec![typed(0, name)]).await;
    }
    assert_eq!(read_all(&store, &log).await.len(), 3);
    store.rewrite().await.unwrap();
    world.audit().await;
}

#[tokio::test]
async fn an_id_may_come_twice_in_a_batch_with_one_content() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    let twice = publish(&store, &log, vec![event(0), event(1), event(0)]).await;
    assert_eq!(positions(&twice), [1, 2, 1]);
    let other = NewEvent { reason: "another".into(), ..event(2) };
    let refused = store.publish(&log, vec![event(2), other]).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    world.audit().await;
}

#[tokio::test]
async fn events_without_ids_are_given_some() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    let nameless = || NewEvent { id: String::new(), ..event(0) };
    let published = publish(&store, &log, vec![nameless(), nameless()]).await;
    assert!(!published[0].id.is_empty() && published[0].id != published[1].id);
    assert_eq!(store.event(&log, &published[1].id).await.unwrap().unwrap().position, 2);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_skips_nothing_while_many_publish() {
    const PUBLISHERS: usize = 8;
    const BATCHES: usize = 12;
    let mut world = World::new().await;
    let log = world.log();
    let processes = [world.store(settings(10)), world.store(settings(10))];
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let (store, log) = (processes[publisher % 2].clone(), log.clone());
        async move {
            for batch in 0..BATCHES {
                let first = (publisher * BATCHES + batch) * 3;
                // Every second publisher repeats the event before its batch, which another batch has, too.
                let events: Vec<NewEvent> = (first - publisher % 2..first + 3).map(event).collect();
                store.publish(&log, events).await?;
            }
            Ok::<(), Error>(())
        }
    });
    let all = tokio::spawn(try_join_all(publishers));
    let reader = world.store(settings(10));
    let mut reached = 0;
    loop {
        let is_over = all.is_finished();
        let page = reader.read(&log, &coldstream::store::Query { from: reached + 1, ..everything() }).await.unwrap();
        let found: Vec<i64> = page.events.iter().map(|event| event.position).collect();
        assert!(found.iter().copied().eq(reached + 1..reached + 1 + found.len() as i64), "{reached}: {found:?}");
        assert_eq!(page.head_position, reached + found.len() as i64);
        reached = page.head_position;
        if is_over {
            break;
        }
    }
    all.await.unwrap().unwrap();
    assert_eq!(reached, (PUBLISHERS * BATCHES * 3) as i64);
    world.audit().await;
}

#[tokio::test]
async fn payloads_are_kept_to_the_letter() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    let payloads = [
        r#"{"price":64.30,"e":1e999,"big":9007199254740993,"minus":-0,"z":1,"a":2}"#,
        r#"{"nul":"\u0000","half":"\ud800","slash":"\/","é":"\u00e9é😀","":{}}"#,
        r#"{"sql":"'; DROP TABLE events; --","html":"<script>{{x}}</script>","sheet":"=1+1"}"#,
        r#"{"nested":{"twice":1,"twice":2},"list":[[],[{}],null,true],"line":"a\nb\r"}"#,
        "{\"separators\":\"\u{2028}\u{7f}\"}",
    ];
    let events = payloads.iter().enumerate().map(|(number, text)| NewEvent {
        payload: Json::parse_object(text).unwrap(),
        stream: "st\r\nream \"'\\".into(),
        event_type: "ty\u{2028}pe,\n[".into(),
        reason: "],\n".into(),
        metadata: Metadata {
            correlation_id: "\u{1}\u{7f}".into(),
            causation_id: "}]".into(),
            user_id: "😀".into(),
            deployment_id: i64::MIN,
        },
        ..old_event(number)
    });
    publish(&store, &log, events.collect()).await;
    let hot = read_all(&store, &log).await;
    for (event, text) in hot.iter().zip(payloads) {
        assert_eq!(event.payload.as_str(), text);
    }
    assert_eq!(archive(&store).await, payloads.len() as i64);
    assert_eq!(read_all(&world.store(settings(1)), &log).await, hot);
    let object = world.bucket.get(&world.bucket.keys().await[0]).await;
    let json = unzip(&object);
    assert!(json.contains(payloads[0]), "a reader of the object sees what was sent: {json}");
    world.audit().await;
}

#[tokio::test]
async fn hostile_names_have_their_own_places() {
    let mut world = World::new().await;
    let store = world.store(settings(1));
    let long = "😀".repeat(255);
    let names = [
        ("", "orders"),
        ("_", "orders"),
        ("%5F", "orders"),
        ("../x", ".."),
        ("..", "../x"),
        (".", "a/b"),
        ("a", "b/c"),
        ("a/b", "c"),
        ("a\nb", "a\r\nb"),
        ("\u{e9}", "NFC"),
        ("e\u{301}", "NFC"),
        (&long, &long),
        ("%2e%2e%2f", "\\"),
    ];
    let logs = names.map(|(tenant, topic)| Log::new(tenant, topic).unwrap());
    for (number, log) in logs.iter().enumerate() {
        import(&store, log, [old_event(number)]).await;
    }
    let hot = futures::future::join_all(logs.iter().map(|log| read_all(&store, log))).await;
    assert_eq!(archive(&store).await, logs.len() as i64);

    let keys = world.bucket.keys().await;
    assert_eq!(keys.len(), logs.len());
    assert!(keys.iter().all(|key| key.len() <= 1024 && key.split('/').count() == 3), "{keys:?}");
    assert!(keys.iter().all(|key| key.split('/').all(|segment| !segment.trim_matches('.').is_empty())), "{keys:?}");
    let reader = world.store(settings(1));
    for (number, log) in logs.iter().enumerate() {
        let [archive] = reader.archives(log).await.unwrap().try_into().unwrap();
        assert!(keys.contains(&object_key(log, archive.id)), "{log}");
        assert_eq!(read_all(&reader, log).await, hot[number]);
        assert_eq!(hot[number][0].id, format!("event-{number}"));
    }
    for (log, prefix) in [(&logs[0], "_/orders/"), (&logs[1], "%5F/orders/"), (&logs[2], "%255F/orders/")] {
        let [archive] = reader.archives(log).await.unwrap().try_into().unwrap();
        assert!(object_key(log, archive.id).starts_with(prefix), "{log}");
    }
    world.audit().await;
}

/// Another publisher publishes the same event between two looks of this one, and the event is archived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_archived_while_a_publisher_looks_is_found() {
    let mut world = World::new().await;
    let (slow, other, log) = (world.store(settings(2)), world.store(settings(1)), world.log());
    import(&other, &log, (0..2).map(old_event)).await;
    archive(&other).await;
    let gate = world.proxy.hold_first(Kind::Get);
    let importing = tokio::spawn({
        let log = log.clone();
        async move { import(&slow, &log, [old_event(0), old_event(7)]).await }
    });
    gate.arrival().await;
    import(&other, &log, [old_event(7)]).await;
    archive(&other).await;
    gate.open();
    importing.await.unwrap();
    let ids: Vec<String> = read_all(&other, &log).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["event-0", "event-1", "event-7"]);
    world.audit().await;
}

#[tokio::test]
async fn an_import_of_many_logs_is_run_again_over_their_archives() {
    let mut world = World::new().await;
    let store = world.store(settings(1));
    let logs: Vec<Log> = (0..8).map(|number| Log::new(format!("tenant-{number}"), "orders").unwrap()).collect();
    for _ in 0..2 {
        let mut batch = ImportBatch::default();
        for log in &logs {
            batch.push(log.clone(), old_event(1)).unwrap();
        }
        store.import(batch, Conflicts::StopAt).await.unwrap();
        archive(&store).await;
    }
    for log in &logs {
        assert_eq!(read_all(&store, log).await.len(), 1);
    }
    world.audit().await;
}
