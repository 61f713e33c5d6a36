//! Planning a read from one view: which hot rows and which members hold the events of a query. Events that are counted
//! are skipped without reading them, by many archives at a time, by archive and by member.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::database::Transaction;
use crate::database::catalog::archives;
use crate::database::catalog::members::{self, MemberExtent};
use crate::database::ledger::edits;
use crate::database::log::events;
use crate::database::log::rows::LogRow;
use crate::database::lookups::sums;
use crate::event::{Event, Filter, PositionRange};
use crate::store::archives::overlay::Overlays;
use crate::store::log::read::plan::{self, Reach, Seek, Segment};
use crate::store::log::read::{Query, is_range};
use crate::store::{Error, Store};

/// The most archives that a read looks at first. If these are too few, it looks at [`ARCHIVES_FACTOR`] times as many.
const ARCHIVES_FIRST: i64 = 64;
const ARCHIVES_FACTOR: i64 = 8;
/// The most members and bytes that are fetched ahead for one read.
const MEMBERS_AHEAD: usize = 8;
const AHEAD_BYTES: i64 = 8 * 1024 * 1024;

/// The rows and members that answer a read, as one view knew them.
pub struct Plan {
    pub log_row: LogRow,
    pub segments: Vec<Segment>,
    /// The members of all segments.
    pub members: Vec<MemberExtent>,
    /// The matching hot rows of all segments up to `end`, in order.
    pub hot: Vec<Event>,
    /// The first position that is read.
    start: i64,
    /// The position behind the last one that is read.
    pub end: i64,
    pub overlays: Overlays,
    /// The number of matching events that are still to be skipped.
    pub skip: i64,
    /// The hot rows ended at the limit of bytes, so that more may match.
    pub is_hot_cut: bool,
    /// The bytes of the payloads of all matching hot rows, with those behind the limit of bytes.
    hot_bytes: i64,
}

impl Plan {
    /// Returns the approximate bytes of the page: its hot rows, and its share of the members.
    pub fn page_bytes(&self) -> i64 {
        let shares = self.members.iter().map(|member| {
            let wanted = member.positions().within(PositionRange::new(self.start, self.end)).len();
            let share = wanted as f64 / member.positions().len() as f64;
            let share = member.matching as f64 / member.count as f64 * share;
            (member.json_bytes as f64 * share) as i64
        });
        self.hot_bytes + shares.sum::<i64>()
    }

    /// Returns how many segments are fetched ahead: fewer if members are large.
    pub fn members_ahead(&self) -> usize {
        let largest = self.members.iter().map(|member| member.json_bytes).max().unwrap_or_default();
        usize::try_from(AHEAD_BYTES / largest.max(1)).unwrap_or(usize::MAX).clamp(1, MEMBERS_AHEAD)
    }
}

impl Store {
    pub(in crate::store) async fn plan(
        &self,
        view: &mut Transaction,
        log_row: LogRow,
        query: &Query,
        hot_bytes_max: i64,
    ) -> Result<Plan, Error> {
        let Query { filter, from, skip, limit } = query;
        let end = match is_range(&log_row, filter) {
            true => from.saturating_add(*limit).min(log_row.head_position + 1),
            false => log_row.head_position + 1,
        };
        let (mut segments, members, skip) = if *from > log_row.archived_to {
            (plan::segments(&[], *from, end), Vec::new(), *skip)
        } else {
            self.plan_archived(view, &log_row, query, end).await?
        };
        let (start, end) =
            (segments.first().map_or(end, |first| first.start), segments.last().map_or(end, |last| last.end));
        // Postgres itself can skip hot rows that come before every member.
        let hot_skip = if segments.first().is_some_and(|first| first.extents.is_empty()) { skip } else { 0 };
        let skip = skip - hot_skip;
        let hot_limit = limit.saturating_add(skip);
        let (range, counts) = (PositionRange::new(start, end), (hot_skip, hot_limit));
        let hot = events::range(view, log_row.id, filter, range, counts, hot_bytes_max).await?;
        let found_bytes: i64 = hot.iter().map(|event| event.payload.byte_len() as i64).sum();
        let is_hot_cut = found_bytes >= hot_bytes_max;
        let (hot_bytes, end) = match hot.last() {
            // The rows behind the limit of bytes are not known, so the plan ends there.
            Some(last) if is_hot_cut => {
                let all = events::range_bytes(view, log_row.id, filter, range, counts).await?;
                (all, last.position + 1)
            }
            _ => (found_bytes, end),
        };
        segments.retain(|segment| segment.start < end);
        let (segments, members) = match members.is_empty() {
            true => (segments, members),
            false => narrow_by_hot(view, log_row.id, (segments, members), &hot, hot_limit).await?,
        };
        let (start, end) =
            (segments.first().map_or(end, |first| first.start), end.min(segments.last().map_or(end, |last| last.end)));
        let edits = match members.is_empty() {
            true => Vec::new(),
            false => edits::pending(view, log_row.id, PositionRange::new(start, end)).await?,
        };
        let overlays = Overlays::new(edits);
        Ok(Plan { log_row, segments, members, hot, start, end, overlays, skip, is_hot_cut, hot_bytes })
    }

    /// Plans the archived part of a read: skips events by many archives at a time, looks at as many archives as the
    /// page takes, and then at the members of those archives.
    async fn plan_archived(
        &self,
        view: &mut Transaction,
        log_row: &LogRow,
        query: &Query,
        end: i64,
    ) -> Result<(Vec<Segment>, Vec<MemberExtent>, i64), Error> {
        let log_id = log_row.id;
        let Query { filter, from, skip, limit } = query;
        let everything = Seek { start: *from, end, skip: *skip };
        let types = match filter {
            Filter::All => None,
            Filter::Types(types) => Some(types.as_slice()),
            Filter::Stream(stream) => {
                let members = self.members_of_stream(view, log_id, stream, everything.range()).await?;
                return self.cut(view, log_id, query, members, everything).await;
            }
        };
        let Seek { start, end, skip } = match *skip {
            0 => everything,
            _ => pass_over(view, log_row, query, types, everything).await?,
        };
        let mut archives_max = ARCHIVES_FIRST;
        let (archives, extents, segments) = loop {
            let archives = archives::extents(view, log_id, types, PositionRange::new(start, end), archives_max).await?;
            let extents: Vec<Reach> =
                archives.iter().map(|archive| Reach::over(archive.positions(), archive.matching)).collect();
            let mut segments = plan::segments(&extents, start, end);
            let Some(last) = archives.last().filter(|_| archives.len() as i64 >= archives_max) else {
                break (archives, extents, segments);
            };
            // Archives that begin behind the last one of this look are not known.
            segments.retain(|segment| segment.end <= last.first_position + 1);
            if plan::archived(&segments, &extents) >= skip.saturating_add(*limit) {
                break (archives, extents, segments);
            }
            archives_max *= ARCHIVES_FACTOR;
        };
        let needed = seek(view, log_id, query, (&segments, &extents), skip).await?;
        let ids: Vec<Uuid> = archives
            .iter()
            .filter(|archive| archive.positions().overlaps(needed.range()))
            .map(|archive| archive.id)
            .collect();
        let members = members::extents(view, log_id, &ids, types, needed.range()).await?;
        self.cut(view, log_id, query, members, needed).await
    }

    /// Returns the segments that a query needs of a range, with their members and the number of events to skip.
    async fn cut(
        &self,
        view: &mut Transaction,
        log_id: i64,
        query: &Query,
        members: Vec<MemberExtent>,
        Seek { start, end, skip }: Seek,
    ) -> Result<(Vec<Segment>, Vec<MemberExtent>, i64), Error> {
        let extents: Vec<Reach> =
            members.iter().map(|member| Reach::over(member.positions(), member.matching)).collect();
        let mut segments = plan::segments(&extents, start, end);
        let needed = seek(view, log_id, query, (&segments, &extents), skip).await?;
        segments.retain(|segment| segment.start >= needed.start && segment.end <= needed.end);
        Ok((segments, members, needed.skip))
    }
}

/// Skips events by the sums of many archives at a time. Skips nothing if the sums do not cover all archives.
async fn pass_over(
    view: &mut Transaction,
    log_row: &LogRow,
    query: &Query,
    types: Option<&[String]>,
    everything: Seek,
) -> Result<Seek, Error> {
    let sums = sums::all(view, log_row.id, types).await?;
    if sums.iter().map(|sum| sum.count).sum::<i64>() != log_row.archived_count {
        return Ok(everything);
    }
    let Seek { start, end, skip } = everything;
    let extents: Vec<Reach> = sums
        .into_iter()
        .filter(|sum| sum.matching > 0 && sum.positions().overlaps(everything.range()))
        .map(|sum| Reach::over(sum.positions(), sum.matching))
        .collect();
    let segments = plan::segments(&extents, start, end);
    seek(view, log_row.id, query, (&segments, &extents), skip).await
}

/// Returns the positions that a query needs, with the hot rows counted.
async fn seek(
    view: &mut Transaction,
    log_id: i64,
    query: &Query,
    (segments, extents): (&[Segment], &[Reach]),
    skip: i64,
) -> Result<Seek, Error> {
    let hot = hot_counts(view, log_id, &query.filter, segments, skip).await?;
    Ok(plan::seek(segments, extents, hot.as_deref(), skip, query.limit))
}

/// Counts the hot rows that match in each segment; `None` if no events are to be skipped.
async fn hot_counts(
    view: &mut Transaction,
    log_id: i64,
    filter: &Filter,
    segments: &[Segment],
    skip: i64,
) -> Result<Option<Vec<i64>>, Error> {
    if skip == 0 || segments.is_empty() {
        return Ok(None);
    }
    let mut boundaries: Vec<i64> = segments.iter().map(|segment| segment.start).collect();
    boundaries.extend(segments.last().map(|last| last.end));
    Ok(Some(events::count_between(view, log_id, filter, &boundaries).await?))
}

/// Narrows segments to those that are needed once the hot rows are known, with their members. Archives reach over hot
/// rows if old and young events came in any order, or if events were restored.
async fn narrow_by_hot(
    view: &mut Transaction,
    log_id: i64,
    (mut segments, members): (Vec<Segment>, Vec<MemberExtent>),
    hot: &[Event],
    wanted: i64,
) -> Result<(Vec<Segment>, Vec<MemberExtent>), Error> {
    let (start, end) = (segments.first().map_or(0, |first| first.start), segments.last().map_or(0, |last| last.end));
    let needed: BTreeSet<usize> = segments.iter().flat_map(|segment| segment.extents.iter().copied()).collect();
    let range = PositionRange::new(start, end);
    let ranges: Vec<PositionRange> = needed.iter().map(|index| members[*index].positions().within(range)).collect();
    let is_mixed = |range: &PositionRange| hot.iter().any(|event| range.contains(event.position));
    let archived_from = match ranges.iter().any(is_mixed) {
        true => events::first_not_hot(view, log_id, &ranges).await?,
        false => ranges.iter().map(|range| range.start).collect(),
    };
    let mut found: Vec<(Reach, MemberExtent)> = needed
        .into_iter()
        .zip(archived_from)
        .filter_map(|(index, archived_from)| {
            let member = &members[index];
            let extent = Reach::over(member.positions(), member.matching);
            Some((extent.within(range, archived_from)?, member.clone()))
        })
        .collect();
    found.sort_by_key(|(extent, _)| extent.first_position);
    let (extents, mut members): (Vec<Reach>, Vec<MemberExtent>) = found.into_iter().unzip();
    segments = plan::segments(&extents, start, end);
    let hot: Vec<i64> = hot.iter().map(|event| event.position).collect();
    plan::keep_until_certain(&mut segments, &extents, &hot, wanted);
    members.truncate(segments.iter().map(|segment| segment.extents.len()).sum());
    Ok((segments, members))
}
