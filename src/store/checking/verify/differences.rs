//! The differences between what an object was found to hold and what the catalog says of it.

use std::collections::BTreeMap;

use crate::database::catalog::archives::Archive;
use crate::database::catalog::members::MemberRow;

/// A point to compare, by its name.
type Point<'a> = (&'a str, &'a dyn Fn(&Archive) -> String);

/// Returns the points in which the catalog says otherwise.
pub fn differences(held: &Archive, known: &Archive) -> Vec<String> {
    let raised_at = |archive: &Archive| format!("{} to {} ns", archive.raised_at_min, archive.raised_at_max);
    let types = |archive: &Archive| format!("{:?}", counted(archive, &archive.type_counts));
    let points: [Point; 6] = [
        ("events", &|archive| archive.count.to_string()),
        ("positions", &|archive| archive.positions().to_string()),
        ("raised_at", &raised_at),
        ("bytes of JSON", &|archive| archive.json_bytes.to_string()),
        ("bytes", &|archive| archive.object_bytes.to_string()),
        ("types", &types),
    ];
    let differing = points.into_iter().map(|(what, of)| (what, of(held), of(known)));
    let differing = differing.filter(|(_, held, known)| held != known);
    differing.map(|(what, held, known)| format!("{what} in the object: {held}, in the catalog: {known}")).collect()
}

/// Returns the members that the catalog describes otherwise.
pub fn differing_members(
    (held, held_members): (&Archive, &[MemberRow]),
    (known, known_members): (&Archive, &[MemberRow]),
) -> Vec<String> {
    let mut found = Vec::new();
    for (held_row, known_row) in held_members.iter().zip(known_members) {
        let place = |row: &MemberRow| (row.member, row.byte_start, row.first_position, row.last_position, row.count);
        if place(held_row) != place(known_row) {
            found.push(format!("member {} is not the one that the catalog describes", known_row.member));
        }
        if counted(held, &held_row.type_counts) != counted(known, &known_row.type_counts) {
            found.push(format!("the types of member {} are not those that the catalog counts", known_row.member));
        }
    }
    found
}

/// Returns the counts by name: a name comes twice in the catalog if a type was renamed to another one.
fn counted(archive: &Archive, counts: &[i64]) -> BTreeMap<String, i64> {
    let mut types: BTreeMap<String, i64> = BTreeMap::new();
    for (name, count) in archive.types.iter().zip(counts).filter(|(_, count)| **count > 0) {
        *types.entry(name.clone()).or_default() += count;
    }
    types
}
