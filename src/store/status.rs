use crate::bucket::object_key;
use crate::database::{self, Archive, ArchiveRun, Topic, Trouble};
use crate::event::{Instant, Log};
use crate::store::{Error, Store};

/// What there is, and where.
#[derive(Debug, Clone)]
pub struct Status {
    pub topics: Vec<TopicStatus>,
    /// Bytes on disk of all hot events, with their indexes.
    pub table_bytes: i64,
    /// The last pass that archived something or failed.
    pub last_run: Option<ArchiveRun>,
    /// What is wrong with single objects, the oldest first, a hundred at most; and of how many something is.
    pub troubles: Vec<Trouble>,
    pub trouble_count: i64,
}

/// Whoever has more of them than these looks at the metrics.
const TROUBLES_MAX: i64 = 100;

#[derive(Debug, Clone)]
pub struct TopicStatus {
    pub topic: Topic,
    /// Of its rows, about, without their share of indexes.
    pub hot_bytes: i64,
    pub oldest_hot_raised_at: Option<Instant>,
}

impl Store {
    /// Which object is meant.
    pub fn object_of(trouble: &Trouble) -> String {
        object_key(&trouble.log, trouble.archive_id)
    }

    pub async fn status(&self) -> Result<Status, Error> {
        let mut snapshot = self.database.snapshot().await?;
        let topics = database::topics(&mut snapshot).await?;
        let table_bytes = database::table_bytes(&mut snapshot).await?;
        let last_run = database::last_archive_run(&mut snapshot).await?;
        let troubles = database::troubles(&mut snapshot, TROUBLES_MAX).await?;
        let trouble_count = database::trouble_counts(&mut snapshot).await?.iter().map(|(_, count)| count).sum();
        let mut found = Vec::with_capacity(topics.len());
        for topic in topics {
            let oldest_hot_raised_at = database::oldest_raised_at(&mut snapshot, topic.id).await?;
            let row_bytes = database::average_row_bytes(&mut snapshot, topic.id).await?;
            let hot_bytes = (row_bytes * topic.hot_count() as f64) as i64;
            found.push(TopicStatus { topic, hot_bytes, oldest_hot_raised_at });
        }
        Ok(Status { topics: found, table_bytes, last_run, troubles, trouble_count })
    }

    /// The archives of a log, in the order of their first positions.
    pub async fn archives(&self, log: &Log) -> Result<Vec<Archive>, Error> {
        let mut snapshot = self.database.snapshot().await?;
        let Some(topic) = database::find_topic(&mut snapshot, log).await? else { return Ok(Vec::new()) };
        Ok(database::archives_of(&mut snapshot, topic.id).await?)
    }

    /// Whether there are archived events at all, or is something left of them: then a bucket is needed.
    pub async fn has_archives(&self) -> Result<bool, Error> {
        let mut snapshot = self.database.snapshot().await?;
        Ok(database::has_archives(&mut snapshot).await? || database::has_unfinished(&mut snapshot).await?)
    }
}
