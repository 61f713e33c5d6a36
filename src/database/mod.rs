//! All SQL. What is asked, in the words of the product; why it is asked, the callers know.
//!
//! Statements run in a transaction that the caller opens: a [`Database::snapshot`] to read one moment, a
//! [`Database::begin`] to change something; those for which each one is a transaction by itself, on a
//! [`Database::connection`]. If the process dies, Postgres rolls back what was not committed.

mod catalog;
mod connections;
mod consumed;
mod edits;
mod erroneous;
mod events;
mod groups;
mod intents;
mod introduced;
mod leases;
mod lookups;
mod members;
mod moves;
mod recovery;
mod replicas;
mod runs;
mod scrubs;
mod snapshots;
mod topics;
mod wakeups;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, PgConnection, Postgres};

pub use catalog::{
    Archive, ArchiveExtent, archive, archive_extents, archives_of, correct_archive, delete_archive, has_archives,
    insert_archive, known_archives, last_archive_from, promote_archive, rename_archived, topic_of_archive,
};
pub use connections::{JobConnection, SingleConnection};
pub use consumed::{consumed_positions, delete_consumed, forget_consumed};
pub use edits::{
    Edit, EditKind, PendingEdit, archives_invalidated, archives_with_pending_edits, edit, edited_since, edits_of,
    insert_edit, insert_pending_edit, mark_hot_purged, mark_purged, pending_edits, pending_edits_of_archive, renames,
    settle_edits, unpurged_archives,
};
pub use erroneous::{Erroneous, delete_resend, erroneous_after, insert_erroneous, resend, resends, unsettled};
pub use events::{
    append, append_many, average_row_bytes, collect_statistics, count_between, delete_ranges, eligible_batch, export,
    first_hot, hot_by_ids, hot_position_ranges, hot_range, insert, last_hot, lock_hot, lock_hot_by_gdpr_id,
    oldest_raised_at, positions_of_correlation, rename_hot, replace, table_bytes,
};
pub use groups::{
    Group, Progress, Refusal, Taken, Turn, Wanted, hand_over, handled_position, owned_by_others, pending_progress,
    release_all, release_progress, take_progress, unhandled, update_progress,
};
pub use intents::{
    Intent, UploadedFacts, complete_intent, delete_intent, delete_intents_of, has_intents, has_unfinished, hold_intent,
    insert_intent, intent_of_archive, intents, is_intended, topics_with_stale_intents,
};
pub use introduced::{delete_introduced_gdpr_ids, insert_introduced_gdpr_id, introduced_gdpr_id, introduced_gdpr_ids};
pub use leases::{Lease, check_lease, release_lease, renew_lease, take_lease};
pub use lookups::{
    HashKey, LookupRun, Merge, Sum, delete_lookups, due_merge, fingerprints, hash_key, insert_run, leads_to,
    live_lookups, members_with_gdpr_id, members_with_ids, members_with_stream, merge_lookups, sum_up, sums,
    topics_with_due_merges, wrong_sums,
};
pub use members::{
    MemberExtent, MemberRow, delete_members, insert_members, lowest_member_across, member_extents, members_by_key,
    members_of,
};
pub use moves::{Move, announce};
pub use recovery::{
    KnownObject, add_found, adopt_deployment, deployment_id, forget_archive, has_pending_since, hot_edited_since,
    known_objects, known_objects_of, replace_archive, set_etag,
};
pub use replicas::{GroupNames, delete_dead_replicas, delete_replica, insert_replica, others_subscribe, renew_replica};
pub use runs::{ArchiveRun, insert_archive_run, last_archive_run};
pub use scrubs::{begin_scrub, end_scrub};
pub use snapshots::{
    insert_snapshot, lock_snapshots_by_gdpr_id, newest_snapshot, rename_snapshots, replace_snapshot, snapshot,
};
pub use topics::{
    Topic, add_archived, add_deleted, bump_edit_counter, edit_counter, find_topic, lock_topic, make_topic,
    raise_catalog_epoch, recount_archived, set_head, topic_by_id, topics, topics_named, topics_with_hot_events,
};
pub use wakeups::{Listener, broadcast, delete_old_broadcasts, insert_broadcast, notify, notify_others};

use connections::Connections;

pub type Connection = PgConnection;
pub type Transaction = sqlx::Transaction<'static, Postgres>;

/// An export holds one while it needs others for a moment, and so does a renewal of its lease.
const JOBS_CONNECTIONS_MIN: u32 = 4;
/// One renews the replica's lease, one takes and releases; twice, while one set of subscribers follows
/// another.
const GROUPS_CONNECTIONS: u32 = 4;
const BEGIN: &str = "BEGIN";
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or has no connection left: try again later.
    #[error("the database is not available: {0}")]
    Unavailable(sqlx::Error),
    /// Another transaction came in between: the same one can be tried again at once.
    #[error("the database gave way to another transaction: {0}")]
    GaveWay(sqlx::Error),
    #[error("the database refused: {0}")]
    Refused(sqlx::Error),
    /// What it holds cannot be what we wrote.
    #[error("the database holds damaged data: {0}")]
    Damaged(String),
    #[error("the migrations cannot be applied: {0}")]
    Migrate(sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match (&error, code.as_str()) {
            (_, "40001" | "40P01") => Error::GaveWay(error),
            // Connection lost, too many connections, shutting down, not up yet.
            (_, code) if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
                Error::Unavailable(error)
            }
            (sqlx::Error::Database(_), _) => Error::Refused(error),
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound, _) => Error::Damaged(error.to_string()),
            _ => Error::Unavailable(error),
        }
    }
}

/// What became of a commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Refused(Error),
    /// The connection broke off: it may have been committed or not.
    #[error("the database did not say whether it committed: {0}")]
    Unknown(sqlx::Error),
}

/// Publishers and readers have one pool, background jobs another, so that neither waits for the other; and a replica's
/// lease waits for none of them.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    jobs_pool: PgPool,
    groups_pool: PgPool,
    connections: Arc<Connections>,
    /// For what concerns a session: migrations hold a lock in it, and notifications come to it.
    direct: PgConnectOptions,
}

impl Database {
    /// Makes no connection before it is needed.
    pub fn new(url: &str, connections_max: u32) -> Result<Database, Error> {
        Database::behind_pooler(url, url, connections_max)
    }

    /// One whose `url` leads to a pooler that gives a connection for a transaction, and `direct_url` past it.
    pub fn behind_pooler(url: &str, direct_url: &str, connections_max: u32) -> Result<Database, Error> {
        // A statement that is logged as slow would be every export.
        let options = |url| -> Result<PgConnectOptions, sqlx::Error> {
            Ok(PgConnectOptions::from_str(url)?.application_name("coldstream").disable_statement_logging())
        };
        let (options, direct) = (options(url)?.extra_float_digits(None), options(direct_url)?);
        let pool = |connections_max| {
            PgPoolOptions::new()
                .max_connections(connections_max)
                .after_connect(|connection, _| Box::pin(connections::set_up(connection)))
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .connect_lazy_with(options.clone())
        };
        Ok(Database {
            pool: pool(connections_max),
            jobs_pool: pool(connections_max.div_ceil(4).max(JOBS_CONNECTIONS_MIN)),
            groups_pool: pool(GROUPS_CONNECTIONS),
            connections: Arc::new(Connections::new(options.clone(), connections_max.div_ceil(4) as usize)),
            direct,
        })
    }

    /// Brings the tables up to date. On a connection of its own, which says at once why it cannot be had.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut connection = PgConnection::connect_with(&self.direct).await?;
        sqlx::migrate!().run(&mut connection).await.map_err(Error::Migrate)?;
        Ok(connection.close().await?)
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.pool.acquire().await?.ping().await?;
        Ok(())
    }

    /// One moment of everything, for reading.
    pub async fn snapshot(&self) -> Result<Transaction, Error> {
        begun(&self.pool, SNAPSHOT).await
    }

    /// One moment of everything, for background jobs.
    pub async fn snapshot_for_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs_pool, SNAPSHOT).await
    }

    pub async fn begin(&self) -> Result<Transaction, Error> {
        begun(&self.pool, BEGIN).await
    }

    /// For single statements: nobody asks it first whether it is alive.
    pub async fn connection(&self) -> Result<SingleConnection, Error> {
        Connections::take(&self.connections).await
    }

    /// For background jobs.
    pub async fn begin_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs_pool, BEGIN).await
    }

    /// For a replica's lease, and what it takes and releases.
    pub async fn begin_groups(&self) -> Result<Transaction, Error> {
        begun(&self.groups_pool, BEGIN).await
    }

    /// For what background jobs read in a long answer.
    pub async fn job_connection(&self) -> Result<JobConnection, Error> {
        Ok(JobConnection::new(self.jobs_pool.acquire().await?))
    }

    pub async fn close(&self) {
        self.pool.close().await;
        self.jobs_pool.close().await;
        self.groups_pool.close().await;
        self.connections.close();
    }
}

/// In a task of its own, which comes to its end whatever happens to the caller: a connection goes back to its pool with
/// the transaction open if it is given up in the middle of beginning one. Boxed, since it is large, what is spawned is
/// moved about, and callers are spawned themselves.
async fn begun(pool: &PgPool, statement: &'static str) -> Result<Transaction, Error> {
    let pool = pool.clone();
    let begin = Box::pin(async move { pool.begin_with(statement).await });
    Ok(tokio::spawn(begin).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))?)
}

pub async fn commit(transaction: Transaction) -> Result<(), CommitError> {
    transaction.commit().await.map_err(|error| match &error {
        // A server that is shut down may say so when it has committed and not answered yet.
        sqlx::Error::Database(why) if why.code().is_some_and(|code| code.starts_with("57P")) => {
            CommitError::Unknown(error)
        }
        sqlx::Error::Database(_) => CommitError::Refused(error.into()),
        _ => CommitError::Unknown(error),
    })
}
