//! Every read equals a read of a plain list, after random steps.

use std::sync::Arc;

use coldstream::event::{Event, Filter, GdprField, Instant, Json, Log, NewEvent};
use coldstream::store::{Error, Page, PageSize, Query, Store};
use futures::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Model;
use crate::support::{DAY_NANOS, World, archive, edit, edit_request, import, now, old_event, settings};

#[derive(Debug, Clone)]
struct Draft {
    event_type: u8,
    stream: u8,
    is_old: bool,
    is_large: bool,
    /// The person whose name the event bears, if that is personal.
    person: Option<u8>,
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Vec<Draft>),
    Archive(u64),
    Edit(prop::sample::Index, u8),
    Invalidate(u8),
    Rename(u8, u8),
    Rewrite,
}

#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<Step>,
    queries: Vec<Query>,
    ids: Vec<prop::sample::Index>,
    types: Vec<Vec<String>>,
}

fn type_name(number: u8) -> String {
    format!("type-{number}")
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let person = prop::option::of(0u8..3);
    let draft = (0u8..4, 0u8..5, prop::bool::weighted(0.8), prop::bool::weighted(0.2), person).prop_map(
        |(event_type, stream, is_old, is_large, person)| Draft { event_type, stream, is_old, is_large, person },
    );
    let step = prop_oneof![
        3 => prop::collection::vec(draft, 1..25).prop_map(Step::Publish),
        3 => (1u64..14).prop_map(Step::Archive),
        3 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(index, name)| Step::Edit(index, name)),
        1 => (0u8..4).prop_map(Step::Invalidate),
        1 => (0u8..5, 0u8..5).prop_map(|(old, new)| Step::Rename(old, new)),
        1 => Just(Step::Rewrite),
    ];
    prop::collection::vec(step, 2..14)
}

fn query() -> impl Strategy<Value = Query> {
    let types = prop::collection::vec((0u8..5).prop_map(type_name), 1..4);
    let filter = prop_oneof![
        Just(Filter::All),
        types.prop_map(Filter::Types),
        (0u8..6).prop_map(|number| Filter::Stream(format!("stream-{number}"))),
    ];
    let from = prop_oneof![Just(1i64), 1i64..120];
    let skip = prop_oneof![Just(0i64), 0i64..12, 0i64..120];
    let limit = prop_oneof![0i64..12, 12i64..120, Just(i64::MAX)];
    (filter, from, skip, limit).prop_map(|(filter, from, skip, limit)| Query { filter, from, skip, limit })
}

fn plan() -> impl Strategy<Value = Plan> {
    let types = prop::collection::vec(prop::collection::vec((0u8..5).prop_map(type_name), 0..3), 2);
    (steps(), prop::collection::vec(query(), 8), prop::collection::vec(any::<prop::sample::Index>(), 3), types)
        .prop_map(|(steps, queries, ids, types)| Plan { steps, queries, ids, types })
}

#[test]
fn every_read_equals_a_read_of_a_list() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases: 16, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&plan(), |plan| {
        // A panic says where the reads differ; proptest shrinks panics as it shrinks errors.
        runtime.block_on(carry_out(plan));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

async fn carry_out(plan: Plan) {
    let mut world = World::new().await;
    let (log, mut model) = (world.log(), Model::default());
    let reader = world.store(settings(1));
    for step in &plan.steps {
        take_step(&world, &log, &mut model, step).await;
        check(&reader, &log, &model, &plan).await;
    }
    check(&world.store(settings(1)), &log, &model, &plan).await;
    reader.rewrite().await.unwrap();
    check(&reader, &log, &model, &plan).await;
    world.audit().await;
}

async fn take_step(world: &World, log: &Log, model: &mut Model, step: &Step) {
    let store = world.store(settings(if let Step::Archive(batch_size) = step { *batch_size } else { 1 }));
    match step {
        Step::Publish(drafts) => {
            let events: Vec<NewEvent> =
                drafts.iter().enumerate().map(|(index, draft)| make(model.events.len() + index, draft)).collect();
            import(&store, log, events.clone()).await;
            for event in events {
                let position = model.events.len() as i64 + 1;
                let raised_at = event.raised_at.unwrap();
                model.events.push(event.at(position, raised_at));
            }
        }
        Step::Archive(_) => {
            archive(&store).await;
        }
        Step::Edit(index, name) if !model.events.is_empty() => {
            let event = index.get(&model.events).clone();
            let name = format!("edited {name}");
            if event.gdpr.get("name").is_some_and(|field| field.is_invalidated) {
                let refused = store.edit(log, &event.id, &edit_request(r#"{"name":"back again"}"#)).await;
                assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
                return;
            }
            let outcome = edit(&store, log, &event.id, &format!(r#"{{"name":"{name}","absent":1}}"#)).await;
            assert_eq!(outcome.missing, ["/absent"]);
            let position = event.position as usize;
            let filler = event.payload.byte_len() > LARGE_BYTES;
            model.events[position - 1].payload = content(position - 1, &name, filler);
            assert_eq!(outcome.event, model.events[position - 1]);
        }
        Step::Edit(..) => {}
        Step::Invalidate(person) => {
            store.invalidate_gdpr(log, &person_id(*person)).await.unwrap();
            for event in &mut model.events {
                let is_theirs = event.gdpr.values().any(|field| field.id == person_id(*person));
                if is_theirs && !event.gdpr["name"].is_invalidated {
                    event.gdpr.get_mut("name").unwrap().is_invalidated = true;
                    let is_large = event.payload.byte_len() > LARGE_BYTES;
                    event.payload = content(event.position as usize - 1, GONE, is_large);
                }
            }
        }
        Step::Rename(old, new) => {
            store.rename_type(log.topic(), &type_name(*old), &type_name(*new)).await.unwrap();
            for event in model.events.iter_mut().filter(|event| event.event_type == type_name(*old)) {
                event.event_type = type_name(*new);
            }
        }
        Step::Rewrite => {
            store.rewrite().await.unwrap();
        }
    }
}

/// The text that an invalidated name shows.
const GONE: &str = "gone";

fn person_id(number: u8) -> String {
    format!("person-{number}")
}

/// Three payloads of this size fill a member.
const LARGE_BYTES: usize = 90_000;

fn content(number: usize, name: &str, is_large: bool) -> Json {
    let filler = if is_large { "x".repeat(LARGE_BYTES) } else { String::new() };
    Json::parse_object(&format!(r#"{{"number":{number},"name":"{name}","filler":"{filler}"}}"#)).unwrap()
}

fn make(number: usize, draft: &Draft) -> NewEvent {
    let age = if draft.is_old { 60 * DAY_NANOS } else { DAY_NANOS };
    NewEvent {
        event_type: type_name(draft.event_type),
        stream: format!("stream-{}", draft.stream),
        raised_at: Some(Instant::from_unix_nanos(now().unix_nanos() - age)),
        payload: content(number, "original", draft.is_large),
        gdpr: draft.person.iter().map(|person| ("name".to_owned(), personal(*person))).collect(),
        ..old_event(number)
    }
}

fn personal(person: u8) -> GdprField {
    GdprField::new(person_id(person), Json::text(GONE)).unwrap()
}

async fn check(store: &Arc<Store>, log: &Log, model: &Model, plan: &Plan) {
    for query in &plan.queries {
        let expected = model.read(query);
        let page = store.read(log, query).await.unwrap();
        assert_eq!(page, Page { edit_counter: page.edit_counter, ..expected.clone() }, "{query:?}");
        let replayed: Vec<_> = store.replay(log.clone(), query.clone()).collect().await;
        let replayed: Vec<Event> = replayed.into_iter().flat_map(|events| events.unwrap()).collect();
        assert_eq!(replayed, expected.events, "replay {query:?}");
        assert_eq!(in_small_pages(store, log, query).await, expected.events, "in small pages {query:?}");
    }
    for index in plan.ids.iter().filter(|_| !model.events.is_empty()) {
        let expected = index.get(&model.events);
        assert_eq!(store.event(log, &expected.id).await.unwrap().as_ref(), Some(expected));
    }
    assert_eq!(store.event(log, "never published").await.unwrap(), None);
    for types in &plan.types {
        let filter = Filter::types(types.clone());
        let expected = model.matching(&filter).next_back();
        assert_eq!(store.last_event(log, types).await.unwrap().as_ref(), expected, "{types:?}");
    }
}

/// Reads in pages of a byte more than a large event, each of which begins behind the one before.
async fn in_small_pages(store: &Store, log: &Log, query: &Query) -> Vec<Event> {
    let (mut events, mut query, bytes_max) = (Vec::new(), query.clone(), LARGE_BYTES as i64 + 1);
    loop {
        let page = store.read_page(log, &query, PageSize::Cut(bytes_max)).await.unwrap().0;
        let before_last: usize = page.events.iter().rev().skip(1).map(Event::weight).sum();
        assert!(query.skip > 0 || (before_last as i64) < bytes_max);
        query.limit -= page.events.len() as i64;
        let last = page.events.last().map(|last| last.position);
        events.extend(page.events);
        match last {
            Some(last) if page.is_cut && query.limit > 0 => query = Query { from: last + 1, skip: 0, ..query },
            _ => return events,
        }
    }
}
