//! The report as JSON, and back. A report that is read may be anybody's: its text is made printable and its size is bounded
//! before anything is made of it.
//!
//! Above [`PACK_ABOVE`] clusters `cells` would be most of the file, so it is written as `cells_packed`: one letter per cell, and
//! in full only the cells that do not simply pass.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cell, CellState, CellVerdict, Report, SCHEMA, layer_word};
use datapath::printable::{LONGEST, printable};
use datapath::state::Family;
use floater::wire::Layer;

/// Up to so many clusters every cell is written in full.
pub const PACK_ABOVE: usize = 300;

/// The most places of a matrix - clusters by clusters, on every layer and family - that a report may have which is read: a
/// thousand clusters on four of them. A packed report of one letter a place is a hundredth of what it takes in memory.
pub const MOST_PLACES: usize = 4_000_000;

/// A text that is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {rule}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Unreadable {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// The line, counted from 1, where there is one to blame.
    pub line: Option<u64>,
    /// The rule that the text breaks.
    pub rule: String,
}

/// The cells of a large report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Packed {
    /// One entry per layer and family.
    planes: Vec<Plane>,
    /// Cells that do not simply pass, in full.
    in_full: Vec<Cell>,
}

/// One layer and family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plane {
    layer: Layer,
    family: Family,
    /// One text per source, in the order of `clusters`; in it one letter per destination, in the same order.
    rows: Vec<String>,
}

/// The letter of a cell that is not written in full.
fn letter(cell: &Cell) -> Option<char> {
    let plain = cell.verdict == CellVerdict::Pass && cell.findings.is_empty();
    match cell.state {
        CellState::Inferred if plain => Some('i'),
        CellState::Probed if plain => Some('p'),
        CellState::Proved if plain => Some('v'),
        CellState::Stale if plain => Some('s'),
        CellState::Unobserved if cell.findings.is_empty() => Some('u'),
        _ => None,
    }
}

/// Human-readable JSON with a newline at its end.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
    if report.clusters.len() > PACK_ABOVE
        && let Some(object) = value.as_object_mut()
        && let Ok(packed) = serde_json::to_value(pack(report))
    {
        object.insert("cells".to_owned(), Value::Array(Vec::new()));
        object.insert("cells_packed".to_owned(), packed);
    }
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}

fn pack(report: &Report) -> Packed {
    let index: std::collections::HashMap<&str, usize> = report
        .clusters
        .iter()
        .enumerate()
        .map(|(at, cluster)| (cluster.name.as_str(), at))
        .collect();
    let count = report.clusters.len();
    let mut planes: std::collections::BTreeMap<(Layer, Family), Vec<Vec<char>>> =
        std::collections::BTreeMap::new();
    let mut in_full = Vec::new();
    for cell in &report.cells {
        let rows = planes
            .entry((cell.layer, cell.family))
            .or_insert_with(|| vec![vec!['.'; count]; count]);
        let (Some(&src), Some(&dst)) = (index.get(cell.src.as_str()), index.get(cell.dst.as_str()))
        else {
            in_full.push(cell.clone());
            continue;
        };
        rows[src][dst] = letter(cell).unwrap_or_else(|| {
            in_full.push(cell.clone());
            '*'
        });
    }
    Packed {
        planes: planes
            .into_iter()
            .map(|((layer, family), rows)| Plane {
                layer,
                family,
                rows: rows.into_iter().map(String::from_iter).collect(),
            })
            .collect(),
        in_full,
    }
}

fn unpack(packed: Packed, clusters: &[String]) -> Result<Vec<Cell>, String> {
    let mut cells = packed.in_full;
    for plane in packed.planes {
        if plane.rows.len() != clusters.len() {
            return Err(format!(
                "cells_packed has {} rows on {} {}, and there are {} clusters",
                plane.rows.len(),
                layer_word(plane.layer),
                plane.family,
                clusters.len()
            ));
        }
        for (row, src) in plane.rows.iter().zip(clusters) {
            if row.chars().count() != clusters.len() {
                return Err(format!(
                    "cells_packed: the row of {src} has not one letter per cluster"
                ));
            }
            for (sign, dst) in row.chars().zip(clusters) {
                let (state, verdict) = match sign {
                    '.' | '*' => continue,
                    'i' => (CellState::Inferred, CellVerdict::Pass),
                    'p' => (CellState::Probed, CellVerdict::Pass),
                    's' => (CellState::Stale, CellVerdict::Pass),
                    'u' => (CellState::Unobserved, CellVerdict::Unknown),
                    'v' => (CellState::Proved, CellVerdict::Pass),
                    other => return Err(format!("cells_packed: no cell is written {other:?}")),
                };
                cells.push(Cell {
                    src: src.clone(),
                    dst: dst.clone(),
                    layer: plane.layer,
                    family: plane.family,
                    state,
                    verdict,
                    sent: 0,
                    received: 0,
                    rtt_us: None,
                    findings: Vec::new(),
                });
            }
        }
    }
    cells.sort_by(|a, b| {
        (&a.src, &a.dst, a.layer, a.family).cmp(&(&b.src, &b.dst, b.layer, b.family))
    });
    Ok(cells)
}

/// Reads a report.
///
/// # Errors
/// Where the text is not JSON, lacks a field, holds a word outside its set, is of another schema, or names a finding that it
/// does not hold; with the line where the parser stood.
pub fn parse(text: &str, file: &str) -> Result<Report, Unreadable> {
    let refuse = |line: Option<usize>, rule: String| Unreadable {
        file: file.to_owned(),
        line: line.map(|line| line as u64),
        rule,
    };
    let about = |error: &serde_json::Error| {
        // The parser ends its sentence with the place, which is told apart here.
        let sentence = error.to_string();
        let rule = sentence.split(" at line ").next().unwrap_or(&sentence);
        refuse((error.line() > 0).then_some(error.line()), rule.to_owned())
    };

    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_str(text).map_err(|error| about(&error))?;
    if head.schema != SCHEMA {
        return Err(refuse(
            line_of(text, "\"schema\""),
            format!(
                "schema is {:?}, and this program reads {SCHEMA:?}",
                head.schema
            ),
        ));
    }
    let mut report: Report = serde_json::from_str(text).map_err(|error| about(&error))?;
    #[derive(Deserialize)]
    struct Tail {
        #[serde(default)]
        cells_packed: Option<Packed>,
    }
    let tail: Tail = serde_json::from_str(text).map_err(|error| about(&error))?;
    let planes = tail
        .cells_packed
        .as_ref()
        .map_or(1, |packed| packed.planes.len());
    bounded(&report, planes).map_err(|rule| refuse(line_of(text, "\"clusters\""), rule))?;
    if let Some(packed) = tail.cells_packed {
        let names: Vec<String> = report
            .clusters
            .iter()
            .map(|cluster| cluster.name.clone())
            .collect();
        report.cells = unpack(packed, &names)
            .map_err(|rule| refuse(line_of(text, "\"cells_packed\""), rule))?;
    }
    make_printable(&mut report);
    let known: std::collections::HashSet<&str> = report
        .findings
        .iter()
        .map(|finding| finding.id.as_str())
        .collect();
    for cell in &report.cells {
        if let Some(id) = cell.findings.iter().find(|id| !known.contains(id.as_str())) {
            return Err(refuse(
                line_of(text, &format!("\"{id}\"")),
                format!(
                    "the cell {} names finding {id:?}, which the report does not hold",
                    cell.name()
                ),
            ));
        }
    }
    Ok(report)
}

/// Refuses a report that would take more memory than its own size explains.
fn bounded(report: &Report, packed: usize) -> Result<(), String> {
    let planes: std::collections::BTreeSet<_> = report
        .cells
        .iter()
        .map(|cell| (cell.layer, cell.family))
        .collect();
    let clusters = report.clusters.len();
    let places = clusters
        .saturating_mul(clusters)
        .saturating_mul(planes.len().max(packed));
    if places.max(report.cells.len()) > MOST_PLACES {
        return Err(format!(
            "{clusters} clusters on {} layers and families are more than {MOST_PLACES} places of a matrix",
            planes.len().max(packed)
        ));
    }
    Ok(())
}

/// Every text of a report as one safe line of bounded length.
fn make_printable(report: &mut Report) {
    let safe = |text: &mut String| {
        if let Cow::Owned(better) = printable(text, LONGEST) {
            *text = better;
        }
    };
    let Report {
        schema,
        run,
        clusters,
        coverage,
        cells,
        findings,
        verdict: _,
        unjudged,
        node_rows,
    } = report;
    safe(schema);
    [&mut run.id, &mut run.started, &mut run.tool]
        .into_iter()
        .for_each(safe);
    for cluster in clusters {
        safe(&mut cluster.name);
        cluster
            .mode
            .iter_mut()
            .chain(&mut cluster.reason)
            .for_each(safe);
    }
    let certificate = &mut coverage.certificate;
    certificate.covered.iter_mut().for_each(safe);
    certificate.not_covered.iter_mut().for_each(safe);
    certificate
        .indistinguishable
        .iter_mut()
        .flatten()
        .for_each(safe);
    for cell in cells {
        [&mut cell.src, &mut cell.dst].into_iter().for_each(safe);
        cell.findings.iter_mut().for_each(safe);
    }
    for finding in findings {
        safe(&mut finding.id);
        for cell in &mut finding.affects {
            [&mut cell.src, &mut cell.dst].into_iter().for_each(safe);
        }
    }
    unjudged.iter_mut().for_each(safe);
    for row in node_rows {
        [&mut row.src, &mut row.dst, &mut row.target]
            .into_iter()
            .for_each(safe);
        row.reason.iter_mut().for_each(safe);
    }
}

fn line_of(text: &str, what: &str) -> Option<usize> {
    text.find(what)
        .map(|at| text[..at].bytes().filter(|&byte| byte == b'\n').count() + 1)
}
