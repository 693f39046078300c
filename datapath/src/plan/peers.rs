//! The three records by which a node knows a peer: a flood row and a unicast row in the FDB, and a neighbour.

use super::family::FAMILIES;
use super::members::{Class, Member, Members, Tunnel};
use super::order;
use crate::api::{Arp, Fdb, NodeConfigSpec};
use crate::state::Family;

/// The records of every node of the vx-bridge mesh, in the order of output, each with the place of its node in the mesh.
pub(super) struct Mesh {
    fdbs: Vec<Record<Fdb>>,
    arps: Vec<Record<Arp>>,
}

/// A record, whom it is about, and in which family.
struct Record<R> {
    cluster_node: String,
    family: Family,
    row: R,
}

impl Mesh {
    pub(super) fn of(members: &Members<'_>) -> Self {
        let (mut fdbs, mut arps) = (Vec::new(), Vec::new());
        for node in members.mesh() {
            for family in FAMILIES {
                let Some(tunnel) = node.bridge.get(family) else {
                    continue;
                };
                for row in fdb_rows(tunnel) {
                    fdbs.push(Record {
                        cluster_node: node.name.clone(),
                        family,
                        row,
                    });
                }
                arps.push(Record {
                    cluster_node: node.name.clone(),
                    family,
                    row: arp_row(tunnel),
                });
            }
        }
        // Sorted once here, so that each node's share of it is sorted already.
        fdbs.sort_by(|left, right| order::fdb(&right.row, &left.row));
        arps.sort_by(|left, right| order::arp(&right.row, &left.row));
        Self { fdbs, arps }
    }

    /// Adds the records of every other node of the mesh, in the families that both have.
    pub(super) fn add_bridge_peers(
        &self,
        node: &Member<'_>,
        members: &Members<'_>,
        config: &mut NodeConfigSpec,
    ) {
        if !node.is_in_mesh() {
            return;
        }
        let families = members.clusters[node.cluster].families;
        let wants = |family: Family, peer: &str| {
            peer != node.name && families.has(family) && node.bridge.get(family).is_some()
        };
        config.fdbs.extend(
            self.fdbs
                .iter()
                .filter(|record| wants(record.family, &record.cluster_node))
                .map(|record| record.row.clone()),
        );
        config.arps.extend(
            self.arps
                .iter()
                .filter(|record| wants(record.family, &record.cluster_node))
                .map(|record| record.row.clone()),
        );
    }
}

/// Adds what an internal node needs to know of its gateway, and a gateway of its internal nodes.
pub(super) fn add_local_peers(
    node: &Member<'_>,
    members: &Members<'_>,
    config: &mut NodeConfigSpec,
) {
    let cluster = &members.clusters[node.cluster];
    if cluster.is_p2p() {
        return;
    }
    let mut add = |peer: &Member<'_>| {
        for family in FAMILIES {
            let (Some(_), Some(tunnel)) = (node.local.get(family), peer.local.get(family)) else {
                continue;
            };
            config.fdbs.extend(fdb_rows(tunnel));
            config.arps.push(arp_row(tunnel));
        }
    };
    match node.class {
        Class::Internal => {
            if let Some(gateway) = cluster.gateway {
                add(&members.nodes[gateway]);
            }
        }
        Class::Gateway => {
            for place in &cluster.nodes {
                if members.nodes[*place].class == Class::Internal {
                    add(&members.nodes[*place]);
                }
            }
        }
        Class::Endpoint => {}
    }
}

fn fdb_rows(tunnel: &Tunnel) -> [Fdb; 2] {
    let row = |mac: String| Fdb {
        ip: tunnel.underlay.clone(),
        mac,
        dev: tunnel.kind.name.to_owned(),
    };
    [
        row(crate::mac::Mac::ZERO.to_string()),
        row(tunnel.mac.clone()),
    ]
}

fn arp_row(tunnel: &Tunnel) -> Arp {
    Arp {
        ip: tunnel.ip().to_string(),
        mac: tunnel.mac.clone(),
        dev: tunnel.kind.name.to_owned(),
    }
}
