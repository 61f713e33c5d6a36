//! The drawing in `src/lib.rs` is the truth: each room imports only the rooms below it, and what belongs to one room
//! is named in that room alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Room → the rooms that it may import.
const ARROWS: [(&str, &[&str]); 10] = [
    ("event", &[]),
    ("database", &["event"]),
    ("bucket", &["event"]),
    ("store", &["event", "database", "bucket"]),
    ("jobs", &["store"]),
    ("api", &["event", "store"]),
    ("config", &["event", "bucket", "store", "api"]),
    ("embedded", &[]),
    ("command", &["event", "database", "bucket", "store", "jobs", "api", "config", "embedded"]),
    ("main", &["command"]),
];

/// What must not be named → the only places where it may be.
const OWNERS: [(&str, &[&str]); 12] = [
    ("sqlx::", &["database", "embedded/tests.rs", "command/logging.rs"]),
    ("reqwest::", &["bucket"]),
    ("flate2::", &["bucket/format", "command/import", "command/demo"]),
    ("ruzstd::", &["command/import"]),
    ("object_store::", &["bucket/credentials.rs"]),
    ("libdeflater::", &["bucket/format"]),
    ("axum::", &["api"]),
    ("tonic::", &["api/grpc"]),
    ("std::env", &["config", "embedded"]),
    ("SystemTime::now", &[]),
    ("async fn", &["database", "bucket", "store", "jobs", "api", "command", "embedded", "main.rs"]),
    (
        "time::sleep",
        &[
            "jobs",
            "command",
            "api/door",
            "store/breaks.rs",
            "store/lease.rs",
            "store/ownership.rs",
            "store/subscribe",
            "embedded",
        ],
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Path below `src` → its lines without comments.
fn files() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<String, String> = sources(&src)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (name, code.join("\n"))
        })
        .collect();
    assert!(files.len() > 30, "the sources are not where they are looked for");
    files
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn every_arrow_points_down() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    for (file, code) in files() {
        let room = room_of(&file);
        if room == "lib" {
            continue;
        }
        let allowed = arrows.get(room).unwrap_or_else(|| panic!("{file} is in no room of the drawing"));
        let prefix = if room == "main" { "coldstream::" } else { "crate::" };
        for (_, rest) in code.match_indices(prefix).map(|(at, _)| code.split_at(at + prefix.len())) {
            let imported = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap();
            assert!(
                imported == room || allowed.contains(&imported),
                "{file} imports {imported:?}, and {room} may import {allowed:?} only"
            );
        }
    }
}

#[test]
fn every_thing_has_its_room() {
    for (file, code) in files() {
        for (thing, owners) in OWNERS {
            let is_owner = owners.iter().any(|owner| file.starts_with(owner));
            assert!(is_owner || !code.contains(thing), "{file} names {thing:?}, which belongs to {owners:?}");
        }
    }
}

#[test]
fn the_drawing_names_every_room() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let drawing: String = lib.lines().filter(|line| line.starts_with("//!")).collect();
    for (room, _) in ARROWS {
        assert!(drawing.contains(room), "the drawing in src/lib.rs does not show {room}");
    }
}
