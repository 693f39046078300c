//! The objects of `kosmos.io/v1alpha1` as plain data: the planner's input and output.
//!
//! Field names and defaults are those of the CRDs of Kosmos Clusterlink; unknown fields are ignored on reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::state::Family;

/// The API group.
pub const GROUP: &str = "kosmos.io";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// The label of a ClusterNode that holds its cluster's name.
pub const CLUSTER_LABEL: &str = "kosmos.io/cluster";
/// The label (and annotation) key that marks the control-plane cluster, with the value `root`.
pub const ROLE_LABEL: &str = "kosmos.io/cluster-role";
/// The annotation of a Cluster that says which cluster it is: the uid of its kube-system namespace.
pub const CLUSTER_UID: &str = "kosmos.io/clusterlink-uid";
/// The finalizer of a Cluster whose nodes hold rows. Whoever joins a cluster puts it there; the manager takes it away once the nodes are
/// bare, or have been silent for too long.
pub const ROWS_FINALIZER: &str = "kosmos.io/clusterlink-rows";

/// The annotation that a gateway's or standby's agent puts on its ClusterNode while it reaches no other cluster; its value says since when. Another node
/// is elected then, if there is one that reaches any.
pub const CUT_OFF: &str = "kosmos.io/clusterlink-cut-off";
/// The annotation of a Cluster that says how many gateways it may have at once, which share its flows; without it there is one. Kosmos does not know it,
/// and of its agents' routes all lead through the same one of them.
pub const GATEWAYS: &str = "kosmos.io/clusterlink-gateways";
/// The role of a cluster's gateway, as Kosmos writes it.
pub const GATEWAY_ROLE: &str = "gateway";
/// The role of the node that stands in for its cluster's gateway while that is dead.
pub const STANDBY_ROLE: &str = "standby";

/// The CustomResourceDefinitions of Cluster, ClusterNode and NodeConfig, as YAML: those of Kosmos, and in addition
/// `status.conditions` and what agents report in the status of a NodeConfig. In a control plane that has Kosmos' own, these are dropped,
/// and everything else is the same.
pub const DEFINITIONS: [&str; 3] = [
    include_str!("../crds/clusters.yaml"),
    include_str!("../crds/clusternodes.yaml"),
    include_str!("../crds/nodeconfigs.yaml"),
];

/// The part of `ObjectMeta` that the planner reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// What distinguishes it from every other object, also from a later one of its name; empty in objects that no API server gave.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "nullable"
    )]
    pub uid: String,
    /// Its labels.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
    /// When its deletion was asked for; none of an object that is to stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
}

/// A member cluster (`clusters.kosmos.io`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Its name is the cluster's name.
    pub metadata: Metadata,
    /// What is wanted of it.
    pub spec: ClusterSpec,
    /// What is known of it.
    #[serde(deserialize_with = "nullable")]
    pub status: ClusterStatus,
}

impl Cluster {
    /// Its settings where it takes part in the datapath: it has them, is enabled, and is not about to go.
    #[must_use]
    pub fn part(&self) -> Option<&ClusterLinkOptions> {
        let stays = self.metadata.deletion_timestamp.is_none();
        let options = self.spec.cluster_link_options.as_ref();
        options.filter(|options| options.enable && stays)
    }
}

/// `clusters.kosmos.io`, `.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The datapath's settings; without them the cluster takes no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_link_options: Option<ClusterLinkOptions>,
    /// Where the components are installed; `kosmos-system` when empty.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "nullable"
    )]
    pub namespace: String,
}

/// `.spec.clusterLinkOptions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterLinkOptions {
    /// Whether the cluster takes part.
    pub enable: bool,
    /// The CNI plugin's name.
    #[serde(deserialize_with = "nullable")]
    pub cni: String,
    /// `gateway` or `p2p`.
    pub network_type: NetworkType,
    /// `all`, `ipv4` or `ipv6`; any other word means neither family.
    pub ip_family: String,
    /// The pools of vx-local and vx-local-6.
    #[serde(rename = "localCIDRs")]
    pub local_cidrs: Pools,
    /// The pools of vx-bridge and vx-bridge-6.
    #[serde(rename = "bridgeCIDRs")]
    pub bridge_cidrs: Pools,
    /// Prefixes of the cluster and what they are called outside of it.
    #[serde(
        rename = "globalCIDRsMap",
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub global_cidrs_map: BTreeMap<String, String>,
}

impl Default for ClusterLinkOptions {
    fn default() -> Self {
        Self {
            enable: true,
            cni: "calico".to_owned(),
            network_type: NetworkType::P2p,
            ip_family: "all".to_owned(),
            local_cidrs: Pools {
                ip: "210.0.0.0/8".to_owned(),
                ip6: "9480::/16".to_owned(),
            },
            bridge_cidrs: Pools {
                ip: "220.0.0.0/8".to_owned(),
                ip6: "9470::/16".to_owned(),
            },
            global_cidrs_map: BTreeMap::new(),
        }
    }
}

/// How a cluster's nodes reach other clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkType {
    /// Through the cluster's gateway node.
    Gateway,
    /// Each node for itself.
    P2p,
}

/// A pair of address pools, one per family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pools {
    /// The IPv4 pool, a prefix as text.
    pub ip: String,
    /// The IPv6 pool, a prefix as text.
    pub ip6: String,
}

/// `clusters.kosmos.io`, `.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterStatus {
    /// What the datapath's controllers found.
    #[serde(deserialize_with = "nullable")]
    pub cluster_link_status: ClusterLinkStatus,
}

/// `.status.clusterLinkStatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterLinkStatus {
    /// The cluster's pod prefixes.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    /// The cluster's service prefixes.
    #[serde(rename = "serviceCIDRs", deserialize_with = "nullable")]
    pub service_cidrs: Vec<String>,
}

/// A node of a member cluster (`clusternodes.kosmos.io`); named `<cluster>-<node>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNode {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What is known of it.
    pub spec: ClusterNodeSpec,
}

/// `clusternodes.kosmos.io`, `.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterNodeSpec {
    /// The cluster's name.
    #[serde(deserialize_with = "nullable")]
    pub cluster_name: String,
    /// The node's name in its cluster.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// The node's pod prefixes.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    /// The underlay IPv4 address; empty while unknown.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
    /// The underlay IPv6 address; empty while unknown.
    #[serde(deserialize_with = "nullable")]
    pub ip6: String,
    /// Roles: [`GATEWAY_ROLE`] and [`STANDBY_ROLE`], in any case. Kosmos knows the first alone and ignores all others.
    #[serde(deserialize_with = "nullable")]
    pub roles: Vec<String>,
    /// The underlay link's name.
    #[serde(deserialize_with = "nullable")]
    pub interface_name: String,
}

impl ClusterNodeSpec {
    /// The underlay address of a family, as it is written; empty while unknown.
    #[must_use]
    pub fn address(&self, family: Family) -> &str {
        match family {
            Family::Ipv4 => &self.ip,
            Family::Ipv6 => &self.ip6,
        }
    }

    /// Whether the node has the gateway role.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.roles
            .iter()
            .any(|role| role.eq_ignore_ascii_case(GATEWAY_ROLE))
    }

    /// Whether the node has the role of the gateway's standby.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.roles
            .iter()
            .any(|role| role.eq_ignore_ascii_case(STANDBY_ROLE))
    }
}

/// What one node's kernel should hold (`nodeconfigs.kosmos.io`); named as the ClusterNode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    /// Its name.
    pub metadata: Metadata,
    /// The rows.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeConfigSpec,
}

/// `nodeconfigs.kosmos.io`, `.spec`. Empty lists are left out in writing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeConfigSpec {
    /// The tunnels.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub devices: Vec<Device>,
    /// The routes of table 200.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub routes: Vec<Route>,
    /// The address translations.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub iptables: Vec<Iptables>,
    /// The forwarding rows.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub fdbs: Vec<Fdb>,
    /// The neighbours.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub arps: Vec<Arp>,
    /// The gateways whose other ends this node watches, and who stands in for each. Kosmos' agents ignore it, and in a control plane with
    /// Kosmos' own CRDs it is dropped: then nobody fails over, and the rows are the same.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub gateways: Vec<Gateway>,
    /// Of a standby: the routes that it has in place of those through its cluster's gateway while it stands in for that.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub takeover: Vec<Route>,
    /// The further next hops of routes, these or those of `takeover`, whose cluster has several gateways. Kosmos' agents know one next hop a route: that
    /// which stands there.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub multipath: Vec<Multipath>,
}

impl NodeConfigSpec {
    /// The names of all its lists, in the order of its fields.
    pub const LISTS: [&'static str; 8] = [
        "devices",
        "routes",
        "iptables",
        "fdbs",
        "arps",
        "gateways",
        "takeover",
        "multipath",
    ];

    /// How many rows there are, of all lists, those that stand in for others included.
    #[must_use]
    pub fn len(&self) -> usize {
        let tables = self.devices.len() + self.routes.len() + self.iptables.len();
        let standing_in = self.gateways.len() + self.takeover.len() + self.multipath.len();
        tables + self.fdbs.len() + self.arps.len() + standing_in
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tunnel of a NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Always `vxlan`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The link's name.
    pub name: String,
    /// The overlay address with the length of its pool.
    pub addr: String,
    /// The Ethernet address.
    pub mac: String,
    /// The underlay link's name.
    pub bind_dev: String,
    /// The VNI.
    pub id: i32,
    /// The UDP destination port.
    pub port: i32,
}

/// A route of a NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The destination, a prefix as text.
    pub cidr: String,
    /// The next hop's overlay address.
    pub gw: String,
    /// The link's name.
    pub dev: String,
}

/// One more next hop of a route of a NodeConfig, which `cidr`, `gw` and `dev` name. Packets are divided among all of them by flow.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Multipath {
    /// The route's destination, a prefix as text.
    pub cidr: String,
    /// The overlay address of the route's first next hop.
    pub gw: String,
    /// The link's name.
    pub dev: String,
    /// The overlay address of this next hop.
    pub via: String,
}

/// An address translation of a NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Iptables {
    /// Always `nat`.
    pub table: String,
    /// `PREROUTING` or `POSTROUTING`.
    pub chain: String,
    /// Match and target, in iptables' words.
    pub rule: String,
}

/// A forwarding row of a NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fdb {
    /// The peer's underlay address.
    pub ip: String,
    /// The peer's Ethernet address, or all zeros for a flood row.
    pub mac: String,
    /// The link's name.
    pub dev: String,
}

/// A neighbour of a NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Arp {
    /// The peer's overlay address.
    pub ip: String,
    /// The peer's Ethernet address.
    pub mac: String,
    /// The link's name.
    pub dev: String,
}

/// A gateway and who stands in for it, as a node reaches them over one tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// The link's name.
    pub dev: String,
    /// The overlay address of the gateway.
    pub active: String,
    /// The overlay address of its standby; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub standby: String,
    /// The cluster whose gateway it is.
    pub cluster: String,
}

/// The planner's input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Fleet {
    /// The member clusters.
    #[serde(deserialize_with = "nullable")]
    pub clusters: Vec<Cluster>,
    /// Their nodes.
    #[serde(deserialize_with = "nullable")]
    pub cluster_nodes: Vec<ClusterNode>,
    /// Earlier output, which lends its MACs and nothing else.
    #[serde(deserialize_with = "nullable")]
    pub node_configs: Vec<NodeConfig>,
}

/// Other writers of these objects say `null` where they mean nothing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
