//! The model of a service, as seen from outside: lists of events, and the progress of the group.

use std::collections::{BTreeMap, BTreeSet};

use coldstream::event::{Change, Event, Filter, Log, NewEvent};
use coldstream::store::{Page, Published, Query};

#[derive(Debug, Clone)]
pub struct ExpectedLog {
    pub log: Log,
    pub head_position: i64,
    /// The events by position, as they are now.
    pub events: BTreeMap<i64, Event>,
    /// The events as they were published, with their positions, including those that are deleted now.
    pub published: Vec<(i64, NewEvent)>,
    /// Earlier states of the events, each with the step up to which it held.
    past: Vec<(usize, Event)>,
    pub snapshots: Vec<Event>,
    /// The position up to which the group has answered everything.
    pub reached: i64,
    pub erroneous: BTreeSet<i64>,
}

/// The events that a batch makes, or the id that is there with other content.
type Placed = Result<(Vec<Published>, Vec<Event>), String>;

impl ExpectedLog {
    pub fn new(log: Log) -> ExpectedLog {
        ExpectedLog {
            log,
            head_position: 0,
            events: BTreeMap::new(),
            published: Vec::new(),
            past: Vec::new(),
            snapshots: Vec::new(),
            reached: 0,
            erroneous: BTreeSet::new(),
        }
    }

    pub fn pick(&self, number: usize) -> Option<Event> {
        self.events.values().nth(number % self.events.len().max(1)).cloned()
    }

    pub fn published_as(&self, id: &str) -> &NewEvent {
        &self.published.iter().find(|(_, event)| event.id == id).expect("the event was published").1
    }

    pub fn by_id(&self, id: &str) -> Option<&Event> {
        self.events.values().find(|event| event.id == id)
    }

    /// Returns what publishing would do. The same event again is fine, whatever edits have made of it, and so is any
    /// event under the id of one that was consumed a moment ago. Imports keep the events that are there.
    pub fn place(&self, batch: &[NewEvent], keeps: bool) -> Placed {
        let (mut published, mut new): (_, Vec<Event>) = (Vec::new(), Vec::new());
        for event in batch {
            let known = self.published.iter().find(|(_, known)| known.id == event.id);
            let (position, is_new) = match known {
                Some((position, known)) if keeps || event == known || !self.events.contains_key(position) => {
                    (*position, false)
                }
                Some(_) => return Err(event.id.clone()),
                None => (self.head_position + 1 + new.len() as i64, true),
            };
            if is_new {
                new.push(event.clone().at(position, event.raised_at.expect("the tests say when")));
            }
            published.push(Published { id: event.id.clone(), position, is_new });
        }
        Ok((published, new))
    }

    pub fn append(&mut self, batch: &[NewEvent], new: Vec<Event>) {
        self.head_position += new.len() as i64;
        for event in new {
            let published = batch.iter().find(|published| published.id == event.id).expect("an event of the batch");
            self.published.push((event.position, published.clone()));
            self.events.insert(event.position, event);
        }
    }

    /// Changes one event, or all of them and the snapshots.
    pub fn change(&mut self, step: usize, position: Option<i64>, change: &Change) {
        let is_meant = |event: &Event| position.is_none_or(|position| event.position == position);
        for event in self.events.values_mut().filter(|event| is_meant(event)) {
            let before = event.clone();
            change.apply(event);
            if *event != before {
                self.past.push((step, before));
            }
        }
        if position.is_none() {
            self.snapshots.iter_mut().for_each(|snapshot| change.apply(snapshot));
        }
    }

    /// Returns whether the event was like this at the step or later.
    pub fn was(&self, event: &Event, step: usize) -> bool {
        let now = self.events.get(&event.position);
        now == Some(event) || self.past.iter().any(|(until, past)| *until >= step && past == event)
    }

    pub fn matching(&self, filter: &Filter) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.values().filter(move |event| match filter {
            Filter::All => true,
            Filter::Types(types) => types.contains(&event.event_type),
            Filter::Stream(stream) => event.stream == *stream,
        })
    }

    pub fn read(&self, query: &Query) -> Page {
        let from = self.matching(&query.filter).filter(|event| event.position >= query.from);
        let events = from.skip(query.skip as usize).take(query.limit as usize).cloned().collect();
        Page { events, head_position: self.head_position, edit_counter: 0, is_cut: false }
    }

    /// Reads a stream through its newest snapshot, if there is one that stands for enough events.
    pub fn read_stream(&self, stream: &str, from: i64, is_through_snapshot: bool) -> (Option<String>, Vec<Event>) {
        let snapshots = self.snapshots.iter().filter(|snapshot| snapshot.stream == stream);
        let newest = snapshots.max_by_key(|snapshot| snapshot.position);
        let snapshot = newest.filter(|snapshot| is_through_snapshot && snapshot.position >= from);
        let from = snapshot.map_or(from, |snapshot| snapshot.position + 1);
        let filter = Filter::Stream(stream.to_owned());
        let behind = self.matching(&filter).filter(|event| event.position >= from);
        (snapshot.map(|snapshot| snapshot.id.clone()), snapshot.into_iter().chain(behind).cloned().collect())
    }

    /// Returns the position of the event that the group gets next.
    pub fn due(&self) -> Option<i64> {
        self.events.range(self.reached + 1..).next().map(|(position, _)| *position)
    }

    /// Deletes the consumed events, as the service does in some topics.
    pub fn forget_consumed(&mut self) {
        let (reached, erroneous) = (self.reached, &self.erroneous);
        self.events.retain(|position, _| *position > reached || erroneous.contains(position));
    }

    /// Returns the GDPR ids of all events.
    pub fn gdpr_ids(&self) -> Vec<String> {
        let fields = self.events.values().flat_map(|event| event.gdpr.values());
        fields.map(|field| field.id.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
