//! Putting archived events back into rows.
//!
//! An archive that is restored whole leaves the catalog in the transaction that inserts its rows. If an archive is
//! restored in part, the rest, the events that stay archived, is first written into a new object, whose archive takes
//! the old one's place in that transaction. So every event is in one place at every moment, and no archive is ever half
//! restored:
//!
//! | step | what remains if the process dies after it |
//! |---|---|
//! | [`Store::begin_restore`] | nothing, or an intent for the rest |
//! | [`Restore::write_rest`] | an intent, and an object that nobody reads |
//! | [`Parted::commit`] | the rows; and an intent for the object that they came from, which is an orphan now |
//!
//! The rows and the rest hold the edits that were pending. [`Store::sweep`] deletes the object of an intent that no
//! archive has taken over.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::database::catalog::intents::{self, Intent};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::moves::{self, Move};
use crate::database::catalog::troubles::TroubleKind;
use crate::database::catalog::{archives, members};
use crate::database::ledger::{edits, introduced};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, ArchiveKey, Transaction, lookups};
use crate::event::{Event, Extent, Filter, Invalid, Log, PositionRange, PositionSet};
use crate::store::archives::contents::Contents;
use crate::store::archives::object::{Export, Object};
use crate::store::archives::source::Source;
use crate::store::archives::troubles::{Failures, Retry};
use crate::store::{ATTEMPTS, Error, GaveWay, Store};

/// The events that a restore puts back into rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Archive(Uuid),
    Range(Log, PositionRange),
    Stream(Log, String),
}

/// The counts of a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// The archives that events were taken from.
    pub archives: i64,
    pub events: i64,
    /// The events of the selection that were hot before.
    pub hot: i64,
}

/// A restore whose events are picked, and whose intent is written if a rest stays.
pub struct Restore<'a> {
    source: Source<'a>,
    lease: Lease,
    picked: Picked,
    held_until: Option<OffsetDateTime>,
    rest: Option<Object<'a>>,
}

/// A restore whose rest is in a new object that was read back.
pub struct Parted<'a> {
    restore: Restore<'a>,
    rest: Option<(Intent, Contents)>,
}

/// The events that a restore takes out of an archive.
#[derive(Default)]
struct Picked {
    positions: PositionSet,
    count: i64,
    /// The range from the first to the last position that stays archived; `None` if no event stays.
    rest: Option<PositionRange>,
}

impl Selection {
    fn includes(&self, event: &Event) -> bool {
        match self {
            Selection::Archive(_) => true,
            Selection::Range(_, range) => range.contains(event.position),
            Selection::Stream(_, stream) => event.stream == *stream,
        }
    }
}

impl Store {
    /// Restores a selection, archive by archive, the one with the lowest positions first. The events are held for
    /// `hold_days`. `progress` is called after each archive with the counts so far, which are committed whatever
    /// happens later. The call fails if another writer holds the lease; the same call can be made again.
    pub async fn restore(
        &self,
        selection: &Selection,
        hold_days: u32,
        mut progress: impl FnMut(Restored),
    ) -> Result<Restored, Error> {
        let hold = (hold_days > 0).then(|| OffsetDateTime::now_utc().checked_add(Duration::days(hold_days.into())));
        let held_until = match hold {
            Some(None) => return Err(Invalid(format!("{hold_days} days from now are past the end of time")).into()),
            hold => hold.flatten(),
        };
        let (log_row, archive_ids, hot) = self.find_selection(selection).await?;
        if self.settings.eligibility.excluded_topics.contains(log_row.log.topic()) {
            return Err(Error::Refused(format!(
                "events of {} are deleted once they are consumed: what is restored would be",
                log_row.log
            )));
        }
        self.own().await?;
        let (mut restored, mut failures) = (Restored { hot, ..Restored::default() }, Failures::new(Retry::All));
        for archive_id in archive_ids {
            match self.restore_from(&log_row, archive_id, selection, held_until).await {
                Ok(0) => {}
                Ok(events) => {
                    restored.archives += 1;
                    restored.events += events;
                    progress(restored);
                }
                // The other archives are restored all the same.
                Err(error) if error.is_of_one_object() => {
                    self.note_trouble(&log_row.log, ArchiveKey::new(log_row.id, archive_id), TroubleKind::Read, &error)
                        .await;
                    failures.add(error);
                }
                Err(error) => return Err(error),
            }
        }
        let restored = failures.outcome(restored)?;
        if restored.events + restored.hot == 0 {
            return Err(Error::NotFound("there are no such events".into()));
        }
        Ok(restored)
    }

    /// Finds the archives that may hold events of a selection, and counts its hot events.
    async fn find_selection(&self, selection: &Selection) -> Result<(LogRow, Vec<Uuid>, i64), Error> {
        let mut view = self.database.view_for_job().await?;
        let (log, filter, range) = match selection {
            Selection::Archive(id) => {
                let log_id = archives::log_of(&mut view, *id).await?;
                let log_id = log_id.ok_or_else(|| Error::NotFound(format!("there is no archive {id}")))?;
                return Ok((rows::by_id(&mut view, log_id).await?, vec![*id], 0));
            }
            Selection::Range(_, range) if range.is_empty() => {
                return Err(Invalid(format!("positions from {} to {} are none", range.start, range.last())).into());
            }
            Selection::Range(log, range) => (log, Filter::All, *range),
            Selection::Stream(log, stream) => (log, Filter::Stream(stream.clone()), PositionRange::ALL),
        };
        let log_row = rows::find(&mut view, log).await?;
        let log_row = log_row.ok_or_else(|| Error::NotFound(format!("nothing was ever published to {log}")))?;
        let hot = events::count_between(&mut view, log_row.id, &filter, &[range.start, range.end]).await?.iter().sum();
        let mut archives = archives::extents(&mut view, log_row.id, None, range, i64::MAX).await?;
        if let Filter::Stream(stream) = &filter {
            let members = self.members_of_stream(&mut view, log_row.id, stream, range).await?;
            archives.retain(|archive| members.iter().any(|member| member.archive_id == archive.id));
        }
        Ok((log_row, archives.into_iter().map(|archive| archive.id).collect(), hot))
    }

    /// Restores the events of one archive, and returns how many moved.
    async fn restore_from(
        &self,
        log_row: &LogRow,
        archive_id: Uuid,
        selection: &Selection,
        held_until: Option<OffsetDateTime>,
    ) -> Result<i64, Error> {
        let held = self.with_lease(log_row.id, async |lease| {
            let mut attempts = 1..ATTEMPTS;
            loop {
                let outcome = self.try_restore(lease, archive_id, selection, held_until).await;
                if let Err(error) = self.settle_due_intents(lease).await {
                    tracing::warn!(%error, log = %log_row.log, "the next sweep settles the intents of a restore");
                }
                match outcome {
                    Err(Error::GaveWay(_)) if attempts.next().is_some() => {}
                    outcome => return outcome,
                }
            }
        });
        Ok(held.await?.ok_or(GaveWay::LeaseHeld)?)
    }

    async fn try_restore(
        &self,
        lease: Lease,
        archive_id: Uuid,
        selection: &Selection,
        held_until: Option<OffsetDateTime>,
    ) -> Result<i64, Error> {
        match self.begin_restore(lease, archive_id, selection, held_until).await? {
            Some(restore) => restore.write_rest().await?.commit().await,
            None => Ok(0),
        }
    }

    /// Reads the archive, and writes an intent for the rest if there is one. `None` if the archive holds nothing of the
    /// selection, or is no longer in the catalog.
    pub async fn begin_restore(
        &self,
        lease: Lease,
        archive_id: Uuid,
        selection: &Selection,
        held_until: Option<OffsetDateTime>,
    ) -> Result<Option<Restore<'_>>, Error> {
        self.own().await?;
        self.settle_due_intents(lease).await?;
        let Some(source) = self.source(lease, archive_id).await? else { return Ok(None) };
        let picked = source.pick(selection).await?;
        if picked.count == 0 {
            return Ok(None);
        }
        let rest = match picked.rest {
            None => None,
            Some(positions) => {
                let extent = Extent { positions, count: source.archive.count - picked.count };
                Some(source.insert_intent(&lease, extent).await?)
            }
        };
        Ok(Some(Restore { source, lease, picked, held_until, rest }))
    }
}

impl<'a> Source<'a> {
    async fn pick(&self, selection: &Selection) -> Result<Picked, Error> {
        let mut picked = Picked::default();
        let mut archived = self.events().await?;
        while let Some(events) = archived.next().await? {
            for event in &events {
                if selection.includes(event) {
                    picked.positions.insert(event.position);
                    picked.count += 1;
                } else {
                    let first = picked.rest.map_or(event.position, |rest| rest.start);
                    picked.rest = Some(PositionRange::closed(first, event.position));
                }
            }
        }
        archived.finish().await?;
        Ok(picked)
    }

    /// Writes an intent for an archive of the rest.
    async fn insert_intent(&self, lease: &Lease, extent: Extent) -> Result<Object<'a>, Error> {
        let mut transaction = self.store.database.begin_job().await?;
        let Some(edit_sequence) = leases::check(&mut transaction, lease).await? else {
            return Err(GaveWay::LeaseLost.into());
        };
        let intent = Intent::of_new_archive(self.log_row.id, edit_sequence);
        intents::insert(&mut transaction, &intent, lease).await?;
        database::commit(transaction).await?;
        Ok(Object { store: self.store, log_row: self.log_row.clone(), intent, extent })
    }
}

impl<'a> Restore<'a> {
    /// Writes the rest into an object of its own, and reads it back. Does nothing if there is no rest.
    pub async fn write_rest(mut self) -> Result<Parted<'a>, Error> {
        let Some(object) = self.rest.take() else { return Ok(Parted { restore: self, rest: None }) };
        let export = match self.export(&object).await {
            Ok(export) => export,
            Err(error) => {
                object.give_up().await;
                return Err(error);
            }
        };
        let contents = object.read_back(&export).await?;
        Ok(Parted { restore: self, rest: Some((object.intent, contents)) })
    }

    async fn export(&self, object: &Object<'_>) -> Result<Export, Error> {
        let mut writer = object.begin().await?;
        let mut archived = self.source.events().await?;
        while let Some(events) = archived.next().await? {
            for event in events.iter().filter(|event| !self.picked.positions.contains(event.position)) {
                writer.push(&event.borrowed()).await?;
            }
        }
        archived.finish().await?;
        writer.finish().await
    }

    async fn insert_rows(&self, transaction: &mut Transaction) -> Result<(), Error> {
        let mut archived = self.source.events().await?;
        while let Some(mut events) = archived.next().await? {
            events.retain(|event| self.picked.positions.contains(event.position));
            events::insert(transaction, self.source.log_row.id, &events, self.held_until).await?;
        }
        archived.finish().await
    }
}

impl Parted<'_> {
    /// Moves the events with one transaction, and returns how many there are.
    pub async fn commit(self) -> Result<i64, Error> {
        let Parted { restore, rest } = self;
        let Restore { source, lease, picked, .. } = &restore;
        let Source { store, log_row, archive, .. } = source;
        let old = ArchiveKey::new(log_row.id, archive.id);
        let positions = picked.positions.span().expect("something was picked");
        store.own().await?;
        let mut transaction = store.database.begin_job().await?;
        moves::announce(
            &mut transaction,
            Move::Restore,
            log_row,
            archive.id,
            Extent { positions, count: picked.count },
        )
        .await?;
        // The log's row is locked last: publishers wait for it, and only for as long as a commit takes.
        restore.insert_rows(&mut transaction).await?;
        members::delete(&mut transaction, old, archive.generation).await?;
        lookups::delete(&mut transaction, old).await?;
        introduced::delete(&mut transaction, old).await?;
        let mut added = -archive.amounts();
        let mut taken_over = None;
        if let Some((intent, contents)) = rest {
            let key = ArchiveKey::new(log_row.id, intent.archive_id);
            let rest = contents.archive(key, intent.generation, intent.write_id);
            members::insert(&mut transaction, key, rest.generation, &contents.members).await?;
            archives::insert(&mut transaction, &rest).await?;
            added = added + rest.amounts();
            taken_over = Some(intent);
        }
        let edit_sequence = source.lock(&mut transaction, lease).await?;
        if !archives::delete(&mut transaction, archive).await? {
            return Err(source.is_moved());
        }
        if let Some(intent) = &taken_over
            && !intents::delete(&mut transaction, intent).await?
        {
            return Err(GaveWay::IntentSettled.into());
        }
        edits::settle(&mut transaction, log_row.id, archive.id, edit_sequence).await?;
        intents::insert(&mut transaction, &Intent::of_orphan(archive, edit_sequence), lease).await?;
        rows::add_archived(&mut transaction, log_row.id, archive.last_position, added).await?;
        rows::raise_catalog_epoch(&mut transaction, log_row.id).await?;
        database::commit(transaction).await?;
        metrics::counter!("coldstream_events_restored_total").increment(picked.count as u64);
        tracing::info!(
            log = %log_row.log, archive_id = %archive.id, events = picked.count, first_position = positions.start,
            last_position = positions.last(), "restored"
        );
        Ok(picked.count)
    }
}
