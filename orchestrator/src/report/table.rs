//! The report for a person: the matrix, the findings with their evidence, the coverage, the verdict.

use std::fmt::Write as _;

mod folded;

use crate::matrix::{self, Matrix, NO_CELL, verdict_word};
use crate::report::{
    CellVerdict, Finding, NodeRow, Plane, Report, RunVerdict, Severity, layer_word,
};

/// Up to so many clusters the matrix is drawn, where the width allows it; above, it is folded.
pub const DRAW_UP_TO: usize = 24;
/// So many findings are described; `wide` and `json` have them all.
const FINDINGS: usize = 30;
/// So many lines of a long list are written; `json` has them all.
const LINES: usize = 12;
/// The columns of a terminal of which nothing is known.
pub const COLUMNS: usize = 80;
/// Up to so many pairs of nodes that pass are written one by one.
const PASSES: usize = 100;
/// The columns of a sign with its round-trip time.
const SIGN_AND_TIME: usize = 10;

/// How a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// With round-trip times, all affected cells, all findings and the pairs of nodes.
    pub wide: bool,
    /// With ANSI colours.
    pub color: bool,
    /// The columns that there are.
    pub width: usize,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            wide: false,
            color: false,
            width: COLUMNS,
        }
    }
}

/// The report as text. A fleet whose matrix is too wide is folded, and one that is wholly healthy, too, is two lines then.
#[must_use]
pub fn render(report: &Report, look: Look) -> String {
    let wide = look.wide;
    let paint = Paint(look.color);
    let mut text = String::new();
    let is_quiet = !is_drawn(report, look.width) && !wide && report.verdict == RunVerdict::Healthy;
    if !is_quiet {
        clusters(report, wide, &mut text);
        text += &matrix(report, look);
    }
    if !report.findings.is_empty() {
        text.push_str("\nFindings, the likeliest cause first\n");
        let shown = if wide {
            report.findings.len()
        } else {
            FINDINGS
        };
        for (at, finding) in report.findings.iter().take(shown).enumerate() {
            describe(report, at + 1, finding, wide, paint, &mut text);
        }
        more(report.findings.len(), shown, "", &mut text);
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
    // What a fleet that is folded to two lines needs no empty line before.
    if is_quiet && report.findings.is_empty() {
        return text.trim_start().to_owned();
    }
    text
}

/// Every plane and what the signs mean: drawn, or where that is too wide folded.
#[must_use]
pub fn matrix(report: &Report, look: Look) -> String {
    let paint = Paint(look.color);
    let mut text = String::new();
    let planes = report.cells.planes();
    if is_drawn(report, look.width) {
        let names = names(report);
        for plane in planes {
            text.push('\n');
            draw(&names, plane, look, paint, &mut text);
        }
    } else {
        folded::planes(report, &Matrix::of(report), look.wide, paint, &mut text);
    }
    if !planes.is_empty() {
        text.push('\n');
        for line in matrix::legend(look.width) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn names(report: &Report) -> Vec<String> {
    let clusters = report.clusters.iter();
    clusters.map(|cluster| cluster.name.clone()).collect()
}

/// Whether every matrix fits the width, with numbers in place of names where need be.
fn is_drawn(report: &Report, width: usize) -> bool {
    if report.clusters.len() > DRAW_UP_TO {
        return false;
    }
    let names = &names(report);
    report.cells.planes().iter().all(|plane| {
        let (rows, columns) = labels(names, 1, &plane.title(), width);
        let first = rows
            .iter()
            .map(|row| row.chars().count())
            .max()
            .unwrap_or(0);
        let wide: usize = columns.iter().map(|name| name.chars().count() + 2).sum();
        first + wide <= width
    })
}

/// What the run's verdict says.
#[must_use]
pub fn sentence(report: &Report) -> String {
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

fn clusters(report: &Report, wide: bool, text: &mut String) {
    let mut rows: Vec<Vec<String>> = report
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
        let _ = match rows.len() {
            0 => writeln!(
                text,
                "{} clusters, all fully observed",
                report.clusters.len()
            ),
            some => writeln!(
                text,
                "{} clusters, {some} not fully observed:",
                report.clusters.len()
            ),
        };
    }
    let hidden = if report.clusters.len() > DRAW_UP_TO && !wide {
        rows.len().saturating_sub(LINES)
    } else {
        0
    };
    rows.truncate(rows.len() - hidden);
    if !rows.is_empty() {
        let mut all = vec![
            ["CLUSTER", "MODE", "FAMILIES", "NODES", "STATE"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let shown = rows.len();
        all.extend(rows);
        columns(&all, text);
        more(shown + hidden, shown, "", text);
    }
}

/// Left-aligned columns, two spaces apart.
pub(super) fn columns(rows: &[Vec<String>], text: &mut String) {
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
        for (word, &width) in row.iter().zip(&widths) {
            push(text, word, width);
            text.push_str("  ");
        }
        end_line(text);
    }
}

/// A word with as many spaces behind it as make it `width` columns. (The width of a format string has an upper limit, and panics
/// above it.)
fn push(text: &mut String, word: &str, width: usize) {
    text.push_str(word);
    let spaces = width.saturating_sub(word.chars().count());
    text.extend(std::iter::repeat_n(' ', spaces));
}

/// Ends a line, without spaces at its end.
fn end_line(text: &mut String) {
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

/// How the rows and columns of a matrix are called: by name, or where that is too wide by number and name, and number.
fn labels(names: &[String], cell: usize, title: &str, width: usize) -> (Vec<String>, Vec<String>) {
    let longest = |words: &[String]| words.iter().map(|word| word.chars().count()).max();
    let first = longest(names).unwrap_or(0).max(title.len());
    let wide: usize = names
        .iter()
        .map(|name| name.chars().count().max(cell) + 2)
        .sum();
    if first + wide <= width {
        return (names.to_vec(), names.to_vec());
    }
    let digits = names.len().to_string().len();
    let rows = (1..).zip(names);
    (
        rows.map(|(number, name)| format!("{number:>digits$} {name}"))
            .collect(),
        (1..=names.len()).map(|number| number.to_string()).collect(),
    )
}

fn draw(names: &[String], plane: &Plane, look: Look, paint: Paint, text: &mut String) {
    let title = plane.title();
    let inner = if look.wide { SIGN_AND_TIME } else { 1 };
    let (rows, columns) = labels(names, inner, &title, look.width);
    let first = rows
        .iter()
        .chain([&title])
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let widths: Vec<usize> = columns
        .iter()
        .map(|name| name.chars().count().max(inner))
        .collect();
    // Times are in the rows of the pairs of nodes, too: a matrix that is too wide does without.
    let needed = first + widths.iter().map(|width| width + 2).sum::<usize>();
    let times = look.wide && needed <= look.width;
    let widths: Vec<usize> = if look.wide && !times {
        columns.iter().map(|name| name.chars().count()).collect()
    } else {
        widths
    };
    push(text, &title, first);
    for (name, &width) in columns.iter().zip(&widths) {
        text.push_str("  ");
        push(text, name, width);
    }
    end_line(text);
    for (src, name) in rows.iter().enumerate() {
        push(text, name, first);
        for ((dst, &mark), &width) in plane.row(src).iter().enumerate().zip(&widths) {
            text.push_str("  ");
            let Some(verdict) = mark.verdict() else {
                push(text, &NO_CELL.to_string(), width);
                continue;
            };
            let mut word = matrix::glyph(mark).to_string();
            let rtt = plane.counted(src, dst).and_then(|counted| counted.rtt_us);
            if let (true, Some(rtt)) = (times, rtt) {
                let _ = write!(word, " {} us", rtt.p50);
            }
            text.push_str(&paint.cell(verdict, &word));
            // The codes of a colour are no columns.
            push(text, "", width.saturating_sub(word.chars().count()));
        }
        end_line(text);
    }
}

fn describe(
    report: &Report,
    number: usize,
    finding: &Finding,
    wide: bool,
    paint: Paint,
    text: &mut String,
) {
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
            .map(|&cell| report.name(cell).to_string())
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

/// What does not pass comes first; many passes are only counted.
fn node_rows(rows: &[NodeRow], paint: Paint, text: &mut String) {
    let (passing, mut shown): (Vec<&NodeRow>, Vec<&NodeRow>) = rows
        .iter()
        .partition(|row| row.verdict == CellVerdict::Pass);
    shown.sort_by_key(|row| std::cmp::Reverse(matrix::badness(row.verdict)));
    let folded = passing.len() > PASSES;
    if !folded {
        shown.extend(&passing);
    }
    let head = [
        "SRC", "DST", "LAYER", "FAMILY", "TARGET", "VERDICT", "ANSWERED", "P50", "REASON",
    ];
    let mut all = vec![head.map(str::to_owned).to_vec()];
    all.extend(shown.iter().map(|row| {
        vec![
            row.src.to_string(),
            row.dst.to_string(),
            layer_word(row.layer).to_owned(),
            row.family.to_string(),
            row.target.to_string(),
            verdict_word(row.verdict).to_owned(),
            format!("{}/{}", row.received, row.sent),
            row.rtt_us
                .map_or_else(|| "-".to_owned(), |rtt| format!("{} us", rtt.p50)),
            row.reason
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        ]
    }));
    let mut plain = String::new();
    if !shown.is_empty() {
        columns(&all, &mut plain);
    }
    for (at, line) in plain.lines().enumerate() {
        let _ = match at.checked_sub(1) {
            Some(at) => writeln!(text, "{}", paint.cell(shown[at].verdict, line)),
            None => writeln!(text, "{line}"),
        };
    }
    if folded {
        let mut planes: Vec<(String, usize)> = Vec::new();
        for row in passing {
            let title = format!("{} {}", layer_word(row.layer), row.family);
            match planes.iter_mut().find(|(known, _)| *known == title) {
                Some((_, count)) => *count += 1,
                None => planes.push((title, 1)),
            }
        }
        for (title, count) in planes {
            let _ = writeln!(
                text,
                "{title}: {count} pairs of nodes pass (each one: -o json)"
            );
        }
    }
}

fn coverage(report: &Report, text: &mut String) {
    let coverage = &report.coverage;
    let judged = coverage.cells - coverage.unobserved.min(coverage.cells);
    let kinds = [
        (coverage.probed, "probed"),
        (coverage.proved, "proved by tables"),
        (coverage.inferred, "inferred"),
        (coverage.stale, "from an earlier run"),
        (coverage.unobserved, "not judged"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let kinds = if kinds.is_empty() {
        String::new()
    } else {
        format!(" ({})", kinds.join(", "))
    };
    let _ = writeln!(
        text,
        "\nCoverage: {judged} of {} cells judged{kinds}, {}, {}",
        coverage.cells,
        plural(
            coverage.ordered_pairs,
            "ordered pair of clusters",
            "ordered pairs of clusters"
        ),
        plural(
            usize::try_from(coverage.probes_sent).unwrap_or(usize::MAX),
            "packet or connection sent",
            "packets and connections sent"
        )
    );
    let not_covered = &coverage.certificate.not_covered;
    if !not_covered.is_empty() {
        text.push_str("Not covered by packets or tables, so a fault there may not have shown:\n");
        for element in not_covered.iter().take(LINES) {
            let _ = writeln!(text, "  {element}");
        }
        more(not_covered.len(), LINES, "  ", text);
    }
    let same = &coverage.certificate.indistinguishable;
    if !same.is_empty() {
        text.push_str("A fault in one of a line would look the same as in any other of it:\n");
        for set in same.iter().take(LINES) {
            let _ = writeln!(text, "  {}", set.join(" | "));
        }
        more(same.len(), LINES, "  ", text);
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
