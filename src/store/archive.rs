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

mod export;

use std::collections::BTreeSet;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::bucket::{ObjectMetadata, Scan, decode_member};
use crate::database::{self, ArchiveRun, Intent, Lease, LookupRun, MemberRow, Topic};
use crate::event::{Event, Instant, Log};
use crate::store::contents::{Contents, ContentsReader};
use crate::store::overlay::Overlay;
use crate::store::{Error, Store};

use export::Export;

/// A batch that was chosen, and whose intent is written.
pub struct Batch<'a> {
    store: &'a Store,
    topic: Topic,
    lease: Lease,
    intent: Intent,
    range: (i64, i64),
    raised_at_max: Instant,
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

/// The next member of an object, decoded as a reader would.
pub(super) async fn read_member(scan: &mut Scan, log: &Log, row: &MemberRow) -> Result<Vec<Event>, Error> {
    let MemberRow { byte_start, byte_end, json_bytes, first_position, last_position, count, .. } = *row;
    let compressed = scan.next(byte_end - byte_start).await?;
    let log = log.clone();
    let decoded = tokio::task::spawn_blocking(move || {
        decode_member(&log, &compressed, json_bytes, (first_position, last_position, count))
    });
    let member = decoded.await.expect("decoding does not panic").map_err(|why| scan.damaged(why))?;
    Ok(member.events)
}

/// Positions in rising order, as ranges from the first to the last of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PositionRanges(Vec<(i64, i64)>);

impl PositionRanges {
    pub fn ranges(&self) -> &[(i64, i64)] {
        &self.0
    }

    pub fn push(&mut self, position: i64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => self.0.push((position, position)),
        }
    }

    /// From the first to the last.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.0.first().zip(self.0.last()).map(|((first, _), (_, last))| (*first, *last))
    }

    /// Whether some of the positions from `first` to `last` are in it.
    pub fn reach_into(&self, first: i64, last: i64) -> bool {
        let index = self.0.partition_point(|(_, end)| *end < first);
        self.0.get(index).is_some_and(|(start, _)| *start <= last)
    }
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
    pub async fn archive(&self, mut progress: impl FnMut(&Topic, Archived)) -> Result<Archived, Error> {
        let started_at = OffsetDateTime::now_utc();
        let mut done = Archived::default();
        let mut failure = None;
        for topic in self.topics_to_archive().await? {
            let outcome = self.archive_topic(&topic, &mut done, &mut progress).await;
            match outcome {
                Ok(()) => {}
                Err(error @ Error::GaveWay(_)) => {
                    tracing::info!(%error, log = %topic.log, "archiving is put off");
                    done.put_off += 1;
                }
                Err(error) => {
                    metrics::counter!("coldstream_archive_failures_total").increment(1);
                    tracing::error!(%error, log = %topic.log, "archiving failed");
                    failure = Some(error);
                }
            }
        }
        if done.archives > 0 || failure.is_some() {
            self.remember_run(started_at, done, failure.as_ref()).await?;
        }
        failure.map_or(Ok(done), Err)
    }

    async fn topics_to_archive(&self) -> Result<Vec<Topic>, Error> {
        let excluded: &BTreeSet<String> = &self.settings.eligibility.excluded_topics;
        let mut snapshot = self.database.begin_job().await?;
        let hot_count_min = self.settings.eligibility.batch_size as i64;
        let mut topics = database::topics_with_hot_events(&mut snapshot, hot_count_min).await?;
        topics.retain(|topic| !excluded.contains(topic.log.topic()));
        Ok(topics)
    }

    async fn archive_topic(
        &self,
        topic: &Topic,
        done: &mut Archived,
        progress: &mut impl FnMut(&Topic, Archived),
    ) -> Result<(), Error> {
        let held = self.with_lease(topic.id, async |lease| {
            while let Some(batch) = self.claim(lease).await? {
                let count = batch.archive().await?;
                done.archives += 1;
                done.events += count;
                progress(topic, *done);
            }
            Ok(())
        });
        if held.await?.is_none() {
            return Err(Error::GaveWay("another writer is at work on the topic's archives".into()));
        }
        Ok(())
    }

    /// Chooses the oldest eligible events, and writes down what is to become of them. `None` if there are too few.
    pub async fn claim(&self, lease: Lease) -> Result<Option<Batch<'_>>, Error> {
        self.bucket()?;
        self.settle_intents(lease).await?;
        let eligibility = &self.settings.eligibility;
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        let raised_at_max = eligibility.raised_at_max(now);
        let mut transaction = self.database.begin_job().await?;
        let topic = database::topic_by_id(&mut transaction, lease.topic_id).await?;
        let batch_size = eligibility.batch_size as i64;
        let batch =
            database::eligible_batch(&mut transaction, topic.id, raised_at_max.unix_nanos(), batch_size).await?;
        let Some(range) = batch else { return Ok(None) };
        // An edit that is under way holds the topic's row: it is counted here, or it sees the intent.
        let Some(edit_counter) = database::check_lease(&mut transaction, &lease).await? else {
            return Err(Error::GaveWay("another writer has taken over the topic's archives".into()));
        };
        let intent = Intent {
            topic_id: topic.id,
            archive_id: Uuid::now_v7(),
            generation: 1,
            write_id: Uuid::new_v4(),
            edit_sequence: edit_counter,
            uploaded: None,
        };
        database::insert_intent(&mut transaction, &intent, &lease).await?;
        database::commit(transaction).await?;
        Ok(Some(Batch { store: self, topic, lease, intent, range, raised_at_max }))
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
        database::insert_archive_run(&mut transaction, &run).await?;
        Ok(database::commit(transaction).await?)
    }
}

impl<'a> Batch<'a> {
    /// All steps; a batch that cannot be taken over is cleaned up at once. Says how many events it moved.
    async fn archive(self) -> Result<i64, Error> {
        let (store, lease) = (self.store, self.lease);
        let outcome = async { self.upload().await?.read_back().await?.commit().await }.await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, topic_id = lease.topic_id, "an archive was not taken over");
            if let Err(error) = store.settle_intents(lease).await {
                tracing::warn!(%error, topic_id = lease.topic_id, "what is left of it remains for the next sweep");
            }
        }
        outcome
    }

    fn metadata(&self) -> ObjectMetadata {
        ObjectMetadata {
            generation: self.intent.generation,
            write_id: self.intent.write_id,
            first_position: self.range.0,
            last_position: self.range.1,
            count: self.store.settings.eligibility.batch_size as i64,
        }
    }

    /// Streams the rows of one snapshot into an object.
    pub async fn upload(self) -> Result<Exported<'a>, Error> {
        let export = match export::run(&self).await {
            Ok(export) => export,
            Err(error) => {
                // Whoever took the turn over may have settled the intent before there was an upload to abort.
                if let Err(error) = self.store.bucket()?.abort_uploads(&self.topic.log, self.intent.archive_id).await {
                    tracing::warn!(%error, topic_id = self.topic.id, "an unfinished upload may remain in the bucket");
                }
                return Err(error);
            }
        };
        Ok(Exported { batch: self, export })
    }

    /// They are written as they come, and read by nobody before the archive is live. The intent is held meanwhile:
    /// whoever settles it deletes what is there then, and nothing comes after.
    async fn save_lookups(&self, run: i32, lookups: LookupRun) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_job().await?;
        if !database::hold_intent(&mut transaction, &self.intent).await? {
            return Err(Error::GaveWay(format!("{}: the intent was settled by another writer", self.topic.log)));
        }
        let key = (self.topic.id, self.intent.archive_id);
        database::insert_run(&mut transaction, key, run, lookups).await?;
        Ok(database::commit(transaction).await?)
    }
}

impl<'a> Exported<'a> {
    /// Reads the object as a reader would, every byte of it: what it is found to hold is what the catalog is to know.
    pub async fn read_back(self) -> Result<Verified<'a>, Error> {
        let Exported { batch, export } = self;
        let Batch { store, topic, intent, .. } = &batch;
        let scan = store.bucket()?.scan(&topic.log, intent.archive_id).await?;
        let mut snapshot = store.database.begin_job().await?;
        let key = store.hash_key(&mut snapshot).await?;
        drop(snapshot);
        let damaged = scan.damaged("it does not hold what was uploaded");
        let mut reader = ContentsReader::new(scan, topic.log.clone(), key, Overlay::default());
        loop {
            let is_end = reader.next().await?.is_none();
            for (run, lookups) in reader.take_runs() {
                batch.save_lookups(run, lookups).await?;
            }
            if is_end {
                break;
            }
        }
        let contents = reader.finish().await?;
        if contents.digest != export.digest || contents.positions != export.positions {
            return Err(damaged.into());
        }
        Ok(Verified { batch, contents })
    }
}

impl Verified<'_> {
    /// The one moment at which the events move. Says how many there were.
    pub async fn commit(self) -> Result<i64, Error> {
        let Verified { batch: Batch { store, topic, lease, intent, .. }, contents } = self;
        let gave_way = |why: &str| Error::GaveWay(format!("{}: {why}", topic.log));
        let mut transaction = store.database.begin_job().await?;
        // Rows first, the topic last: publishers wait for the topic, and only for as long as a commit takes.
        let deleted = database::delete_ranges(&mut transaction, topic.id, contents.positions.ranges()).await?;
        if deleted as i64 != contents.count {
            return Err(gave_way("some of the exported events are not hot any more"));
        }
        let key = (topic.id, intent.archive_id);
        let archive = contents.archive(key, intent.generation, intent.write_id);
        database::insert_archive(&mut transaction, &archive).await?;
        database::insert_members(&mut transaction, key, archive.generation, &contents.members).await?;
        match database::check_lease(&mut transaction, &lease).await? {
            None => return Err(gave_way("another writer has taken over the topic's archives")),
            Some(edit_counter) if edit_counter != intent.edit_sequence => {
                return Err(gave_way("events were edited while they were exported"));
            }
            Some(_) => {}
        }
        if !database::delete_intent(&mut transaction, &intent).await? {
            return Err(gave_way("the intent was settled by another writer"));
        }
        let added = (archive.count, archive.json_bytes, archive.object_bytes);
        database::add_archived(&mut transaction, topic.id, added).await?;
        database::commit(transaction).await?;
        metrics::counter!("coldstream_events_archived_total").increment(archive.count as u64);
        tracing::info!(
            log = %topic.log, archive_id = %archive.id, events = archive.count, first_position = archive.first_position,
            last_position = archive.last_position, object_bytes = archive.object_bytes, "archived"
        );
        Ok(archive.count)
    }
}
