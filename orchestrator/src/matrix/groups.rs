//! Clusters that are alike, so that a matrix of thousands folds to one that fits a screen.
//!
//! Two clusters are alike where as many cells of theirs fail in the same way, towards and from clusters that are alike themselves
//! (colour refinement, after B. Weisfeiler and A. Leman, 1968). The whole of a fleet that is healthy is one group; a cluster that nobody
//! reaches is another.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

use rayon::prelude::*;

use super::{GROUPS, NO_CELL, Pyramid, glyph_of, verdict_of};
use crate::report::{Cells, Mark, Plane, Report};

/// So often the groups are told apart by the groups of their counterparts. More rounds tell apart what nobody would.
const ROUNDS: usize = 2;

/// Clusters that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Their positions, sorted.
    pub members: Vec<u32>,
    /// The worst [`Mark::badness`] of their cells.
    pub worst: u8,
    /// How many cells of each of them do not pass, as a source or as a destination.
    pub troubles: usize,
}

/// So many members of a group are named.
const MEMBERS: usize = 4;

impl Group {
    fn named(&self, report: &Report) -> String {
        let name = |&member: &u32| {
            let cluster = report.clusters.get(member as usize);
            cluster.map_or("?", |cluster| cluster.name.as_str())
        };
        let names: Vec<&str> = self.members.iter().take(MEMBERS).map(name).collect();
        let more = match self.members.len().saturating_sub(MEMBERS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        names.join(", ") + &more
    }

    fn troubles_in_words(&self) -> String {
        match (self.troubles, self.members.len()) {
            (0, _) => String::new(),
            (1, 1) => "1 cell does not pass".to_owned(),
            (1, _) => "1 cell of each does not pass".to_owned(),
            (count, 1) => format!("{count} cells do not pass"),
            (count, _) => format!("up to {count} cells of each do not pass"),
        }
    }
}

/// The cells of one group towards another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Block {
    /// By [`Mark::badness`]: how many.
    pub counts: [usize; 5],
}

impl Block {
    /// How many cells there are.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.counts[1..].iter().sum()
    }

    /// The worst of them; 0 without a cell.
    #[must_use]
    pub fn worst(&self) -> u8 {
        (1..5_u8)
            .rev()
            .find(|&badness| self.counts[usize::from(badness)] > 0)
            .unwrap_or(0)
    }

    /// The sign of the worst, and where not all cells have it how many do.
    #[must_use]
    pub fn word(&self) -> String {
        let Some(worst) = verdict_of(self.worst()) else {
            return NO_CELL.to_string();
        };
        let same = self.counts[usize::from(self.worst())];
        if same < self.cells() {
            format!("{} {same} of {}", glyph_of(worst), self.cells())
        } else {
            glyph_of(worst).to_string()
        }
    }

    /// How many are not as they should be.
    #[must_use]
    pub fn troubles(&self) -> usize {
        self.counts[2..].iter().sum()
    }
}

/// The clusters of a report as groups, the worst first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// The worst first; the larger of equals first.
    pub groups: Vec<Group>,
    /// By cluster: its group.
    of: Vec<u32>,
}

/// The name of a group: `A`, `B`, ...; what is folded into one is `rest`.
#[must_use]
pub fn group_name(group: usize) -> String {
    match u8::try_from(group) {
        Ok(at) if group < GROUPS => char::from(b'A' + at).to_string(),
        _ => "rest".to_owned(),
    }
}

/// What is counted of one cluster.
#[derive(Debug, Clone, Default)]
struct Tally {
    hash: u64,
    worst: u8,
    troubles: usize,
}

impl Groups {
    /// Looks at every cell that does not pass a few times.
    #[must_use]
    pub(super) fn of(cells: &Cells, pyramids: &[Pyramid]) -> Self {
        let clusters = cells.side();
        let mut colors = vec![0_u64; clusters];
        let mut tallies = Vec::new();
        for _ in 0..=ROUNDS {
            tallies = tally(cells, pyramids, &colors);
            let next: Vec<u64> = tallies.iter().map(|tally| tally.hash).collect();
            // A round only ever splits groups.
            if kinds(&next) == kinds(&colors) {
                break;
            }
            colors = next;
        }
        let mut by_color: BTreeMap<u64, Group> = BTreeMap::new();
        for (at, (tally, color)) in (0_u32..).zip(tallies.iter().zip(&colors)) {
            let group = by_color.entry(*color).or_insert_with(|| Group {
                members: Vec::new(),
                worst: 0,
                troubles: 0,
            });
            group.members.push(at);
            group.worst = group.worst.max(tally.worst);
            group.troubles = group.troubles.max(tally.troubles);
        }
        let mut groups: Vec<Group> = by_color.into_values().collect();
        groups.sort_by(|a, b| {
            (b.worst, b.troubles, b.members.len())
                .cmp(&(a.worst, a.troubles, a.members.len()))
                .then(a.members.cmp(&b.members))
        });
        let mut of = vec![0; clusters];
        for (at, group) in (0_u32..).zip(&groups) {
            for &member in &group.members {
                of[member as usize] = at;
            }
        }
        Self { groups, of }
    }

    /// A line for each group: its name, the number of its clusters, some of them by name, and what is wrong with them. Groups
    /// beyond [`GROUPS`] share one.
    #[must_use]
    pub fn lines(&self, report: &Report) -> Vec<[String; 4]> {
        let mut lines: Vec<[String; 4]> = self
            .groups
            .iter()
            .take(GROUPS)
            .enumerate()
            .map(|(at, group)| {
                [
                    group_name(at),
                    group.members.len().to_string(),
                    group.named(report),
                    group.troubles_in_words(),
                ]
            })
            .collect();
        let rest = self.groups.get(GROUPS..).unwrap_or_default();
        if !rest.is_empty() {
            let clusters: usize = rest.iter().map(|group| group.members.len()).sum();
            lines.push([
                group_name(GROUPS),
                clusters.to_string(),
                format!("of {} more groups", rest.len()),
                String::new(),
            ]);
        }
        lines
    }

    /// By source and destination group: what their cells are. Groups from `shown` on are one, the last.
    #[must_use]
    pub(super) fn blocks(&self, plane: &Plane, shown: usize) -> Vec<Vec<Block>> {
        let side = self.groups.len().min(shown.saturating_add(1));
        let place = |cluster: usize| (self.of[cluster] as usize).min(side.saturating_sub(1));
        let columns: Vec<usize> = (0..plane.side()).map(place).collect();
        let empty = || vec![vec![Block::default(); side]; side];
        (0..plane.side())
            .into_par_iter()
            .fold(empty, |mut blocks, src| {
                let into = &mut blocks[place(src)];
                for (mark, &column) in plane.row(src).iter().zip(&columns) {
                    into[column].counts[usize::from(mark.badness())] += 1;
                }
                blocks
            })
            .reduce(empty, |mut left, right| {
                for (into, from) in left.iter_mut().flatten().zip(right.iter().flatten()) {
                    for (into, from) in into.counts.iter_mut().zip(from.counts) {
                        *into += from;
                    }
                }
                left
            })
    }
}

/// How many different colours.
fn kinds(colors: &[u64]) -> usize {
    let mut all = colors.to_vec();
    all.sort_unstable();
    all.dedup();
    all.len()
}

fn hash(value: impl std::hash::Hash) -> u64 {
    // Only equality of hashes counts, never their order or value.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a cluster's cells add up to, given the groups of their other ends.
fn tally(cells: &Cells, pyramids: &[Pyramid], colors: &[u64]) -> Vec<Tally> {
    let clusters = cells.side();
    let mut all: Vec<Tally> = colors
        .iter()
        .map(|&color| Tally {
            hash: color,
            ..Tally::default()
        })
        .collect();
    for (number, (plane, pyramid)) in cells.planes().iter().zip(pyramids).enumerate() {
        for src in 0..clusters {
            let row = plane.row(src);
            // What it takes part in, and its own inside, tell clusters apart; so does what does not pass.
            let has_cells = row.iter().any(|mark| mark.is_cell());
            let own = row[src].badness();
            let mut add = |at: usize, what: u64, mark: Mark| {
                // A sum, so that the order of the cells does not matter.
                all[at].hash = all[at].hash.wrapping_add(what);
                all[at].worst = all[at].worst.max(mark.badness());
                all[at].troubles += usize::from(mark.is_trouble());
            };
            add(src, hash((number, "has", has_cells, own)), row[src]);
            for (dst, mark) in pyramid.troubles(plane, src).filter(|&(dst, _)| dst != src) {
                let badness = mark.badness();
                add(src, hash((number, "to", badness, colors[dst])), mark);
                add(dst, hash((number, "from", badness, colors[src])), mark);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CellState, CellVerdict};
    use datapath::state::Family;
    use floater::wire::Layer;

    fn fleet(clusters: usize, bad: &[(usize, usize)]) -> Cells {
        let mut cells = Cells::new(clusters);
        let plane = cells.plane_mut(Layer::Pod, Family::Ipv4);
        for src in 0..clusters {
            for dst in 0..clusters {
                plane.set(src, dst, Mark::new(CellState::Probed, CellVerdict::Pass));
            }
        }
        for &(src, dst) in bad {
            plane.set(src, dst, Mark::new(CellState::Probed, CellVerdict::Fail));
        }
        cells
    }

    fn grouped(cells: &Cells) -> Groups {
        let pyramids: Vec<Pyramid> = cells.planes().iter().map(Pyramid::of).collect();
        Groups::of(cells, &pyramids)
    }

    fn members(groups: &Groups) -> Vec<Vec<u32>> {
        groups
            .groups
            .iter()
            .map(|group| group.members.clone())
            .collect()
    }

    #[test]
    fn a_healthy_fleet_is_one_group() {
        let groups = grouped(&fleet(50, &[]));
        assert_eq!(groups.groups.len(), 1);
        assert_eq!(groups.groups[0].members.len(), 50);
        assert_eq!((groups.groups[0].worst, groups.groups[0].troubles), (1, 0));
    }

    #[test]
    fn clusters_that_fail_alike_are_one_group_and_the_worst_comes_first() {
        // Nobody reaches 3 and 7; 5 does not reach 1.
        let mut bad: Vec<(usize, usize)> = vec![(5, 1)];
        for other in (0..20).filter(|other| ![3, 7].contains(other)) {
            bad.extend([(other, 3), (3, other), (other, 7), (7, other)]);
        }
        bad.extend([(3, 7), (7, 3)]);
        let cells = fleet(20, &bad);
        let groups = grouped(&cells);
        let members = members(&groups);
        assert_eq!(members[0], [3, 7], "{members:?}");
        assert_eq!(members.len(), 4, "{members:?}");
        assert!(members[1..3].contains(&vec![1]) && members[1..3].contains(&vec![5]));
        let blocks = groups.blocks(&cells.planes()[0], 10);
        let other = groups.of[0] as usize;
        assert_eq!(blocks[0][other].counts, [0, 0, 0, 0, 32]);
        assert_eq!(
            (blocks[other][other].worst(), blocks[other][other].cells()),
            (1, 256)
        );
        let folded = groups.blocks(&cells.planes()[0], 1);
        assert_eq!(folded.len(), 2);
        assert_eq!(folded[1][1].troubles(), 1, "5 to 1");
    }

    #[test]
    fn nobody_is_no_group() {
        assert_eq!(grouped(&Cells::new(0)).groups, []);
    }
}
