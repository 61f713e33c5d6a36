//! Erroneous events: lists them, and sends them once more. The list holds positions, and the events are read where they
//! are, so the list shows edits and renames.

use crate::database;
use crate::database::groups::erroneous::{self, Erroneous};
use crate::database::groups::notices;
use crate::database::log::rows;
use crate::event::{Event, Filter, Group, Invalid, Log};
use crate::store::subscribe::notices::Word;
use crate::store::subscribe::wake::Cause;
use crate::store::{Error, Store};

/// An event that a group could not handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErroneousEvent {
    pub event: Event,
    pub group_name: String,
    pub error: String,
    pub retry_number: i64,
}

impl Store {
    /// Returns the erroneous events, one for each event and group, in order. An empty list of types stands for all
    /// types. A list of more than `bytes_max` bytes is refused, because nobody could ask for the rest of it.
    pub async fn erroneous_events(
        &self,
        log: &Log,
        is_parallel: bool,
        types: Vec<String>,
        (limit, bytes_max): (usize, i64),
    ) -> Result<Vec<ErroneousEvent>, Error> {
        let filter = Filter::types(types);
        let bytes_max = bytes_max.min(self.memory.page_bytes_max());
        let (mut found, mut bytes): (Vec<ErroneousEvent>, i64) = (Vec::new(), 0);
        let (mut position, mut group_name) = (0, String::new());
        loop {
            let mut view = self.database.view().await?;
            let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(found) };
            let behind = (position, group_name.as_str());
            let rows = erroneous::after(&mut view, log_row.id, is_parallel, behind, limit as i64).await?;
            drop(view);
            let is_end = rows.len() < limit;
            for Erroneous { group_name: name, position: at, error, retry_number } in rows {
                (position, group_name) = (at, name.clone());
                let event = self.event_at(log, at).await?.filter(|event| filter.matches(event));
                bytes += event.as_ref().map_or(0, Event::weight) as i64;
                if bytes > bytes_max {
                    return Err(Error::TooLarge { bytes, bytes_max });
                }
                found.extend(event.map(|event| ErroneousEvent { event, group_name: name, error, retry_number }));
                if found.len() == limit {
                    return Ok(found);
                }
            }
            if is_end {
                return Ok(found);
            }
        }
    }

    /// Takes an event off the list, so that the group gets it once more. From the commit on it will, whatever dies.
    pub async fn resend_erroneous(&self, log: &Log, group: &Group, event_id: &str) -> Result<(), Error> {
        let none = || Invalid(format!("the event {event_id:?} is not erroneous for {:?}", group.name));
        let found = self.find(log, &[event_id.to_owned()]).await?.pop().ok_or_else(none)?;
        let mut transaction = self.database.begin().await?;
        if !erroneous::resend(&mut transaction, group, found.log_row.id, found.event.position).await? {
            return Err(none().into());
        }
        notices::notify(&mut transaction, &[Word::Resent(found.log_row.id).to_string()]).await?;
        database::commit(transaction).await?;
        if let Some(replica) = self.subscriptions.replica() {
            replica.wake(found.log_row.id, Some(log), Cause::Resent);
        }
        Ok(())
    }
}
