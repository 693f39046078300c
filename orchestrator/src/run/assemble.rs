//! What was found, as the evidence that plan and diagnosis take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::api::{Cluster, ClusterNode, Fleet};
use datapath::state::Family;
use floater::wire::Layer;
use ipnet::IpNet;

use super::Context;
use super::clusters::{Found, Members, Prepared};
use crate::evidence::{ClusterFacts, Gathered, Intent, NodeFacts, NodeRef};
use crate::fleet::agents::Agent;

/// The floaters that can be asked, by node and layer.
pub(super) type Agents = BTreeMap<(NodeRef, Layer), Agent>;

/// Sorts the clusters by name and gives every floater its place.
pub(super) fn gather(context: &Context, found: Found) -> (Gathered, Agents) {
    let Found {
        mut clusters,
        fleet,
        control_plane,
        notes,
    } = found;
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let mut agents = Agents::new();
    let mut facts = Vec::with_capacity(clusters.len());
    for (at, Prepared { name, state }) in clusters.into_iter().enumerate() {
        let object = fleet
            .clusters
            .iter()
            .find(|cluster| cluster.metadata.name == name);
        let mut this = ClusterFacts {
            mode: object
                .and_then(|object| object.spec.cluster_link_options.as_ref())
                .map(|options| options.network_type),
            families: families(object),
            pod_prefixes: pod_prefixes(object),
            mapped: mapped(object),
            id: String::new(),
            nodes: Vec::new(),
            unreachable: None,
            name,
        };
        match state {
            Err(reason) => {
                this.nodes = from_intent(&this.name, &fleet, &reason);
                this.unreachable = Some(reason);
            }
            Ok(members) => observed(context, at, members, &fleet, &mut this, &mut agents),
        }
        facts.push(this);
    }
    let gathered = Gathered {
        clusters: facts,
        intent: Intent {
            fleet,
            control_plane,
        },
        inventory_notes: notes,
        probes: Vec::new(),
    };
    (gathered, agents)
}

fn observed(
    context: &Context,
    at: usize,
    members: Members,
    fleet: &Fleet,
    this: &mut ClusterFacts,
    agents: &mut Agents,
) {
    let Members {
        id,
        nodes,
        mut floaters,
        mut tables,
        pod_ips: mut known,
    } = members;
    this.id = id;
    let layers = context.layers();
    let gateways: BTreeSet<&str> = objects_of(&this.name, fleet)
        .filter(|node| node.spec.is_gateway())
        .map(|node| node.spec.node_name.as_str())
        .collect();
    let mut prefixes: Vec<IpNet> = Vec::new();
    // What the tables lack, and on how many nodes.
    let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
    for (position, node) in nodes.into_iter().enumerate() {
        let place = NodeRef {
            cluster: at,
            node: position,
        };
        let name = node.metadata.name.clone();
        prefixes.extend(node.pod_prefixes());
        let mut pod_ips = known.remove(&name).unwrap_or_default();
        let mut silent = |layer: Layer| {
            let reason = match floaters.remove(&(name.clone(), layer)) {
                Some(Ok(agent)) => {
                    if layer == Layer::Pod {
                        pod_ips.clone_from(&agent.ips);
                    }
                    agents.insert((place, layer), agent);
                    return None;
                }
                Some(Err(reason)) => reason,
                None if layers.contains(&layer) => "it was not asked".to_owned(),
                None => "its layer is not asked for".to_owned(),
            };
            Some(reason)
        };
        let host_floater = silent(Layer::Host);
        let pod_floater = silent(Layer::Pod);
        let read = tables
            .remove(&name)
            .unwrap_or_else(|| Err("they were not asked for".to_owned()));
        let mut nat_unread = None;
        let read = read.map(|tables| {
            for missing in tables.missing {
                if missing.starts_with("nat") {
                    nat_unread = Some(missing.clone());
                }
                *lacking.entry(missing).or_default() += 1;
            }
            tables.state
        });
        this.nodes.push(NodeFacts {
            ips: node.ips(),
            ready: node.is_ready(),
            gateway: gateways.contains(name.as_str()),
            pod_ips,
            tables: read,
            nat_unread,
            host_floater,
            pod_floater,
            name,
        });
    }
    for (missing, nodes) in lacking {
        context.warn(format!(
            "{}: not readable on {nodes} nodes: {missing}",
            this.name
        ));
    }
    if this.pod_prefixes.is_empty() {
        prefixes.sort();
        prefixes.dedup();
        this.pod_prefixes = prefixes;
    }
    if this.families.is_empty() {
        this.families = families_of_nodes(&this.nodes);
    }
}

fn objects_of<'a>(name: &'a str, fleet: &'a Fleet) -> impl Iterator<Item = &'a ClusterNode> {
    fleet
        .cluster_nodes
        .iter()
        .filter(move |node| node.spec.cluster_name == name)
}

/// The nodes of a cluster that does not answer: known by name and address, asked by nobody; others still can reach for them.
fn from_intent(name: &str, fleet: &Fleet, reason: &str) -> Vec<NodeFacts> {
    let mut nodes: Vec<NodeFacts> = objects_of(name, fleet)
        .map(|node| NodeFacts {
            name: node.spec.node_name.clone(),
            ips: [&node.spec.ip, &node.spec.ip6]
                .into_iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok())
                .collect(),
            ready: false,
            gateway: node.spec.is_gateway(),
            pod_ips: Vec::new(),
            tables: Err(reason.to_owned()),
            nat_unread: None,
            host_floater: Some(reason.to_owned()),
            pod_floater: Some(reason.to_owned()),
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn families(object: Option<&Cluster>) -> Vec<Family> {
    let options = object.and_then(|object| object.spec.cluster_link_options.as_ref());
    match options.map(|options| options.ip_family.as_str()) {
        Some("all") => vec![Family::Ipv4, Family::Ipv6],
        Some("ipv4") => vec![Family::Ipv4],
        Some("ipv6") => vec![Family::Ipv6],
        _ => Vec::new(),
    }
}

fn families_of_nodes(nodes: &[NodeFacts]) -> Vec<Family> {
    let has = |family: Family| {
        nodes
            .iter()
            .flat_map(|node| node.ips.iter().chain(&node.pod_ips))
            .any(|ip| Family::of(*ip) == family)
    };
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(|family| has(*family))
        .collect()
}

fn mapped(object: Option<&Cluster>) -> Vec<(IpNet, IpNet)> {
    let options = object.and_then(|object| object.spec.cluster_link_options.as_ref());
    let mut mapped: Vec<(IpNet, IpNet)> = options
        .into_iter()
        .flat_map(|options| &options.global_cidrs_map)
        .filter_map(|(own, global)| Some((own.parse().ok()?, global.parse().ok()?)))
        .collect();
    mapped.sort();
    mapped
}

fn pod_prefixes(object: Option<&Cluster>) -> Vec<IpNet> {
    let status = object.map(|object| &object.status.cluster_link_status);
    status
        .into_iter()
        .flat_map(|status| &status.pod_cidrs)
        .filter_map(|text| text.parse().ok())
        .collect()
}
