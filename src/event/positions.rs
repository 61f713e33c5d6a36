//! Sets of positions.

/// Positions in rising order, as ranges from the first to the last of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PositionRanges(Vec<(i64, i64)>);

impl PositionRanges {
    pub fn ranges(&self) -> &[(i64, i64)] {
        &self.0
    }

    /// In pieces of so many positions; the last one may have less.
    pub fn pieces(&self, positions: i64) -> Vec<Vec<(i64, i64)>> {
        let (mut pieces, mut piece, mut room) = (Vec::new(), Vec::new(), positions);
        for (mut first, last) in self.0.iter().copied() {
            while first <= last {
                let end = last.min(first + room - 1);
                piece.push((first, end));
                room -= end - first + 1;
                first = end + 1;
                if room == 0 {
                    pieces.push(std::mem::take(&mut piece));
                    room = positions;
                }
            }
        }
        pieces.extend(Some(piece).filter(|piece| !piece.is_empty()));
        pieces
    }

    /// From the first to the last.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.0.first().zip(self.0.last()).map(|((first, _), (_, last))| (*first, *last))
    }

    /// The first of the positions from `first` to `last` that is in it.
    pub fn first_of(&self, first: i64, last: i64) -> Option<i64> {
        let index = self.0.partition_point(|(_, end)| *end < first);
        self.0.get(index).map(|(start, _)| first.max(*start)).filter(|position| *position <= last)
    }

    /// Whether some of the positions from `first` to `last` are in it.
    pub fn reach_into(&self, first: i64, last: i64) -> bool {
        self.first_of(first, last).is_some()
    }

    pub fn contains(&self, position: i64) -> bool {
        self.reach_into(position, position)
    }

    pub fn push(&mut self, position: i64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => self.0.push((position, position)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_cut_into_pieces() {
        let positions = PositionRanges(vec![(1, 5), (7, 7), (9, 12)]);
        assert_eq!(positions.pieces(10), [positions.ranges()]);
        assert_eq!(positions.pieces(3), [vec![(1, 3)], vec![(4, 5), (7, 7)], vec![(9, 11)], vec![(12, 12)]]);
        assert!(PositionRanges::default().pieces(3).is_empty());
    }
}
