//! Searches the whole bucket for things that nobody needs any more.
//!
//! An object that an intent knows is settled as usual. An object of ours that neither the catalog nor an intent knows
//! may be an archive that is newer than a catalog that was put back to an earlier time: the sweep reports it, and
//! deletes it only if the caller says so. Objects that are not ours are reported and never touched.

use std::collections::HashSet;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::bucket::{self, ListedObject, Said, archive_in_key, is_marker, is_probe, object_key};
use crate::database::catalog::{archives, intents};
use crate::database::log::rows;
use crate::store::{Error, Store};

/// The limits of a sweep of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepRequest {
    /// Nothing is deleted, and no upload is aborted.
    pub is_dry: bool,
    /// Objects of ours that neither the catalog nor an intent knows are deleted.
    pub deletes_unknown: bool,
    /// The age from which unknown objects are reported.
    pub unknown_older_than: Duration,
    /// The age from which uploads and probes are leftovers, because younger ones may still be in use.
    pub uploads_older_than: Duration,
}

/// Something that nobody needs, or that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// An object of ours that neither the catalog nor an intent knows.
    Unknown { key: String, is_deleted: bool },
    /// An upload of ours that was begun long ago.
    Upload { key: String, is_aborted: bool },
    /// An object with which a process that died probed the bucket.
    Probe { key: String, is_deleted: bool },
    /// Somebody else's object.
    Stranger { key: String },
    /// An object that S3 refuses to describe or to delete.
    Refused { key: String, why: String },
}

impl Store {
    /// Settles the intents of dead writers, returns how many there were, and reports everything else. An error of one
    /// object is the outcome once everything has been looked at.
    pub async fn sweep_bucket(&self, request: SweepRequest, mut tell: impl FnMut(Leftover)) -> Result<usize, Error> {
        if !request.is_dry {
            self.own().await?;
        }
        let settled = match self.sweep_unless(request.is_dry).await {
            Err(error) if !error.is_of_one_object() => return Err(error),
            settled => settled,
        };
        let bucket = self.bucket()?;
        let now = OffsetDateTime::now_utc();
        let mut from = None;
        loop {
            let (objects, next) = bucket.list_page("", from, None).await?;
            let known = self.known_keys(objects.iter().map(|object| object.key.as_str())).await?;
            for object in objects.into_iter().filter(|object| !known.contains(&object.key)) {
                let key = object.key.clone();
                let swept = self.sweep_object(object, request, now).await;
                swept.or_else(|error| refused(key, error))?.into_iter().for_each(&mut tell);
            }
            if next.is_none() {
                break;
            }
            from = next;
        }
        self.sweep_uploads(request, now, tell).await?;
        settled
    }

    async fn sweep_unless(&self, is_dry: bool) -> Result<usize, Error> {
        if is_dry { Ok(0) } else { self.sweep().await }
    }

    /// Sweeps an object that neither the catalog nor an intent knew when it was listed, and returns the report about
    /// it.
    async fn sweep_object(
        &self,
        object: ListedObject,
        request: SweepRequest,
        now: OffsetDateTime,
    ) -> Result<Option<Leftover>, Error> {
        let (bucket, key) = (self.bucket()?, object.key);
        let is_older = |age| object.modified_at.is_some_and(|at| now - at >= age);
        if is_marker(&key) {
            return Ok(None);
        }
        if is_probe(&key) {
            if !is_older(request.uploads_older_than) {
                return Ok(None);
            }
            if !request.is_dry {
                bucket.delete_whole(&key).await?;
            }
            return Ok(Some(Leftover::Probe { key, is_deleted: !request.is_dry }));
        }
        let Some(archive_id) = archive_in_key(&key) else { return Ok(Some(Leftover::Stranger { key })) };
        let said = match bucket.head_of(&key).await {
            // Its owner has deleted it since.
            Err(bucket::Error::NotFound { .. }) => return Ok(None),
            head => head?.said,
        };
        if said.archive_id != Some(archive_id) {
            return Ok(Some(Leftover::Stranger { key }));
        }
        if !is_older(request.unknown_older_than) {
            return Ok(None);
        }
        let may_go = request.deletes_unknown && !request.is_dry;
        let is_deleted = may_go && self.delete_unknown(&key, archive_id, &said).await?;
        Ok(Some(Leftover::Unknown { key, is_deleted }))
    }

    /// Deletes an unknown object under the lease of its log. A recovery that takes an object over holds that lease,
    /// too, so an object that was taken over since it was listed is known by then. Returns false if the object is
    /// known, or may be needed.
    async fn delete_unknown(&self, key: &str, archive_id: Uuid, said: &Said) -> Result<bool, Error> {
        let mut view = self.database.view_for_job().await?;
        let log_rows = rows::all(&mut view).await?;
        drop(view);
        let kept = |why: String| {
            tracing::warn!(object = key, why, "an unknown object was not deleted");
            Ok(false)
        };
        let Some(log_row) = log_rows.into_iter().find(|log_row| object_key(&log_row.log, archive_id) == key) else {
            return kept("its topic is unknown as well".into());
        };
        let deleting = async |_| {
            if self.known_keys(std::iter::once(key)).await?.contains(key) {
                return kept("it has been taken over".into());
            }
            if let Some(missing) = self.stands_in_for(&log_row.log, archive_id, said).await? {
                return kept(format!("it may be all that is left of archive {missing}"));
            }
            self.bucket()?.delete_whole(key).await?;
            Ok(true)
        };
        match self.with_lease(log_row.id, deleting).await {
            Ok(Some(is_deleted)) => Ok(is_deleted),
            Ok(None) => kept("another writer is at work on the topic's archives".into()),
            Err(Error::Damaged(why)) => kept(why),
            Err(error) => Err(error),
        }
    }

    /// Aborts old uploads, except those of an intent: they belong to its writer, or to the process that settles it.
    async fn sweep_uploads(
        &self,
        SweepRequest { is_dry, uploads_older_than, .. }: SweepRequest,
        now: OffsetDateTime,
        mut tell: impl FnMut(Leftover),
    ) -> Result<(), Error> {
        let bucket = self.bucket()?;
        let mut from = None;
        loop {
            let (mut uploads, next) = bucket.uploads_page("", from).await?;
            uploads.retain(|upload| archive_in_key(&upload.key).is_some() || is_probe(&upload.key));
            uploads.retain(|upload| upload.initiated_at.is_some_and(|at| now - at >= uploads_older_than));
            for upload in uploads {
                if self.has_intent(&upload.key).await? {
                    continue;
                }
                let aborted = if is_dry { Ok(()) } else { bucket.abort(&upload).await };
                let told = aborted.map(|()| Leftover::Upload { key: upload.key.clone(), is_aborted: !is_dry });
                told.map(Some).or_else(|error| refused(upload.key, error.into()))?.into_iter().for_each(&mut tell);
            }
            if next.is_none() {
                return Ok(());
            }
            from = next;
        }
    }

    /// Returns those of these keys whose archives the catalog or an intent knows.
    async fn known_keys(&self, keys: impl Iterator<Item = &str>) -> Result<HashSet<String>, Error> {
        let ids: Vec<Uuid> = keys.filter_map(archive_in_key).collect();
        let mut view = self.database.view_for_job().await?;
        let known = archives::known(&mut view, &ids).await?;
        Ok(known.into_iter().map(|(log, id)| object_key(&log, id)).collect())
    }

    async fn has_intent(&self, key: &str) -> Result<bool, Error> {
        let Some(id) = archive_in_key(key) else { return Ok(false) };
        let mut view = self.database.view_for_job().await?;
        Ok(intents::is_intended(&mut view, id).await?)
    }
}

/// Reports an error of one object like everything else.
fn refused(key: String, error: Error) -> Result<Option<Leftover>, Error> {
    match error.is_of_one_object() {
        true => Ok(Some(Leftover::Refused { key, why: error.to_string() })),
        false => Err(error),
    }
}
