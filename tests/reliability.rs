//! Every test that `docs/reliability.md` names exists, and every row of it names one.

use std::fs;
use std::path::Path;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Returns the names of tests among everything that stands in backticks.
fn tests_of(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |code: &&str| {
        code.contains("::") && code.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter))
    };
    text.split('`').skip(1).step_by(2).filter(is_path)
}

fn exists(test: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap();
    let file = module.replace("::", "/");
    let mut places = ["tests/integration", "tests", "src"]
        .into_iter()
        .flat_map(|folder| [format!("{folder}/{file}.rs"), format!("{folder}/{file}/mod.rs")]);
    let source = places.find_map(|place| read(&place));
    source.is_some_and(|source| {
        let before = source.split_once(&format!("fn {name}()")).map(|(before, _)| before);
        // The attribute stands on the line above, and `async` before the name.
        before.is_some_and(|before| {
            before.lines().rev().take(2).any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
        })
    })
}

#[test]
fn every_test_that_is_named_exists() {
    let document = read("docs/reliability.md").unwrap();
    let missing: Vec<&str> = tests_of(&document).filter(|test| !exists(test)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(!exists("damage::a_deleted_objec") && !exists("damage::of_victim"), "a check that finds everything");
}

#[test]
fn every_row_names_a_test() {
    let document = read("docs/reliability.md").unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.contains("| Test |"));
    let (mut tried, mut untried) = (0, Vec::new());
    for row in rows {
        match tests_of(row).next() {
            Some(_) => tried += 1,
            None => untried.push(row.split('|').nth(1).unwrap().trim()),
        }
    }
    assert_eq!(untried, Vec::<&str>::new());
    assert!(tried > 50, "{tried} rows are too few");
}
