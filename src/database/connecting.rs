//! Making a connection, with TLS as libpq has it. This module does what the driver does not do: with `sslmode=prefer` a
//! server whose TLS cannot be used is spoken to in plain text, and one that takes no TLS from us, too; with `allow` one
//! that takes nothing else is spoken to with TLS.

use std::io::ErrorKind;
use std::sync::Once;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::database::address::looked_up;

/// invalid_authorization_specification: pg_hba.conf has no line for us, with TLS or without.
const NOT_LET_IN: &str = "28000";
/// The beginning of std's error for a host that has no address.
const LOOKUP_FAILED: &str = "failed to lookup address information";
const OTHER_AUTHORITY: &str =
    "the certificate is of another CA than those that are trusted: sslrootcert names the file of its certificate";
/// Words in the error of a refused certificate, and what can be done about it.
const REMEDIES: [(&str, &str); 5] = [
    (
        "UnsupportedCertVersion",
        "the server's certificate is of X.509 version 1, with which TLS cannot be had: make one of version 3, or set \
         sslmode=prefer or disable, without encryption",
    ),
    ("UnknownIssuer", OTHER_AUTHORITY),
    ("BadSignature", OTHER_AUTHORITY),
    (
        "not valid for name",
        "the certificate's subjectAltName does not name the host: sslmode=verify-ca does not ask for it",
    ),
    ("CaUsedAsEndEntity", "the certificate is a CA's own: make one that this CA has signed"),
];

pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    connected(options).await.map(|(connection, _)| connection)
}

/// The same options, with the mode by which the server can be connected to now: for a listener, which connects by
/// itself.
pub(super) async fn settled(options: &PgConnectOptions) -> Result<PgConnectOptions, sqlx::Error> {
    let (connection, mode) = connected(options).await?;
    connection.close().await?;
    Ok(options.clone().ssl_mode(mode))
}

async fn connected(options: &PgConnectOptions) -> Result<(PgConnection, PgSslMode), sqlx::Error> {
    let mode = options.get_ssl_mode();
    let error = match options.connect().await {
        Ok(connection) => return Ok((connection, mode)),
        Err(error) => error,
    };
    let Some(mode) = other_mode(mode, &error) else { return Err(explained(options, error)) };
    match options.clone().ssl_mode(mode).connect().await {
        Ok(connection) => {
            say(mode, &error);
            Ok((connection, mode))
        }
        // The first one has the reason: what it leads to is not wanted either.
        Err(other) if is_not_let_in(&other) => Err(explained(options, error)),
        Err(other) => Err(other),
    }
}

fn other_mode(mode: PgSslMode, error: &sqlx::Error) -> Option<PgSslMode> {
    match mode {
        PgSslMode::Prefer if is_about_tls(error) || is_not_let_in(error) => Some(PgSslMode::Disable),
        PgSslMode::Allow if is_not_let_in(error) => Some(PgSslMode::Require),
        _ => None,
    }
}

/// The driver passes errors of its TLS on as invalid data.
fn is_about_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

fn is_not_let_in(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(NOT_LET_IN))
}

fn explained(options: &PgConnectOptions, error: sqlx::Error) -> sqlx::Error {
    if let sqlx::Error::Io(cause) = &error
        && cause.to_string().starts_with(LOOKUP_FAILED)
    {
        let why = format!("{}: {cause}", looked_up(options));
        return sqlx::Error::Io(std::io::Error::new(cause.kind(), why));
    }
    let said = error.to_string();
    let remedy = REMEDIES.iter().find(|(words, _)| is_about_tls(&error) && said.contains(words));
    remedy.map_or(error, |(_, remedy)| sqlx::Error::Tls(format!("{said}: {remedy}").into()))
}

/// Once a process: it is so with every connection.
fn say(mode: PgSslMode, error: &sqlx::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| match mode {
        PgSslMode::Disable => {
            tracing::warn!(%error, "Postgres is spoken to in plain text, for want of TLS that can be used")
        }
        _ => tracing::info!("Postgres is spoken to with TLS, since it takes nothing else"),
    });
}
