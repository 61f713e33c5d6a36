//! Makes connections, with TLS as libpq has it. This module does what the driver does not do. With `sslmode=prefer` it
//! speaks plain text to a server whose TLS cannot be used, and to one that takes no TLS from us. With `allow` it speaks
//! TLS to a server that takes nothing else.

use std::io::ErrorKind;
use std::sync::Once;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::database::address::looked_up;

/// The code of invalid_authorization_specification: pg_hba.conf has no line for us, with TLS or without.
const NOT_LET_IN: &str = "28000";
/// The beginning of std's error for a host that has no address.
const LOOKUP_FAILED: &str = "failed to lookup address information";
const OTHER_AUTHORITY: &str =
    "no trusted CA has signed the certificate: set sslrootcert to the file with the certificate of the CA that has";
/// Words in the error about a refused certificate, and what you can do about it.
const REMEDIES: [(&str, &str); 5] = [
    (
        "UnsupportedCertVersion",
        "the server's certificate is of X.509 version 1, which cannot be used for TLS: make one of version 3, or set \
         sslmode=prefer or disable and do without encryption",
    ),
    ("UnknownIssuer", OTHER_AUTHORITY),
    ("BadSignature", OTHER_AUTHORITY),
    (
        "not valid for name",
        "the certificate's subjectAltName does not name the host: make one that does, or set sslmode=verify-ca",
    ),
    ("CaUsedAsEndEntity", "the certificate is a CA's own: make one that this CA signs"),
];

pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    connected(options).await.map(|(connection, _)| connection)
}

/// Returns the same options, with the TLS mode that the server takes now. A listener needs them, because it connects by
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
        // The first error has the reason, because the server does not want the other mode either.
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

/// Logs the mode once a process, because every connection has the same.
fn say(mode: PgSslMode, error: &sqlx::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| match mode {
        PgSslMode::Disable => {
            tracing::warn!(%error, "connections to Postgres are in plain text, because its TLS cannot be used")
        }
        _ => tracing::info!("connections to Postgres use TLS, because it takes nothing else"),
    });
}
