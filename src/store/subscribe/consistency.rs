//! The progress of groups for callers: reads it, and waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::database::catalog::archives;
use crate::database::groups::{erroneous, progress};
use crate::database::log::{events, rows};
use crate::event::{Event, Filter, Group, Log, PositionRange};
use crate::store::{Error, Query, Store};

/// The interval at which a waiting caller looks at what other replicas have written.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Store {
    /// Returns the event up to which the group has handled everything.
    pub async fn last_handled(&self, log: &Log, group: &Group) -> Result<Option<Event>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(None) };
        let position = progress::handled_position(&mut view, group, log_row.id).await?;
        drop(view);
        if position == 0 { Ok(None) } else { self.event_at(log, position).await }
    }

    /// Waits until each group has handled every event of a correlation. Returns the reason if a group could not handle
    /// one, or has not in time.
    pub async fn wait_until_handled(
        self: &Arc<Self>,
        log: &Log,
        correlation_id: &str,
        groups: &[Group],
    ) -> Result<Result<(), String>, Error> {
        // Events without a correlation belong to none.
        if correlation_id.is_empty() {
            return Ok(Ok(()));
        }
        let wait_max = self.settings.subscribing.consistency_wait;
        let deadline = Instant::now() + wait_max;
        let late = Ok(Err(format!("not everything was handled within {} s", wait_max.as_secs_f32())));
        // Archiving moves events from rows to archives, so this looks at rows first. Restores move them back, so it
        // looks at rows again after the search.
        let (mut positions, mut is_searched) = (BTreeSet::new(), false);
        loop {
            let progressed = self.subscriptions.progressed.notified();
            positions.extend(self.hot_positions(log, correlation_id).await?);
            let wanted: Vec<i64> = positions.iter().copied().collect();
            match self.outcome(log, &wanted, groups).await? {
                // Archives need not be searched for missing events as long as a hot one is missing.
                Some(Ok(())) if !is_searched => {
                    let searching = self.archived_positions(log, correlation_id, groups);
                    let Ok(archived) = tokio::time::timeout_at(deadline, searching).await else { return late };
                    positions.extend(archived?);
                    is_searched = true;
                    continue;
                }
                Some(outcome) => return Ok(outcome),
                None if Instant::now() >= deadline => return late,
                None => {}
            }
            tokio::select! {
                () = progressed => {}
                () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_INTERVAL)) => {}
            }
        }
    }

    async fn hot_positions(&self, log: &Log, correlation_id: &str) -> Result<Vec<i64>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(Vec::new()) };
        Ok(events::positions_of_correlation(&mut view, log_row.id, correlation_id).await?)
    }

    /// Returns the archived positions that a group may still have to handle, because it has passed them without
    /// handling them, or has not come so far. Most groups are past all archives, and then nothing is read.
    async fn archived_positions(
        self: &Arc<Self>,
        log: &Log,
        correlation_id: &str,
        groups: &[Group],
    ) -> Result<Vec<i64>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(Vec::new()) };
        let (mut handled, mut passed) = (log_row.head_position, BTreeSet::new());
        for group in groups {
            handled = handled.min(progress::handled_position(&mut view, group, log_row.id).await?);
            passed.extend(erroneous::unsettled(&mut view, group, log_row.id).await?);
        }
        let range = PositionRange::closed(handled + 1, log_row.head_position);
        let archives = archives::extents(&mut view, log_row.id, None, range, i64::MAX).await?;
        drop(view);
        let mut positions = Vec::new();
        for position in passed.range(..=handled) {
            let event = self.event_at(log, *position).await?;
            positions.extend(event.filter(|event| event.metadata.correlation_id == correlation_id).map(|_| *position));
        }
        let first = archives.iter().map(|archive| archive.first_position).min();
        let last = archives.iter().map(|archive| archive.last_position).max();
        let (Some(first), Some(last)) = (first, last) else { return Ok(positions) };
        let from = first.max(handled + 1);
        let query = Query { filter: Filter::All, from, skip: 0, limit: last + 1 - from };
        let mut windows = std::pin::pin!(self.replay(log.clone(), query));
        while let Some(events) = windows.next().await {
            let events = events?;
            let of_correlation = events.iter().filter(|event| event.metadata.correlation_id == correlation_id);
            positions.extend(of_correlation.map(|event| event.position));
        }
        Ok(positions)
    }

    /// Returns the outcome, or `None` while something is still to be handled.
    async fn outcome(
        &self,
        log: &Log,
        positions: &[i64],
        groups: &[Group],
    ) -> Result<Option<Result<(), String>>, Error> {
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else { return Ok(Some(Ok(()))) };
        let mut is_waiting = false;
        for group in groups {
            let (waits, error) = progress::unhandled(&mut view, group, log_row.id, positions).await?;
            if let Some(error) = error {
                return Ok(Some(Err(format!("{:?} could not handle an event: {error}", group.name))));
            }
            is_waiting |= waits;
        }
        Ok((!is_waiting).then_some(Ok(())))
    }
}
