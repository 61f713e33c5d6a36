use crate::bucket::object_key;
use crate::database::Transaction;
use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::intents;
use crate::database::catalog::overview::{self, LogOverview, Totals};
use crate::database::catalog::runs::{self, ArchiveRun};
use crate::database::catalog::troubles::{self, Trouble};
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::event::{Instant, Log};
use crate::store::{Error, Remainders, Store};

/// The most logs that a table for people shows.
const TOPICS_SHOWN: i64 = 40;

/// The counts and sizes of hot and archived events, and the troubles of objects.
#[derive(Debug, Clone)]
pub struct Status {
    pub totals: Totals,
    /// The logs with most hot events.
    pub topics: Vec<TopicStatus>,
    /// Counts of the old events that stay in Postgres, because their logs have fewer of them than a batch takes.
    pub remainders: Remainders,
    /// The bytes on disk of all hot events, with their indexes.
    pub table_bytes: i64,
    /// The last archive run that archived events or failed.
    pub last_run: Option<ArchiveRun>,
    /// The oldest hundred troubles of single objects, the oldest first.
    pub troubles: Vec<Trouble>,
    /// The number of all troubles, with those that `troubles` leaves out.
    pub trouble_count: i64,
}

/// The most troubles that the status lists. The metrics count all of them.
const TROUBLES_MAX: i64 = 100;

#[derive(Debug, Clone)]
pub struct TopicStatus {
    pub log_row: LogRow,
    /// The approximate bytes of the log's hot rows, without their share of indexes.
    pub hot_bytes: i64,
    pub oldest_hot_raised_at: Option<Instant>,
}

/// A page of the logs, in the order in which they were created.
#[derive(Debug, Clone)]
pub struct TopicsPage {
    pub topics: Vec<TopicStatus>,
    pub has_more: bool,
    pub table_bytes: i64,
}

impl From<LogOverview> for TopicStatus {
    fn from(LogOverview { log_row, row_bytes, oldest_hot_raised_at }: LogOverview) -> TopicStatus {
        let hot_bytes = (row_bytes * log_row.hot_count() as f64) as i64;
        TopicStatus { log_row, hot_bytes, oldest_hot_raised_at }
    }
}

impl Store {
    /// Returns the key of the object that is in trouble.
    pub fn object_of(trouble: &Trouble) -> String {
        object_key(&trouble.log, trouble.archive_id)
    }

    /// Returns the status with as many logs as fit a screen.
    pub async fn status(&self) -> Result<Status, Error> {
        let view = self.database.view().await?;
        self.status_of(view, TOPICS_SHOWN).await
    }

    /// Returns the status with every log, however long that takes.
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

    /// Returns up to `limit` logs whose ids are above `after_log_id`.
    pub async fn topics(&self, after_log_id: i64, limit: i64) -> Result<TopicsPage, Error> {
        let mut view = self.database.view().await?;
        let mut found = overview::after(&mut view, after_log_id, limit + 1).await?;
        let has_more = found.len() as i64 > limit;
        found.truncate(limit as usize);
        let table_bytes = events::table_bytes(&mut view).await?;
        Ok(TopicsPage { topics: found.into_iter().map(TopicStatus::from).collect(), has_more, table_bytes })
    }

    /// Returns the archives of a log, in the order of their first positions.
    pub async fn archives(&self, log: &Log) -> Result<Vec<Archive>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(Vec::new()) };
        Ok(archives::of_log(&mut view, log_row.id).await?)
    }

    /// Returns whether an archive, an intent or an edit that is not purged exists. A process then needs a bucket.
    pub async fn has_archives(&self) -> Result<bool, Error> {
        let mut view = self.database.view().await?;
        Ok(archives::has_any(&mut view).await? || intents::has_unfinished(&mut view).await?)
    }
}
