//! A database that was lost, or restored to an earlier time, knows its bucket again.

mod damaged;
mod earlier;
mod empty;
mod killed;
mod restored;
mod starting;

use coldstream::event::{Event, Filter, Log};
use coldstream::store::{Query, Recovery, Store};
use futures::StreamExt;

use crate::support::everything;

/// Recovers everything in the bucket.
async fn recover(store: &Store) -> Recovery {
    let recovery = store.recover(|_| {}).await.unwrap();
    assert_eq!((&recovery.unrecovered[..], recovery.put_off), (&[][..], 0));
    recovery
}

/// Checks that every way of reading a log gives these events.
async fn check_reads(store: &std::sync::Arc<Store>, log: &Log, expected: &[Event]) {
    let read = async |query: &Query| store.read(log, query).await.unwrap().events;
    assert_eq!(read(&everything()).await, expected);
    let replayed: Vec<_> = store.replay(log.clone(), everything()).collect().await;
    assert_eq!(replayed.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>(), expected);
    for (index, event) in expected.iter().enumerate() {
        assert_eq!(store.event(log, &event.id).await.unwrap().as_ref(), Some(event));
        let behind = Query { from: event.position + 1, limit: 3, ..everything() };
        assert_eq!(read(&behind).await, expected[index + 1..expected.len().min(index + 4)]);
        let page = Query { skip: index as i64, limit: 2, ..everything() };
        assert_eq!(read(&page).await, expected[index..expected.len().min(index + 2)]);
    }
    for event in expected {
        let of_type = |other: &&Event| other.event_type == event.event_type;
        let of_stream = |other: &&Event| other.stream == event.stream;
        let typed: Vec<Event> = expected.iter().filter(of_type).cloned().collect();
        let streamed: Vec<Event> = expected.iter().filter(of_stream).cloned().collect();
        for (filter, wanted) in
            [(Filter::Types(vec![event.event_type.clone()]), &typed), (Filter::Stream(event.stream.clone()), &streamed)]
        {
            assert_eq!(read(&Query { filter: filter.clone(), ..everything() }).await, **wanted);
            let page = Query { filter, skip: 1, limit: 2, ..everything() };
            assert_eq!(read(&page).await, wanted[1.min(wanted.len())..wanted.len().min(3)]);
        }
        let last = store.last_event(log, std::slice::from_ref(&event.event_type)).await.unwrap();
        assert_eq!(last.as_ref(), typed.last());
    }
}
