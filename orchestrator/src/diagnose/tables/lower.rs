//! What tunnels stand on and the datapath does not make: the underlay link's addresses, its size, and who is where on it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath::code::Code;
use datapath::diff::name_of;
use datapath::element::{ElementKind, Fix};
use datapath::mac::Mac;
use datapath::nodeconfig::TUNNELS;
use datapath::state::{Family, LinkKind, Neighbour, NeighbourState, Row, Vxlan};

use super::commands::words;
use super::{Node, Suspicion};
use crate::evidence::NodeRef;
use crate::graph::{Part, tunnel_named};

/// Adds what the underlay link of a node lacks, and puts what follows from its size in one.
pub(super) fn suspicions(node: &Node<'_>, found: &mut Vec<Suspicion>) {
    addresses(node, found);
    size(node, found);
    neighbours(node, found);
}

fn tunnels<'a>(node: &'a Node<'_>) -> impl Iterator<Item = (&'static str, u32, &'a Vxlan)> {
    TUNNELS.iter().filter_map(|name| {
        let link = node.observed.links.get(*name)?;
        match &link.kind {
            LinkKind::Vxlan(vxlan) => Some((tunnel_named(name)?, link.mtu, vxlan)),
            _ => None,
        }
    })
}

/// Tunnels that send from an address that the node does not have any more, one suspicion a family.
fn addresses(node: &Node<'_>, found: &mut Vec<Suspicion>) {
    // A ClusterNode that says a wrong address is objected to by itself.
    if node.intended.misplaced.contains(&node.at) {
        return;
    }
    let mut stale: BTreeMap<IpAddr, Vec<&'static str>> = BTreeMap::new();
    for (name, _, vxlan) in tunnels(node) {
        let is_told = |one: &Suspicion| one.code == Code::VtepLocalStale && one.link == Some(name);
        if let Some(local) = vxlan
            .local
            .filter(|local| !node.observed.has_address(*local))
            && !found.iter().any(is_told)
        {
            stale.entry(local).or_default().push(name);
        }
    }
    for (local, links) in stale {
        let lower = node.intended.lower.get(&node.at);
        let of_lower = node.observed.addresses.iter().filter(|row| {
            Some(&row.link) == lower && Family::of(row.net.addr()) == Family::of(local)
        });
        let now: Vec<String> = of_lower.map(|row| row.net.to_string()).collect();
        let place = node.place();
        let is = if now.is_empty() {
            "no other".to_owned()
        } else {
            now.join(", ")
        };
        found.push(Suspicion {
            code: Code::VtepLocalStale,
            at: node.at,
            kind: ElementKind::Link,
            name: links[0].to_owned(),
            link: Some(links[0]),
            parts: vec![(node.at, Part::Node)],
            soft: false,
            summary: format!(
                "{} of {place} send from {local}, which the node no longer has: it has {is}",
                links.join(", ")
            ),
            evidence: vec![node.table(format!("no address {local}"))],
            fix: Fix::advice(&format!(
                "put {local} back on {place}, or let its Node and ClusterNode say the address that it has"
            )),
        });
    }
}

/// An underlay link that takes smaller packets than those of the cluster's other nodes, so that every tunnel on it is too large: one
/// suspicion in place of one a tunnel.
fn size(node: &Node<'_>, found: &mut Vec<Suspicion>) {
    if !found.iter().any(|one| one.code == Code::InnerMtuTooBig) {
        return;
    }
    let Some(lower) = node.intended.lower.get(&node.at) else {
        return;
    };
    let Some(link) = node.observed.links.get(lower.as_str()) else {
        return;
    };
    let Some(usual) = usual_mtu(node).filter(|usual| *usual > link.mtu) else {
        return;
    };
    let is_of_lower = |one: &Suspicion| {
        one.code == Code::InnerMtuTooBig
            && tunnels(node).any(|(name, mtu, vxlan)| {
                one.link == Some(name)
                    && vxlan.lower.as_deref() == Some(lower)
                    && (link.mtu..=usual).contains(&mtu.saturating_add(overhead(vxlan)))
            })
    };
    let (caused, rest): (Vec<Suspicion>, Vec<Suspicion>) =
        std::mem::take(found).into_iter().partition(is_of_lower);
    *found = rest;
    if caused.is_empty() {
        return;
    }
    let place = node.place();
    let mut evidence = vec![node.table(format!("link {lower} mtu {}", link.mtu))];
    evidence.extend(caused.into_iter().map(|one| node.table(one.summary)));
    found.push(Suspicion {
        code: Code::L2MtuMismatch,
        at: node.at,
        kind: ElementKind::Link,
        name: lower.clone(),
        link: None,
        parts: vec![(node.at, Part::Node)],
        soft: true,
        summary: format!(
            "the underlay link {lower} of {place} takes packets of {} bytes, those of the other nodes {usual}: large ones are cut or lost there",
            link.mtu
        ),
        evidence,
        fix: node.fix(words(&["ip", "link", "set", lower, "mtu", &usual.to_string()])),
    });
}

/// What VXLAN adds to a packet, bytes (RFC 7348, 5).
fn overhead(vxlan: &Vxlan) -> u32 {
    match vxlan.local {
        Some(IpAddr::V6(_)) => 70,
        _ => 50,
    }
}

/// The size that the underlay links of most other nodes of the cluster have; of most nodes of all clusters where it has no others.
fn usual_mtu(node: &Node<'_>) -> Option<u32> {
    let mtu = |at: NodeRef| {
        let lower = node.intended.lower.get(&at)?;
        let tables = node.scope.node(at).tables.as_ref().ok()?;
        Some(tables.links.get(lower.as_str())?.mtu)
    };
    let most = |nodes: &mut dyn Iterator<Item = NodeRef>| {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let others = nodes.filter(|&at| at != node.at).filter_map(mtu);
        others.for_each(|mtu| *counts.entry(mtu).or_default() += 1);
        counts.into_iter().max_by_key(|&(_, count)| count)
    };
    let own = most(&mut node.scope.members_all(node.at.cluster));
    let found = own.or_else(|| most(&mut node.scope.all_nodes().into_iter()));
    found.map(|(mtu, _)| mtu)
}

/// Permanent rows of the underlay link that lead to another MAC than the one that the address has.
fn neighbours(node: &Node<'_>, found: &mut Vec<Suspicion>) {
    let Some(lower) = node.intended.lower.get(&node.at) else {
        return;
    };
    let rows = node.observed.neighbours.iter().filter(|row| {
        row.link == *lower && row.state == NeighbourState::Permanent && row.mac.is_some()
    });
    for row in rows {
        let Some((real, witness)) = real_mac(node, row).filter(|(real, _)| Some(*real) != row.mac)
        else {
            continue;
        };
        let name = name_of(&Row::Neighbour(row.clone()));
        let (place, mac) = (node.place(), row.mac.unwrap_or(real));
        let ip = row.ip.to_string();
        found.push(Suspicion {
            code: Code::UnderlayArpPoison,
            at: node.at,
            kind: ElementKind::Neighbour,
            name: name.clone(),
            link: None,
            parts: vec![(node.at, Part::Node)],
            soft: false,
            summary: format!(
                "{place} sends what is for {ip} on {lower} to the MAC {mac}, and {ip} has {real}"
            ),
            evidence: vec![
                node.table(format!("neighbour {name} lladdr {mac} permanent")),
                super::table(node.scope, witness, format!("{ip} has the MAC {real}")),
            ],
            fix: node.fix(words(&["ip", "neighbour", "del", &ip, "dev", lower])),
        });
    }
}

/// The MAC that an address of the segment has: by the link of the node that has the address, else by what another node of the cluster
/// has learned; and who says so.
fn real_mac(node: &Node<'_>, row: &Neighbour) -> Option<(Mac, NodeRef)> {
    let tables = |at: NodeRef| node.scope.node(at).tables.as_ref().ok();
    let lower = |at: NodeRef| node.intended.lower.get(&at);
    let mut members = node.scope.members_all(node.at.cluster);
    if let Some(owner) = members.find(|&at| node.scope.node(at).ips.contains(&row.ip)) {
        let link = tables(owner)?.links.get(lower(owner)?.as_str())?;
        return Some((link.mac?, owner));
    }
    let members = node.scope.members_all(node.at.cluster);
    let learned = members.filter(|&at| at != node.at).filter_map(|at| {
        let link = lower(at)?;
        let mut rows = tables(at)?.neighbours.iter();
        let known = rows.find(|known| {
            known.ip == row.ip && known.link == *link && known.state == NeighbourState::Dynamic
        })?;
        Some((known.mac?, at))
    });
    let mut counts: BTreeMap<Mac, (usize, NodeRef)> = BTreeMap::new();
    for (mac, at) in learned {
        counts.entry(mac).or_insert((0, at)).0 += 1;
    }
    let most = counts.into_iter().max_by_key(|&(_, (count, _))| count);
    most.map(|(mac, (_, at))| (mac, at))
}
