//! The one table of Postgres' error codes. It says what an error means to the caller, and to the connection that it
//! came over.

use std::io;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::database::AddressError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, has no connection left, or cannot do this for now: try again later.
    #[error("the database is not available: {}", said(.0))]
    Unavailable(sqlx::Error),
    /// The database answers, and takes no changes.
    #[error("the database is read-only: it is in recovery, or default_transaction_read_only is on")]
    ReadOnly,
    /// Another transaction came first: try the same transaction again at once.
    #[error("the database gave way to another transaction: {}", said(.0))]
    GaveWay(sqlx::Error),
    #[error("the database refused: {}", said(.0))]
    Refused(sqlx::Error),
    /// The database holds something that we cannot have written.
    #[error("the database holds damaged data: {0}")]
    Damaged(String),
    /// The database cannot be used as it is configured: an operator has to change something.
    #[error("{0}")]
    Unusable(String),
    #[error("the migrations cannot be applied: {}", said_of_migration(.0))]
    Migrate(MigrateError),
}

/// The words of an error of Postgres without the line of its own source code, with what to do where that is known.
pub(super) fn said(error: &sqlx::Error) -> String {
    let Some(why) = error.as_database_error() else { return error.to_string() };
    let advice = match why.code().as_deref() {
        Some("3F000") => ": set the role's search_path to a schema that is there",
        Some("53300") => ": lower POSTGRES_CONNECTIONS_MAX, or raise what the server or the role may have",
        _ => "",
    };
    format!("{}{advice}", why.message())
}

fn said_of_migration(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) => said(error),
        MigrateError::ExecuteMigration(error, version) => format!("number {version}: {}", said(error)),
        error => error.to_string(),
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Error {
        Error::Unusable(error.to_string())
    }
}

/// The ways in which a commit fails.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Refused(Error),
    /// The connection broke off, so the transaction may have been committed or not.
    #[error("the database did not say whether it committed: {}", said(.0))]
    Unknown(sqlx::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unavailable,
    GaveWay,
    Refused,
    Damaged,
}

/// The state of the connection after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Stays,
    /// The next caller gets a new connection: this one has ended, or knows something that does not hold any more, or
    /// leads to the wrong server.
    Ends,
}

use Kind::{Damaged, GaveWay, Refused, Unavailable};
use Session::{Ends, Stays};

/// Codes and classes of codes (the first two characters). The longest entry that fits a code counts; [`OTHERS`] is for
/// all other codes.
const TABLE: [(&str, Kind, Session); 25] = [
    // A connection that broke off, as poolers tell it.
    ("08", Unavailable, Ends),
    // A prepared statement whose result a migration has changed: the next connection prepares it anew.
    ("0A000", Unavailable, Ends),
    // Read-only: a failover has left us on the old primary, or its disk is full.
    ("25006", Unavailable, Ends),
    // A transaction that was idle or open for too long.
    ("25P03", Unavailable, Ends),
    ("25P04", Unavailable, Ends),
    // A prepared statement that a pooler does not know, or knows already.
    ("26000", Unavailable, Ends),
    ("42P05", Unavailable, Ends),
    // A password that was changed, or a role or a database that is being made anew: an operator mends it.
    ("28", Unavailable, Stays),
    ("3D000", Unavailable, Stays),
    // Serialization failures and deadlocks.
    ("40", GaveWay, Stays),
    ("40002", Refused, Stays),
    ("40003", Unavailable, Ends),
    // No disk, no memory, no connection left.
    ("53", Unavailable, Stays),
    // Not in the right state: in recovery, in use, or locked for longer than lock_timeout.
    ("55", Unavailable, Stays),
    ("55P02", Refused, Stays),
    // Cancelled, by statement_timeout or by an operator.
    ("57", Unavailable, Stays),
    // Shutting down, crashed, not up yet, dropped, idle for too long.
    ("57P", Unavailable, Ends),
    // The system beneath Postgres failed.
    ("58", Unavailable, Ends),
    ("58P01", Damaged, Ends),
    ("58P02", Refused, Stays),
    // The view is too old ("snapshot too old").
    ("72", GaveWay, Stays),
    // The configuration of Postgres is being changed.
    ("F0", Unavailable, Stays),
    ("XX000", Refused, Ends),
    ("XX001", Damaged, Ends),
    ("XX002", Damaged, Ends),
];
const OTHERS: (Kind, Session) = (Refused, Stays);

fn meaning(code: &str) -> (Kind, Session) {
    let fitting = TABLE.iter().filter(|(prefix, ..)| code.starts_with(prefix));
    fitting.max_by_key(|(prefix, ..)| prefix.len()).map_or(OTHERS, |(_, kind, session)| (*kind, *session))
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let kind = match (&error, code(&error)) {
            (_, Some(code)) => meaning(&code).0,
            (sqlx::Error::Database(_), None) => Refused,
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound, _) => Damaged,
            _ => Unavailable,
        };
        match kind {
            Unavailable if is_read_only(&error) => Error::ReadOnly,
            Unavailable => Error::Unavailable(error),
            GaveWay => Error::GaveWay(error),
            Refused => Error::Refused(error),
            Damaged => Error::Damaged(said(&error)),
        }
    }
}

/// Returns whether the connection that an error came over cannot be used any more. Its last statement may have taken
/// effect.
pub(super) fn ends_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(why) => {
            let severity = why.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
                || why.code().is_some_and(|code| meaning(&code).1 == Ends)
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("25006")
}

/// Returns whether the server, or the role, has no connection left.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("53300")
}

/// Returns whether the error came from a server that is coming up, so that the next attempt may succeed.
pub(super) fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        error => code(error).as_deref() == Some("57P03"),
    }
}

/// Makes the error that says that Postgres did not answer for so long.
pub(super) fn silence(waited: Duration) -> sqlx::Error {
    let why = format!("Postgres did not answer within {:.1} s", waited.as_secs_f64());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes from appendix A of Postgres' manual, each of which stands for its kind, and what each has to mean.
    const CODES: [(&str, Kind, Session); 58] = [
        ("03000", Refused, Stays),
        ("08000", Unavailable, Ends),
        ("08001", Unavailable, Ends),
        ("08003", Unavailable, Ends),
        ("08004", Unavailable, Ends),
        ("08006", Unavailable, Ends),
        ("08007", Unavailable, Ends),
        ("08P01", Unavailable, Ends),
        ("0A000", Unavailable, Ends),
        ("0B000", Refused, Stays),
        ("21000", Refused, Stays),
        ("22001", Refused, Stays),
        ("22021", Refused, Stays),
        ("22P05", Refused, Stays),
        ("23505", Refused, Stays),
        ("23514", Refused, Stays),
        ("25001", Refused, Stays),
        ("25006", Unavailable, Ends),
        ("25P02", Refused, Stays),
        ("25P03", Unavailable, Ends),
        ("25P04", Unavailable, Ends),
        ("26000", Unavailable, Ends),
        ("28000", Unavailable, Stays),
        ("28P01", Unavailable, Stays),
        ("3D000", Unavailable, Stays),
        ("3F000", Refused, Stays),
        ("40000", GaveWay, Stays),
        ("40001", GaveWay, Stays),
        ("40002", Refused, Stays),
        ("40003", Unavailable, Ends),
        ("40P01", GaveWay, Stays),
        ("42501", Refused, Stays),
        ("42601", Refused, Stays),
        ("42P01", Refused, Stays),
        ("42P05", Unavailable, Ends),
        ("53000", Unavailable, Stays),
        ("53100", Unavailable, Stays),
        ("53200", Unavailable, Stays),
        ("53300", Unavailable, Stays),
        ("53400", Unavailable, Stays),
        ("54000", Refused, Stays),
        ("55000", Unavailable, Stays),
        ("55006", Unavailable, Stays),
        ("55P02", Refused, Stays),
        ("55P03", Unavailable, Stays),
        ("57014", Unavailable, Stays),
        ("57P01", Unavailable, Ends),
        ("57P02", Unavailable, Ends),
        ("57P03", Unavailable, Ends),
        ("57P04", Unavailable, Ends),
        ("57P05", Unavailable, Ends),
        ("58000", Unavailable, Ends),
        ("58030", Unavailable, Ends),
        ("58P01", Damaged, Ends),
        ("72000", GaveWay, Stays),
        ("P0001", Refused, Stays),
        ("XX000", Refused, Ends),
        ("XX001", Damaged, Ends),
    ];

    #[test]
    fn each_code_means_what_its_kind_means() {
        for (code, kind, session) in CODES {
            assert_eq!(meaning(code), (kind, session), "{code}");
        }
    }

    #[test]
    fn no_line_of_the_table_is_idle() {
        for (index, (prefix, kind, session)) in TABLE.iter().enumerate() {
            assert_eq!(meaning(prefix), (*kind, *session), "{prefix}");
            assert!(TABLE[..index].iter().all(|(other, ..)| other != prefix), "{prefix} is there twice");
        }
    }

    #[test]
    fn what_is_no_answer_of_postgres_ends_the_connection() {
        assert!(ends_session(&silence(Duration::from_secs(1))));
        assert!(!ends_session(&sqlx::Error::RowNotFound));
        assert!(matches!(Error::from(silence(Duration::from_secs(1))), Error::Unavailable(_)));
        assert!(matches!(Error::from(sqlx::Error::RowNotFound), Error::Damaged(_)));
        let undecodable = sqlx::Error::ColumnDecode { index: "kind".into(), source: "an unknown kind".into() };
        assert!(matches!(Error::from(undecodable), Error::Damaged(why) if why.ends_with("an unknown kind")));
    }
}
