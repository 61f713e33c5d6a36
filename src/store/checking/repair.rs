//! Repairs what a verification found, where nothing has to be guessed.
//!
//! | found | repaired if | by |
//! |---|---|---|
//! | the catalog or the lookup pages differ from an object | the object has the digest that the catalog knows; or its ETag, write-id, positions and count | writing the catalog's rows and the lookup pages anew |
//! | an object is missing, or is not the one that was written, nor a later one | a noncurrent version is | rewriting the archive from it |
//! | events are hot and archived | both are equal | deleting the rows |
//! | sums are wrong | always | adding up |
//!
//! Each repair is one transaction under the log's lease, and is verified afterwards. A repair never takes an older
//! generation for the current one, because its events hold values that were edited away. If the process dies, its
//! finished repairs stay; a rewrite is settled like any other.

use uuid::Uuid;

use crate::bucket::{self, Said, Scan};
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::members;
use crate::database::catalog::moves::{self, Move};
use crate::database::log::{events, rows};
use crate::database::{self, ArchiveKey, lookups};
use crate::event::{Event, Extent, PositionSet};
use crate::store::archives::contents::{ContentsReader, Pacing};
use crate::store::archives::source::Source;
use crate::store::checking::verify::{Finding, Verification};
use crate::store::{Error, Store};

/// The findings, by their outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    pub repaired: Vec<Finding>,
    /// The findings that remain.
    pub left: Vec<Finding>,
}

impl Store {
    /// Verifies everything, repairs what it can, and verifies the logs with findings again.
    pub async fn repair(&self, pace: Pacing<'_>, mut progress: impl FnMut(i64)) -> Result<Repaired, Error> {
        let (mut outcome, mut events) = (Repaired::default(), 0);
        for log_id in self.log_ids().await? {
            let mut progress = |count| {
                events += count;
                progress(events);
            };
            let found = self.verify_log(log_id, pace, &mut progress).await?;
            if found.findings.is_empty() {
                continue;
            }
            match self.with_lease(log_id, async |lease| self.repair_log(lease, &found, pace).await).await {
                Ok(Some(())) => {}
                Ok(None) => tracing::warn!(log_id, "another writer is at work on its archives: nothing was repaired"),
                Err(error) => tracing::warn!(%error, log_id, "not everything was repaired"),
            }
            let left = self.verify_log(log_id, pace, |_| {}).await?.findings;
            outcome.repaired.extend(found.findings.into_iter().filter(|finding| !left.contains(finding)));
            outcome.left.extend(left);
        }
        Ok(outcome)
    }

    /// Repairs a log. A failure does not keep the rest from being repaired.
    async fn repair_log(&self, lease: Lease, found: &Verification, pace: Pacing<'_>) -> Result<(), Error> {
        let mut failure = self.settle_intents(lease).await.err();
        for archive_id in &found.broken {
            failure = self.repair_archive(lease, *archive_id, pace).await.err().or(failure);
        }
        for archive_id in &found.doubled {
            failure = self.delete_doubled(lease, *archive_id).await.err().or(failure);
        }
        let mut transaction = self.database.begin_job().await?;
        if leases::check(&mut transaction, &lease).await?.is_some() {
            rows::recount_archived(&mut transaction, lease.log_id).await?;
            database::commit(transaction).await?;
        }
        failure.map_or(Ok(()), Err)
    }

    async fn repair_archive(&self, lease: Lease, archive_id: Uuid, pace: Pacing<'_>) -> Result<(), Error> {
        let Some(source) = self.source(lease, archive_id).await? else { return Ok(()) };
        let current =
            async { source.correct(self.bucket()?.scan(&source.log_row.log, archive_id).await?, &lease, pace).await };
        match current.await {
            Err(unsound @ Error::Damaged(_)) => match self.put_back(&source, lease, pace).await? {
                true => Ok(()),
                false => Err(unsound),
            },
            outcome => outcome,
        }
    }

    /// Rewrites an archive from a noncurrent version of its object. Returns false if no version is the object that was
    /// written, or if there is a later object.
    async fn put_back(&self, source: &Source<'_>, lease: Lease, pace: Pacing<'_>) -> Result<bool, Error> {
        let (bucket, archive, log) = (self.bucket()?, &source.archive, &source.log_row.log);
        match bucket.head(log, archive.id).await {
            Err(bucket::Error::NotFound { .. }) => {}
            head => {
                if is_later(&head?.said, archive) {
                    return Ok(false);
                }
            }
        }
        for version in bucket.noncurrent_versions(log, archive.id).await? {
            let scan = match bucket.scan_version(log, archive.id, &version).await {
                Err(bucket::Error::ObjectRefused { .. }) => continue,
                scan => scan?,
            };
            if is_later(&scan.head().said, archive) {
                return Ok(false);
            }
            match source.correct(scan, &lease, pace).await {
                Err(Error::Damaged(_)) => continue,
                outcome => outcome?,
            }
            let Some(rewrite) = self.begin_put_back(lease, archive.id, version).await? else { return Ok(false) };
            rewrite.upload().await?.replace().await?.promote().await?;
            tracing::warn!(%log, archive_id = %archive.id, "a noncurrent version of an object was put back");
            return Ok(true);
        }
        Ok(false)
    }

    /// Deletes rows whose events an archive holds as well, where the two are equal.
    async fn delete_doubled(&self, lease: Lease, archive_id: Uuid) -> Result<(), Error> {
        let Some(source) = self.source(lease, archive_id).await? else { return Ok(()) };
        let Source { log_row, archive, .. } = &source;
        let (mut positions, mut count) = (PositionSet::default(), 0);
        let mut archived = source.events().await?;
        while let Some(events) = archived.next().await? {
            for event in self.hot_among(log_row.id, &events).await? {
                positions.insert(event.position);
                count += 1;
            }
        }
        archived.finish().await?;
        let Some(span) = positions.span() else { return Ok(()) };
        let mut transaction = self.database.begin_job().await?;
        let extent = Extent { positions: span, count };
        moves::announce(&mut transaction, Move::Archive, log_row, archive_id, extent).await?;
        let deleted = events::delete(&mut transaction, log_row.id, &positions).await?;
        let edit_counter = source.lock(&mut transaction, &lease).await?;
        if deleted as i64 != count || edit_counter != log_row.edit_counter {
            return Err(source.is_moved());
        }
        database::commit(transaction).await?;
        tracing::warn!(log = %log_row.log, archive_id = %archive.id, events = count, "rows of archived events were deleted");
        Ok(())
    }

    /// Returns those of these events that are hot and equal. The events lie in order of position.
    async fn hot_among(&self, log_id: i64, events: &[Event]) -> Result<Vec<Event>, Error> {
        let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
        let mut view = self.database.view_for_job().await?;
        let mut hot = events::by_ids(&mut view, log_id, &ids).await?;
        hot.retain(|event| {
            events
                .binary_search_by_key(&event.position, |event| event.position)
                .is_ok_and(|index| events[index] == *event)
        });
        Ok(hot)
    }
}

impl Source<'_> {
    /// Writes everything that the catalog knows of the object anew, from the bytes of the object or of a version of it.
    /// Returns [`Error::Damaged`] if they are not what was written.
    async fn correct(&self, scan: Scan, lease: &Lease, pace: Pacing<'_>) -> Result<(), Error> {
        let Source { store, log_row, archive, .. } = self;
        let write_id = scan.head().said.write_id;
        let damaged = scan.damaged("it is not the one that was written");
        let key = ArchiveKey::new(log_row.id, archive.id);
        let mut transaction = store.database.begin_job().await?;
        let hash_key = store.hash_key(&mut transaction).await?;
        members::delete(&mut transaction, key, archive.generation).await?;
        lookups::delete(&mut transaction, key).await?;
        let mut reader = ContentsReader::new(scan, log_row.log.clone(), hash_key, self.overlay());
        while let Some((number, run)) = reader.next_run(pace).await? {
            lookups::insert_run(&mut transaction, key, number, run).await?;
        }
        let contents = reader.finish().await?;
        if contents.count == 0 {
            return Err(damaged.into());
        }
        let corrected = contents.archive(key, archive.generation, archive.write_id);
        if !is_witnessed(archive, &corrected, write_id) {
            return Err(damaged.into());
        }
        members::insert(&mut transaction, key, archive.generation, &contents.members).await?;
        self.lock(&mut transaction, lease).await?;
        if !archives::correct(&mut transaction, &corrected).await? {
            return Err(self.is_moved());
        }
        rows::recount_archived(&mut transaction, log_row.id).await?;
        database::commit(transaction).await?;
        tracing::warn!(log = %log_row.log, archive_id = %archive.id, "the catalog's rows of an archive were made anew");
        Ok(())
    }
}

/// Returns whether an object is of a generation that the catalog does not know. It holds edits that this database has
/// forgotten, and only [`Store::recover`] takes it over.
fn is_later(said: &Said, archive: &Archive) -> bool {
    said.generation >= Some(archive.generation) && said.write_id != Some(archive.write_id)
}

/// Returns whether the object that was found is the one that was written. Either its digest proves it; or its ETag,
/// which S3 gave it when it was written, and its write-id do so together with the positions and the count that it
/// holds.
fn is_witnessed(known: &Archive, found: &Archive, write_id: Option<Uuid>) -> bool {
    let holds = |archive: &Archive| (archive.first_position, archive.last_position, archive.count);
    found.digest == known.digest
        || (found.etag == known.etag && write_id == Some(known.write_id) && holds(found) == holds(known))
}
