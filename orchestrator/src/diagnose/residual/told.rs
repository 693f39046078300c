//! What an explanation is called, where it lies and what to do about it.

use std::collections::BTreeSet;

use datapath::state::{Family, LinkKind};
use floater::wire::Layer;

use super::super::findings::{affected, finding, packets};
use super::super::intent::Intended;
use super::super::join::Joined;
use super::super::scope::Scope;
use super::super::walks::{Walked, pod_link};
use super::{Code, Hypothesis, Only};
use crate::evidence::NodeRef;
use crate::report::{Element, Evidence, EvidenceKind, Finding, Severity};

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

/// What a node's tables say against its way to its own pod, with the link that is to blame.
fn pod_nic(scope: &Scope<'_>, at: NodeRef, only: Only) -> Option<(String, String)> {
    let facts = scope.node(at);
    let tables = facts.tables.as_ref().ok()?;
    facts
        .pod_ips
        .iter()
        .filter(|&&ip| only.is_none_or(|family| family == Family::of(ip)))
        .find_map(|&ip| {
            let Some(name) = pod_link(tables, ip) else {
                // The kernel takes the route away with the link.
                let mut down = tables.links.iter().filter(|link| {
                    matches!(link.kind, LinkKind::Veth { .. }) && !(link.up && link.carrier)
                });
                let link = match (down.next(), down.next()) {
                    (Some(only), None) => only.name.clone(),
                    _ => ip.to_string(),
                };
                return Some((link, format!("no route to {ip} but the default one")));
            };
            let link = tables.links.get(name)?;
            let state = match (link.up, link.carrier) {
                (true, true) => return None,
                (true, false) => "has no carrier",
                (false, _) => "is down",
            };
            Some((name.to_owned(), format!("link {name} {state}")))
        })
}

/// ` in ipv4`, where the other family is not concerned.
fn within(only: Only) -> String {
    only.map_or_else(String::new, |family| format!(" in {family}"))
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

pub(super) fn tell(
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
            let walk = explained.iter().find_map(|joined| match &joined.walked {
                Some(walked @ Walked::Stops { text, .. })
                    if super::stopped(walked).as_ref() == Some(&(*at, *code, row.clone())) =>
                {
                    Some(text)
                }
                _ => None,
            });
            evidence.extend(walk.map(|text| Evidence {
                kind: EvidenceKind::Table,
                source: place.clone(),
                text: format!("by a walk over the tables the packet is {text}"),
            }));
            (
                *code,
                match at {
                    Some(at) => on_node(*at, kind_of_code(code), row.clone()),
                    None => outside(row.clone()),
                },
                if *code == "ROUTE-MISSING" {
                    format!(
                        "{place} lacks a route that the datapath does not make and packets need: {row}"
                    )
                } else {
                    format!("packets stop at {place} ({row}), though its own rows are as planned")
                },
                Vec::new(),
                if *code == "ROUTE-MISSING" {
                    format!(
                        "on {place}: put the route back as the other nodes of the cluster have theirs (ip route show table all), or restart what \
                         makes it: the node's network or the pods'"
                    )
                } else {
                    format!("on {place}: look at {row}, which the datapath did not make")
                },
            )
        }
        Hypothesis::Off(at, only) => {
            let place = scope.place(*at);
            let unread = scope.node(*at).tables.is_err();
            // A node that answers in another family is neither down nor lost with its tables.
            let gone = unread && only.is_none();
            let code = match (gone, intended.is_gateway(scope, *at)) {
                (true, true) => "GATEWAY-DOWN",
                (true, false) => "NODE-DOWN",
                (false, _) => "UNDERLAY-ARP-POISON",
            };
            let within = within(*only);
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
                if gone {
                    format!(
                        "nobody reaches {place} on the underlay, and it does not answer its own cluster either"
                    )
                } else {
                    format!(
                        "nobody reaches {place} on the underlay{within}, {}",
                        if unread {
                            "and its tables could not be read"
                        } else {
                            "though its link is up and its tables are as planned"
                        }
                    )
                },
                if gone {
                    words(&["UNDERLAY-ARP-POISON", "VTEP-LOCAL-STALE"])
                } else {
                    words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"])
                },
                if gone {
                    format!("bring {place} or its underlay link back")
                } else {
                    format!(
                        "look at the router's neighbour row for {place}, and at filters before it"
                    )
                },
            )
        }
        Hypothesis::Segment(cluster, only) => {
            let name = &scope.cluster(*cluster).name;
            let within = within(*only);
            (
                "UNDERLAY-ARP-POISON",
                outside(format!("{name}{within}")),
                format!(
                    "no node of {name} is reached by any other on the underlay{within}, neither from {name} nor from elsewhere"
                ),
                words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"]),
                format!("look at the switch or router that the nodes of {name} hang on"),
            )
        }
        Hypothesis::Abroad(at, only) => {
            let place = scope.place(*at);
            let within = within(*only);
            (
                "UNDERLAY-ARP-POISON",
                outside(format!("{place} - other clusters{within}")),
                format!(
                    "{place} is reached from its own cluster and from no other{within}: the underlay between them loses its packets"
                ),
                words(&["GATEWAY-DOWN", "L4-SELECTIVE-DROP"]),
                format!(
                    "look at the router's neighbour row and route for {place}, and at filters before it"
                ),
            )
        }
        Hypothesis::Dark(cluster, only) => {
            let name = &scope.cluster(*cluster).name;
            let within = within(*only);
            (
                "UNDERLAY-ARP-POISON",
                outside(format!("{name} - all others{within}")),
                format!(
                    "no node of {name} is reached from any other cluster on the underlay{within}"
                ),
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
        Hypothesis::Forwarding(at, only) => {
            let place = scope.place(*at);
            if let Some((link, seen)) = pod_nic(scope, *at, *only) {
                evidence.push(Evidence {
                    kind: EvidenceKind::Table,
                    source: place.clone(),
                    text: seen.clone(),
                });
                (
                    "POD-NIC-DOWN",
                    on_node(*at, "link", link),
                    format!("{place} does not reach its own pod: {seen}"),
                    Vec::new(),
                    format!("on {place}: restart the pod, whose network is made anew with it"),
                )
            } else {
                let what = only.map_or_else(|| "packets".to_owned(), |family| family.to_string());
                (
                    "FORWARD-POLICY-DROP",
                    on_node(*at, "rule", format!("forward{}", within(*only))),
                    format!(
                        "{place} does not pass on {what} of pods, and its tables are as planned"
                    ),
                    words(&["POD-POLICY", "POD-NIC-DOWN", "INTENT-STALE"]),
                    format!("on {place}: nft list ruleset; iptables -S FORWARD"),
                )
            }
        }
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
        Hypothesis::Between(from, to, only) => (
            "UNDERLAY-ARP-POISON",
            outside(format!(
                "{} - {}{}",
                scope.place(*from),
                scope.place(*to),
                within(*only)
            )),
            format!(
                "the underlay does not carry packets between {} and {}{}, each of which reaches others",
                scope.place(*from),
                scope.place(*to),
                within(*only)
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
        && let Hypothesis::Off(at, _) = cause
        && !scope.node(*at).ready
    {
        found.severity = Severity::Info;
    }
    found
}
