//! All events of one archive as readers see them, for a restore or a repair that puts them elsewhere. Reading changes
//! nothing.

use uuid::Uuid;

use crate::bucket::{MemberEvent, Scan, decode_member};
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::members::{self, MemberRow};
use crate::database::ledger::edits::{self, PendingEdit};
use crate::database::log::rows::{self, LogRow};
use crate::database::{ArchiveKey, Transaction};
use crate::event::{Event, Log};
use crate::store::archives::background;
use crate::store::archives::overlay::Overlay;
use crate::store::{Error, GaveWay, Store};

/// An archive as one view knew it.
pub struct Source<'a> {
    pub store: &'a Store,
    pub log_row: LogRow,
    pub archive: Archive,
    pub members: Vec<MemberRow>,
    pub edits: Vec<PendingEdit>,
}

/// The events of an archive, a member at a time.
pub struct Events<'a> {
    source: &'a Source<'a>,
    overlay: Overlay,
    scan: Scan,
    next: usize,
}

impl Store {
    /// Returns an archive of the lease's log; `None` if it is no longer in the catalog.
    pub(in crate::store) async fn source(&self, lease: Lease, archive_id: Uuid) -> Result<Option<Source<'_>>, Error> {
        let mut view = self.database.view_for_job().await?;
        let log_row = rows::by_id(&mut view, lease.log_id).await?;
        let Some(archive) = archives::find(&mut view, log_row.id, archive_id).await? else { return Ok(None) };
        let members =
            members::of_archive(&mut view, ArchiveKey::new(log_row.id, archive_id), archive.generation).await?;
        let edits = edits::pending_of_archive(&mut view, log_row.id, archive_id).await?;
        Ok(Some(Source { store: self, log_row, archive, members, edits }))
    }
}

impl Source<'_> {
    pub async fn events(&self) -> Result<Events<'_>, Error> {
        let scan = self.store.bucket()?.scan(&self.log_row.log, self.archive.id).await?;
        if scan.etag() != self.archive.etag {
            return Err(scan.damaged("it is not the one that the catalog knows").into());
        }
        Ok(Events { source: self, overlay: self.overlay(), scan, next: 0 })
    }

    pub fn overlay(&self) -> Overlay {
        Overlay::new(self.edits.clone())
    }

    /// Locks the log's row until the transaction ends, and returns the log's edit counter. Fails if the lease is lost,
    /// or if the pending edits of the archive have changed since the view.
    pub async fn lock(&self, transaction: &mut Transaction, lease: &Lease) -> Result<i64, Error> {
        let Some(edit_counter) = leases::check(transaction, lease).await? else {
            return Err(GaveWay::LeaseLost.into());
        };
        if edits::pending_of_archive(transaction, self.log_row.id, self.archive.id).await? != self.edits {
            return Err(GaveWay::Edited.into());
        }
        Ok(edit_counter)
    }

    pub fn is_moved(&self) -> Error {
        GaveWay::Moved(format!("archive {}", self.archive.id)).into()
    }
}

impl Events<'_> {
    /// Returns the events of the next member; `None` at the end. [`Events::finish`] then checks the whole object.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, Error> {
        let Source { log_row, members, .. } = self.source;
        let Some(row) = members.get(self.next) else { return Ok(None) };
        self.next += 1;
        let mut events = read_member(&mut self.scan, &log_row.log, row).await?;
        events.iter_mut().for_each(|event| self.overlay.apply(event));
        Ok(Some(events))
    }

    /// Checks the digest of the whole object against the catalog.
    pub async fn finish(self) -> Result<(), Error> {
        let damaged = self.scan.damaged("its digest is not the one that the catalog knows");
        if self.scan.finish().await? != self.source.archive.digest {
            return Err(damaged.into());
        }
        Ok(())
    }
}

/// Reads the next member of an object as a reader would.
async fn read_member(scan: &mut Scan, log: &Log, row: &MemberRow) -> Result<Vec<Event>, Error> {
    let MemberRow { byte_start, byte_end, json_bytes, first_position, last_position, count, .. } = *row;
    let compressed = scan.next(byte_end - byte_start).await?;
    let log = log.clone();
    let decoded =
        background::spawn(move || decode_member(&log, &compressed, json_bytes, (first_position, last_position, count)));
    let member = decoded.await.expect("decoding does not panic").map_err(|why| scan.damaged(why))?;
    Ok(member.events().map(MemberEvent::to_event).collect())
}
