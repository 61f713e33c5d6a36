use crate::bucket::object_key;
use crate::database::Transaction;
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::intents;
use crate::database::catalog::overview::{self, TopicOverview, Totals};
use crate::database::catalog::runs::{self, ArchiveRun};
use crate::database::catalog::troubles::{self, Trouble};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::event::{Instant, Log};
use crate::store::{Error, Remainders, Store};

/// A table for people shows so many.
const TOPICS_SHOWN: i64 = 40;

/// What there is, and where.
#[derive(Debug, Clone)]
pub struct Status {
    pub totals: Totals,
    /// The topics with most hot events.
    pub topics: Vec<TopicStatus>,
    /// Counts of events that are old and stay in Postgres all the same.
    pub remainders: Remainders,
    /// Bytes on disk of all hot events, with their indexes.
    pub table_bytes: i64,
    /// The last pass that archived something or failed.
    pub last_run: Option<ArchiveRun>,
    /// The troubles of single objects, the oldest first, a hundred at most; the count is that of all of them.
    pub troubles: Vec<Trouble>,
    pub trouble_count: i64,
}

/// An operator who has more of them looks at the metrics.
const TROUBLES_MAX: i64 = 100;

#[derive(Debug, Clone)]
pub struct TopicStatus {
    pub log_row: LogRow,
    /// Of its rows, about, without their share of indexes.
    pub hot_bytes: i64,
    pub oldest_hot_raised_at: Option<Instant>,
}

/// Some topics in the order in which they came to be.
#[derive(Debug, Clone)]
pub struct TopicsPage {
    pub topics: Vec<TopicStatus>,
    pub has_more: bool,
    pub table_bytes: i64,
}

impl From<TopicOverview> for TopicStatus {
    fn from(TopicOverview { log_row, row_bytes, oldest_hot_raised_at }: TopicOverview) -> TopicStatus {
        let hot_bytes = (row_bytes * log_row.hot_count() as f64) as i64;
        TopicStatus { log_row, hot_bytes, oldest_hot_raised_at }
    }
}

impl Store {
    /// The key of the object that is meant.
    pub fn object_of(trouble: &Trouble) -> String {
        object_key(&trouble.log, trouble.archive_id)
    }

    /// The status with as many topics as fit a screen.
    pub async fn status(&self) -> Result<Status, Error> {
        let view = self.database.view().await?;
        self.status_of(view, TOPICS_SHOWN).await
    }

    /// The status with every topic, however long that takes.
    pub async fn status_of_all(&self) -> Result<Status, Error> {
        let view = self.database.view_for_job().await?;
        self.status_of(view, i64::MAX).await
    }

    async fn status_of(&self, mut view: Transaction, topics_max: i64) -> Result<Status, Error> {
        let topics = overview::largest(&mut view, topics_max).await?;
        let totals = overview::totals(&mut view).await?;
        let table_bytes = events::table_bytes(&mut view).await?;
        let last_run = runs::last(&mut view).await?;
        let troubles = troubles::all(&mut view, TROUBLES_MAX).await?;
        let trouble_count = troubles::counts(&mut view).await?.iter().map(|(_, count)| count).sum();
        drop(view);
        let topics = topics.into_iter().map(TopicStatus::from).collect();
        let remainders = self.remainders().await?;
        Ok(Status { totals, topics, remainders, table_bytes, last_run, troubles, trouble_count })
    }

    /// So many topics behind the one with this id.
    pub async fn topics(&self, after_log_id: i64, limit: i64) -> Result<TopicsPage, Error> {
        let mut view = self.database.view().await?;
        let mut found = overview::after(&mut view, after_log_id, limit + 1).await?;
        let has_more = found.len() as i64 > limit;
        found.truncate(limit as usize);
        let table_bytes = events::table_bytes(&mut view).await?;
        Ok(TopicsPage { topics: found.into_iter().map(TopicStatus::from).collect(), has_more, table_bytes })
    }

    /// The archives of a log, in the order of their first positions.
    pub async fn archives(&self, log: &Log) -> Result<Vec<Archive>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(Vec::new()) };
        Ok(archives::of_log(&mut view, log_row.id).await?)
    }

    /// Whether there are archived events at all, or is something left of them: then a bucket is needed.
    pub async fn has_archives(&self) -> Result<bool, Error> {
        let mut view = self.database.view().await?;
        Ok(archives::has_any(&mut view).await? || intents::has_unfinished(&mut view).await?)
    }
}
