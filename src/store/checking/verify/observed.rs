//! The contents that were found in an object, beside what the catalog says of it.

use std::collections::BTreeMap;

use crate::database::catalog::archives::Archive;
use crate::event::Event;
use crate::event::PositionSet;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub positions: PositionSet,
    count: i64,
    raised_at: Option<(i64, i64)>,
    types: BTreeMap<String, i64>,
    pub json_bytes: i64,
    pub object_bytes: i64,
}

impl Observed {
    pub fn add(&mut self, event: &Event) {
        self.positions.insert(event.position);
        self.count += 1;
        let nanos = event.raised_at.unix_nanos();
        let (min, max) = self.raised_at.unwrap_or((nanos, nanos));
        self.raised_at = Some((min.min(nanos), max.max(nanos)));
        *self.types.entry(event.event_type.clone()).or_default() += 1;
    }

    /// Returns the points in which the catalog differs.
    pub fn differs_from(&self, archive: &Archive) -> Vec<String> {
        let types = counted(archive, &archive.type_counts);
        let mut found = Vec::new();
        let mut check = |what: &str, held: String, known: String| {
            if held != known {
                found.push(format!("{what} in the object: {held}, in the catalog: {known}"));
            }
        };
        let none = || "none".to_owned();
        let span = self.positions.span().map_or_else(none, |span| span.to_string());
        check("events", self.count.to_string(), archive.count.to_string());
        check("positions", span, archive.positions().to_string());
        let raised_at = Some((archive.raised_at_min, archive.raised_at_max));
        check("raised_at", format!("{:?}", self.raised_at), format!("{raised_at:?}"));
        check("bytes of JSON", self.json_bytes.to_string(), archive.json_bytes.to_string());
        check("bytes", self.object_bytes.to_string(), archive.object_bytes.to_string());
        check("types", format!("{:?}", self.types), format!("{types:?}"));
        found
    }
}

/// Sums the counts by name, because a name comes twice where a type was renamed to another one.
pub fn counted(archive: &Archive, counts: &[i64]) -> BTreeMap<String, i64> {
    let mut types: BTreeMap<String, i64> = BTreeMap::new();
    for (name, count) in archive.types.iter().zip(counts).filter(|(_, count)| **count > 0) {
        *types.entry(name.clone()).or_default() += count;
    }
    types
}
