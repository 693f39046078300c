//! What ClusterNodes say of their nodes against what the nodes have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::objection::{Field, Object, Objection};
use crate::api::{Cluster, ClusterLinkOptions, ClusterNode, Fleet, NetworkType};
use crate::code::Code;
use crate::state::{Family, NodeState};

/// What was seen of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The names of all its links.
    pub links: BTreeSet<String>,
    /// All addresses of its links.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that its cluster reports as the node's (InternalIP).
    pub reported: BTreeSet<IpAddr>,
    /// The addresses of pods that run on it, those in its own network left out; some are enough.
    pub pods: BTreeSet<IpAddr>,
}

impl Node {
    /// Of a node's tables and of the addresses that its cluster reports of it and of pods on it.
    #[must_use]
    pub fn of(tables: &NodeState, reported: &[IpAddr], pods: &[IpAddr]) -> Self {
        let links = tables.links.iter().map(|link| link.name.clone());
        let addresses = tables.addresses.iter().map(|row| row.net.addr());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        let has = |ip: &&IpAddr| addresses.contains(*ip);
        Self {
            links: links.collect(),
            reported: reported.iter().filter(has).copied().collect(),
            pods: pods.iter().copied().collect(),
            addresses,
        }
    }
}

/// The nodes by their ClusterNodes' names. A node that nobody has looked at is not in it.
pub type Observed = BTreeMap<String, Node>;

/// Objects to every ClusterNode of a cluster that takes part whose `interfaceName` is no link of its node, or whose `ip` or `ip6` is not
/// the node's while another address that its cluster reports is, and to prefixes of pods (those of the Cluster in gateway mode, of the
/// ClusterNode in P2P mode) that do not hold the pods that run; sorted. A node that is not in `observed` is not judged.
#[must_use]
pub fn check(fleet: &Fleet, observed: &Observed) -> Vec<Objection> {
    let taking_part = fleet.clusters.iter().filter_map(|cluster| {
        let options = cluster.part()?;
        Some((cluster.metadata.name.as_str(), (cluster, options)))
    });
    let taking_part: BTreeMap<&str, (&Cluster, &ClusterLinkOptions)> = taking_part.collect();
    let mut objections: Vec<Objection> = fleet
        .cluster_nodes
        .iter()
        .filter_map(|node| {
            let (cluster, options) = taking_part.get(node.spec.cluster_name.as_str())?;
            let seen = observed.get(&node.metadata.name)?;
            let pods = if options.network_type == NetworkType::P2p {
                let at = Object::cluster_node(&node.metadata.name, &node.spec);
                pods(at, "spec.podCIDRs", &node.spec.pod_cidrs, node, seen)
            } else {
                let at = Object::cluster(&cluster.metadata.name);
                let said = &cluster.status.cluster_link_status.pod_cidrs;
                pods(at, "status.clusterLinkStatus.podCIDRs", said, node, seen)
            };
            Some([
                link(node, seen),
                address(node, seen, "spec.ip", &node.spec.ip),
                address(node, seen, "spec.ip6", &node.spec.ip6),
                pods,
            ])
        })
        .flatten()
        .flatten()
        .collect();
    objections.sort();
    // One word for a Cluster, whichever of its nodes show it.
    objections.dedup_by(|a, b| a.at == b.at);
    objections
}

/// A family of which the object says nothing takes no part.
fn pods(
    object: Object,
    path: &str,
    said: &[String],
    node: &ClusterNode,
    seen: &Node,
) -> Option<Objection> {
    let prefixes: Vec<IpNet> = said.iter().filter_map(|text| text.parse().ok()).collect();
    let is_outside = |ip: &&IpAddr| {
        let family = Family::of(**ip);
        let mut alike = prefixes
            .iter()
            .filter(|net| Family::of(net.addr()) == family)
            .peekable();
        alike.peek().is_some() && !alike.any(|net| net.contains(*ip))
    };
    let outside = seen.pods.iter().find(is_outside)?;
    let rule = format!(
        "no prefix of it holds {outside}, the address of a pod on {}",
        node.spec.node_name
    );
    Some(Objection::new(
        Code::IntentStale,
        Field::new(object, path),
        rule,
    ))
}

fn link(node: &ClusterNode, seen: &Node) -> Option<Objection> {
    let link = node.spec.interface_name.as_str();
    // What is not a name is objected to without a look at the node.
    if matches!(link, "" | "*") || seen.links.contains(link) {
        return None;
    }
    let at = Field::new(
        Object::cluster_node(&node.metadata.name, &node.spec),
        "spec.interfaceName",
    );
    let rule = format!("the node has no link `{link}`");
    Some(Objection::new(Code::LinkUnknown, at, rule))
}

/// A node that has lost its address, or got another one that its cluster does not report either, is no fault of its ClusterNode.
fn address(node: &ClusterNode, seen: &Node, path: &str, said: &str) -> Option<Objection> {
    let ip: IpAddr = said.parse().ok()?;
    let is_alike = |other: &&IpAddr| Family::of(**other) == Family::of(ip);
    let real = seen.reported.iter().find(is_alike)?;
    if seen.addresses.contains(&ip) {
        return None;
    }
    let at = Field::new(Object::cluster_node(&node.metadata.name, &node.spec), path);
    let rule = format!("the node does not have the address {ip}, its own is {real}");
    Some(Objection::new(Code::IntentStale, at, rule))
}
