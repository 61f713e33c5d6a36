//! Verifies that every object holds what the catalog says, and that the catalog agrees with itself.
//!
//! Objects are read whole, one after the other, a member at a time, so memory does not grow with them. The service may
//! go on meanwhile. Everything that moves is looked at where one view of its log saw it, because no archive ever loses
//! a position. If an archive was restored, it is gone, and its log is verified anew.

mod differences;

use std::collections::BTreeSet;
use std::fmt;

use futures::future::FutureExt;
use uuid::Uuid;

use crate::bucket;
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::members;
use crate::database::catalog::troubles::TroubleKind;
use crate::database::ledger::{edits, introduced};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::database::lookups::{self, LookupRun, sums};
use crate::database::{self, ArchiveKey};
use crate::event::{Log, PositionRange, PositionSet};
use crate::store::archives::contents::{ContentsReader, Pacing};
use crate::store::archives::overlay::Overlay;
use crate::store::{ATTEMPTS, Error, Store};

use differences::{differences, differing_members};

/// A defect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub log: Log,
    /// `None` where the finding is about the log as a whole.
    pub archive_id: Option<Uuid>,
    pub what: String,
}

/// The findings of a log, and the archives that they are about.
#[derive(Debug, Default)]
pub struct Verification {
    pub findings: Vec<Finding>,
    /// The archives that differ from the catalog, or from their lookup pages.
    pub broken: BTreeSet<Uuid>,
    /// The archives with positions that are hot as well.
    pub doubled: BTreeSet<Uuid>,
}

/// The outcome of reading an object.
pub enum Seen {
    /// The positions that the object holds, and its defects.
    Read(PositionSet, Vec<String>),
    Unreadable(String),
    /// The archive is not in the catalog any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Hot,
    Archive(Uuid),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Hot => formatter.write_str("hot"),
            Place::Archive(id) => write!(formatter, "archive {id}"),
        }
    }
}

/// The reason why an object could not be read to its end.
enum Unread {
    /// The object is not the one that the catalog knew a moment ago.
    Stale(String),
    Found(String),
    Gone,
    Failed(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        match error {
            Error::Damaged(what) | Error::ObjectRefused(what) => Unread::Found(what),
            error => Unread::Failed(error),
        }
    }
}

impl From<database::Error> for Unread {
    fn from(error: database::Error) -> Unread {
        Error::from(error).into()
    }
}

impl From<bucket::Error> for Unread {
    fn from(error: bucket::Error) -> Unread {
        Error::from(error).into()
    }
}

impl Store {
    /// Returns all findings. After each archive, it tells `progress` how many events were read so far. If Postgres or
    /// S3 is away, the outcome is an error.
    pub async fn verify(&self, progress: impl FnMut(i64)) -> Result<Vec<Finding>, Error> {
        self.verify_at(&|_| std::future::ready(()).boxed(), progress).await
    }

    pub async fn verify_at(&self, pace: Pacing<'_>, mut progress: impl FnMut(i64)) -> Result<Vec<Finding>, Error> {
        let (mut findings, mut events) = (Vec::new(), 0);
        for log_id in self.log_ids().await? {
            let verified = self.verify_log(log_id, pace, |count| {
                events += count;
                progress(events);
            });
            findings.extend(verified.await?.findings);
        }
        Ok(findings)
    }

    pub(in crate::store) async fn log_ids(&self) -> Result<Vec<i64>, Error> {
        let mut view = self.database.view_for_job().await?;
        Ok(rows::all(&mut view).await?.into_iter().map(|log_row| log_row.id).collect())
    }

    pub(in crate::store) async fn verify_log(
        &self,
        log_id: i64,
        pace: Pacing<'_>,
        mut progress: impl FnMut(i64),
    ) -> Result<Verification, Error> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let (verified, some_are_gone) = self.try_verify_log(log_id, pace, &mut progress).await?;
            if !some_are_gone || attempts.next().is_none() {
                return Ok(verified);
            }
        }
    }

    /// Verifies a log once, and returns whether an archive was restored meanwhile.
    async fn try_verify_log(
        &self,
        log_id: i64,
        pace: Pacing<'_>,
        mut progress: impl FnMut(i64),
    ) -> Result<(Verification, bool), Error> {
        let mut view = self.database.view_for_job().await?;
        let log_row = rows::by_id(&mut view, log_id).await?;
        let archives = archives::of_log(&mut view, log_row.id).await?;
        let hot = events::hot_positions(&mut view, log_row.id).await?;
        let merges = sums::wrong(&mut view, log_row.id).await?;
        drop(view);
        let finding = |archive_id, what| Finding { log: log_row.log.clone(), archive_id, what };
        let mut verified = Verification::default();
        let mut places: Vec<(PositionRange, Place)> = hot.ranges().map(|range| (range, Place::Hot)).collect();
        let (mut all_are_read, mut some_are_gone) = (true, false);
        for archive in &archives {
            let found = match self.verify_archive(&log_row, archive.id, pace).await? {
                Seen::Read(positions, found) => {
                    let place = Place::Archive(archive.id);
                    places.extend(positions.ranges().map(|range| (range, place)));
                    found
                }
                Seen::Unreadable(what) => {
                    all_are_read = false;
                    vec![what]
                }
                Seen::Gone => {
                    (all_are_read, some_are_gone) = (false, true);
                    Vec::new()
                }
            };
            if !found.is_empty() {
                verified.broken.insert(archive.id);
            }
            verified.findings.extend(found.into_iter().map(|what| finding(Some(archive.id), what)));
            progress(archive.count);
        }
        let (wrong, doubled) = wrong_places(&log_row, places, all_are_read);
        let merges = merges.iter().map(|id| format!("merge {id}: its sums are not those of its archives"));
        let of_log = wrong_sums(&log_row, &archives).into_iter().chain(merges).chain(wrong);
        verified.findings.extend(of_log.map(|what| finding(None, what)));
        verified.doubled = doubled;
        Ok((verified, some_are_gone))
    }

    pub(in crate::store) async fn verify_archive(
        &self,
        log_row: &LogRow,
        archive_id: Uuid,
        pace: Pacing<'_>,
    ) -> Result<Seen, Error> {
        let seen = self.see(log_row, archive_id, pace).await?;
        let key = ArchiveKey::new(log_row.id, archive_id);
        match &seen {
            Seen::Read(_, found) if found.is_empty() => {
                self.clear_troubles(&log_row.log, key, &[TroubleKind::Read, TroubleKind::Recover]).await;
            }
            Seen::Read(_, found) => {
                self.note_trouble_because(&log_row.log, key, TroubleKind::Read, &found.join("; ")).await;
            }
            Seen::Unreadable(what) => self.note_trouble_because(&log_row.log, key, TroubleKind::Read, what).await,
            Seen::Gone => {}
        }
        Ok(seen)
    }

    async fn see(&self, log_row: &LogRow, archive_id: Uuid, pace: Pacing<'_>) -> Result<Seen, Error> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            match self.try_verify(log_row, archive_id, pace).await {
                Ok((positions, found)) if found.is_empty() => return Ok(Seen::Read(positions, found)),
                // If an archive was restored a moment ago, its lookup pages and its object are gone as well.
                Ok(_) | Err(Unread::Found(_)) if !self.has_archive(log_row, archive_id).await? => {
                    return Ok(Seen::Gone);
                }
                Ok((positions, found)) => return Ok(Seen::Read(positions, found)),
                Err(Unread::Failed(error)) => return Err(error),
                Err(Unread::Gone) => return Ok(Seen::Gone),
                Err(Unread::Found(what)) => return Ok(Seen::Unreadable(what)),
                Err(Unread::Stale(what)) => {
                    let is_settled = self.settle_stale(&log_row.log, archive_id).await;
                    if attempts.next().is_none() || !is_settled.or_else(refusal_as_no)? {
                        return Ok(Seen::Unreadable(what));
                    }
                }
            }
        }
    }

    async fn has_archive(&self, log_row: &LogRow, archive_id: Uuid) -> Result<bool, Error> {
        let mut view = self.database.view_for_job().await?;
        Ok(archives::find(&mut view, log_row.id, archive_id).await?.is_some())
    }

    async fn try_verify(
        &self,
        log_row: &LogRow,
        archive_id: Uuid,
        pace: Pacing<'_>,
    ) -> Result<(PositionSet, Vec<String>), Unread> {
        let mut view = self.database.view_for_job().await?;
        let archive = archives::find(&mut view, log_row.id, archive_id).await?.ok_or(Unread::Gone)?;
        let key = archive.key();
        let members = members::of_archive(&mut view, key, archive.generation).await?;
        let edits = edits::pending_of_archive(&mut view, log_row.id, archive_id).await?;
        // A rewrite may have put these GDPR ids into the object, and the lookup pages stayed as they were.
        let introduced = introduced::of_archive(&mut view, key).await?;
        let hash_key = self.hash_key(&mut view).await?;
        drop(view);
        let scan = self.bucket()?.scan(&log_row.log, archive_id).await?;
        if scan.etag() != archive.etag {
            return Err(Unread::Stale("the object is not the one that the catalog knows".into()));
        }
        let sizes = members.iter().map(|row| (row.byte_end - row.byte_start, row.json_bytes)).collect();
        let mut reader = ContentsReader::new(scan, log_row.log.clone(), hash_key, Overlay::new(edits))
            .with_known_members(sizes)
            .without_gdpr_ids(introduced);
        let mut lookups_are_right = true;
        while let Some((_, run)) = reader.next_run(pace).await? {
            lookups_are_right &= self.leads_to(key, &run).await?;
        }
        let contents = reader.finish().await?;
        let mut found = Vec::new();
        if !lookups_are_right {
            found.push("the lookup pages do not lead to its events".into());
        }
        if contents.digest != archive.digest {
            found.push("the object's digest is not the one that the catalog knows".into());
        }
        let held = contents.archive(key, archive.generation, archive.write_id);
        found.extend(differences(&held, &archive));
        found.extend(differing_members((&held, &contents.members), (&archive, &members)));
        Ok((contents.positions, found))
    }

    async fn leads_to(&self, key: ArchiveKey, run: &LookupRun) -> Result<bool, Error> {
        let mut view = self.database.view_for_job().await?;
        Ok(lookups::leads_to(&mut view, key, run).await?)
    }
}

/// Turns an error of one object into `false`: an object that S3 refuses now is as unreadable as one that is another.
fn refusal_as_no(error: Error) -> Result<bool, Error> {
    if error.is_of_one_object() { Ok(false) } else { Err(error) }
}

fn wrong_sums(log_row: &LogRow, archives: &[Archive]) -> Vec<String> {
    let sum = |field: fn(&Archive) -> i64| archives.iter().map(field).sum::<i64>();
    let sums = [
        ("events", log_row.archived_count, sum(|archive| archive.count)),
        ("bytes of JSON", log_row.archived_json_bytes, sum(|archive| archive.json_bytes)),
        ("bytes of objects", log_row.archived_object_bytes, sum(|archive| archive.object_bytes)),
    ];
    let wrong = sums.iter().filter(|(_, known, found)| known != found);
    let mut wrong: Vec<String> =
        wrong.map(|(what, known, found)| format!("archived {what}: {known} in all, {found} by archive")).collect();
    // If it were too low, reads would miss the positions after it.
    let last_position = archives.iter().map(|archive| archive.last_position).max().unwrap_or(0);
    if log_row.archived_to < last_position {
        wrong.push(format!("the last archived position: {last_position}, {} in the topic's row", log_row.archived_to));
    }
    // If it were too low, nothing of the log would ever be archived.
    let digits = (i64::BITS - log_row.hot_count().leading_zeros()) as i32;
    if log_row.hot_magnitude != digits {
        wrong.push(format!(
            "binary digits of the number of hot events: {digits}, {} in the topic's row",
            log_row.hot_magnitude
        ));
    }
    wrong
}

/// Checks that every position is in exactly one place, except positions whose events were deleted. Returns also the
/// archives that hold something that is hot as well.
fn wrong_places(
    log_row: &LogRow,
    mut places: Vec<(PositionRange, Place)>,
    all_are_read: bool,
) -> (Vec<String>, BTreeSet<Uuid>) {
    places.sort_unstable();
    // The first position from which on nothing was found.
    let (mut next, mut missing, mut found) = (1, 0, Vec::new());
    let (mut last_place, mut doubled) = (Place::Hot, BTreeSet::new());
    for (range, place) in places {
        if range.start < next {
            let last = range.last().min(next - 1);
            found.push(format!("positions {} to {last} are in two places: {last_place}, {place}", range.start));
            match (last_place, place) {
                (Place::Hot, Place::Archive(id)) | (Place::Archive(id), Place::Hot) => drop(doubled.insert(id)),
                _ => {}
            }
        }
        let gap = PositionRange::new(next, range.start);
        if !gap.is_empty() && all_are_read && log_row.deleted_count == 0 {
            found.push(format!("positions {} to {} are nowhere", gap.start, gap.last()));
        }
        missing += gap.len();
        if range.end > next {
            (next, last_place) = (range.end, place);
        }
    }
    missing += log_row.head_position + 1 - next;
    if all_are_read && missing != log_row.deleted_count {
        found.push(format!("{missing} positions are nowhere, and {} events were deleted", log_row.deleted_count));
    }
    (found, doubled)
}
