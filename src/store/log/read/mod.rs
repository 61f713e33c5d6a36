//! Reading part of a log, wherever its events are.
//!
//! One view gives the catalog and the hot rows. Members are fetched after it is closed, so that no connection waits for
//! S3. If an object was replaced meanwhile, its ETag differs, and the read begins anew. A read changes nothing.

pub mod find;
mod last;
pub mod memory;
mod plan;
mod planning;
pub mod replay;

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, OptionFuture, TryFutureExt};
use futures::stream::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::bucket::Member;
use crate::database::Transaction;
use crate::database::catalog::members::{self, MemberExtent};
use crate::database::log::rows::{self, LogRow};
use crate::event::{Event, Filter, Log, PositionRange};
use crate::store::archives::fetch::Interrupted;
use crate::store::log::read::memory::{Held, SMALL_BYTES};
use crate::store::log::read::plan::Segment;
use crate::store::{Error, Store};

use planning::Plan;

/// A query for the events that match a filter, from a position on, in the order of their positions.
#[derive(Debug, Clone)]
pub struct Query {
    pub filter: Filter,
    /// The lowest position that the answer may hold.
    pub from: i64,
    /// The number of matching events that are skipped first.
    pub skip: i64,
    pub limit: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Event>,
    /// The head of the log when the page was read; 0 for a log without events.
    pub head_position: i64,
    /// The log's edit counter when the page was read. A higher counter now means that events were edited since.
    pub edit_counter: i64,
    /// The page ended before its limit of events, so that more events may match.
    pub is_cut: bool,
}

/// The approximate bytes that a page may have in memory.
#[derive(Debug, Clone, Copy)]
pub enum PageSize {
    /// The page ends with the event that reaches this limit. A page that skips events is refused instead.
    Cut(i64),
    /// A page that has more bytes is refused: a caller who counts pages would miss the events that a shorter page
    /// leaves out.
    Whole(i64),
}

/// The kind of reader, which decides what a read waits for.
#[derive(Clone, Copy)]
pub enum Reader<'a> {
    /// A caller waits for memory if its page is large.
    Caller,
    /// A replay waits for nothing, since it has taken its memory.
    Replay,
    /// One of many readers waits for its turn.
    InTurn(&'a Turns),
}

/// The turns of many readers, of which a few read at once. A reader that waits for S3 holds no turn for rows, so hot
/// events do not wait behind archived ones.
pub struct Turns {
    rows: Semaphore,
    archives: Semaphore,
}

impl Turns {
    pub fn new(rows_max: usize, archives_max: usize) -> Turns {
        Turns { rows: Semaphore::new(rows_max), archives: Semaphore::new(archives_max) }
    }

    pub async fn for_rows(&self) -> SemaphorePermit<'_> {
        self.rows.acquire().await.expect("it is never closed")
    }

    async fn for_archives(&self) -> SemaphorePermit<'_> {
        self.archives.acquire().await.expect("it is never closed")
    }
}

impl Store {
    /// Reads a page. Behind the head, and in a log that does not exist, the page is empty.
    pub async fn read(&self, log: &Log, query: &Query) -> Result<Page, Error> {
        Ok(self.read_page(log, query, PageSize::Whole(i64::MAX)).await?.0)
    }

    /// Reads a page, and returns it with the memory that it takes. The caller keeps that [`Held`] for as long as the
    /// page, or the bytes made from it.
    pub async fn read_page(&self, log: &Log, query: &Query, size: PageSize) -> Result<(Page, Held), Error> {
        self.read_as(Reader::Caller, log, query, size).await
    }

    pub(in crate::store) async fn read_as(
        &self,
        reader: Reader<'_>,
        log: &Log,
        query: &Query,
        size: PageSize,
    ) -> Result<(Page, Held), Error> {
        let (from, skip, limit) = (query.from.max(1), query.skip.max(0), query.limit.max(0));
        let query = self.anchored(log, Query { filter: query.filter.clone(), from, skip, limit }).await?;
        let page_bytes_max = self.memory.page_bytes_max();
        let size = match size {
            PageSize::Cut(bytes_max) if query.skip == 0 => PageSize::Cut(bytes_max.min(page_bytes_max)),
            PageSize::Cut(_) => PageSize::Whole(page_bytes_max),
            PageSize::Whole(bytes_max) => PageSize::Whole(bytes_max.min(page_bytes_max)),
        };
        self.retry_while_stale(log, || self.try_read(reader, log, &query, size).boxed()).await
    }

    /// Reads a page in one view. A page that turns out to be large is planned anew once there is memory for it, so that
    /// no read holds a connection while it waits for memory.
    async fn try_read(
        &self,
        reader: Reader<'_>,
        log: &Log,
        query: &Query,
        size: PageSize,
    ) -> Result<(Page, Held), Interrupted> {
        let turns = if let Reader::InTurn(turns) = reader { Some(turns) } else { None };
        let mut held = if let Reader::Caller = reader { None } else { Some(Held::default()) };
        loop {
            let turn = OptionFuture::from(turns.map(Turns::for_rows)).await;
            let mut view = self.database.view().await?;
            let Some(log_row) = rows::find(&mut view, log).await? else {
                let nothing = Page { events: Vec::new(), head_position: 0, edit_counter: 0, is_cut: false };
                return Ok((nothing, Held::default()));
            };
            let (head_position, edit_counter) = (log_row.head_position, log_row.edit_counter);
            let hot_bytes_max = if held.is_some() { size.bytes_max() } else { size.bytes_max().min(SMALL_BYTES) };
            let plan = self.plan(&mut view, log_row, query, hot_bytes_max).await?;
            drop(view);
            drop(turn);
            let held = match held.take() {
                Some(held) => held,
                None => {
                    let page_bytes = size.bytes_of(&plan)?;
                    if page_bytes >= SMALL_BYTES {
                        held = Some(self.memory.take_for_page(page_bytes).await?);
                        continue;
                    }
                    Held::default()
                }
            };
            let needs_archives = turns.filter(|_| !plan.members.is_empty());
            let _turn = OptionFuture::from(needs_archives.map(Turns::for_archives)).await;
            let (events, is_cut) = self.execute(plan, query, size).await?;
            return Ok((Page { events, head_position, edit_counter, is_cut }, held));
        }
    }

    /// Rewrites a query that skips events so that the events can be skipped by counting. If the log has no gaps, a page
    /// of all events is a range of positions. Any other page that begins inside a member cannot be found by counting:
    /// its read begins at the start of the member instead, and also skips the events before the page's first position.
    async fn anchored(&self, log: &Log, query: Query) -> Result<Query, Error> {
        if query.skip == 0 || query.from == 1 && query.filter != Filter::All {
            return Ok(query);
        }
        let mut view = self.database.view().await?;
        let Some(log_row) = rows::find(&mut view, log).await? else {
            return Ok(Query { limit: 0, ..query });
        };
        if is_range(&log_row, &query.filter) {
            return Ok(Query { from: query.from.saturating_add(query.skip), skip: 0, ..query });
        }
        let anchor = self.anchor(&mut view, log_row.id, &query).await?;
        drop(view);
        if anchor == query.from {
            return Ok(query);
        }
        let limit = query.from - anchor;
        let before = Query { filter: query.filter.clone(), from: anchor, skip: 0, limit };
        let before = Box::pin(self.read(log, &before)).await?;
        let passed = before.events.iter().filter(|event| event.position < query.from).count() as i64;
        Ok(Query { from: anchor, skip: query.skip.saturating_add(passed), ..query })
    }

    /// Returns the highest position, up to the query's first one, that no member with possible matches reaches across.
    async fn anchor(&self, view: &mut Transaction, log_id: i64, query: &Query) -> Result<i64, Error> {
        let mut anchor = query.from;
        if let Filter::Stream(stream) = &query.filter {
            let mut members = self.members_of_stream(view, log_id, stream, PositionRange::ALL).await?;
            members.sort_by_key(|member| std::cmp::Reverse(member.last_position));
            for member in members.iter().filter(|member| member.first_position < query.from) {
                anchor = if member.last_position >= anchor { anchor.min(member.first_position) } else { anchor };
            }
            return Ok(anchor);
        }
        while let Some(lower) = members::lowest_across(view, log_id, anchor).await? {
            anchor = lower;
        }
        Ok(anchor)
    }

    /// Executes a plan: fetches members, a few ahead, and merges them with the hot rows until the page is full. True if
    /// the page was cut: it reached its limit of bytes, or the next events are in an archive that is unavailable now.
    async fn execute(&self, plan: Plan, query: &Query, size: PageSize) -> Result<(Vec<Event>, bool), Interrupted> {
        if query.limit <= 0 {
            return Ok((Vec::new(), false));
        }
        let members_ahead = plan.members_ahead();
        let Plan { log_row, segments, members, hot, mut end, overlays, mut skip, is_hot_cut, .. } = plan;
        let start = query.from;
        // Boxed: the compiler cannot tell that closures over borrowed members may move between threads.
        let mut fetches: Vec<BoxFuture<_>> = Vec::with_capacity(segments.len());
        for segment in &segments {
            fetches.push(self.fetch_segment(&log_row.log, segment, &members).boxed());
        }
        let mut fetched = futures::stream::iter(fetches).buffered(members_ahead);
        let mut hot = hot.into_iter().peekable();
        let (mut events, mut bytes, mut is_cut) = (Vec::new(), 0, is_hot_cut);
        'enough: while let Some(segment) = fetched.next().await {
            let (segment_end, members) = match segment {
                Ok(segment) => segment,
                Err(Interrupted::Failed(error)) if size.may_cut() && error.is_away() && !events.is_empty() => {
                    is_cut = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            let mut found: Vec<Event> = Vec::new();
            for (archive_id, member) in &members {
                let overlay = overlays.of(*archive_id);
                let wanted = member.events().filter(|event| (start..end).contains(&event.position()));
                found.extend(wanted.filter_map(|event| overlay.read(event, &query.filter)));
            }
            found.extend(std::iter::from_fn(|| hot.next_if(|event| event.position < segment_end)));
            found.sort_by_key(|event| event.position);
            let passed = skip.min(found.len() as i64);
            skip -= passed;
            for event in found.into_iter().skip(passed as usize) {
                bytes += event.weight() as i64;
                events.push(event);
                if events.len() as i64 >= query.limit {
                    is_cut = false;
                    break 'enough;
                }
                if bytes >= size.bytes_max() {
                    is_cut = true;
                    break 'enough;
                }
            }
        }
        if is_cut && !size.may_cut() {
            return Err(too_large(bytes, size.bytes_max()).into());
        }
        if let Some(last) = events.last().filter(|_| is_cut) {
            end = last.position + 1;
        }
        check_gapless(&log_row, query, end, &events)?;
        Ok((events, is_cut))
    }

    /// Fetches the members of a segment, and returns them with their archives and the end of the segment.
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
}

impl PageSize {
    fn bytes_max(self) -> i64 {
        let (PageSize::Cut(bytes_max) | PageSize::Whole(bytes_max)) = self;
        bytes_max
    }

    fn may_cut(self) -> bool {
        matches!(self, PageSize::Cut(_))
    }

    /// Returns the approximate bytes that a page will have, or an error if they are too many.
    fn bytes_of(self, plan: &Plan) -> Result<i64, Error> {
        match self {
            PageSize::Cut(bytes_max) => Ok(plan.page_bytes().min(bytes_max)),
            // An event has more bytes around it in an archive than in a page, so the plan's number is too high.
            PageSize::Whole(bytes_max) if plan.page_bytes() > bytes_max.saturating_add(bytes_max / 4) => {
                Err(too_large(plan.page_bytes(), bytes_max))
            }
            PageSize::Whole(_) => Ok(plan.page_bytes()),
        }
    }
}

fn too_large(bytes: i64, bytes_max: i64) -> Error {
    Error::TooLarge { bytes, bytes_max }
}

/// Returns whether the matching events have positions without gaps.
fn is_range(log_row: &LogRow, filter: &Filter) -> bool {
    *filter == Filter::All && log_row.deleted_count == 0
}

/// Checks that a read of all events misses no position. A missing one is an event that was lost, and an error is better
/// than a short answer.
fn check_gapless(log_row: &LogRow, query: &Query, end: i64, events: &[Event]) -> Result<(), Error> {
    if !is_range(log_row, &query.filter) {
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
        log_row.log
    )))
}
