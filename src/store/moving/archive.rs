//! Moving one batch of old events into an archive.
//!
//! Archiving takes four steps, and the process can die after each of them:
//!
//! | step | what remains if the process dies after it |
//! |---|---|
//! | [`Store::claim`] | an intent |
//! | [`Batch::upload`] | an intent, and an object or an unfinished upload that nobody reads |
//! | [`Exported::read_back`] | the same |
//! | [`Verified::commit`] | a live archive: one transaction made it live and deleted exactly the rows that it holds |
//!
//! [`Store::sweep`] deletes the object of an intent that no archive has taken over.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::catalog::intents::{self, Intent};
use crate::database::catalog::leases::{self, Lease};
use crate::database::catalog::moves::{self, Move};
use crate::database::catalog::runs::{self, ArchiveRun};
use crate::database::catalog::{archives, members};
use crate::database::log::events::{self, ExportedRow};
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, ArchiveKey};
use crate::event::{Extent, Instant, PositionRange};
use crate::store::archives::contents::Contents;
use crate::store::archives::object::{Export, Object};
use crate::store::moving::breaks::{Breaks, Pace};
use crate::store::{Error, GaveWay, Store};

/// The most positions that one hurried statement may export or delete. It cannot read and sort more rows than that,
/// whatever the planner thinks of the table; and no view is held for so long that dead rows add up behind it, first of
/// all versions of the log's row.
const POSITIONS_HURRIED: i64 = 4_000;
/// The most positions that one leisurely statement may export or delete.
const POSITIONS_LEISURELY: i64 = 500;
/// The bytes at which a piece ends. It has more if its last event reaches beyond them.
const PIECE_BYTES: i64 = 1024 * 1024;
/// The most batches of a log that one archive run archives at leisure. If more are due, archiving has fallen behind,
/// and hurries: publishers must not outrun it.
const BATCHES_LEISURELY: u64 = 4;

/// A batch that was chosen, and whose intent is written.
pub struct Batch<'a> {
    object: Object<'a>,
    lease: Lease,
    /// Younger events are no part of the batch, and neither are events that are held beyond `now`.
    raised_at_max: Instant,
    now: OffsetDateTime,
    pace: Pace,
}

/// Rows on their way from Postgres to S3.
struct Piece {
    rows: Vec<ExportedRow>,
    /// The position at which the next piece begins.
    end: i64,
    /// The piece ended at its limit of bytes, so that more rows may follow before the limit of positions.
    is_cut: bool,
}

/// A batch whose object is complete in the bucket.
pub struct Exported<'a> {
    batch: Batch<'a>,
    export: Export,
}

/// A batch whose object was read back, with the contents that were found in it.
pub struct Verified<'a> {
    batch: Batch<'a>,
    contents: Contents,
}

/// The counts of an archive run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    pub archives: i64,
    pub events: i64,
    /// The logs that are left to a later run, because another writer holds the lease or events were edited meanwhile.
    pub put_off: i64,
}

impl Store {
    /// Archives until no batch is eligible, the log with most hot events first, and records the run. A log that fails
    /// does not stop the others. `progress` is called after every archive.
    pub async fn archive(&self, progress: impl FnMut(&LogRow, Archived)) -> Result<Archived, Error> {
        self.archive_at_pace(Pace::Hurried, progress).await
    }

    /// Does what [`Store::archive`] does, some times as slowly, so that publishers and readers notice less of it.
    pub async fn archive_at_leisure(&self) -> Result<Archived, Error> {
        self.archive_at_pace(Pace::Leisurely, |_, _| {}).await
    }

    async fn archive_at_pace(
        &self,
        pace: Pace,
        mut progress: impl FnMut(&LogRow, Archived),
    ) -> Result<Archived, Error> {
        let started_at = OffsetDateTime::now_utc();
        let mut done = Archived::default();
        let mut failure = match self.catch_up_on_merges().await {
            Ok(()) | Err(Error::GaveWay(_)) => None,
            Err(error) => Some(error),
        };
        for log_row in self.logs_to_archive().await? {
            let outcome = self.archive_log(&log_row, pace, &mut done, &mut progress).await;
            match outcome {
                Ok(()) => {}
                Err(error @ Error::GaveWay(_)) => {
                    tracing::info!(%error, log = %log_row.log, "archiving is put off");
                    done.put_off += 1;
                }
                Err(error) => {
                    metrics::counter!("coldstream_archive_failures_total").increment(1);
                    tracing::error!(%error, log = %log_row.log, "archiving failed");
                    failure = Some(error);
                }
            }
        }
        if done.archives > 0 || failure.is_some() {
            self.record_run(started_at, done, failure.as_ref()).await?;
        }
        failure.map_or(Ok(done), Err)
    }

    async fn logs_to_archive(&self) -> Result<Vec<LogRow>, Error> {
        let excluded: &BTreeSet<String> = &self.settings.eligibility.excluded_topics;
        let mut view = self.database.begin_job().await?;
        let hot_count_min = self.settings.eligibility.batch_size as i64;
        let mut log_rows = rows::with_hot_events(&mut view, hot_count_min).await?;
        log_rows.retain(|log_row| !excluded.contains(log_row.log.topic()));
        Ok(log_rows)
    }

    async fn archive_log(
        &self,
        log_row: &LogRow,
        pace: Pace,
        done: &mut Archived,
        progress: &mut impl FnMut(&LogRow, Archived),
    ) -> Result<(), Error> {
        self.own().await?;
        let held = self.with_lease(log_row.id, async |lease| {
            let mut merged = Ok(());
            for number in 0.. {
                let Some(batch) = self.claim(lease).await? else { break };
                let pace = if number < BATCHES_LEISURELY { pace } else { Pace::Hurried };
                let count = Batch { pace, ..batch }.archive().await?;
                done.archives += 1;
                done.events += count;
                progress(log_row, *done);
                // A merge that fails stops no archiving.
                if merged.is_ok() {
                    merged = self.merge_lookups(lease).await;
                }
            }
            merged
        });
        held.await?.ok_or(GaveWay::LeaseHeld.into())
    }

    /// Chooses the eligible events of a log with the lowest positions, and writes an intent to archive them. `None` if
    /// there are too few for a batch.
    pub async fn claim(&self, lease: Lease) -> Result<Option<Batch<'_>>, Error> {
        self.own().await?;
        self.settle_due_intents(lease).await?;
        let eligibility = &self.settings.eligibility;
        let now = OffsetDateTime::now_utc();
        let raised_at_max = eligibility.raised_at_max(Instant::from_unix_nanos(now.unix_timestamp_nanos() as i64));
        let mut transaction = self.database.begin_job().await?;
        let log_row = rows::by_id(&mut transaction, lease.log_id).await?;
        let batch_size = eligibility.batch_size as i64;
        if log_row.hot_count() < batch_size {
            return Ok(None);
        }
        let limits = (raised_at_max.unix_nanos(), now);
        let batch = events::eligible_batch(&mut transaction, log_row.id, limits, batch_size).await?;
        let Some(positions) = batch else { return Ok(None) };
        // An edit under way holds the log's row: the edit counter read here includes the edit, or the edit sees the
        // intent.
        let Some(edit_counter) = leases::check(&mut transaction, &lease).await? else {
            return Err(GaveWay::LeaseLost.into());
        };
        let intent = Intent::of_new_archive(log_row.id, edit_counter);
        intents::insert(&mut transaction, &intent, &lease).await?;
        database::commit(transaction).await?;
        let object = Object { store: self, log_row, intent, extent: Extent { positions, count: batch_size } };
        Ok(Some(Batch { object, lease, raised_at_max, now, pace: Pace::Hurried }))
    }

    async fn record_run(
        &self,
        started_at: OffsetDateTime,
        done: Archived,
        failure: Option<&Error>,
    ) -> Result<(), Error> {
        let run = ArchiveRun {
            id: Uuid::now_v7(),
            started_at,
            finished_at: OffsetDateTime::now_utc(),
            archives: done.archives,
            events: done.events,
            error: failure.map(ToString::to_string),
        };
        let mut transaction = self.database.begin_job().await?;
        runs::insert(&mut transaction, &run).await?;
        Ok(database::commit(transaction).await?)
    }
}

impl Pace {
    /// The most positions that one statement may export or delete.
    fn positions_max(self) -> i64 {
        match self {
            Pace::Hurried => POSITIONS_HURRIED,
            Pace::Leisurely => POSITIONS_LEISURELY,
        }
    }
}

impl<'a> Batch<'a> {
    /// Takes all steps after the claim, and returns the number of events that moved. If a step fails, the intent is
    /// settled at once.
    async fn archive(self) -> Result<i64, Error> {
        let (store, lease) = (self.object.store, self.lease);
        let outcome = async { self.upload().await?.read_back().await?.commit().await }.await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, log_id = lease.log_id, "a batch was not archived");
            if let Err(error) = store.settle_due_intents(lease).await {
                tracing::warn!(%error, log_id = lease.log_id, "the next sweep settles the intent of the batch");
            }
        }
        outcome
    }

    /// Streams the rows into an object. Each piece is read in a view of its own, so the commit fails if events were
    /// edited between them.
    pub async fn upload(self) -> Result<Exported<'a>, Error> {
        match self.export().await {
            Ok(export) => Ok(Exported { batch: self, export }),
            Err(error) => {
                self.object.give_up().await;
                Err(error)
            }
        }
    }

    async fn export(&self) -> Result<Export, Error> {
        let mut writer = self.object.begin().await?;
        let (mut rest, mut breaks) = (self.object.extent.positions.start, Breaks::new(self.pace));
        let mut positions = self.pace.positions_max();
        while let Some(Piece { rows, end, is_cut }) = self.piece(rest, positions).await? {
            // A statement should not read many rows that its piece has no room for.
            positions = if is_cut { rows.len() as i64 + 1 } else { self.pace.positions_max() };
            for row in rows {
                writer.push(&row.event()?).await?;
                breaks.take().await;
            }
            breaks.take().await;
            rest = end;
        }
        writer.finish().await
    }

    /// Returns the next piece from a position on. It is read to its end before its first row goes to S3, so that no
    /// statement waits for S3.
    async fn piece(&self, from: i64, positions: i64) -> Result<Option<Piece>, Error> {
        let Object { store, log_row, extent, .. } = &self.object;
        let end = extent.positions.end;
        let mut connection = store.database.job_connection().await?;
        // Most of the extent may have been archived before.
        let Some(first) = events::first(&mut connection, log_row.id, PositionRange::new(from, end)).await? else {
            return Ok(None);
        };
        let mut range = PositionRange::new(first, end.min(first + positions));
        let limits = (self.raised_at_max.unix_nanos(), self.now);
        let mut export = events::export(&mut connection, log_row.id, limits, range, PIECE_BYTES).await?;
        let (mut rows, mut bytes): (Vec<ExportedRow>, i64) = (Vec::new(), 0);
        while let Some(row) = export.next().await? {
            bytes += row.byte_len();
            rows.push(row);
        }
        // The export stops at this limit, so more rows may follow.
        let is_cut = bytes >= PIECE_BYTES;
        if let Some(last) = rows.last().filter(|_| is_cut) {
            range.end = last.position()? + 1;
        }
        Ok(Some(Piece { rows, end: range.end, is_cut }))
    }
}

impl<'a> Exported<'a> {
    /// Reads every byte of the object as a reader would.
    pub async fn read_back(self) -> Result<Verified<'a>, Error> {
        let contents = self.batch.object.read_back(&self.export).await?;
        Ok(Verified { batch: self.batch, contents })
    }
}

impl Verified<'_> {
    /// Moves the events with one transaction, and returns how many there are.
    pub async fn commit(self) -> Result<i64, Error> {
        let Verified { batch, contents } = self;
        let Batch { object: Object { store, log_row, intent, .. }, lease, pace, .. } = batch;
        // Rows must not be deleted for the sake of an object that another owner of the bucket may delete.
        store.own().await?;
        let mut transaction = store.database.begin_job().await?;
        let key = ArchiveKey::new(log_row.id, intent.archive_id);
        let archive = contents.archive(key, intent.generation, intent.write_id);
        moves::announce(&mut transaction, Move::Archive, &log_row, archive.id, archive.extent()).await?;
        // The log's row is locked last: publishers wait for it, and only for as long as a commit takes.
        let mut breaks = Breaks::new(pace);
        let mut deleted = 0;
        for positions in contents.positions.pieces(pace.positions_max()) {
            deleted += events::delete(&mut transaction, log_row.id, &positions).await?;
            breaks.take().await;
        }
        if deleted as i64 != archive.count {
            return Err(GaveWay::Moved(format!("an event of {}", log_row.log)).into());
        }
        archives::insert(&mut transaction, &archive).await?;
        members::insert(&mut transaction, key, archive.generation, &contents.members).await?;
        match leases::check(&mut transaction, &lease).await? {
            None => return Err(GaveWay::LeaseLost.into()),
            Some(edit_counter) if edit_counter != intent.edit_sequence => {
                return Err(GaveWay::Edited.into());
            }
            Some(_) => {}
        }
        if !intents::delete(&mut transaction, &intent).await? {
            return Err(GaveWay::IntentSettled.into());
        }
        rows::add_archived(&mut transaction, log_row.id, archive.last_position, archive.amounts()).await?;
        database::commit(transaction).await?;
        metrics::counter!("coldstream_events_archived_total").increment(archive.count as u64);
        tracing::info!(
            log = %log_row.log, archive_id = %archive.id, events = archive.count, first_position = archive.first_position,
            last_position = archive.last_position, object_bytes = archive.object_bytes, "archived"
        );
        Ok(archive.count)
    }
}
