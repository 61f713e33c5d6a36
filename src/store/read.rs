//! Reading part of a log, wherever its events are.
//!
//! One repeatable-read snapshot gives the catalog and the hot rows; members are fetched after it is closed, so that no
//! connection waits for S3. An object that was replaced meanwhile is noticed by its ETag, and the read begins anew.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use futures::stream::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::bucket::{self, Member, MemberAddress};
use crate::database::{self, MemberExtent, Sum, Topic, Transaction};
use crate::event::{Event, Filter, Log};
use crate::store::overlay::Overlays;
use crate::store::plan::{self, Extent, Seek, Segment};
use crate::store::{ATTEMPTS, Error, Store};

/// Archives that a read looks at first, and how many times as many if these are not enough.
const ARCHIVES_AT_ONCE: i64 = 64;
const ARCHIVES_MORE: i64 = 8;
/// Members that are fetched ahead for one read.
const MEMBERS_AHEAD: usize = 4;

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

/// What one snapshot says of a read.
struct Plan {
    topic: Topic,
    segments: Vec<Segment>,
    members: Vec<MemberExtent>,
    /// Hot rows of all segments up to `end`, in order.
    hot: Vec<Event>,
    /// Behind the last position that is looked at.
    end: i64,
    overlays: Overlays,
    /// Events that match and are still to be passed over.
    skip: i64,
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
                        return Err(error.into());
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

    async fn plan(
        &self,
        snapshot: &mut Transaction,
        topic: Topic,
        query: &Query,
        bytes_max: i64,
    ) -> Result<Plan, Error> {
        let Query { filter, from, skip, limit } = query;
        let end = match is_range(&topic, filter) {
            true => from.saturating_add(*limit).min(topic.head_position + 1),
            false => topic.head_position + 1,
        };
        let (mut segments, members, skip) = if *from > topic.archived_to {
            (plan::segments(&[], *from, end), Vec::new(), *skip)
        } else {
            self.plan_archived(snapshot, &topic, query, end).await?
        };
        let (start, end) =
            (segments.first().map_or(end, |first| first.start), segments.last().map_or(end, |last| last.end));
        // Hot rows that come first can be passed over by Postgres.
        let hot_skip = if segments.first().is_some_and(|first| first.extents.is_empty()) { skip } else { 0 };
        let skip = skip - hot_skip;
        let hot_limit = limit.saturating_add(skip);
        let hot =
            database::hot_range(snapshot, topic.id, filter, (start, end), (hot_skip, hot_limit), bytes_max).await?;
        // Where hot rows were cut, nothing behind them is known.
        let end = match hot.last() {
            Some(last) if weight(&hot) >= bytes_max => last.position + 1,
            _ => end,
        };
        segments.retain(|segment| segment.start < end);
        let edits = match members.is_empty() {
            true => Vec::new(),
            false => database::pending_edits(snapshot, topic.id, (start, end)).await?,
        };
        Ok(Plan { topic, segments, members, hot, end, overlays: Overlays::new(edits), skip })
    }

    /// Looks at whole archives first, at as many as it takes, then at the members of those that are needed. What is to be
    /// passed over goes by many archives at a time before that.
    async fn plan_archived(
        &self,
        snapshot: &mut Transaction,
        topic: &Topic,
        query: &Query,
        end: i64,
    ) -> Result<(Vec<Segment>, Vec<MemberExtent>, i64), Error> {
        let topic_id = topic.id;
        let Query { filter, from, skip, limit } = query;
        let everything = Seek { start: *from, end, skip: *skip };
        let types = match filter {
            Filter::All => None,
            Filter::Types(types) => Some(types.as_slice()),
            Filter::Stream(stream) => {
                let members = self.members_of_stream(snapshot, topic_id, stream, (*from, end)).await?;
                return self.cut(snapshot, topic_id, query, members, everything).await;
            }
        };
        let Seek { start, end, skip } = match *skip {
            0 => everything,
            _ => pass_over(snapshot, topic, query, types, everything).await?,
        };
        let mut archives_max = ARCHIVES_AT_ONCE;
        let (archives, extents, segments) = loop {
            let archives = database::archive_extents(snapshot, topic_id, types, (start, end), archives_max).await?;
            let extents: Vec<Extent> = archives
                .iter()
                .map(|archive| Extent {
                    first_position: archive.first_position,
                    last_position: archive.last_position,
                    matching: archive.matching,
                })
                .collect();
            let mut segments = plan::segments(&extents, start, end);
            let Some(last) = archives.last().filter(|_| archives.len() as i64 >= archives_max) else {
                break (archives, extents, segments);
            };
            // What begins behind the last one that was asked for is not known.
            segments.retain(|segment| segment.end <= last.first_position + 1);
            if plan::archived(&segments, &extents) >= skip.saturating_add(*limit) {
                break (archives, extents, segments);
            }
            archives_max *= ARCHIVES_MORE;
        };
        let hot = hot_counts(snapshot, topic_id, filter, &segments, skip).await?;
        let needed = plan::seek(&segments, &extents, hot.as_deref(), skip, *limit);
        let ids: Vec<Uuid> = archives
            .iter()
            .filter(|archive| archive.first_position < needed.end && archive.last_position >= needed.start)
            .map(|archive| archive.id)
            .collect();
        let members = database::member_extents(snapshot, topic_id, &ids, types, (needed.start, needed.end)).await?;
        self.cut(snapshot, topic_id, query, members, needed).await
    }

    /// The segments that are needed of a range, with their members.
    async fn cut(
        &self,
        snapshot: &mut Transaction,
        topic_id: i64,
        query: &Query,
        members: Vec<MemberExtent>,
        Seek { start, end, skip }: Seek,
    ) -> Result<(Vec<Segment>, Vec<MemberExtent>, i64), Error> {
        let extents: Vec<Extent> = members
            .iter()
            .map(|member| Extent {
                first_position: member.first_position,
                last_position: member.last_position,
                matching: member.matching,
            })
            .collect();
        let mut segments = plan::segments(&extents, start, end);
        let hot = hot_counts(snapshot, topic_id, &query.filter, &segments, skip).await?;
        let needed = plan::seek(&segments, &extents, hot.as_deref(), skip, query.limit);
        segments.retain(|segment| segment.start >= needed.start && segment.end <= needed.end);
        Ok((segments, members, needed.skip))
    }

    pub(super) async fn members_of_stream(
        &self,
        snapshot: &mut Transaction,
        topic_id: i64,
        stream: &str,
        (start, end): (i64, i64),
    ) -> Result<Vec<MemberExtent>, Error> {
        let key = self.hash_key(snapshot).await?;
        let counts = database::members_with_stream(snapshot, topic_id, key, stream).await?;
        let keys: Vec<(Uuid, i32)> = counts.keys().copied().collect();
        let mut members = database::members_by_key(snapshot, topic_id, &keys).await?;
        members.retain(|member| member.last_position >= start && member.first_position < end);
        for member in &mut members {
            member.matching = counts.get(&(member.archive_id, member.member)).copied().unwrap_or_default();
        }
        Ok(members)
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
        self.bucket()?.member(log, &address).await.map_err(|error| match error {
            bucket::Error::Changed { .. } | bucket::Error::NotFound { .. } => Interrupted::Stale(archive_id, error),
            error => Interrupted::Failed(error.into()),
        })
    }
}

/// Up to where sums of many archives lead; nowhere, if they are not of all archives.
async fn pass_over(
    snapshot: &mut Transaction,
    topic: &Topic,
    Query { filter, limit, .. }: &Query,
    types: Option<&[String]>,
    everything: Seek,
) -> Result<Seek, Error> {
    let sums = database::sums(snapshot, topic.id, types).await?;
    if sums.iter().map(|sum| sum.count).sum::<i64>() != topic.archived_count {
        return Ok(everything);
    }
    let Seek { start, end, skip } = everything;
    let extents: Vec<Extent> = sums
        .into_iter()
        .filter(|sum| sum.matching > 0 && sum.last_position >= start && sum.first_position < end)
        .map(|Sum { first_position, last_position, matching, .. }| Extent { first_position, last_position, matching })
        .collect();
    let segments = plan::segments(&extents, start, end);
    let hot = hot_counts(snapshot, topic.id, filter, &segments, skip).await?;
    Ok(plan::seek(&segments, &extents, hot.as_deref(), skip, *limit))
}

/// How many hot rows match in each segment; not asked where nothing is to be passed over.
async fn hot_counts(
    snapshot: &mut Transaction,
    topic_id: i64,
    filter: &Filter,
    segments: &[Segment],
    skip: i64,
) -> Result<Option<Vec<i64>>, Error> {
    if skip == 0 || segments.is_empty() {
        return Ok(None);
    }
    let mut boundaries: Vec<i64> = segments.iter().map(|segment| segment.start).collect();
    boundaries.extend(segments.last().map(|last| last.end));
    Ok(Some(database::count_between(snapshot, topic_id, filter, &boundaries).await?))
}

/// Bytes in memory, about.
fn weight(events: &[Event]) -> i64 {
    events.iter().map(|event| event.weight() as i64).sum()
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
