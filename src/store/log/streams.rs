//! Snapshots, and reading a stream through one.
//!
//! A snapshot stands for a stream's events up to and including one of them. A reader of the stream through the snapshot
//! gets the snapshot and the events behind that one. The events that the snapshot stands for stay where they are. A
//! snapshot is stored with one transaction: if the process dies, it is there or not.

use time::OffsetDateTime;

use crate::database;
use crate::database::ledger::edits;
use crate::database::log::{rows, snapshots};
use crate::event::{Edits, Event, Filter, Instant, Invalid, Log, NewEvent};
use crate::store::{Error, Held, PageSize, Query, Store};

/// The snapshot through which a stream is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotChoice {
    None,
    Newest,
    /// The snapshot with this id, through which the earlier pages were read.
    Named(String),
}

#[derive(Debug, Clone)]
pub struct StreamQuery {
    pub stream: String,
    /// The lowest position that the answer may hold.
    pub from: i64,
    pub page: i64,
    pub per_page: i64,
    /// The reader's deployment id. The newest snapshot is chosen among those of this deployment and older ones.
    pub deployment_id: i64,
    pub snapshot: SnapshotChoice,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPage {
    pub events: Vec<Event>,
    /// The snapshot through which the page was read, whether the snapshot is on the page or not.
    pub snapshot_id: Option<String>,
}

impl Store {
    /// Stores a snapshot that stands for a stream's events up to and including `last_event_id`. Storing the same
    /// snapshot again changes nothing.
    pub async fn create_snapshot(
        &self,
        log: &Log,
        stream: &str,
        last_event_id: &str,
        snapshot: NewEvent,
    ) -> Result<(), Error> {
        let snapshot = self.checked(NewEvent { stream: stream.to_owned(), ..snapshot })?;
        let ids = [last_event_id.to_owned(), snapshot.id.clone()];
        let found = self.find(log, &ids).await?;
        if found.iter().any(|found| found.event.id == snapshot.id) {
            return Err(Error::Conflict { id: snapshot.id });
        }
        let last = found.into_iter().find(|found| found.event.id == last_event_id && found.event.stream == stream);
        let last = last.ok_or_else(|| Invalid(format!("there is no event {last_event_id:?} in this stream")))?;
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        let mut transaction = self.database.begin().await?;
        let event = snapshot.clone().at(last.event.position, now);
        if !snapshots::insert(&mut transaction, last.log_row.id, &event).await? {
            let there = snapshots::find(&mut transaction, last.log_row.id, &event.id).await?;
            let renames = edits::renames(&mut transaction, last.log_row.id).await?;
            let edits = Edits { patched: Vec::new(), renames };
            let is_same =
                there.is_some_and(|there| there.position == event.position && snapshot.was_same_as(&there, &edits));
            return if is_same { Ok(()) } else { Err(Error::Conflict { id: event.id }) };
        }
        Ok(database::commit(transaction).await?)
    }

    /// Returns the position of an event, or of the last event that a snapshot stands for.
    pub async fn position_of(&self, log: &Log, id: &str) -> Result<Option<i64>, Error> {
        if let Some(event) = self.event(log, id).await? {
            return Ok(Some(event.position));
        }
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(None) };
        Ok(snapshots::find(&mut view, log_row.id, id).await?.map(|snapshot| snapshot.position))
    }

    /// Reads a page of a stream, and returns it with the memory that it takes, as [`Store::read_page`] does.
    pub async fn read_stream(
        &self,
        log: &Log,
        query: &StreamQuery,
        size: PageSize,
    ) -> Result<(StreamPage, Held), Error> {
        let StreamQuery { stream, from, page, per_page, .. } = query;
        let (skip, limit) = (page.max(&0).saturating_mul(*per_page), *per_page);
        let filter = Filter::Stream(stream.clone());
        let Some(snapshot) = self.choose_snapshot(log, query).await? else {
            let (page, held) = self.read_page(log, &Query { filter, from: *from, skip, limit }, size).await?;
            return Ok((StreamPage { events: page.events, snapshot_id: None }, held));
        };
        let (snapshot_id, from) = (Some(snapshot.id.clone()), snapshot.position + 1);
        // The snapshot is the first event of the stream's pages.
        let (mut events, rest) = match skip {
            _ if limit <= 0 => return Ok((StreamPage { events: Vec::new(), snapshot_id }, Held::default())),
            0 => (vec![snapshot], Query { filter, from, skip, limit: limit - 1 }),
            _ => (Vec::new(), Query { filter, from, skip: skip - 1, limit }),
        };
        let (page, held) = self.read_page(log, &rest, size).await?;
        events.extend(page.events);
        Ok((StreamPage { events, snapshot_id }, held))
    }

    /// Chooses the snapshot through which a stream is read. A snapshot that ends before the first wanted position is
    /// not used.
    async fn choose_snapshot(&self, log: &Log, query: &StreamQuery) -> Result<Option<Event>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(None) };
        let snapshot = match &query.snapshot {
            SnapshotChoice::None => None,
            SnapshotChoice::Newest => {
                snapshots::newest(&mut view, log_row.id, &query.stream, query.deployment_id).await?
            }
            SnapshotChoice::Named(id) => snapshots::find(&mut view, log_row.id, id).await?,
        };
        Ok(snapshot.filter(|snapshot| snapshot.stream == query.stream && snapshot.position >= query.from))
    }
}
