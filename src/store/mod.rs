//! The product's verbs, and every place where Postgres and S3 meet. So all reasoning about crashes is in this module.
//!
//! The promise: every acknowledged event is readable at every instant, in a hot row or in exactly one live archive,
//! and every read after an acknowledged edit shows the edit. One Postgres transaction is the only commit point of every
//! step. If the process dies before the commit, an intent knows the object that it leaves in the bucket.
//! `docs/protocols.md` draws the steps.
//!
//! An arrow is an import or a call of a method of [`Store`], and `tests/layers.rs` checks them all:
//!
//! ```text
//!     checking   recovering      editing   subscribe     find what is wrong │ rebuild │ change │ deliver
//!            \   /                    \   /
//!           moving                    log               between rows and objects │ publish and read
//!                \                   /
//!                      archives                         objects, leases, overlays, the bucket's owner
//! ```

mod archives;
mod checking;
mod editing;
mod error;
mod log;
mod moving;
mod recovering;
mod status;
mod subscribe;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use crate::bucket::Bucket;
use crate::database::{Connection, Database};
use crate::event::{Eligibility, Event, Invalid, NewEvent};

pub use crate::database::catalog::archives::Archive;
use crate::database::catalog::leases::Lease;
pub use crate::database::catalog::overview::Totals;
pub use crate::database::catalog::runs::ArchiveRun;
pub use crate::database::catalog::troubles::{Trouble, TroubleKind};
pub use crate::database::ledger::edits::Edit;
pub use crate::database::log::rows::LogRow;
use crate::database::lookups::{self, HashKey};
pub use archives::contents::Pacing;
pub use archives::ownership::Owner;
pub use checking::leftovers::{Leftover, SweepRequest};
pub use checking::repair::Repaired;
pub use checking::verify::Finding;
pub use editing::edit::{EditOutcome, EditRequest};
pub use error::{Error, GaveWay};
pub use log::import::{ImportBatch, ImportConflict, ImportCounts, ImportUnknown};
pub use log::publish::{Conflicts, Published};
pub use log::read::memory::Held;
pub use log::read::{Page, PageSize, Query};
pub use log::streams::{SnapshotChoice, StreamPage, StreamQuery};
pub use moving::archive::{Archived, Batch, Exported, Verified};
pub use moving::remainders::Remainders;
pub use moving::restore::{Parted, Restore, Restored, Selection};
pub use moving::rewrite::{Prepared, Replaced, Rewrite};
pub use recovering::reconcile::Unreconciled;
pub use recovering::recover::{RecoveredLog, Recovery, Superseded, Unrecovered};
pub use status::{Status, TopicStatus, TopicsPage};
pub use subscribe::{
    Deliveries, Delivery, ErroneousEvent, Group, RequiredGroups, Subscribing, SubscribingSettings, Subscription,
};

use archives::ownership::Ownership;
use archives::troubles::RecentlyReported;
use log::publish::{ArchivedIds, Bell, Queues};
use log::read::memory::Memory;
use subscribe::Subscriptions;

#[derive(Debug, Clone)]
pub struct Settings {
    pub eligibility: Eligibility,
    /// The time after which a lease expires that its holder has not renewed.
    pub lease_term: Duration,
    /// The time that the bucket's owner has to answer a challenge before the challenger takes the bucket over.
    pub takeover_wait: Duration,
    pub subscribing: SubscribingSettings,
    /// The most bytes that one event may have, as [`Event::byte_len`] counts them, when it is published and after an
    /// edit. An erasure is never refused because of its size.
    pub event_bytes_max: usize,
    pub reading: ReadingSettings,
}

#[derive(Debug, Clone)]
pub struct ReadingSettings {
    /// The most memory that all reads take together. A page takes twice its size.
    pub bytes_max: u64,
    /// The longest time that a page waits for that memory.
    pub wait: Duration,
}

/// The most attempts at a call that gives way to others.
const ATTEMPTS: usize = 5;
/// The longest time that a readiness check waits for Postgres or S3.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the outcome of a check, or an error if the check does not end in time.
async fn within_timeout<E: Into<Error>>(what: &str, check: impl Future<Output = Result<(), E>>) -> Result<(), Error> {
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(outcome) => outcome.map_err(E::into),
        Err(_) => Err(Error::Unavailable(format!("{what} did not answer within {CHECK_TIMEOUT:?}"))),
    }
}

pub struct Store {
    database: Database,
    bucket: Option<Arc<Bucket>>,
    ownership: Ownership,
    settings: Settings,
    hash_key: OnceCell<HashKey>,
    merges_caught_up: OnceCell<()>,
    /// The leases that this process holds.
    leases: Mutex<HashSet<Lease>>,
    /// Signals that an archived event was edited.
    rewrite_wanted: Notify,
    subscriptions: Arc<Subscriptions>,
    bell: Bell,
    queues: Queues,
    archived_ids: Arc<ArchivedIds>,
    recently_reported: RecentlyReported,
    memory: Memory,
}

impl Store {
    /// Makes a store. It archives nothing and cannot read archived events if it has no bucket.
    pub fn new(database: Database, bucket: Option<Arc<Bucket>>, settings: Settings) -> Store {
        let (hash_key, merges_caught_up) = (OnceCell::new(), OnceCell::new());
        let (leases, rewrite_wanted) = (Mutex::default(), Notify::new());
        let subscriptions = Arc::new(Subscriptions::new());
        let bell: Bell = {
            let (subscriptions, database) = (Arc::clone(&subscriptions), database.clone());
            Box::new(move |log_rows| subscriptions.wake(&database, log_rows))
        };
        let (queues, archived_ids) = (Queues::default(), Arc::new(ArchivedIds::new()));
        let memory = Memory::new(&settings.reading);
        Store {
            database,
            bucket,
            ownership: Ownership::default(),
            settings,
            hash_key,
            merges_caught_up,
            leases,
            rewrite_wanted,
            subscriptions,
            bell,
            queues,
            archived_ids,
            recently_reported: RecentlyReported::default(),
            memory,
        }
    }

    /// Checks an event as [`NewEvent::check`] does, and its size.
    fn checked(&self, event: NewEvent) -> Result<NewEvent, Invalid> {
        let event = event.check()?;
        event.check_size(self.settings.event_bytes_max)?;
        Ok(event)
    }

    /// Checks events that are not published yet, as publishing them would.
    pub fn check_events<'a>(&self, events: impl IntoIterator<Item = &'a NewEvent>) -> Result<(), Invalid> {
        events.into_iter().try_for_each(|event| self.checked(event.clone()).map(drop))
    }

    /// Checks the size of an event that an edit has made larger. An edit that makes an event smaller always passes.
    fn check_growth(&self, old: &Event, new: &Event) -> Result<(), Invalid> {
        if new.byte_len() > old.byte_len() { new.check_size(self.settings.event_bytes_max) } else { Ok(()) }
    }

    pub fn event_bytes_max(&self) -> usize {
        self.settings.event_bytes_max
    }

    /// Brings the database's schema up to date.
    pub async fn migrate(&self) -> Result<(), Error> {
        Ok(self.database.migrate().await?)
    }

    /// Waits until this process has edited an archived event since the last call returned.
    pub async fn rewrite_wanted(&self) {
        self.rewrite_wanted.notified().await;
    }

    /// Checks that Postgres answers and takes changes, and that S3 answers if a bucket is configured.
    pub async fn check(&self) -> Result<(), Error> {
        let bucket = async {
            match &self.bucket {
                Some(bucket) => bucket.check().await,
                None => Ok(()),
            }
        };
        let (database, bucket) =
            (within_timeout("the database", self.database.check()), within_timeout("the bucket", bucket));
        tokio::try_join!(database, bucket).map(|((), ())| ())
    }

    /// Returns whether a bucket is configured. Without one, this process neither reads nor rewrites archives.
    pub fn has_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// Drops the members from the readers' cache that have been in it for long enough.
    pub async fn forget_old_members(&self) {
        if let Some(bucket) = &self.bucket {
            bucket.forget_old_members().await;
        }
    }

    fn bucket(&self) -> Result<&Arc<Bucket>, Error> {
        self.bucket.as_ref().ok_or(Error::NoBucket)
    }

    /// Returns the key of the lookups' hashes. It is read over the caller's connection, because a caller that holds the
    /// last connection of the pool must not wait for another one.
    async fn hash_key(&self, connection: &mut Connection) -> Result<HashKey, Error> {
        Ok(*self.hash_key.get_or_try_init(|| lookups::hash_key(connection)).await?)
    }
}
