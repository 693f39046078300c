//! From pairs of nodes to cells of clusters, and what was covered.

use std::collections::BTreeMap;

use base64::Engine as _;
use floater::wire::Rtt;
use hdrhistogram::Histogram;

use super::join::Joined;
use super::pairs::{Fate, Pair};
use super::scope::{CellKey, Scope};
use super::walks::Walked;
use crate::report::{Cell, CellState, CellVerdict, Coverage, NodeRow, RttSummary};

/// A cell is lossy from so many lost packets on.
const LOSSY_PACKETS: u64 = 3;

/// The cells that were asked about, in order, and the sums.
pub(super) fn assemble(scope: &Scope<'_>, joined: &[Joined<'_, '_>]) -> (Vec<Cell>, Coverage) {
    let mut by_cell: BTreeMap<CellKey, Vec<&Joined<'_, '_>>> = BTreeMap::new();
    for joined in joined {
        by_cell.entry(joined.key.cell()).or_default().push(joined);
    }
    let background = background(joined);
    let mut coverage = Coverage::default();
    let mut cells = Vec::new();
    let mut ordered = std::collections::BTreeSet::new();
    for key in scope.cells() {
        if key.src != key.dst {
            ordered.insert((key.src, key.dst));
        }
        let members: &[&Joined<'_, '_>] = by_cell.get(&key).map_or(&[], Vec::as_slice);
        let cell = cell(scope, key, members, background);
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

fn cell(
    scope: &Scope<'_>,
    key: CellKey,
    members: &[&Joined<'_, '_>],
    background: (u64, u64),
) -> Cell {
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
    if verdict == CellVerdict::Pass && is_lossy(members, background) {
        verdict = CellVerdict::Degraded;
    }
    let mut all = Merged::default();
    for rtt in pairs.iter().flat_map(|pair| pair.rtts()) {
        all.add(rtt);
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
        rtt_us: all.summary(),
        findings: Vec::new(),
    }
}

fn is_proved(members: &[&Joined<'_, '_>]) -> bool {
    members
        .iter()
        .all(|joined| joined.walked == Some(Walked::Passes) && joined.covered)
}

/// Packets sent and lost where something was answered in the same protocol, so that neither a cut nor a filter counts as loss.
fn losses<'j>(joined: impl Iterator<Item = &'j Joined<'j, 'j>>) -> (u64, u64) {
    joined
        .filter_map(|joined| joined.pair)
        .flat_map(|pair| [&pair.icmp, &pair.tcp])
        .filter(|tally| tally.received > 0)
        .fold((0, 0), |(sent, lost), tally| {
            (
                sent + tally.sent,
                lost + tally.sent.saturating_sub(tally.received),
            )
        })
}

/// What the whole fleet loses: a loss that all share is no fault of one.
fn background(joined: &[Joined<'_, '_>]) -> (u64, u64) {
    losses(joined.iter())
}

fn is_lossy(members: &[&Joined<'_, '_>], (all_sent, all_lost): (u64, u64)) -> bool {
    let (sent, lost) = losses(members.iter().copied());
    // More than three in ten, and five times what the rest of the fleet loses.
    let (rest_sent, rest_lost) = (all_sent - sent, all_lost - lost);
    lost >= LOSSY_PACKETS && lost * 10 >= sent * 3 && lost * rest_sent >= 5 * rest_lost * sent
}

/// What pairs say together: what nobody knows does not count while somebody knows something.
pub(super) fn verdict(fates: &[&Fate]) -> CellVerdict {
    let count = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
    let passes = count(|fate| *fate == Fate::Passes);
    let lost = count(|fate| *fate == Fate::Lost);
    let half = count(|fate| *fate == Fate::Half);
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
        .map(|pair| {
            let mut all = Merged::default();
            pair.rtts().for_each(|rtt| all.add(rtt));
            NodeRow {
                src: scope.place(pair.key.src),
                dst: scope.place(pair.key.dst),
                layer: pair.key.layer,
                family: pair.key.family,
                target: pair.target.to_string(),
                verdict: verdict(&[&pair.fate]),
                sent: pair.sent(),
                received: pair.received(),
                rtt_us: all.summary(),
                reason: pair.reason(),
            }
        })
        .collect()
}

/// Round-trip times of several probes.
#[derive(Default)]
struct Merged {
    histogram: Option<Histogram<u64>>,
    /// Of probes whose histogram cannot be read: the worst of each.
    coarse: Option<RttSummary>,
}

impl Merged {
    fn add(&mut self, rtt: &Rtt) {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(&rtt.histogram)
            .ok()
            .and_then(|bytes| {
                hdrhistogram::serialization::Deserializer::new()
                    .deserialize::<u64, _>(&mut bytes.as_slice())
                    .ok()
            });
        match (decoded, &mut self.histogram) {
            (Some(one), None) => self.histogram = Some(one),
            (Some(one), Some(all)) => {
                all.auto(true);
                // Only a value beyond the greatest trackable one fails, and the line above has lifted that bound.
                let _ = all.add(&one);
            }
            (None, _) => {
                let worst = self.coarse.get_or_insert(RttSummary {
                    p50: 0,
                    p99: 0,
                    max: 0,
                });
                worst.p50 = worst.p50.max(rtt.p50_us);
                worst.p99 = worst.p99.max(rtt.p99_us);
                worst.max = worst.max.max(rtt.max_us);
            }
        }
    }

    fn summary(&self) -> Option<RttSummary> {
        self.histogram
            .as_ref()
            .filter(|all| !all.is_empty())
            .map(|all| RttSummary {
                p50: all.value_at_quantile(0.5),
                p99: all.value_at_quantile(0.99),
                max: all.max(),
            })
            .or(self.coarse)
    }
}
