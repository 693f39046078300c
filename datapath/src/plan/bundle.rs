//! What one cluster contributes to the rows of all others.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::hops::Hops;
use super::members::{End, Ends, Member, MemberCluster};
use super::overlay;
use crate::mac::Mac;
use crate::state::Family;
use crate::tunnel::Tunnel;

/// What one cluster contributes to every node of every other cluster: routes to its exported prefixes, and the VTEPs of its mesh nodes.
///
/// A bundle does not depend on who reads it. Which of its rows a node holds, and through which next hop, is decided by that node's
/// [`View`](super::View).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub(super) cluster: Arc<str>,
    pub(super) exports: Box<[Export]>,
    pub(super) vteps: Box<[Vtep]>,
    /// Of each family one for each gateway: by whom the cluster is reached.
    pub(super) gateways: Box<[Pair]>,
}

/// A gateway's end of a tunnel, and the end of the node that stands in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) tunnel: Tunnel,
    pub(super) active: IpAddr,
    pub(super) standby: Option<IpAddr>,
}

impl Pair {
    /// Those of a cluster's gateways, on the tunnels that `ends` says. Several gateways stand in for each other, each for the one before it.
    pub(super) fn of_cluster(
        cluster: &MemberCluster,
        ends: impl Fn(&Member) -> &Ends,
    ) -> Vec<Self> {
        let gateways: Vec<&Member> = cluster.gateways().collect();
        let next = gateways.iter().cycle().skip(1);
        let pairs = gateways.iter().zip(next).map(|(gateway, next)| {
            let standby = match gateways.len() {
                1 => cluster.standby(),
                _ => Some(*next),
            };
            Self::of(ends(gateway), standby.map(&ends))
        });
        pairs.flatten().collect()
    }

    /// Of each family that the gateway has.
    fn of(active: &Ends, standby: Option<&Ends>) -> Vec<Self> {
        let pairs = active.ends().map(|end| Self {
            tunnel: end.tunnel,
            active: end.ip(),
            standby: standby
                .and_then(|ends| ends.get(end.tunnel.family()))
                .map(End::ip),
        });
        pairs.collect()
    }
}

/// A prefix that a node offers to other clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// The prefix without host bits, under its global name.
    pub(super) dst: IpNet,
    /// As it is written, where that is not how `dst` is written.
    text: Option<Box<str>>,
    /// The overlay addresses of the nodes that offer it.
    pub(super) via: Hops,
}

/// An end of vx-bridge or vx-bridge-6, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vtep {
    /// The ClusterNode's name.
    pub(super) node: Arc<str>,
    pub(super) end: End,
}

impl Export {
    pub(super) fn family(&self) -> Family {
        Family::of(self.dst.addr())
    }

    /// The prefix as it is written.
    pub(super) fn text(&self) -> String {
        self.text
            .as_ref()
            .map_or_else(|| self.dst.to_string(), |text| text.to_string())
    }
}

impl Bundle {
    /// What a cluster contributes.
    pub(super) fn of(cluster: &MemberCluster) -> Self {
        let mut exports = Vec::new();
        let gateways: Vec<&Ends> = cluster.gateways().map(|gateway| &gateway.bridge).collect();
        let services = &cluster.object.service_cidrs;
        offer(cluster, &gateways, services, &mut exports);
        if !cluster.is_p2p() {
            offer(cluster, &gateways, &cluster.object.pod_cidrs, &mut exports);
        }
        let mut vteps = Vec::new();
        for node in cluster.nodes.iter().filter(|node| node.is_in_mesh()) {
            if cluster.is_p2p() {
                offer(cluster, &[&node.bridge], &node.spec.pod_cidrs, &mut exports);
            }
            vteps.extend(node.bridge.ends().map(|end| Vtep {
                node: node.name.clone(),
                end: end.clone(),
            }));
        }
        Self {
            cluster: cluster.name.clone(),
            exports: exports.into(),
            vteps: vteps.into(),
            gateways: Pair::of_cluster(cluster, |node| &node.bridge).into(),
        }
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The prefixes that the cluster offers, without host bits, under the names by which the others know them; one that several nodes
    /// offer comes more than once.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.exports.iter().map(|export| export.dst)
    }

    /// Whether the cluster offers no prefix and has no node in the mesh.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exports.is_empty() && self.vteps.is_empty()
    }
}

/// Offers prefixes through nodes, all of them alike. One that cannot be read is objected to with the claims, and offered by nobody.
fn offer(cluster: &MemberCluster, ends: &[&Ends], cidrs: &[String], exports: &mut Vec<Export>) {
    for cidr in cidrs {
        if overlay::family_of_text(cidr).is_some_and(|family| !cluster.families.has(family)) {
            continue;
        }
        let text = cluster.global_name(cidr);
        let Ok(net) = text.parse::<IpNet>() else {
            continue;
        };
        let family = Family::of(net.addr());
        let through = ends.iter().filter_map(|ends| Some(ends.get(family)?.ip()));
        let Some(via) = Hops::of(through) else {
            continue;
        };
        let dst = net.trunc();
        let export = Export {
            text: (dst.to_string() != text).then(|| text.into()),
            dst,
            via,
        };
        if !exports.contains(&export) {
            exports.push(export);
        }
    }
}

/// The three rows by which a node knows a peer: a flood row and a unicast row in the FDB, and a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerKey {
    /// The flood row to an underlay address.
    Flood(IpAddr),
    /// The neighbour with an overlay address.
    Neighbour(IpAddr),
    /// Where a MAC is. The kernel has one destination for it.
    Unicast(Mac),
}

impl End {
    /// The keys of the rows by which others know this end.
    pub(super) fn keys(&self) -> impl Iterator<Item = PeerKey> + use<> {
        // The unicast row of a MAC of zeros is the flood row.
        let unicast = (!self.mac.is_zero()).then_some(PeerKey::Unicast(self.mac));
        [PeerKey::Flood(self.underlay), PeerKey::Neighbour(self.ip())]
            .into_iter()
            .chain(unicast)
    }
}
