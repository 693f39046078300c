//! From evidence to cells and findings.
//!
//! ```text
//! tables ──► suspicions ─┐                    (what differs from intent, one code per row)
//! tables ──► walks ──────┼─► join ─► findings (which pairs suffer from which suspicion)
//! probes ──► pairs ──────┘     └──► cells     (what passes, what fails, what nobody knows)
//! ```
//! Pure and deterministic: the same evidence gives the same bytes, whatever the number of threads.

mod cells;
mod certificate;
mod demand;
mod filters;
mod findings;
mod intent;
mod join;
mod objections;
mod pairs;
pub mod path;
mod residual;
mod scope;
mod tables;
mod usual;
mod walks;

use datapath::state::Family;
use floater::wire::Layer;

use crate::evidence::{Gathered, NodeRef};
use crate::probe_plan::What;
use crate::report::{
    Cell, CellId, Cells, ClusterReport, Coverage, Finding, NodeRow, Report, Run, RunVerdict,
    Severity,
};

/// What the evidence says: a report without the run's own particulars.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// One entry per cluster, in the order of the evidence.
    pub clusters: Vec<ClusterReport>,
    /// What was looked at.
    pub coverage: Coverage,
    /// The verdicts.
    pub cells: Cells,
    /// The likeliest cause first.
    pub findings: Vec<Finding>,
    /// The whole in a word.
    pub verdict: RunVerdict,
    /// What could not be judged and why.
    pub unjudged: Vec<String>,
    /// Pairs of nodes that were probed, where [`What::node_rows`] asks for them.
    pub node_rows: Vec<NodeRow>,
}

impl Judged {
    /// Every cell with its names, by source, destination, layer and family.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        crate::report::named_cells(&self.clusters, &self.cells, &self.findings)
    }

    /// One cell; none where there is none.
    #[must_use]
    pub fn cell(&self, id: CellId) -> Option<Cell<'_>> {
        crate::report::named_cell(&self.clusters, &self.cells, &self.findings, id)
    }

    /// The report of the run that gathered the evidence.
    #[must_use]
    pub fn into_report(self, run: Run) -> Report {
        Report {
            run,
            clusters: self.clusters,
            coverage: self.coverage,
            cells: self.cells,
            findings: self.findings,
            verdict: self.verdict,
            unjudged: self.unjudged,
            node_rows: self.node_rows,
        }
    }
}

/// Judges what a run has gathered.
#[must_use]
pub fn diagnose(gathered: &Gathered, what: &What) -> Judged {
    let scope = scope::Scope::new(gathered, what);
    let mut unjudged = scope.unasked();
    unjudged.extend(gathered.refused.iter().cloned());
    let pairs = pairs::judge(&scope, &mut unjudged);
    let intended = intent::Intended::new(&scope);
    unjudged.extend(tables::unread(&scope, &intended));
    let mut graph = join::graph(&scope, &intended);
    join::cover(&scope, &mut graph, &pairs);
    let suspicions = tables::suspicions(&scope, &intended);
    let walks = walks::Walks::new(&scope, &intended);
    let sound = demand::Sound::new(&scope, &intended, &graph, &suspicions);
    let demand = demand::pairs(&scope, &pairs, &sound);
    unjudged.extend(demand.unlooked());
    let mut joined = join::join(&scope, &graph, &walks, &pairs, &suspicions, &demand);
    let mut findings = findings::of_suspicions(&scope, suspicions, &joined);
    findings.extend(objections::of_control_plane(
        &scope,
        &intended.objections,
        &mut joined,
    ));
    findings.extend(filters::findings(
        &scope,
        &walks,
        &mut joined,
        &mut unjudged,
    ));
    let (residual, left) = residual::findings(&scope, &intended, &graph, &joined);
    findings.extend(residual);
    if left > 0 {
        unjudged.push(format!(
            "{left} more node pairs fail for reasons that packets alone do not tell; mend what is found and run again"
        ));
    }
    let mut cells = cells::assemble(&scope, &joined, &sound);
    findings::add_losses(&scope, &cells, &mut findings);
    findings.extend(objections::of_inventory(&scope, &mut unjudged));
    findings::order(&mut findings);
    unjudged.extend(cells::withdraw_unexplained(&scope, &mut cells, &findings));
    let mut coverage = cells::coverage(&scope, &cells);
    coverage.certificate = certificate::certificate(&scope, &intended, &graph, &findings);
    let verdict = verdict(&coverage, &findings, &unjudged);
    Judged {
        clusters: scope.cluster_reports(),
        coverage,
        cells,
        findings,
        verdict,
        unjudged,
        node_rows: if what.node_rows {
            cells::node_rows(&scope, &pairs)
        } else {
            Vec::new()
        },
    }
}

/// By the findings' severities; only where none of them counts does it matter what could not be told.
fn verdict(coverage: &Coverage, findings: &[Finding], unjudged: &[String]) -> RunVerdict {
    let found = |severity| findings.iter().any(|finding| finding.severity == severity);
    if found(Severity::Error) {
        RunVerdict::Fault
    } else if found(Severity::Warning) {
        RunVerdict::Degraded
    } else if !unjudged.is_empty() || coverage.unobserved > 0 {
        RunVerdict::Unknown
    } else {
        RunVerdict::Healthy
    }
}

/// The pairs of nodes, layers and families of which more packets would tell more, sorted.
pub(crate) fn open_pairs(
    gathered: &Gathered,
    what: &What,
) -> Vec<(NodeRef, NodeRef, Layer, Family)> {
    let scope = scope::Scope::new(gathered, what);
    pairs::open(&scope)
        .into_iter()
        .map(|key| (key.src, key.dst, key.layer, key.family))
        .collect()
}
