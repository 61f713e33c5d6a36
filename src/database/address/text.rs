//! The two forms of an address, by libpq's rules: `postgres://user:password@host:port/database?keyword=value&…` with
//! percent-encoding, and `keyword=value keyword='another value' …` with backslashes.

use std::iter::Peekable;
use std::str::Chars;

use percent_encoding::percent_decode_str;

use super::{AddressError, refused};

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
const FORMS: &str = "postgres://user:password@host:5432/database or host=… dbname=… is needed";

/// Returns keywords and their values. A later one wins over an earlier one.
pub(super) fn parameters(text: &str) -> Result<Vec<(String, String)>, AddressError> {
    if let Some(rest) = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return url(rest);
    }
    let is_other_url = text.split(['=', ' ']).next().is_some_and(|start| start.contains(':'));
    if is_other_url || !text.contains('=') {
        return Err(refused(FORMS));
    }
    keywords(text)
}

fn url(rest: &str) -> Result<Vec<(String, String)>, AddressError> {
    let mut found = Vec::new();
    let mut add = |keyword: &str, value: &str| decoded(value).map(|value| found.push((keyword.to_owned(), value)));
    // A host has no @, so every @ before the last one belongs to the user or the password, unlike in libpq.
    let authority = rest.find('/').unwrap_or(rest.len());
    let (user, rest) = match rest[..authority].rfind('@') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => ("", rest),
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    add("user", user)?;
    add("password", password)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (servers, database) = rest.split_once('/').unwrap_or((rest, ""));
    add("dbname", database)?;
    let (host, port) = servers_of(servers)?;
    add("host", &host)?;
    add("port", &port)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            // Other drivers have this name for it.
            Some(("ssl", "true")) => add("sslmode", "require")?,
            Some((keyword, value)) => add(&decoded(keyword)?, value)?,
            None => return Err(refused("a parameter after the ? is not of the form keyword=value")),
        }
    }
    Ok(found)
}

/// Returns hosts and ports, with commas between those of several servers.
fn servers_of(text: &str) -> Result<(String, String), AddressError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in text.split(',') {
        let (host, port) = match server.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) if port.is_empty() || port.starts_with(':') => {
                (host, port.trim_start_matches(':'))
            }
            Some(_) => return Err(refused("an address in brackets has to end with ], or with ] and a port")),
            None => server.split_once(':').unwrap_or((server, "")),
        };
        if port.contains(':') {
            return Err(refused("an IPv6 address needs brackets, and a password needs %40 for @ and %2F for /"));
        }
        hosts.push(host);
        ports.push(port);
    }
    let port = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };
    Ok((hosts.join(","), port))
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let wrong = || refused("a % is not followed by two hexadecimal digits of UTF-8 text; % itself is %25");
    let is_digit = |digit: Option<&u8>| digit.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let mut signs = text.match_indices('%').map(|(at, _)| at);
    let is_right = signs.all(|at| is_digit(bytes.get(at + 1)) && is_digit(bytes.get(at + 2)));
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| wrong())?;
    if !is_right || decoded.contains('\0') {
        return Err(wrong());
    }
    Ok(decoded.into_owned())
}

fn keywords(text: &str) -> Result<Vec<(String, String)>, AddressError> {
    let (mut found, mut letters) = (Vec::new(), text.chars().peekable());
    loop {
        pass_over_space(&mut letters);
        if letters.peek().is_none() {
            return Ok(found);
        }
        let mut keyword = String::new();
        while let Some(letter) = letters.next_if(|letter| *letter != '=' && !letter.is_whitespace()) {
            keyword.push(letter);
        }
        pass_over_space(&mut letters);
        if letters.next() != Some('=') || keyword.is_empty() {
            return Err(refused("a keyword is not followed by ="));
        }
        pass_over_space(&mut letters);
        let value = match letters.next_if_eq(&'\'') {
            Some(_) => quoted(&mut letters)?,
            None => plain(&mut letters),
        };
        found.push((keyword, value));
    }
}

fn pass_over_space(letters: &mut Peekable<Chars>) {
    while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
}

fn quoted(letters: &mut Peekable<Chars>) -> Result<String, AddressError> {
    let mut value = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => return Ok(value),
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    Err(refused("a value in quotes does not end"))
}

fn plain(letters: &mut Peekable<Chars>) -> String {
    let mut value = String::new();
    while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace()) {
        match letter {
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let found = parameters(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let set = found.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(keyword, value)| format!("{keyword}={value}")).collect::<Vec<String>>().join(" ")
    }

    #[test]
    fn reads_every_form_as_libpq_does() {
        let forms = [
            ("postgres://", ""),
            ("postgresql://db", "host=db"),
            ("postgres://db:5433", "host=db port=5433"),
            ("postgres://eva@db/events", "user=eva dbname=events host=db"),
            ("postgres://eva:secret@db:5433/events", "user=eva password=secret dbname=events host=db port=5433"),
            ("postgres://:secret@/events", "password=secret dbname=events"),
            ("postgres://eva:p%40s%2Fs%25@db", "user=eva password=p@s/s% host=db"),
            ("postgres://eva:a#b?c+d e\\^{}|@db/x", "user=eva password=a#b?c+d e\\^{}| dbname=x host=db"),
            ("postgres://eva:p@ss@db/x", "user=eva password=p@ss dbname=x host=db"),
            ("postgres://eva@corp:p@db", "user=eva@corp password=p host=db"),
            ("postgres://[::1]/x", "dbname=x host=::1"),
            ("postgres://eva@[2001:db8::7]:5433/x", "user=eva dbname=x host=2001:db8::7 port=5433"),
            ("postgres://127.0.0.1:5433", "host=127.0.0.1 port=5433"),
            ("postgres://%2Frun%2Fpostgresql/x", "dbname=x host=/run/postgresql"),
            ("postgres://eva@%2Frun%2Fpostgresql:5433", "user=eva host=/run/postgresql port=5433"),
            ("postgres:///x?host=/run/postgresql&port=5433", "dbname=x host=/run/postgresql port=5433"),
            ("postgres://db?user=eva&password=a+b%3D", "host=db user=eva password=a+b="),
            ("postgres://db/?options=-csearch_path%3Da", "host=db options=-csearch_path=a"),
            (
                "postgres://db/x?ssl=true&application_name=b%C3%A4r",
                "dbname=x host=db sslmode=require application_name=bär",
            ),
            ("postgres://a:1,b,[::1]:3/x", "dbname=x host=a,b,::1 port=1,,3"),
            ("postgres://a,b", "host=a,b"),
            ("host=db dbname=events", "host=db dbname=events"),
            (" host = db\n port=5433 ", "host=db port=5433"),
            ("host=::1 password=a=b", "host=::1 password=a=b"),
            ("user='eva müller' password='it\\'s \\\\' host=db", "user=eva müller password=it's \\ host=db"),
            ("password=with\\ space host=/run/postgresql", "password=with space host=/run/postgresql"),
            ("host=db options='-c search_path=a'", "host=db options=-c search_path=a"),
            ("host='' dbname=x", "dbname=x"),
        ];
        for (text, expected) in forms {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_neither_and_repeats_no_password() {
        let refused = [
            "secret",
            "",
            "mysql://eva:secret@db/x",
            "jdbc:postgresql://db/x?password=secret",
            "Postgres://eva:secret@db",
            "postgres:eva:secret@db",
            "postgres://eva:secret%zz@db",
            "postgres://eva:secret%2@db",
            "postgres://eva:secret%00@db",
            "postgres://eva:secret%FF@db",
            "postgres://eva:secret@[::1",
            "postgres://eva:secret@[::1]x/y",
            "postgres://eva:secret@::1/x",
            "postgres://db?secret",
            "password=secret host",
            "=secret",
            "password='secret",
        ];
        for text in refused {
            let parsed = parameters(text);
            let Err(error) = parsed else { panic!("{text}: {parsed:?}") };
            assert!(!error.to_string().contains("secret"), "{text}: {error}");
        }
    }
}
