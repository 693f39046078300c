//! Pairs that fail and that no suspicion explains: what only packets and walks can say of them, as sets of causes where they cannot be
//! told apart.
//!
//! Each such pair names the elements that could explain it, each pair that passes clears the elements that it crosses, and the element
//! that explains most is taken until none is left. Nothing that fails is passed over in silence.

use std::collections::{BTreeMap, BTreeSet};

use datapath::code::Code;
use datapath::state::{Family, TABLE_MAIN};
use datapath::walk::Stop;
use floater::wire::Layer;

use super::intent::Intended;
use super::join::{Joined, passing_families, ways};
use super::pairs::{Fate, PairKey};
use super::scope::Scope;
use super::walks::Walked;
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, family_of_tunnel, tunnel_named};
use crate::report::Finding;

mod told;

/// The family in which the underlay fails; none where it fails in all.
type Only = Option<Family>;

/// What could explain a pair, the likeliest kind first where two explain as much.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hypothesis {
    /// Somebody else answers for the node.
    Impostor(NodeRef, Layer),
    /// The walk says where it stops, and by which row.
    Walk(Option<NodeRef>, Code, String),
    /// The node is off the underlay.
    Off(NodeRef, Only),
    /// No node of the cluster is reached by any other, inside of it or outside.
    Segment(usize, Only),
    /// No node of the cluster is reached from outside.
    Dark(usize, Only),
    /// The node is not reached from outside of its cluster.
    Abroad(NodeRef, Only),
    /// The tables of this node would tell.
    Unread(NodeRef),
    /// The node drops what comes in by this tunnel.
    TunnelEnd(NodeRef, &'static str),
    /// The underlay drops this tunnel's packets between two nodes.
    Tunnel(NodeRef, NodeRef, &'static str),
    /// The node does not forward between its pods and the underlay.
    Forwarding(NodeRef, Only),
    /// The responder of the node is cut off in this protocol.
    Protocol(NodeRef, Layer),
    /// The underlay between two nodes.
    Between(NodeRef, NodeRef, Only),
    /// The pair itself.
    Pair(NodeRef, NodeRef, Layer, Family),
}

/// What the rest of the failing pairs says. The pairs that a finding explains are removed from the rest, so that all are told once.
pub(super) fn findings(
    scope: &Scope<'_>,
    intended: &Intended,
    graph: &Connectivity,
    joined: &[Joined<'_, '_>],
) -> Vec<Finding> {
    let mut rest: Vec<&Joined<'_, '_>> = joined
        .iter()
        .filter(|joined| joined.suffers() && joined.blamed.is_empty())
        .collect();
    if rest.is_empty() {
        return Vec::new();
    }
    let passing = passing_families(joined);
    let mut cleared: BTreeSet<Hypothesis> = BTreeSet::new();
    for passes in joined
        .iter()
        .filter(|joined| joined.fate() == Fate::Passes && joined.pair.is_some())
    {
        cleared.extend(suspects(scope, graph, passes, &passing));
    }
    let proven: BTreeMap<PairKey, Vec<Hypothesis>> = rest
        .iter()
        .map(|joined| (joined.key, certain(joined)))
        .collect();
    let suspected: BTreeMap<PairKey, Vec<Hypothesis>> = rest
        .iter()
        .map(|joined| {
            let key = joined.key;
            // Where the tables name the row that is missing nobody else is suspected.
            let mut all = if is_told_by_tables(joined) {
                Vec::new()
            } else {
                suspects(scope, graph, joined, &passing)
            };
            all.retain(|hypothesis| !cleared.contains(hypothesis));
            all.extend(proven[&key].iter().cloned());
            // The other direction crosses the same two ways: where a walk stops there, it stops here.
            let reverse = PairKey {
                src: key.dst,
                dst: key.src,
                ..key
            };
            all.extend(
                proven
                    .get(&reverse)
                    .into_iter()
                    .flatten()
                    .filter(|hypothesis| {
                        matches!(hypothesis, Hypothesis::Walk(..))
                            && !proven[&key].contains(hypothesis)
                    })
                    .cloned(),
            );
            all.push(Hypothesis::Pair(key.src, key.dst, key.layer, key.family));
            (joined.key, all)
        })
        .collect();
    let mut suspected = suspected;
    only_if_hosts_fail(&mut suspected);
    let mut findings = Vec::new();
    while !rest.is_empty() {
        let mut votes: BTreeMap<&Hypothesis, usize> = BTreeMap::new();
        for hypothesis in rest.iter().flat_map(|joined| &suspected[&joined.key]) {
            *votes.entry(hypothesis).or_default() += 1;
        }
        // The first of the most supported: the order of the variants decides between equals.
        let Some((best, _)) = votes.into_iter().rev().max_by_key(|&(_, count)| count) else {
            break;
        };
        let (explained, others): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|joined| suspected[&joined.key].contains(best));
        findings.push(told::tell(scope, intended, best, &explained, &passing));
        rest = others;
    }
    findings
}

/// The underlay is accused only where packets on the underlay itself are lost.
fn only_if_hosts_fail(suspected: &mut BTreeMap<PairKey, Vec<Hypothesis>>) {
    let is_underlay = |hypothesis: &Hypothesis| {
        matches!(
            hypothesis,
            Hypothesis::Abroad(..)
                | Hypothesis::Between(..)
                | Hypothesis::Dark(..)
                | Hypothesis::Off(..)
                | Hypothesis::Segment(..)
        )
    };
    let seen: BTreeSet<Hypothesis> = suspected
        .iter()
        .filter(|(key, _)| key.layer == Layer::Host)
        .flat_map(|(_, all)| {
            all.iter()
                .filter(|hypothesis| is_underlay(hypothesis))
                .cloned()
        })
        .collect();
    for all in suspected.values_mut() {
        all.retain(|hypothesis| !is_underlay(hypothesis) || seen.contains(hypothesis));
    }
}

fn is_told_by_tables(joined: &Joined<'_, '_>) -> bool {
    matches!(joined.walked, Some(Walked::Stops { lacks: Some(_), .. }))
}

/// Where a walk stops, by which code and row; none where it does not, or the tables do not say which row is to blame.
fn stopped(walked: &Walked) -> Option<(Option<NodeRef>, Code, String)> {
    match walked {
        Walked::Stops {
            at,
            lacks: Some(dst),
            ..
        } => Some((*at, Code::RouteMissing, format!("{dst} table {TABLE_MAIN}"))),
        Walked::Stops {
            at,
            stop: Some(stop),
            ..
        } => Some((*at, code_of(stop), stop.row())),
        _ => None,
    }
}

/// What a pair proves by itself.
fn certain(joined: &Joined<'_, '_>) -> Vec<Hypothesis> {
    let mut all = Vec::new();
    if joined.pair.is_some_and(|pair| pair.impostor.is_some()) {
        all.push(Hypothesis::Impostor(joined.key.dst, joined.key.layer));
    }
    all.extend(
        joined
            .walked
            .as_ref()
            .and_then(stopped)
            .map(|(at, code, row)| Hypothesis::Walk(at, code, row)),
    );
    if joined.fate() == Fate::Half {
        all.push(Hypothesis::Protocol(joined.key.dst, joined.key.layer));
    }
    all
}

/// The elements that a pair crosses and that packets alone can accuse or clear.
fn suspects(
    scope: &Scope<'_>,
    graph: &Connectivity,
    joined: &Joined<'_, '_>,
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Vec<Hypothesis> {
    let key = joined.key;
    if key.src == key.dst || joined.fate() == Fate::Half {
        return Vec::new();
    }
    if joined.pair.is_some_and(|pair| pair.impostor.is_some()) {
        return Vec::new();
    }
    let mut all = BTreeSet::new();
    // What fails in one family alone is not cleared by the other one, nor what fails in both told twice.
    for only in [None, Some(key.family)] {
        for end in [key.src, key.dst] {
            all.insert(Hypothesis::Off(end, only));
            all.insert(Hypothesis::Segment(end.cluster, only));
            if key.src.cluster != key.dst.cluster {
                all.insert(Hypothesis::Dark(end.cluster, only));
                if key.layer == Layer::Host {
                    all.insert(Hypothesis::Abroad(end, only));
                }
            }
        }
    }
    if key.layer == Layer::Host {
        let (low, high) = (key.src.min(key.dst), key.src.max(key.dst));
        all.insert(Hypothesis::Between(low, high, None));
        all.insert(Hypothesis::Between(low, high, Some(key.family)));
        return all.into_iter().collect();
    }
    let Some((there, back)) = ways(scope, graph, key) else {
        return all.into_iter().collect();
    };
    for &(from, to, link) in there.tunnels.iter().chain(&back.tunnels) {
        let (low, high) = (from.min(to), from.max(to));
        for only in [None, Some(family_of_tunnel(link))] {
            all.extend([Hypothesis::Off(from, only), Hypothesis::Off(to, only)]);
            all.insert(Hypothesis::Between(low, high, only));
            if from.cluster != to.cluster {
                all.extend([Hypothesis::Abroad(from, only), Hypothesis::Abroad(to, only)]);
            }
        }
        // Where the underlay itself is silent the tunnel is not to blame.
        if [(low, high), (high, low)]
            .iter()
            .any(|&(a, b)| passing.contains(&(a, b, Layer::Host, family_of_tunnel(link))))
            || joined.fate() == Fate::Passes
        {
            all.insert(Hypothesis::Tunnel(low, high, link));
        }
        all.extend([
            Hypothesis::TunnelEnd(from, link),
            Hypothesis::TunnelEnd(to, link),
        ]);
    }
    for &(node, part) in there.parts.iter().chain(&back.parts) {
        if scope.node(node).tables.is_err() && joined.fate() != Fate::Passes {
            all.insert(Hypothesis::Unread(node));
        }
        if let crate::graph::Part::Forward(family) = part {
            all.insert(Hypothesis::Forwarding(node, None));
            all.insert(Hypothesis::Forwarding(node, Some(family)));
        }
    }
    all.into_iter().collect()
}

/// The code of a stop that no difference from intent explains: a row that the datapath does not own, or one that it does not plan.
fn code_of(stop: &Stop) -> Code {
    match stop {
        Stop::Blackhole { .. } | Stop::Prohibited { .. } | Stop::Unreachable { .. } => {
            Code::RouteBlackhole
        }
        Stop::ForwardingOff { .. } => Code::ForwardOff,
        Stop::Ipv6Off { .. } => Code::V6ForwardOff,
        Stop::Loop { .. } | Stop::TtlExpired => Code::RoutingLoop,
        Stop::NoFdb { .. } => Code::FdbMissing,
        Stop::VtepUnknown { .. } => Code::FdbWrongVtep,
        Stop::NoNeighbour { .. } => Code::NeighMissing,
        Stop::NotForUs { .. } => Code::NeighStaleMac,
        Stop::OwnMac { .. } => Code::TunnelMacLoop,
        Stop::NoRoute { .. } => Code::RouteMissing,
        Stop::RpFilter { .. } => Code::Rpfilter,
        Stop::VniUnknown { .. } => Code::VniMismatch,
        Stop::NobodyListens { .. } => Code::TunnelPortMismatch,
        Stop::VtepLocalGone { .. } => Code::VtepLocalStale,
        Stop::LinkDown { link } if tunnel_named(link).is_none() => Code::PodNicDown,
        Stop::LinkDown { .. } => Code::TunnelDevDown,
        Stop::LinkMissing { .. } => Code::DevDeleted,
        Stop::TooBig { .. } => Code::InnerMtuTooBig,
        Stop::MartianSource { .. } => Code::VtepIpDuplicate,
        Stop::SourceNotOwn { .. } | Stop::UnknownNode => Code::IntentStale,
    }
}
