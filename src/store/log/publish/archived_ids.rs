//! Bloom filters that rule out that a published id is in an archive.
//!
//! Nearly every id that is published is new, and lookup pages can tell. But each id is looked up in a page of every
//! lookup: fifty events and a hundred archives cost a thousand pages. So a process remembers the archived ids of the
//! logs that it publishes to, in Bloom filters that background tasks make from the pages. Publishers read pages only
//! for ids that a filter cannot rule out, and of lookups that are not in the filters yet.
//!
//! The filters are good while the log's catalog epoch stays the same. Until it rises, events only move into archives,
//! so a log with as many archived events as its filters were made from has the same archived events. The filters are in
//! memory only: a process that starts makes its own.

use std::collections::HashSet;
use std::sync::Arc;

use fastbloom::BloomFilter;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::database::log::rows::{self, LogRow};
use crate::database::{Connection, Database, lookups};
use crate::store::{Error, Store};

/// The most bytes of all filters. They have room for at least 17 million archived ids, since each new filter doubles
/// the room of its log.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const FALSE_POSITIVE_RATE: f64 = 0.001;
const BITS_PER_ID: u64 = 15;
/// The fewest ids that a filter has room for.
const IDS_MIN: usize = 65_536;

/// The filters of the logs to which this process published most recently, by log id.
pub struct ArchivedIds {
    logs: Cache<i64, Arc<Mutex<Filters>>>,
}

/// The filters of one log.
#[derive(Default)]
struct Filters {
    epoch: i64,
    /// The log's archived count when all of its lookups were in the filters.
    archived_count: i64,
    /// The lookups from which the filters were made.
    lookup_ids: HashSet<Uuid>,
    /// The archives whose ids are in the filters. A merge of their lookups adds nothing new.
    archive_ids: HashSet<Uuid>,
    filters: Vec<BloomFilter>,
    /// The ids for which the last filter still has room.
    room: usize,
    is_being_filled: bool,
}

/// The ids that have to be looked up in pages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Doubts {
    /// Ids that may be in any lookup.
    perhaps_known: Vec<String>,
    /// Ids that may only be in lookups that are not in the filters yet.
    perhaps_newer: Vec<String>,
}

impl Filters {
    fn contains(&self, fingerprint: u64) -> bool {
        self.filters.iter().any(|filter| filter.contains(&fingerprint))
    }

    /// Adds fingerprints to the filters. A new filter has room for `ids_max`, the approximate number of ids that the
    /// log may have.
    fn insert(&mut self, fingerprints: &[u64], ids_max: usize) {
        if self.room < fingerprints.len() {
            self.room = ids_max.max(IDS_MIN);
            self.filters.push(BloomFilter::with_false_pos(FALSE_POSITIVE_RATE).expected_items(self.room));
        }
        if let Some(filter) = self.filters.last_mut() {
            for fingerprint in fingerprints {
                filter.insert(fingerprint);
            }
        }
        self.room -= fingerprints.len();
    }

    fn doubts<'a>(&self, log_row: &LogRow, fingerprints: impl Iterator<Item = (&'a String, u64)>) -> Doubts {
        let mut doubts = Doubts::default();
        let (is_valid, is_complete) = (self.holds_for(log_row), self.is_complete_for(log_row));
        for (id, fingerprint) in fingerprints {
            if !is_valid || self.contains(fingerprint) {
                doubts.perhaps_known.push(id.clone());
            } else if !is_complete {
                doubts.perhaps_newer.push(id.clone());
            }
        }
        doubts
    }

    fn holds_for(&self, log_row: &LogRow) -> bool {
        self.epoch == log_row.catalog_epoch
    }

    fn is_complete_for(&self, log_row: &LogRow) -> bool {
        self.holds_for(log_row) && self.archived_count == log_row.archived_count
    }

    fn weight(&self) -> u32 {
        let bytes: usize = self.filters.iter().map(|filter| filter.num_bits() / 8).sum();
        u32::try_from(bytes + (self.lookup_ids.len() + self.archive_ids.len()) * size_of::<Uuid>()).unwrap_or(u32::MAX)
    }
}

fn locked(filters: &Mutex<Filters>) -> MutexGuard<'_, Filters> {
    filters.lock()
}

impl ArchivedIds {
    pub fn new() -> ArchivedIds {
        let weigher = |_: &i64, filters: &Arc<Mutex<Filters>>| locked(filters).weight();
        ArchivedIds { logs: Cache::builder().max_capacity(BYTES_MAX).weigher(weigher).build() }
    }

    /// Reads the pages of lookups that are not in the filters yet.
    async fn fill(&self, database: &Database, log_id: i64, filters: &Mutex<Filters>) -> Result<(), Error> {
        let mut view = database.view_for_job().await?;
        let log_row = rows::by_id(&mut view, log_id).await?;
        let known: Vec<Uuid> = {
            let mut filters = locked(filters);
            if !filters.holds_for(&log_row) {
                *filters = Filters { epoch: log_row.catalog_epoch, is_being_filled: true, ..Filters::default() };
            }
            filters.lookup_ids.iter().copied().collect()
        };
        let ids_max = usize::try_from(log_row.archived_count).unwrap_or(usize::MAX);
        let lookups = lookups::live(&mut view, log_id, &known).await?;
        for (lookup_id, archive_ids) in &lookups {
            let is_new = archive_ids.iter().any(|archive_id| !locked(filters).archive_ids.contains(archive_id));
            if is_new {
                let insert = |fingerprints: &[u64]| locked(filters).insert(fingerprints, ids_max);
                lookups::fingerprints(&mut view, log_id, *lookup_id, insert).await?;
            }
        }
        let mut filters = locked(filters);
        filters.lookup_ids = lookups.iter().map(|(lookup_id, _)| *lookup_id).collect();
        filters.archive_ids.extend(lookups.into_iter().flat_map(|(_, archive_ids)| archive_ids));
        filters.archived_count = log_row.archived_count;
        Ok(())
    }
}

impl Store {
    /// Returns the members that may hold one of these ids. The answer holds while the log's row is as given.
    pub(in crate::store) async fn members_with_ids(
        &self,
        connection: &mut Connection,
        log_row: &LogRow,
        ids: &[String],
    ) -> Result<Vec<(Uuid, i32)>, Error> {
        if log_row.archived_count == 0 || ids.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.hash_key(connection).await?;
        let filters = self.archived_ids.logs.get_with(log_row.id, Arc::default);
        let fingerprinted = ids.iter().map(|id| (id, key.fingerprint(id)));
        let (doubts, known) = {
            let filters = locked(&filters);
            let doubts = filters.doubts(log_row, fingerprinted);
            let known: Vec<Uuid> = match doubts.perhaps_newer.is_empty() {
                true => Vec::new(),
                false => filters.lookup_ids.iter().copied().collect(),
            };
            (doubts, known)
        };
        self.fill_archived_ids(log_row, filters);
        let Doubts { perhaps_known, perhaps_newer } = doubts;
        let mut members = Vec::new();
        for (ids, except) in [(perhaps_known, Vec::new()), (perhaps_newer, known)] {
            if !ids.is_empty() {
                members.extend(lookups::members_with_ids(connection, log_row.id, key, &ids, &except).await?);
            }
        }
        Ok(members)
    }

    /// Fills the filters in a background task, unless they are complete, too large, or being filled.
    fn fill_archived_ids(&self, log_row: &LogRow, filters: Arc<Mutex<Filters>>) {
        let has_room = (2 * log_row.archived_count as u64).saturating_mul(BITS_PER_ID) / 8 <= BYTES_MAX;
        {
            let mut filters = locked(&filters);
            if !has_room || filters.is_being_filled || filters.is_complete_for(log_row) {
                return;
            }
            filters.is_being_filled = true;
        }
        let (archived_ids, database, log_id) = (Arc::clone(&self.archived_ids), self.database.clone(), log_row.id);
        tokio::spawn(async move {
            if let Err(error) = archived_ids.fill(&database, log_id, &filters).await {
                tracing::debug!(%error, log_id, "the filters of archived ids were not filled");
            }
            locked(&filters).is_being_filled = false;
            // The cache weighs an entry when it is inserted, and the filters have grown.
            archived_ids.logs.insert(log_id, filters);
        });
    }
}
