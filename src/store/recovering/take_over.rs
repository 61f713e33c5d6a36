//! Takes one object over into the catalog. One transaction writes everything, so if the process dies, the object is
//! taken over or nothing has changed.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::bucket::{ListedArchive, ObjectMetadata, Said, Scan};
use crate::database::catalog::archives::{self, Archive, ArchiveExtent};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::{intents, members, recovery};
use crate::database::ledger::edits;
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, ArchiveKey, Transaction, lookups};
use crate::event::{Event, PositionSet};
use crate::store::archives::contents::{Contents, ContentsReader};
use crate::store::archives::overlay::Overlay;
use crate::store::recovering::reconcile::{Standing, standing};
use crate::store::{Error, GaveWay, Store};

/// An object on its way into the catalog.
pub struct TakeOver<'a> {
    pub store: &'a Store,
    pub log_row: &'a LogRow,
    pub listed: &'a ListedArchive,
    pub metadata: &'a ObjectMetadata,
    pub lease: Lease,
}

/// The outcome of a takeover.
pub struct TakenOver {
    pub events: i64,
    /// The archives that left the catalog for the object.
    pub superseded: Vec<Archive>,
}

impl TakeOver<'_> {
    fn key(&self) -> ArchiveKey {
        ArchiveKey::new(self.log_row.id, self.listed.archive_id)
    }

    /// Takes the object over. Returns `None` if there was nothing to do.
    pub async fn run(self, scan: Scan) -> Result<Option<TakenOver>, Error> {
        // The object may have been deleted or replaced while another process had the lease, and can still be read to
        // its end.
        let etag = scan.etag().to_owned();
        if self.store.bucket()?.head_of(&self.listed.key).await?.etag != etag {
            return Err(GaveWay::Moved(format!("the object {}", self.listed.key)).into());
        }
        let mut transaction = self.store.database.begin_job().await?;
        let ArchiveKey { log_id, archive_id } = self.key();
        let known = recovery::known_objects_of(&mut transaction, log_id, archive_id).await?;
        let said = scan.head().said.clone();
        let taken = match standing(archive_id, scan.head(), &known) {
            Standing::Known | Standing::Stranger | Standing::Replaced | Standing::Refused => return Ok(None),
            Standing::Older => {
                let why =
                    format!("it is of generation {}, and the catalog knows a later one", self.metadata.generation);
                return Err(scan.damaged(why).into());
            }
            Standing::Forked => {
                let why = format!("another database wrote generation {} of it", self.metadata.generation);
                return Err(scan.damaged(why).into());
            }
            Standing::Intended if !self.stands_in(&said).await? => return Ok(None),
            Standing::Unknown | Standing::Intended => self.adopt(&mut transaction, scan).await?,
            Standing::Newer => TakenOver { events: self.renew(&mut transaction, scan).await?, superseded: Vec::new() },
            Standing::Moved => TakenOver { events: self.follow(&mut transaction, scan).await?, superseded: Vec::new() },
        };
        rows::raise_catalog_epoch(&mut transaction, log_id).await?;
        database::commit(transaction).await?;
        Ok(Some(taken))
    }

    async fn stands_in(&self, said: &Said) -> Result<bool, Error> {
        Ok(self.store.stands_in_for(&self.log_row.log, self.listed.archive_id, said).await?.is_some())
    }

    /// Reads the object to its end, and writes its lookup pages. If `hot` is given, the positions of its events that
    /// are hot, too, are added to it.
    async fn read(
        &self,
        transaction: &mut Transaction,
        scan: Scan,
        mut hot: Option<&mut PositionSet>,
    ) -> Result<Contents, Error> {
        let ArchiveKey { log_id, archive_id } = self.key();
        let edits = edits::pending_of_archive(transaction, log_id, archive_id).await?;
        let key = self.store.hash_key(transaction).await?;
        let unlike = scan.damaged("it does not hold what it says of itself");
        let mut reader = ContentsReader::new(scan, self.log_row.log.clone(), key, Overlay::new(edits));
        lookups::delete(transaction, self.key()).await?;
        loop {
            let events = reader.next().await?;
            for (run, lookups) in reader.take_runs() {
                lookups::insert_run(transaction, self.key(), run, lookups).await?;
            }
            let Some(events) = events else { break };
            if let Some(hot) = &mut hot {
                self.compare_with_hot(transaction, &events, hot).await?;
            }
        }
        let contents = reader.finish().await?;
        if !contents.is_as_said(self.metadata) {
            return Err(unlike.into());
        }
        Ok(contents)
    }

    async fn check_lease(&self, transaction: &mut Transaction) -> Result<(), Error> {
        match leases::check(transaction, &self.lease).await? {
            Some(_) => Ok(()),
            None => Err(GaveWay::LeaseHeld.into()),
        }
    }

    /// Adds an archive that is not in the catalog. Its events that are hot, too, leave their rows.
    async fn adopt(&self, transaction: &mut Transaction, scan: Scan) -> Result<TakenOver, Error> {
        let mut hot = PositionSet::default();
        let contents = self.read(transaction, scan, Some(&mut hot)).await?;
        let superseded = self.superseded(transaction, &contents.positions).await?;
        for old in &superseded {
            recovery::forget_archive(transaction, ArchiveKey::new(old.log_id, old.id)).await?;
        }
        if let Some(position) = self.held_elsewhere(transaction, &contents.positions).await? {
            return Err(self.conflict(position, "another archive holds that, too"));
        }
        let archive = contents.archive(self.key(), self.metadata.generation, self.metadata.write_id);
        // The events' rows are locked before the log's row, in the order in which an archive run locks them.
        let left = events::delete(transaction, self.log_row.id, &hot).await? as i64;
        intents::delete_of_archive(transaction, self.key()).await?;
        archives::insert(transaction, &archive).await?;
        members::insert(transaction, self.key(), archive.generation, &contents.members).await?;
        self.check_lease(transaction).await?;
        for old in &superseded {
            rows::add_archived(transaction, self.log_row.id, old.last_position, -old.amounts()).await?;
            // The count holds until an archive that is taken over takes its own events back from it.
            rows::add_deleted(transaction, self.log_row.id, old.count).await?;
        }
        rows::add_archived(transaction, self.log_row.id, archive.last_position, archive.amounts()).await?;
        let nowhere = archive.count - left;
        if recovery::add_found(transaction, self.log_row.id, archive.last_position, nowhere).await? < 0 {
            return Err(self.conflict(archive.last_position, "the log has no room for so many events"));
        }
        tracing::info!(log = %self.log_row.log, archive_id = %archive.id, events = archive.count, "an archive was recovered");
        Ok(TakenOver { events: archive.count, superseded })
    }

    /// Returns the archives of the catalog that this one has replaced. Each is older, reaches into its positions, and
    /// has no object any more, as a restore leaves it. Its pending edits of that time are in what came after it.
    async fn superseded(&self, transaction: &mut Transaction, positions: &PositionSet) -> Result<Vec<Archive>, Error> {
        let ArchiveKey { log_id, archive_id } = self.key();
        let log = &self.log_row.log;
        let mut superseded = Vec::new();
        for other in self.others(transaction, positions).await? {
            let Some(position) = positions.first_in(other.positions()) else { continue };
            if !self.store.is_missing(log, other.id).await? {
                continue;
            }
            let conflict = |why| self.conflict(position, &format!("archive {}, whose object is gone, {why}", other.id));
            if other.id > archive_id {
                return Err(conflict("is younger, and held that, too"));
            }
            if !self.store.bucket()?.noncurrent_versions(log, other.id).await?.is_empty() {
                return Err(conflict("held that, too, and there is a version of it to be put back"));
            }
            if recovery::has_pending_since(transaction, ArchiveKey::new(log_id, other.id), made_at(archive_id)).await? {
                return Err(conflict("held that, too, and was edited after this one was made"));
            }
            superseded.extend(archives::find(transaction, log_id, other.id).await?);
        }
        Ok(superseded)
    }

    /// Returns the other archives of the catalog that reach into these positions.
    async fn others(
        &self,
        transaction: &mut Transaction,
        positions: &PositionSet,
    ) -> Result<Vec<ArchiveExtent>, Error> {
        let ArchiveKey { log_id, archive_id } = self.key();
        let Some(span) = positions.span() else { return Ok(Vec::new()) };
        let mut others = archives::extents(transaction, log_id, None, span, i64::MAX).await?;
        others.retain(|other| other.id != archive_id);
        Ok(others)
    }

    /// Adds the positions of events that are hot as well to `hot`. The two agree, or the archived event was edited
    /// later: an archive is made of rows as they are, so any difference came to the archive later, unless the row was
    /// edited after the archive was made.
    async fn compare_with_hot(
        &self,
        transaction: &mut Transaction,
        events: &[Event],
        hot: &mut PositionSet,
    ) -> Result<(), Error> {
        let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        for row in events::lock_hot(transaction, self.log_row.id, &positions, &ids).await? {
            let archived = events.binary_search_by_key(&row.position, |event| event.position).map(|at| &events[at]);
            match archived {
                Ok(archived) if *archived == row => {}
                Ok(archived) if archived.is_edit_of(&row) => {
                    let made_at = made_at(self.listed.archive_id);
                    if recovery::hot_edited_since(transaction, (self.log_row.id, row.position), made_at).await? {
                        return Err(self.conflict(row.position, "the hot event was edited after it was archived"));
                    }
                }
                Ok(_) => return Err(self.conflict(row.position, "a hot event that is another one has that, too")),
                Err(_) => return Err(self.conflict(row.position, "a hot event there has the id of one of its events")),
            }
            hot.insert(row.position);
        }
        Ok(())
    }

    fn conflict(&self, position: i64, why: &str) -> Error {
        Error::Damaged(format!("the object {} cannot be taken over: position {position}: {why}", self.listed.key))
    }

    /// Returns a position that another archive of the catalog holds. It looks only at members that reach across the
    /// positions, and reads a member only if it has gaps.
    async fn held_elsewhere(
        &self,
        transaction: &mut Transaction,
        positions: &PositionSet,
    ) -> Result<Option<i64>, Error> {
        let others: Vec<Uuid> = self.others(transaction, positions).await?.iter().map(|other| other.id).collect();
        let Some(span) = positions.span().filter(|_| !others.is_empty()) else { return Ok(None) };
        for member in members::extents(transaction, self.log_row.id, &others, None, span).await? {
            if !positions.overlaps(member.positions()) {
                continue;
            }
            let held = self.store.positions_of(&self.log_row.log, &member).await?;
            let both = held.into_iter().find_map(|range| positions.first_in(range));
            if both.is_some() {
                return Ok(both);
            }
        }
        Ok(None)
    }

    /// Updates an archive that was rewritten after the catalog's last knowledge of it.
    async fn renew(&self, transaction: &mut Transaction, scan: Scan) -> Result<i64, Error> {
        let other = scan.damaged("it does not hold the positions that the catalog knows");
        let old = self.known(transaction).await?;
        let contents = self.read(transaction, scan, None).await?;
        let new = contents.archive(self.key(), self.metadata.generation, self.metadata.write_id);
        if (new.first_position, new.last_position, new.count) != (old.first_position, old.last_position, old.count) {
            return Err(other.into());
        }
        recovery::replace_archive(transaction, &new).await?;
        members::insert(transaction, self.key(), new.generation, &contents.members).await?;
        self.check_lease(transaction).await?;
        rows::add_archived(transaction, self.log_row.id, new.last_position, new.amounts() - old.amounts()).await?;
        tracing::info!(log = %self.log_row.log, archive_id = %new.id, generation = new.generation, "an archive was renewed");
        Ok(new.count)
    }

    /// Updates the ETag of an object that the catalog knows under another one.
    async fn follow(&self, transaction: &mut Transaction, scan: Scan) -> Result<i64, Error> {
        let other = scan.damaged("its digest is not the one that the catalog knows");
        let old = self.known(transaction).await?;
        let contents = self.read(transaction, scan, None).await?;
        if contents.digest != old.digest {
            return Err(other.into());
        }
        recovery::set_etag(transaction, self.key(), &contents.etag).await?;
        self.check_lease(transaction).await?;
        Ok(old.count)
    }

    async fn known(&self, transaction: &mut Transaction) -> Result<Archive, Error> {
        let ArchiveKey { log_id, archive_id } = self.key();
        let archive = archives::find(transaction, log_id, archive_id).await?;
        archive.ok_or_else(|| GaveWay::Moved(format!("archive {archive_id}")).into())
    }
}

/// Returns the time at which the batch of an archive was chosen, which is in the archive's id.
fn made_at(archive_id: Uuid) -> OffsetDateTime {
    let (seconds, nanos) = archive_id.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
    let at = OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at + Duration::nanoseconds(i64::from(nanos))
}
