//! The verdicts of all cells: a byte each, in one dense plane per layer and family.
//!
//! ```text
//!   plane (pod, ipv4)          dst 0 1 2 …          counts, sorted by (src, dst), of cells that packets were sent for
//!                      src 0 │     p v F            (0, 2): 3 of 6 answered, p50 210 µs …
//!                          1 │     v p v            (1, 1): …
//! ```
//! Clusters are named by their position in [`Report::clusters`](super::Report::clusters). 5000 clusters are 25 MB a plane, whatever is
//! known of them; everything else about a cell is kept only where there is something to say.

use datapath::state::Family;
use floater::wire::Layer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{CellState, CellVerdict};

/// A cell: a source and a destination cluster by their positions, on a layer, in a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId {
    /// The source cluster.
    pub src: u32,
    /// The destination cluster.
    pub dst: u32,
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
}

/// How a cell was judged and to what, in one byte; [`Mark::NONE`] where there is no such cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Mark(u8);

const STATES: [CellState; 5] = [
    CellState::Inferred,
    CellState::Probed,
    CellState::Proved,
    CellState::Stale,
    CellState::Unobserved,
];
const VERDICTS: [CellVerdict; 4] = [
    CellVerdict::Degraded,
    CellVerdict::Fail,
    CellVerdict::Pass,
    CellVerdict::Unknown,
];

impl Mark {
    /// The pair is no part of the run, or has no such layer or family.
    pub const NONE: Self = Self(0);

    /// The mark of a cell.
    #[must_use]
    pub const fn new(state: CellState, verdict: CellVerdict) -> Self {
        Self(1 + state as u8 * 4 + verdict as u8)
    }

    /// Every mark that a cell can have.
    pub fn all() -> impl Iterator<Item = Self> {
        STATES
            .into_iter()
            .flat_map(|state| VERDICTS.map(|verdict| Self::new(state, verdict)))
    }

    /// Whether there is a cell.
    #[must_use]
    pub const fn is_cell(self) -> bool {
        self.0 != 0
    }

    /// How the cell was judged; none where there is none.
    #[must_use]
    pub fn state(self) -> Option<CellState> {
        STATES.get(usize::from(self.0.checked_sub(1)? / 4)).copied()
    }

    /// The judgement; none where there is no cell.
    #[must_use]
    pub fn verdict(self) -> Option<CellVerdict> {
        VERDICTS
            .get(usize::from(self.0.checked_sub(1)? % 4))
            .copied()
    }

    /// How bad the verdict is: 0 no cell, 1 passes, 2 not known, 3 partly fails, 4 fails.
    #[must_use]
    pub const fn badness(self) -> u8 {
        // By the order of the verdicts: degraded, fail, pass, unknown.
        const OF: [u8; 4] = [3, 4, 1, 2];
        match self.0 {
            0 => 0,
            byte => OF[((byte - 1) % 4) as usize],
        }
    }

    /// Whether there is a cell that does not pass.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        // The third verdict of four is a pass.
        self.0 > 0 && (self.0 - 1) % 4 != CellVerdict::Pass as u8
    }
}

/// Round-trip times, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The median.
    pub p50: u32,
    /// The 99th percentile.
    pub p99: u32,
    /// The greatest.
    pub max: u32,
}

/// The packets of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The source cluster.
    pub src: u32,
    /// The destination cluster.
    pub dst: u32,
    /// Packets and connections tried.
    pub sent: u32,
    /// Those that were answered by the right one.
    pub received: u32,
    /// Round-trip times; none without an answer.
    pub rtt_us: Option<RttSummary>,
}

/// The cells of one layer and family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
    side: usize,
    /// By source, then destination.
    marks: Vec<Mark>,
    /// Sorted by (src, dst).
    counts: Vec<Counted>,
}

impl Plane {
    /// A plane without a cell for so many clusters.
    #[must_use]
    pub fn new(layer: Layer, family: Family, clusters: usize) -> Self {
        Self {
            layer,
            family,
            side: clusters,
            marks: vec![Mark::NONE; clusters * clusters],
            counts: Vec::new(),
        }
    }

    /// `pod ipv4`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", super::layer_word(self.layer), self.family)
    }

    /// The number of clusters.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// The marks from one source, by destination.
    #[must_use]
    pub fn row(&self, src: usize) -> &[Mark] {
        let from = src.saturating_mul(self.side);
        self.marks
            .get(from..from.saturating_add(self.side))
            .unwrap_or_default()
    }

    /// The rows by source, to be filled by any number of threads.
    pub fn rows_mut(&mut self) -> impl IndexedParallelIterator<Item = &mut [Mark]> {
        self.marks.par_chunks_mut(self.side.max(1))
    }

    /// The mark of a pair; [`Mark::NONE`] also for clusters that do not exist.
    #[must_use]
    pub fn at(&self, src: usize, dst: usize) -> Mark {
        self.row(src).get(dst).copied().unwrap_or_default()
    }

    /// Sets the mark of a pair; clusters that do not exist have none.
    pub fn set(&mut self, src: usize, dst: usize, mark: Mark) {
        if src < self.side && dst < self.side {
            self.marks[src * self.side + dst] = mark;
        }
    }

    /// Every cell, by source and destination.
    pub fn cells(&self) -> impl Iterator<Item = (usize, usize, Mark)> + '_ {
        let side = self.side;
        self.marks
            .iter()
            .enumerate()
            .filter(|(_, mark)| mark.is_cell())
            .map(move |(at, &mark)| (at / side, at % side, mark))
    }

    /// The cells that do not pass, by source and destination: rows that wholly pass are skipped at the speed of memory.
    pub fn troubles(&self) -> impl Iterator<Item = (usize, usize, Mark)> + '_ {
        (0..self.side).flat_map(move |src| {
            self.row(src)
                .iter()
                .enumerate()
                .filter(|(_, mark)| mark.is_trouble())
                .map(move |(dst, &mark)| (src, dst, mark))
        })
    }

    /// Puts the packets in place of those that the plane had; where two are of one cell the first counts.
    pub fn count(&mut self, mut counts: Vec<Counted>) {
        counts.sort_by_key(|one| (one.src, one.dst));
        counts.dedup_by_key(|one| (one.src, one.dst));
        self.counts = counts;
    }

    /// The packets of all cells that packets were sent for, by source and destination.
    #[must_use]
    pub fn counts(&self) -> &[Counted] {
        &self.counts
    }

    /// The packets of one cell; none where none were sent.
    #[must_use]
    pub fn counted(&self, src: usize, dst: usize) -> Option<&Counted> {
        let key = (u32::try_from(src).ok()?, u32::try_from(dst).ok()?);
        let at = self
            .counts
            .binary_search_by_key(&key, |one| (one.src, one.dst))
            .ok()?;
        self.counts.get(at)
    }
}

/// The cells of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cells {
    side: usize,
    planes: Vec<Plane>,
}

impl Cells {
    /// No cell, for so many clusters.
    #[must_use]
    pub fn new(clusters: usize) -> Self {
        Self {
            side: clusters,
            planes: Vec::new(),
        }
    }

    /// The planes, by layer and family.
    #[must_use]
    pub fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// The planes, to be changed.
    pub fn planes_mut(&mut self) -> &mut [Plane] {
        &mut self.planes
    }

    /// The number of clusters.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// The plane of a layer and family, made where there is none.
    pub fn plane_mut(&mut self, layer: Layer, family: Family) -> &mut Plane {
        let at = match self
            .planes
            .binary_search_by_key(&(layer, family), |plane| (plane.layer, plane.family))
        {
            Ok(at) => at,
            Err(at) => {
                self.planes.insert(at, Plane::new(layer, family, self.side));
                at
            }
        };
        &mut self.planes[at]
    }

    /// The plane of a layer and family.
    #[must_use]
    pub fn plane(&self, layer: Layer, family: Family) -> Option<&Plane> {
        self.planes
            .iter()
            .find(|plane| (plane.layer, plane.family) == (layer, family))
    }

    /// Every cell, by source, destination, layer and family.
    pub fn ids(&self) -> impl Iterator<Item = (CellId, Mark)> + '_ {
        (0..self.side).flat_map(move |src| {
            (0..self.side).flat_map(move |dst| {
                self.planes.iter().filter_map(move |plane| {
                    let mark = plane.at(src, dst);
                    let id = CellId {
                        src: u32::try_from(src).ok()?,
                        dst: u32::try_from(dst).ok()?,
                        layer: plane.layer,
                        family: plane.family,
                    };
                    mark.is_cell().then_some((id, mark))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_what_it_was_made_of() {
        let mut seen = std::collections::HashSet::new();
        for state in STATES {
            for verdict in VERDICTS {
                let mark = Mark::new(state, verdict);
                assert_eq!((mark.state(), mark.verdict()), (Some(state), Some(verdict)));
                assert!(mark.is_cell() && seen.insert(mark.0));
                assert_eq!(
                    mark.is_trouble(),
                    verdict != CellVerdict::Pass,
                    "{verdict:?}"
                );
            }
        }
        assert_eq!(Mark::all().count(), 20);
        assert_eq!(Mark::NONE.state(), None);
        assert_eq!(Mark::NONE.verdict(), None);
        assert_eq!(Mark::NONE.badness(), 0);
    }

    #[test]
    fn cells_are_in_the_order_of_their_names() {
        let mut cells = Cells::new(3);
        let pass = Mark::new(CellState::Probed, CellVerdict::Pass);
        for layer in [Layer::Pod, Layer::Host] {
            let plane = cells.plane_mut(layer, Family::Ipv4);
            plane.set(2, 0, pass);
            plane.set(0, 2, pass);
            plane.set(9, 9, pass);
        }
        let ids: Vec<CellId> = cells.ids().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.is_sorted());
        assert_eq!(cells.planes()[0].cells().count(), 2);
        assert_eq!(cells.planes()[0].at(7, 0), Mark::NONE);
    }

    #[test]
    fn packets_are_found_by_their_cell() {
        let mut plane = Plane::new(Layer::Pod, Family::Ipv4, 4);
        let one = |src, dst, sent| Counted {
            src,
            dst,
            sent,
            received: 0,
            rtt_us: None,
        };
        plane.count(vec![one(3, 1, 5), one(0, 2, 7), one(3, 1, 6)]);
        assert_eq!(plane.counted(3, 1).map(|one| one.sent), Some(5));
        assert_eq!(plane.counted(0, 2).map(|one| one.sent), Some(7));
        assert_eq!(plane.counted(1, 1), None);
        assert_eq!(plane.counts().len(), 2);
    }
}
