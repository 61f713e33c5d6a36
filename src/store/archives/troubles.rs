//! One object's trouble stays one object's: whoever meets an object that S3 refuses, that is damaged, or that cannot be
//! deleted, writes it down and goes on with everything else. Operators see it in [`Store::status`] and the metrics;
//! what happens by itself asks for such an object again ever more rarely. If the process dies before it is written
//! down, whoever comes next meets it again.

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

/// Readers of one object say so once in a while, and not each.
const TOLD_INTERVAL: Duration = Duration::from_secs(10 * 60);
const TOLD_MAX: usize = 10_000;

/// The selection of what is asked for again, of all that was not possible before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Everything: an operator wants to know now.
    All,
    /// Everything but what was asked for in vain a short while ago.
    Due,
}

/// The failures of a run in which everything has its turn.
pub struct Failures {
    retry: Retry,
    last: Option<Error>,
}

impl Failures {
    pub fn new(retry: Retry) -> Failures {
        Failures { retry, last: None }
    }

    /// An error of one object, which is written down, is no failure of a run that happens again and again.
    pub fn add(&mut self, error: Error) {
        if self.retry == Retry::All || !error.is_of_one_object() {
            self.last = Some(error);
        }
    }

    pub fn outcome<T>(self, done: T) -> Result<T, Error> {
        self.last.map_or(Ok(done), Err)
    }
}

/// Archives of which readers of this process have told that they cannot be read.
#[derive(Default)]
pub struct Told(Mutex<HashMap<Uuid, Instant>>);

impl Told {
    /// Whether it is time to tell it.
    fn is_due(&self, archive_id: Uuid, now: Instant) -> bool {
        let mut told = self.0.lock();
        if told.get(&archive_id).is_some_and(|at| now - *at < TOLD_INTERVAL) {
            return false;
        }
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(archive_id, now);
        true
    }
}

impl Store {
    /// Writes down that something was not possible with an object. An error of more is no trouble of it.
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
                tracing::error!(%error, object, kind, why, "an object is in trouble, which is not written down")
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
            Ok(true) => tracing::info!(object, "an object is in trouble no more"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, object, "what was wrong with an object is not forgotten yet"),
        }
    }

    /// Does so for readers, who are many, and wait.
    pub(in crate::store) async fn note_unreadable(&self, log: &Log, archive_id: Uuid, error: &Error) {
        if !error.is_of_one_object() || !self.told.is_due(archive_id, Instant::now()) {
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
            Err(error) => tracing::debug!(%error, %archive_id, "what is wrong with an object is not written down"),
        }
    }

    /// The operations on objects that were tried in vain a short while ago; none if everything is to be retried.
    pub(in crate::store) async fn put_off(&self, retry: Retry) -> Result<HashSet<(ArchiveKey, TroubleKind)>, Error> {
        if retry == Retry::All {
            return Ok(HashSet::new());
        }
        let mut view = self.database.view_for_job().await?;
        Ok(troubles::put_off(&mut view).await?.into_iter().collect())
    }

    /// Forgets what is past, and tells the metrics of the rest.
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
    fn readers_tell_once_in_a_while() {
        let (told, [one, other], now) = (Told::default(), [1, 2].map(Uuid::from_u128), Instant::now());
        assert_eq!([one, one, other, one].map(|id| told.is_due(id, now)), [true, false, true, false]);
        let later = now + TOLD_INTERVAL;
        assert_eq!([one, one].map(|id| told.is_due(id, later)), [true, false]);
        for number in 0..3 * TOLD_MAX as u128 {
            told.is_due(Uuid::from_u128(number), later);
            assert!(told.0.lock().len() <= TOLD_MAX);
        }
    }
}
