use std::collections::BTreeMap;

use crate::database::PendingEdit;
use crate::event::{Event, Patch};

/// Edits that archived events do not show yet.
pub struct Overlay(BTreeMap<i64, BTreeMap<i64, Patch>>);

impl Overlay {
    /// An edit that comes twice counts once.
    pub fn new(edits: Vec<PendingEdit>) -> Overlay {
        let mut patches: BTreeMap<i64, BTreeMap<i64, Patch>> = BTreeMap::new();
        for PendingEdit { position, sequence, patch } in edits {
            patches.entry(position).or_default().insert(sequence, patch);
        }
        Overlay(patches)
    }

    pub fn apply(&self, event: &mut Event) {
        for patch in self.0.get(&event.position).into_iter().flat_map(BTreeMap::values) {
            event.payload = patch.apply(&event.payload).payload;
        }
    }

    /// Whether there is something for positions from `first` to `last`.
    pub fn touches(&self, first: i64, last: i64) -> bool {
        self.0.range(first..=last).next().is_some()
    }
}
