//! The computation of a plan, which decides which hot rows and which members answer a read. It does no IO.
//!
//! The positions of a log are cut into segments, so that every member lies whole in one segment. Mostly a segment is
//! one member, or the hot rows between two members; members whose ranges overlap share a segment. The catalog counts
//! the matching events of each member, so whole segments are skipped without reading them: a deep page costs no more
//! than the first one.

use crate::event::PositionRange;

/// The range of positions of an archive, a member or a merge, and the number of its events that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub first_position: i64,
    pub last_position: i64,
    pub matching: i64,
}

impl Reach {
    pub fn over(positions: PositionRange, matching: i64) -> Reach {
        Reach { first_position: positions.start, last_position: positions.last(), matching }
    }

    /// Returns the part of the reach at `start..end` that can be archived. `archived_from` is its first position there
    /// that is not hot. The part has the count of the whole, or 0, which promises nothing, if the whole begins before
    /// `start`.
    pub fn within(self, PositionRange { start, end }: PositionRange, archived_from: i64) -> Option<Reach> {
        let matching = if self.first_position < start { 0 } else { self.matching };
        let is_any = archived_from <= self.last_position && archived_from < end;
        is_any.then_some(Reach { first_position: archived_from, matching, ..self })
    }
}

/// The positions `start..end`, and the extents that lie in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub start: i64,
    pub end: i64,
    /// Indexes into the extents.
    pub extents: Vec<usize>,
}

/// The positions that a read needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seek {
    pub start: i64,
    pub end: i64,
    /// The number of matching events to skip from `start` on.
    pub skip: i64,
}

impl Seek {
    pub fn range(&self) -> PositionRange {
        PositionRange::new(self.start, self.end)
    }
}

/// Cuts the positions `start..end` into segments. The extents come in the order of their first positions. The segment
/// of an extent that begins before `start` begins at `start`.
pub fn segments(extents: &[Reach], start: i64, end: i64) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut reached = start;
    for (index, extent) in extents.iter().enumerate() {
        match segments.last_mut() {
            Some(last) if !last.extents.is_empty() && extent.first_position < last.end => {
                last.extents.push(index);
                last.end = last.end.max(extent.last_position + 1);
            }
            _ => {
                let first = extent.first_position.max(start);
                if reached < first {
                    segments.push(Segment { start: reached, end: first, extents: Vec::new() });
                }
                segments.push(Segment { start: first, end: extent.last_position + 1, extents: vec![index] });
            }
        }
        reached = segments.last().map_or(reached, |last| last.end);
    }
    if reached < end {
        segments.push(Segment { start: reached, end, extents: Vec::new() });
    }
    segments
}

/// Returns how many matching archived events are certain to be in these segments.
pub fn archived(segments: &[Segment], extents: &[Reach]) -> i64 {
    let begins_at = segments.first().map_or(0, |first| first.start);
    let is_whole = |segment: &&Segment| is_whole(segment, extents, begins_at);
    segments.iter().filter(is_whole).map(|segment| matching(segment, extents)).sum()
}

fn matching(segment: &Segment, extents: &[Reach]) -> i64 {
    segment.extents.iter().map(|extent| extents[*extent].matching).sum()
}

/// Returns whether the counts of a segment are exact. An extent that begins before the first segment does is counted
/// with events that are not wanted.
fn is_whole(segment: &Segment, extents: &[Reach], begins_at: i64) -> bool {
    segment.extents.iter().all(|extent| extents[*extent].first_position >= begins_at)
}

/// Skips whole segments while `skip` allows, and takes the segments behind them until `limit` matching events are
/// certain. `hot` has the number of matching hot rows in each segment. If it is `None`, no segment can be skipped, and
/// no hot row counts.
pub fn seek(segments: &[Segment], extents: &[Reach], hot: Option<&[i64]>, skip: i64, limit: i64) -> Seek {
    let matching = |index: usize| matching(&segments[index], extents) + hot.map_or(0, |hot| hot[index]);
    let begins_at = segments.first().map_or(0, |first| first.start);
    let is_whole = |index: usize| is_whole(&segments[index], extents, begins_at);
    let end_of_all = segments.last().map_or(0, |last| last.end);
    let (mut index, mut left) = (0, skip);
    while hot.is_some() && index < segments.len() && is_whole(index) && matching(index) <= left {
        left -= matching(index);
        index += 1;
    }
    let start = segments.get(index).map_or(end_of_all, |segment| segment.start);
    let (mut end, mut certain) = (start, 0);
    while index < segments.len() && certain < left.saturating_add(limit) {
        certain += if is_whole(index) { matching(index) } else { 0 };
        end = segments[index].end;
        index += 1;
    }
    Seek { start, end, skip: left }
}

/// Keeps the first segments, up to the one with which `wanted` matching events are certain. `hot` has the positions of
/// matching hot rows, in ascending order. So a page that rows alone can fill needs no archive.
pub fn keep_until_certain(segments: &mut Vec<Segment>, extents: &[Reach], hot: &[i64], wanted: i64) {
    let begins_at = segments.first().map_or(0, |first| first.start);
    let (mut certain, before) = (0, |end: i64| hot.partition_point(|position| *position < end) as i64);
    let needed = segments.iter().position(|segment| {
        certain += before(segment.end) - before(segment.start);
        certain += if is_whole(segment, extents, begins_at) { matching(segment, extents) } else { 0 };
        certain >= wanted
    });
    segments.truncate(needed.map_or(segments.len(), |last| last + 1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_and_gaps_alternate() {
        let extent = |first_position, last_position| Reach { first_position, last_position, matching: 1 };
        let found = segments(&[extent(3, 5), extent(5, 9), extent(10, 12), extent(20, 25)], 4, 31);
        let shape: Vec<_> = found.iter().map(|segment| (segment.start, segment.end, segment.extents.clone())).collect();
        assert_eq!(
            shape,
            [(4, 10, vec![0, 1]), (10, 13, vec![2]), (13, 20, vec![]), (20, 26, vec![3]), (26, 31, vec![])]
        );
        assert_eq!(segments(&[], 1, 1), []);
    }

    /// Generates events at positions from 1 on, each of which is hot or in one of four archives, and matches or not.
    fn log() -> impl Strategy<Value = Vec<(Option<usize>, bool)>> {
        prop::collection::vec((prop::option::of(0usize..4), any::<bool>()), 1..60)
    }

    proptest! {
        #[test]
        fn what_is_skipped_by_counting_is_what_would_have_been_skipped_by_reading(
            log in log(), skip in 0i64..40, limit in 1i64..20,
        ) {
            let matching = |position: &i64| log[*position as usize - 1].1;
            let positions: Vec<i64> = (1..=log.len() as i64).collect();
            let mut extents = Vec::new();
            for archive in 0..4 {
                let held: Vec<i64> =
                    positions.iter().copied().filter(|at| log[*at as usize - 1].0 == Some(archive)).collect();
                for member in held.chunks(3) {
                    extents.push(Reach {
                        first_position: member[0],
                        last_position: member[member.len() - 1],
                        matching: member.iter().filter(|at| matching(at)).count() as i64,
                    });
                }
            }
            extents.sort_by_key(|extent| extent.first_position);
            let end = log.len() as i64 + 1;
            let segments = segments(&extents, 1, end);
            prop_assert_eq!(segments.first().map(|first| first.start), Some(1));
            prop_assert_eq!(segments.last().map(|last| last.end), Some(end));
            prop_assert!(segments.windows(2).all(|pair| pair[0].end == pair[1].start));
            let hot: Vec<i64> = segments.iter().map(|segment| {
                let within = positions.iter().filter(|at| (segment.start..segment.end).contains(at));
                within.filter(|at| log[**at as usize - 1].0.is_none() && matching(at)).count() as i64
            }).collect();

            let expected: Vec<i64> =
                positions.iter().copied().filter(matching).skip(skip as usize).take(limit as usize).collect();
            let found = seek(&segments, &extents, Some(&hot), skip, limit);
            let read: Vec<i64> = (found.start..found.end)
                .filter(matching).skip(found.skip as usize).take(limit as usize).collect();
            prop_assert_eq!(&read, &expected);

            let from = 1 + skip.min(log.len() as i64 - 1);
            let later: Vec<Reach> = extents.iter().copied().filter(|extent| extent.last_position >= from).collect();
            let unskipped = seek(&super::segments(&later, from, end), &later, None, 0, limit);
            let read: Vec<i64> =
                (unskipped.start..unskipped.end).filter(matching).take(limit as usize).collect();
            let first: Vec<i64> = (from..end).filter(matching).take(limit as usize).collect();
            prop_assert_eq!(&read, &first);

            let is_hot = |at: &i64| log[*at as usize - 1].0.is_none();
            let mut archived: Vec<Reach> = later.iter().filter_map(|extent| {
                let begins = extent.first_position.max(from);
                extent.within(PositionRange::new(from, end), (begins..=extent.last_position).find(|at| !is_hot(at)).unwrap_or(end))
            }).collect();
            archived.sort_by_key(|extent| extent.first_position);
            let hot: Vec<i64> = (from..end).filter(|at| is_hot(at) && matching(at)).take(limit as usize).collect();
            let mut needed = super::segments(&archived, from, end);
            keep_until_certain(&mut needed, &archived, &hot, limit);
            let reached = needed.last().map_or(from, |last| last.end);
            let read: Vec<i64> = (from..reached).filter(matching).take(limit as usize).collect();
            prop_assert_eq!(&read, &first);
            let is_hot_alone = first.len() as i64 == limit && first.last().is_some_and(|last| (from..=*last).all(|at| is_hot(&at)));
            prop_assert!(!is_hot_alone || needed.iter().all(|segment| segment.extents.is_empty()), "{:?}", needed);
        }
    }
}
