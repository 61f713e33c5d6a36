//! Archives of the catalog whose objects are missing, and where their events are then.
//!
//! A database that was put back to a moment before a restore knows an archive that the restore took apart: its object is
//! gone. What stayed of it is in an object that the catalog does not know; what went into rows is lost with them.

use uuid::Uuid;

use crate::bucket;
use crate::database::{self, MemberExtent};
use crate::event::Log;
use crate::store::read::Interrupted;
use crate::store::{Error, Store};

impl Store {
    pub(super) async fn is_missing(&self, log: &Log, archive_id: Uuid) -> Result<bool, Error> {
        match self.bucket()?.head(log, archive_id).await {
            Err(bucket::Error::NotFound { .. }) => Ok(true),
            head => Ok(head.map(|_| false)?),
        }
    }

    /// The positions of a member, as ranges; it is read only where it has gaps.
    pub(super) async fn positions_of(&self, log: &Log, member: &MemberExtent) -> Result<Vec<(i64, i64)>, Error> {
        if member.last_position - member.first_position + 1 == member.count {
            return Ok(vec![(member.first_position, member.last_position)]);
        }
        let fetched = self.fetch(log, member).await.map_err(|error| match error {
            Interrupted::Stale(_, error) => error.into(),
            Interrupted::Failed(error) => error,
        })?;
        Ok(fetched.events.iter().map(|event| (event.position, event.position)).collect())
    }

    /// Of the positions from `first` to `last`, those that are neither hot nor in an archive, as ranges from the first
    /// to the last of each.
    pub async fn nowhere(&self, log: &Log, (first, last): (i64, i64)) -> Result<Vec<(i64, i64)>, Error> {
        let mut snapshot = self.database.snapshot_for_job().await?;
        let Some(topic) = database::find_topic(&mut snapshot, log).await? else { return Ok(vec![(first, last)]) };
        let range = (first, last + 1);
        let archives = database::archive_extents(&mut snapshot, topic.id, None, range).await?;
        let archive_ids: Vec<Uuid> = archives.iter().map(|archive| archive.id).collect();
        let members = database::member_extents(&mut snapshot, topic.id, &archive_ids, None, range).await?;
        let mut taken = database::hot_position_ranges(&mut snapshot, topic.id).await?;
        drop(snapshot);
        for member in &members {
            taken.extend(self.positions_of(log, member).await?);
        }
        taken.sort_unstable();
        let (mut reached, mut nowhere) = (first - 1, Vec::new());
        for (start, end) in taken.into_iter().filter(|(start, _)| *start <= last).chain([(last + 1, last + 1)]) {
            if start > reached + 1 {
                nowhere.push((reached + 1, start - 1));
            }
            reached = reached.max(end);
        }
        Ok(nowhere)
    }
}
