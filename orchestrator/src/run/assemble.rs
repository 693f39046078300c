//! What was found, as the evidence that plan and diagnosis take.

use std::collections::{BTreeMap, HashMap};
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
        digester,
    } = found;
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let planned = Planned::new(&fleet);
    let mut agents = Agents::new();
    let mut facts = Vec::with_capacity(clusters.len());
    for (at, Prepared { name, state }) in clusters.into_iter().enumerate() {
        let object = planned.clusters.get(name.as_str()).copied();
        let mut this = ClusterFacts {
            mode: object
                .and_then(|object| object.spec.cluster_link_options.as_ref())
                .map(|options| options.network_type),
            families: families(object),
            plans_prefixes: !pod_prefixes(object).is_empty(),
            pod_prefixes: pod_prefixes(object),
            mapped: mapped(object),
            id: String::new(),
            nodes: Vec::new(),
            unreachable: None,
            name,
        };
        match state {
            Err(reason) => {
                this.nodes = from_intent(planned.nodes_of(&this.name), &reason);
                this.unreachable = Some(reason);
            }
            Ok(members) => {
                let objects = planned.nodes_of(&this.name);
                observed(context, at, members, objects, &mut this, &mut agents);
            }
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
        digester,
        probes: Vec::new(),
        refused: Vec::new(),
    };
    (gathered, agents)
}

fn observed(
    context: &Context,
    at: usize,
    members: Members,
    objects: &[&ClusterNode],
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
    let objects: HashMap<&str, &ClusterNode> = objects
        .iter()
        .map(|object| (object.spec.node_name.as_str(), *object))
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
        let (mut nat_unread, mut differences) = (None, None);
        let read = read.and_then(|tables| {
            differences = tables.differences;
            let mut unread = None;
            for missing in tables.missing {
                if missing.starts_with("nat") {
                    nat_unread = Some(missing.clone());
                } else {
                    // Rows that are not there prove nothing where a table was not read whole.
                    unread.get_or_insert_with(|| format!("not read whole: {missing}"));
                }
                *lacking.entry(missing).or_default() += 1;
            }
            unread.map_or(Ok(tables.state), Err)
        });
        let object = objects.get(name.as_str()).copied();
        let planned_ips = object.map(addresses).unwrap_or_default();
        this.nodes.push(NodeFacts {
            ips: joined(&planned_ips, node.ips()),
            planned_ips,
            ready: node.is_ready(),
            gateway: object.is_some_and(|object| object.spec.is_gateway()),
            pod_ips,
            tables: read,
            differences,
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

/// The fleet's objects by name.
struct Planned<'a> {
    clusters: HashMap<&'a str, &'a Cluster>,
    nodes: HashMap<&'a str, Vec<&'a ClusterNode>>,
}

impl<'a> Planned<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let mut nodes: HashMap<&str, Vec<&ClusterNode>> = HashMap::new();
        for node in &fleet.cluster_nodes {
            nodes.entry(&node.spec.cluster_name).or_default().push(node);
        }
        Self {
            // Of objects of one name the first, as an API server has it.
            clusters: fleet
                .clusters
                .iter()
                .rev()
                .map(|cluster| (cluster.metadata.name.as_str(), cluster))
                .collect(),
            nodes,
        }
    }

    fn nodes_of(&self, cluster: &str) -> &[&'a ClusterNode] {
        self.nodes.get(cluster).map_or(&[], Vec::as_slice)
    }
}

/// The addresses by which the datapath knows a node.
fn addresses(object: &ClusterNode) -> Vec<IpAddr> {
    [&object.spec.ip, &object.spec.ip6]
        .into_iter()
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// The datapath's addresses of a node, and for families in which it has none those that its cluster reports.
fn joined(planned: &[IpAddr], reported: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = planned.to_vec();
    let lacks = |ip: &IpAddr| !planned.iter().any(|known| known.is_ipv4() == ip.is_ipv4());
    all.extend(reported.into_iter().filter(lacks));
    all
}

/// The nodes of a cluster that does not answer: known by name and address, asked by nobody; others still can reach for them.
fn from_intent(objects: &[&ClusterNode], reason: &str) -> Vec<NodeFacts> {
    let mut nodes: Vec<NodeFacts> = objects
        .iter()
        .map(|node| NodeFacts {
            name: node.spec.node_name.clone(),
            ips: addresses(node),
            planned_ips: addresses(node),
            ready: false,
            gateway: node.spec.is_gateway(),
            pod_ips: Vec::new(),
            tables: Err(reason.to_owned()),
            differences: None,
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
