//! The drawings of the architecture are the truth: each room uses only the rooms below it, by imports and by calls, and
//! what belongs to one room is named in that room alone. Files and functions are no longer than a reader can keep in
//! mind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Arrows = [(&'static str, &'static [&'static str])];

/// Room → the rooms that it may import, as `src/lib.rs` draws them.
const ARROWS: &Arrows = &[
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

/// Room of the store → the rooms of the store that it may use, as `src/store/mod.rs` draws them.
const STORE_ARROWS: &Arrows = &[
    ("archives", &[]),
    ("log", &["archives"]),
    ("moving", &["archives"]),
    ("editing", &["log", "archives"]),
    ("subscribe", &["log", "archives"]),
    ("checking", &["moving", "archives"]),
    ("recovering", &["moving", "archives"]),
];

/// Room of the database → the rooms of the database that it may use.
const DATABASE_ARROWS: &Arrows = &[
    ("log", &["lookups"]),
    ("lookups", &[]),
    ("ledger", &[]),
    ("groups", &[]),
    ("catalog", &["log", "lookups", "ledger"]),
];

/// A name that has an owner → the only places where it may stand.
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
            "database/connections.rs",
            "store/moving/breaks.rs",
            "store/archives/lease.rs",
            "store/archives/ownership",
            "store/subscribe",
            "embedded",
        ],
    ),
];

/// The most lines of a file. The first comment of a longer one says why it is: "lines: …".
const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;

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

/// The files of one room, by their paths below it.
fn files_of(room: &str) -> BTreeMap<String, String> {
    let files = files().into_iter();
    files.filter_map(|(file, code)| Some((file.strip_prefix(room)?.strip_prefix('/')?.to_owned(), code))).collect()
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The identifier that a text begins with.
fn word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap()
}

/// The words behind each place where `prefix` stands.
fn words_behind<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).map(move |(at, _)| word(&code[at + prefix.len()..]))
}

/// The names that a path leads to: several, if it ends with braces.
fn imported<'a>(code: &'a str, prefix: &'a str) -> Vec<&'a str> {
    let behind = |at: usize| -> Vec<&str> {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => list[..list.find('}').unwrap()].split(',').map(|item| word(item.trim())).collect(),
            None => vec![word(rest)],
        }
    };
    code.match_indices(prefix).flat_map(|(at, _)| behind(at)).collect()
}

#[track_caller]
fn check_arrow(arrows: &Arrows, file: &str, used: &str, how: &str) {
    let room = room_of(file);
    let rooms: BTreeMap<&str, &[&str]> = arrows.iter().copied().collect();
    if let (Some(allowed), true) = (rooms.get(room), rooms.contains_key(used)) {
        assert!(
            used == room || allowed.contains(&used),
            "{file} uses {used:?} ({how}), and {room} may use {allowed:?} only"
        );
    }
}

#[test]
fn every_arrow_points_down() {
    for (file, code) in files() {
        let room = room_of(&file);
        if room == "lib" {
            continue;
        }
        assert!(ARROWS.iter().any(|(known, _)| *known == room), "{file} is in no room of the drawing");
        let prefix = if room == "main" { "coldstream::" } else { "crate::" };
        for used in words_behind(&code, prefix) {
            assert!(ARROWS.iter().any(|(known, _)| *known == used), "{file} imports {used:?}, which is no room");
            check_arrow(ARROWS, &file, used, "an import");
        }
    }
}

#[test]
fn every_arrow_inside_a_room_points_down() {
    for (room, arrows) in [("store", STORE_ARROWS), ("database", DATABASE_ARROWS)] {
        let prefix = format!("crate::{room}::");
        for (file, code) in files_of(room) {
            for used in imported(&code, &prefix) {
                check_arrow(arrows, &file, used, "an import");
            }
        }
    }
}

/// An import does not show a call of a method of `Store`, which every room of the store can make.
#[test]
fn every_call_of_the_store_points_down() {
    let files = files_of("store");
    let mut methods: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut others: BTreeSet<&str> = BTreeSet::new();
    for (file, code) in &files {
        for block in code.split("\nimpl") {
            let is_of_store = block.starts_with(" Store {");
            for method in words_behind(block, "fn ") {
                if is_of_store {
                    methods.entry(method).or_default().insert(room_of(file));
                } else {
                    others.insert(method);
                }
            }
        }
    }
    assert!(methods.len() > 100, "the methods of the store are not where they are looked for");
    methods.retain(|method, rooms| rooms.len() == 1 && !others.contains(method));
    for (file, code) in &files {
        for store in ["self.", "store."] {
            for called in words_behind(code, store) {
                for used in methods.get(called).into_iter().flatten() {
                    check_arrow(STORE_ARROWS, file, used, &format!("a call of {called}"));
                }
            }
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
fn the_drawings_name_every_room() {
    for (file, arrows) in
        [("src/lib.rs", ARROWS), ("src/store/mod.rs", STORE_ARROWS), ("src/database/mod.rs", DATABASE_ARROWS)]
    {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let drawing: String = text.lines().filter(|line| line.starts_with("//!")).collect();
        for (room, _) in arrows {
            assert!(drawing.contains(room), "the drawing in {file} does not show {room}");
        }
    }
}

/// Returns the indentation of a line, and the name of the function that begins on it.
fn function_on(line: &str) -> Option<(usize, &str)> {
    let code = line.trim_start();
    let mut words =
        code.split(' ').skip_while(|word| word.starts_with("pub") || ["async", "const", "unsafe"].contains(word));
    (words.next() == Some("fn")).then(|| (line.len() - code.len(), word(words.next().unwrap_or_default())))
}

/// Returns the name and the number of lines of each function. rustfmt puts the end of a function, and of nothing within
/// it, at the indentation of its beginning.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let ends = |line: &str, indentation: usize| {
        line.len() - line.trim_start().len() == indentation && line.ends_with(['}', ';'])
    };
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some((indentation, name)) = function_on(line) {
            let end = lines[at..].iter().position(|line| ends(line, indentation)).expect("a function ends");
            functions.push((name, end + 1));
        }
    }
    functions
}

#[test]
fn files_and_functions_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut long, mut count) = (Vec::new(), 0);
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root.join(folder))) {
        let (file, text) = (path.strip_prefix(root).unwrap().display(), fs::read_to_string(&path).unwrap());
        let lines = text.lines().count();
        let has_reason = text.lines().take_while(|line| line.starts_with("//")).any(|line| line.contains("lines:"));
        if lines > FILE_LINES_MAX && !has_reason {
            long.push(format!("{file}: {lines} lines"));
        }
        for (name, lines) in functions(&text) {
            count += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{file}: fn {name}, {lines} lines"));
            }
        }
    }
    assert!(count > 1_000, "the functions are not where they are looked for");
    assert_eq!(long, Vec::<String>::new());
}
