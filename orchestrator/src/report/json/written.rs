//! What a report looks like in JSON, without a copy of it.

use serde::{Serialize, Serializer};

use super::super::{
    CellId, CellName, ClusterReport, Coverage, Element, Evidence, Finding, Fix, NodeRow, Report,
    Run, RunVerdict, Severity,
};
use super::packed::{Affected, PackedPlane};
use super::{NAMED_AFFECTS, SCHEMA_PACKED, schema_of};
use datapath::code::Code;
use datapath::printable::Printable;

/// The whole.
#[derive(Serialize)]
pub(super) struct Form<'r> {
    schema: &'static str,
    run: &'r Run,
    clusters: &'r [ClusterReport],
    coverage: &'r Coverage,
    cells: CellForms<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cells_packed: Option<Packed<'r>>,
    findings: FindingForms<'r>,
    verdict: RunVerdict,
    unjudged: &'r [String],
    #[serde(skip_serializing_if = "<[NodeRow]>::is_empty")]
    node_rows: &'r [NodeRow],
}

impl<'r> Form<'r> {
    pub(super) fn new(report: &'r Report, node_rows: bool) -> Self {
        let schema = schema_of(report);
        let is_packed = schema == SCHEMA_PACKED;
        Self {
            schema,
            run: &report.run,
            clusters: &report.clusters,
            coverage: &report.coverage,
            cells: CellForms((!is_packed).then_some(report)),
            cells_packed: is_packed.then_some(Packed {
                planes: Planes(report),
            }),
            findings: FindingForms { report, is_packed },
            verdict: report.verdict,
            unjudged: &report.unjudged,
            node_rows: if node_rows { &report.node_rows } else { &[] },
        }
    }
}

/// Every cell in full, one after the other.
struct CellForms<'r>(Option<&'r Report>);

impl Serialize for CellForms<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.into_iter().flat_map(Report::cells))
    }
}

#[derive(Serialize)]
struct Packed<'r> {
    planes: Planes<'r>,
}

struct Planes<'r>(&'r Report);

impl Serialize for Planes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.cells.planes().iter().map(PackedPlane::new))
    }
}

struct FindingForms<'r> {
    report: &'r Report,
    is_packed: bool,
}

impl Serialize for FindingForms<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let forms = self.report.findings.iter().map(|finding| {
            let packs = self.is_packed && finding.affects.len() > NAMED_AFFECTS;
            FindingForm::new(&self.report.clusters, finding, packs)
        });
        serializer.collect_seq(forms)
    }
}

#[derive(Serialize)]
struct FindingForm<'r> {
    id: &'r str,
    code: Code,
    severity: Severity,
    element: &'r Element,
    summary: &'r Printable,
    evidence: &'r [Evidence],
    ambiguous_with: &'r [Printable],
    affects: Names<'r>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    affects_packed: Vec<Affected>,
    #[serde(flatten)]
    fix: &'r Fix,
}

impl<'r> FindingForm<'r> {
    fn new(clusters: &'r [ClusterReport], finding: &'r Finding, packs: bool) -> Self {
        let named: &[CellId] = if packs { &[] } else { &finding.affects };
        Self {
            id: &finding.id,
            code: finding.code,
            severity: finding.severity,
            element: &finding.element,
            summary: &finding.summary,
            evidence: &finding.evidence,
            ambiguous_with: &finding.ambiguous_with,
            affects: Names(clusters, named),
            affects_packed: if packs {
                Affected::of(&finding.affects)
            } else {
                Vec::new()
            },
            fix: &finding.fix,
        }
    }
}

struct Names<'r>(&'r [ClusterReport], &'r [CellId]);

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|&id| CellName::new(self.0, id)))
    }
}
