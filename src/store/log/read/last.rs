use futures::FutureExt;
use uuid::Uuid;

use crate::database::catalog::archives;
use crate::database::catalog::members::{self, MemberExtent};
use crate::database::ledger::edits;
use crate::database::log::{events, rows};
use crate::event::{Event, Filter, Log, PositionRange};
use crate::store::archives::fetch::Interrupted;
use crate::store::archives::overlay::Overlays;
use crate::store::{Error, Store};

impl Store {
    /// Returns the newest event of any of these types, or the newest event of the log if no types are given.
    pub async fn last_event(&self, log: &Log, types: &[String]) -> Result<Option<Event>, Error> {
        self.retry_while_stale(log, || self.try_last_event(log, types).boxed()).await
    }

    async fn try_last_event(&self, log: &Log, types: &[String]) -> Result<Option<Event>, Interrupted> {
        let filter = Filter::types(types.to_vec());
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else {
            return Ok(None);
        };
        let hot = events::last(&mut view, log_row.id, &filter).await?;
        let after = hot.as_ref().map_or(0, |event| event.position);
        if log_row.archived_count == 0 || after == log_row.head_position {
            return Ok(hot);
        }
        let wanted = (!types.is_empty()).then_some(types);
        let from = archives::last_from(&mut view, log_row.id, wanted).await?;
        let range = PositionRange::closed(from.unwrap_or_default().max(after + 1), log_row.head_position);
        let archives = archives::extents(&mut view, log_row.id, wanted, range, i64::MAX).await?;
        let ids: Vec<Uuid> = archives.iter().map(|archive| archive.id).collect();
        let mut members = members::extents(&mut view, log_row.id, &ids, wanted, range).await?;
        let edits = edits::pending(&mut view, log_row.id, range).await?;
        drop(view);
        members.sort_by_key(|member| std::cmp::Reverse(member.last_position));
        self.last_of(log, members, &filter, &Overlays::new(edits), hot).await
    }

    /// Returns the newest event among `hot` and the members that matches. The members come in descending order of their
    /// last positions, so the search ends at the first one that ends before the best event found.
    async fn last_of(
        &self,
        log: &Log,
        members: Vec<MemberExtent>,
        filter: &Filter,
        overlays: &Overlays,
        hot: Option<Event>,
    ) -> Result<Option<Event>, Interrupted> {
        let mut best = hot;
        for extent in members {
            if best.as_ref().is_some_and(|best| best.position > extent.last_position) {
                break;
            }
            let member = self.fetch(log, &extent).await?;
            let overlay = overlays.of(extent.archive_id);
            let last = member.events().rev().find_map(|event| overlay.read(event, filter));
            best = best.into_iter().chain(last).max_by_key(|event| event.position);
        }
        Ok(best)
    }
}
