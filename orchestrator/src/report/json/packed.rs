//! Planes and sets of cells in few bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use datapath::state::Family;
use floater::wire::Layer;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use super::super::cells::{CellId, Counted, Mark, Plane, RttSummary};

/// The letters of the marks in the order of [`Mark::all`]: by state (inferred, probed, proved, stale, unobserved), then by verdict
/// (degraded, fail, pass, unknown).
pub(super) const LETTERS: &[u8; 20] = b"hIijdPpqeVvwfSstgUku";
/// The letter of a place without a cell.
pub(super) const NO_CELL: u8 = b'.';

fn letter(mark: Mark) -> char {
    let at = Mark::all().position(|known| known == mark);
    char::from(at.map_or(NO_CELL, |at| LETTERS[at]))
}

fn mark(letter: char) -> Option<Mark> {
    if letter == char::from(NO_CELL) {
        return Some(Mark::NONE);
    }
    let at = LETTERS
        .iter()
        .position(|&known| char::from(known) == letter)?;
    Mark::all().nth(at)
}

/// Equal marks in a row as one letter and their number, where that is more than one: `p3v4997`.
pub(super) fn run_lengths(marks: &[Mark]) -> String {
    let mut text = String::new();
    for run in marks.chunk_by(|left, right| left == right) {
        text.push(letter(run[0]));
        if run.len() > 1 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}", run.len());
        }
    }
    text
}

/// The marks of a row of so many clusters.
pub(super) fn marks(text: &str, clusters: usize) -> Result<Vec<Mark>, String> {
    let mut marks = Vec::with_capacity(clusters);
    let mut rest = text.chars().peekable();
    while let Some(sign) = rest.next() {
        let mark = mark(sign).ok_or_else(|| format!("no cell is written {sign:?}"))?;
        let mut count: Option<usize> = None;
        while let Some(digit) = rest.peek().and_then(|sign| sign.to_digit(10)) {
            rest.next();
            let longer = count.unwrap_or(0).saturating_mul(10);
            count = Some(longer.saturating_add(digit as usize));
        }
        let count = count.unwrap_or(1);
        if count > clusters - marks.len() {
            return Err("a row has more letters than there are clusters".to_owned());
        }
        marks.extend(std::iter::repeat_n(mark, count));
    }
    if marks.len() == clusters {
        Ok(marks)
    } else {
        Err("a row has fewer letters than there are clusters".to_owned())
    }
}

/// One layer and family.
#[derive(Serialize)]
pub(super) struct PackedPlane<'r> {
    layer: Layer,
    family: Family,
    rows: Rows<'r>,
}

impl<'r> PackedPlane<'r> {
    pub(super) fn new(plane: &'r Plane) -> Self {
        Self {
            layer: plane.layer,
            family: plane.family,
            rows: Rows(plane),
        }
    }
}

struct Rows<'r>(&'r Plane);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plane = self.0;
        let mut counts = plane.counts();
        let rows = (0..plane.side()).map(move |src| {
            let own = counts.partition_point(|one| one.src as usize <= src);
            let (here, rest) = counts.split_at(own);
            counts = rest;
            Row {
                marks: run_lengths(plane.row(src)),
                counts: here,
            }
        });
        serializer.collect_seq(rows)
    }
}

/// One source: its marks, and the packets of its probed cells as columns.
struct Row<'r> {
    marks: String,
    counts: &'r [Counted],
}

struct Column<'r, F>(&'r [Counted], F);

impl<T: Serialize, F: Fn(&Counted) -> T> Serialize for Column<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rtt = |of: fn(RttSummary) -> u32| {
            Column(self.counts, move |one: &Counted| one.rtt_us.map(of))
        };
        let mut row = serializer.serialize_struct("Row", 7)?;
        row.serialize_field("marks", &self.marks)?;
        row.serialize_field("dst", &Column(self.counts, |one: &Counted| one.dst))?;
        row.serialize_field("sent", &Column(self.counts, |one: &Counted| one.sent))?;
        row.serialize_field(
            "received",
            &Column(self.counts, |one: &Counted| one.received),
        )?;
        row.serialize_field("p50", &rtt(|rtt| rtt.p50))?;
        row.serialize_field("p99", &rtt(|rtt| rtt.p99))?;
        row.serialize_field("max", &rtt(|rtt| rtt.max))?;
        row.end()
    }
}

/// As [`PackedPlane`], read.
#[derive(Deserialize)]
pub(super) struct ReadPlane {
    pub(super) layer: Layer,
    pub(super) family: Family,
    pub(super) rows: Vec<ReadRow>,
}

/// As [`Row`], read.
#[derive(Deserialize)]
pub(super) struct ReadRow {
    marks: String,
    #[serde(default)]
    dst: Vec<u32>,
    #[serde(default)]
    sent: Vec<u32>,
    #[serde(default)]
    received: Vec<u32>,
    #[serde(default)]
    p50: Vec<Option<u32>>,
    #[serde(default)]
    p99: Vec<Option<u32>>,
    #[serde(default)]
    max: Vec<Option<u32>>,
}

impl ReadRow {
    /// The marks of the row, and its packets behind those of the rows before.
    pub(super) fn unpack(
        &self,
        src: usize,
        clusters: usize,
        counts: &mut Vec<Counted>,
    ) -> Result<Vec<Mark>, String> {
        let lengths = [
            self.sent.len(),
            self.received.len(),
            self.p50.len(),
            self.p99.len(),
            self.max.len(),
        ];
        if lengths.iter().any(|&length| length != self.dst.len()) {
            return Err("the columns of a row are not of one length".to_owned());
        }
        let src = u32::try_from(src).map_err(|_| "too many rows".to_owned())?;
        for (at, &dst) in self.dst.iter().enumerate() {
            if dst as usize >= clusters {
                return Err(format!("dst {dst} is no position of a cluster"));
            }
            let rtt_us = match (self.p50[at], self.p99[at], self.max[at]) {
                (Some(p50), Some(p99), Some(max)) => Some(RttSummary { p50, p99, max }),
                _ => None,
            };
            counts.push(Counted {
                src,
                dst,
                sent: self.sent[at],
                received: self.received[at],
                rtt_us,
            });
        }
        marks(&self.marks, clusters)
    }
}

/// Cells of one layer and family as runs: `[source, first destination, number]`, or by destination
/// `[destination, first source, number]`, whichever has a cell in longer company.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Affected {
    pub(super) layer: Layer,
    pub(super) family: Family,
    pub(super) by: By,
    pub(super) runs: Vec<[u32; 3]>,
}

/// Which end a run keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    Source,
    Destination,
}

impl Affected {
    pub(super) fn of(cells: &[CellId]) -> Vec<Self> {
        let mut by_source: HashMap<(Layer, Family, u32), usize> = HashMap::new();
        let mut by_destination: HashMap<(Layer, Family, u32), usize> = HashMap::new();
        for cell in cells {
            *by_source
                .entry((cell.layer, cell.family, cell.src))
                .or_default() += 1;
            *by_destination
                .entry((cell.layer, cell.family, cell.dst))
                .or_default() += 1;
        }
        let mut sets: BTreeMap<(Layer, Family, By), Vec<(u32, u32)>> = BTreeMap::new();
        for cell in cells {
            let from = by_source.get(&(cell.layer, cell.family, cell.src));
            let to = by_destination.get(&(cell.layer, cell.family, cell.dst));
            let (by, place) = if from >= to {
                (By::Source, (cell.src, cell.dst))
            } else {
                (By::Destination, (cell.dst, cell.src))
            };
            sets.entry((cell.layer, cell.family, by))
                .or_default()
                .push(place);
        }
        sets.into_iter()
            .map(|((layer, family, by), mut places)| {
                places.sort_unstable();
                places.dedup();
                let runs = places
                    .chunk_by(|left, right| left.0 == right.0 && left.1 + 1 == right.1)
                    .map(|run| {
                        [
                            run[0].0,
                            run[0].1,
                            u32::try_from(run.len()).unwrap_or(u32::MAX),
                        ]
                    })
                    .collect();
                Self {
                    layer,
                    family,
                    by,
                    runs,
                }
            })
            .collect()
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.runs
            .iter()
            .fold(0_usize, |all, run| all.saturating_add(run[2] as usize))
    }

    /// The cells. The caller has made sure that they are few enough.
    pub(super) fn cells(&self) -> impl Iterator<Item = CellId> + '_ {
        self.runs.iter().flat_map(move |&[line, first, number]| {
            (first..first.saturating_add(number)).map(move |place| {
                let (src, dst) = match self.by {
                    By::Source => (line, place),
                    By::Destination => (place, line),
                };
                CellId {
                    src,
                    dst,
                    layer: self.layer,
                    family: self.family,
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_a_letter_of_its_own() {
        let all: Vec<Mark> = Mark::all().chain([Mark::NONE]).collect();
        let text = run_lengths(&all);
        assert_eq!(text, "hIijdPpqeVvwfSstgUku.");
        assert_eq!(marks(&text, 21), Ok(all.clone()));
        let mut twice = all.clone();
        twice.extend(std::iter::repeat_n(all[6], 12));
        assert_eq!(run_lengths(&twice), "hIijdPpqeVvwfSstgUku.p12");
        assert_eq!(marks("p12", 12), Ok(vec![all[6]; 12]));
        for bad in ["p13", "p11", "p99999999999999999999999", "x12", "12p", ""] {
            assert!(marks(bad, 12).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cross_of_cells_is_two_sets_of_runs() {
        let cell = |src, dst| CellId {
            src,
            dst,
            layer: Layer::Pod,
            family: Family::Ipv4,
        };
        let mut cells: Vec<CellId> = (0..5000).filter(|&n| n != 7).map(|n| cell(n, 7)).collect();
        cells.extend((0..5000).filter(|&n| n != 7).map(|n| cell(7, n)));
        cells.sort();
        let packed = Affected::of(&cells);
        let runs: usize = packed.iter().map(|set| set.runs.len()).sum();
        assert_eq!((packed.len(), runs), (2, 4), "{packed:?}");
        let mut back: Vec<CellId> = packed.iter().flat_map(Affected::cells).collect();
        back.sort();
        assert_eq!(back, cells);
        assert_eq!(packed.iter().map(Affected::len).sum::<usize>(), cells.len());
    }
}
