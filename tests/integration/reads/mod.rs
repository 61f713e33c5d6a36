//! Every read equals a read of a plain list, whatever is hot, archived, edited or rewritten.

mod random;

use std::collections::BTreeMap;

use coldstream::event::{Event, Filter, Log};
use coldstream::store::{Page, Query};
use futures::StreamExt;

use crate::support::{
    Kind, World, archive, edit, everything, import, old_event, publish, read_all, settings, young_event,
};

/// The model of a log: a list of its events.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
}

impl Model {
    fn matching<'a>(&'a self, filter: &'a Filter) -> impl DoubleEndedIterator<Item = &'a Event> {
        self.events.iter().filter(move |event| match filter {
            Filter::All => true,
            Filter::Types(types) => types.contains(&event.event_type),
            Filter::Stream(stream) => event.stream == *stream,
        })
    }

    fn read(&self, query: &Query) -> Page {
        let from = self.matching(&query.filter).filter(|event| event.position >= query.from);
        let events = from.skip(query.skip as usize).take(query.limit as usize).cloned().collect();
        Page { events, head_position: self.events.len() as i64, edit_counter: 0, is_cut: false }
    }
}

#[tokio::test]
async fn pages_are_whole_across_the_boundary() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..25).map(old_event)).await;
    let hot = read_all(&store, &log).await;
    archive(&store).await;
    for limit in [1, 3, 7, 10, 100] {
        let reader = world.store(settings(10));
        let mut pages = Vec::new();
        for page in 0.. {
            let found = reader.read(&log, &Query { skip: page * limit, limit, ..everything() }).await.unwrap();
            assert_eq!(found.head_position, 25);
            let is_last = found.events.is_empty();
            assert!(is_last || found.events.len() as i64 == limit.min(25 - page * limit), "page {page} of {limit}");
            pages.extend(found.events);
            if is_last {
                break;
            }
        }
        assert_eq!(pages, hot);
    }
    world.audit().await;
}

#[tokio::test]
async fn odd_questions_have_empty_answers() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    let nowhere = Log::new("acme", "nobody published here").unwrap();
    let nothing = Page { events: Vec::new(), head_position: 0, edit_counter: 0, is_cut: false };
    assert_eq!(store.read(&nowhere, &everything()).await.unwrap(), nothing);
    assert_eq!(store.event(&nowhere, "event-1").await.unwrap(), None);
    assert_eq!(store.last_event(&nowhere, &[]).await.unwrap(), None);
    import(&store, &log, (0..5).map(old_event)).await;
    archive(&store).await;
    let odd = [
        Query { from: 6, ..everything() },
        Query { from: i64::MAX, skip: i64::MAX, ..everything() },
        Query { skip: 5, ..everything() },
        Query { limit: 0, ..everything() },
        Query { limit: 0, skip: 1, filter: Filter::Stream("stream-1".into()), ..everything() },
        Query { limit: -1, ..everything() },
        Query { limit: i64::MIN, filter: Filter::Stream("stream-1".into()), ..everything() },
        Query { from: i64::MAX, filter: Filter::Stream("stream-1".into()), ..everything() },
        Query { skip: i64::MAX, filter: Filter::Types(vec!["type-1".into()]), ..everything() },
        Query { filter: Filter::Types(Vec::new()), ..everything() },
        Query { filter: Filter::Stream("absent".into()), ..everything() },
    ];
    for query in odd {
        let page = store.read(&log, &query).await.unwrap();
        assert_eq!(page, Page { events: Vec::new(), head_position: 5, edit_counter: 0, is_cut: false }, "{query:?}");
    }
    let all = read_all(&store, &log).await;
    let negative = Query { from: -5, skip: -5, ..everything() };
    assert_eq!(store.read(&log, &negative).await.unwrap().events, all);
    world.audit().await;
}

#[tokio::test]
async fn a_hot_read_asks_s3_nothing_and_a_point_read_twice_at_most() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..200).map(old_event)).await;
    import(&store, &log, (200..210).map(young_event)).await;
    assert_eq!(archive(&store).await, 200);
    world.proxy.take_seen();

    let reader = world.store(settings(10));
    reader.read(&log, &Query { from: 201, ..everything() }).await.unwrap();
    reader.event(&log, "event-205").await.unwrap().unwrap();
    reader.last_event(&log, &[]).await.unwrap().unwrap();
    reader.event(&log, "never published").await.unwrap();
    publish(&reader, &log, vec![young_event(210), young_event(205)]).await;
    assert_eq!(world.proxy.take_seen(), [], "hot events, and events that are not there");

    for number in [0, 9, 10, 99, 199] {
        let reader = world.store(settings(10));
        reader.event(&log, &format!("event-{number}")).await.unwrap().unwrap();
        let gets = world.proxy.take_seen();
        assert!((1..=2).contains(&gets.len()) && gets.iter().all(|request| request.kind == Kind::Get), "{gets:?}");
    }
    let reader = world.store(settings(10));
    reader.read(&log, &Query { from: 150, limit: 1, ..everything() }).await.unwrap();
    assert_eq!(world.proxy.take_seen().len(), 1);
    reader.read(&log, &Query { from: 151, limit: 3, ..everything() }).await.unwrap();
    assert_eq!(world.proxy.take_seen().len(), 1, "one more member");
    reader.read(&log, &Query { from: 145, limit: 10, ..everything() }).await.unwrap();
    assert_eq!(world.proxy.take_seen().len(), 0, "both members are remembered");

    let types = Filter::Types(vec!["type-1".into()]);
    for (filter, skip) in [(types, 45), (Filter::Stream("stream-1".into()), 60), (Filter::All, 190)] {
        let deep = Query { filter, skip, limit: 5, ..everything() };
        assert_eq!(world.store(settings(10)).read(&log, &deep).await.unwrap().events.len(), 5);
        let seen = world.proxy.take_seen();
        assert!((1..=3).contains(&seen.len()), "a deep page reads its own members only: {seen:?}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_member_share_a_fetch() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..10).map(old_event)).await;
    archive(&store).await;
    world.proxy.take_seen();
    let reader = world.store(settings(10));
    let reads = (0..20).map(|number| {
        let (reader, log) = (reader.clone(), log.clone());
        tokio::spawn(async move { reader.event(&log, &format!("event-{}", number % 10)).await })
    });
    for read in futures::future::join_all(reads).await {
        assert!(read.unwrap().unwrap().is_some());
    }
    assert_eq!(world.proxy.take_seen().len(), 1);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_notice_events_move() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(7)), world.log());
    import(&store, &log, (0..300).map(old_event)).await;
    let before = read_all(&store, &log).await;
    let mover = tokio::spawn(async move {
        assert_eq!(archive(&store).await, 294);
        for number in (0..290).step_by(29) {
            edit(&store, &Log::new("acme", "orders").unwrap(), &format!("event-{number}"), r#"{"name":"new"}"#).await;
            assert_eq!(store.rewrite().await.unwrap(), 1);
        }
    });
    let reader = world.store(settings(7));
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    while !mover.is_finished() {
        let found = read_all(&reader, &log).await;
        let same = |event: &Event, old: &Event| event.id == old.id && event.position == old.position;
        assert!(found.len() == 300 && found.iter().zip(&before).all(|(event, old)| same(event, old)));
        let edited = found.iter().zip(&before).filter(|(event, old)| event.payload != old.payload).count();
        *seen.entry(edited).or_default() += 1;
        assert!(seen.last_key_value().is_some_and(|(most, _)| *most == edited), "an edit was undone: {seen:?}");
    }
    mover.await.unwrap();
    world.audit().await;
}

#[tokio::test]
async fn a_replay_goes_on_over_many_windows() {
    const EVENTS: usize = 33_200;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1500)), world.log());
    import(&store, &log, (0..EVENTS).map(old_event)).await;
    let model = Model { events: read_all(&store, &log).await };
    assert_eq!(model.events.len(), EVENTS);
    assert_eq!(archive(&store).await, 33_000);
    let queries = [
        everything(),
        Query { from: 7999, skip: 3, limit: 10_000, ..everything() },
        Query { filter: Filter::Types(vec!["type-1".into(), "type-3".into()]), ..everything() },
        Query { filter: Filter::Stream("stream-2".into()), from: 7, skip: 1, limit: 1700 },
    ];
    for query in queries {
        let windows: Vec<_> = store.replay(log.clone(), query.clone()).collect().await;
        let replayed: Vec<Event> = windows.into_iter().flat_map(Result::unwrap).collect();
        assert!(replayed == model.read(&query).events, "{query:?}");
    }
    // An event that is published during a replay is read, too; a few windows are read ahead.
    let mut windows = Box::pin(store.replay(log.clone(), everything()));
    let mut count = windows.next().await.unwrap().unwrap().len();
    publish(&store, &log, vec![young_event(EVENTS)]).await;
    while let Some(events) = windows.next().await {
        count += events.unwrap().len();
    }
    assert_eq!(count, EVENTS + 1);
    world.audit().await;
}
