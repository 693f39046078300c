//! Routes that nobody planned and that packets need all the same: the way out of a node, and a cluster's own ways to its pods.

use std::net::IpAddr;

use datapath::state::{Family, NodeState, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use ipnet::IpNet;

use super::super::scope::Scope;
use crate::evidence::NodeRef;

/// Whether an address is a pod's of another node of the cluster.
pub(super) fn is_of_the_cluster(scope: &Scope<'_>, at: NodeRef, ip: IpAddr) -> bool {
    scope
        .members_all(at.cluster)
        .any(|peer| peer != at && scope.node(peer).pod_ips.contains(&ip))
}

/// The route to an address that a node's main table lacks, as the other nodes of its cluster show; none where it has one, or where
/// they do not show it.
pub(super) fn lacking(scope: &Scope<'_>, at: NodeRef, ip: IpAddr) -> Option<IpNet> {
    let tables = scope.node(at).tables.as_ref().ok()?;
    let length = unicast(tables)
        .filter(|row| row.dst.contains(&ip))
        .map(|row| row.dst.prefix_len())
        .max();
    if is_of_the_cluster(scope, at, ip) {
        return if length.is_some_and(|length| length > 0) {
            None
        } else {
            to_pods(scope, at, ip)
        };
    }
    if length.is_some() {
        return None;
    }
    // Its own cluster's nodes leave by a default route, so that it should have one.
    scope
        .members_all(at.cluster)
        .filter(|&peer| peer != at)
        .filter_map(|peer| scope.node(peer).tables.as_ref().ok())
        .flat_map(main)
        .map(|row| row.dst)
        .find(|dst| dst.prefix_len() == 0 && Family::of(dst.addr()) == Family::of(ip))
}

/// The route to a pod of a peer: the one that another node has, else one as long as those to other peers' pods are.
fn to_pods(scope: &Scope<'_>, at: NodeRef, ip: IpAddr) -> Option<IpNet> {
    let peers: Vec<IpAddr> = scope
        .members_all(at.cluster)
        .flat_map(|peer| scope.node(peer).ips.iter().copied())
        .collect();
    let by_nodes: Vec<IpNet> = scope
        .members_all(at.cluster)
        .filter_map(|peer| scope.node(peer).tables.as_ref().ok())
        .flat_map(main)
        .filter(|row| row.dst.prefix_len() > 0)
        .filter(|row| Family::of(row.dst.addr()) == Family::of(ip))
        .filter(|row| {
            row.hops
                .iter()
                .any(|hop| hop.via.is_some_and(|via| peers.contains(&via)))
        })
        .map(|row| row.dst)
        .collect();
    by_nodes
        .iter()
        .find(|dst| dst.contains(&ip))
        .copied()
        .or_else(|| {
            let length = by_nodes.first()?.prefix_len();
            Some(IpNet::new(ip, length).ok()?.trunc())
        })
}

fn main(tables: &NodeState) -> impl Iterator<Item = &Route> {
    unicast(tables).filter(|row| row.table == TABLE_MAIN)
}

fn unicast(tables: &NodeState) -> impl Iterator<Item = &Route> {
    tables
        .routes
        .iter()
        .filter(|row| row.kind == RouteKind::Unicast && row.table != TABLE_LOCAL)
}
