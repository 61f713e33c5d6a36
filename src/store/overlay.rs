use std::collections::BTreeMap;

use crate::database::PendingEdit;
use crate::event::{Event, Patch};

/// Edits that archived events do not show yet.
pub struct Overlay(BTreeMap<i64, Vec<Patch>>);

impl Overlay {
    /// In the order in which they are to be applied.
    pub fn new(edits: Vec<PendingEdit>) -> Overlay {
        let mut patches: BTreeMap<i64, Vec<Patch>> = BTreeMap::new();
        for PendingEdit { position, sequence: _, patch } in edits {
            patches.entry(position).or_default().push(patch);
        }
        Overlay(patches)
    }

    pub fn apply(&self, event: &mut Event) {
        for patch in self.0.get(&event.position).into_iter().flatten() {
            event.payload = patch.apply(&event.payload).payload;
        }
    }

    /// Whether there is something for positions from `first` to `last`.
    pub fn touches(&self, first: i64, last: i64) -> bool {
        self.0.range(first..=last).next().is_some()
    }
}
