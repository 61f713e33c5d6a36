//! Archives of the catalog whose objects are missing, and a search for their events. The search moves nothing.
//!
//! A database that was put back to a moment before a restore, or inside one, knows an archive that the restore took
//! apart, and the object of that archive is gone. The events that stayed archived are in an object that the catalog
//! does not know. The events that went into rows are lost with the rows.

use uuid::Uuid;

use crate::bucket::{self, Said};
use crate::database::Transaction;
use crate::database::catalog::archives;
use crate::database::catalog::members::{self, MemberExtent};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::event::{Log, PositionRange, PositionSet};
use crate::store::archives::contents::{ContentsReader, unpaced};
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

    /// Returns an archive of the catalog whose object is missing, if the object of `archive_id`, which the catalog does
    /// not know, may hold the last of its events: positions that are nowhere else. That object is read only if the
    /// catalog has a missing archive that overlaps it.
    pub(in crate::store) async fn stands_in_for(
        &self,
        log: &Log,
        archive_id: Uuid,
        said: &Said,
    ) -> Result<Option<Uuid>, Error> {
        let (Some(first), Some(last)) = (said.first_position, said.last_position) else { return Ok(None) };
        let mut view = self.database.view_for_job().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(None) };
        let range = PositionRange::closed(first, last);
        let others = archives::extents(&mut view, log_row.id, None, range, i64::MAX).await?;
        drop(view);
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
        let view = self.database.view_for_job().await?;
        let nowhere = self.outside(view, &log_row, &present, range).await?;
        let is_needed = nowhere.ranges().any(|range| held.overlaps(range));
        Ok(missing.filter(|_| is_needed))
    }

    /// Returns the positions of a range that are neither hot nor in an archive.
    pub async fn nowhere(&self, log: &Log, range: PositionRange) -> Result<PositionSet, Error> {
        let mut view = self.database.view_for_job().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(PositionSet::from_iter([range])) };
        let archives = archives::extents(&mut view, log_row.id, None, range, i64::MAX).await?;
        let archive_ids: Vec<Uuid> = archives.iter().map(|archive| archive.id).collect();
        self.outside(view, &log_row, &archive_ids, range).await
    }

    /// Returns the positions of a range that are neither hot nor in one of these archives.
    async fn outside(
        &self,
        mut view: Transaction,
        log_row: &LogRow,
        archive_ids: &[Uuid],
        range: PositionRange,
    ) -> Result<PositionSet, Error> {
        let members = members::extents(&mut view, log_row.id, archive_ids, None, range).await?;
        let mut taken = events::hot_positions(&mut view, log_row.id).await?;
        drop(view);
        for member in &members {
            taken.extend(self.positions_of(&log_row.log, member).await?);
        }
        Ok(taken.missing_in(range))
    }

    /// Returns the positions of a member, which is read only if its positions have gaps.
    pub(in crate::store) async fn positions_of(
        &self,
        log: &Log,
        member: &MemberExtent,
    ) -> Result<Vec<PositionRange>, Error> {
        if member.positions().len() == member.count {
            return Ok(vec![member.positions()]);
        }
        let fetched = self.fetch(log, member).await.map_err(|error| match error {
            Interrupted::Stale(_, error) => error.into(),
            Interrupted::Failed(error) => error,
        })?;
        Ok(fetched.events().map(|event| PositionRange::one(event.position())).collect())
    }

    /// Returns the positions of an object, which is read whole.
    async fn positions_in(&self, log: &Log, archive_id: Uuid) -> Result<PositionSet, Error> {
        let scan = self.bucket()?.scan(log, archive_id).await?;
        let mut view = self.database.view_for_job().await?;
        let key = self.hash_key(&mut view).await?;
        drop(view);
        let mut reader = ContentsReader::new(scan, log.clone(), key, Overlay::default());
        while reader.next_run(&unpaced).await?.is_some() {}
        Ok(reader.finish().await?.positions)
    }
}
