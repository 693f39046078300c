//! Who takes part in a fleet, and as what.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::family::{FAMILIES, Families, PerFamily};
use super::objection::{Field, Object, Objection};
use super::{Lent, nodes, overlay};
use crate::api::{
    Cluster, ClusterLinkOptions, ClusterNodeSpec, Device, Fleet, Metadata, NetworkType,
};
use crate::code::Code;
use crate::mac::Mac;

/// The clusters and nodes that take part, each in the order of its name.
pub(super) struct Members<'a> {
    pub(super) clusters: Vec<MemberCluster<'a>>,
    pub(super) nodes: Vec<Member<'a>>,
    /// The address pools of each cluster.
    pub(super) pools: Vec<overlay::Pools>,
}

/// A cluster that takes part.
pub(super) struct MemberCluster<'a> {
    /// Its place in [`Members::clusters`].
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) options: &'a ClusterLinkOptions,
    pub(super) families: Families,
    pub(super) pod_cidrs: &'a [String],
    pub(super) service_cidrs: &'a [String],
    /// The place of its gateway in [`Members::nodes`], in P2P clusters too.
    pub(super) gateway: Option<usize>,
    /// The places of its nodes in [`Members::nodes`].
    pub(super) nodes: Vec<usize>,
}

impl MemberCluster<'_> {
    pub(super) fn is_p2p(&self) -> bool {
        self.options.network_type == NetworkType::P2p
    }

    /// What a prefix of this cluster is called outside of it; the map's keys are compared as text.
    pub(super) fn global_name<'s>(&'s self, cidr: &'s str) -> &'s str {
        self.options
            .global_cidrs_map
            .get(cidr)
            .map_or(cidr, String::as_str)
    }
}

/// A node that takes part.
pub(super) struct Member<'a> {
    /// Its ClusterNode's name.
    pub(super) name: String,
    /// The place of its cluster in [`Members::clusters`].
    pub(super) cluster: usize,
    pub(super) class: Class,
    pub(super) spec: &'a ClusterNodeSpec,
    pub(super) local: PerFamily<Option<Tunnel>>,
    pub(super) bridge: PerFamily<Option<Tunnel>>,
}

/// What a node is to the rest of the fleet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// A node of a P2P cluster that is not its gateway.
    Endpoint,
    /// The elected node of a cluster of either mode.
    Gateway,
    /// A node of a gateway-mode cluster that is not its gateway.
    Internal,
}

/// A tunnel end point of a node.
pub(super) struct Tunnel {
    pub(super) kind: &'static overlay::Kind,
    /// The overlay address with its pool's length.
    pub(super) net: IpNet,
    pub(super) mac: String,
    /// The underlay address, as the ClusterNode writes it.
    pub(super) underlay: String,
}

impl Tunnel {
    pub(super) fn ip(&self) -> IpAddr {
        self.net.addr()
    }
}

impl<'a> Members<'a> {
    pub(super) fn of(fleet: &'a Fleet, lent: &Lent<'a>, objections: &mut Vec<Objection>) -> Self {
        let mut clusters = clusters(fleet, objections);
        let found = nodes::taking_part(fleet, &clusters, objections);
        for (place, (name, node)) in found.iter().enumerate() {
            let cluster = &mut clusters[node.cluster];
            cluster.nodes.push(place);
            if !node.spec.is_gateway() {
                continue;
            }
            if cluster.gateway.is_none() {
                cluster.gateway = Some(place);
            } else {
                objections.push(
                    Objection::new(
                        Code::FailoverIncomplete,
                        Field::new(Object::cluster_node(name, node.spec), "spec.roles"),
                        "has the gateway role beside another node of its cluster that comes first by name",
                    )
                    .warning()
                    .leaving_out("its role"),
                );
            }
        }
        let pools: Vec<overlay::Pools> = clusters
            .iter()
            .map(|cluster| {
                overlay::Pools::of(cluster.name, cluster.options, cluster.families, objections)
            })
            .collect();
        let nodes = found
            .into_iter()
            .enumerate()
            .map(|(place, (name, node))| {
                let cluster = &clusters[node.cluster];
                let class = if cluster.gateway == Some(place) {
                    Class::Gateway
                } else if cluster.is_p2p() {
                    Class::Endpoint
                } else {
                    Class::Internal
                };
                let tunnel = |wanted: bool, kind: &'static overlay::Kind| {
                    if !wanted || !cluster.families.has(kind.family) {
                        return None;
                    }
                    let pool = pools[node.cluster].of_kind(kind)?;
                    // An address that cannot be used was objected to with the node.
                    let underlay = node.spec.address(kind.family);
                    let net = overlay::address(pool, underlay)?;
                    let mac = match lent.get(&(name.as_str(), kind.name)) {
                        Some(mac) => (*mac).to_owned(),
                        None => Mac::derived(&[cluster.name, &node.spec.node_name, kind.name])
                            .to_string(),
                    };
                    Some(Tunnel {
                        kind,
                        net,
                        mac,
                        underlay: underlay.to_owned(),
                    })
                };
                let local =
                    PerFamily::of(|family| tunnel(!cluster.is_p2p(), overlay::Kind::local(family)));
                let bridge = PerFamily::of(|family| {
                    tunnel(class != Class::Internal, overlay::Kind::bridge(family))
                });
                Member {
                    name,
                    cluster: node.cluster,
                    class,
                    spec: node.spec,
                    local,
                    bridge,
                }
            })
            .collect();
        Self {
            clusters,
            nodes,
            pools,
        }
    }

    /// The nodes of the vx-bridge mesh.
    pub(super) fn mesh(&self) -> impl Iterator<Item = &Member<'a>> {
        self.nodes.iter().filter(|node| node.is_in_mesh())
    }
}

fn clusters<'a>(fleet: &'a Fleet, objections: &mut Vec<Objection>) -> Vec<MemberCluster<'a>> {
    let mut found: BTreeMap<&str, &'a Cluster> = BTreeMap::new();
    let mut by_uid: HashMap<&str, &str> = HashMap::new();
    for cluster in &fleet.clusters {
        let Metadata { name, uid, .. } = &cluster.metadata;
        let at = |path: &str| Field::new(Object::cluster(name), path);
        if name.is_empty() {
            objections.push(
                Objection::new(Code::ObjectInvalid, at("metadata.name"), "has no name")
                    .leaving_out("the cluster and its nodes"),
            );
        } else if found.contains_key(name.as_str()) {
            objections.push(
                Objection::new(
                    Code::ClusterIdDuplicate,
                    at("metadata.name"),
                    "is the name of two clusters",
                )
                .leaving_out("the later one"),
            );
        } else {
            found.insert(name, cluster);
            if uid.is_empty() {
                continue;
            }
            if let Some(other) = by_uid.insert(uid, name) {
                objections.push(
                    Objection::new(
                        Code::ClusterIdDuplicate,
                        at("metadata.uid"),
                        format!("{uid} is also the uid of cluster {other}"),
                    )
                    .against(Field::new(Object::cluster(other), "metadata.uid")),
                );
            }
        }
    }
    let taking_part = found.into_iter().filter_map(|(name, cluster)| {
        let options = cluster.spec.cluster_link_options.as_ref()?;
        options.enable.then_some((name, cluster, options))
    });
    taking_part
        .enumerate()
        .map(|(index, (name, cluster, options))| {
            let families = Families::of(&options.ip_family);
            if families.is_empty() {
                objections.push(
                    Objection::new(
                        Code::ObjectInvalid,
                        Field::new(Object::cluster(name), "spec.clusterLinkOptions.ipFamily"),
                        format!("`{}` is none of all, ipv4, ipv6", options.ip_family),
                    )
                    .leaving_out("every tunnel and prefix of the cluster"),
                );
            }
            MemberCluster {
                index,
                name,
                options,
                families,
                pod_cidrs: &cluster.status.cluster_link_status.pod_cidrs,
                service_cidrs: &cluster.status.cluster_link_status.service_cidrs,
                gateway: None,
                nodes: Vec::new(),
            }
        })
        .collect()
}

impl Member<'_> {
    /// The node's tunnels as rows.
    pub(super) fn devices(&self) -> Vec<Device> {
        let tunnels = FAMILIES
            .iter()
            .flat_map(|family| [self.local.get(*family), self.bridge.get(*family)]);
        tunnels
            .flatten()
            .map(|tunnel| Device {
                kind: "vxlan".to_owned(),
                name: tunnel.kind.name.to_owned(),
                addr: tunnel.net.to_string(),
                mac: tunnel.mac.clone(),
                bind_dev: self.spec.interface_name.clone(),
                id: tunnel.kind.vni,
                port: tunnel.kind.port,
            })
            .collect()
    }
}
