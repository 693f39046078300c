//! The report for a person: the matrix, the findings with their evidence, the coverage, the verdict.

use std::fmt::Write as _;

use crate::matrix::{self, Matrix, Plane};
use crate::report::{
    Cell, CellVerdict, Finding, NodeRow, Report, RunVerdict, Severity, layer_word,
};

/// Up to so many clusters the matrix is drawn; above, only what does not pass is listed.
pub const DRAW_UP_TO: usize = 24;
/// So many lines of a long list are written; `json` has them all.
const LINES: usize = 12;

/// The report as text. `wide` adds round-trip times, all affected cells and the pairs of nodes; `color` adds ANSI colours.
#[must_use]
pub fn render(report: &Report, wide: bool, color: bool) -> String {
    let paint = Paint(color);
    let mut text = String::new();
    clusters(report, &mut text);
    let matrix = Matrix::of(report);
    for plane in &matrix.planes {
        text.push('\n');
        if matrix.names.len() <= DRAW_UP_TO {
            draw(report, &matrix, plane, wide, paint, &mut text);
        } else {
            list(report, plane, paint, &mut text);
        }
    }
    if !matrix.planes.is_empty() {
        let _ = writeln!(text, "\n{}", matrix::LEGEND);
    }
    if !report.findings.is_empty() {
        text.push_str("\nFindings, the likeliest cause first\n");
        for (at, finding) in report.findings.iter().enumerate() {
            describe(at + 1, finding, wide, paint, &mut text);
        }
    }
    if wide && !report.node_rows.is_empty() {
        text.push_str("\nPairs of nodes\n");
        node_rows(&report.node_rows, paint, &mut text);
    }
    if !report.unjudged.is_empty() {
        text.push_str("\nCould not be judged\n");
        let shown = if wide { report.unjudged.len() } else { LINES };
        for sentence in report.unjudged.iter().take(shown) {
            let _ = writeln!(text, "  {sentence}");
        }
        more(report.unjudged.len(), shown, "  ", &mut text);
    }
    coverage(report, &mut text);
    let _ = writeln!(
        text,
        "Verdict: {}",
        paint.verdict(report.verdict, &sentence(report))
    );
    text
}

/// What the run's verdict says.
fn sentence(report: &Report) -> String {
    let count = |severity| {
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match report.verdict {
        RunVerdict::Healthy => {
            "healthy - everything that was asked was judged, and no fault was found".to_owned()
        }
        RunVerdict::Fault => format!("fault - {}", plural(errors, "cause", "causes")),
        RunVerdict::Degraded => format!(
            "degraded - {}, {} from what is planned{}",
            if report.coverage.probes_sent > 0 {
                "packets pass"
            } else {
                "no packet was sent, nothing that the tables tell stops one"
            },
            plural(warnings, "thing differs", "things differ"),
            if report.coverage.unobserved > 0 {
                ", and not all that was asked could be judged"
            } else {
                ""
            }
        ),
        RunVerdict::Unknown => {
            "unknown - no fault was found, but not all that was asked could be judged".to_owned()
        }
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn more(all: usize, shown: usize, indent: &str, text: &mut String) {
    if all > shown {
        let _ = writeln!(text, "{indent}... and {} more", all - shown);
    }
}

fn clusters(report: &Report, text: &mut String) {
    let rows: Vec<Vec<String>> = report
        .clusters
        .iter()
        .filter(|cluster| {
            report.clusters.len() <= DRAW_UP_TO || cluster.state != super::Observation::Observed
        })
        .map(|cluster| {
            let families: Vec<String> = cluster.families.iter().map(ToString::to_string).collect();
            vec![
                cluster.name.clone(),
                cluster.mode.clone().unwrap_or_else(|| "-".to_owned()),
                if families.is_empty() {
                    "-".to_owned()
                } else {
                    families.join(",")
                },
                cluster.nodes.to_string(),
                match &cluster.reason {
                    Some(reason) => format!("{}: {reason}", cluster.state.word()),
                    None => cluster.state.word().to_owned(),
                },
            ]
        })
        .collect();
    if report.clusters.len() > DRAW_UP_TO {
        let _ = writeln!(
            text,
            "{} clusters, {} of them not wholly observed",
            report.clusters.len(),
            rows.len()
        );
    }
    if !rows.is_empty() {
        let mut all = vec![
            ["CLUSTER", "MODE", "FAMILIES", "NODES", "STATE"]
                .map(str::to_owned)
                .to_vec(),
        ];
        all.extend(rows);
        columns(&all, text);
    }
}

/// Left-aligned columns, two spaces apart.
fn columns(rows: &[Vec<String>], text: &mut String) {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|word| word.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let mut line = String::new();
        for (word, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{word:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn draw(
    report: &Report,
    matrix: &Matrix,
    plane: &Plane,
    wide: bool,
    paint: Paint,
    text: &mut String,
) {
    let first = matrix
        .names
        .iter()
        .map(|name| name.chars().count())
        .chain([plane.title().len()])
        .max()
        .unwrap_or(0);
    let inner = if wide { 10 } else { 1 };
    let widths: Vec<usize> = matrix
        .names
        .iter()
        .map(|name| name.chars().count().max(inner))
        .collect();
    let _ = write!(text, "{:<first$}", plane.title());
    for (name, width) in matrix.names.iter().zip(&widths) {
        let _ = write!(text, "  {name:<width$}");
    }
    while text.ends_with(' ') {
        text.pop();
    }
    text.push('\n');
    for (name, row) in matrix.names.iter().zip(&plane.cells) {
        let _ = write!(text, "{name:<first$}");
        for (cell, width) in row.iter().zip(&widths) {
            let Some(cell) = cell.map(|at| &report.cells[at]) else {
                let _ = write!(text, "  {:<width$}", ".");
                continue;
            };
            let mut word = matrix::glyph(cell).to_string();
            if let (true, Some(rtt)) = (wide, cell.rtt_us) {
                let _ = write!(word, " {} us", rtt.p50);
            }
            let _ = write!(text, "  {}", paint.cell(cell.verdict, &word));
            text.extend(std::iter::repeat_n(
                ' ',
                width.saturating_sub(word.chars().count()),
            ));
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    }
}

fn list(report: &Report, plane: &Plane, paint: Paint, text: &mut String) {
    let cells: Vec<&Cell> = plane
        .cells
        .iter()
        .flatten()
        .flatten()
        .map(|&at| &report.cells[at])
        .collect();
    let bad: Vec<&&Cell> = cells
        .iter()
        .filter(|cell| cell.verdict != CellVerdict::Pass)
        .collect();
    let _ = writeln!(
        text,
        "{}: {} of {} cells pass",
        plane.title(),
        cells.len() - bad.len(),
        cells.len()
    );
    for cell in bad.iter().take(LINES) {
        let _ = writeln!(
            text,
            "  {} {} -> {}",
            paint.cell(cell.verdict, cell.verdict.word()),
            cell.src,
            cell.dst
        );
    }
    more(bad.len(), LINES, "  ", text);
}

fn describe(number: usize, finding: &Finding, wide: bool, paint: Paint, text: &mut String) {
    let _ = writeln!(
        text,
        "{number}. {} {} at {}  [{}]",
        paint.severity(finding.severity),
        finding.code,
        finding.element.place(),
        finding.id
    );
    let _ = writeln!(text, "   {}", finding.summary);
    let shown = if wide { finding.evidence.len() } else { LINES };
    for evidence in finding.evidence.iter().take(shown) {
        let _ = writeln!(
            text,
            "   {:<7} {}: {}",
            evidence.kind.word(),
            evidence.source,
            evidence.text
        );
    }
    more(finding.evidence.len(), shown, "   ", text);
    if !finding.ambiguous_with.is_empty() {
        let _ = writeln!(text, "   or      {}", finding.alternatives());
    }
    if !finding.affects.is_empty() {
        let shown = if wide { finding.affects.len() } else { 4 };
        let names: Vec<String> = finding
            .affects
            .iter()
            .take(shown)
            .map(ToString::to_string)
            .collect();
        let rest = finding.affects.len().saturating_sub(shown);
        let tail = if rest > 0 {
            format!(", and {rest} more")
        } else {
            String::new()
        };
        let _ = writeln!(text, "   affects {}{tail}", names.join(", "));
    }
    let _ = writeln!(text, "   fix     {}", finding.fix);
}

fn node_rows(rows: &[NodeRow], paint: Paint, text: &mut String) {
    let mut all = vec![
        [
            "SRC", "DST", "LAYER", "FAMILY", "TARGET", "VERDICT", "ANSWERED", "P50", "REASON",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    all.extend(rows.iter().map(|row| {
        vec![
            row.src.clone(),
            row.dst.clone(),
            layer_word(row.layer).to_owned(),
            row.family.to_string(),
            row.target.clone(),
            row.verdict.word().to_owned(),
            format!("{}/{}", row.received, row.sent),
            row.rtt_us
                .map_or_else(|| "-".to_owned(), |rtt| format!("{} us", rtt.p50)),
            row.reason.clone().unwrap_or_default(),
        ]
    }));
    let mut plain = String::new();
    columns(&all, &mut plain);
    for (line, row) in plain
        .lines()
        .zip([None].into_iter().chain(rows.iter().map(Some)))
    {
        let _ = match row {
            Some(row) => writeln!(text, "{}", paint.cell(row.verdict, line)),
            None => writeln!(text, "{line}"),
        };
    }
}

fn coverage(report: &Report, text: &mut String) {
    let coverage = &report.coverage;
    let judged = coverage.cells - coverage.unobserved.min(coverage.cells);
    let _ = writeln!(
        text,
        "\nCoverage: {judged} of {} cells judged ({} probed, {} proved, {} inferred, {} stale, {} unobserved), {} ordered \
         pairs of clusters, {} packets and connections sent",
        coverage.cells,
        coverage.probed,
        coverage.proved,
        coverage.inferred,
        coverage.stale,
        coverage.unobserved,
        coverage.ordered_pairs,
        coverage.probes_sent
    );
    let not_covered = &coverage.certificate.not_covered;
    for element in not_covered.iter().take(LINES) {
        let _ = writeln!(text, "  not covered: {element}");
    }
    more(not_covered.len(), LINES, "  ", text);
    for set in coverage.certificate.indistinguishable.iter().take(LINES) {
        let _ = writeln!(text, "  not told apart: {}", set.join(" | "));
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn cell(self, verdict: CellVerdict, text: &str) -> String {
        self.with(
            match verdict {
                CellVerdict::Degraded => "33",
                CellVerdict::Fail => "1;31",
                CellVerdict::Pass => "32",
                CellVerdict::Unknown => "36",
            },
            text,
        )
    }

    fn severity(self, severity: Severity) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "33",
            Severity::Info => "36",
        };
        self.with(code, severity.word())
    }

    fn verdict(self, verdict: RunVerdict, text: &str) -> String {
        let code = match verdict {
            RunVerdict::Degraded => "33",
            RunVerdict::Fault => "1;31",
            RunVerdict::Healthy => "32",
            RunVerdict::Unknown => "36",
        };
        self.with(code, text)
    }
}
