//! The troubles of single objects: S3 refuses an object, it is damaged, or it cannot be deleted.
//!
//! The trouble of one object stops nothing else. A call that meets trouble records it, and goes on with other objects.
//! Operators see troubles in [`Store::status`] and in the metrics. Background jobs retry such an object with a growing
//! backoff. If the process dies before it has recorded a trouble, the next process to use the object meets it again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::bucket::object_key;
use crate::database::catalog::troubles::{self, TroubleKind};
use crate::database::log::rows;
use crate::database::{self, ArchiveKey};
use crate::event::Log;
use crate::store::{Error, Store};

/// The shortest time between two reports that readers of this process make about the same object.
const REPORT_INTERVAL: Duration = Duration::from_secs(10 * 60);
const REPORTED_MAX: usize = 10_000;

/// The failed operations on objects that a call retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Retries everything: an operator wants to know the outcome now.
    All,
    /// Retries everything except operations that failed a short while ago.
    Due,
}

/// The failures of a pass over many objects, which goes on after each of them.
pub struct Failures {
    retry: Retry,
    last: Option<Error>,
}

impl Failures {
    pub fn new(retry: Retry) -> Failures {
        Failures { retry, last: None }
    }

    /// Adds an error. A periodic pass does not fail with an error of one object, which is recorded as its trouble.
    pub fn add(&mut self, error: Error) {
        if self.retry == Retry::All || !error.is_of_one_object() {
            self.last = Some(error);
        }
    }

    pub fn outcome<T>(self, done: T) -> Result<T, Error> {
        self.last.map_or(Ok(done), Err)
    }
}

/// The unreadable archives that readers of this process have reported, and when.
#[derive(Default)]
pub struct RecentlyReported(Mutex<HashMap<Uuid, Instant>>);

impl RecentlyReported {
    /// Returns whether a report of an archive is due, and remembers it as made.
    fn is_due(&self, archive_id: Uuid, now: Instant) -> bool {
        let mut reported = self.0.lock();
        if reported.get(&archive_id).is_some_and(|at| now - *at < REPORT_INTERVAL) {
            return false;
        }
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        reported.insert(archive_id, now);
        true
    }
}

impl Store {
    /// Records that an operation on an object failed. An error that concerns more than one object is not recorded.
    pub(in crate::store) async fn note_trouble(&self, log: &Log, key: ArchiveKey, kind: TroubleKind, error: &Error) {
        if error.is_of_one_object() {
            self.note_trouble_because(log, key, kind, &error.to_string()).await;
        }
    }

    pub(in crate::store) async fn note_trouble_because(
        &self,
        log: &Log,
        key: ArchiveKey,
        kind: TroubleKind,
        why: &str,
    ) {
        metrics::counter!("coldstream_object_troubles_total", "kind" => kind.as_str()).increment(1);
        let noted = async {
            let mut transaction = self.database.begin_job().await?;
            let is_new = troubles::insert(&mut transaction, key, kind, why).await?;
            database::commit(transaction).await?;
            Ok::<_, Error>(is_new)
        };
        let (object, kind) = (object_key(log, key.archive_id), kind.as_str());
        match noted.await {
            Ok(true) => tracing::error!(object, kind, why, "an object is in trouble"),
            Ok(false) => tracing::debug!(object, kind, why, "an object still is in trouble"),
            Err(error) => {
                tracing::error!(%error, object, kind, why, "an object is in trouble, and the trouble was not recorded")
            }
        }
    }

    pub(in crate::store) async fn clear_troubles(&self, log: &Log, key: ArchiveKey, kinds: &[TroubleKind]) {
        let cleared = async {
            let mut transaction = self.database.begin_job().await?;
            let was_there = troubles::delete(&mut transaction, key, kinds).await?;
            database::commit(transaction).await?;
            Ok::<_, Error>(was_there)
        };
        let object = object_key(log, key.archive_id);
        match cleared.await {
            Ok(true) => tracing::info!(object, "an object is no longer in trouble"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, object, "the past trouble of an object was not cleared"),
        }
    }

    /// Records that an object is unreadable. Readers are many and wait for their answers, so they rarely report the
    /// same object again.
    pub(in crate::store) async fn note_unreadable(&self, log: &Log, archive_id: Uuid, error: &Error) {
        if !error.is_of_one_object() || !self.recently_reported.is_due(archive_id, Instant::now()) {
            return;
        }
        let known = async {
            let mut view = self.database.view_for_job().await?;
            let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(None) };
            let key = ArchiveKey::new(log_row.id, archive_id);
            Ok::<_, Error>((!troubles::has_any(&mut view, key, TroubleKind::Read).await?).then_some(key))
        };
        match known.await {
            Ok(Some(key)) => self.note_trouble(log, key, TroubleKind::Read, error).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, %archive_id, "the trouble of an object was not recorded"),
        }
    }

    /// Returns the operations on objects that failed a short while ago; none if everything is to be retried.
    pub(in crate::store) async fn put_off(&self, retry: Retry) -> Result<HashSet<(ArchiveKey, TroubleKind)>, Error> {
        if retry == Retry::All {
            return Ok(HashSet::new());
        }
        let mut view = self.database.view_for_job().await?;
        Ok(troubles::put_off(&mut view).await?.into_iter().collect())
    }

    /// Deletes the troubles that are past, and sets the metrics to the counts of the others.
    pub(in crate::store) async fn count_troubles(&self) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        troubles::delete_past(&mut transaction).await?;
        let counts = troubles::counts(&mut transaction).await?;
        database::commit(transaction).await?;
        for (kind, count) in counts {
            metrics::gauge!("coldstream_objects_in_trouble", "kind" => kind.as_str()).set(count as f64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_report_an_object_once_in_a_while() {
        let (reported, [one, other]) = (RecentlyReported::default(), [1, 2].map(Uuid::from_u128));
        let now = Instant::now();
        assert_eq!([one, one, other, one].map(|id| reported.is_due(id, now)), [true, false, true, false]);
        let later = now + REPORT_INTERVAL;
        assert_eq!([one, one].map(|id| reported.is_due(id, later)), [true, false]);
        for number in 0..3 * REPORTED_MAX as u128 {
            reported.is_due(Uuid::from_u128(number), later);
            assert!(reported.0.lock().len() <= REPORTED_MAX);
        }
    }
}
