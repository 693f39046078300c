//! From suspicions and the pairs that suffer to findings, the likeliest cause first.

use std::collections::{BTreeSet, HashSet};

use datapath::code::Code;
use datapath::element::{ElementKind, Fix};
use datapath::printable::Printable;

use super::join::{Joined, towards};
use super::pairs::{Fate, place};
use super::scope::Scope;
use super::tables::Suspicion;
use super::walks::Walked;
use crate::causes;
use crate::report::{
    CellId, CellVerdict, Cells, Element, Evidence, EvidenceKind, Finding, Severity,
};

/// So many pairs are named as evidence of one finding.
const NAMED: usize = 3;

/// The findings of the tables.
pub(super) fn of_suspicions(
    scope: &Scope<'_>,
    suspicions: Vec<Suspicion>,
    joined: &[Joined<'_, '_>],
) -> Vec<Finding> {
    let mut blamed: Vec<Vec<&Joined<'_, '_>>> = vec![Vec::new(); suspicions.len()];
    let mut passing = vec![0_usize; suspicions.len()];
    for joined in joined {
        for &at in &joined.blamed {
            blamed[at].push(joined);
        }
        if joined.pair.is_some() && joined.fate() == Fate::Passes {
            joined.crosses.iter().for_each(|&at| passing[at] += 1);
        }
    }
    suspicions
        .into_iter()
        .zip(blamed)
        .zip(passing)
        .map(|((suspicion, suffering), passing)| {
            let is_detour = suspicion.code == Code::FailoverIncomplete && suspicion.soft;
            let element = Element {
                cluster: Some(scope.cluster(suspicion.at.cluster).name.as_str().into()),
                node: Some(scope.node(suspicion.at).name.as_str().into()),
                kind: suspicion.kind,
                name: suspicion.name.into(),
            };
            let mut evidence = suspicion.evidence;
            evidence.extend(packets(scope, &suffering));
            if suffering.is_empty() && passing > 0 {
                evidence.push(Evidence {
                    kind: EvidenceKind::Probe,
                    source: scope.place(suspicion.at).into(),
                    text: format!(
                        "packets of all {passing} pairs of nodes that cross it still pass"
                    )
                    .into(),
                });
            }
            let mut found = finding(
                suspicion.code,
                element,
                suspicion.summary,
                evidence,
                Vec::new(),
                affected(&suffering),
                suspicion.fix,
            );
            // A node that its own cluster calls not ready may be rebooting or scaled down: no fault of the network.
            if suspicion.code == Code::NodeDown
                && suffering.is_empty()
                && scope.excuse(suspicion.at).is_some()
            {
                found.severity = Severity::Info;
            }
            // Standing in for a gateway is what a standby is planned for.
            if is_detour && suffering.is_empty() {
                found.severity = Severity::Info;
            }
            found
        })
        .collect()
}

/// A finding whose severity follows from whether anything suffers.
pub(super) fn finding(
    code: Code,
    element: Element,
    summary: String,
    evidence: Vec<Evidence>,
    ambiguous_with: Vec<Printable>,
    affects: Vec<CellId>,
    fix: Fix,
) -> Finding {
    Finding {
        id: Finding::id_of(code, &element),
        code,
        severity: if affects.is_empty() {
            Severity::Warning
        } else {
            Severity::Error
        },
        element,
        summary: summary.into(),
        evidence,
        ambiguous_with,
        affects,
        fix,
    }
}

/// The cells of pairs, in order.
pub(super) fn affected(suffering: &[&Joined<'_, '_>]) -> Vec<CellId> {
    let cells: BTreeSet<CellId> = suffering.iter().map(|joined| joined.key.cell()).collect();
    cells.into_iter().collect()
}

/// The pairs that suffer as evidence: some by name, all by number.
pub(super) fn packets(scope: &Scope<'_>, suffering: &[&Joined<'_, '_>]) -> Vec<Evidence> {
    let mut evidence: Vec<Evidence> = suffering
        .iter()
        .take(NAMED)
        .map(|joined| {
            let (kind, text) = match (&joined.pair, &joined.walked) {
                (Some(pair), _) => (
                    EvidenceKind::Probe,
                    pair.reason().unwrap_or_else(|| "fails".to_owned()),
                ),
                (None, Some(Walked::Stops { text, answer, .. })) => (
                    EvidenceKind::Table,
                    format!(
                        "{} {text}",
                        if *answer {
                            "the tables say that the answer is"
                        } else {
                            "the tables say that it is"
                        }
                    ),
                ),
                _ => (EvidenceKind::Table, "fails".to_owned()),
            };
            Evidence {
                kind,
                source: scope.place(joined.key.src).into(),
                text: format!("{}: {text}", towards(scope, joined.key)).into(),
            }
        })
        .collect();
    if suffering.len() > NAMED {
        evidence.push(Evidence {
            kind: if suffering.iter().any(|joined| joined.pair.is_some()) {
                EvidenceKind::Probe
            } else {
                EvidenceKind::Table
            },
            source: scope.place(suffering[0].key.src).into(),
            text: format!("and {} more node pairs", suffering.len() - NAMED).into(),
        });
    }
    evidence
}

/// Adds cells that pass but lose far more than the others and that nothing else explains: to the loss of a cluster that is one of
/// their ends, where that has been found, else each as a finding of its own.
pub(super) fn add_losses(scope: &Scope<'_>, cells: &Cells, findings: &mut Vec<Finding>) {
    let mut alone = Vec::new();
    for (id, sent, received) in lossy(cells, &explained(findings)) {
        let mut lossy = findings
            .iter_mut()
            .filter(|finding| finding.code == Code::LossGray);
        let of_an_end = lossy.find(|finding| {
            common_end(&finding.affects).is_some_and(|end| [id.src, id.dst].contains(&end))
        });
        match of_an_end {
            Some(finding) => {
                finding.affects.push(id);
                finding.affects.sort_unstable();
            }
            None => alone.push(of_cell(scope, id, sent, received)),
        }
    }
    findings.append(&mut alone);
}

/// The cells that lose some packets and that nothing explains, with what was sent and what came back.
fn lossy(cells: &Cells, explained: &HashSet<CellId>) -> Vec<(CellId, u32, u32)> {
    let mut lossy: Vec<(CellId, u32, u32)> = Vec::new();
    for plane in cells.planes() {
        for (src, dst, mark) in plane.troubles() {
            let id = CellId {
                src: place(src),
                dst: place(dst),
                layer: plane.layer,
                family: plane.family,
            };
            if mark.verdict() == Some(CellVerdict::Degraded) && !explained.contains(&id) {
                let counted = plane.counted(src, dst);
                let (sent, received) = counted.map_or((0, 0), |one| (one.sent, one.received));
                lossy.push((id, sent, received));
            }
        }
    }
    lossy.sort_unstable();
    lossy
}

/// The cluster that all of several pairs of clusters have in common; none where they are not several, or have none or two.
fn common_end(cells: &[CellId]) -> Option<u32> {
    let [first, rest @ ..] = cells else {
        return None;
    };
    let is_common = |end: &u32| rest.iter().all(|cell| [cell.src, cell.dst].contains(end));
    let mut ends = [first.src, first.dst].into_iter().filter(is_common);
    match (ends.next(), ends.next()) {
        (Some(end), None) => Some(end),
        _ => None,
    }
}

fn of_cell(scope: &Scope<'_>, id: CellId, sent: u32, received: u32) -> Finding {
    let name = scope.cell_name(id);
    let element = Element {
        cluster: None,
        node: None,
        kind: ElementKind::Underlay,
        name: name.as_str().into(),
    };
    finding(
        Code::LossGray,
        element,
        format!(
            "{name} loses {} of {sent} packets",
            sent.saturating_sub(received)
        ),
        vec![Evidence {
            kind: EvidenceKind::Probe,
            source: scope.cluster(id.src as usize).name.as_str().into(),
            text: format!("{received} of {sent} answered").into(),
        }],
        vec![
            Code::QueueDrop.word().into(),
            Code::RateLimited.word().into(),
        ],
        vec![id],
        Fix::advice(
            "run again with --rounds 10, then look at queues, policers and errors along the path",
        ),
    )
}

/// The cells that findings affect.
pub(super) fn explained(findings: &[Finding]) -> HashSet<CellId> {
    findings
        .iter()
        .flat_map(|finding| finding.affects.iter().copied())
        .collect()
}

/// The likeliest first: by severity, by the number of cells explained, by how specific the code is, by place.
pub(super) fn order(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        a.severity
            .cmp(&b.severity)
            .then(b.affects.len().cmp(&a.affects.len()))
            .then(causes::rank(a.code).cmp(&causes::rank(b.code)))
            .then(a.element.cmp(&b.element))
            .then(a.code.cmp(&b.code))
    });
    findings.dedup_by(|a, b| a.id == b.id);
}
