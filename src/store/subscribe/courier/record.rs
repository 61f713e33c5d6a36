//! Writes down the outcomes of deliveries, in one transaction that the owner's epoch has to allow. If the process dies
//! before its commit, the events are delivered again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::database;
use crate::database::groups::progress::{self, Turn};
use crate::database::groups::{erroneous, replicas};
use crate::database::log::{consumed, events, rows};
use crate::event::{Event, Filter, Group, Log, PositionRange};
use crate::store::log::read::Reader;
use crate::store::subscribe::lease::ReplicaLease;
use crate::store::subscribe::window::Window;
use crate::store::{Error, PageSize, Query, Store};

const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The most bytes of an error text.
const ERROR_BYTES_MAX: usize = 8 * 1024;
/// The number of resends that are loaded at once.
const RESENDS_MAX: i64 = 100;

#[derive(Default)]
pub struct Outcomes {
    pub handled: Vec<i64>,
    /// The positions of erroneous events, each with its error.
    pub erroneous: Vec<(i64, String)>,
}

impl Outcomes {
    pub fn is_empty(&self) -> bool {
        self.handled.is_empty() && self.erroneous.is_empty()
    }

    pub fn positions(&self) -> impl Iterator<Item = i64> + '_ {
        self.handled.iter().copied().chain(self.erroneous.iter().map(|(position, _)| *position))
    }
}

/// The contents of the transaction.
struct Record {
    progress: progress::Progress,
    /// The positions of events that were erroneous before, and were sent once more.
    settled: Vec<i64>,
    erroneous: Vec<(i64, String, i64)>,
}

impl Store {
    /// Writes outcomes down, and tries until the result is known, for as long as the lease lasts. Returns the log's
    /// edit counter, or `None` if another replica has taken the progress.
    pub(in crate::store::subscribe) async fn write_down(
        &self,
        lease: &ReplicaLease,
        turn: &Turn,
        window: &mut Window,
        outcomes: Outcomes,
    ) -> Option<i64> {
        let mut record = Record { progress: window.progress(), settled: Vec::new(), erroneous: Vec::new() };
        for position in outcomes.positions() {
            record.settled.extend(window.get(position).filter(|item| item.is_resent).map(|_| position));
        }
        let Outcomes { handled, erroneous } = outcomes;
        for (position, error) in erroneous {
            let retry_number = window.get(position).map_or(0, |item| item.retry_number);
            record.erroneous.push((position, shortened(&error), retry_number));
            window.done(position);
        }
        handled.into_iter().for_each(|position| window.done(position));
        record.progress = window.progress();
        loop {
            match self.try_write_down(turn, &record).await {
                Ok(edit_counter) => {
                    self.subscriptions.progressed.notify_waiters();
                    return edit_counter;
                }
                Err(error) if lease.is_live() => {
                    tracing::warn!(%error, group = turn.group.name, "progress was not written down and will be");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(_) => return None,
            }
        }
    }

    async fn try_write_down(&self, turn: &Turn, record: &Record) -> Result<Option<i64>, Error> {
        let _permit = self.subscriptions.write_permit().await;
        let mut transaction = self.database.begin().await?;
        let Some(edit_counter) = progress::update(&mut transaction, turn, &record.progress).await? else {
            return Ok(None);
        };
        for position in &record.settled {
            erroneous::delete_resend(&mut transaction, turn, *position).await?;
        }
        for (position, error, retry_number) in &record.erroneous {
            erroneous::insert(&mut transaction, turn, *position, error, *retry_number).await?;
        }
        database::commit(transaction).await?;
        Ok(Some(edit_counter))
    }

    /// Deletes the events that every required group has handled, if the topic is one whose events go then. Events that
    /// stay now are deleted when the next one is handled. Returns whether it had to ask the database.
    pub(in crate::store::subscribe) async fn delete_consumed(&self, turn: &Turn, log: &Log) -> bool {
        let required = &self.settings.subscribing.required_groups;
        let of_mode = |is_parallel: bool, topics: &BTreeMap<String, Vec<String>>| {
            let names = topics.get(log.topic()).cloned().unwrap_or_default();
            names.into_iter().map(move |name| Group { name, is_parallel })
        };
        let groups: Vec<Group> = of_mode(false, &required.normal).chain(of_mode(true, &required.parallel)).collect();
        if !groups.contains(&turn.group) {
            return false;
        }
        if let Err(error) = self.try_delete_consumed(turn.log_id, &groups).await {
            tracing::warn!(%error, %log, "consumed events were not deleted and will be");
        }
        true
    }

    /// The events' rows are locked before the log's row, as the archiver does it.
    async fn try_delete_consumed(&self, log_id: i64, groups: &[Group]) -> Result<(), Error> {
        let _permit = self.subscriptions.write_permit().await;
        let mut transaction = self.database.begin().await?;
        let count = consumed::delete(&mut transaction, log_id, groups).await?;
        if count > 0 {
            consumed::forget(&mut transaction, log_id).await?;
            rows::add_deleted(&mut transaction, log_id, count).await?;
            database::commit(transaction).await?;
        }
        Ok(())
    }

    /// Returns the edit counter of the log.
    pub(in crate::store::subscribe) async fn edit_counter(&self, turn: &Turn) -> Result<i64, Error> {
        let _permit = self.subscriptions.write_permit().await;
        let mut transaction = self.database.view().await?;
        Ok(rows::edit_counter(&mut transaction, turn.log_id).await?)
    }

    /// Returns the event at a position, if it is in Postgres.
    pub(in crate::store::subscribe) async fn hot_event_at(
        &self,
        turn: &Turn,
        position: i64,
    ) -> Result<Option<Event>, Error> {
        let _permit = self.subscriptions.write_permit().await;
        let mut transaction = self.database.view().await?;
        let range = PositionRange::one(position);
        let found = events::range(&mut transaction, turn.log_id, &Filter::All, range, (0, 1), i64::MAX);
        Ok(found.await?.pop())
    }

    /// Returns the event at a position, as readers see it now, or `None` if it was deleted.
    pub(in crate::store::subscribe) async fn event_at(&self, log: &Log, position: i64) -> Result<Option<Event>, Error> {
        let query = Query { filter: Filter::All, from: position, skip: 0, limit: 1 };
        let (page, _) =
            self.read_as(Reader::InTurn(&self.subscriptions.reads), log, &query, PageSize::Whole(i64::MAX)).await?;
        let event = page.events.into_iter().next();
        Ok(event.filter(|event| event.position == position))
    }

    /// Returns the positions of events that are to be sent to the group once more, with their retry numbers.
    pub(in crate::store::subscribe) async fn resends(&self, turn: &Turn) -> Result<Vec<(i64, i64)>, Error> {
        let _permit = self.subscriptions.reads.for_rows().await;
        let mut transaction = self.database.view().await?;
        Ok(erroneous::resends(&mut transaction, &turn.group, turn.log_id, RESENDS_MAX).await?)
    }

    /// Returns whether another replica has subscribers of the group. If the database does not answer, it counts as
    /// none.
    pub(in crate::store::subscribe) async fn others_subscribe(&self, replica_id: uuid::Uuid, group: &Group) -> bool {
        let asked = async {
            let mut transaction = self.database.begin().await?;
            replicas::others_subscribe(&mut transaction, replica_id, &group.name, group.is_parallel).await
        };
        asked.await.unwrap_or_else(|error| {
            tracing::debug!(%error, "other replicas are not known");
            false
        })
    }
}

/// Shortens an error text, and removes every NUL, which Postgres does not keep in text.
fn shortened(error: &str) -> String {
    let mut error = error.replace('\0', "");
    let end = (0..=ERROR_BYTES_MAX.min(error.len())).rev().find(|end| error.is_char_boundary(*end));
    error.truncate(end.unwrap_or_default());
    error
}
