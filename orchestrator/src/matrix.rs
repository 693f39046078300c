//! The matrix of a report, ready to be drawn at any distance: a cell, a block of cells, groups of clusters that are alike.
//!
//! A pure view: it copies nothing but what is coarser than the cells, and a terminal or a page draws from it.

mod groups;
mod pyramid;

pub use groups::{Block, Group, Groups, group_name};
pub use pyramid::Pyramid;

use rayon::prelude::*;

use crate::report::{CellId, CellState, CellVerdict, Mark, Report};

/// So many groups of clusters are told apart in [`Matrix::blocks`]; the others are one, the last.
pub const GROUPS: usize = 8;

/// What is coarser than the cells of a report, plane by plane in the report's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// One per plane.
    pub pyramids: Vec<Pyramid>,
    /// Clusters that are alike, over all planes.
    pub groups: Groups,
    /// By plane, source and destination group: what their cells are.
    pub blocks: Vec<Vec<Vec<Block>>>,
}

impl Matrix {
    /// Looks at every cell once.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let planes = report.cells.planes();
        let pyramids: Vec<Pyramid> = planes.iter().map(Pyramid::of).collect();
        let groups = Groups::of(&report.cells, &pyramids);
        Self {
            blocks: planes
                .par_iter()
                .map(|plane| groups.blocks(plane, GROUPS))
                .collect(),
            pyramids,
            groups,
        }
    }

    /// The worst verdict of a plane; none without a cell.
    #[must_use]
    pub fn worst(&self, plane: usize) -> Option<CellVerdict> {
        verdict_of(self.pyramids.get(plane)?.worst())
    }
}

/// What there is to say about one cell, one line each; empty where there is no such cell.
#[must_use]
pub fn details(report: &Report, plane: usize, src: usize, dst: usize) -> Vec<String> {
    let id = report.cells.planes().get(plane).and_then(|plane| {
        Some(CellId {
            src: u32::try_from(src).ok()?,
            dst: u32::try_from(dst).ok()?,
            layer: plane.layer,
            family: plane.family,
        })
    });
    let Some(cell) = id.and_then(|id| report.cell(id)) else {
        return Vec::new();
    };
    let mut lines = vec![
        report.name(cell.id).to_string(),
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

/// How bad a verdict is, 0 for a pass.
#[must_use]
pub fn badness(verdict: CellVerdict) -> u8 {
    Mark::new(CellState::Probed, verdict).badness() - 1
}

/// The verdict of a [`Mark::badness`]; none for that of no cell.
#[must_use]
pub fn verdict_of(badness: u8) -> Option<CellVerdict> {
    match badness {
        1 => Some(CellVerdict::Pass),
        2 => Some(CellVerdict::Unknown),
        3 => Some(CellVerdict::Degraded),
        4 => Some(CellVerdict::Fail),
        _ => None,
    }
}

/// The sign of a cell, one column wide: `+` passes by packets, `=` by tables, `~` by inference, `X` fails, `!` partly fails,
/// `?` is not known; [`NO_CELL`] where there is none.
#[must_use]
pub fn glyph(mark: Mark) -> char {
    match (mark.verdict(), mark.state()) {
        (None, _) => NO_CELL,
        (Some(CellVerdict::Pass), Some(CellState::Proved)) => '=',
        (Some(CellVerdict::Pass), Some(CellState::Inferred | CellState::Stale)) => '~',
        (Some(verdict), _) => glyph_of(verdict),
    }
}

/// The sign of a verdict, however it was come to.
#[must_use]
pub fn glyph_of(verdict: CellVerdict) -> char {
    match verdict {
        CellVerdict::Fail => 'X',
        CellVerdict::Degraded => '!',
        CellVerdict::Unknown => '?',
        CellVerdict::Pass => '+',
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
