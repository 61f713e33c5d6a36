//! Restored events are in rows again and nowhere else, and no read tells the difference.

mod steps;

use std::sync::Arc;

use coldstream::event::{Eligibility, Event, Filter, Log, NewEvent, PositionRange};
use coldstream::store::{Error, Query, Restored, Selection, Settings, Store};

use crate::support::{
    Program, World, archive, edit, everything, import, old_event, payload, publish, read_all, settings, young_event,
};

const HOLD_DAYS: u32 = 30;

/// Returns two archives of ten events each, and five hot events.
async fn archived() -> (World, Arc<Store>, Log) {
    let world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..25).map(old_event)).await;
    assert_eq!(archive(&store).await, 20);
    (world, store, log)
}

async fn restore(store: &Store, selection: Selection) -> Restored {
    store.restore(&selection, HOLD_DAYS, |_| {}).await.unwrap()
}

/// Ends all holds, as time does.
async fn end_holds(world: &World) {
    sqlx::query("UPDATE events SET held_until = now() - interval '1 second' WHERE held_until IS NOT NULL")
        .execute(&world.sql)
        .await
        .unwrap();
}

/// Returns all events, by every filter that matches events of the tests.
async fn seen(store: &Store, log: &Log) -> Vec<Vec<Event>> {
    let mut seen = vec![read_all(store, log).await];
    for number in 0..4 {
        for filter in [Filter::Types(vec![format!("type-{number}")]), Filter::Stream(format!("stream-{number}"))] {
            seen.push(store.read(log, &Query { filter: filter.clone(), ..everything() }).await.unwrap().events);
            let paged = Query { filter, skip: 2, limit: 3, ..everything() };
            seen.push(store.read(log, &paged).await.unwrap().events);
        }
    }
    for number in 0..25 {
        seen.push(store.event(log, &format!("event-{number}")).await.unwrap().into_iter().collect());
    }
    seen
}

#[tokio::test]
async fn an_archive_goes_back_whole() {
    for is_edited in [false, true] {
        let (mut world, store, log) = archived().await;
        world.bucket.keep_versions().await;
        let line = match is_edited {
            true => edit(&store, &log, "event-3", r#"{"name":"NEW-VALUE"}"#).await.edit,
            false => None,
        };
        let before = seen(&store, &log).await;
        let [first, second] = store.archives(&log).await.unwrap().try_into().unwrap();
        let restored = restore(&store, Selection::Archive(first.id)).await;
        assert_eq!(restored, Restored { archives: 1, events: 10, hot: 0 });
        assert_eq!(world.hot_positions().await, (1..=10).chain(21..=25).collect::<Vec<_>>());
        assert_eq!(seen(&store, &log).await, before);
        assert_eq!(seen(&world.store(settings(10)), &log).await, before);
        assert_eq!(world.bucket.keys().await, [world.key(&second)], "the object of the first one is gone");
        if let Some(line) = line {
            let line = store.edit_by_id(line.id).await.unwrap().unwrap();
            assert!(line.applied_at.is_some() && line.purged_at.is_some(), "{line:?}");
            assert_eq!(before[0][3].payload.as_str(), payload(3, "NEW-VALUE"));
        }
        let published = publish(&store, &log, vec![old_event(5)]).await;
        assert_eq!((published[0].position, published[0].is_new), (6, false));
        let again = store.restore(&Selection::Archive(first.id), HOLD_DAYS, |_| {}).await.unwrap_err();
        assert!(again.to_string().contains(&format!("there is no archive {}", first.id)), "{again}");
        world.audit().await;
    }
}

#[tokio::test]
async fn what_is_held_is_not_archived_before_the_hold_is_over() {
    let (mut world, store, log) = archived().await;
    let before = read_all(&store, &log).await;
    restore(&store, Selection::Range(log.clone(), PositionRange::closed(4, 13))).await;
    assert_eq!(archive(&store).await, 0, "five are old enough, and ten are held");
    import(&store, &log, (25..30).map(old_event)).await;
    assert_eq!(archive(&store).await, 10, "the events behind them go");
    assert_eq!(world.hot_positions().await, (4..=13).collect::<Vec<_>>());
    let oldest = store.status().await.unwrap().topics.remove(0).oldest_hot_raised_at;
    assert_eq!(oldest, old_event(3).raised_at);
    end_holds(&world).await;
    assert_eq!(archive(&store).await, 10);
    assert!(world.hot_positions().await.is_empty());
    assert_eq!(read_all(&store, &log).await[..25], before);
    // Events without a hold go with the next pass.
    let selection = Selection::Range(log.clone(), PositionRange::closed(4, 13));
    assert_eq!(store.restore(&selection, 0, |_| {}).await.unwrap().events, 10);
    assert_eq!(archive(&store).await, 10);
    world.audit().await;
}

#[tokio::test]
async fn a_range_is_taken_out_of_the_archives_that_hold_it() {
    for is_edited in [false, true] {
        let (mut world, store, log) = archived().await;
        world.bucket.keep_versions().await;
        if is_edited {
            for number in [2, 8, 10, 15] {
                edit(&store, &log, &format!("event-{number}"), r#"{"name":"NEW-VALUE"}"#).await;
            }
            store.rename_type(log.topic(), "type-1", "type-2").await.unwrap();
        }
        let before = seen(&store, &log).await;
        let mut told = Vec::new();
        let selection = Selection::Range(log.clone(), PositionRange::closed(8, 22));
        let restored = store.restore(&selection, HOLD_DAYS, |restored| told.push(restored.events)).await.unwrap();
        assert_eq!(restored, Restored { archives: 2, events: 13, hot: 2 });
        assert_eq!(told, [3, 13]);
        assert_eq!(world.hot_positions().await, (8..=25).collect::<Vec<_>>());
        let [rest] = store.archives(&log).await.unwrap().try_into().unwrap();
        assert_eq!((rest.first_position, rest.last_position, rest.count), (1, 7, 7));
        assert_eq!(seen(&store, &log).await, before);
        assert_eq!(seen(&world.store(settings(10)), &log).await, before);
        let again = restore(&store, selection).await;
        assert_eq!(again, Restored { archives: 0, events: 0, hot: 15 }, "the range is hot already");
        world.audit().await;
    }
}

#[tokio::test]
async fn a_stream_is_taken_out_of_every_archive() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(60)), world.log());
    // Each archive has some members, and one archive does not have the stream.
    let long = |number| {
        let text = format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(20_000));
        let payload = coldstream::event::Json::parse_object(&text).unwrap();
        NewEvent { payload, ..old_event(number) }
    };
    let of_other = |number| NewEvent { stream: "other".into(), ..long(number) };
    import(&store, &log, (0..120).map(long).chain((120..180).map(of_other)).chain((180..185).map(young_event))).await;
    assert_eq!(archive(&store).await, 180);
    let before = seen(&store, &log).await;
    edit(&store, &log, "event-1", r#"{"number":0}"#).await;
    edit(&store, &log, "event-2", r#"{"number":0}"#).await;
    let restored = restore(&store, Selection::Stream(log.clone(), "stream-1".into())).await;
    assert_eq!(restored, Restored { archives: 2, events: 40, hot: 2 });
    let streams: Vec<(String, i64)> =
        sqlx::query_as("SELECT stream, count(*) FROM events WHERE position <= 180 GROUP BY 1 ORDER BY 1")
            .fetch_all(&world.sql)
            .await
            .unwrap();
    assert_eq!(streams, [("stream-1".to_owned(), 40)]);
    let counts: Vec<i64> = store.archives(&log).await.unwrap().iter().map(|archive| archive.count).collect();
    assert_eq!(counts, [40, 40, 60]);
    let after = seen(&store, &log).await;
    assert_eq!(after[0].len(), 185);
    for (before, after) in before.iter().zip(&after) {
        let same = before.iter().zip(after).filter(|(before, after)| before == after).count();
        let edited = before.iter().filter(|event| ["event-1", "event-2"].contains(&event.id.as_str())).count();
        assert_eq!((before.len(), same), (after.len(), before.len() - edited));
    }
    // The rest is rewritten and restored as any archive is.
    edit(&store, &log, "event-3", r#"{"number":0}"#).await;
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(restore(&store, Selection::Stream(log.clone(), "stream-0".into())).await.events, 40);
    assert_eq!(read_all(&world.store(settings(60)), &log).await.len(), 185);
    world.audit().await;
}

#[tokio::test]
async fn personal_fields_stay_within_reach() {
    let (mut world, store, log) = archived().await;
    store.introduce_gdpr(&log, "event-3", "name", coldstream::event::Json::text("gone")).await.unwrap();
    store.introduce_gdpr(&log, "event-4", "name", coldstream::event::Json::text("gone")).await.unwrap();
    restore(&store, Selection::Range(log.clone(), PositionRange::closed(4, 4))).await;
    for number in [3, 4] {
        let event = store.event(&log, &format!("event-{number}")).await.unwrap().unwrap();
        store.invalidate_gdpr(&log, &event.gdpr["name"].id).await.unwrap();
        let event = store.event(&log, &event.id).await.unwrap().unwrap();
        assert_eq!(event.payload.as_str(), payload(number, "gone"));
    }
    store.rewrite().await.unwrap();
    end_holds(&world).await;
    let shown = read_all(&world.store(settings(10)), &log).await;
    assert_eq!((shown[3].payload.as_str(), shown[4].payload.as_str()), (&*payload(3, "gone"), &*payload(4, "gone")));
    world.audit().await;
}

#[tokio::test]
async fn what_cannot_be_restored_is_said() {
    let (mut world, store, log) = archived().await;
    let nowhere = Log::new("acme", "nowhere").unwrap();
    for (selection, expected) in [
        (Selection::Archive(uuid::Uuid::nil()), "there is no archive 00000000"),
        (Selection::Range(log.clone(), PositionRange::closed(26, 99)), "there are no such events"),
        (Selection::Range(log.clone(), PositionRange::closed(9, 8)), "positions from 9 to 8 are none"),
        (Selection::Stream(log.clone(), "stream-9".into()), "there are no such events"),
        (Selection::Stream(nowhere, "stream-1".into()), "nothing was ever published"),
    ] {
        let error = store.restore(&selection, HOLD_DAYS, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{selection:?}: {error}");
    }
    let excluded_topics = [log.topic().to_owned()].into();
    let eligibility = Eligibility { excluded_topics, ..settings(10).eligibility };
    let excluding = world.store(Settings { eligibility, ..settings(10) });
    let error = excluding
        .restore(&Selection::Range(log.clone(), PositionRange::closed(1, 9)), HOLD_DAYS, |_| {})
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if why.contains("once they are consumed")), "{error}");

    let [archive, _] = store.archives(&log).await.unwrap().try_into().unwrap();
    let (key, object) = (world.key(&archive), world.bucket.get(&world.key(&archive)).await);
    world.bucket.delete(&key).await;
    let error = store.restore(&Selection::Archive(archive.id), HOLD_DAYS, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains(&key), "{error}");
    assert_eq!(world.hot_positions().await.len(), 5);
    let etag = world.bucket.put(&key, object).await;
    world.expect_etag(archive.id, &etag).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_it_did() {
    let (mut world, store, log) = archived().await;
    let before = read_all(&store, &log).await;
    let program = || Program::new(&world, 10).set("LOG_LEVEL", "warn");
    let of_topic = ["restore", "--topic", "orders", "--tenant", "acme"];
    let stream = program().run(&[&of_topic[..], &["--stream", "stream-1"]].concat()).await.succeeded();
    assert!(stream.starts_with("restored 7 events from 2 archives in ") && stream.ends_with("; 1 were hot already\n"));
    let range = [&of_topic[..], &["--from", "3", "--to", "6", "--hold-days", "1"]].concat();
    assert!(program().run(&range).await.succeeded().starts_with("restored 3 events from 1 archives"));
    assert!(program().run(&range).await.succeeded().starts_with("restored 0 events from 0 archives"));
    let id = store.archives(&log).await.unwrap()[0].id.to_string();
    let whole = program().run(&["restore", "--archive", &id]).await.succeeded();
    assert!(whole.starts_with("restored 4 events from 1 archives"), "{whole}");
    assert!(program().run(&["restore", "--archive", &id]).await.failed().contains("there is no archive"));
    let empty = program().run(&[&of_topic[..], &["--from", "90", "--to", "99"]].concat()).await.failed();
    assert!(empty.contains("there are no such events"), "{empty}");
    for wrong in [
        vec!["restore"],
        vec!["restore", "--topic", "orders"],
        vec!["restore", "--topic", "orders", "--from", "1"],
        vec!["restore", "--topic", "orders", "--stream", "a", "--from", "1", "--to", "2"],
        vec!["restore", "--archive", &id, "--topic", "orders"],
    ] {
        assert_eq!(program().run(&wrong).await.code, Some(2), "{wrong:?}");
    }
    assert_eq!(read_all(&world.store(settings(10)), &log).await, before);
    world.audit().await;
}
