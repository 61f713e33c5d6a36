//! Questions to the service, of which the model knows the answers.

use coldstream::event::Filter;
use coldstream::store::{Page, PageSize, Query, SnapshotChoice, StreamQuery};

use super::case::Case;
use super::changes::{stream_name, type_name};
use super::operations::Probe;
use crate::support::everything;

impl Case {
    /// Compares everything in a log.
    pub async fn compare(&self, replica: usize, log: usize) {
        self.compare_page(replica, log, &everything()).await;
    }

    async fn compare_page(&self, replica: usize, log: usize, query: &Query) {
        let expected = &self.logs[log];
        let Some(page) = self.given(self.replicas[replica].read(&expected.log, query).await) else { return };
        let wanted = Page { edit_counter: page.edit_counter, ..expected.read(query) };
        assert_eq!(page, wanted, "{} {query:?}", expected.log);
    }

    pub async fn ask(&self, replica: usize, log: usize, probe: &Probe) {
        let (store, expected) = (&self.replicas[replica], &self.logs[log]);
        match probe {
            Probe::Page { types, stream, from, skip, limit } => {
                let filter = match stream {
                    Some(stream) => Filter::Stream(stream_name(*stream)),
                    None => Filter::types(types.iter().copied().map(type_name).collect()),
                };
                let query = Query { filter, from: *from, skip: *skip, limit: *limit };
                self.compare_page(replica, log, &query).await;
            }
            Probe::ById(number) => {
                let id = format!("event-{}", number % (self.made + 1));
                let Some(found) = self.given(store.event(&expected.log, &id).await) else { return };
                assert_eq!(found.as_ref(), expected.by_id(&id), "{} {id}", expected.log);
            }
            Probe::Last(types) => {
                let types: Vec<String> = types.iter().copied().map(type_name).collect();
                let Some(last) = self.given(store.last_event(&expected.log, &types).await) else { return };
                let filter = Filter::types(types);
                assert_eq!(last.as_ref(), expected.matching(&filter).next_back(), "{} {filter:?}", expected.log);
            }
            Probe::Stream { stream, from, page, per_page, is_through_snapshot } => {
                let (stream, from) = (stream_name(*stream), *from);
                let (skip, limit) = ((page * per_page) as usize, *per_page as usize);
                let (snapshot_id, events) = expected.read_stream(&stream, from, *is_through_snapshot);
                let snapshot = if *is_through_snapshot { SnapshotChoice::Newest } else { SnapshotChoice::None };
                let (page, per_page) = (*page, *per_page);
                let query = StreamQuery { stream, from, page, per_page, deployment_id: 0, snapshot };
                let read = store.read_stream(&expected.log, &query, PageSize::Whole(i64::MAX)).await;
                let Some((found, _)) = self.given(read) else { return };
                let events: Vec<_> = events.into_iter().skip(skip).take(limit).collect();
                assert_eq!((found.snapshot_id, found.events), (snapshot_id, events), "{} {query:?}", expected.log);
            }
        }
    }

    /// Compares the events that the group could not handle.
    pub async fn compare_erroneous(&self, log: usize) {
        let expected = &self.logs[log];
        let found = self.replicas[0]
            .erroneous_events(&expected.log, false, Vec::new(), (usize::MAX >> 1, i64::MAX))
            .await
            .unwrap();
        let events: Vec<_> = found.into_iter().map(|erroneous| erroneous.event).collect();
        let wanted: Vec<_> = expected.erroneous.iter().map(|position| expected.events[position].clone()).collect();
        assert_eq!(events, wanted, "{}", expected.log);
    }
}
