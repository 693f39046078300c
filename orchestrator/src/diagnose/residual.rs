//! Pairs that fail and that no suspicion explains: what only packets and walks can say of them, as sets of causes where they cannot be
//! told apart.
//!
//! Each hypothesis predicts which pairs fail. Every pair that it predicts rightly speaks for it and every one that passes all the same
//! speaks against it, both by the logarithm of the odds at which a pair is judged wrongly. The one that fits best is taken with those
//! that predict the same, what they explain is put aside, and so on until nothing is left. Nothing is decided by a name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use datapath::code::Code;
use datapath::state::{Family, TABLE_MAIN};
use datapath::walk::Stop;
use floater::wire::Layer;

use super::intent::Intended;
use super::join::{Joined, passing_families, ways};
use super::pairs::PairKey;
use super::scope::Scope;
use super::walks::Walked;
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, family_of_tunnel, tunnel_named};
use crate::report::Finding;

mod hypothesis;
mod told;

use hypothesis::{Class, DECIDED, HINT, Hypothesis, MOST, PROVED, Reach, is_between, rank};

/// A hypothesis held against all pairs.
struct Scored {
    hypothesis: Hypothesis,
    /// The failing pairs that it predicts, in order.
    explains: Vec<usize>,
    against: f64,
    bonus: f64,
}

/// What the rest of the failing pairs says, and how many of them nothing could be said of.
pub(super) fn findings(
    scope: &Scope<'_>,
    intended: &Intended,
    graph: &Connectivity,
    joined: &[Joined<'_, '_>],
) -> (Vec<Finding>, usize) {
    let failing = joined
        .iter()
        .any(|joined| joined.suffers() && !joined.is_explained());
    if !failing {
        return (Vec::new(), 0);
    }
    let passing = passing_families(joined);
    let mut found = Vec::new();
    let mut left = 0;
    for class in Class::ORDER {
        let rest: Vec<&Joined<'_, '_>> = joined
            .iter()
            .filter(|joined| !joined.is_explained())
            .filter(|joined| joined.fate() == class.fate())
            .collect();
        let scored = score(scope, graph, joined, &rest, class, &passing);
        left += explain(scored, &rest, &mut |causes, explained| {
            found.push(told::tell(
                scope, intended, class, causes, explained, &passing,
            ));
            found.len() < MOST
        });
    }
    (found, left)
}

/// Every hypothesis that one of the failing pairs suggests, with what speaks for and against it.
fn score(
    scope: &Scope<'_>,
    graph: &Connectivity,
    joined: &[Joined<'_, '_>],
    rest: &[&Joined<'_, '_>],
    class: Class,
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Vec<Scored> {
    let mut suspected = suspected(scope, graph, rest, class, passing);
    only_if_hosts_fail(rest, &mut suspected);
    let mut index: HashMap<Hypothesis, usize> = HashMap::new();
    let mut all: Vec<Scored> = Vec::new();
    for (at, suspects) in suspected.into_iter().enumerate() {
        for hypothesis in suspects {
            let position = *index.entry(hypothesis.clone()).or_insert_with(|| {
                all.push(Scored {
                    bonus: bonus(scope, &hypothesis),
                    hypothesis,
                    explains: Vec::new(),
                    against: 0.0,
                });
                all.len() - 1
            });
            all[position].explains.push(at);
        }
    }
    if index.is_empty() {
        return all;
    }
    for other in joined {
        let weight = class.against(other);
        if weight > 0.0 {
            let answered = impostors(other.key);
            let crossed = suspects(scope, graph, other, class, passing);
            for hypothesis in answered.into_iter().chain(crossed) {
                if let Some(&at) = index.get(&hypothesis) {
                    all[at].against += weight;
                }
            }
        }
    }
    all
}

fn bonus(scope: &Scope<'_>, hypothesis: &Hypothesis) -> f64 {
    match hypothesis {
        Hypothesis::Impostor(..) | Hypothesis::Strangers(..) | Hypothesis::Walk(..) => PROVED,
        Hypothesis::Off(at, _) if scope.node(*at).tables.is_err() => HINT,
        _ => 0.0,
    }
}

/// Takes the best again and again; returns how many pairs are left when `tell` wants no more.
fn explain<'r, 'p, 'a>(
    mut scored: Vec<Scored>,
    rest: &[&'r Joined<'p, 'a>],
    tell: &mut dyn FnMut(&[&Hypothesis], &[&'r Joined<'p, 'a>]) -> bool,
) -> usize {
    let mut open: Vec<bool> = vec![true; rest.len()];
    let mut left = rest.len();
    while left > 0 {
        for one in &mut scored {
            one.explains.retain(|&at| open[at]);
        }
        scored.retain(|one| !one.explains.is_empty());
        let value = |one: &Scored| {
            #[expect(clippy::cast_precision_loss, reason = "a number of pairs")]
            let explained = one.explains.len() as f64;
            explained * DECIDED + one.bonus - one.against
        };
        let best = scored.iter().map(&value).fold(f64::MIN, f64::max);
        let tied: Vec<&Scored> = scored
            .iter()
            .filter(|one| value(one) > best - HINT / 2.0)
            .collect();
        let mut taken: Vec<usize> = Vec::new();
        let mut goes_on = true;
        for group in groups(&tied) {
            let pairs: Vec<&Joined<'_, '_>> =
                group[0].explains.iter().map(|&at| rest[at]).collect();
            let causes: Vec<&Hypothesis> = group.iter().map(|one| &one.hypothesis).collect();
            taken.extend(&group[0].explains);
            goes_on = tell(&causes, &pairs);
            if !goes_on {
                break;
            }
        }
        if taken.is_empty() {
            return left;
        }
        for at in taken {
            if std::mem::take(&mut open[at]) {
                left -= 1;
            }
        }
        if !goes_on {
            return left;
        }
    }
    0
}

/// Of hypotheses that fit equally well: those that predict the same together, the likelier first; of those that predict something else
/// only the likeliest kinds.
fn groups<'s>(tied: &[&'s Scored]) -> Vec<Vec<&'s Scored>> {
    let mut by_pairs: BTreeMap<&[usize], Vec<&'s Scored>> = BTreeMap::new();
    for &one in tied {
        by_pairs.entry(&one.explains).or_default().push(one);
    }
    let mut groups: Vec<Vec<&'s Scored>> = by_pairs.into_values().collect();
    for group in &mut groups {
        // What fails in all families that there are is told of all.
        let whole: HashSet<Hypothesis> = group
            .iter()
            .filter(|one| one.hypothesis.only().is_none())
            .map(|one| one.hypothesis.clone())
            .collect();
        group.retain(|one| {
            one.hypothesis.only().is_none() || !whole.contains(&one.hypothesis.in_all_families())
        });
        group.sort_by_key(|one| (rank(&one.hypothesis), one.hypothesis.clone()));
        // Two ends that fit alike are no reason to accuse one of them: what lies between them comes first.
        let first = rank(&group[0].hypothesis);
        let is_tie = group
            .get(1)
            .is_some_and(|second| rank(&second.hypothesis) == first);
        if is_tie && let Some(at) = group.iter().position(|one| is_between(&one.hypothesis)) {
            let between = group.remove(at);
            group.insert(0, between);
        }
    }
    let likeliest = groups
        .iter()
        .map(|group| rank(&group[0].hypothesis))
        .min()
        .unwrap_or_default();
    groups.retain(|group| rank(&group[0].hypothesis) == likeliest);
    groups
}

/// By failing pair: what it suggests.
fn suspected(
    scope: &Scope<'_>,
    graph: &Connectivity,
    rest: &[&Joined<'_, '_>],
    class: Class,
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Vec<Vec<Hypothesis>> {
    let proven: HashMap<PairKey, Vec<Hypothesis>> = rest
        .iter()
        .map(|joined| (joined.key, certain(joined)))
        .collect();
    rest.iter()
        .map(|joined| {
            let key = joined.key;
            // Where the tables name the row that is missing nobody else is suspected.
            let mut all = if is_told_by_tables(joined) {
                Vec::new()
            } else {
                suspects(scope, graph, joined, class, passing)
            };
            let own = &proven[&key];
            all.extend(own.iter().cloned());
            // The other direction crosses the same two paths: where a walk stops there, it stops here.
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
                        matches!(hypothesis, Hypothesis::Walk(..)) && !own.contains(hypothesis)
                    })
                    .cloned(),
            );
            all.push(Hypothesis::Pair(key.src, key.dst, key.layer, key.family));
            all
        })
        .collect()
}

/// The underlay is accused only where packets on the underlay itself are lost.
fn only_if_hosts_fail(rest: &[&Joined<'_, '_>], suspected: &mut [Vec<Hypothesis>]) {
    let is_underlay = |hypothesis: &Hypothesis| {
        matches!(
            hypothesis,
            Hypothesis::Abroad(..)
                | Hypothesis::Apart(..)
                | Hypothesis::Between(..)
                | Hypothesis::Dark(..)
                | Hypothesis::Off(..)
                | Hypothesis::Segment(..)
        )
    };
    let seen: HashSet<Hypothesis> = rest
        .iter()
        .zip(&*suspected)
        .filter(|(joined, _)| joined.key.layer == Layer::Host)
        .flat_map(|(_, all)| {
            all.iter()
                .filter(|hypothesis| is_underlay(hypothesis))
                .cloned()
        })
        .collect();
    for all in suspected {
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

/// Who may answer for a pair's destination. A pair that the right one answers speaks against both: what one cluster says of another's
/// nodes is no proof as long as the others reach them.
fn impostors(key: PairKey) -> Vec<Hypothesis> {
    let (src, dst) = (key.src.cluster, key.dst.cluster);
    let mut all = vec![Hypothesis::Impostor(key.dst, key.layer)];
    if src != dst {
        all.push(Hypothesis::Strangers(src, dst, key.layer));
    }
    all
}

/// What a pair proves by itself.
fn certain(joined: &Joined<'_, '_>) -> Vec<Hypothesis> {
    let mut all = Vec::new();
    if joined.pair.is_some_and(|pair| pair.has_impostor()) {
        all.extend(impostors(joined.key));
    }
    all.extend(
        joined
            .walked
            .as_ref()
            .and_then(stopped)
            .map(|(at, code, row)| Hypothesis::Walk(at, code, row)),
    );
    all
}

/// The elements that a pair crosses and that packets alone can accuse or clear.
fn suspects(
    scope: &Scope<'_>,
    graph: &Connectivity,
    joined: &Joined<'_, '_>,
    class: Class,
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Vec<Hypothesis> {
    let key = joined.key;
    if key.src == key.dst {
        return vec![Hypothesis::Directed(Reach::To(key.dst), key.layer, None)];
    }
    if joined.pair.is_some_and(|pair| pair.has_impostor()) {
        return Vec::new();
    }
    let mut all: BTreeSet<Hypothesis> = directed(key).collect();
    // What lets echoes pass is no path that is cut.
    if class != Class::Connections {
        crossed(scope, graph, joined, passing, &mut all);
    }
    all.into_iter().collect()
}

fn directed(key: PairKey) -> impl Iterator<Item = Hypothesis> {
    let (src, dst) = (key.src.cluster, key.dst.cluster);
    let mut reaches = vec![
        Reach::All,
        Reach::AnyOf(dst),
        Reach::From(key.src),
        Reach::To(key.dst),
    ];
    if src != dst {
        reaches.extend([
            Reach::IntoCluster(dst),
            Reach::OutOfCluster(src),
            Reach::Towards(src, dst),
        ]);
    }
    reaches.into_iter().flat_map(move |reach| {
        [None, Some(key.family)].map(|only| Hypothesis::Directed(reach, key.layer, only))
    })
}

/// What a pair's packets and their answers cross.
fn crossed(
    scope: &Scope<'_>,
    graph: &Connectivity,
    joined: &Joined<'_, '_>,
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
    all: &mut BTreeSet<Hypothesis>,
) {
    let key = joined.key;
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
        let (here, there) = (key.src.cluster, key.dst.cluster);
        if here != there {
            all.insert(Hypothesis::Apart(here.min(there), here.max(there), only));
        }
    }
    if key.layer == Layer::Host {
        let (low, high) = (key.src.min(key.dst), key.src.max(key.dst));
        all.insert(Hypothesis::Between(low, high, None));
        all.insert(Hypothesis::Between(low, high, Some(key.family)));
        return;
    }
    let Some((there, back)) = ways(scope, graph, key) else {
        return;
    };
    let is_failing = joined.suffers();
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
        let carries = [(low, high), (high, low)]
            .iter()
            .any(|&(a, b)| passing.contains(&(a, b, Layer::Host, family_of_tunnel(link))));
        if carries || !is_failing {
            all.insert(Hypothesis::Tunnel(low, high, link));
        }
        all.extend([
            Hypothesis::TunnelEnd(from, link),
            Hypothesis::TunnelEnd(to, link),
        ]);
    }
    for &(node, part) in there.parts.iter().chain(&back.parts) {
        // What passes crosses rows of its own, and says nothing of those of others.
        if scope.node(node).tables.is_err() && is_failing {
            all.insert(Hypothesis::Unread(node));
        }
        if let crate::graph::Part::Forward(family) = part {
            all.insert(Hypothesis::Forwarding(node, None));
            all.insert(Hypothesis::Forwarding(node, Some(family)));
        }
    }
}

/// The code of a stop that no difference from intent explains: a row that the datapath does not own, or one that it does not plan.
fn code_of(stop: &Stop) -> Code {
    match stop {
        Stop::Blackhole { .. } | Stop::Prohibited { .. } | Stop::Unreachable { .. } => {
            Code::RouteBlackhole
        }
        Stop::Hijacked { .. } => Code::PolicyRouteHijack,
        Stop::Astray { .. } => Code::RouteWrongDev,
        // Told on their own, where packets show the same.
        Stop::Filtered { .. } => Code::ForwardPolicyDrop,
        Stop::Refused { .. } => Code::Reject,
        Stop::Translated { .. } => Code::SnatUnwanted,
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
