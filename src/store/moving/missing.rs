//! Archives of the catalog whose objects are missing, and where their events are then.
//!
//! A database that was put back to a moment before a restore, or inside one, knows an archive that the restore took
//! apart: its object is gone. What stayed of it is in an object that the catalog does not know; what went into rows is
//! lost with them.

use uuid::Uuid;

use crate::bucket::{self, Said};
use crate::database::Transaction;
use crate::database::catalog::archives;
use crate::database::catalog::members::{self, MemberExtent};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::event::Log;
use crate::event::PositionRanges;
use crate::store::archives::contents::ContentsReader;
use crate::store::archives::fetch::Interrupted;
use crate::store::archives::overlay::Overlay;
use crate::store::{Error, Store};

impl Store {
    pub(in crate::store) async fn is_missing(&self, log: &Log, archive_id: Uuid) -> Result<bool, Error> {
        match self.bucket()?.head(log, archive_id).await {
            Err(bucket::Error::NotFound { .. }) => Ok(true),
            Err(bucket::Error::ObjectRefused { .. }) => Ok(false),
            head => Ok(head.map(|_| false)?),
        }
    }

    /// An archive of the catalog whose object is missing, and of whose events this object, which is not the catalog's,
    /// may be all that is left: it holds positions in its reach that are nowhere else. The object is read only where
    /// there is such an archive.
    pub(in crate::store) async fn stands_in_for(
        &self,
        log: &Log,
        archive_id: Uuid,
        said: &Said,
    ) -> Result<Option<Uuid>, Error> {
        let (Some(first), Some(last)) = (said.first_position, said.last_position) else { return Ok(None) };
        let mut snapshot = self.database.snapshot_for_job().await?;
        let Some(log_row) = rows::find(&mut snapshot, log).await? else { return Ok(None) };
        let others = archives::extents(&mut snapshot, log_row.id, None, (first, last + 1), i64::MAX).await?;
        drop(snapshot);
        let (mut missing, mut present) = (None, Vec::new());
        for other in others.iter().map(|other| other.id).filter(|id| *id != archive_id) {
            match self.is_missing(log, other).await? {
                true => missing = Some(other),
                false => present.push(other),
            }
        }
        if missing.is_none() {
            return Ok(None);
        }
        let held = self.positions_in(log, archive_id).await?;
        let snapshot = self.database.snapshot_for_job().await?;
        let nowhere = self.outside(snapshot, &log_row, &present, (first, last)).await?;
        Ok(missing.filter(|_| nowhere.iter().any(|(first, last)| held.reach_into(*first, *last))))
    }

    /// Of the positions from `first` to `last`, those that are neither hot nor in an archive, as ranges from the first
    /// to the last of each.
    pub async fn nowhere(&self, log: &Log, (first, last): (i64, i64)) -> Result<Vec<(i64, i64)>, Error> {
        let mut snapshot = self.database.snapshot_for_job().await?;
        let Some(log_row) = rows::find(&mut snapshot, log).await? else { return Ok(vec![(first, last)]) };
        let archives = archives::extents(&mut snapshot, log_row.id, None, (first, last + 1), i64::MAX).await?;
        let archive_ids: Vec<Uuid> = archives.iter().map(|archive| archive.id).collect();
        self.outside(snapshot, &log_row, &archive_ids, (first, last)).await
    }

    /// Those that are neither hot nor in one of these archives.
    async fn outside(
        &self,
        mut snapshot: Transaction,
        log_row: &LogRow,
        archive_ids: &[Uuid],
        (first, last): (i64, i64),
    ) -> Result<Vec<(i64, i64)>, Error> {
        let members = members::extents(&mut snapshot, log_row.id, archive_ids, None, (first, last + 1)).await?;
        let mut taken = events::hot_position_ranges(&mut snapshot, log_row.id).await?;
        drop(snapshot);
        for member in &members {
            taken.extend(self.positions_of(&log_row.log, member).await?);
        }
        taken.retain(|(start, end)| *start <= last && *end >= first);
        taken.sort_unstable();
        let (mut reached, mut outside) = (first - 1, Vec::new());
        for (start, end) in taken.into_iter().chain([(last + 1, last + 1)]) {
            if start > reached + 1 {
                outside.push((reached + 1, start - 1));
            }
            reached = reached.max(end);
        }
        Ok(outside)
    }

    /// The positions of a member, as ranges; it is read only where it has gaps.
    pub(in crate::store) async fn positions_of(
        &self,
        log: &Log,
        member: &MemberExtent,
    ) -> Result<Vec<(i64, i64)>, Error> {
        if member.last_position - member.first_position + 1 == member.count {
            return Ok(vec![(member.first_position, member.last_position)]);
        }
        let fetched = self.fetch(log, member).await.map_err(|error| match error {
            Interrupted::Stale(_, error) => error.into(),
            Interrupted::Failed(error) => error,
        })?;
        Ok(fetched.events().map(|event| (event.position(), event.position())).collect())
    }

    /// The positions of an object, which is read whole.
    async fn positions_in(&self, log: &Log, archive_id: Uuid) -> Result<PositionRanges, Error> {
        let scan = self.bucket()?.scan(log, archive_id).await?;
        let mut snapshot = self.database.snapshot_for_job().await?;
        let key = self.hash_key(&mut snapshot).await?;
        drop(snapshot);
        let mut reader = ContentsReader::new(scan, log.clone(), key, Overlay::default());
        while reader.pass().await? {
            reader.take_runs();
        }
        Ok(reader.finish().await?.positions)
    }
}
