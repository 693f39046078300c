//! What an explanation is called, where it lies and what to do about it.

use std::collections::BTreeSet;

use datapath::code::Code;
use datapath::element::{ElementKind, Fix};
use datapath::printable::Printable;
use datapath::state::{Family, LinkKind};
use floater::wire::Layer;

use super::super::findings::{affected, finding, packets};
use super::super::intent::Intended;
use super::super::join::Joined;
use super::super::scope::Scope;
use super::super::walks::{Walked, pod_link};
use super::hypothesis::{Class, Hypothesis, Only, Reach};
use crate::evidence::NodeRef;
use crate::probe_plan::LARGE_BYTES;
use crate::report::{Element, Evidence, EvidenceKind, Finding, layer_word};

fn kind_of_code(code: Code) -> ElementKind {
    match code {
        Code::FdbMissing | Code::FdbWrongVtep => ElementKind::Fdb,
        Code::ForwardOff | Code::Rpfilter | Code::V6ForwardOff => ElementKind::Sysctl,
        Code::NeighMissing | Code::NeighStaleMac => ElementKind::Neighbour,
        Code::PolicyRouteHijack => ElementKind::Rule,
        Code::RouteBlackhole | Code::RouteMissing | Code::RouteWrongDev | Code::RoutingLoop => {
            ElementKind::Route
        }
        Code::VtepIpDuplicate => ElementKind::Address,
        _ => ElementKind::Link,
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

fn words(list: &[Code]) -> Vec<Printable> {
    list.iter().map(|code| code.word().into()).collect()
}

/// Headers of IPv4 and ICMP, bytes.
const ECHO_HEADERS: u16 = 28;
/// So many alternatives are named.
const ALTERNATIVES: usize = 8;

/// What is said of a hypothesis.
struct Told {
    code: Code,
    element: Element,
    summary: String,
    ambiguous: Vec<Printable>,
    fix: String,
    evidence: Vec<Evidence>,
}

/// The finding of hypotheses that predict the same, the first of which gives it its name.
pub(super) fn tell(
    scope: &Scope<'_>,
    intended: &Intended,
    class: Class,
    causes: &[&Hypothesis],
    explained: &[&Joined<'_, '_>],
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Finding {
    let describe = |cause| {
        let told = describe(scope, intended, class, cause, explained, passing);
        match class {
            Class::Some => in_part(told),
            Class::Large => by_size(told),
            Class::All | Class::Connections => told,
        }
    };
    let mut told = describe(causes[0]);
    let mut evidence = packets(scope, explained);
    evidence.append(&mut told.evidence);
    let mut ambiguous = told.ambiguous;
    let own = format!("{} at {}", told.code, told.element.place());
    for cause in causes.iter().skip(1).take(ALTERNATIVES) {
        let other = describe(cause);
        let place = format!("{} at {}", other.code, other.element.place());
        if place != own && !ambiguous.iter().any(|known| known.as_str() == place) {
            ambiguous.push(place.into());
        }
    }
    finding(
        told.code,
        told.element,
        told.summary,
        evidence,
        ambiguous,
        affected(explained),
        Fix::advice(&told.fix),
    )
}

/// The same element where it lets some packets through.
fn in_part(told: Told) -> Told {
    Told {
        code: Code::LossGray,
        summary: format!(
            "packets that cross {} are lost in part, far beyond chance",
            told.element.place()
        ),
        ambiguous: words(&[Code::QueueDrop, Code::RateLimited]),
        fix: "look at queues, policers and errors along the path".to_owned(),
        ..told
    }
}

/// The same element where it lets small packets through and no large ones.
fn by_size(told: Told) -> Told {
    Told {
        code: Code::PmtuBlackhole,
        summary: format!(
            "packets of {} bytes and more that cross {} are lost without a word, small ones pass",
            LARGE_BYTES + ECHO_HEADERS,
            told.element.place()
        ),
        ambiguous: words(&[
            Code::L2MtuMismatch,
            Code::FragmentsDropped,
            Code::PmtuVisibleUnheeded,
        ]),
        fix: "compare the MTU of the links along the path (ip link show), and let ICMP \"fragmentation needed\" through".to_owned(),
        ..told
    }
}

fn describe(
    scope: &Scope<'_>,
    intended: &Intended,
    class: Class,
    cause: &Hypothesis,
    explained: &[&Joined<'_, '_>],
    passing: &BTreeSet<(NodeRef, NodeRef, Layer, Family)>,
) -> Told {
    let on_node = |at: NodeRef, kind: ElementKind, name: String| Element {
        cluster: Some(scope.cluster(at.cluster).name.as_str().into()),
        node: Some(scope.node(at).name.as_str().into()),
        kind,
        name: name.into(),
    };
    let outside = |name: String| Element {
        cluster: None,
        node: None,
        kind: ElementKind::Underlay,
        name: name.into(),
    };
    let node_name = |at: NodeRef| scope.node(at).name.clone();
    let mut evidence = Vec::new();
    let (code, element, summary, ambiguous, fix) = match cause {
        Hypothesis::Impostor(at, layer) => {
            let place = scope.place(*at);
            let target = explained
                .iter()
                .find_map(|joined| joined.pair.map(|pair| pair.target.to_string()))
                .unwrap_or_default();
            (
                Code::WrongIdentity,
                on_node(*at, ElementKind::Responder, target.clone()),
                format!(
                    "somebody else answers at {target}, which is the {} address of {place}",
                    layer_word(*layer)
                ),
                words(&[Code::CidrOverlap, Code::FdbWrongVtep, Code::VtepIpDuplicate]),
                format!(
                    "find who else has {target}: ip -br address, and the pod prefixes of all clusters"
                ),
            )
        }
        Hypothesis::Strangers(src, dst, layer) => {
            let (src, dst) = (&scope.cluster(*src).name, &scope.cluster(*dst).name);
            let layer = layer_word(*layer);
            (
                Code::WrongIdentity,
                outside(format!("{layer}, from {src} to {dst}")),
                format!(
                    "what {src} asks nodes of {dst} on the {layer} layer is answered by somebody else, as {src} says, and others reach them"
                ),
                words(&[Code::CidrOverlap, Code::FdbWrongVtep, Code::VtepIpDuplicate]),
                format!(
                    "find who else has the addresses of {dst} near {src}, or who answers for the floaters of {src}"
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
                source: place.as_str().into(),
                text: format!("the tables say that the packet is {text}").into(),
            }));
            (
                *code,
                match at {
                    Some(at) => on_node(*at, kind_of_code(*code), row.clone()),
                    None => outside(row.clone()),
                },
                if *code == Code::RouteMissing {
                    format!(
                        "{place} lacks a route that the datapath does not make and packets need: {row}"
                    )
                } else {
                    format!("packets stop at {place} ({row}), though its own rows are as planned")
                },
                Vec::new(),
                if *code == Code::RouteMissing {
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
                (true, true) => Code::GatewayDown,
                (true, false) => Code::NodeDown,
                (false, _) => Code::UnderlayArpPoison,
            };
            let within = within(*only);
            if let Err(reason) = &scope.node(*at).tables {
                evidence.push(Evidence {
                    kind: EvidenceKind::Table,
                    source: place.as_str().into(),
                    text: format!("the tables could not be read: {reason}").into(),
                });
            }
            (
                code,
                on_node(*at, ElementKind::Node, node_name(*at)),
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
                    words(&[Code::UnderlayArpPoison, Code::VtepLocalStale])
                } else {
                    words(&[Code::GatewayDown, Code::L4SelectiveDrop])
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
                Code::UnderlayArpPoison,
                outside(format!("{name}{within}")),
                format!(
                    "no node of {name} is reached by any other on the underlay{within}, neither from {name} nor from elsewhere"
                ),
                words(&[Code::GatewayDown, Code::L4SelectiveDrop]),
                format!("look at the switch or router that the nodes of {name} hang on"),
            )
        }
        Hypothesis::Abroad(at, only) => {
            let place = scope.place(*at);
            let within = within(*only);
            (
                Code::UnderlayArpPoison,
                outside(format!("{place} - other clusters{within}")),
                format!(
                    "{place} is reached from its own cluster and from no other{within}: the underlay between them loses its packets"
                ),
                words(&[Code::GatewayDown, Code::L4SelectiveDrop]),
                format!(
                    "look at the router's neighbour row and route for {place}, and at filters before it"
                ),
            )
        }
        Hypothesis::Dark(cluster, only) => {
            let name = &scope.cluster(*cluster).name;
            let within = within(*only);
            (
                Code::UnderlayArpPoison,
                outside(format!("{name} - all others{within}")),
                format!(
                    "no node of {name} is reached from any other cluster on the underlay{within}"
                ),
                words(&[Code::GatewayDown, Code::L4SelectiveDrop]),
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
                    source: place.as_str().into(),
                    text: format!("the tables could not be read: {reason}").into(),
                });
            }
            (
                if v6_alone {
                    Code::V6RouteMissing
                } else {
                    Code::ReturnRouteMissing
                },
                on_node(*at, ElementKind::Node, node_name(*at)),
                format!(
                    "packets that cross {place} are lost, and its tables, which would tell why, could not be read"
                ),
                if v6_alone {
                    words(&[
                        Code::V6ForwardOff,
                        Code::NeighMissing,
                        Code::FdbMissing,
                        Code::TunnelDevDown,
                        Code::DevDeleted,
                    ])
                } else {
                    words(&[
                        Code::RouteMissing,
                        Code::NeighMissing,
                        Code::FdbMissing,
                        Code::ForwardOff,
                        Code::TunnelDevDown,
                        Code::DevDeleted,
                        Code::ForwardPolicyDrop,
                        Code::TunnelUdpBlockedHost,
                    ])
                },
                format!("make the host floater of {place} reachable and run again"),
            )
        }
        Hypothesis::TunnelEnd(at, link) => (
            Code::TunnelUdpBlockedHost,
            on_node(*at, ElementKind::Link, (*link).to_owned()),
            format!(
                "all packets over {link} of {} are lost, the underlay carries others, and the tables are as planned",
                scope.place(*at)
            ),
            words(&[
                Code::ForwardPolicyDrop,
                Code::TunnelReplyBlocked,
                Code::TunnelUdpBlockedOneway,
                Code::IntentStale,
            ]),
            format!(
                "on {}: nft list ruleset; the tunnel needs UDP 4876, 4877 (IPv6 4866, 4867)",
                scope.place(*at)
            ),
        ),
        Hypothesis::Tunnel(from, to, link) => (
            Code::TunnelUdpBlockedOneway,
            outside(format!("{link} {}", both(scope, *from, *to, " - "))),
            format!(
                "packets over {link} between {} are lost, others pass, and the tables are as planned",
                both(scope, *from, *to, " and ")
            ),
            words(&[
                Code::TunnelReplyBlocked,
                Code::TunnelUdpBlockedHost,
                Code::IntentStale,
            ]),
            "allow UDP 4876, 4877 (IPv6 4866, 4867) between the two".to_owned(),
        ),
        Hypothesis::Forwarding(at, only) => {
            let place = scope.place(*at);
            if let Some((link, seen)) = pod_nic(scope, *at, *only) {
                evidence.push(Evidence {
                    kind: EvidenceKind::Table,
                    source: place.as_str().into(),
                    text: seen.as_str().into(),
                });
                (
                    Code::PodNicDown,
                    on_node(*at, ElementKind::Link, link),
                    format!("{place} does not reach its own pod: {seen}"),
                    Vec::new(),
                    format!("on {place}: restart the pod, whose network is made anew with it"),
                )
            } else {
                let what = only.map_or_else(|| "packets".to_owned(), |family| family.to_string());
                (
                    Code::ForwardPolicyDrop,
                    on_node(*at, ElementKind::Rule, format!("forward{}", within(*only))),
                    format!(
                        "{place} does not pass on {what} of pods, and its tables are as planned"
                    ),
                    words(&[Code::PodPolicy, Code::PodNicDown, Code::IntentStale]),
                    format!("on {place}: nft list ruleset; iptables -S FORWARD"),
                )
            }
        }
        Hypothesis::Directed(reach, layer, only) => directed(scope, class, *reach, *layer, *only),
        Hypothesis::Apart(here, there, only) => {
            let mut names = [*here, *there].map(|at| scope.cluster(at).name.as_str());
            names.sort_unstable();
            let [here, there] = names;
            let within = within(*only);
            (
                Code::UnderlayArpPoison,
                outside(format!("{here} - {there}{within}")),
                format!(
                    "no node of {here} and no node of {there} reach each other on the underlay{within}"
                ),
                words(&[Code::L4SelectiveDrop]),
                format!("look at routers and filters between {here} and {there}"),
            )
        }
        Hypothesis::Between(from, to, only) => (
            Code::UnderlayArpPoison,
            outside(format!(
                "{}{}",
                both(scope, *from, *to, " - "),
                within(*only)
            )),
            format!(
                "the underlay does not carry packets between {}{}",
                both(scope, *from, *to, " and "),
                within(*only)
            ),
            words(&[Code::L4SelectiveDrop]),
            "look at routers and filters between the two".to_owned(),
        ),
        Hypothesis::Pair(src, dst, layer, family) => (
            Code::IntentStale,
            outside(format!(
                "{} to {} {} {family}",
                scope.place(*src),
                scope.place(*dst),
                layer_word(*layer)
            )),
            format!(
                "packets from {} to {} are lost though every table is as planned and lets them through: intent or the model disagrees with \
                 the network",
                scope.place(*src),
                scope.place(*dst)
            ),
            words(&[
                Code::ForwardPolicyDrop,
                Code::PodPolicy,
                Code::TunnelReplyBlocked,
            ]),
            "look at packet filters on both nodes, and capture on both".to_owned(),
        ),
    };
    Told {
        code,
        element,
        summary,
        ambiguous,
        fix,
        evidence,
    }
}

/// Two nodes, in an order that does not depend on where they stand.
fn both(scope: &Scope<'_>, one: NodeRef, other: NodeRef, between: &str) -> String {
    let mut places = [scope.place(one), scope.place(other)];
    places.sort_unstable();
    places.join(between)
}

/// What fails in one direction.
fn directed(
    scope: &Scope<'_>,
    class: Class,
    reach: Reach,
    layer: Layer,
    only: Only,
) -> (Code, Element, String, Vec<Printable>, String) {
    let what = match class {
        Class::Connections => format!("tcp {}", floater::wire::PORT),
        Class::Large => "large packets".to_owned(),
        Class::All | Class::Some => "packets".to_owned(),
    };
    let network = format!("{}{}", layer_word(layer), within(only));
    let cluster = |at: usize| scope.cluster(at).name.as_str();
    let (on_node, on_cluster, direction) = match reach {
        Reach::All => (None, None, "between all nodes".to_owned()),
        Reach::From(at) => (Some(at), None, format!("from {}", scope.place(at))),
        Reach::AnyOf(at) => (None, Some(at), format!("to any node of {}", cluster(at))),
        Reach::IntoCluster(at) => (None, Some(at), format!("into {}", cluster(at))),
        Reach::OutOfCluster(at) => (None, Some(at), format!("out of {}", cluster(at))),
        Reach::To(at) => (Some(at), None, format!("to {}", scope.place(at))),
        Reach::Towards(src, dst) => (
            None,
            None,
            format!("from {} to {}", cluster(src), cluster(dst)),
        ),
    };
    let element = match (on_node, on_cluster) {
        (Some(at), _) => Element {
            cluster: Some(cluster(at.cluster).into()),
            node: Some(scope.node(at).name.as_str().into()),
            kind: ElementKind::Responder,
            name: match reach {
                Reach::From(_) => format!("{what} {network}, outgoing").into(),
                _ => format!("{what} {network}").into(),
            },
        },
        (None, Some(at)) => Element {
            cluster: Some(cluster(at).into()),
            node: None,
            kind: ElementKind::Cluster,
            name: format!("{what} {network}, {direction}").into(),
        },
        (None, None) => Element {
            cluster: None,
            node: None,
            kind: ElementKind::Underlay,
            name: format!("{what} {network}, {direction}").into(),
        },
    };
    match class {
        Class::Connections => (
            Code::L4SelectiveDrop,
            element,
            format!("connections {direction} on {network} fail, echo requests are answered"),
            words(&[Code::Reject, Code::PodPolicy]),
            format!(
                "look for a filter on the path {direction} that lets ICMP through but not TCP {}",
                floater::wire::PORT
            ),
        ),
        Class::All | Class::Large | Class::Some => (
            Code::ForwardPolicyDrop,
            element,
            format!(
                "everything that is asked {direction} on {network} is lost, and what is asked the other way passes"
            ),
            words(&[Code::PodPolicy, Code::L4SelectiveDrop, Code::AgentSick]),
            format!(
                "look for a filter {direction} that keeps track of connections: nft list ruleset"
            ),
        ),
    }
}
