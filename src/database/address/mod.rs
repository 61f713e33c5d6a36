//! The address of a database, in every form that psql takes: a URL, or keywords with values.
//!
//! No part of an address is ignored in silence: a parameter that is not supported is refused by its name, and one that
//! has no effect is reported. No message contains a value, because it may be a password.

mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use url::Url;

const APPLICATION_NAME: &str = "coldstream";
/// The parameters that a connection is made with.
const TAKEN: [&str; 12] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];
/// The parameters that ask for nothing special, as long as they have one of these values.
const ASKING_NOTHING: [(&str, &[&str]); 10] = [
    ("channel_binding", &["disable", "prefer"]),
    ("client_encoding", &["UTF8", "utf8", "UTF-8", "utf-8", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("load_balance_hosts", &["disable"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("sslcertmode", &["allow"]),
    ("sslcompression", &["0"]),
    ("sslnegotiation", &["postgres"]),
    ("sslsni", &["1"]),
    ("target_session_attrs", &["any"]),
];
/// The parameters that set times, for which we have limits of our own.
const WITHOUT_EFFECT: [&str; 6] =
    ["connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The reason why an address cannot be used, in one line that names the parameter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

#[derive(Debug, Clone)]
pub struct Address {
    pub(super) options: PgConnectOptions,
    /// The parameters that have no effect.
    pub without_effect: Vec<String>,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses an address. A parameter that is not given has the same value as in psql: from the variables PGHOST,
    /// PGUSER and so on, from `~/.pgpass`, or the default.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        let (mut taken, mut without_effect) = (BTreeMap::new(), Vec::new());
        // An empty value counts as none.
        for (keyword, value) in text::parameters(text)?.into_iter().filter(|(_, value)| !value.is_empty()) {
            if TAKEN.contains(&&*keyword) {
                taken.insert(keyword, value);
            } else if WITHOUT_EFFECT.contains(&&*keyword) {
                without_effect.push(keyword);
            } else {
                check_asks_nothing(&keyword, &value)?;
            }
        }
        taken.entry("application_name".into()).or_insert(APPLICATION_NAME.into());
        settle_server(&mut taken)?;
        settle_tls(&mut taken)?;
        // The driver would log every export as a slow statement.
        let options = options(&taken)?.disable_statement_logging();
        Ok(Address { options, without_effect })
    }
}

/// Names the host for an error of looking it up. If the name of the database has an @, a / in the password has ended
/// the host too early, and the host may be a piece of the password: the text then says how to write the address.
pub(super) fn looked_up(options: &PgConnectOptions) -> String {
    match options.get_database() {
        Some(database) if database.contains('@') => {
            "the address has a / before its last @, and in a password @ and / are written %40 and %2F".to_owned()
        }
        _ => format!("host {:?}", options.get_host()),
    }
}

fn refused(why: impl Into<String>) -> AddressError {
    AddressError(why.into())
}

fn check_asks_nothing(keyword: &str, value: &str) -> Result<(), AddressError> {
    match ASKING_NOTHING.iter().find(|(known, _)| *known == keyword) {
        Some((_, values)) if values.contains(&value) => Ok(()),
        Some((_, values)) => Err(refused(format!("{keyword} has to be {}", values.join(" or ")))),
        None => Err(refused(format!("{keyword:?} is not supported: the parameters are {}", TAKEN.join(", ")))),
    }
}

/// Checks that the address names one server, at a port.
fn settle_server(taken: &mut BTreeMap<String, String>) -> Result<(), AddressError> {
    for keyword in ["host", "hostaddr", "port"] {
        if taken.get(keyword).is_some_and(|value| value.contains(',')) {
            return Err(refused(format!(
                "{keyword} names several servers: name one host, or a proxy that follows the primary"
            )));
        }
    }
    if taken.get("port").is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(refused("port is not a number from 1 to 65535"));
    }
    if taken.get("hostaddr").is_some_and(|address| address.parse::<IpAddr>().is_err()) {
        return Err(refused("hostaddr is not an IP address"));
    }
    Ok(())
}

/// Gives the TLS parameters the meaning that they have in libpq, where the driver has another one.
fn settle_tls(taken: &mut BTreeMap<String, String>) -> Result<(), AddressError> {
    let mode = taken.get("sslmode").cloned();
    if mode.as_ref().is_some_and(|mode| !SSL_MODES.contains(&mode.as_str())) {
        return Err(refused(format!("sslmode has to be one of {}", SSL_MODES.join(", "))));
    }
    let mode = match (mode.as_deref(), taken.get("sslrootcert").map(String::as_str)) {
        (None | Some("verify-full"), Some("system")) => {
            taken.remove("sslrootcert");
            Some("verify-full")
        }
        (Some(_), Some("system")) => return Err(refused("sslrootcert=system needs sslmode=verify-full")),
        (Some("verify-ca"), None) => return Err(refused("sslmode=verify-ca needs sslrootcert, the CA's certificate")),
        // An operator that names a CA wants that CA.
        (Some("require"), Some(_)) => Some("verify-ca"),
        (mode, _) => mode,
    };
    // Nobody listens in on a socket, and no server speaks TLS there.
    let is_socket = !taken.contains_key("hostaddr") && taken.get("host").is_some_and(|host| host.starts_with('/'));
    if let Some(mode) = is_socket.then_some("disable").or(mode) {
        taken.insert("sslmode".into(), mode.into());
    }
    if taken.contains_key("sslcert") != taken.contains_key("sslkey") {
        return Err(refused("sslcert and sslkey need each other: set both or none"));
    }
    if let Some(address) = taken.remove("hostaddr") {
        let verified = taken.get("sslmode").is_some_and(|mode| mode == "verify-full");
        if verified && taken.get("host").is_some_and(|host| *host != address) {
            return Err(refused(
                "hostaddr cannot be combined with sslmode=verify-full, which verifies host: leave one of them out",
            ));
        }
        taken.insert("host".into(), address);
    }
    Ok(())
}

/// Makes the options of the driver. The driver reads URLs differently from libpq, except URLs in which everything is a
/// parameter.
fn options(taken: &BTreeMap<String, String>) -> Result<PgConnectOptions, AddressError> {
    let mut url = Url::parse("postgres:").map_err(|error| refused(error.to_string()))?;
    url.query_pairs_mut().extend_pairs(taken);
    PgConnectOptions::from_url(&url).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    fn parsed(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refusal(text: &str) -> String {
        let error = text.parse::<Address>().expect_err(text).to_string();
        assert!(!error.contains("secret") && !error.contains('\n'), "{text}: {error}");
        error
    }

    #[test]
    fn every_form_leads_to_its_server() {
        let servers = [
            ("postgres://eva:s@db:5433/x", "db", 5433),
            ("postgres://eva@[::1]:5433/x", "::1", 5433),
            ("postgres://eva@127.0.0.1:5433/x", "127.0.0.1", 5433),
            ("postgres:///x?host=::1&user=eva&port=5433", "::1", 5433),
            ("postgres://eva@db:5433/x?hostaddr=10.0.0.7", "10.0.0.7", 5433),
            ("host=db hostaddr=fe80::1 port=5433 user=eva dbname=x", "fe80::1", 5433),
            ("user=eva host=db port=5433 dbname=x", "db", 5433),
        ];
        for (text, host, port) in servers {
            let options = parsed(text).options;
            assert_eq!((options.get_host(), options.get_port(), options.get_socket()), (host, port, None), "{text}");
            assert_eq!((options.get_username(), options.get_database()), ("eva", Some("x")), "{text}");
        }
        for text in ["postgres://%2Frun%2Fpg/x?sslmode=require", "postgres:///x?host=/run/pg", "host=/run/pg"] {
            let options = parsed(text).options;
            assert_eq!(options.get_socket().map(|path| path.as_path()), Some("/run/pg".as_ref()), "{text}");
            assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable), "{text}: no server speaks TLS there");
        }
        let password = "postgres://eva:%20a+b%26%3D%23%C3%A4'@db";
        assert_eq!(parsed(password).options.to_url_lossy().password(), Some("%20a%2Bb%26%3D%23%C3%A4%27"));
        let options = parsed("host=db options='-c search_path=a\\ b' application_name=billing").options;
        assert_eq!(options.get_options(), Some("-c search_path=a b"));
        assert_eq!(options.get_application_name(), Some("billing"));
        assert_eq!(parsed("host=db").options.get_application_name(), Some("coldstream"));
    }

    #[test]
    fn a_host_without_an_address_is_named_unless_it_may_be_a_piece_of_a_password() {
        for (text, expected) in [
            ("postgres://eva:secret@db/x", "host \"db\""),
            ("postgres://eva:sec@ret@db/x", "host \"db\""),
            ("postgres://eva:sec%2Fret@db", "host \"db\""),
            ("host=db password=sec/ret", "host \"db\""),
            ("postgres://eva:p@secret/word@db", "written %40 and %2F"),
            ("postgres://eva:p@secret/word@db:5432/x", "written %40 and %2F"),
            ("postgres://eva:1/secret@db/x", "written %40 and %2F"),
        ] {
            let said = looked_up(&parsed(text).options);
            assert!(said.contains(expected) && !said.contains("secret"), "{text}: {said}");
        }
    }

    #[test]
    fn tls_is_what_libpq_means_by_it() {
        let modes = [
            ("", "prefer"),
            ("sslmode=disable", "disable"),
            ("sslmode=allow", "allow"),
            ("sslmode=prefer", "prefer"),
            ("sslmode=require", "require"),
            ("sslmode=require sslrootcert=/ca.pem", "verify-ca"),
            ("sslmode=verify-ca sslrootcert=/ca.pem", "verify-ca"),
            ("sslmode=verify-full", "verify-full"),
            ("sslmode=verify-full sslrootcert=/ca.pem", "verify-full"),
            ("sslrootcert=system", "verify-full"),
            ("sslmode=verify-full sslrootcert=system", "verify-full"),
            ("sslmode=require hostaddr=10.0.0.7", "require"),
        ];
        for (text, mode) in modes {
            let url = parsed(&format!("host=db {text}")).options.to_url_lossy();
            assert!(url.query_pairs().any(|(key, value)| key == "sslmode" && value == mode), "{text}: {url}");
            let is_file = text.contains("/ca.pem");
            assert_eq!(url.query_pairs().any(|(key, _)| key == "sslrootcert"), is_file, "{text}: {url}");
        }
        let refused = [
            "sslmode=required",
            "sslmode=Require",
            "sslmode=verify-ca",
            "sslmode=require sslrootcert=system",
            "sslmode=verify-full hostaddr=10.0.0.7",
            "sslcert=/client.pem",
            "sslkey=/client.pem",
        ];
        for text in refused {
            let (keyword, _) = text.split_once('=').unwrap();
            assert!(refusal(&format!("host=db {text}")).contains(keyword), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_its_name() {
        let refused = [
            ("postgres://a:1,b:2/x", "host"),
            ("postgres://a,b/x?target_session_attrs=read-write", "target_session_attrs"),
            ("host=a,b", "host"),
            ("hostaddr=10.0.0.7,10.0.0.8", "hostaddr"),
            ("postgres://db:0", "port"),
            ("postgres://db:70000", "port"),
            ("postgres://eva:secret/word@db/x", "port"),
            ("hostaddr=db", "hostaddr"),
            ("host=db target_session_attrs=primary", "target_session_attrs"),
            ("host=db channel_binding=require", "channel_binding"),
            ("host=db gssencmode=require", "gssencmode"),
            ("host=db client_encoding=LATIN1", "client_encoding"),
            ("host=db sslnegotiation=direct", "sslnegotiation"),
            ("host=db require_auth=none", "require_auth"),
            ("host=db sslpassword=secret", "sslpassword"),
            ("host=db service=secret", "service"),
            ("postgres://db?sslmod=verify-full", "sslmod"),
            ("postgres://db?options[search_path]=secret", "options"),
        ];
        for (text, name) in refused {
            assert!(refusal(text).contains(name), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn what_asks_for_nothing_is_taken_and_what_has_no_effect_is_told() {
        for (keyword, values) in ASKING_NOTHING {
            for value in values {
                assert_eq!(parsed(&format!("host=db {keyword}={value}")).without_effect, Vec::<String>::new());
            }
        }
        let text = "postgres://db?connect_timeout=5&target_session_attrs=any&keepalives_idle=30&tcp_user_timeout=";
        assert_eq!(parsed(text).without_effect, ["connect_timeout", "keepalives_idle"]);
    }
}
