//! Rows that are not what was planned, where no link explains them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::code::Code;
use datapath::diff::{Change, name_of};
use datapath::element::{ElementKind, Fix};
use datapath::state::{
    Family, Fdb, Nat, Neighbour, NeighbourState, Route, RouteKind, Row, Rule, Sysctl,
};

use super::commands::{sysctl, with_rows, words};
use super::{Node, Suspicion};
use crate::graph::{Part, tunnel_named};

/// One suspicion per row, or per peer where the peer has two forwarding rows.
pub(super) fn suspicions(node: &Node<'_>, changes: &[&Change], found: &mut Vec<Suspicion>) {
    for change in changes {
        match change {
            Change::Add(Row::Neighbour(to)) => found.extend(neighbour(node, None, to)),
            Change::Replace {
                from: Row::Neighbour(from),
                to: Row::Neighbour(to),
            } => found.extend(neighbour(node, Some(from), to)),
            Change::Add(Row::Route(to)) => {
                // The same prefix at another metric is another row to the kernel, and the same to a packet.
                let other = node
                    .observed
                    .routes
                    .iter()
                    .find(|row| row.table == to.table && row.dst == to.dst);
                found.extend(route(node, other, to));
            }
            Change::Replace {
                from: Row::Route(from),
                to: Row::Route(to),
            } => found.extend(route(node, Some(from), to)),
            Change::Add(Row::Rule(to)) => found.push(rule(node, to)),
            Change::Add(Row::Nat(to)) => found.push(nat(node, to)),
            _ => {}
        }
    }
    forwarding_rows(node, changes, found);
    settings(node, changes, found);
}

fn neighbour(node: &Node<'_>, from: Option<&Neighbour>, to: &Neighbour) -> Option<Suspicion> {
    let link = tunnel_named(&to.link)?;
    let place = node.place();
    let peer = node.peer(to.ip);
    let name = name_of(&Row::Neighbour(to.clone()));
    let mac = to.mac.map_or_else(String::new, |mac| mac.to_string());
    let (code, soft, seen, summary) = match from {
        Some(from) if from.state == NeighbourState::Permanent && from.mac != to.mac => {
            let is = from
                .mac
                .map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            (
                Code::NeighStaleMac,
                false,
                format!("neighbour {name} lladdr {is}"),
                format!(
                    "{place} believes {peer} to have the MAC {is} on {link}, and it has {mac}: {peer} drops what {place} sends"
                ),
            )
        }
        Some(from) if from.state == NeighbourState::NoArp && from.mac == to.mac => return None,
        Some(from) if from.mac.is_some() && from.state != NeighbourState::Failed => (
            Code::NeighMissing,
            true,
            format!(
                "neighbour {name} is {}, not permanent",
                state_word(from.state)
            ),
            format!(
                "{place} has no permanent neighbour row for {peer} ({}) on {link}; what it learned will expire",
                to.ip
            ),
        ),
        Some(from) => (
            Code::NeighMissing,
            false,
            format!("neighbour {name} is {}", state_word(from.state)),
            format!(
                "{place} does not know the MAC of {peer} ({}) on {link}, and nobody answers for it",
                to.ip
            ),
        ),
        None => (
            Code::NeighMissing,
            false,
            format!("no neighbour {name}"),
            format!(
                "{place} has no neighbour row for {peer} ({}) on {link}",
                to.ip
            ),
        ),
    };
    Some(Suspicion {
        code,
        at: node.at,
        kind: ElementKind::Neighbour,
        link: None,
        parts: vec![(node.at, Part::Neighbour(link, to.ip))],
        soft,
        summary,
        evidence: vec![
            node.table(seen),
            node.intent(format!("neighbour {name} lladdr {mac} permanent")),
        ],
        fix: with_rows(node, Fix::default(), &[&Row::Neighbour(to.clone())]),
        name,
    })
}

fn state_word(state: NeighbourState) -> &'static str {
    match state {
        NeighbourState::Dynamic => "learned",
        NeighbourState::Failed => "failed",
        NeighbourState::NoArp => "noarp",
        NeighbourState::Permanent => "permanent",
    }
}

fn route(node: &Node<'_>, from: Option<&Route>, to: &Route) -> Option<Suspicion> {
    let place = node.place();
    let name = name_of(&Row::Route(to.clone()));
    let hops = |row: &Route| -> Vec<(Option<IpAddr>, String)> {
        row.hops
            .iter()
            .map(|hop| (hop.via, hop.link.clone()))
            .collect()
    };
    let (code, seen, summary) = match from {
        None => (
            Code::RouteMissing,
            format!("no route {name}"),
            format!(
                "{place} has no route to {} in table {}: packets for it take the default route",
                to.dst, to.table
            ),
        ),
        Some(from) if from.kind != RouteKind::Unicast => (
            Code::RouteBlackhole,
            format!("route {name} is {}", kind_word(from.kind)),
            format!("the route of {place} to {} throws packets away", to.dst),
        ),
        // The standby forwards as well; that it has to is worth a word, on whichever node.
        Some(from) if node.takes_detour(to, from) => {
            let summary = format!(
                "{place} reaches {}{}, the standby's way, instead of{}: its gateway is dead, or was a short while ago",
                to.dst,
                ways(from),
                ways(to)
            );
            return Some(Suspicion {
                code: Code::FailoverIncomplete,
                at: node.at,
                kind: ElementKind::Route,
                link: None,
                parts: vec![(node.at, Part::Route(to.dst))],
                soft: true,
                summary,
                evidence: vec![
                    node.table(format!("route {name}{}", ways(from))),
                    node.intent(format!("route {name}{}", ways(to))),
                ],
                // It goes back by itself.
                fix: Fix::default(),
                name,
            });
        }
        Some(from)
            if hops(to).iter().all(|hop| hops(from).contains(hop))
                && hops(from).len() > hops(to).len() =>
        {
            (
                Code::EcmpPartial,
                format!("route {name}{}", ways(from)),
                format!(
                    "the route of {place} to {} spreads flows over{}, and only{} was planned",
                    to.dst,
                    ways(from),
                    ways(to)
                ),
            )
        }
        Some(from) if hops(from) != hops(to) => (
            Code::RouteWrongDev,
            format!("route {name}{}", ways(from)),
            format!(
                "the route of {place} to {} leads{} instead of{}",
                to.dst,
                ways(from),
                ways(to)
            ),
        ),
        Some(_) => return None,
    };
    Some(Suspicion {
        code,
        at: node.at,
        kind: ElementKind::Route,
        link: None,
        parts: vec![(node.at, Part::Route(to.dst))],
        soft: false,
        summary,
        evidence: vec![
            node.table(seen),
            node.intent(format!("route {name}{}", ways(to))),
        ],
        fix: with_rows(node, Fix::default(), &[&Row::Route(to.clone())]),
        name,
    })
}

fn ways(row: &Route) -> String {
    row.hops
        .iter()
        .map(|hop| match hop.via {
            Some(via) => format!(" via {via} dev {}", hop.link),
            None => format!(" dev {}", hop.link),
        })
        .collect()
}

fn kind_word(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Blackhole => "blackhole",
        RouteKind::Local => "local",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
        RouteKind::Unicast => "unicast",
        RouteKind::Unreachable => "unreachable",
    }
}

fn rule(node: &Node<'_>, to: &Rule) -> Suspicion {
    let place = node.place();
    let name = name_of(&Row::Rule(to.clone()));
    Suspicion {
        code: Code::PolicyRouteHijack,
        at: node.at,
        kind: ElementKind::Rule,
        link: None,
        parts: vec![(node.at, Part::Rule(to.family))],
        soft: false,
        summary: format!(
            "{place} does not ask its table 200 in {}: packets for other clusters take the default route",
            to.family
        ),
        evidence: vec![
            node.table(format!("no rule {name}")),
            node.intent(format!("rule {name}")),
        ],
        fix: with_rows(node, Fix::default(), &[&Row::Rule(to.clone())]),
        name,
    }
}

fn nat(node: &Node<'_>, to: &Nat) -> Suspicion {
    let place = node.place();
    let name = name_of(&Row::Nat(to.clone()));
    let link = match to {
        Nat::Masquerade { out, .. } => out.as_deref(),
        Nat::Netmap { input, .. } => Some(input.as_str()),
        Nat::Snat { out, .. } => Some(out.as_str()),
    };
    Suspicion {
        code: Code::NatMissing,
        at: node.at,
        kind: ElementKind::Nat,
        link: None,
        parts: link
            .and_then(tunnel_named)
            .map(|link| (node.at, Part::Link(link)))
            .into_iter()
            .collect(),
        // A mapped prefix is reached by its translation alone; a masquerade matters to nodes, not to pods.
        soft: matches!(to, Nat::Masquerade { .. }),
        summary: format!("{place} does not translate as planned: {name}"),
        evidence: vec![
            node.table(format!("no nat {name}")),
            node.intent(format!("nat {name}")),
        ],
        fix: Fix::advice(&format!(
            "start the datapath's agent on {place}, which puts {name} back"
        )),
        name,
    }
}

/// A peer's two rows on a tunnel: for its MAC, and for floods.
#[derive(Default)]
struct Peer<'a> {
    unicast_gone: Option<&'a Fdb>,
    unicast_wrong: Option<(&'a Fdb, &'a Fdb)>,
    flood_gone: Option<&'a Fdb>,
}

fn forwarding_rows(node: &Node<'_>, changes: &[&Change], found: &mut Vec<Suspicion>) {
    let mut peers: BTreeMap<(&str, IpAddr), Peer<'_>> = BTreeMap::new();
    let mut strays: BTreeMap<&str, Vec<&Fdb>> = BTreeMap::new();
    for change in changes {
        match change {
            Change::Add(Row::Fdb(to)) => {
                let Some(dst) = to.dst else { continue };
                let peer = peers.entry((&to.link, dst)).or_default();
                if to.mac.is_zero() {
                    peer.flood_gone = Some(to);
                } else {
                    peer.unicast_gone = Some(to);
                }
            }
            Change::Replace {
                from: Row::Fdb(from),
                to: Row::Fdb(to),
            } if from.dst != to.dst => {
                let Some(dst) = to.dst else { continue };
                peers.entry((&to.link, dst)).or_default().unicast_wrong = Some((from, to));
            }
            Change::Remove(Row::Fdb(row)) if row.mac.is_zero() => {
                strays.entry(&row.link).or_default().push(row);
            }
            _ => {}
        }
    }
    for ((link, dst), peer) in peers {
        let Some(tunnel) = tunnel_named(link) else {
            continue;
        };
        let stray = peer.flood_gone.and_then(|_| strays.get_mut(link)?.pop());
        found.extend(forwarding_row(node, tunnel, dst, &peer, stray));
    }
}

fn forwarding_row(
    node: &Node<'_>,
    link: &'static str,
    dst: IpAddr,
    peer: &Peer<'_>,
    stray: Option<&Fdb>,
) -> Option<Suspicion> {
    let place = node.place();
    let whom = node.peer(dst);
    let named = |row: &Fdb| name_of(&Row::Fdb(row.clone()));
    let mut evidence = Vec::new();
    let (code, row, soft, summary) = match (peer.unicast_wrong, peer.unicast_gone, peer.flood_gone)
    {
        (Some((from, to)), _, _) => {
            evidence.push(node.table(format!("fdb {}", named(from))));
            let is = from.dst.map_or_else(String::new, |ip| format!("{ip}"));
            (
                Code::FdbWrongVtep,
                to,
                false,
                format!("{place} sends what is for {whom} on {link} to {is} instead of {dst}"),
            )
        }
        (None, Some(to), flood) => {
            evidence.push(node.table(format!("no fdb {}", named(to))));
            let summary = if flood.is_some() {
                format!(
                    "{place} has no forwarding row on {link} for {whom}, neither for its MAC nor for floods: packets stop there"
                )
            } else {
                format!(
                    "{place} has no forwarding row on {link} for the MAC of {whom}: its packets are flooded to all peers"
                )
            };
            (Code::FdbMissing, to, flood.is_none(), summary)
        }
        (None, None, Some(to)) => {
            let (code, summary) = match stray {
                Some(row) => {
                    evidence.push(node.table(format!("fdb {}", named(row))));
                    (
                        Code::FdbWrongVtep,
                        format!("the flood row of {place} on {link} for {whom} leads elsewhere"),
                    )
                }
                None => {
                    evidence.push(node.table(format!("no fdb {}", named(to))));
                    (
                        Code::FdbMissing,
                        format!(
                            "{place} has no flood row on {link} for {whom}: it could not ask for it"
                        ),
                    )
                }
            };
            (code, to, true, summary)
        }
        (None, None, None) => return None,
    };
    // The other row of the same peer is the same loss.
    if let Some(flood) = peer.flood_gone.filter(|_| !row.mac.is_zero()) {
        evidence.push(node.table(match stray {
            Some(stray) => format!("fdb {}", named(stray)),
            None => format!("no fdb {}", named(flood)),
        }));
    }
    evidence.push(node.intent(format!("fdb {}", named(row))));
    let mut lost = vec![Row::Fdb(row.clone())];
    lost.extend(
        peer.flood_gone
            .filter(|_| !row.mac.is_zero())
            .map(|flood| Row::Fdb(flood.clone())),
    );
    Some(Suspicion {
        code,
        at: node.at,
        kind: ElementKind::Fdb,
        name: named(row),
        link: None,
        parts: vec![(node.at, Part::Fdb(link, dst))],
        soft,
        summary,
        evidence,
        fix: with_rows(
            node,
            stray.map_or_else(Fix::default, |stray| node.fix(remove(stray))),
            &lost.iter().collect::<Vec<_>>(),
        ),
    })
}

/// The command that takes a forwarding row away.
fn remove(row: &Fdb) -> Vec<String> {
    let mut argv = words(&[
        "bridge",
        "fdb",
        "del",
        &row.mac.to_string(),
        "dev",
        &row.link,
    ]);
    argv.extend(
        row.dst
            .into_iter()
            .flat_map(|dst| ["dst".to_owned(), dst.to_string()]),
    );
    argv.push("self".to_owned());
    argv
}

/// Settings: forwarding that is off (one finding a family, since one write switches many), IPv6 that is off, strict source checks.
fn settings(node: &Node<'_>, changes: &[&Change], found: &mut Vec<Suspicion>) {
    let mut off: BTreeMap<Family, Vec<&Sysctl>> = BTreeMap::new();
    for change in changes {
        let Change::Replace {
            from: Row::Sysctl(from),
            to: Row::Sysctl(to),
        } = change
        else {
            continue;
        };
        let mut words = to.name.split('.');
        let (Some("net"), Some(family), Some("conf"), Some(place), Some(leaf)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            continue;
        };
        let family = if family == "ipv6" {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        match leaf {
            "forwarding" if from.value == 0 => off.entry(family).or_default().push(from),
            "disable_ipv6" if from.value != 0 => found.push(setting(
                node,
                Code::V6ForwardOff,
                from,
                to,
                place,
                Family::Ipv6,
            )),
            "rp_filter" if effective_rp_filter(node, place) == 1 => {
                found.push(setting(node, Code::Rpfilter, from, to, place, Family::Ipv4));
            }
            _ => {}
        }
    }
    for (family, rows) in off {
        found.push(forwarding(node, family, &rows));
    }
}

/// The kernel takes the greater of a link's setting and that of all.
fn effective_rp_filter(node: &Node<'_>, link: &str) -> i64 {
    ["all", link]
        .iter()
        .filter_map(|place| {
            node.observed
                .sysctls
                .get(&format!("net.ipv4.conf.{place}.rp_filter"))
        })
        .map(|row| row.value)
        .max()
        .unwrap_or(0)
}

/// A setting of a link that is not as planned.
pub(super) fn setting(
    node: &Node<'_>,
    code: Code,
    from: &Sysctl,
    to: &Sysctl,
    place: &str,
    family: Family,
) -> Suspicion {
    let link = tunnel_named(&place.replace('/', "."));
    let part = link.map_or(Part::Lower(family), Part::Link);
    Suspicion {
        code,
        at: node.at,
        kind: ElementKind::Sysctl,
        name: to.name.clone(),
        link,
        parts: vec![(node.at, part)],
        soft: false,
        summary: format!(
            "{} of {} is {}, planned {}",
            to.name,
            node.place(),
            from.value,
            to.value
        ),
        evidence: vec![
            node.table(format!("{} = {}", from.name, from.value)),
            node.intent(format!("{} = {}", to.name, to.value)),
        ],
        fix: node.fix(sysctl(&to.name, to.value)),
    }
}

fn forwarding(node: &Node<'_>, family: Family, rows: &[&Sysctl]) -> Suspicion {
    let directory = if family == Family::Ipv6 {
        "ipv6"
    } else {
        "ipv4"
    };
    let all = format!("net.{directory}.conf.all.forwarding");
    let is_all = rows.iter().any(|row| row.name == all);
    let mut parts = BTreeSet::new();
    for row in rows {
        let place = row
            .name
            .split('.')
            .nth(3)
            .unwrap_or_default()
            .replace('/', ".");
        parts.insert(match tunnel_named(&place) {
            _ if is_all => Part::Forward(family),
            Some(link) => Part::Link(link),
            None => Part::Lower(family),
        });
    }
    let name = if is_all {
        all
    } else {
        rows.first().map_or(all, |row| row.name.clone())
    };
    let place = node.place();
    Suspicion {
        code: Code::ForwardOff,
        at: node.at,
        kind: ElementKind::Sysctl,
        link: None,
        parts: parts.into_iter().map(|part| (node.at, part)).collect(),
        // IPv6 has one switch for all links; those of links decide about router advertisements.
        soft: family == Family::Ipv6 && !is_all,
        summary: format!("{place} does not forward {family}: {name} is 0"),
        evidence: rows
            .iter()
            .map(|row| node.table(format!("{} = {}", row.name, row.value)))
            .chain([node.intent(format!("{name} = 1"))])
            .collect(),
        fix: node.fix(sysctl(&name, 1)),
        name,
    }
}
