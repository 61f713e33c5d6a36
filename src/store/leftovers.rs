//! Looking through the whole bucket for what nobody needs any more.
//!
//! What an intent knows is settled as ever. An object of ours that nothing knows may be an archive that is newer than a
//! catalog that was put back to an earlier time: it is told, and deleted only by whoever says so. What is not ours is
//! told and never touched.

use std::collections::HashSet;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::bucket::{archive_in_key, is_marker, is_probe, object_key};
use crate::database;
use crate::store::{Error, Store};

/// How far a sweep of the bucket may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepRequest {
    /// Nothing is deleted, and no upload aborted.
    pub is_dry: bool,
    /// Objects of ours that nothing knows are deleted.
    pub deletes_unknown: bool,
    /// Younger ones are not even told.
    pub unknown_older_than: Duration,
    /// Younger ones may be under way, and so may probes.
    pub uploads_older_than: Duration,
}

/// Something that nobody needs, or that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// An object of ours that neither the catalog nor an intent knows.
    Unknown { key: String, is_deleted: bool },
    /// An upload of ours that was begun long ago.
    Upload { key: String, is_aborted: bool },
    /// What a process that died probed the bucket with.
    Probe { key: String, is_deleted: bool },
    /// Somebody else's object.
    Stranger { key: String },
}

impl Store {
    /// Settles what dead writers left, says how many intents that were, and tells what else there is.
    pub async fn sweep_bucket(&self, request: SweepRequest, mut tell: impl FnMut(Leftover)) -> Result<usize, Error> {
        let settled = if request.is_dry { 0 } else { self.sweep().await? };
        let bucket = self.bucket()?;
        let now = OffsetDateTime::now_utc();
        let mut from = None;
        loop {
            let (objects, next) = bucket.list_page("", from, None).await?;
            let known = self.known_keys(objects.iter().map(|object| object.key.as_str())).await?;
            for object in objects.into_iter().filter(|object| !known.contains(&object.key)) {
                let is_older = |age| object.modified_at.is_some_and(|at| now - at >= age);
                if is_marker(&object.key) {
                    continue;
                }
                if is_probe(&object.key) {
                    if is_older(request.uploads_older_than) {
                        if !request.is_dry {
                            bucket.delete_whole(&object.key).await?;
                        }
                        tell(Leftover::Probe { key: object.key, is_deleted: !request.is_dry });
                    }
                } else if archive_in_key(&object.key).is_none() || !bucket.is_ours(&object.key).await? {
                    tell(Leftover::Stranger { key: object.key });
                } else if is_older(request.unknown_older_than) {
                    let may_go = request.deletes_unknown && !request.is_dry;
                    let is_deleted = may_go && bucket.delete_unknown(&object.key).await?;
                    tell(Leftover::Unknown { key: object.key, is_deleted });
                }
            }
            if next.is_none() {
                break;
            }
            from = next;
        }
        self.sweep_uploads(request, now, tell).await?;
        Ok(settled)
    }

    /// Those that an intent knows are its writer's, or whoever's settles it.
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
                if !is_dry {
                    bucket.abort(&upload).await?;
                }
                tell(Leftover::Upload { key: upload.key, is_aborted: !is_dry });
            }
            if next.is_none() {
                return Ok(());
            }
            from = next;
        }
    }

    /// Those of these keys that are of archives which the catalog or an intent knows.
    async fn known_keys(&self, keys: impl Iterator<Item = &str>) -> Result<HashSet<String>, Error> {
        let ids: Vec<Uuid> = keys.filter_map(archive_in_key).collect();
        let mut snapshot = self.database.snapshot_for_job().await?;
        let known = database::known_archives(&mut snapshot, &ids).await?;
        Ok(known.into_iter().map(|(log, id)| object_key(&log, id)).collect())
    }

    async fn has_intent(&self, key: &str) -> Result<bool, Error> {
        let Some(id) = archive_in_key(key) else { return Ok(false) };
        let mut snapshot = self.database.snapshot_for_job().await?;
        Ok(database::is_intended(&mut snapshot, id).await?)
    }
}
