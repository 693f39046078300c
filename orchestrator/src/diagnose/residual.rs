//! Pairs that fail and that no suspicion explains: what only packets and walks can say of them, as sets of causes where they cannot be
//! told apart.
//!
//! Each such pair names the elements that could explain it, each pair that passes clears the elements that it crosses, and the element
//! that explains most is taken until none is left. Nothing that fails is passed over in silence.

use std::collections::{BTreeMap, BTreeSet};

use datapath::state::Family;
use datapath::walk::Stop;
use floater::wire::Layer;

use super::findings::{affected, finding, packets};
use super::intent::Intended;
use super::join::{Joined, passing_families, ways};
use super::pairs::{Fate, PairKey};
use super::scope::Scope;
use super::walks::Walked;
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, family_of_tunnel};
use crate::report::{Element, Evidence, EvidenceKind, Finding, Severity};

/// What could explain a pair, the likeliest kind first where two explain as much.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hypothesis {
    /// Somebody else answers for the node.
    Impostor(NodeRef, Layer),
    /// The walk says where it stops, and by which row.
    Walk(Option<NodeRef>, Code, String),
    /// The node is off the underlay.
    Off(NodeRef),
    /// No node of the cluster is reached from outside.
    Dark(usize),
    /// The node is not reached from outside of its cluster.
    Abroad(NodeRef),
    /// The tables of this node would tell.
    Unread(NodeRef),
    /// The node drops what comes in by this tunnel.
    TunnelEnd(NodeRef, &'static str),
    /// The underlay drops this tunnel's packets between two nodes.
    Tunnel(NodeRef, NodeRef, &'static str),
    /// The node does not forward between its pods and the underlay.
    Forwarding(NodeRef, Family),
    /// The responder of the node is cut off in this protocol.
    Protocol(NodeRef, Layer),
    /// The underlay between two nodes.
    Between(NodeRef, NodeRef),
    /// The pair itself.
    Pair(NodeRef, NodeRef, Layer, Family),
}

/// A code by which walks are grouped.
type Code = &'static str;

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
            let mut all = suspects(scope, graph, joined, &passing);
            all.retain(|hypothesis| !cleared.contains(hypothesis));
            let key = joined.key;
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
        findings.push(tell(scope, intended, best, &explained, &passing));
        rest = others;
    }
    findings
}

/// The underlay is accused only where packets on the underlay itself are lost.
fn only_if_hosts_fail(suspected: &mut BTreeMap<PairKey, Vec<Hypothesis>>) {
    let is_underlay = |hypothesis: &Hypothesis| {
        matches!(
            hypothesis,
            Hypothesis::Abroad(_) | Hypothesis::Dark(_) | Hypothesis::Off(_)
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

/// What a pair proves by itself.
fn certain(joined: &Joined<'_, '_>) -> Vec<Hypothesis> {
    let mut all = Vec::new();
    if joined.pair.is_some_and(|pair| pair.impostor.is_some()) {
        all.push(Hypothesis::Impostor(joined.key.dst, joined.key.layer));
    }
    if let Some(Walked::Stops {
        at,
        stop: Some(stop),
        ..
    }) = &joined.walked
    {
        all.push(Hypothesis::Walk(*at, code_of(stop), stop.row()));
    }
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
    let mut all: BTreeSet<Hypothesis> = [Hypothesis::Off(key.src), Hypothesis::Off(key.dst)].into();
    if key.src.cluster != key.dst.cluster {
        all.extend([
            Hypothesis::Dark(key.src.cluster),
            Hypothesis::Dark(key.dst.cluster),
        ]);
        if key.layer == Layer::Host {
            all.extend([Hypothesis::Abroad(key.src), Hypothesis::Abroad(key.dst)]);
        }
    }
    if key.layer == Layer::Host {
        let (low, high) = (key.src.min(key.dst), key.src.max(key.dst));
        all.insert(Hypothesis::Between(low, high));
        return all.into_iter().collect();
    }
    let Some((there, back)) = ways(scope, graph, key) else {
        return all.into_iter().collect();
    };
    for &(from, to, link) in there.tunnels.iter().chain(&back.tunnels) {
        all.extend([Hypothesis::Off(from), Hypothesis::Off(to)]);
        if from.cluster != to.cluster {
            all.extend([Hypothesis::Abroad(from), Hypothesis::Abroad(to)]);
        }
        let (low, high) = (from.min(to), from.max(to));
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
            all.insert(Hypothesis::Forwarding(node, family));
        }
    }
    all.into_iter().collect()
}

/// The code of a stop that no difference from intent explains: a row that the datapath does not own, or one that it does not plan.
fn code_of(stop: &Stop) -> Code {
    match stop {
        Stop::Blackhole { .. } | Stop::Prohibited { .. } | Stop::Unreachable { .. } => {
            "ROUTE-BLACKHOLE"
        }
        Stop::ForwardingOff { .. } => "FORWARD-OFF",
        Stop::Ipv6Off { .. } => "V6-FORWARD-OFF",
        Stop::Loop { .. } | Stop::TtlExpired => "ROUTING-LOOP",
        Stop::NoFdb { .. } => "FDB-MISSING",
        Stop::VtepUnknown { .. } => "FDB-WRONG-VTEP",
        Stop::NoNeighbour { .. } => "NEIGH-MISSING",
        Stop::NotForUs { .. } => "NEIGH-STALE-MAC",
        Stop::OwnMac { .. } => "TUNNEL-MAC-LOOP",
        Stop::NoRoute { .. } => "ROUTE-MISSING",
        Stop::RpFilter { .. } => "RPFILTER",
        Stop::VniUnknown { .. } => "VNI-MISMATCH",
        Stop::NobodyListens { .. } => "TUNNEL-PORT-MISMATCH",
        Stop::VtepLocalGone { .. } => "VTEP-LOCAL-STALE",
        Stop::LinkDown { .. } => "TUNNEL-DEV-DOWN",
        Stop::LinkMissing { .. } => "DEV-DELETED",
        Stop::TooBig { .. } => "INNER-MTU-TOO-BIG",
        Stop::MartianSource { .. } => "VTEP-IP-DUPLICATE",
        Stop::SourceNotOwn { .. } | Stop::UnknownNode => "INTENT-STALE",
    }
}

fn kind_of_code(code: Code) -> &'static str {
    match code {
        "FDB-MISSING" | "FDB-WRONG-VTEP" => "fdb",
        "FORWARD-OFF" | "RPFILTER" | "V6-FORWARD-OFF" => "sysctl",
        "NEIGH-MISSING" | "NEIGH-STALE-MAC" => "neighbour",
        "ROUTE-BLACKHOLE" | "ROUTE-MISSING" | "ROUTING-LOOP" => "route",
        "VTEP-IP-DUPLICATE" => "address",
        _ => "link",
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn tell(
    scope: &Scope<'_>,
    intended: &Intended,
    cause: &Hypothesis,
    explained: &[&Joined<'_, '_>],
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Finding {
    let on_node = |at: NodeRef, kind: &str, name: String| Element {
        cluster: Some(scope.cluster(at.cluster).name.clone()),
        node: Some(scope.node(at).name.clone()),
        kind: kind.to_owned(),
        name,
    };
    let outside = |name: String| Element {
        cluster: None,
        node: None,
        kind: "underlay".to_owned(),
        name,
    };
    let node_name = |at: NodeRef| scope.node(at).name.clone();
    let mut evidence = packets(scope, explained);
    let affects = affected(scope, explained);
    let (code, element, summary, ambiguous, fix) = match cause {
        Hypothesis::Impostor(at, layer) => {
            let place = scope.place(*at);
            let target = explained
                .iter()
                .find_map(|joined| joined.pair.map(|pair| pair.target.to_string()))
                .unwrap_or_default();
            let answered = explained
                .iter()
                .find_map(|joined| joined.pair.and_then(|pair| pair.impostor.clone()))
                .unwrap_or_default();
            (
                "WRONG-IDENTITY",
                on_node(*at, "responder", target.clone()),
                format!(
                    "{answered} answers at {target}, which is the {} address of {place}",
                    crate::report::layer_word(*layer)
                ),
                words(&["CIDR-OVERLAP", "FDB-WRONG-VTEP", "VTEP-IP-DUPLICATE"]),
                format!(
                    "find who else has {target}: ip -br address, and the pod prefixes of all clusters"
                ),
            )
        }
        Hypothesis::Walk(at, code, row) => {
            let place = at.map_or_else(|| "outside".to_owned(), |at| scope.place(at));
            (
                *code,
                match at {
                    Some(at) => on_node(*at, kind_of_code(code), row.clone()),
                    None => outside(row.clone()),
                },
                format!("packets stop at {place} ({row}), though its own rows are as planned"),
                Vec::new(),
                format!("on {place}: look at {row}, which the datapath did not make"),
            )
        }
        Hypothesis::Off(at) => {
            let place = scope.place(*at);
            let unread = scope.node(*at).tables.is_err();
            let code = match (unread, intended.is_gateway(scope, *at)) {
                (true, true) => "GATEWAY-DOWN",
                (true, false) => "NODE-DOWN",
                (false, _) => "UNDERLAY-ARP-POISON",
            };
            if let Err(reason) = &scope.node(*at).tables {
                evidence.push(Evidence {
                    kind: EvidenceKind::Table,
                    source: place.clone(),
                    text: format!("the tables could not be read: {reason}"),
                });
            }
            (
                code,
                on_node(*at, "node", node_name(*at)),
                if unread {
                    format!(
                        "nobody reaches {place} on the underlay, and it does not answer its own cluster either"
                    )
                } else {
                    format!(
                        "nobody reaches {place} on the underlay, though its link is up and its tables are as planned"
                    )
                },
                if unread {
                    words(&["UNDERLAY-ARP-POISON", "VTEP-LOCAL-STALE"])
                } else {
                    words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"])
                },
                if unread {
                    format!("bring {place} or its underlay link back")
                } else {
                    format!(
                        "look at the router's neighbour row for {place}, and at filters before it"
                    )
                },
            )
        }
        Hypothesis::Abroad(at) => {
            let place = scope.place(*at);
            (
                "UNDERLAY-ARP-POISON",
                outside(format!("{place} - other clusters")),
                format!(
                    "{place} is reached from its own cluster and from no other: the underlay between them loses its packets"
                ),
                words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"]),
                format!(
                    "look at the router's neighbour row and route for {place}, and at filters before it"
                ),
            )
        }
        Hypothesis::Dark(cluster) => {
            let name = &scope.cluster(*cluster).name;
            (
                "UNDERLAY-ARP-POISON",
                outside(format!("{name} - all others")),
                format!("no node of {name} is reached from any other cluster on the underlay"),
                words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"]),
                format!("look at the routers and filters between {name} and the others"),
            )
        }
        Hypothesis::Unread(at) => {
            let place = scope.place(*at);
            let v6_alone = explained.iter().all(|joined| {
                joined.key.family == Family::Ipv6
                    && passing.contains(&(
                        joined.key.src,
                        joined.key.dst,
                        joined.key.layer,
                        Family::Ipv4,
                    ))
            });
            if let Err(reason) = &scope.node(*at).tables {
                evidence.push(Evidence {
                    kind: EvidenceKind::Table,
                    source: place.clone(),
                    text: format!("the tables could not be read: {reason}"),
                });
            }
            (
                if v6_alone {
                    "V6-ROUTE-MISSING"
                } else {
                    "RETURN-ROUTE-MISSING"
                },
                on_node(*at, "node", node_name(*at)),
                format!(
                    "packets that cross {place} are lost, and its tables, which would tell why, could not be read"
                ),
                if v6_alone {
                    words(&[
                        "V6-FORWARD-OFF",
                        "NEIGH-MISSING",
                        "FDB-MISSING",
                        "TUNNEL-DEV-DOWN",
                        "DEV-DELETED",
                    ])
                } else {
                    words(&[
                        "ROUTE-MISSING",
                        "NEIGH-MISSING",
                        "FDB-MISSING",
                        "FORWARD-OFF",
                        "TUNNEL-DEV-DOWN",
                        "DEV-DELETED",
                        "FORWARD-POLICY-DROP",
                        "TUNNEL-UDP-BLOCKED-HOST",
                    ])
                },
                format!("make the host floater of {place} reachable and run again"),
            )
        }
        Hypothesis::TunnelEnd(at, link) => (
            "TUNNEL-UDP-BLOCKED-HOST",
            on_node(*at, "link", (*link).to_owned()),
            format!(
                "all packets over {link} of {} are lost, the underlay carries others, and the tables are as planned",
                scope.place(*at)
            ),
            words(&[
                "FORWARD-POLICY-DROP",
                "TUNNEL-REPLY-BLOCKED",
                "TUNNEL-UDP-BLOCKED-ONEWAY",
                "INTENT-STALE",
            ]),
            format!(
                "on {}: nft list ruleset; the tunnel needs UDP 4876, 4877 (IPv6 4866, 4867)",
                scope.place(*at)
            ),
        ),
        Hypothesis::Tunnel(from, to, link) => (
            "TUNNEL-UDP-BLOCKED-ONEWAY",
            outside(format!(
                "{link} {} - {}",
                scope.place(*from),
                scope.place(*to)
            )),
            format!(
                "packets over {link} between {} and {} are lost, others pass, and the tables are as planned",
                scope.place(*from),
                scope.place(*to)
            ),
            words(&[
                "TUNNEL-REPLY-BLOCKED",
                "TUNNEL-UDP-BLOCKED-HOST",
                "INTENT-STALE",
            ]),
            "allow UDP 4876, 4877 (IPv6 4866, 4867) between the two".to_owned(),
        ),
        Hypothesis::Forwarding(at, family) => (
            "FORWARD-POLICY-DROP",
            on_node(*at, "rule", format!("forward {family}")),
            format!(
                "{} does not pass on {family} of pods, and its tables are as planned",
                scope.place(*at)
            ),
            words(&["POD-POLICY", "POD-NIC-DOWN", "INTENT-STALE"]),
            format!(
                "on {}: nft list ruleset; iptables -S FORWARD",
                scope.place(*at)
            ),
        ),
        Hypothesis::Protocol(at, layer) => (
            "L4-SELECTIVE-DROP",
            on_node(
                *at,
                "responder",
                format!(
                    "tcp {} {}",
                    floater::wire::PORT,
                    crate::report::layer_word(*layer)
                ),
            ),
            format!(
                "echo requests to {} are answered, connections are not",
                scope.place(*at)
            ),
            words(&["REJECT", "POD-POLICY"]),
            format!(
                "look for a filter between the two that lets ICMP through but not TCP {}",
                floater::wire::PORT
            ),
        ),
        Hypothesis::Between(from, to) => (
            "UNDERLAY-ARP-POISON",
            outside(format!("{} - {}", scope.place(*from), scope.place(*to))),
            format!(
                "the underlay does not carry packets between {} and {}, each of which reaches others",
                scope.place(*from),
                scope.place(*to)
            ),
            words(&["L4-SELECTIVE-DROP"]),
            "look at routers and filters between the two".to_owned(),
        ),
        Hypothesis::Pair(src, dst, layer, family) => (
            "INTENT-STALE",
            outside(format!(
                "{} - {} {} {family}",
                scope.place(*src),
                scope.place(*dst),
                crate::report::layer_word(*layer)
            )),
            format!(
                "packets from {} to {} are lost though every table is as planned and lets them through: intent or the model disagrees with \
                 the network",
                scope.place(*src),
                scope.place(*dst)
            ),
            words(&["FORWARD-POLICY-DROP", "POD-POLICY", "TUNNEL-REPLY-BLOCKED"]),
            "look at packet filters on both nodes, and capture on both".to_owned(),
        ),
    };
    let mut found = finding(code, element, summary, evidence, ambiguous, affects, fix);
    // A node that its own cluster calls not ready may be rebooting or scaled down: no fault of the network.
    if code == "NODE-DOWN"
        && let Hypothesis::Off(at) = cause
        && !scope.node(*at).ready
    {
        found.severity = Severity::Info;
    }
    found
}
