//! The file `.env`. Values are taken as they stand: an operator who writes a password there needs no quoting language.
//!
//! A line is `NAME=VALUE`, with nothing expanded and nothing escaped, as `docker run --env-file` reads it. One pair of
//! quotes around a whole value is left out, so that a # behind white space may stand in one: without quotes nobody can
//! tell it from a comment, and it is refused.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use crate::config::Error;

/// Reads the file; a missing file sets nothing. An error names the line and never shows it, since the line may hold a
/// secret.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let file = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error(format!("{file} cannot be read: {error}"))),
    };
    parse(&text).map_err(|(line, why)| Error(format!("{file}, line {line}: {why}")))
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut variables = BTreeMap::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = |why: String| (number + 1, why);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("NAME=VALUE is needed".into()))?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(wrong("the text in front of = is no name of a variable".into()));
        }
        let value = unquoted(value.trim()).ok_or_else(|| {
            wrong(format!("{name} has a # behind white space: a comment has a line of its own, a value has quotes"))
        })?;
        if variables.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(wrong(format!("{name} is set for the second time")));
        }
    }
    Ok(variables)
}

fn unquoted(value: &str) -> Option<&str> {
    let within = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let is_comment = || value.split('#').rev().skip(1).any(|before| before.is_empty() || before.ends_with([' ', '\t']));
    match within('"').or_else(|| within('\'')) {
        Some(quoted) => Some(quoted),
        None if value.starts_with('#') || is_comment() => None,
        None => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        let as_they_stand = [
            "pa$$word#1",
            "${HOME}",
            r"back\slash\n",
            "a=b=c",
            "it's",
            r#"a "quoted" word"#,
            "\"begins",
            "postgres://u:p%40ss$w#rd@host/db?sslmode=require",
        ];
        for value in as_they_stand {
            let variables = parse(&format!("# a comment\r\n\r\nNAME={value}\r\nOTHER = 1\n")).unwrap();
            assert_eq!(variables["NAME"], value);
            assert_eq!(variables["OTHER"], "1");
        }
        for (written, value) in [("\" a # b \"", " a # b "), ("'\"'", "\""), ("\"\"", ""), ("", ""), ("\"", "\"")] {
            assert_eq!(parse(&format!("export NAME={written}")).unwrap()["NAME"], value, "{written}");
        }
        assert_eq!(parse("\u{feff}NAME=1").unwrap()["NAME"], "1");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line_and_not_shown() {
        for wrong in ["secret", "my secret=1", "=secret", "NAME=secret # a comment", "NAME=#secret", "FIRST=secret"] {
            let (line, why) = parse(&format!("FIRST=1\n\n{wrong}\n")).unwrap_err();
            assert_eq!(line, 3, "{wrong}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
