//! Reading part of a log, wherever its events are.
//!
//! One repeatable-read snapshot gives the catalog and the hot rows; members are fetched after it is closed, so that no
//! connection waits for S3. An object that was replaced meanwhile is noticed by its ETag, and the read begins anew.

mod planning;

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use futures::stream::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::bucket::{self, Member, MemberAddress};
use crate::database::{self, MemberExtent, Topic};
use crate::event::{Event, Filter, Log};
use crate::store::plan::Segment;
use crate::store::{ATTEMPTS, Error, Store};

use planning::Plan;

/// Members that are fetched ahead for one read.
const MEMBERS_AHEAD: usize = 8;

/// Events that match, from a position on, in order of position.
#[derive(Debug, Clone)]
pub struct Query {
    pub filter: Filter,
    /// The first position that may be given.
    pub from: i64,
    /// How many are passed over first.
    pub skip: i64,
    pub limit: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Event>,
    /// Where the log ended when the page was read; 0 for a log without events.
    pub head_position: i64,
    /// Of the log when the page was read: what was edited since has a lower one than there is now.
    pub edit_counter: i64,
    /// There may be more that matches than the page had room for, in bytes.
    pub is_cut: bool,
}

/// Why a read has to begin anew.
pub(super) enum Interrupted {
    /// The object is not the one that the snapshot knew.
    Stale(Uuid, bucket::Error),
    Failed(Error),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Interrupted {
        Interrupted::Failed(error)
    }
}

impl Store {
    /// Past the end, and in a log that nobody published to, there is an empty page.
    pub async fn read(&self, log: &Log, query: &Query) -> Result<Page, Error> {
        self.read_within(log, query, i64::MAX).await
    }

    /// Ends the page with the event that reaches `bytes_max` bytes, about, in memory. A page that passes over events
    /// is not cut.
    pub async fn read_within(&self, log: &Log, query: &Query, bytes_max: i64) -> Result<Page, Error> {
        let (from, skip, limit) = (query.from.max(1), query.skip.max(0), query.limit.max(0));
        let query = self.anchored(log, Query { filter: query.filter.clone(), from, skip, limit }).await?;
        let bytes_max = if query.skip > 0 { i64::MAX } else { bytes_max };
        self.while_stale(log, || self.try_read(log, &query, bytes_max, false).boxed()).await
    }

    /// As couriers read, who are many: a few at once, those that need archives apart from those that do not. Nothing is
    /// passed over.
    pub(super) async fn read_in_turn(&self, log: &Log, query: &Query, bytes_max: i64) -> Result<Page, Error> {
        self.while_stale(log, || self.try_read(log, query, bytes_max, true).boxed()).await
    }

    /// Begins a read anew while objects are not the ones that its snapshot knew: until the catalog and the object
    /// agree, or with the error that named the object.
    pub(super) async fn while_stale<'a, T>(
        &'a self,
        log: &'a Log,
        read: impl Fn() -> BoxFuture<'a, Result<T, Interrupted>> + Send,
    ) -> Result<T, Error> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            match read().await {
                Ok(answer) => return Ok(answer),
                Err(Interrupted::Failed(error)) => return Err(error),
                Err(Interrupted::Stale(archive_id, error)) => {
                    if attempts.next().is_none() || !self.settle_stale(log, archive_id).await? {
                        let error = error.into();
                        self.note_unreadable(log, archive_id, &error).await;
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn try_read(&self, log: &Log, query: &Query, bytes_max: i64, is_in_turn: bool) -> Result<Page, Interrupted> {
        let turn = if is_in_turn { Some(self.subscriptions.read_permit().await) } else { None };
        let mut snapshot = self.database.snapshot().await.map_err(Error::from)?;
        let Some(topic) = database::find_topic(&mut snapshot, log).await.map_err(Error::from)? else {
            return Ok(Page { events: Vec::new(), head_position: 0, edit_counter: 0, is_cut: false });
        };
        let (head_position, edit_counter) = (topic.head_position, topic.edit_counter);
        let plan = self.plan(&mut snapshot, topic, query, bytes_max).await?;
        drop(snapshot);
        drop(turn);
        let is_archived = !plan.members.is_empty();
        let _turn =
            if is_in_turn && is_archived { Some(self.subscriptions.archived_read_permit().await) } else { None };
        let (events, is_cut) = self.carry_out(plan, query, bytes_max).await?;
        Ok(Page { events, head_position, edit_counter, is_cut })
    }

    /// Positions without gaps make a page of everything a range of positions. Any other page that begins inside a member
    /// cannot be found by counting: such a read begins at the start of the member, and passes over what comes before.
    async fn anchored(&self, log: &Log, query: Query) -> Result<Query, Error> {
        if query.skip == 0 || query.from == 1 && query.filter != Filter::All {
            return Ok(query);
        }
        let mut snapshot = self.database.snapshot().await?;
        let Some(topic) = database::find_topic(&mut snapshot, log).await? else {
            return Ok(Query { limit: 0, ..query });
        };
        if is_range(&topic, &query.filter) {
            return Ok(Query { from: query.from.saturating_add(query.skip), skip: 0, ..query });
        }
        let mut anchor = query.from;
        while let Some(lower) = database::lowest_member_across(&mut snapshot, topic.id, anchor).await? {
            anchor = lower;
        }
        drop(snapshot);
        if anchor == query.from {
            return Ok(query);
        }
        let limit = query.from - anchor;
        let before = Query { filter: query.filter.clone(), from: anchor, skip: 0, limit };
        let before = Box::pin(self.read(log, &before)).await?;
        let passed = before.events.iter().filter(|event| event.position < query.from).count() as i64;
        Ok(Query { from: anchor, skip: query.skip.saturating_add(passed), ..query })
    }

    /// Fetches members, a few ahead, and merges them with the hot rows, until there is enough. True if bytes were what
    /// there was enough of.
    async fn carry_out(&self, plan: Plan, query: &Query, bytes_max: i64) -> Result<(Vec<Event>, bool), Interrupted> {
        if query.limit <= 0 {
            return Ok((Vec::new(), false));
        }
        let Plan { topic, segments, members, hot, mut end, overlays, mut skip } = plan;
        let start = query.from;
        // Boxed: the compiler cannot tell that closures over borrowed members may move between threads.
        let mut fetches: Vec<BoxFuture<_>> = Vec::with_capacity(segments.len());
        for segment in &segments {
            fetches.push(self.fetch_segment(&topic.log, segment, &members).boxed());
        }
        let mut fetched = futures::stream::iter(fetches).buffered(MEMBERS_AHEAD);
        let mut hot = hot.into_iter().peekable();
        let (mut events, mut bytes) = (Vec::new(), 0);
        'enough: while let Some((segment_end, members)) = fetched.try_next().await? {
            let mut found: Vec<Event> = Vec::new();
            for (archive_id, member) in &members {
                let overlay = overlays.of(*archive_id);
                let wanted = member.events.iter().filter(|event| (start..end).contains(&event.position));
                found.extend(wanted.filter_map(|event| overlay.read(event, &query.filter)));
            }
            found.extend(std::iter::from_fn(|| hot.next_if(|event| event.position < segment_end)));
            found.sort_by_key(|event| event.position);
            let passed = skip.min(found.len() as i64);
            skip -= passed;
            for event in found.into_iter().skip(passed as usize) {
                bytes += event.weight() as i64;
                events.push(event);
                if events.len() as i64 >= query.limit || bytes >= bytes_max {
                    break 'enough;
                }
            }
        }
        let is_cut = bytes >= bytes_max;
        if let Some(last) = events.last().filter(|_| is_cut) {
            end = last.position + 1;
        }
        check_gapless(&topic, query, end, &events)?;
        Ok((events, is_cut))
    }

    /// The members of a segment with their archives, and where it ends.
    async fn fetch_segment(
        &self,
        log: &Log,
        segment: &Segment,
        members: &[MemberExtent],
    ) -> Result<(i64, Vec<(Uuid, Arc<Member>)>), Interrupted> {
        let mut fetches: Vec<BoxFuture<_>> = Vec::with_capacity(segment.extents.len());
        for index in &segment.extents {
            let member = &members[*index];
            fetches.push(self.fetch(log, member).map_ok(|fetched| (member.archive_id, fetched)).boxed());
        }
        Ok((segment.end, futures::future::try_join_all(fetches).await?))
    }

    /// One member, as the snapshot knew it.
    pub(super) async fn fetch(&self, log: &Log, member: &MemberExtent) -> Result<Arc<Member>, Interrupted> {
        let MemberExtent {
            archive_id,
            etag,
            object_bytes,
            member,
            byte_start,
            byte_end,
            json_bytes,
            first_position,
            last_position,
            count,
            matching: _,
        } = member.clone();
        let address = MemberAddress {
            archive_id,
            etag,
            object_bytes,
            member,
            byte_start,
            byte_end,
            json_bytes,
            first_position,
            last_position,
            count,
        };
        match self.bucket()?.member(log, &address).await {
            Ok(member) => Ok(member),
            Err(error @ (bucket::Error::Changed { .. } | bucket::Error::NotFound { .. })) => {
                Err(Interrupted::Stale(archive_id, error))
            }
            Err(error) => {
                let error = error.into();
                self.note_unreadable(log, archive_id, &error).await;
                Err(Interrupted::Failed(error))
            }
        }
    }
}

/// Whether everything that matches is at positions without gaps.
fn is_range(topic: &Topic, filter: &Filter) -> bool {
    *filter == Filter::All && topic.deleted_count == 0
}

/// A read of everything that misses a position has lost an event: better no answer than a short one.
fn check_gapless(topic: &Topic, query: &Query, end: i64, events: &[Event]) -> Result<(), Error> {
    if !is_range(topic, &query.filter) {
        return Ok(());
    }
    let first = query.from;
    let last = end.min(first.saturating_add(query.limit.max(0)));
    let whole = events.iter().map(|event| event.position).eq(first..last.max(first));
    if whole {
        return Ok(());
    }
    let missing = (first..last).find(|position| !events.iter().any(|event| event.position == *position));
    Err(Error::Damaged(format!(
        "the event at position {} of {} is missing, or there twice",
        missing.unwrap_or(first),
        topic.log
    )))
}
