use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::bucket::MemberEvent;
use crate::database::ledger::edits::PendingEdit;
use crate::event::{Change, Event, Filter};

/// The pending edits of several archives, by archive. Archives may overlap, and an edit that is pending for one archive
/// may be in the events of the other one already.
pub struct Overlays {
    of_archives: HashMap<Uuid, Overlay>,
    none: Overlay,
}

impl Overlays {
    pub fn new(edits: Vec<PendingEdit>) -> Overlays {
        let mut by_archive: HashMap<Uuid, Vec<PendingEdit>> = HashMap::new();
        edits.into_iter().for_each(|edit| by_archive.entry(edit.archive_id).or_default().push(edit));
        let of_archives = by_archive.into_iter().map(|(archive_id, edits)| (archive_id, Overlay::new(edits)));
        Overlays { of_archives: of_archives.collect(), none: Overlay::default() }
    }

    pub fn of(&self, archive_id: Uuid) -> &Overlay {
        self.of_archives.get(&archive_id).unwrap_or(&self.none)
    }
}

/// The pending edits of one archive, which its object does not hold yet.
#[derive(Default)]
pub struct Overlay {
    /// The changes of one event each, by position and then by sequence. A change that is given twice counts once.
    single: BTreeMap<i64, BTreeMap<i64, Change>>,
    /// The spans of the invalidations, by GDPR id.
    invalidations: HashMap<String, Vec<Span>>,
    /// The renames, by sequence and first position.
    renames: BTreeMap<(i64, i64), (Span, Change)>,
}

/// The positions that a change is laid over. Events behind them were published or archived later.
#[derive(Debug, Clone, Copy)]
struct Span {
    first_position: i64,
    last_position: i64,
    sequence: i64,
}

impl Span {
    fn covers(&self, position: i64) -> bool {
        (self.first_position..=self.last_position).contains(&position)
    }

    fn overlaps(&self, first: i64, last: i64) -> bool {
        self.first_position <= last && self.last_position >= first
    }
}

impl Overlay {
    pub fn new(edits: Vec<PendingEdit>) -> Overlay {
        let mut overlay = Overlay::default();
        for PendingEdit { archive_id: _, first_position, last_position, sequence, change } in edits {
            let span = Span { first_position, last_position, sequence };
            match change {
                Change::Patch(_) | Change::Introduce { .. } => {
                    overlay.single.entry(first_position).or_default().insert(sequence, change);
                }
                Change::Invalidate { gdpr_id } => overlay.invalidations.entry(gdpr_id).or_default().push(span),
                Change::Rename { .. } => {
                    overlay.renames.insert((sequence, first_position), (span, change));
                }
            }
        }
        overlay
    }

    /// Returns the event as readers see it, if it then matches the filter.
    pub fn read(&self, found: MemberEvent<'_>, filter: &Filter) -> Option<Event> {
        // A rename is the only change of a field that a filter looks at.
        if self.renames.is_empty() && !filter.matches_what_is_of(found.event_type(), found.stream()) {
            return None;
        }
        self.shown(found.to_event(), filter)
    }

    fn shown(&self, mut event: Event, filter: &Filter) -> Option<Event> {
        self.apply(&mut event);
        filter.matches(&event).then_some(event)
    }

    /// Applies the changes to an event in the order of their sequences, so that a value stays that an edit gave to a
    /// field after its GDPR id was invalidated.
    pub fn apply(&self, event: &mut Event) {
        for (sequence, change) in self.single.get(&event.position).into_iter().flatten() {
            self.invalidate(event, *sequence);
            change.apply(event);
        }
        self.invalidate(event, i64::MAX);
        for (span, change) in self.renames.values() {
            if span.covers(event.position) {
                change.apply(event);
            }
        }
    }

    /// Applies the invalidations that are older than the change with this sequence.
    fn invalidate(&self, event: &mut Event, sequence: i64) {
        if self.invalidations.is_empty() || event.gdpr.is_empty() {
            return;
        }
        let position = event.position;
        event.invalidate(|id| {
            let mut spans = self.invalidations.get(id).into_iter().flatten();
            spans.any(|span| span.sequence < sequence && span.covers(position))
        });
    }

    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.invalidations.is_empty() && self.renames.is_empty()
    }

    /// Returns whether a change may concern positions from `first` to `last`.
    pub fn touches(&self, first: i64, last: i64) -> bool {
        self.single.range(first..=last).next().is_some()
            || self.invalidations.values().flatten().any(|span| span.overlaps(first, last))
            || self.renames.values().any(|(span, _)| span.overlaps(first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Gdpr, GdprField, Instant, Json, Metadata, Patch};

    fn event(position: i64) -> Event {
        let gdpr = GdprField::new("ada".into(), Json::text("gone")).unwrap();
        Event {
            position,
            id: position.to_string(),
            stream: "s".into(),
            event_type: "a".into(),
            reason: String::new(),
            raised_at: Instant::from_unix_nanos(0),
            metadata: Metadata::default(),
            payload: Json::parse_object(r#"{"name":"Ada","city":"Paris"}"#).unwrap(),
            gdpr: Gdpr::from([("name".into(), gdpr)]),
        }
    }

    fn pending(span: (i64, i64), sequence: i64, change: Change) -> PendingEdit {
        PendingEdit { archive_id: Uuid::nil(), first_position: span.0, last_position: span.1, sequence, change }
    }

    fn rename(old: &str, new: &str) -> Change {
        Change::Rename { old_type: old.into(), new_type: new.into() }
    }

    #[test]
    fn changes_apply_in_the_order_in_which_they_were_made() {
        let patch = |name: &str| Change::Patch(Patch::parse(&format!(r#"{{"name":"{name}"}}"#)).unwrap());
        let gdpr = GdprField::new("later".into(), Json::text("none")).unwrap();
        let overlay = Overlay::new(vec![
            pending((1, 9), 2, Change::Invalidate { gdpr_id: "ada".into() }),
            pending((5, 5), 1, patch("before")),
            pending((6, 6), 3, patch("after")),
            pending((5, 5), 4, Change::Introduce { field: "city".into(), gdpr }),
            pending((1, 9), 5, Change::Invalidate { gdpr_id: "later".into() }),
        ]);
        let read = |position| overlay.shown(event(position), &Filter::All).unwrap().payload;
        assert_eq!(read(5).as_str(), r#"{"name":"gone","city":"none"}"#);
        assert_eq!(read(6).as_str(), r#"{"name":"after","city":"Paris"}"#);
        assert_eq!(read(9).as_str(), r#"{"name":"gone","city":"Paris"}"#);
        assert_eq!(read(10).as_str(), r#"{"name":"Ada","city":"Paris"}"#, "it was published later");
    }

    #[test]
    fn an_event_matches_by_the_type_that_it_bears_now() {
        let overlay = Overlay::new(vec![pending((1, 9), 2, rename("b", "c")), pending((1, 9), 1, rename("a", "b"))]);
        let matches = |position, name: &str| {
            overlay.shown(event(position), &Filter::types(vec![name.into()])).map(|event| event.event_type)
        };
        assert_eq!((matches(9, "a"), matches(9, "b"), matches(9, "c")), (None, None, Some("c".into())));
        assert_eq!((matches(10, "a"), matches(10, "c")), (Some("a".into()), None));
    }

    #[test]
    fn it_touches_what_it_covers() {
        let overlay = Overlay::new(vec![pending((3, 5), 1, Change::Invalidate { gdpr_id: "ada".into() })]);
        assert!(overlay.touches(1, 3) && overlay.touches(5, 9) && overlay.touches(4, 4));
        assert!(!overlay.touches(1, 2) && !overlay.touches(6, 9));
    }
}
