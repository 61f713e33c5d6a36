//! All SQL. What is asked, in the words of the product; why it is asked, the callers know.
//!
//! Statements run in a transaction that the caller opens: a [`Database::snapshot`] to read one moment, a
//! [`Database::begin`] to change something; those for which each one is a transaction by itself, on a
//! [`Database::connection`]. If the process dies, Postgres rolls back what was not committed.

mod address;
mod catalog;
mod claims;
mod connecting;
mod connection;
mod connections;
mod consumed;
mod edits;
mod erroneous;
mod errors;
mod events;
mod groups;
mod intents;
mod introduced;
mod leases;
mod lookups;
mod members;
mod migrations;
mod moves;
mod overview;
mod recovery;
mod replicas;
mod runs;
mod scrubs;
mod server;
mod session;
mod snapshots;
mod topics;
mod troubles;
mod wakeups;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

pub use address::{Address, AddressError};
pub use catalog::{
    Archive, ArchiveExtent, archive, archive_extents, archives_of, correct_archive, delete_archive, has_archives,
    insert_archive, known_archives, last_archive_from, promote_archive, rename_archived, topic_of_archive,
};
pub use claims::{Identity, has_claimed, identity, insert_claim};
pub use connection::Connection;
pub use connections::PooledConnection;
pub use consumed::{consumed_positions, delete_consumed, forget_consumed};
pub use edits::{
    Edit, EditKind, PendingEdit, archives_invalidated, archives_with_pending_edits, edit, edited_since, edits_of,
    insert_edit, insert_pending_edit, mark_hot_purged, mark_purged, pending_edits, pending_edits_of_archive, renames,
    settle_edits, unpurged_archives,
};
pub use erroneous::{Erroneous, delete_resend, erroneous_after, insert_erroneous, resend, resends, unsettled};
pub use errors::{CommitError, Error};
pub use events::{
    ExportedRow, append, append_many, collect_statistics, count_between, delete_ranges, eligible_batch, export,
    first_hot, first_not_hot, has_hot, hot_by_ids, hot_position_ranges, hot_range, hot_range_bytes, insert, last_hot,
    lock_hot, lock_hot_by_gdpr_id, positions_of_correlation, rename_hot, replace, table_bytes,
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
pub use overview::{
    RemaindersOfSome, TopicOverview, Totals, largest_overviews, overviews_after, remainders_after, totals,
};
pub use recovery::{
    KnownObject, add_found, adopt_deployment, forget_archive, has_pending_since, hot_edited_since, known_objects,
    known_objects_of, replace_archive, set_etag,
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
pub use troubles::{
    Trouble, TroubleKind, delete_past_troubles, delete_recover_troubles, delete_troubles, has_trouble, insert_trouble,
    put_off, trouble_counts, troubles,
};
pub use wakeups::{Listener, broadcast, delete_old_broadcasts, insert_broadcast, notify, notify_others};

use connection::Limit;
use connections::{Connections, Era, Opening};
use errors::ends_session;
use session::{BEGIN, SNAPSHOT, Session};

/// An export holds one while it needs others for a moment, and so does a renewal of its lease.
const JOBS_CONNECTIONS_MIN: u32 = 4;
/// One renews the replica's lease, one takes and releases; twice, while one set of subscribers follows
/// another.
const GROUPS_CONNECTIONS: u32 = 4;
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);
/// How many times as long as a caller a background job waits for each answer: it asks for much at once.
const JOBS_FACTOR: u32 = 30;
/// An append waits for a part of a caller's time only, since the long way is to follow.
const APPEND_DIVISOR: u32 = 3;

/// The address of the database, and how it is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub url: String,
    /// The way past a pooler that gives a connection for a transaction, if `url` leads to one.
    pub direct_url: String,
    /// Callers have so many; background jobs have a quarter as many.
    pub connections_max: u32,
    /// Callers wait for no longer.
    pub patience: Duration,
    /// Background jobs wait for each answer for no longer.
    pub jobs_patience: Duration,
}

impl Settings {
    pub fn new(url: &str, connections_max: u32) -> Settings {
        let (url, direct_url) = (url.to_owned(), url.to_owned());
        let jobs_patience = DEFAULT_PATIENCE * JOBS_FACTOR;
        Settings { url, direct_url, connections_max, patience: DEFAULT_PATIENCE, jobs_patience }
    }

    /// Callers wait for so long, and jobs many times as long.
    pub fn with_patience(self, patience: Duration) -> Settings {
        Settings { patience, jobs_patience: patience * JOBS_FACTOR, ..self }
    }
}

/// Statements that take effect together, once they are committed.
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

/// Publishers and readers have connections, background jobs others, so that neither waits for the other; and a
/// replica's lease waits for none of them.
#[derive(Clone)]
pub struct Database {
    callers: Arc<Connections>,
    jobs: Arc<Connections>,
    groups: Arc<Connections>,
    /// Connections for single statements that are many and short.
    appends: Arc<Connections>,
    /// For what concerns a session: migrations hold a lock in it, and notifications come to it.
    direct: PgConnectOptions,
    patience: Duration,
    jobs_patience: Duration,
}

impl Database {
    /// Makes no connection before it is needed.
    pub fn new(url: &str, connections_max: u32) -> Result<Database, Error> {
        Database::open(&Settings::new(url, connections_max))
    }

    /// The same, to the last setting.
    pub fn open(settings: &Settings) -> Result<Database, Error> {
        let Settings { url, direct_url, connections_max, patience, jobs_patience } = settings;
        let options = |url: &str| url.parse().map(|address: Address| address.options);
        let (options, direct) = (options(url)?.extra_float_digits(None), options(direct_url)?);
        let (era, is_pooled) = (Arc::new(Era::default()), url != direct_url);
        let connections = |count, patience_each: Duration| {
            let session = Session { patience: Some(patience_each), is_pooled };
            Connections::new(options.clone(), session, (count, *patience), &era)
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

    /// The time for which callers wait.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether it answers, and takes changes.
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

    /// One moment of everything, for reading.
    pub async fn snapshot(&self) -> Result<Transaction, Error> {
        begun(&self.callers, SNAPSHOT, Limit::within(self.patience)).await
    }

    /// One moment of everything, for background jobs.
    pub async fn snapshot_for_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs, SNAPSHOT, Limit::Each(self.jobs_patience)).await
    }

    pub async fn begin(&self) -> Result<Transaction, Error> {
        begun(&self.callers, BEGIN, Limit::within(self.patience)).await
    }

    /// A connection for single statements: nobody asks it first whether it is alive, if it was a moment ago.
    pub async fn connection(&self) -> Result<PooledConnection, Error> {
        let limit = Limit::within(self.patience / APPEND_DIVISOR);
        self.appends.take(Opening::Trust, limit).await
    }

    /// A transaction for background jobs, and for what a caller changes in a whole log.
    pub async fn begin_job(&self) -> Result<Transaction, Error> {
        begun(&self.jobs, BEGIN, Limit::Each(self.jobs_patience)).await
    }

    /// For a replica's lease, and what it takes and releases.
    pub async fn begin_groups(&self) -> Result<Transaction, Error> {
        begun(&self.groups, BEGIN, Limit::within(self.patience)).await
    }

    /// A transaction for a replica's lease, which has an end of its own.
    pub async fn begin_beat(&self, patience: Duration) -> Result<Transaction, Error> {
        begun(&self.groups, BEGIN, Limit::within(patience)).await
    }

    /// For what background jobs read in a long answer.
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
        // A server that is shut down may say so when it has committed and not answered yet.
        true => CommitError::Unknown(error),
        false => CommitError::Refused(error.into()),
    })
}
