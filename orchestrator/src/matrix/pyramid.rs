//! A plane at coarser and coarser distances, so that the worst of any rectangle is found without a look at its cells.

use std::ops::Range;

use rayon::prelude::*;

use crate::report::{CellState, CellVerdict, Mark, Plane};

/// One place of a level stands for so many by so many of the finer one.
const FACTOR: usize = 8;

/// The levels of a plane above its cells: each place is the worst [`badness`](crate::report::Mark::badness) of a block of eight by eight
/// places of the level below. All levels together are a sixtieth of the plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pyramid {
    /// The finest first; the last one has a single place, and a plane of no cluster has no level.
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Level {
    side: usize,
    places: Vec<u8>,
}

impl Pyramid {
    /// Looks at every cell of a plane once.
    #[must_use]
    pub fn of(plane: &Plane) -> Self {
        let mut levels = Vec::new();
        let mut side = plane.side();
        while side > 0 {
            let coarse = side.div_ceil(FACTOR);
            let mut places = vec![0; coarse * coarse];
            let finer: Option<&Level> = levels.last();
            places
                .par_chunks_mut(coarse)
                .enumerate()
                .for_each(|(row, into)| {
                    for src in row * FACTOR..((row + 1) * FACTOR).min(side) {
                        match finer {
                            None => gather(plane.row(src), |mark| mark.badness(), into),
                            Some(level) => gather(level.row(src), |&place| place, into),
                        }
                    }
                });
            levels.push(Level {
                side: coarse,
                places,
            });
            if coarse == 1 {
                break;
            }
            side = coarse;
        }
        Self { levels }
    }

    /// The worst of the whole plane; 0 without a cell.
    #[must_use]
    pub fn worst(&self) -> u8 {
        self.levels
            .last()
            .and_then(|level| level.places.first().copied())
            .unwrap_or(0)
    }

    /// The worst of a rectangle of cells: whole blocks by the coarsest levels that fit, the rest cell by cell.
    #[must_use]
    pub fn worst_of(&self, plane: &Plane, rows: Range<usize>, columns: Range<usize>) -> u8 {
        let side = plane.side();
        let rows = rows.start.min(side)..rows.end.min(side);
        let columns = columns.start.min(side)..columns.end.min(side);
        let Some(top) = self.levels.len().checked_sub(1) else {
            return 0;
        };
        self.worst_within(plane, top, (0, 0), &rows, &columns, 0)
    }

    /// The cells of a row that do not pass, by destination: blocks that wholly pass are skipped.
    pub fn troubles<'p>(
        &'p self,
        plane: &'p Plane,
        src: usize,
    ) -> impl Iterator<Item = (usize, Mark)> + 'p {
        let row = plane.row(src);
        let blocks = match self.levels.first() {
            Some(level) if src < plane.side() => level.row(src / FACTOR),
            _ => &[],
        };
        let passing = Mark::new(CellState::Probed, CellVerdict::Pass).badness();
        blocks
            .iter()
            .zip(row.chunks(FACTOR))
            .enumerate()
            .filter(move |(_, (worst, _))| **worst > passing)
            .flat_map(|(at, (_, marks))| {
                (at * FACTOR..)
                    .zip(marks.iter().copied())
                    .filter(|(_, mark)| mark.is_trouble())
            })
    }

    /// The first cell that does not pass from a place on, by source and destination, around to the place itself.
    #[must_use]
    pub fn next_trouble(&self, plane: &Plane, from: (usize, usize)) -> Option<(usize, usize)> {
        let side = plane.side();
        let of = |src: usize| self.troubles(plane, src).map(move |(dst, _)| (src, dst));
        (from.0..side)
            .flat_map(of)
            .find(|&place| place >= from)
            .or_else(|| (0..=from.0).flat_map(of).find(|&place| place < from))
    }

    /// The worst of what a place of a level shares with the rectangle, if that is worse than `known`.
    fn worst_within(
        &self,
        plane: &Plane,
        level: usize,
        place: (usize, usize),
        rows: &Range<usize>,
        columns: &Range<usize>,
        known: u8,
    ) -> u8 {
        let here = self.levels[level].places[place.0 * self.levels[level].side + place.1];
        if here <= known {
            return known;
        }
        let exponent = u32::try_from(level + 1).unwrap_or(u32::MAX);
        let size = FACTOR.saturating_pow(exponent);
        let side = plane.side();
        let covers = |start: usize, range: &Range<usize>| {
            range.start <= start && (start.saturating_add(size)).min(side) <= range.end
        };
        let (top, left) = (place.0 * size, place.1 * size);
        if covers(top, rows) && covers(left, columns) {
            return here;
        }
        let part = size / FACTOR;
        let mut worst = known;
        for row in parts(top, part, rows, side) {
            for column in parts(left, part, columns, side) {
                worst = match level.checked_sub(1) {
                    None => worst.max(plane.at(row, column).badness()),
                    Some(finer) => self.worst_within(
                        plane,
                        finer,
                        (row / part, column / part),
                        rows,
                        columns,
                        worst,
                    ),
                };
            }
        }
        worst
    }
}

impl Level {
    fn row(&self, at: usize) -> &[u8] {
        &self.places[at * self.side..(at + 1) * self.side]
    }
}

/// Raises each coarse place to the worst of its [`FACTOR`] fine ones.
fn gather<T>(fine: &[T], badness: impl Fn(&T) -> u8, into: &mut [u8]) {
    for (block, place) in fine.chunks(FACTOR).zip(into) {
        let worst = block.iter().map(&badness).max().unwrap_or(0);
        *place = (*place).max(worst);
    }
}

/// The starts of the parts of a block that share something with a range.
fn parts(
    start: usize,
    part: usize,
    range: &Range<usize>,
    side: usize,
) -> impl Iterator<Item = usize> + use<> {
    let (low, high) = (range.start, range.end.min(side));
    (0..FACTOR)
        .map(move |at| start + at * part)
        .filter(move |&from| from < high && from + part > low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::state::Family;
    use floater::wire::Layer;
    use proptest::prelude::*;

    fn plane(side: usize, bad: &[(usize, usize, usize)]) -> Plane {
        let mut plane = Plane::new(Layer::Pod, Family::Ipv4, side);
        for (row, column, kind) in bad {
            let verdict = [
                CellVerdict::Pass,
                CellVerdict::Unknown,
                CellVerdict::Degraded,
                CellVerdict::Fail,
            ];
            plane.set(
                row % side,
                column % side,
                Mark::new(CellState::Probed, verdict[kind % 4]),
            );
        }
        plane
    }

    proptest! {
        #[test]
        fn the_worst_of_a_rectangle_is_that_of_its_cells(
            side in 1_usize..200,
            bad in proptest::collection::vec((0_usize..200, 0_usize..200, 0_usize..4), 0..40),
            (top, height, left, width) in (0_usize..220, 0_usize..220, 0_usize..220, 0_usize..220),
        ) {
            let plane = plane(side, &bad);
            let pyramid = Pyramid::of(&plane);
            let mut expected = 0;
            for row in top..(top + height).min(side) {
                for column in left..(left + width).min(side) {
                    expected = expected.max(plane.at(row, column).badness());
                }
            }
            prop_assert_eq!(
                pyramid.worst_of(&plane, top..top + height, left..left + width),
                expected
            );
            let all = plane.cells().map(|(_, _, mark)| mark.badness()).max().unwrap_or(0);
            prop_assert_eq!(pyramid.worst(), all);
            let troubles: Vec<(usize, usize)> =
                plane.troubles().map(|(src, dst, _)| (src, dst)).collect();
            let from = (top.min(side - 1), left.min(side - 1));
            let next = troubles.iter().find(|&&place| place >= from).or(troubles.first());
            prop_assert_eq!(pyramid.next_trouble(&plane, from), next.copied());
        }
    }

    #[test]
    fn no_cluster_is_no_level() {
        let plane = Plane::new(Layer::Pod, Family::Ipv4, 0);
        let pyramid = Pyramid::of(&plane);
        assert_eq!(pyramid.worst(), 0);
        assert_eq!(pyramid.worst_of(&plane, 0..9, 0..9), 0);
    }
}
