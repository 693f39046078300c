//! Who takes part in a fleet, and as what.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Lent, Problem, overlay};
use crate::api::{Cluster, ClusterLinkOptions, Device, Fleet, NetworkType};
use crate::mac::Mac;
use crate::state::Family;

/// The clusters and nodes that take part, each in the order of its name.
pub(super) struct Members<'a> {
    pub(super) clusters: Vec<MemberCluster<'a>>,
    pub(super) nodes: Vec<Member<'a>>,
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

/// The families that a cluster links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    ipv4: bool,
    ipv6: bool,
}

impl Families {
    fn of(word: &str) -> Self {
        Self {
            ipv4: matches!(word, "all" | "ipv4"),
            ipv6: matches!(word, "all" | "ipv6"),
        }
    }

    pub(super) fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// A node that takes part.
pub(super) struct Member<'a> {
    /// Its ClusterNode's name.
    pub(super) name: String,
    /// The place of its cluster in [`Members::clusters`].
    pub(super) cluster: usize,
    pub(super) class: Class,
    pub(super) interface: &'a str,
    pub(super) pod_cidrs: &'a [String],
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

/// One value for each family.
#[derive(Clone, Copy, Default)]
pub(super) struct PerFamily<T> {
    ipv4: T,
    ipv6: T,
}

impl<T> PerFamily<T> {
    pub(super) fn of(mut make: impl FnMut(Family) -> T) -> Self {
        Self {
            ipv4: make(Family::Ipv4),
            ipv6: make(Family::Ipv6),
        }
    }

    pub(super) fn get(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }
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

pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

impl<'a> Members<'a> {
    pub(super) fn of(fleet: &'a Fleet, lent: &Lent<'a>, problems: &mut Vec<Problem>) -> Self {
        let mut clusters = clusters(fleet, problems);
        let by_name: HashMap<&str, usize> = clusters
            .iter()
            .map(|cluster| (cluster.name, cluster.index))
            .collect();
        let known: HashMap<&str, &Cluster> = fleet
            .clusters
            .iter()
            .map(|cluster| (cluster.metadata.name.as_str(), cluster))
            .collect();

        let mut found: BTreeMap<String, (usize, &'a crate::api::ClusterNodeSpec)> = BTreeMap::new();
        for node in &fleet.cluster_nodes {
            let spec = &node.spec;
            let name = if node.metadata.name.is_empty() {
                format!("{}-{}", spec.cluster_name, spec.node_name)
            } else {
                node.metadata.name.clone()
            };
            let cluster = match by_name.get(spec.cluster_name.as_str()) {
                Some(index) => &clusters[*index],
                None => {
                    // A cluster that is known and takes no part takes its nodes with it; that is no mistake.
                    if !known.contains_key(spec.cluster_name.as_str()) {
                        problems.push(Problem::new(
                            format!("node {name}"),
                            format!("there is no cluster `{}`", spec.cluster_name),
                        ));
                    }
                    continue;
                }
            };
            if let Some(rule) = missing(cluster, spec) {
                problems.push(Problem::new(format!("node {name}"), rule));
                continue;
            }
            if found.contains_key(&name) {
                problems.push(Problem::new(
                    format!("node {name}"),
                    "two ClusterNodes have this name; the later one is left out",
                ));
                continue;
            }
            found.insert(name, (cluster.index, spec));
        }

        for (place, (name, (cluster, spec))) in found.iter().enumerate() {
            let cluster = &mut clusters[*cluster];
            cluster.nodes.push(place);
            if spec.is_gateway() {
                if cluster.gateway.is_none() {
                    cluster.gateway = Some(place);
                } else {
                    problems.push(Problem::new(
                        format!("node {name}"),
                        "its cluster has another gateway, which comes first by name; it is planned without the role",
                    ));
                }
            }
        }
        let pools: Vec<overlay::Pools> = clusters
            .iter()
            .map(|cluster| overlay::Pools::of(cluster, problems))
            .collect();
        let nodes = found
            .into_iter()
            .enumerate()
            .map(|(place, (name, (index, spec)))| {
                let cluster = &clusters[index];
                let class = if cluster.gateway == Some(place) {
                    Class::Gateway
                } else if cluster.is_p2p() {
                    Class::Endpoint
                } else {
                    Class::Internal
                };
                let mut tunnel = |wanted: bool, kind: &'static overlay::Kind| {
                    if !wanted || !cluster.families.has(kind.family) {
                        return None;
                    }
                    let underlay = match kind.family {
                        Family::Ipv4 => &spec.ip,
                        Family::Ipv6 => &spec.ip6,
                    };
                    let net = match overlay::address(pools[index].of_kind(kind)?, underlay) {
                        Ok(net) => net,
                        Err(rule) => {
                            problems.push(Problem::new(format!("node {name}"), rule));
                            return None;
                        }
                    };
                    let mac = match lent.get(&(name.as_str(), kind.name)) {
                        Some(mac) => (*mac).to_owned(),
                        None => {
                            Mac::derived(&[cluster.name, &spec.node_name, kind.name]).to_string()
                        }
                    };
                    Some(Tunnel {
                        kind,
                        net,
                        mac,
                        underlay: underlay.clone(),
                    })
                };
                let local =
                    PerFamily::of(|family| tunnel(!cluster.is_p2p(), overlay::Kind::local(family)));
                let bridge = PerFamily::of(|family| {
                    tunnel(class != Class::Internal, overlay::Kind::bridge(family))
                });
                Member {
                    name,
                    cluster: index,
                    class,
                    interface: &spec.interface_name,
                    pod_cidrs: &spec.pod_cidrs,
                    local,
                    bridge,
                }
            })
            .collect();
        Self { clusters, nodes }
    }

    /// The nodes of the vx-bridge mesh.
    pub(super) fn mesh(&self) -> impl Iterator<Item = &Member<'a>> {
        self.nodes.iter().filter(|node| node.is_in_mesh())
    }
}

fn clusters<'a>(fleet: &'a Fleet, problems: &mut Vec<Problem>) -> Vec<MemberCluster<'a>> {
    let mut found: BTreeMap<&str, &'a Cluster> = BTreeMap::new();
    for cluster in &fleet.clusters {
        let name = cluster.metadata.name.as_str();
        if name.is_empty() {
            problems.push(Problem::new("cluster", "a cluster has no name"));
        } else if found.contains_key(name) {
            problems.push(Problem::new(
                format!("cluster {name}"),
                "two clusters have this name; the later one is left out",
            ));
        } else {
            found.insert(name, cluster);
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
            if families == Families::of("") {
                problems.push(Problem::new(
                    format!("cluster {name}"),
                    format!(
                        "ipFamily `{}` is none of all, ipv4, ipv6",
                        options.ip_family
                    ),
                ));
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

/// What a node lacks to take part.
fn missing(
    cluster: &MemberCluster<'_>,
    spec: &crate::api::ClusterNodeSpec,
) -> Option<&'static str> {
    if spec.interface_name.is_empty() {
        Some("its underlay link is not known yet (interfaceName)")
    } else if cluster.families.has(Family::Ipv4) && spec.ip.is_empty() {
        Some("its cluster links IPv4 and it has no IPv4 address (ip)")
    } else if cluster.families.has(Family::Ipv6) && spec.ip6.is_empty() {
        Some("its cluster links IPv6 and it has no IPv6 address (ip6)")
    } else {
        None
    }
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
                bind_dev: self.interface.to_owned(),
                id: tunnel.kind.vni,
                port: tunnel.kind.port,
            })
            .collect()
    }
}
