//! All SQL, in the words of the product. This module says what is asked; the callers know why.
//!
//! Statements run in a transaction that the caller opens: a [`Database::view`] to read one moment, a
//! [`Database::begin`] to change something. A statement that is a transaction by itself runs on a
//! [`Database::connection`]. If the process dies, Postgres rolls back every transaction that was not committed.
//!
//! A statement that is long, or that is needed in several forms, stands in a `.sql` file beside the Rust file that runs
//! it.
//!
//! Statements stand in rooms by subject, whose arrows `tests/layers.rs` checks:
//!
//! ```text
//!     catalog                          archives, members, intents, leases, troubles, claims
//!     /   |   \
//!  log    |   ledger       groups      hot events and snapshots │ edits │ progress, replicas
//!     \   |
//!    lookups                           pages of ids, streams and GDPR ids, and their merges
//! ```

mod address;
pub mod catalog;
mod connecting;
mod connection;
mod connections;
mod errors;
pub mod groups;
mod keys;
pub mod ledger;
pub mod log;
pub mod lookups;
mod migrations;
mod server;
mod session;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

pub use address::{Address, AddressError};
pub use connection::Connection;
pub use connections::PooledConnection;
pub use errors::{CommitError, Error};
pub use keys::{Amounts, ArchiveKey};

use connection::Limit;
use connections::{Connections, Opening, Pools};
use errors::ends_session;
use session::{BEGIN, Session, VIEW};

/// An export holds one connection while it needs others for a moment, and so does the renewal of its lease.
const JOBS_CONNECTIONS_MIN: u32 = 4;
/// One connection renews the replica's lease, and one takes and releases progress. There are two of each, for the
/// moment when one replica of this process ends and the next one begins.
const GROUPS_CONNECTIONS: u32 = 4;
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);
/// The number of times as long that a background job waits for each answer than a caller does, because it asks for much
/// at once.
const JOBS_FACTOR: u32 = 30;
/// The divisor for the part of a caller's time that an append may take, because the long way may follow.
const APPEND_DIVISOR: u32 = 3;

/// The address of the database, and the limits of its connections.
#[derive(Debug, Clone)]
pub struct Settings {
    pub url: String,
    /// The address past a pooler that lends a connection for one transaction, if `url` leads to such a pooler.
    pub direct_url: String,
    /// The most connections for callers. Background jobs have a quarter as many.
    pub connections_max: u32,
    /// The longest time that a caller waits.
    pub patience: Duration,
    /// The longest time that a background job waits for each answer.
    pub jobs_patience: Duration,
}

impl Settings {
    pub fn new(url: &str, connections_max: u32) -> Settings {
        let (url, direct_url) = (url.to_owned(), url.to_owned());
        let jobs_patience = DEFAULT_PATIENCE * JOBS_FACTOR;
        Settings { url, direct_url, connections_max, patience: DEFAULT_PATIENCE, jobs_patience }
    }

    /// Sets the time that callers wait; jobs wait many times as long.
    pub fn with_patience(self, patience: Duration) -> Settings {
        Settings { patience, jobs_patience: patience * JOBS_FACTOR, ..self }
    }
}

/// Statements that take effect together, once they are committed. Dropping it rolls them back.
pub struct Transaction(PooledConnection);

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

/// The database. Callers and background jobs have connections of their own, so that neither waits for the other, and a
/// replica's lease waits for none of them.
#[derive(Clone)]
pub struct Database {
    callers: Arc<Connections>,
    jobs: Arc<Connections>,
    groups: Arc<Connections>,
    /// Connections for single statements that are many and short.
    appends: Arc<Connections>,
    /// The way to a session of one's own: migrations hold a lock in theirs, and a listener hears notifications in its
    /// own.
    direct: PgConnectOptions,
    patience: Duration,
    jobs_patience: Duration,
}

impl Database {
    /// Opens the database with default limits. It connects only once a connection is needed.
    pub fn new(url: &str, connections_max: u32) -> Result<Database, Error> {
        Database::open(&Settings::new(url, connections_max))
    }

    /// Opens the database with every setting given.
    pub fn open(settings: &Settings) -> Result<Database, Error> {
        let Settings { url, direct_url, connections_max, patience, jobs_patience } = settings;
        let options = |url: &str| url.parse().map(|address: Address| address.options);
        let (options, direct) = (options(url)?.extra_float_digits(None), options(direct_url)?);
        let (pools, is_pooled) = (Arc::new(Pools::default()), url != direct_url);
        let connections = |count, patience_each: Duration| {
            let session = Session { patience: Some(patience_each), is_pooled };
            Connections::new(options.clone(), session, (count, *patience), &pools)
        };
        let quarter = connections_max.div_ceil(4);
        Ok(Database {
            callers: connections(*connections_max, *patience),
            jobs: connections(quarter.max(JOBS_CONNECTIONS_MIN), *jobs_patience),
            groups: connections(GROUPS_CONNECTIONS, *patience),
            appends: connections(quarter, *patience / APPEND_DIVISOR),
            direct,
            patience: *patience,
            jobs_patience: *jobs_patience,
        })
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Checks that the database answers, and takes changes.
    pub async fn check(&self) -> Result<(), Error> {
        let mut connection = self.callers.take(Opening::Ping, Limit::within(self.patience)).await?;
        let is_read_only: bool = sqlx::query_scalar("SELECT current_setting('transaction_read_only')::boolean")
            .fetch_one(&mut *connection)
            .await?;
        if is_read_only {
            connection.found_read_only();
            return Err(Error::ReadOnly);
        }
        Ok(())
    }

    /// Opens a view: one moment of the database, for reading.
    pub async fn view(&self) -> Result<Transaction, Error> {
        begun(&self.callers, VIEW, Limit::within(self.patience)).await
    }

    /// Opens a view for a background job.
    pub async fn view_for_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs, VIEW, Limit::Each(self.jobs_patience)).await
    }

    pub async fn begin(&self) -> Result<Transaction, Error> {
        begun(&self.callers, BEGIN, Limit::within(self.patience)).await
    }

    /// Lends a connection for single statements. Nobody asks first whether it lives, if it did a moment ago.
    pub async fn connection(&self) -> Result<PooledConnection, Error> {
        let limit = Limit::within(self.patience / APPEND_DIVISOR);
        self.appends.take(Opening::Trust, limit).await
    }

    /// Begins a transaction for a background job, or for a caller's change of a whole log.
    pub async fn begin_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs, BEGIN, Limit::Each(self.jobs_patience)).await
    }

    /// Begins a transaction of a replica, which takes and releases progress in it.
    pub async fn begin_groups(&self) -> Result<Transaction, Error> {
        begun(&self.groups, BEGIN, Limit::within(self.patience)).await
    }

    /// Begins a transaction that renews a replica's lease, with a deadline of its own.
    pub async fn begin_beat(&self, patience: Duration) -> Result<Transaction, Error> {
        begun(&self.groups, BEGIN, Limit::within(patience)).await
    }

    /// Lends a connection for a background job that reads a long answer.
    pub async fn job_connection(&self) -> Result<PooledConnection, Error> {
        self.jobs.take(Opening::Ping, Limit::Each(self.jobs_patience)).await
    }

    pub fn close(&self) {
        for connections in [&self.callers, &self.jobs, &self.groups, &self.appends] {
            connections.close();
        }
    }
}

async fn begun(connections: &Arc<Connections>, statement: &'static str, limit: Limit) -> Result<Transaction, Error> {
    connections.take(Opening::Begin(statement), limit).await.map(Transaction)
}

pub async fn commit(mut transaction: Transaction) -> Result<(), CommitError> {
    transaction.commit().await.map_err(|error| match ends_session(&error) {
        // A server that is shutting down may say so after it has committed, and before it has answered.
        true => CommitError::Unknown(error),
        false => CommitError::Refused(error.into()),
    })
}
