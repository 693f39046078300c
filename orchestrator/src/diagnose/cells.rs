//! From pairs of nodes to cells of clusters, and what was covered.

use std::collections::BTreeMap;

use datapath::state::Family;
use floater::stats;
use floater::wire::{Layer, Rtt};
use rayon::prelude::*;

use super::demand::Sound;
use super::findings::explained;
use super::join::Joined;
use super::pairs::{Fate, Pair, place};
use super::scope::Scope;
use super::walks::Walked;
use crate::report::{
    CellId, CellState, CellVerdict, Cells, Counted, Coverage, Finding, Mark, NodeRow, Plane,
    RttSummary,
};
use crate::sequential::{ROUNDS, is_beyond};

/// The cells that were asked about. A cell of which no pair was looked at is as `sound` says.
pub(super) fn assemble(scope: &Scope<'_>, joined: &[Joined<'_, '_>], sound: &Sound) -> Cells {
    let mut by_cell: Vec<&Joined<'_, '_>> = joined.iter().collect();
    by_cell.sort_by_key(|joined| joined.key.cell());
    let groups: Vec<&[&Joined<'_, '_>]> = by_cell
        .chunk_by(|left, right| left.key.cell() == right.key.cell())
        .collect();
    let usual = usual_loss(&groups);
    let mut cells = Cells::new(scope.gathered.clusters.len());
    let mut counts: BTreeMap<(Layer, Family), Vec<Counted>> = BTreeMap::new();
    for (layer, family) in scope.planes() {
        fill(scope, sound, cells.plane_mut(layer, family));
    }
    for members in groups {
        let id = members[0].key.cell();
        let (src, dst) = (id.src as usize, id.dst as usize);
        if !scope.is_cell(src, dst, id.family) || !scope.what.wants_family(id.family) {
            continue;
        }
        let plane = cells.plane_mut(id.layer, id.family);
        plane.set(src, dst, mark(scope, members, usual));
        if let Some(counted) = counted(id, members) {
            counts
                .entry((id.layer, id.family))
                .or_default()
                .push(counted);
        }
    }
    for ((layer, family), counts) in counts {
        cells.plane_mut(layer, family).count(counts);
    }
    cells
}

/// Marks every cell of a plane by what is known of its clusters as wholes: a row at a time, a byte a cell.
fn fill(scope: &Scope<'_>, sound: &Sound, plane: &mut Plane) {
    let (layer, family) = (plane.layer, plane.family);
    let clusters = scope.gathered.clusters.len();
    let is_sound = |cluster| sound.is_sound(cluster, layer, family);
    let unknown = Mark::new(CellState::Unobserved, CellVerdict::Unknown);
    let passes = if scope.what.tables_only {
        Mark::new(CellState::Inferred, CellVerdict::Pass)
    } else {
        Mark::new(CellState::Proved, CellVerdict::Pass)
    };
    // By destination: what a source that is sound, and one that is not, has there.
    let destinations = (0..clusters).map(|dst| scope.ends(dst, family).1);
    let (from_sound, from_other): (Vec<Mark>, Vec<Mark>) = destinations
        .enumerate()
        .map(|(dst, is_asked)| match (is_asked, is_sound(dst)) {
            (false, _) => (Mark::NONE, Mark::NONE),
            (true, true) => (passes, unknown),
            (true, false) => (unknown, unknown),
        })
        .unzip();
    plane.rows_mut().enumerate().for_each(|(src, row)| {
        if !scope.ends(src, family).0 {
            return;
        }
        let is_sound = is_sound(src);
        row.copy_from_slice(if is_sound { &from_sound } else { &from_other });
        // The inside of a cluster is looked at, or nothing is known of it.
        if row[src].is_cell() {
            row[src] = unknown;
        }
    });
}

/// How many cells were judged in which way, and what was sent for them.
pub(super) fn coverage(scope: &Scope<'_>, cells: &Cells) -> Coverage {
    let mut coverage = Coverage {
        ordered_pairs: scope.ordered_pairs(),
        ..Coverage::default()
    };
    for plane in cells.planes() {
        for src in 0..plane.side() {
            for mark in plane.row(src) {
                match mark.state() {
                    None => continue,
                    Some(CellState::Inferred) => coverage.inferred += 1,
                    Some(CellState::Probed) => coverage.probed += 1,
                    Some(CellState::Proved) => coverage.proved += 1,
                    Some(CellState::Stale) => coverage.stale += 1,
                    Some(CellState::Unobserved) => coverage.unobserved += 1,
                }
                coverage.cells += 1;
            }
        }
        let sent = plane.counts().iter().map(|one| u64::from(one.sent));
        coverage.probes_sent += sent.sum::<u64>();
    }
    coverage
}

fn mark(scope: &Scope<'_>, members: &[&Joined<'_, '_>], usual: f64) -> Mark {
    let packets = members
        .iter()
        .filter_map(|joined| joined.pair)
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
    Mark::new(state, verdict)
}

/// The packets of a cell; none where none were sent.
fn counted(id: CellId, members: &[&Joined<'_, '_>]) -> Option<Counted> {
    let pairs = || members.iter().filter_map(|joined| joined.pair);
    let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let sent = number(pairs().map(Pair::sent).sum());
    let received = number(pairs().map(Pair::received).sum());
    (sent > 0 || received > 0).then(|| Counted {
        src: id.src,
        dst: id.dst,
        sent,
        received,
        rtt_us: summary(pairs().flat_map(Pair::rtts)),
    })
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
fn usual_loss(cells: &[&[&Joined<'_, '_>]]) -> f64 {
    let mut rates: Vec<f64> = cells
        .iter()
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
pub(super) fn withdraw_unexplained(
    scope: &Scope<'_>,
    cells: &mut Cells,
    findings: &[Finding],
) -> Vec<String> {
    let explained = explained(findings);
    let mut withdrawn: Vec<CellId> = Vec::new();
    for plane in cells.planes_mut() {
        let (layer, family) = (plane.layer, plane.family);
        let unexplained: Vec<(usize, usize)> = plane
            .troubles()
            .filter(|(_, _, mark)| mark.verdict() != Some(CellVerdict::Unknown))
            .filter(|&(src, dst, _)| {
                !explained.contains(&CellId {
                    src: place(src),
                    dst: place(dst),
                    layer,
                    family,
                })
            })
            .map(|(src, dst, _)| (src, dst))
            .collect();
        for (src, dst) in unexplained {
            let unknown = Mark::new(CellState::Unobserved, CellVerdict::Unknown);
            plane.set(src, dst, unknown);
            withdrawn.push(CellId {
                src: place(src),
                dst: place(dst),
                layer,
                family,
            });
        }
    }
    withdrawn.sort_unstable();
    let mut sentences: Vec<String> = withdrawn
        .iter()
        .take(NAMED)
        .map(|&id| {
            format!(
                "{} loses packets, and nothing was found that explains it",
                scope.cell_name(id)
            )
        })
        .collect();
    if withdrawn.len() > NAMED {
        sentences.push(format!("and {} more cells", withdrawn.len() - NAMED));
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
    let number = |time: u64| u32::try_from(time).unwrap_or(u32::MAX);
    stats::merge(rtts).map(|all| RttSummary {
        p50: number(all.p50_us),
        p99: number(all.p99_us),
        max: number(all.max_us),
    })
}
