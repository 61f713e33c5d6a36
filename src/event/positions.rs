//! Ranges of positions, and sets of them.

use std::fmt;

use range_set_blaze::RangeSetBlaze;

/// The positions from `start` up to, but not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PositionRange {
    pub start: i64,
    pub end: i64,
}

impl PositionRange {
    pub const ALL: PositionRange = PositionRange { start: 1, end: i64::MAX };

    pub fn new(start: i64, end: i64) -> PositionRange {
        PositionRange { start, end }
    }

    /// The range that has these as its first and its last position.
    pub fn closed(first: i64, last: i64) -> PositionRange {
        PositionRange { start: first, end: last.saturating_add(1) }
    }

    pub fn one(position: i64) -> PositionRange {
        PositionRange::closed(position, position)
    }

    pub fn last(self) -> i64 {
        self.end - 1
    }

    /// The number of positions.
    pub fn len(self) -> i64 {
        (self.end - self.start).max(0)
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn contains(self, position: i64) -> bool {
        (self.start..self.end).contains(&position)
    }

    /// The positions that are in both ranges, which may be none.
    pub fn within(self, other: PositionRange) -> PositionRange {
        PositionRange { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    pub fn overlaps(self, other: PositionRange) -> bool {
        !self.within(other).is_empty()
    }
}

impl fmt::Display for PositionRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} to {}", self.start, self.last())
    }
}

/// A set of positions, kept as ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PositionSet(RangeSetBlaze<i64>);

impl PositionSet {
    pub fn insert(&mut self, position: i64) {
        self.0.insert(position);
    }

    /// The ranges in rising order.
    pub fn ranges(&self) -> impl Iterator<Item = PositionRange> {
        self.0.ranges().map(|range| PositionRange::closed(*range.start(), *range.end()))
    }

    /// The range from the first position to the last one.
    pub fn span(&self) -> Option<PositionRange> {
        self.0.first().zip(self.0.last()).map(|(first, last)| PositionRange::closed(first, last))
    }

    /// The first position of a range that is in the set.
    pub fn first_in(&self, range: PositionRange) -> Option<i64> {
        if range.is_empty() {
            return None;
        }
        let wanted = RangeSetBlaze::from_iter([range.start..=range.last()]);
        (&self.0 & &wanted).first()
    }

    pub fn overlaps(&self, range: PositionRange) -> bool {
        self.first_in(range).is_some()
    }

    pub fn contains(&self, position: i64) -> bool {
        self.0.contains(position)
    }

    /// The positions of a range that are not in the set.
    pub fn missing_in(&self, range: PositionRange) -> PositionSet {
        PositionSet(RangeSetBlaze::from_iter([range.start..=range.last()]) - &self.0)
    }

    /// The set cut into sets of at most so many positions, in rising order.
    pub fn pieces(&self, positions_max: i64) -> Vec<PositionSet> {
        let (mut pieces, mut piece, mut room) = (Vec::new(), Vec::new(), positions_max);
        for PositionRange { mut start, end } in self.ranges() {
            while start < end {
                let taken = PositionRange::new(start, end.min(start + room));
                piece.push(taken);
                room -= taken.len();
                start = taken.end;
                if room == 0 {
                    pieces.push(std::mem::take(&mut piece).into_iter().collect());
                    room = positions_max;
                }
            }
        }
        if !piece.is_empty() {
            pieces.push(piece.into_iter().collect());
        }
        pieces
    }
}

impl FromIterator<PositionRange> for PositionSet {
    fn from_iter<I: IntoIterator<Item = PositionRange>>(ranges: I) -> PositionSet {
        let ranges = ranges.into_iter().filter(|range| !range.is_empty());
        PositionSet(ranges.map(|range| range.start..=range.last()).collect())
    }
}

impl Extend<PositionRange> for PositionSet {
    fn extend<I: IntoIterator<Item = PositionRange>>(&mut self, ranges: I) {
        self.0 |= ranges.into_iter().collect::<PositionSet>().0;
    }
}

/// The span of some events of a log, and their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub positions: PositionRange,
    pub count: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(i64, i64)]) -> PositionSet {
        ranges.iter().map(|(first, last)| PositionRange::closed(*first, *last)).collect()
    }

    fn closed(ranges: impl IntoIterator<Item = PositionRange>) -> Vec<(i64, i64)> {
        ranges.into_iter().map(|range| (range.start, range.last())).collect()
    }

    #[test]
    fn a_set_is_cut_into_pieces() {
        let positions = set(&[(1, 5), (7, 7), (9, 12)]);
        let pieces = |positions_max| -> Vec<_> {
            positions.pieces(positions_max).iter().map(|piece| closed(piece.ranges())).collect()
        };
        assert_eq!(pieces(10), [[(1, 5), (7, 7), (9, 12)]]);
        assert_eq!(pieces(3), [vec![(1, 3)], vec![(4, 5), (7, 7)], vec![(9, 11)], vec![(12, 12)]]);
        assert!(PositionSet::default().pieces(3).is_empty());
    }

    #[test]
    fn a_set_knows_what_it_holds_of_a_range() {
        let positions = set(&[(1, 5), (7, 7), (9, 12)]);
        assert_eq!(positions.first_in(PositionRange::closed(6, 8)), Some(7));
        assert_eq!(positions.first_in(PositionRange::one(8)), None);
        assert!(!positions.overlaps(PositionRange::new(6, 6)));
        assert_eq!(closed(positions.missing_in(PositionRange::closed(4, 14)).ranges()), [(6, 6), (8, 8), (13, 14)]);
        assert_eq!(positions.span(), Some(PositionRange::closed(1, 12)));
    }
}
