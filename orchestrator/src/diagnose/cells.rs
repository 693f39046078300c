//! From pairs of nodes to cells of clusters, and what was covered.

use std::collections::BTreeMap;

use floater::stats;
use floater::wire::Rtt;

use super::join::Joined;
use super::pairs::{Fate, Pair};
use super::scope::{CellKey, Scope};
use super::walks::Walked;
use crate::report::{Cell, CellState, CellVerdict, Coverage, NodeRow, RttSummary};
use crate::sequential::{ROUNDS, is_beyond};

/// The cells that were asked about, in order, and the sums.
pub(super) fn assemble(scope: &Scope<'_>, joined: &[Joined<'_, '_>]) -> (Vec<Cell>, Coverage) {
    let mut by_cell: BTreeMap<CellKey, Vec<&Joined<'_, '_>>> = BTreeMap::new();
    for joined in joined {
        by_cell.entry(joined.key.cell()).or_default().push(joined);
    }
    let usual = usual_loss(by_cell.values());
    let mut coverage = Coverage::default();
    let mut cells = Vec::new();
    let mut ordered = std::collections::BTreeSet::new();
    for key in scope.cells() {
        if key.src != key.dst {
            ordered.insert((key.src, key.dst));
        }
        let members: &[&Joined<'_, '_>] = by_cell.get(&key).map_or(&[], Vec::as_slice);
        let cell = cell(scope, key, members, usual);
        match cell.state {
            CellState::Inferred => coverage.inferred += 1,
            CellState::Probed => coverage.probed += 1,
            CellState::Proved => coverage.proved += 1,
            CellState::Stale => coverage.stale += 1,
            CellState::Unobserved => coverage.unobserved += 1,
        }
        coverage.probes_sent += cell.sent;
        cells.push(cell);
    }
    coverage.ordered_pairs = ordered.len();
    coverage.cells = cells.len();
    (cells, coverage)
}

fn cell(scope: &Scope<'_>, key: CellKey, members: &[&Joined<'_, '_>], usual: f64) -> Cell {
    let pairs: Vec<&Pair<'_>> = members.iter().filter_map(|joined| joined.pair).collect();
    let packets = pairs
        .iter()
        .any(|pair| !matches!(pair.fate, Fate::Unknown(_)));
    let fates: Vec<Fate> = members.iter().map(|joined| joined.fate()).collect();
    let mut verdict = verdict(&fates.iter().collect::<Vec<_>>());
    let state = match verdict {
        CellVerdict::Unknown => CellState::Unobserved,
        _ if packets => CellState::Probed,
        // By tables alone: a walk that stops proves itself, one that passes needs the shared parts to have carried packets.
        CellVerdict::Fail | CellVerdict::Degraded => CellState::Proved,
        CellVerdict::Pass if is_proved(members) => CellState::Proved,
        CellVerdict::Pass if scope.what.tables_only => CellState::Inferred,
        CellVerdict::Pass => {
            verdict = CellVerdict::Unknown;
            CellState::Unobserved
        }
    };
    if verdict == CellVerdict::Pass && is_lossy(members, usual) {
        verdict = CellVerdict::Degraded;
    }
    Cell {
        src: scope.cluster(key.src).name.clone(),
        dst: scope.cluster(key.dst).name.clone(),
        layer: key.layer,
        family: key.family,
        state,
        verdict,
        sent: pairs.iter().map(|pair| pair.sent()).sum(),
        received: pairs.iter().map(|pair| pair.received()).sum(),
        rtt_us: summary(pairs.iter().flat_map(|pair| pair.rtts())),
        findings: Vec::new(),
    }
}

fn is_proved(members: &[&Joined<'_, '_>]) -> bool {
    members
        .iter()
        .all(|joined| joined.walked == Some(Walked::Passes) && joined.covered)
}

/// Packets sent and lost where something was answered in the same protocol, so that neither a cut nor a filter counts as loss.
fn losses(members: &[&Joined<'_, '_>]) -> (u64, u64) {
    members
        .iter()
        .filter_map(|joined| joined.pair)
        .flat_map(|pair| [&pair.icmp, &pair.tcp])
        .map(|tally| tally.losses)
        .filter(|losses| losses.received > 0)
        .fold((0, 0), |(sent, lost), losses| {
            (
                sent + losses.sent,
                lost + losses.sent.saturating_sub(losses.received),
            )
        })
}

/// The share of packets that the cell in the middle loses: what most of the fleet shares is no fault of one, and a fault does not move
/// the middle.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets of one run are far below 2^52"
)]
fn usual_loss<'j>(cells: impl Iterator<Item = &'j Vec<&'j Joined<'j, 'j>>>) -> f64 {
    let mut rates: Vec<f64> = cells
        .map(|members| losses(members))
        .filter(|&(sent, _)| sent > 0)
        .map(|(sent, lost)| lost as f64 / sent as f64)
        .collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

fn is_lossy(members: &[&Joined<'_, '_>], usual: f64) -> bool {
    let (sent, lost) = losses(members);
    let rounds = members
        .iter()
        .filter_map(|joined| joined.pair)
        .map(|pair| pair.icmp.losses.rounds.max(pair.tcp.losses.rounds))
        .max();
    rounds >= Some(ROUNDS) && is_beyond(usual, sent, lost)
}

/// Takes back what nothing explains: a cell fails because of something, or nobody can tell. Returns why, one sentence each.
pub(super) fn withdraw_unexplained(cells: &mut [Cell], coverage: &mut Coverage) -> Vec<String> {
    let mut sentences = Vec::new();
    for cell in cells.iter_mut().filter(|cell| {
        matches!(cell.verdict, CellVerdict::Degraded | CellVerdict::Fail)
            && cell.findings.is_empty()
    }) {
        sentences.push(format!(
            "{} loses packets, and nothing was found that explains it",
            cell.name()
        ));
        match cell.state {
            CellState::Inferred => coverage.inferred -= 1,
            CellState::Probed => coverage.probed -= 1,
            CellState::Proved => coverage.proved -= 1,
            CellState::Stale => coverage.stale -= 1,
            CellState::Unobserved => coverage.unobserved -= 1,
        }
        coverage.unobserved += 1;
        cell.verdict = CellVerdict::Unknown;
        cell.state = CellState::Unobserved;
    }
    let all = sentences.len();
    if all > NAMED {
        sentences.truncate(NAMED);
        sentences.push(format!("and {} more cells", all - NAMED));
    }
    sentences
}

/// So many cells are named; the others are counted.
const NAMED: usize = 5;

/// What pairs say together: what nobody knows does not count while somebody knows something.
pub(super) fn verdict(fates: &[&Fate]) -> CellVerdict {
    let count = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
    let passes = count(|fate| *fate == Fate::Passes);
    let lost = count(|fate| *fate == Fate::Lost);
    let half = count(|fate| matches!(fate, Fate::Half | Fate::Large | Fate::Lossy));
    match (passes, lost, half) {
        (0, 0, 0) => CellVerdict::Unknown,
        (_, 0, 0) => CellVerdict::Pass,
        (0, _, 0) => CellVerdict::Fail,
        _ => CellVerdict::Degraded,
    }
}

/// The pairs as rows.
pub(super) fn node_rows(scope: &Scope<'_>, pairs: &[Pair<'_>]) -> Vec<NodeRow> {
    pairs
        .iter()
        .map(|pair| NodeRow {
            src: scope.place(pair.key.src),
            dst: scope.place(pair.key.dst),
            layer: pair.key.layer,
            family: pair.key.family,
            target: pair.target.to_string(),
            verdict: verdict(&[&pair.fate]),
            sent: pair.sent(),
            received: pair.received(),
            rtt_us: summary(pair.rtts()),
            reason: pair.reason(),
        })
        .collect()
}

/// Round-trip times of several probes.
fn summary<'r>(rtts: impl IntoIterator<Item = &'r Rtt>) -> Option<RttSummary> {
    stats::merge(rtts).map(|all| RttSummary {
        p50: all.p50_us,
        p99: all.p99_us,
        max: all.max_us,
    })
}
