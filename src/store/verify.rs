//! Verifying that every object holds what the catalog says, and that the catalog agrees with itself.
//!
//! Objects are read whole, one after the other, a member at a time: memory does not grow with them. The service may go
//! on meanwhile: what moves is looked at where one snapshot of its log saw it, since archives never lose positions.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::bucket;
use crate::database::{self, Archive, LookupRun, Topic};
use crate::event::{Event, Log};
use crate::store::archive::{PositionRanges, read_member};
use crate::store::overlay::Overlay;
use crate::store::{ATTEMPTS, Error, Store};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub log: Log,
    /// `None` where it is about the log as a whole.
    pub archive_id: Option<Uuid>,
    pub what: String,
}

/// What was found in an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    positions: PositionRanges,
    count: i64,
    raised_at: Option<(i64, i64)>,
    types: BTreeMap<String, i64>,
    json_bytes: i64,
}

impl Held {
    fn add(&mut self, event: &Event) {
        self.positions.push(event.position);
        self.count += 1;
        let nanos = event.raised_at.unix_nanos();
        let (min, max) = self.raised_at.unwrap_or((nanos, nanos));
        self.raised_at = Some((min.min(nanos), max.max(nanos)));
        *self.types.entry(event.event_type.clone()).or_default() += 1;
    }

    /// What the catalog says otherwise.
    fn differs_from(&self, archive: &Archive) -> Vec<String> {
        let mut types: BTreeMap<String, i64> = BTreeMap::new();
        for (name, count) in archive.types.iter().zip(&archive.type_counts) {
            *types.entry(name.clone()).or_default() += count;
        }
        let mut found = Vec::new();
        let mut check = |what: &str, held: String, known: String| {
            if held != known {
                found.push(format!("{what} in the object: {held}, in the catalog: {known}"));
            }
        };
        let ranges = self.positions.ranges();
        let span = ranges.first().zip(ranges.last()).map(|((first, _), (_, last))| (*first, *last));
        check("events", self.count.to_string(), archive.count.to_string());
        check("positions", format!("{span:?}"), format!("{:?}", Some((archive.first_position, archive.last_position))));
        let raised_at = Some((archive.raised_at_min, archive.raised_at_max));
        check("raised_at", format!("{:?}", self.raised_at), format!("{raised_at:?}"));
        check("bytes of JSON", self.json_bytes.to_string(), archive.json_bytes.to_string());
        check("types", format!("{:?}", self.types), format!("{types:?}"));
        found
    }
}

/// Why an object could not be read to its end.
enum Unread {
    /// It is another one than the catalog knew when it was asked.
    Stale(String),
    Found(String),
    Failed(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        match error {
            Error::Damaged(what) => Unread::Found(what),
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
    /// All that is wrong. `progress` is told after each archive how many events were read so far. What cannot be
    /// verified because Postgres or S3 are away is an error.
    pub async fn verify(&self, mut progress: impl FnMut(i64)) -> Result<Vec<Finding>, Error> {
        let mut snapshot = self.database.begin_job().await?;
        let topics = database::topics(&mut snapshot).await?;
        drop(snapshot);
        let (mut findings, mut events) = (Vec::new(), 0);
        for topic in topics {
            let finding = |archive_id, what| Finding { log: topic.log.clone(), archive_id, what };
            let mut snapshot = self.database.snapshot_for_job().await?;
            let topic = database::topic_by_id(&mut snapshot, topic.id).await?;
            let archives = database::archives_of(&mut snapshot, topic.id).await?;
            let hot = database::hot_position_ranges(&mut snapshot, topic.id).await?;
            drop(snapshot);
            let mut places: Vec<(i64, i64, String)> =
                hot.into_iter().map(|(first, last)| (first, last, "hot".to_owned())).collect();
            let mut all_are_read = true;
            for archive in &archives {
                match self.verify_archive(&topic, archive.id).await? {
                    Ok((positions, found)) => {
                        let place = || format!("archive {}", archive.id);
                        places.extend(positions.ranges().iter().map(|(first, last)| (*first, *last, place())));
                        findings.extend(found.into_iter().map(|what| finding(Some(archive.id), what)));
                    }
                    Err(what) => {
                        all_are_read = false;
                        findings.push(finding(Some(archive.id), what));
                    }
                }
                events += archive.count;
                progress(events);
            }
            findings.extend(wrong_sums(&topic, &archives).into_iter().map(|what| finding(None, what)));
            findings.extend(wrong_places(&topic, places, all_are_read).into_iter().map(|what| finding(None, what)));
        }
        Ok(findings)
    }

    /// The positions that the object holds, and what is wrong; or why it cannot be read.
    async fn verify_archive(
        &self,
        topic: &Topic,
        archive_id: Uuid,
    ) -> Result<Result<(PositionRanges, Vec<String>), String>, Error> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            match self.try_verify(topic, archive_id).await {
                Ok(read) => return Ok(Ok(read)),
                Err(Unread::Failed(error)) => return Err(error),
                Err(Unread::Found(what)) => return Ok(Err(what)),
                Err(Unread::Stale(what)) => {
                    if attempts.next().is_none() || !self.settle_stale(&topic.log, archive_id).await? {
                        return Ok(Err(what));
                    }
                }
            }
        }
    }

    async fn try_verify(&self, topic: &Topic, archive_id: Uuid) -> Result<(PositionRanges, Vec<String>), Unread> {
        let mut snapshot = self.database.snapshot_for_job().await?;
        let archive = database::archive(&mut snapshot, topic.id, archive_id).await?;
        let archive = archive.ok_or_else(|| Unread::Found("it is in the catalog no more".into()))?;
        let members = database::members_of(&mut snapshot, (topic.id, archive_id), archive.generation).await?;
        let edits = database::pending_edits_of_archive(&mut snapshot, topic.id, archive_id).await?;
        let key = self.hash_key(&mut snapshot).await?;
        drop(snapshot);
        let mut scan = self.bucket()?.scan(&topic.log, archive_id).await?;
        if scan.etag() != archive.etag {
            return Err(Unread::Stale("the object is not the one that the catalog knows".into()));
        }
        let overlay = Overlay::new(edits);
        let (mut held, mut found) = (Held::default(), Vec::new());
        let (mut lookups, mut run) = (LookupRun::new(key), 0);
        for row in &members {
            for mut event in read_member(&mut scan, &topic.log, row).await? {
                lookups.add(&event.id, &event.stream, event.gdpr_ids(), row.member as u16);
                overlay.apply(&mut event);
                held.add(&event);
                if lookups.is_full() {
                    let full = std::mem::replace(&mut lookups, LookupRun::new(key));
                    found.extend(self.wrong_lookups((topic.id, archive_id), run, full).await?);
                    run += 1;
                }
            }
            held.json_bytes += row.json_bytes;
        }
        if !lookups.is_empty() {
            found.extend(self.wrong_lookups((topic.id, archive_id), run, lookups).await?);
            run += 1;
        }
        if run != archive.lookup_runs {
            found.push(format!("it should have {run} runs of lookup pages, and has {}", archive.lookup_runs));
        }
        if scan.finish().await? != archive.digest {
            found.push("the object's digest is not the one that the catalog knows".into());
        }
        found.extend(held.differs_from(&archive));
        Ok((held.positions, found))
    }

    async fn wrong_lookups(&self, key: (i64, Uuid), run: i32, made: LookupRun) -> Result<Option<String>, Error> {
        let mut snapshot = self.database.snapshot_for_job().await?;
        let is_right = database::is_run_stored(&mut snapshot, key, run, made).await?;
        Ok((!is_right).then(|| format!("the lookup pages of run {run} do not lead to its events")))
    }
}

fn wrong_sums(topic: &Topic, archives: &[Archive]) -> Vec<String> {
    let sum = |field: fn(&Archive) -> i64| archives.iter().map(field).sum::<i64>();
    let sums = [
        ("events", topic.archived_count, sum(|archive| archive.count)),
        ("bytes of JSON", topic.archived_json_bytes, sum(|archive| archive.json_bytes)),
        ("bytes of objects", topic.archived_object_bytes, sum(|archive| archive.object_bytes)),
    ];
    let wrong = sums.iter().filter(|(_, known, found)| known != found);
    wrong.map(|(what, known, found)| format!("archived {what}: {known} in all, {found} by archive")).collect()
}

/// Every position is somewhere, once; only positions whose events were deleted are nowhere.
fn wrong_places(topic: &Topic, mut places: Vec<(i64, i64, String)>, all_are_read: bool) -> Vec<String> {
    places.sort_unstable();
    let (mut reached, mut missing, mut found) = (0, 0, Vec::new());
    let mut last_place = String::new();
    for (first, last, place) in places {
        if first <= reached {
            found.push(format!("positions {first} to {} are in two places: {last_place}, {place}", last.min(reached)));
        }
        let gap = first - reached - 1;
        if gap > 0 && all_are_read && topic.deleted_count == 0 {
            found.push(format!("positions {} to {} are nowhere", reached + 1, first - 1));
        }
        missing += gap.max(0);
        if last > reached {
            (reached, last_place) = (last, place);
        }
    }
    missing += topic.head_position - reached;
    if all_are_read && missing != topic.deleted_count {
        found.push(format!("{missing} positions are nowhere, and {} events were deleted", topic.deleted_count));
    }
    found
}
