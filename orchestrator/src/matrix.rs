//! The matrix of a report, ready to be drawn: which clusters, which planes, which cell where, in what sign.
//!
//! A pure view: it copies nothing but names and positions, and a terminal or a page draws from it.

use std::collections::HashMap;

use datapath::state::Family;
use floater::wire::Layer;

use crate::report::{Cell, CellState, CellVerdict, Report, layer_word};

/// The cells of a report, laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The clusters: rows are sources, columns are destinations, both in this order.
    pub names: Vec<String>,
    /// One per layer and family that the report has cells of, in that order.
    pub planes: Vec<Plane>,
}

/// One layer and family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
    /// By source and destination: the position in [`Report::cells`]; none where there is no such cell.
    pub cells: Vec<Vec<Option<usize>>>,
}

impl Plane {
    /// `pod ipv4`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", layer_word(self.layer), self.family)
    }

    /// The worst verdict of the plane; none without a cell.
    #[must_use]
    pub fn worst(&self, report: &Report) -> Option<CellVerdict> {
        self.cells
            .iter()
            .flatten()
            .flatten()
            .map(|&at| report.cells[at].verdict)
            .max_by_key(|&verdict| badness(verdict))
    }
}

/// How bad a verdict is, 0 for a pass.
#[must_use]
pub fn badness(verdict: CellVerdict) -> u8 {
    match verdict {
        CellVerdict::Pass => 0,
        CellVerdict::Unknown => 1,
        CellVerdict::Degraded => 2,
        CellVerdict::Fail => 3,
    }
}

impl Matrix {
    /// Lays out a report.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let names: Vec<String> = report
            .clusters
            .iter()
            .map(|cluster| cluster.name.clone())
            .collect();
        let index: HashMap<&str, usize> = names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.as_str(), at))
            .collect();
        let mut planes: Vec<Plane> = Vec::new();
        for (at, cell) in report.cells.iter().enumerate() {
            let (Some(&src), Some(&dst)) =
                (index.get(cell.src.as_str()), index.get(cell.dst.as_str()))
            else {
                continue;
            };
            let found = planes
                .iter()
                .position(|plane| (plane.layer, plane.family) == (cell.layer, cell.family));
            let position = found.unwrap_or_else(|| {
                planes.push(Plane {
                    layer: cell.layer,
                    family: cell.family,
                    cells: vec![vec![None; names.len()]; names.len()],
                });
                planes.len() - 1
            });
            planes[position].cells[src][dst] = Some(at);
        }
        planes.sort_by_key(|plane| (plane.layer, plane.family));
        Self { names, planes }
    }

    /// What there is to say about one cell, one line each; empty where there is no such cell.
    #[must_use]
    pub fn details(&self, report: &Report, plane: usize, src: usize, dst: usize) -> Vec<String> {
        let Some(cell) = self
            .planes
            .get(plane)
            .and_then(|plane| *plane.cells.get(src)?.get(dst)?)
            .map(|at| &report.cells[at])
        else {
            return Vec::new();
        };
        let mut lines = vec![
            cell.name().to_string(),
            format!("{}, {}", verdict_word(cell.verdict), cell.state.word()),
        ];
        if cell.sent > 0 {
            lines.push(format!("{} of {} answered", cell.received, cell.sent));
        }
        if let Some(rtt) = cell.rtt_us {
            lines.push(format!(
                "RTT p50 {} us, p99 {} us, max {} us",
                rtt.p50, rtt.p99, rtt.max
            ));
        }
        for id in &cell.findings {
            if let Some(finding) = report.findings.iter().find(|finding| finding.id == *id) {
                lines.push(format!(
                    "{} {} at {}",
                    finding.id,
                    finding.code,
                    finding.element.place()
                ));
                lines.push(finding.summary.to_string());
            }
        }
        lines
    }
}

/// The sign of a cell, one column wide: `+` passes by packets, `=` by tables, `~` by inference, `X` fails, `!` partly fails,
/// `?` is not known.
#[must_use]
pub fn glyph(cell: &Cell) -> char {
    match (cell.verdict, cell.state) {
        (CellVerdict::Fail, _) => 'X',
        (CellVerdict::Degraded, _) => '!',
        (CellVerdict::Unknown, _) => '?',
        (CellVerdict::Pass, CellState::Probed) => '+',
        (CellVerdict::Pass, CellState::Proved) => '=',
        (CellVerdict::Pass, _) => '~',
    }
}

/// The sign of a place without a cell: the pair is no part of the run, or has no such layer or family.
pub const NO_CELL: char = '.';

/// What the signs mean.
pub const LEGEND: [&str; 7] = [
    "+ passes (packets)",
    "= passes (tables)",
    "~ passes (inferred)",
    "! partly fails",
    "X fails",
    "? not known",
    ". not part of the run",
];

/// What the signs mean, in as many lines of at most `width` columns as it takes.
#[must_use]
pub fn legend(width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for entry in LEGEND {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + entry.len() <= width => {
                line.push_str("  ");
                line.push_str(entry);
            }
            _ => lines.push(entry.to_owned()),
        }
    }
    lines
}

/// A cell's verdict for a person. `degraded`, its word in JSON, is also a verdict of whole runs, where it means less.
#[must_use]
pub fn verdict_word(verdict: CellVerdict) -> &'static str {
    match verdict {
        CellVerdict::Degraded => "partly fails",
        CellVerdict::Fail => "fails",
        CellVerdict::Pass => "passes",
        CellVerdict::Unknown => "not known",
    }
}
