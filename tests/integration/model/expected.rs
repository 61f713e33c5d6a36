//! The model: what a service is to whoever cannot see inside. Lists of events, and how far the group got.

use std::collections::{BTreeMap, BTreeSet};

use coldstream::event::{Change, Event, Filter, Log, NewEvent};
use coldstream::store::{Page, Published, Query};

#[derive(Debug, Clone)]
pub struct ExpectedLog {
    pub log: Log,
    pub head_position: i64,
    /// By position, as they are now.
    pub events: BTreeMap<i64, Event>,
    /// As they were published, with their positions, those that are deleted now included.
    pub published: Vec<(i64, NewEvent)>,
    /// What each of them was before, and up to which step.
    past: Vec<(usize, Event)>,
    pub snapshots: Vec<Event>,
    /// Everything up to here the group has answered.
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
        &self.published.iter().find(|(_, event)| event.id == id).expect("it was published").1
    }

    pub fn by_id(&self, id: &str) -> Option<&Event> {
        self.events.values().find(|event| event.id == id)
    }

    /// What publishing would do. The same again is fine, whatever edits have made of it, and so is anything under the id
    /// of what was consumed a moment ago. Imports keep what is there.
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
            let published = batch.iter().find(|published| published.id == event.id).expect("it was made of one");
            self.published.push((event.position, published.clone()));
            self.events.insert(event.position, event);
        }
    }

    /// Of one event, or of all and of the snapshots.
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

    /// Whether the event was this one at a step or later.
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

    /// A stream as it is read through its newest snapshot, if it has one that stands for enough.
    pub fn read_stream(&self, stream: &str, from: i64, is_through_snapshot: bool) -> (Option<String>, Vec<Event>) {
        let snapshots = self.snapshots.iter().filter(|snapshot| snapshot.stream == stream);
        let newest = snapshots.max_by_key(|snapshot| snapshot.position);
        let snapshot = newest.filter(|snapshot| is_through_snapshot && snapshot.position >= from);
        let from = snapshot.map_or(from, |snapshot| snapshot.position + 1);
        let filter = Filter::Stream(stream.to_owned());
        let behind = self.matching(&filter).filter(|event| event.position >= from);
        (snapshot.map(|snapshot| snapshot.id.clone()), snapshot.into_iter().chain(behind).cloned().collect())
    }

    /// What the group gets next.
    pub fn due(&self) -> Option<i64> {
        self.events.range(self.reached + 1..).next().map(|(position, _)| *position)
    }

    /// What happens where events are deleted once they are consumed.
    pub fn forget_consumed(&mut self) {
        let (reached, erroneous) = (self.reached, &self.erroneous);
        self.events.retain(|position, _| *position > reached || erroneous.contains(position));
    }

    /// The GDPR ids that there are.
    pub fn gdpr_ids(&self) -> Vec<String> {
        let fields = self.events.values().flat_map(|event| event.gdpr.values());
        fields.map(|field| field.id.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
