//! Rows that still lead to the node that was a cluster's gateway before.
//!
//! A role moves with one object, and every node's rows follow it one by one. Where some have not, each row that is behind looks wrong by
//! itself; the cause is one, and it is that this node was left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::code::Code;
use datapath::diff::{Change, name_of};
use datapath::element::{ElementKind, Fix};
use datapath::plan::overlay_address;
use datapath::state::{Fdb, Neighbour, Route, Row};

use super::commands::with_rows;
use super::{NAMED, Node, Suspicion};
use crate::evidence::NodeRef;
use crate::graph::Part;

/// A cluster whose gateway has moved on, as one node's rows show it.
#[derive(Default)]
struct Moved<'a> {
    /// The routes that are behind, by name.
    routes: BTreeSet<String>,
    /// What was planned instead.
    rows: Vec<&'a Row>,
}

/// Makes one suspicion of all that a node's rows owe to a gateway that has moved on, for each such cluster.
pub(super) fn collapse(node: &Node<'_>, changes: &[Change], found: &mut Vec<Suspicion>) {
    let mut moved: BTreeMap<NodeRef, Moved<'_>> = BTreeMap::new();
    for change in changes {
        let Change::Replace {
            from: Row::Route(from),
            to: to @ Row::Route(planned),
        } = change
        else {
            continue;
        };
        if node.takes_detour(planned, from) {
            continue;
        }
        if let Some(gateway) = moved_to(node, from, planned) {
            let moved = moved.entry(gateway).or_default();
            moved.routes.insert(name_of(to));
            moved.rows.push(to);
        }
    }
    for change in changes {
        let (Change::Add(row) | Change::Replace { to: row, .. }) = change else {
            continue;
        };
        let (Row::Neighbour(Neighbour { ip, .. }) | Row::Fdb(Fdb { dst: Some(ip), .. })) = row
        else {
            continue;
        };
        let owner = node.intended.owner(*ip);
        if let Some(moved) = owner.and_then(|owner| moved.get_mut(&owner)) {
            moved.rows.push(row);
        }
    }
    for (gateway, moved) in moved {
        let is_own = gateway.cluster == node.at.cluster;
        let (behind, rest): (Vec<Suspicion>, Vec<Suspicion>) = std::mem::take(found)
            .into_iter()
            .partition(|suspicion| follows(node, suspicion, gateway, is_own, &moved));
        *found = rest;
        found.push(left_behind(node, gateway, &moved, behind));
    }
}

/// The gateway that a route should lead to, where it leads to another node of the same cluster, or would if this node were still, or
/// were already, the gateway of its own.
fn moved_to(node: &Node<'_>, from: &Route, planned: &Route) -> Option<NodeRef> {
    let ([is], [should]) = (from.hops.as_slice(), planned.hops.as_slice()) else {
        return None;
    };
    let (is, should) = (is.via?, should.via?);
    let target = node.intended.owner(should)?;
    let is_gateway = |at: NodeRef| node.intended.gateways.contains(&at);
    if let Some(former) = former(node, target, should, is) {
        return (former != target && is_gateway(target) && !is_gateway(former)).then_some(target);
    }
    let leads = |route: &Route, tunnel: &str| route.hops[0].link.starts_with(tunnel);
    if leads(from, "vx-bridge") && leads(planned, "vx-local") {
        // This node was the gateway.
        return is_gateway(target).then_some(target);
    }
    let is_new = leads(from, "vx-local") && leads(planned, "vx-bridge") && is_gateway(node.at);
    is_new.then_some(node.at)
}

/// The node of a gateway's cluster that has another address of the same pool, or would have it if it were one.
fn former(node: &Node<'_>, gateway: NodeRef, like: IpAddr, ip: IpAddr) -> Option<NodeRef> {
    if let Some(owner) = node.intended.owner(ip) {
        return (owner.cluster == gateway.cluster).then_some(owner);
    }
    let name = node.intended.name(gateway)?;
    let mut devices = node.intended.planner.devices(name)?;
    let pool = devices
        .find(|device| device.net.addr() == like)?
        .net
        .trunc();
    let mut members = node.scope.members_all(gateway.cluster);
    members.find(|&at| {
        let mut ips = node.scope.node(at).ips.iter();
        ips.any(|&underlay| overlay_address(pool, underlay).is_some_and(|net| net.addr() == ip))
    })
}

/// Whether a suspicion is no more than that this node was left behind.
fn follows(
    node: &Node<'_>,
    suspicion: &Suspicion,
    gateway: NodeRef,
    is_own: bool,
    moved: &Moved<'_>,
) -> bool {
    match suspicion.code {
        Code::RouteWrongDev => moved.routes.contains(&suspicion.name),
        Code::NeighMissing | Code::FdbMissing => suspicion.parts.iter().all(|&(_, part)| {
            matches!(part, Part::Neighbour(_, ip) | Part::Fdb(_, ip)
                if node.intended.owner(ip) == Some(gateway) || (is_own && gateway == node.at))
        }),
        // The new gateway has yet to make what the former one has.
        Code::DevDeleted | Code::AddressMissing | Code::NatMissing | Code::RouteMissing => {
            is_own && gateway == node.at
        }
        _ => false,
    }
}

fn left_behind(
    node: &Node<'_>,
    gateway: NodeRef,
    moved: &Moved<'_>,
    behind: Vec<Suspicion>,
) -> Suspicion {
    let (place, new) = (node.place(), node.scope.place(gateway));
    let cluster = &node.scope.cluster(gateway.cluster).name;
    let summary = if gateway == node.at {
        format!("{place} is the gateway of {cluster} by now, and its rows are those from before")
    } else {
        format!(
            "the gateway of {cluster} is {new} by now, and the rows of {place} are those from before"
        )
    };
    let evidence = behind.iter().flat_map(|one| one.evidence.iter().cloned());
    let evidence = evidence.take(NAMED).collect();
    let parts: BTreeSet<(NodeRef, Part)> = behind
        .iter()
        .flat_map(|one| one.parts.iter().copied())
        .collect();
    Suspicion {
        code: Code::FailoverIncomplete,
        at: node.at,
        kind: ElementKind::Node,
        name: node.scope.node(node.at).name.clone(),
        link: None,
        parts: parts.into_iter().collect(),
        soft: false,
        summary,
        evidence,
        fix: with_rows(node, Fix::default(), &moved.rows).and_advice(&format!(
            "see why the datapath's agent of {place} does not follow its NodeConfig"
        )),
    }
}
