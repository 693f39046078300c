//! Reading a report. It may be anybody's: its text is made printable and its size is bounded before anything is made of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use datapath::code::Code;
use datapath::printable::{LONGEST, Printable, printable};
use datapath::state::Family;
use floater::wire::Layer;
use serde::Deserialize;

use super::super::{
    CellId, CellState, CellVerdict, Cells, ClusterReport, Counted, Coverage, Element, Evidence,
    Finding, Fix, Mark, NodeRow, Report, RttSummary, Run, RunVerdict, Severity, layer_word,
};
use super::packed::{Affected, ReadPlane};
use super::{SCHEMA, SCHEMA_PACKED};

/// The most places of a matrix - clusters by clusters, on every layer and family - that a report may have which is read: eight thousand
/// clusters on four of them, a byte each.
pub const MOST_PLACES: usize = 256_000_000;
/// The most cells that all findings together may affect.
pub const MOST_AFFECTED: usize = 20_000_000;

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

#[derive(Deserialize)]
struct Head {
    schema: String,
}

#[derive(Deserialize)]
struct Form {
    run: Run,
    clusters: Vec<ClusterReport>,
    coverage: Coverage,
    cells: Vec<CellForm>,
    #[serde(default)]
    cells_packed: Option<Packed>,
    findings: Vec<FindingForm>,
    verdict: RunVerdict,
    #[serde(default)]
    unjudged: Vec<String>,
    #[serde(default)]
    node_rows: Vec<NodeRow>,
}

#[derive(Deserialize)]
struct Packed {
    planes: Vec<ReadPlane>,
}

#[derive(Deserialize)]
struct CellForm {
    src: String,
    dst: String,
    layer: Layer,
    family: Family,
    state: CellState,
    verdict: CellVerdict,
    sent: u32,
    received: u32,
    rtt_us: Option<RttSummary>,
    findings: Vec<String>,
}

#[derive(Deserialize)]
struct FindingForm {
    id: String,
    code: Code,
    severity: Severity,
    element: Element,
    summary: Printable,
    evidence: Vec<Evidence>,
    ambiguous_with: Vec<Printable>,
    affects: Vec<NameForm>,
    #[serde(default)]
    affects_packed: Vec<Affected>,
    #[serde(flatten)]
    fix: Fix,
}

#[derive(Deserialize)]
struct NameForm {
    src: String,
    dst: String,
    layer: Layer,
    family: Family,
}

/// The rule that a form breaks, and a word that stands where it does.
struct Broken {
    rule: String,
    near: String,
}

fn broken(near: impl Into<String>, rule: impl Into<String>) -> Broken {
    Broken {
        rule: rule.into(),
        near: near.into(),
    }
}

/// Reads a report of either version.
///
/// # Errors
/// Where the text is not JSON, lacks a field, holds a word outside its set, is of another schema, names a cluster or a finding that it
/// does not hold, or would take far more memory than it has bytes; with the line where the parser stood.
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
    let head: Head = serde_json::from_str(text).map_err(|error| about(&error))?;
    let is_packed = match head.schema.as_str() {
        SCHEMA => false,
        SCHEMA_PACKED => true,
        other => {
            let rule = format!(
                "schema is {other:?}, and this program reads {SCHEMA:?} and {SCHEMA_PACKED:?}"
            );
            return Err(refuse(line_of(text, "\"schema\""), rule));
        }
    };
    let form: Form = serde_json::from_str(text).map_err(|error| about(&error))?;
    report_of(form, is_packed)
        .map_err(|broken| refuse(line_of(text, &format!("\"{}\"", broken.near)), broken.rule))
}

fn report_of(mut form: Form, is_packed: bool) -> Result<Report, Broken> {
    if is_packed != form.cells_packed.is_some() {
        let rule = if is_packed {
            format!("a {SCHEMA_PACKED} has its cells in cells_packed")
        } else {
            format!("cells_packed is a field of {SCHEMA_PACKED}")
        };
        return Err(broken("schema", rule));
    }
    bounded(&form).map_err(|rule| broken("clusters", rule))?;
    let mut places: HashMap<&str, u32> = HashMap::new();
    for (at, cluster) in (0_u32..).zip(&form.clusters) {
        places.entry(cluster.name.as_str()).or_insert(at);
    }
    let place = |name: &str| {
        places.get(name).copied().ok_or_else(|| {
            broken(
                name,
                format!("names cluster {name:?}, which the report does not hold"),
            )
        })
    };
    let mut named: HashMap<String, BTreeSet<CellId>> = HashMap::new();
    let mut cells = Cells::new(form.clusters.len());
    add_cells(&form.cells, &place, &mut cells, &mut named)?;
    for plane in form
        .cells_packed
        .take()
        .into_iter()
        .flat_map(|packed| packed.planes)
    {
        add_plane(&plane, &mut cells)
            .map_err(|rule| broken("cells_packed", format!("cells_packed: {rule}")))?;
    }
    let side = form.clusters.len();
    let mut findings = Vec::with_capacity(form.findings.len());
    for finding in std::mem::take(&mut form.findings) {
        let also = named.remove(&finding.id).unwrap_or_default();
        findings.push(finding_of(finding, &place, also, side)?);
    }
    if let Some((id, cells)) = named.into_iter().min() {
        let name = |at: u32| form.clusters.get(at as usize).map_or("", |one| &one.name);
        let rule = cells.first().map_or_else(String::new, |cell| {
            format!(
                "the cell {} -> {} names finding {id:?}, which the report does not hold",
                name(cell.src),
                name(cell.dst)
            )
        });
        return Err(broken(id, rule));
    }
    let mut report = Report {
        run: form.run,
        clusters: form.clusters,
        coverage: form.coverage,
        cells,
        findings,
        verdict: form.verdict,
        unjudged: form.unjudged,
        node_rows: form.node_rows,
    };
    make_printable(&mut report);
    Ok(report)
}

fn add_cells(
    forms: &[CellForm],
    place: &impl Fn(&str) -> Result<u32, Broken>,
    cells: &mut Cells,
    named: &mut HashMap<String, BTreeSet<CellId>>,
) -> Result<(), Broken> {
    let mut counts: BTreeMap<(Layer, Family), Vec<Counted>> = BTreeMap::new();
    for form in forms {
        let id = CellId {
            src: place(&form.src)?,
            dst: place(&form.dst)?,
            layer: form.layer,
            family: form.family,
        };
        let mark = Mark::new(form.state, form.verdict);
        cells
            .plane_mut(id.layer, id.family)
            .set(id.src as usize, id.dst as usize, mark);
        if form.sent > 0 || form.received > 0 || form.rtt_us.is_some() {
            counts
                .entry((id.layer, id.family))
                .or_default()
                .push(Counted {
                    src: id.src,
                    dst: id.dst,
                    sent: form.sent,
                    received: form.received,
                    rtt_us: form.rtt_us,
                });
        }
        for finding in &form.findings {
            named.entry(finding.clone()).or_default().insert(id);
        }
    }
    for ((layer, family), counts) in counts {
        cells.plane_mut(layer, family).count(counts);
    }
    Ok(())
}

fn add_plane(read: &ReadPlane, cells: &mut Cells) -> Result<(), String> {
    let clusters = cells.side();
    if read.rows.len() != clusters {
        return Err(format!(
            "{} rows on {} {}, and there are {clusters} clusters",
            read.rows.len(),
            layer_word(read.layer),
            read.family,
        ));
    }
    let plane = cells.plane_mut(read.layer, read.family);
    let mut counts = Vec::new();
    for (src, row) in read.rows.iter().enumerate() {
        let marks = row.unpack(src, clusters, &mut counts)?;
        for (dst, mark) in marks.into_iter().enumerate() {
            plane.set(src, dst, mark);
        }
    }
    plane.count(counts);
    Ok(())
}

/// `also`: cells that name the finding, which says the same the other way round.
fn finding_of(
    form: FindingForm,
    place: &impl Fn(&str) -> Result<u32, Broken>,
    also: BTreeSet<CellId>,
    clusters: usize,
) -> Result<Finding, Broken> {
    let mut affects: Vec<CellId> = also.into_iter().collect();
    for name in form.affects {
        affects.push(CellId {
            src: place(&name.src)?,
            dst: place(&name.dst)?,
            layer: name.layer,
            family: name.family,
        });
    }
    affects.extend(form.affects_packed.iter().flat_map(Affected::cells));
    let beyond = |at: u32| at as usize >= clusters;
    if let Some(cell) = affects
        .iter()
        .find(|cell| beyond(cell.src) || beyond(cell.dst))
    {
        let rule = format!(
            "affects_packed: {} is no position of a cluster",
            cell.src.max(cell.dst)
        );
        return Err(broken(form.id, rule));
    }
    affects.sort_unstable();
    affects.dedup();
    Ok(Finding {
        id: form.id,
        code: form.code,
        severity: form.severity,
        element: form.element,
        summary: form.summary,
        evidence: form.evidence,
        ambiguous_with: form.ambiguous_with,
        affects,
        fix: form.fix,
    })
}

/// Refuses a report that would take more memory than its own size explains.
fn bounded(form: &Form) -> Result<(), String> {
    let mut planes: BTreeSet<(Layer, Family)> = form
        .cells
        .iter()
        .map(|cell| (cell.layer, cell.family))
        .collect();
    for plane in form.cells_packed.iter().flat_map(|packed| &packed.planes) {
        planes.insert((plane.layer, plane.family));
    }
    let clusters = form.clusters.len();
    let places = clusters
        .saturating_mul(clusters)
        .saturating_mul(planes.len());
    if places > MOST_PLACES {
        return Err(format!(
            "{clusters} clusters on {} layers and families are more than {MOST_PLACES} places of a matrix",
            planes.len()
        ));
    }
    let affected = form
        .findings
        .iter()
        .flat_map(|finding| &finding.affects_packed)
        .fold(0_usize, |all, set| all.saturating_add(set.len()));
    if affected > MOST_AFFECTED {
        return Err(format!(
            "the findings affect {affected} cells, and {MOST_AFFECTED} are the most that are read"
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
        run,
        clusters,
        coverage,
        cells: _,
        findings,
        verdict: _,
        unjudged,
        node_rows,
    } = report;
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
    for finding in findings {
        safe(&mut finding.id);
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
