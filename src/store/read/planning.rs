//! What one snapshot says of a read: which hot rows and which members have what is asked for. Passes over what it can
//! count, by many archives at a time, by archive and by member.

use uuid::Uuid;

use crate::database::{self, MemberExtent, Topic, Transaction};
use crate::event::{Event, Filter};
use crate::store::overlay::Overlays;
use crate::store::plan::{self, Extent, Seek, Segment};
use crate::store::read::{Query, is_range};
use crate::store::{Error, Store};

/// Archives that a read looks at first, and how many times as many if these are not enough.
const ARCHIVES_AT_ONCE: i64 = 64;
const ARCHIVES_MORE: i64 = 8;

/// What one snapshot says of a read.
pub(super) struct Plan {
    pub(super) topic: Topic,
    pub(super) segments: Vec<Segment>,
    pub(super) members: Vec<MemberExtent>,
    /// Hot rows of all segments up to `end`, in order.
    pub(super) hot: Vec<Event>,
    /// Behind the last position that is looked at.
    pub(super) end: i64,
    pub(super) overlays: Overlays,
    /// Events that match and are still to be passed over.
    pub(super) skip: i64,
}

impl Store {
    pub(super) async fn plan(
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
                .map(|archive| Extent::over((archive.first_position, archive.last_position), archive.matching))
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
        let needed = seek(snapshot, topic_id, query, (&segments, &extents), skip).await?;
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
            .map(|member| Extent::over((member.first_position, member.last_position), member.matching))
            .collect();
        let mut segments = plan::segments(&extents, start, end);
        let needed = seek(snapshot, topic_id, query, (&segments, &extents), skip).await?;
        segments.retain(|segment| segment.start >= needed.start && segment.end <= needed.end);
        Ok((segments, members, needed.skip))
    }

    pub(in crate::store) async fn members_of_stream(
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
}

/// Up to where sums of many archives lead; nowhere, if they are not of all archives.
async fn pass_over(
    snapshot: &mut Transaction,
    topic: &Topic,
    query: &Query,
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
        .map(|sum| Extent::over((sum.first_position, sum.last_position), sum.matching))
        .collect();
    let segments = plan::segments(&extents, start, end);
    seek(snapshot, topic.id, query, (&segments, &extents), skip).await
}

/// Where to begin and how far to go, with the hot rows counted.
async fn seek(
    snapshot: &mut Transaction,
    topic_id: i64,
    query: &Query,
    (segments, extents): (&[Segment], &[Extent]),
    skip: i64,
) -> Result<Seek, Error> {
    let hot = hot_counts(snapshot, topic_id, &query.filter, segments, skip).await?;
    Ok(plan::seek(segments, extents, hot.as_deref(), skip, query.limit))
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
