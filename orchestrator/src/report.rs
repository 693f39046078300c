//! The report of a run, as data; [`json`] says how it is written: `floater.report/v1`, and `/v2` for large fleets.
//!
//! The field order of these types is the order of the JSON; everything that a reader may rely on is written, `null` included.

pub mod cells;
pub mod json;
pub mod kosmos;
pub mod schema;
pub mod table;

use std::fmt;

pub use cells::{CellId, Cells, Counted, Mark, Plane, RttSummary};
pub use json::{SCHEMA, SCHEMA_PACKED, Unreadable, parse};
pub use kosmos::kosmos_table;
pub use schema::{schema, schema_packed};

pub use datapath::code::Code;
pub use datapath::element::{Element, ElementKind, Fix, Step};

use datapath::printable::Printable;
use datapath::state::Family;
use floater::wire::Layer;
use serde::{Deserialize, Serialize};

/// Everything that a run has to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The run itself.
    pub run: Run,
    /// One entry per cluster, sorted by name.
    pub clusters: Vec<ClusterReport>,
    /// What was looked at.
    pub coverage: Coverage,
    /// The verdicts.
    pub cells: Cells,
    /// The likeliest cause first.
    pub findings: Vec<Finding>,
    /// The whole in a word.
    pub verdict: RunVerdict,
    /// What could not be judged and why, one sentence each; empty when all was.
    pub unjudged: Vec<String>,
    /// Per-node rows, only where they were asked for.
    pub node_rows: Vec<NodeRow>,
}

impl Report {
    /// Every cell with its names, by source, destination, layer and family.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        named_cells(&self.clusters, &self.cells, &self.findings)
    }

    /// One cell; none where there is none.
    #[must_use]
    pub fn cell(&self, id: CellId) -> Option<Cell<'_>> {
        named_cell(&self.clusters, &self.cells, &self.findings, id)
    }

    /// The name of a cell.
    #[must_use]
    pub fn name(&self, id: CellId) -> CellName<'_> {
        CellName::new(&self.clusters, id)
    }
}

/// One cell of a judgement.
pub(crate) fn named_cell<'r>(
    clusters: &'r [ClusterReport],
    cells: &'r Cells,
    findings: &'r [Finding],
    id: CellId,
) -> Option<Cell<'r>> {
    let plane = cells.plane(id.layer, id.family)?;
    let mark = plane.at(id.src as usize, id.dst as usize);
    cell(clusters, cells, findings, id, mark)
}

/// Every cell of a judgement with its names, by source, destination, layer and family.
pub(crate) fn named_cells<'r>(
    clusters: &'r [ClusterReport],
    cells: &'r Cells,
    findings: &'r [Finding],
) -> impl Iterator<Item = Cell<'r>> {
    cells
        .ids()
        .filter_map(move |(id, mark)| cell(clusters, cells, findings, id, mark))
}

fn cell<'r>(
    clusters: &'r [ClusterReport],
    cells: &Cells,
    findings: &'r [Finding],
    id: CellId,
    mark: Mark,
) -> Option<Cell<'r>> {
    let name = CellName::new(clusters, id);
    let plane = cells.plane(id.layer, id.family)?;
    let counted = plane.counted(id.src as usize, id.dst as usize);
    Some(Cell {
        id,
        src: name.src,
        dst: name.dst,
        layer: id.layer,
        family: id.family,
        state: mark.state()?,
        verdict: mark.verdict()?,
        sent: counted.map_or(0, |counted| counted.sent),
        received: counted.map_or(0, |counted| counted.received),
        rtt_us: counted.and_then(|counted| counted.rtt_us),
        findings: findings
            .iter()
            .filter(|finding| finding.affects.binary_search(&id).is_ok())
            .map(|finding| finding.id.as_str())
            .collect(),
    })
}

/// One pair of nodes on one layer and family (`-o wide`, `--nodes`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// The source, `cluster/node`.
    pub src: String,
    /// The destination, `cluster/node`.
    pub dst: String,
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
    /// The address that was probed.
    pub target: String,
    /// The verdict.
    pub verdict: CellVerdict,
    /// Packets and connections tried.
    pub sent: u64,
    /// Those that were answered by the right one.
    pub received: u64,
    /// Round-trip times; none without an answer.
    pub rtt_us: Option<RttSummary>,
    /// Why it failed; none when it did not.
    pub reason: Option<String>,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Chosen at random.
    pub id: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// What the choices of the run were drawn from.
    pub seed: u64,
    /// The program's version.
    pub tool: String,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The name it is shown by.
    pub name: String,
    /// `gateway` or `p2p`; none while unknown.
    pub mode: Option<String>,
    /// The families that the cluster has.
    pub families: Vec<Family>,
    /// The number of nodes.
    pub nodes: usize,
    /// Whether its floaters could be asked.
    pub state: Observation,
    /// Why not, where not.
    pub reason: Option<String>,
}

/// How much of a cluster could be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observation {
    /// All nodes.
    Observed,
    /// Some nodes.
    Partly,
    /// None.
    Unobserved,
}

/// What was looked at, with its denominator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Ordered pairs of distinct clusters.
    pub ordered_pairs: usize,
    /// Cells: pair × layer × family, every cluster's inside included.
    pub cells: usize,
    /// Cells with packets of this run.
    pub probed: usize,
    /// Cells whose tables let the packet through by [`datapath`]'s walk and whose shared parts were probed.
    pub proved: usize,
    /// Cells judged from other cells.
    pub inferred: usize,
    /// Cells judged from an earlier run.
    pub stale: usize,
    /// Cells that could not be judged.
    pub unobserved: usize,
    /// Packets and connections tried.
    pub probes_sent: u64,
    /// What follows from it.
    pub certificate: Certificate,
}

/// What a clean report excludes and what it cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Elements that a probe or a table comparison covered.
    pub covered: Vec<String>,
    /// Sets of elements that the evidence cannot tell apart.
    pub indistinguishable: Vec<Vec<String>>,
    /// Elements that nothing covered.
    pub not_covered: Vec<String>,
}

/// One (source, destination, layer, family) with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell<'r> {
    /// Its place.
    #[serde(skip)]
    pub id: CellId,
    /// The source cluster's name.
    pub src: &'r str,
    /// The destination cluster's name.
    pub dst: &'r str,
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
    /// How it was judged.
    pub state: CellState,
    /// The judgement.
    pub verdict: CellVerdict,
    /// Packets and connections tried.
    pub sent: u32,
    /// Those that were answered by the right one.
    pub received: u32,
    /// Round-trip times; none without an answer.
    pub rtt_us: Option<RttSummary>,
    /// Ids of the findings that explain it.
    pub findings: Vec<&'r str>,
}

/// How a cell was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// From other cells.
    Inferred,
    /// By packets of this run.
    Probed,
    /// By tables, with every shared part probed.
    Proved,
    /// By an earlier run.
    Stale,
    /// Not at all.
    Unobserved,
}

/// The judgement of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellVerdict {
    /// Some node pairs or packets fail.
    Degraded,
    /// Nothing gets through.
    Fail,
    /// Everything gets through.
    Pass,
    /// Could not be told.
    Unknown,
}

/// One cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A hash of code and element.
    pub id: String,
    /// The cause code.
    pub code: Code,
    /// What it does to the run's verdict.
    pub severity: Severity,
    /// The object that is the cause.
    pub element: Element,
    /// One sentence.
    pub summary: Printable,
    /// What proves it.
    pub evidence: Vec<Evidence>,
    /// Codes or elements that the evidence cannot exclude.
    pub ambiguous_with: Vec<Printable>,
    /// The cells that suffer, sorted.
    pub affects: Vec<CellId>,
    /// What an operator would do; never run by the tool. In JSON `fix` is one line and `fix_steps` the same step by step.
    pub fix: Fix,
}

/// What a finding does to the run's verdict, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// At least one cell fails or degrades.
    Error,
    /// Differs from intent while every packet still passes.
    Warning,
    /// Context.
    Info,
}

/// One piece of proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What kind of proof.
    pub kind: EvidenceKind,
    /// Where it was read, `cluster/node`.
    pub source: Printable,
    /// What was read.
    pub text: Printable,
}

/// What kind of proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceKind {
    /// A counter that moved.
    Counter,
    /// What was planned.
    Intent,
    /// A probe's outcome.
    Probe,
    /// A row of a kernel.
    Table,
}

/// The name of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CellName<'r> {
    /// The source cluster's name.
    pub src: &'r str,
    /// The destination cluster's name.
    pub dst: &'r str,
    /// The layer.
    pub layer: Layer,
    /// The family.
    pub family: Family,
}

impl<'r> CellName<'r> {
    /// The name of a cell of these clusters.
    #[must_use]
    pub fn new(clusters: &'r [ClusterReport], id: CellId) -> Self {
        // Positions come with their clusters, or were checked when they were read.
        let name = |at: u32| {
            clusters
                .get(at as usize)
                .map_or("?", |one| one.name.as_str())
        };
        Self {
            src: name(id.src),
            dst: name(id.dst),
            layer: id.layer,
            family: id.family,
        }
    }
}

/// The whole in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunVerdict {
    /// At least one finding of severity `warning`, none of `error`.
    Degraded,
    /// At least one finding of severity `error`.
    Fault,
    /// Judged, nothing found.
    Healthy,
    /// Nothing found, but some of what was asked could not be judged.
    Unknown,
}

impl CellVerdict {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Fail => "fail",
            Self::Pass => "pass",
            Self::Unknown => "unknown",
        }
    }
}

impl CellState {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Inferred => "inferred",
            Self::Probed => "probed",
            Self::Proved => "proved",
            Self::Stale => "stale",
            Self::Unobserved => "unobserved",
        }
    }
}

impl Severity {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl Observation {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Partly => "partly",
            Self::Unobserved => "unobserved",
        }
    }
}

impl EvidenceKind {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Intent => "intent",
            Self::Probe => "probe",
            Self::Table => "table",
        }
    }
}

impl RunVerdict {
    /// The word of the JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Fault => "fault",
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
        }
    }
}

/// The word of the JSON for a layer.
#[must_use]
pub fn layer_word(layer: Layer) -> &'static str {
    match layer {
        Layer::Host => "host",
        Layer::Pod => "pod",
    }
}

impl Finding {
    /// What it cannot be told apart from, as one line.
    #[must_use]
    pub fn alternatives(&self) -> String {
        let words: Vec<&str> = self.ambiguous_with.iter().map(Printable::as_str).collect();
        words.join(", ")
    }

    /// The id of a finding: a hash (FNV-1a, 40 bits in hexadecimal) of its code and element, so that the same cause has the same id
    /// in every run.
    #[must_use]
    pub fn id_of(code: Code, element: &Element) -> String {
        let none = "\u{1}";
        let words = [
            code.word(),
            element.cluster.as_deref().unwrap_or(none),
            element.node.as_deref().unwrap_or(none),
            element.kind.word(),
            &element.name,
        ];
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for word in words {
            for byte in word.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{:010x}", (hash ^ (hash >> 24)) & 0xff_ffff_ffff)
    }
}

impl<'r> Cell<'r> {
    /// The cell's name.
    #[must_use]
    pub fn name(&self) -> CellName<'r> {
        CellName {
            src: self.src,
            dst: self.dst,
            layer: self.layer,
            family: self.family,
        }
    }
}

impl fmt::Display for CellName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {} {} {}",
            self.src,
            self.dst,
            layer_word(self.layer),
            self.family
        )
    }
}
