//! Finding events by their ids, and finding out whether a stream is empty.

use std::collections::HashSet;

use futures::FutureExt;
use uuid::Uuid;

use crate::database::catalog::members;
use crate::database::ledger::edits;
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::database::lookups;
use crate::event::{Event, Log, PositionRange};
use crate::store::archives::fetch::Interrupted;
use crate::store::archives::overlay::Overlays;
use crate::store::{Error, Store};

/// An event, and the place where it was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub log_row: LogRow,
    pub event: Event,
    /// The archive that holds the event; `None` if the event is hot.
    pub archive_id: Option<Uuid>,
}

impl Store {
    pub async fn event(&self, log: &Log, id: &str) -> Result<Option<Event>, Error> {
        Ok(self.find(log, &[id.to_owned()]).await?.pop().map(|found| found.event))
    }

    /// Returns whether a stream has no events. Members are read only if no event of the stream is hot, and only those
    /// that may hold events of the stream according to the lookup pages.
    pub async fn is_stream_empty(&self, log: &Log, stream: &str) -> Result<bool, Error> {
        self.retry_while_stale(log, || self.try_is_stream_empty(log, stream).boxed()).await
    }

    async fn try_is_stream_empty(&self, log: &Log, stream: &str) -> Result<bool, Interrupted> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else {
            return Ok(true);
        };
        if events::has_any(&mut view, log_row.id, stream).await? {
            return Ok(false);
        }
        let members = match log_row.archived_count {
            0 => Vec::new(),
            _ => self.members_of_stream(&mut view, log_row.id, stream, PositionRange::ALL).await?,
        };
        drop(view);
        for extent in &members {
            if self.fetch(log, extent).await?.events().any(|event| event.stream() == stream) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds the events with these ids, hot or archived, in the order of their positions. Unknown ids are left out.
    pub(in crate::store) async fn find(&self, log: &Log, ids: &[String]) -> Result<Vec<Found>, Error> {
        self.retry_while_stale(log, || self.try_find(log, ids).boxed()).await
    }

    async fn try_find(&self, log: &Log, ids: &[String]) -> Result<Vec<Found>, Interrupted> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else {
            return Ok(Vec::new());
        };
        let hot = events::by_ids(&mut view, log_row.id, ids).await?;
        let known: HashSet<&str> = hot.iter().map(|event| event.id.as_str()).collect();
        let missing: Vec<String> = ids.iter().filter(|id| !known.contains(id.as_str())).cloned().collect();
        let (mut members, mut edits) = (Vec::new(), Vec::new());
        if !missing.is_empty() && log_row.archived_count > 0 {
            let key = self.hash_key(&mut view).await?;
            let keys = lookups::members_with_ids(&mut view, log_row.id, key, &missing, &[]).await?;
            members = members::by_key(&mut view, log_row.id, &keys).await?;
            for member in &members {
                edits.extend(edits::pending(&mut view, log_row.id, member.positions()).await?);
            }
        }
        drop(view);
        let overlays = Overlays::new(edits);
        let missing: HashSet<&str> = missing.iter().map(String::as_str).collect();
        let mut found: Vec<Found> = hot
            .iter()
            .map(|event| Found { log_row: log_row.clone(), event: event.clone(), archive_id: None })
            .collect();
        for extent in &members {
            let member = self.fetch(log, extent).await?;
            for event in member.events().filter(|event| missing.contains(event.id())) {
                let mut event = event.to_event();
                overlays.of(extent.archive_id).apply(&mut event);
                found.push(Found { log_row: log_row.clone(), event, archive_id: Some(extent.archive_id) });
            }
        }
        found.sort_by_key(|found| found.event.position);
        Ok(found)
    }
}
