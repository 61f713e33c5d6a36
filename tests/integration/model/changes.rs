//! Operations that change what readers see, on the service and on the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coldstream::event::{Change, Event, GdprField, Instant, Json, Log, NewEvent};
use coldstream::store::{Conflicts, Error, ImportBatch, Store};
use time::OffsetDateTime;

use super::case::Case;
use super::operations::{Age, Draft, Operation, Patching};
use crate::support::{DAY_NANOS, edit_request, event, now};

/// Two payloads of this size fill a member.
const LARGE_BYTES: usize = 140_000;
/// The service remembers the ids of consumed events for a minute.
const REMEMBERED_FOR: Duration = Duration::from_secs(20);
const GONE: &str = "gone";

pub fn type_name(number: u8) -> String {
    format!("type-{number}")
}

pub fn stream_name(number: u8) -> String {
    format!("stream-{number}")
}

impl Case {
    pub async fn change(&mut self, store: &Arc<Store>, operation: &Operation) {
        match operation {
            Operation::Publish(drafts) => {
                let mut batches: BTreeMap<usize, Vec<NewEvent>> = BTreeMap::new();
                for (log, draft) in drafts {
                    let made = self.make(draft);
                    batches.entry(log % self.logs.len()).or_default().push(made);
                }
                self.publish(store, batches).await;
            }
            Operation::Repeat(log, event, differs, draft) => {
                let log = log % self.logs.len();
                let Some((position, mut again)) = pick(&self.logs[log].published, *event).cloned() else { return };
                let is_consumed = !self.logs[log].events.contains_key(&position);
                if is_consumed && self.began_at.elapsed() > REMEMBERED_FOR {
                    return;
                }
                if *differs {
                    again.reason = "another one".into();
                }
                let batch = vec![self.make(draft), again];
                self.publish(store, BTreeMap::from([(log, batch)])).await;
            }
            Operation::Import(log, event, drafts) => {
                let log = log % self.logs.len();
                let there = self.logs[log].pick(*event);
                let published = |there: Event| self.logs[log].published_as(&there.id).clone();
                let there = there.map(published);
                let made: Vec<NewEvent> = drafts.iter().map(|draft| self.make(draft)).collect();
                self.import(store, log, there.into_iter().chain(made).collect()).await;
            }
            Operation::Edit(log, event, patching) => self.edit(store, *log, *event, *patching).await,
            Operation::Introduce(log, event) => self.introduce(store, *log, *event).await,
            Operation::Invalidate(log, id) => {
                let log = log % self.logs.len();
                self.changed = log;
                let ids = self.logs[log].gdpr_ids();
                let Some(gdpr_id) = pick(&ids, *id).cloned() else { return };
                store.invalidate_gdpr(&self.logs[log].log, &gdpr_id).await.unwrap();
                self.logs[log].change(self.step, None, &Change::Invalidate { gdpr_id });
            }
            Operation::Rename(log, old, new) => {
                self.changed = log % self.logs.len();
                let topic = self.logs[self.changed].log.topic().to_owned();
                let (old_type, new_type) = (type_name(*old), type_name(*new));
                store.rename_type(&topic, &old_type, &new_type).await.unwrap();
                let rename = Change::Rename { old_type, new_type };
                for expected in self.logs.iter_mut().filter(|expected| expected.log.topic() == topic) {
                    expected.change(self.step, None, &rename);
                }
            }
            Operation::Snapshot(log, event) => self.snapshot(store, *log, *event).await,
            other => unreachable!("{other:?} changes nothing that readers see"),
        }
    }

    fn make(&mut self, draft: &Draft) -> NewEvent {
        let number = self.made;
        self.made += 1;
        let raised_at = match draft.age {
            Age::Old => now().unix_nanos() - 60 * DAY_NANOS + number as i64,
            Age::Young => now().unix_nanos() - DAY_NANOS + number as i64,
            Age::Ripening(after_ms) => {
                let now = OffsetDateTime::now_utc().unix_timestamp_nanos() as i64;
                now - 30 * DAY_NANOS + i64::from(after_ms) * 1_000_000
            }
        };
        let filler = if draft.is_large { "x".repeat(LARGE_BYTES) } else { String::new() };
        let payload =
            format!(r#"{{"number":{number},"name":"original","nested":{{"a":1e2,"b":64.30}},"filler":"{filler}"}}"#);
        let personal = |person| GdprField::new(format!("person-{person}"), Json::text(GONE)).unwrap();
        NewEvent {
            event_type: type_name(draft.event_type),
            stream: stream_name(draft.stream),
            raised_at: Some(Instant::from_unix_nanos(raised_at)),
            payload: Json::parse_object(&payload).unwrap(),
            gdpr: draft.person.iter().map(|person| ("name".to_owned(), personal(*person))).collect(),
            ..event(number)
        }
    }

    async fn publish(&mut self, store: &Arc<Store>, batches: BTreeMap<usize, Vec<NewEvent>>) {
        let by_log: BTreeMap<Log, Vec<NewEvent>> =
            batches.iter().map(|(log, batch)| (self.logs[*log].log.clone(), batch.clone())).collect();
        let outcome = store.publish_all(by_log).await;
        let places: Result<Vec<_>, String> =
            batches.iter().map(|(log, batch)| Ok((*log, self.logs[*log].place(batch, false)?))).collect();
        match (outcome, places) {
            (Ok(results), Ok(places)) => {
                for (log, (published, new)) in places {
                    assert_eq!(results[&self.logs[log].log], published);
                    self.logs[log].append(&batches[&log], new);
                    self.changed = log;
                }
            }
            (Err(Error::Conflict { id }), Err(expected)) => assert_eq!(id, expected),
            (outcome, places) => assert!(self.given(outcome).is_none(), "expected {places:?}"),
        }
    }

    async fn import(&mut self, store: &Store, log: usize, batch: Vec<NewEvent>) {
        let mut import = ImportBatch::default();
        for event in &batch {
            import.push(self.logs[log].log.clone(), event.clone()).unwrap();
        }
        let Some(counts) = self.given(store.import(import, Conflicts::StopAt).await) else { return };
        let (published, new) = self.logs[log].place(&batch, true).expect("nothing is refused");
        assert_eq!((counts.imported, counts.skipped), (new.len() as u64, (published.len() - new.len()) as u64));
        self.logs[log].append(&batch, new);
    }

    async fn edit(&mut self, store: &Store, log: usize, event: usize, patching: Patching) {
        let (log, step) = (log % self.logs.len(), self.step);
        self.changed = log;
        let Some(old) = self.logs[log].pick(event) else { return };
        let request = edit_request(&match patching {
            Patching::Replace => format!(r#"{{"name":"name {step}"}}"#),
            Patching::Erase => r#"{"name":null}"#.to_owned(),
            Patching::Nested => format!(r#"{{"nested":{{"b":{step}}}}}"#),
            Patching::Absent => r#"{"absent":1}"#.to_owned(),
        });
        let outcome = store.edit(&self.logs[log].log, &old.id, &request).await;
        let patched = request.patch.apply(&old.payload);
        let name = old.gdpr.get("name");
        if matches!(patching, Patching::Replace)
            && !patched.changed.is_empty()
            && name.is_some_and(|it| it.is_invalidated)
        {
            // The field shows its default for good.
            assert!(matches!(outcome, Err(Error::Invalid(_))) || self.given(outcome).is_none());
            return;
        }
        let Some(outcome) = self.given(outcome) else { return };
        let outcome = outcome.unwrap_or_else(|| panic!("{:?} is not found", old.id));
        assert_eq!(outcome.edit.is_some(), !patched.changed.is_empty(), "{:?}", old.id);
        self.logs[log].change(step, Some(old.position), &Change::Patch(request.patch));
        assert_eq!(outcome.event, self.logs[log].events[&old.position]);
    }

    /// Introduces GDPR data of a field; the service makes up the id.
    async fn introduce(&mut self, store: &Store, log: usize, event: usize) {
        let log = log % self.logs.len();
        let Some(old) = self.logs[log].pick(event) else { return };
        if self.outage.is_some() || old.gdpr.contains_key("number") {
            return;
        }
        store.introduce_gdpr(&self.logs[log].log, &old.id, "number", Json::text(GONE)).await.unwrap();
        let new = store.event(&self.logs[log].log, &old.id).await.unwrap().expect("the event was there");
        let gdpr = new.gdpr.get("number").expect("the field is personal now").clone();
        assert_eq!((gdpr.default.as_str(), gdpr.is_invalidated), ("\"gone\"", false));
        let change = Change::Introduce { field: "number".into(), gdpr };
        self.logs[log].change(self.step, Some(old.position), &change);
    }

    /// Makes one snapshot an event, since nobody says which of two would be the newest.
    async fn snapshot(&mut self, store: &Store, log: usize, event: usize) {
        let log = log % self.logs.len();
        let Some(last) = self.logs[log].pick(event) else { return };
        let published = self.logs[log].published_as(&last.id).clone();
        let new = NewEvent { id: format!("snapshot-{}", last.id), ..published };
        let made = store.create_snapshot(&self.logs[log].log, &last.stream, &last.id, new.clone()).await;
        let is_new = self.logs[log].snapshots.iter().all(|snapshot| snapshot.id != new.id);
        if self.given(made).is_some() && is_new {
            let raised_at = new.raised_at.expect("the tests say when");
            self.logs[log].snapshots.push(new.at(last.position, raised_at));
        }
    }
}

fn pick<T>(list: &[T], number: usize) -> Option<&T> {
    list.get(number % list.len().max(1))
}
