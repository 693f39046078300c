//! What a node needs to be back on the underlay: the link, and what the kernel took away with it.

use std::net::IpAddr;

use datapath::element::Fix;
use datapath::state::{Family, NodeState, Route, RouteKind, TABLE_MAIN};
use ipnet::IpNet;

use super::commands::{route, words};
use crate::diagnose::scope::Scope;
use crate::evidence::NodeRef;

/// `rtm_protocol` of routes that the kernel makes with an address.
const BY_KERNEL: u8 = 2;

/// Switches the link on and puts back the addresses and main routes that went with it, as the other nodes of the cluster have theirs.
pub(super) fn fix(scope: &Scope<'_>, at: NodeRef, link: &str, observed: &NodeState) -> Fix {
    let cluster = &scope.cluster(at.cluster).name;
    let node = scope.node(at);
    let mut fix = Fix::at(cluster, &node.name, ["ip", "link", "set", link, "up"]);
    let Some((peer, tables)) = neighbour(scope, at, link) else {
        return fix.and_advice(
            "restart the node's network, which puts back the addresses and routes of the link",
        );
    };
    for net in lost_addresses(scope, at, link, observed, tables) {
        let net = net.to_string();
        let mut argv = words(&["ip", "address", "replace", &net, "dev", link]);
        if net.contains(':') {
            // Nobody else has it: waiting for the check costs the routes that are put back next their source.
            argv.push("nodad".to_owned());
        }
        fix = fix.and_at(cluster, &node.name, argv);
    }
    for lost in lost_routes(scope, at, peer, link, observed, tables) {
        if let Some(argv) = route(&lost) {
            fix = fix.and_at(cluster, &node.name, argv);
        }
    }
    fix
}

/// Another node of the cluster whose link of that name is up.
fn neighbour<'a>(scope: &Scope<'a>, at: NodeRef, link: &str) -> Option<(NodeRef, &'a NodeState)> {
    scope
        .members_all(at.cluster)
        .filter(|&peer| peer != at)
        .find_map(|peer| {
            let tables = scope.node(peer).tables.as_ref().ok()?;
            let lower = tables.links.get(link)?;
            (lower.up && lower.carrier).then_some((peer, tables))
        })
}

/// The node's underlay addresses that its link does not have; IPv6 ones go with a link that is switched off.
fn lost_addresses(
    scope: &Scope<'_>,
    at: NodeRef,
    link: &str,
    observed: &NodeState,
    peer: &NodeState,
) -> Vec<IpNet> {
    let length = |family| {
        peer.addresses
            .iter()
            .filter(|row| row.link == link && Family::of(row.net.addr()) == family)
            .filter(|row| !matches!(row.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .map(|row| row.net.prefix_len())
            .next()
    };
    scope
        .node(at)
        .ips
        .iter()
        .filter(|&&ip| !observed.has_address(ip))
        .filter_map(|&ip| IpNet::new(ip, length(Family::of(ip))?).ok())
        .collect()
}

/// The main routes over the link that the peer has and the node has not; the peer's own pods by the pattern of the peer's route to the
/// node's.
fn lost_routes(
    scope: &Scope<'_>,
    at: NodeRef,
    peer: NodeRef,
    link: &str,
    observed: &NodeState,
    tables: &NodeState,
) -> Vec<Route> {
    let own = &scope.node(at).ips;
    let theirs = &scope.node(peer).ips;
    let mut lost = Vec::new();
    let main = tables.routes.iter().filter(|row| {
        row.table == TABLE_MAIN
            && row.kind == RouteKind::Unicast
            && row.protocol != BY_KERNEL
            && row.hops.len() == 1
            && row.hops[0].link == link
            && !matches!(row.dst.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
    });
    for row in main {
        let Some(via) = row.hops[0].via else {
            lost.push(row.clone());
            continue;
        };
        if !own.contains(&via) {
            lost.push(row.clone());
            continue;
        }
        // The way from here to the peer's pods is the mirror image of the way from there to the pods here.
        let back = theirs.iter().find(|ip| ip.is_ipv4() == via.is_ipv4());
        let pods = pods_of(scope, peer, Family::of(via), row.dst.prefix_len());
        if let (Some(&back), Some(pods)) = (back, pods) {
            let mut mirrored = row.clone();
            mirrored.dst = pods;
            mirrored.hops[0].via = Some(back);
            lost.push(mirrored);
        }
    }
    lost.retain(|row| {
        !observed
            .routes
            .iter()
            .any(|known| known.table == row.table && known.dst == row.dst)
    });
    // What is on the link comes before what is reached through it.
    lost.sort_by_key(|row| (row.hops[0].via.is_some(), row.dst.prefix_len() == 0));
    lost
}

/// The pods of a node as one prefix of that length.
fn pods_of(scope: &Scope<'_>, at: NodeRef, family: Family, length: u8) -> Option<IpNet> {
    let pod = scope
        .node(at)
        .pod_ips
        .iter()
        .find(|&&ip| Family::of(ip) == family)?;
    Some(IpNet::new(*pod, length).ok()?.trunc())
}
