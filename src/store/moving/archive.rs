//! Moving one batch of old events into an archive.
//!
//! Four steps, each of which can be the last one that happens:
//!
//! | step | what it leaves if the process dies after it |
//! |---|---|
//! | [`Store::claim`] | an intent |
//! | [`Batch::upload`] | an intent, and an object or an unfinished upload that nobody reads |
//! | [`Exported::read_back`] | the same |
//! | [`Verified::commit`] | a live archive: one transaction made it live and deleted exactly the rows it was found to hold |
//!
//! What an intent points at and no archive took over is deleted by [`Store::sweep`].

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
use crate::store::moving::breaks::{Breaks, Haste};
use crate::store::{Error, GaveWay, Store};

/// That one statement exports or deletes. Whatever the planner thinks of the table, it cannot read and sort more than that;
/// and no view is held for long, behind which dead rows would add up, those of the topic first.
const POSITIONS_AT_ONCE: i64 = 4_000;
/// In memory at once, beside one event that is larger.
const PIECE_BYTES: i64 = 1024 * 1024;
/// Where nobody waits for the end of it.
const POSITIONS_AT_LEISURE: i64 = 500;
/// Of a topic in one pass. Where more are due, archiving has fallen behind, and hurries: what is published must not outrun
/// it.
const BATCHES_AT_LEISURE: u64 = 4;

/// A batch that was chosen, and whose intent is written.
pub struct Batch<'a> {
    object: Object<'a>,
    lease: Lease,
    /// What is younger, or held longer, is no part of it.
    raised_at_max: Instant,
    now: OffsetDateTime,
    haste: Haste,
}

/// Rows on their way from Postgres to S3.
struct Piece {
    rows: Vec<ExportedRow>,
    /// The position behind its last one.
    end: i64,
    /// It has as many bytes as it may have, and more may follow.
    is_cut: bool,
}

/// A batch whose object is complete in the bucket.
pub struct Exported<'a> {
    batch: Batch<'a>,
    export: Export,
}

/// A batch whose object was read back, and what it was found to hold.
pub struct Verified<'a> {
    batch: Batch<'a>,
    contents: Contents,
}

/// What a pass moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    pub archives: i64,
    pub events: i64,
    /// Topics that another writer was at work on, or whose events were edited meanwhile: look again later.
    pub put_off: i64,
}

impl Store {
    /// Archives until nothing eligible is left, the topic with most hot events first, and remembers how it went.
    /// A topic that fails does not keep the others from their turn. `progress` is called after every archive.
    pub async fn archive(&self, progress: impl FnMut(&LogRow, Archived)) -> Result<Archived, Error> {
        self.archive_with(Haste::Hurried, progress).await
    }

    /// The same where nobody waits for the end of it: it takes some times as long, and publishers and readers notice less.
    pub async fn archive_at_leisure(&self) -> Result<Archived, Error> {
        self.archive_with(Haste::Leisurely, |_, _| {}).await
    }

    async fn archive_with(&self, haste: Haste, mut progress: impl FnMut(&LogRow, Archived)) -> Result<Archived, Error> {
        let started_at = OffsetDateTime::now_utc();
        let mut done = Archived::default();
        let mut failure = match self.catch_up_on_merges().await {
            Ok(()) | Err(Error::GaveWay(_)) => None,
            Err(error) => Some(error),
        };
        for log_row in self.topics_to_archive().await? {
            let outcome = self.archive_topic(&log_row, haste, &mut done, &mut progress).await;
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
            self.remember_run(started_at, done, failure.as_ref()).await?;
        }
        failure.map_or(Ok(done), Err)
    }

    async fn topics_to_archive(&self) -> Result<Vec<LogRow>, Error> {
        let excluded: &BTreeSet<String> = &self.settings.eligibility.excluded_topics;
        let mut view = self.database.begin_job().await?;
        let hot_count_min = self.settings.eligibility.batch_size as i64;
        let mut topics = rows::with_hot_events(&mut view, hot_count_min).await?;
        topics.retain(|log_row| !excluded.contains(log_row.log.topic()));
        Ok(topics)
    }

    async fn archive_topic(
        &self,
        log_row: &LogRow,
        haste: Haste,
        done: &mut Archived,
        progress: &mut impl FnMut(&LogRow, Archived),
    ) -> Result<(), Error> {
        self.own().await?;
        let held = self.with_lease(log_row.id, async |lease| {
            let mut merged = Ok(());
            for number in 0.. {
                let Some(batch) = self.claim(lease).await? else { break };
                let haste = if number < BATCHES_AT_LEISURE { haste } else { Haste::Hurried };
                let count = Batch { haste, ..batch }.archive().await?;
                done.archives += 1;
                done.events += count;
                progress(log_row, *done);
                // What cannot be merged keeps nothing from being archived.
                if merged.is_ok() {
                    merged = self.merge_lookups(lease).await;
                }
            }
            merged
        });
        held.await?.ok_or(GaveWay::LeaseHeld.into())
    }

    /// Chooses the oldest eligible events, and writes down what is to become of them. `None` if there are too few.
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
        // An edit that is under way holds the topic's row: it is counted here, or it sees the intent.
        let Some(edit_counter) = leases::check(&mut transaction, &lease).await? else {
            return Err(GaveWay::LeaseLost.into());
        };
        let intent = Intent {
            log_id: log_row.id,
            archive_id: Uuid::now_v7(),
            generation: 1,
            write_id: Uuid::new_v4(),
            edit_sequence: edit_counter,
            uploaded: None,
        };
        intents::insert(&mut transaction, &intent, &lease).await?;
        database::commit(transaction).await?;
        let object = Object { store: self, log_row, intent, extent: Extent { positions, count: batch_size } };
        Ok(Some(Batch { object, lease, raised_at_max, now, haste: Haste::Hurried }))
    }

    async fn remember_run(
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

impl Haste {
    fn positions_at_once(self) -> i64 {
        match self {
            Haste::Hurried => POSITIONS_AT_ONCE,
            Haste::Leisurely => POSITIONS_AT_LEISURE,
        }
    }
}

impl<'a> Batch<'a> {
    /// All steps; a batch that cannot be taken over is cleaned up at once. Says how many events it moved.
    async fn archive(self) -> Result<i64, Error> {
        let (store, lease) = (self.object.store, self.lease);
        let outcome = async { self.upload().await?.read_back().await?.commit().await }.await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, log_id = lease.log_id, "an archive was not taken over");
            if let Err(error) = store.settle_due_intents(lease).await {
                tracing::warn!(%error, log_id = lease.log_id, "what is left of it remains for the next sweep");
            }
        }
        outcome
    }

    /// Streams the rows into an object. They may be of several snapshots: what was edited meanwhile is not taken over.
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
        let (mut rest, mut breaks) = (self.object.extent.positions.start, Breaks::new(self.haste));
        let mut positions = self.haste.positions_at_once();
        while let Some(Piece { rows, end, is_cut }) = self.piece(rest, positions).await? {
            // A statement is not to read many rows that its piece has no room for.
            positions = if is_cut { rows.len() as i64 + 1 } else { self.haste.positions_at_once() };
            for row in rows {
                writer.push(&row.event()?).await?;
                breaks.take().await;
            }
            breaks.take().await;
            rest = end;
        }
        writer.finish().await
    }

    /// What follows from a position on, read to its end before S3 takes the first of it: no statement waits for S3.
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
        // So many may be all, or the first ones.
        let is_cut = bytes >= PIECE_BYTES;
        if let Some(last) = rows.last().filter(|_| is_cut) {
            range.end = last.position()? + 1;
        }
        Ok(Some(Piece { rows, end: range.end, is_cut }))
    }
}

impl<'a> Exported<'a> {
    /// Reads the object as a reader would, every byte of it.
    pub async fn read_back(self) -> Result<Verified<'a>, Error> {
        let contents = self.batch.object.read_back(&self.export).await?;
        Ok(Verified { batch: self.batch, contents })
    }
}

impl Verified<'_> {
    /// The one moment at which the events move. Says how many there were.
    pub async fn commit(self) -> Result<i64, Error> {
        let Verified { batch, contents } = self;
        let Batch { object: Object { store, log_row, intent, .. }, lease, haste, .. } = batch;
        // Rows are not to leave for an object that another owner may delete.
        store.own().await?;
        let mut transaction = store.database.begin_job().await?;
        let key = ArchiveKey::new(log_row.id, intent.archive_id);
        let archive = contents.archive(key, intent.generation, intent.write_id);
        moves::announce(&mut transaction, Move::Archive, &log_row, archive.id, archive.extent()).await?;
        // Rows first, the topic last: publishers wait for the topic, and only for as long as a commit takes.
        let mut breaks = Breaks::new(haste);
        let mut deleted = 0;
        for positions in contents.positions.pieces(haste.positions_at_once()) {
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
        let added = (archive.count, archive.json_bytes, archive.object_bytes);
        rows::add_archived(&mut transaction, log_row.id, archive.last_position, added).await?;
        database::commit(transaction).await?;
        metrics::counter!("coldstream_events_archived_total").increment(archive.count as u64);
        tracing::info!(
            log = %log_row.log, archive_id = %archive.id, events = archive.count, first_position = archive.first_position,
            last_position = archive.last_position, object_bytes = archive.object_bytes, "archived"
        );
        Ok(archive.count)
    }
}
