//! Random small fleets whose prefixes, addresses and MACs meet often, and what their nodes lend to a plan.

use datapath::api::{
    Cluster, ClusterLinkOptions, ClusterNode, Device, Fleet, GATEWAYS, NetworkType, NodeConfig,
};
use datapath::state::{Address, Link, LinkKind, NodeState};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// Prefixes that equal, contain and shadow each other, some of them not as they would be printed.
const PREFIXES: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.9.0/16",
    "10.2.0.0/16",
    "10.3.0.0/16",
    "10.4.0.0/16",
    "0.0.0.0/0",
    "fd10::/16",
    "fd10:1::/32",
    "FD10:1:0::/32",
    "fd10:2::/32",
    "fd11::/16",
    "nonsense",
];

const IPV4: &[&str] = &["100.64.0.1", "100.64.0.2", "100.64.0.3", "101.64.0.1", ""];
const IPV6: &[&str] = &["fd64::1", "FD64::2", "fd64::3", "fd64:0::1", ""];
const MACS: &[&str] = &[
    "02:00:00:00:00:01",
    "02:00:00:00:00:02",
    "00:00:00:00:00:00",
    "03:00:00:00:00:01",
    "nonsense",
];

pub(crate) const CLUSTERS: &[&str] = &["a", "b", "c", "d"];
pub(crate) const NODES: &[&str] = &["n1", "n2", "n3"];

fn prefixes(most: usize) -> impl Strategy<Value = Vec<String>> {
    subsequence(PREFIXES, 0..=most).prop_map(|all| all.into_iter().map(str::to_owned).collect())
}

pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let mode = select(vec![NetworkType::Gateway, NetworkType::P2p]);
    let family = select(vec!["ipv4", "ipv6", "all", "all", "bogus"]);
    let map = btree_map(select(PREFIXES), select(PREFIXES), 0..2);
    let pool = select(vec!["220.0.0.0/8", "220.0.0.0/8", "221.0.0.0/24", "bogus"]);
    let gateways = select(vec![None, None, Some("2"), Some("3"), Some("many")]);
    let who = (select(CLUSTERS), prop::bool::weighted(0.9), gateways);
    (who, mode, family, map, pool, prefixes(2), prefixes(2)).prop_map(
        |((name, enable, gateways), network_type, family, map, pool, pods, services)| {
            let mut options = ClusterLinkOptions {
                enable,
                network_type,
                ip_family: family.to_owned(),
                ..ClusterLinkOptions::default()
            };
            options.bridge_cidrs.ip = pool.to_owned();
            options.global_cidrs_map = map
                .into_iter()
                .map(|(key, name)| (key.to_owned(), name.to_owned()))
                .collect();
            let mut cluster = Cluster::default();
            cluster.metadata.name = name.to_owned();
            let gateways = gateways.map(|number| (GATEWAYS.to_owned(), number.to_owned()));
            cluster.metadata.annotations.extend(gateways);
            cluster.spec.cluster_link_options = Some(options);
            cluster.status.cluster_link_status.pod_cidrs = pods;
            cluster.status.cluster_link_status.service_cidrs = services;
            cluster
        },
    )
}

pub(crate) fn node() -> impl Strategy<Value = ClusterNode> {
    let ips = (select(IPV4), select(IPV6));
    let is_gateway = prop::bool::weighted(0.5);
    (
        select(CLUSTERS),
        select(NODES),
        ips,
        is_gateway,
        prefixes(2),
    )
        .prop_map(|(cluster, name, (ip, ip6), is_gateway, pods)| {
            let mut node = ClusterNode::default();
            node.metadata.name = format!("{cluster}-{name}");
            node.spec.cluster_name = cluster.to_owned();
            node.spec.node_name = name.to_owned();
            node.spec.ip = ip.to_owned();
            node.spec.ip6 = ip6.to_owned();
            node.spec.interface_name = "eth0".to_owned();
            node.spec.pod_cidrs = pods;
            if is_gateway {
                node.spec.roles = vec!["gateway".to_owned()];
            }
            node
        })
}

pub(crate) fn lender() -> impl Strategy<Value = NodeConfig> {
    let links = select(vec!["vx-bridge", "vx-bridge-6", "vx-local", "vx-other"]);
    (
        select(CLUSTERS),
        select(NODES),
        vec((links, select(MACS)), 0..3),
    )
        .prop_map(|(cluster, node, devices)| {
            let mut config = NodeConfig::default();
            config.metadata.name = format!("{cluster}-{node}");
            config.spec.devices = devices
                .into_iter()
                .map(|(name, mac)| Device {
                    name: name.to_owned(),
                    mac: mac.to_owned(),
                    ..Device::default()
                })
                .collect();
            config
        })
}

/// A fleet in which no two objects have one name, in the order of the names.
pub(crate) fn fleet() -> impl Strategy<Value = Fleet> {
    (
        vec(cluster(), 2..7),
        vec(node(), 3..14),
        vec(lender(), 0..4),
    )
        .prop_map(|(clusters, nodes, configs)| {
            let mut fleet = Fleet {
                clusters,
                cluster_nodes: nodes,
                node_configs: configs,
            };
            fleet
                .clusters
                .sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            fleet
                .clusters
                .dedup_by(|a, b| a.metadata.name == b.metadata.name);
            fleet
                .cluster_nodes
                .sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            fleet
                .cluster_nodes
                .dedup_by(|a, b| a.metadata.name == b.metadata.name);
            fleet
                .node_configs
                .sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            fleet
                .node_configs
                .dedup_by(|a, b| a.metadata.name == b.metadata.name);
            fleet
        })
}

/// A node with an underlay link that has the addresses given.
pub(crate) fn bare(addresses: &[&str]) -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: "eth0".to_owned(),
        index: 2,
        mac: Some(datapath::mac::Mac([2, 0, 0, 0, 1, 1])),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 0 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    for net in addresses {
        state.addresses.insert(Address {
            link: "eth0".to_owned(),
            net: net.parse().expect("an address with a length"),
        });
    }
    state
}
