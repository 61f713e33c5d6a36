//! The settings that hold for all statements of a connection, whatever a role, a database or a server has as its
//! default.
//!
//! A connection of our own is set up once. A pooler that lends a connection for one transaction is told the settings
//! with every BEGIN, which costs no round trip: settings that are made outside of a transaction would stay with the
//! client that gets that connection next. Single statements through a pooler run with the defaults.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
pub(super) const VIEW: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// All of our statements are short, whatever the planner expects of tables without statistics: compiling a statement
/// takes a hundred times as long as running it. The setting is made behind a pooler, too, where it harms nobody.
const NO_JIT: &str = "SET jit = off";
/// The time that Postgres waits longer than we do, before it ends a statement for which nobody waits any more.
const MARGIN: Duration = Duration::from_secs(2);
/// The first version with an `idle_session_timeout`. An older server has to be refused for its version, and not for
/// this setting.
const IDLE_SESSION_TIMEOUT_VERSION: u32 = 14_00_00;
/// The first version with a `transaction_timeout`.
const TRANSACTION_TIMEOUT_VERSION: u32 = 17_00_00;
/// Keepalives let a middle box remember a connection that is idle, and let Postgres notice that its client is gone.
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "3")];

#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// The longest time that anybody waits for an answer; `None` where an answer may take as long as it takes.
    pub patience: Option<Duration>,
    pub is_pooled: bool,
}

impl Session {
    /// Returns the statements that set up a new connection.
    pub fn set_up(&self, server_version: Option<u32>) -> SqlStr {
        if self.is_pooled {
            return NO_JIT.into_sql_str();
        }
        let mut statements = NO_JIT.to_owned();
        let knows_idle = server_version.is_none_or(|version| version >= IDLE_SESSION_TIMEOUT_VERSION);
        let defaults = [("default_transaction_isolation", "'read committed'")].into_iter().chain(KEEPALIVES);
        for (name, value) in defaults.chain(knows_idle.then_some(("idle_session_timeout", "0"))) {
            statements += &format!("; SET {name} = {value}");
        }
        for (name, value) in self.timeouts(server_version) {
            statements += &format!("; SET {name} = {value}");
        }
        AssertSqlSafe(statements).into_sql_str()
    }

    /// Returns the statements that begin a transaction.
    pub fn begin(&self, begin: &'static str, server_version: Option<u32>) -> SqlStr {
        if !self.is_pooled {
            return begin.into_sql_str();
        }
        let mut statements = format!("{begin}; SET LOCAL jit = off");
        for (name, value) in self.timeouts(server_version) {
            statements += &format!("; SET LOCAL {name} = {value}");
        }
        AssertSqlSafe(statements).into_sql_str()
    }

    /// Returns the timeouts in milliseconds; 0 stands for none. Locks have no timeout of their own, because we wait for
    /// them as for any answer.
    fn timeouts(&self, server_version: Option<u32>) -> impl Iterator<Item = (&'static str, u128)> {
        let patience_ms = self.patience.map_or(0, |patience| (patience + MARGIN).as_millis());
        let known = server_version.is_some_and(|version| version >= TRANSACTION_TIMEOUT_VERSION);
        let timeouts = [
            ("statement_timeout", patience_ms),
            ("lock_timeout", 0),
            ("idle_in_transaction_session_timeout", patience_ms),
        ];
        timeouts.into_iter().chain(known.then_some(("transaction_timeout", 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_is_told_nothing_that_outlives_a_transaction() {
        let session = Session { patience: Some(Duration::from_secs(10)), is_pooled: true };
        assert_eq!(session.set_up(Some(17_00_00)).as_str(), NO_JIT);
        let begin = session.begin(VIEW, Some(16_00_09));
        let begin: Vec<&str> = begin.as_str().split("; ").collect();
        assert_eq!(begin[0], VIEW);
        assert!(begin[1..].iter().all(|statement| statement.starts_with("SET LOCAL ")), "{begin:?}");
        assert!(begin.contains(&"SET LOCAL statement_timeout = 12000"), "{begin:?}");
        assert!(!begin.concat().contains("transaction_timeout = 0"), "version 16 does not know it: {begin:?}");
        assert!(session.begin(BEGIN, Some(17_00_00)).as_str().ends_with("; SET LOCAL transaction_timeout = 0"));
    }

    #[test]
    fn a_connection_of_its_own_is_told_once() {
        let session = Session { patience: None, is_pooled: false };
        let set_up = session.set_up(Some(18_00_00));
        for timeout in ["statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout"] {
            assert!(set_up.as_str().contains(&format!("SET {timeout} = 0")), "{}", set_up.as_str());
        }
        assert_eq!(session.begin(BEGIN, Some(18_00_00)).as_str(), BEGIN);
    }
}
