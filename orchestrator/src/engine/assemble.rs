//! What was found, as the evidence that plan and diagnosis take.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use datapath::api::{Cluster, ClusterNode, Fleet};
use datapath::digest::Digester;
use datapath::state::Family;
use floater::wire::Layer;
use ipnet::IpNet;

use super::messages::{Asked, Looked, Place};
use crate::evidence::{ClusterFacts, Gathered, Intent, InventoryNote, NodeFacts, NodeRef};

/// The floaters that can be asked, by node and layer.
pub(super) type Places = BTreeMap<(NodeRef, Layer), Place>;

/// A cluster, asked as far as it let itself be asked.
pub(super) struct Prepared {
    pub(super) name: String,
    /// Its target; none where only the control plane names it.
    pub(super) target: Option<usize>,
    pub(super) state: Result<(Looked, Asked), String>,
}

/// All clusters of a run as they were found.
pub(super) struct Found {
    pub(super) clusters: Vec<Prepared>,
    pub(super) fleet: Fleet,
    /// The name of the cluster that holds `fleet`.
    pub(super) control_plane: Option<String>,
    /// Claims that are not believed.
    pub(super) notes: Vec<InventoryNote>,
    /// How differences from what floaters were told to expect are to be read; none where they were told nothing.
    pub(super) digester: Option<Digester>,
}

/// The evidence before any packet, and who can send some.
pub(super) struct Assembled {
    pub(super) gathered: Gathered,
    pub(super) places: Places,
    /// The target of every cluster of the evidence; none where only the control plane names it.
    pub(super) targets: Vec<Option<usize>>,
    /// What somebody should know.
    pub(super) warnings: Vec<String>,
}

/// Sorts the clusters by name and gives every floater its place.
pub(super) fn assemble(found: Found, layers: &[Layer]) -> Assembled {
    let Found {
        mut clusters,
        fleet,
        control_plane,
        notes,
        digester,
    } = found;
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let planned = Planned::new(&fleet);
    let mut places = Places::new();
    let mut facts = Vec::with_capacity(clusters.len());
    let mut targets = Vec::with_capacity(clusters.len());
    let mut warnings = Vec::new();
    for (at, cluster) in clusters.into_iter().enumerate() {
        let object = planned.clusters.get(cluster.name.as_str()).copied();
        targets.push(cluster.target);
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
            name: cluster.name,
        };
        let objects = planned.nodes_of(&this.name);
        match cluster.state {
            Err(reason) => {
                this.nodes = from_intent(objects, &reason);
                this.unreachable = Some(reason);
            }
            Ok((looked, asked)) => {
                let mut observing = Observing {
                    at,
                    layers,
                    places: &mut places,
                    warnings: &mut warnings,
                };
                observing.cluster(looked, asked, objects, &mut this);
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
    Assembled {
        gathered,
        places,
        targets,
        warnings,
    }
}

/// One cluster's answers on their way into the evidence.
struct Observing<'a> {
    at: usize,
    layers: &'a [Layer],
    places: &'a mut Places,
    warnings: &'a mut Vec<String>,
}

impl Observing<'_> {
    fn cluster(
        &mut self,
        looked: Looked,
        asked: Asked,
        objects: &[&ClusterNode],
        this: &mut ClusterFacts,
    ) {
        let Asked {
            floaters,
            mut tables,
            pod_ips: mut known,
            own: _,
        } = asked;
        this.id = looked.id;
        let objects: HashMap<&str, &ClusterNode> = objects
            .iter()
            .map(|object| (object.spec.node_name.as_str(), *object))
            .collect();
        let mut floaters: HashMap<(String, Layer), Result<Place, String>> = floaters
            .into_iter()
            .map(|floater| ((floater.node, floater.layer), floater.place))
            .collect();
        let mut prefixes: Vec<IpNet> = Vec::new();
        // What the tables lack, and on how many nodes.
        let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
        for (position, node) in looked.nodes.into_iter().enumerate() {
            let place = NodeRef {
                cluster: self.at,
                node: position,
            };
            let name = node.name;
            prefixes.extend(node.pod_prefixes);
            let mut pod_ips = known.remove(&name).unwrap_or_default();
            let mut silent = |layer: Layer| {
                let reason = match floaters.remove(&(name.clone(), layer)) {
                    Some(Ok(found)) => {
                        if layer == Layer::Pod {
                            pod_ips.clone_from(&found.ips);
                        }
                        self.places.insert((place, layer), found);
                        return None;
                    }
                    Some(Err(reason)) => reason,
                    None if self.layers.contains(&layer) => "it was not asked".to_owned(),
                    None => "its layer is not asked for".to_owned(),
                };
                Some(reason)
            };
            let host_floater = silent(Layer::Host);
            let pod_floater = silent(Layer::Pod);
            let read = tables
                .remove(&name)
                .unwrap_or_else(|| Err("they were not asked for".to_owned()));
            let (mut nat_unread, mut filters_unread, mut differences) = (None, None, None);
            let read = read.and_then(|tables| {
                differences = tables.differences;
                let mut unread = None;
                for missing in tables.missing {
                    if missing.starts_with("filters") {
                        // Nothing is concluded from their absence; it is told where packets are lost for no other reason.
                        filters_unread = Some(missing);
                        continue;
                    }
                    if missing.starts_with("nat") {
                        nat_unread = Some(missing.clone());
                    } else {
                        // Rows that are not there prove nothing where a table was not read whole.
                        unread.get_or_insert_with(|| format!("not read whole: {missing}"));
                    }
                    *lacking.entry(missing).or_default() += 1;
                }
                let mut state = tables.state;
                state.filters = state.filters.bounded();
                unread.map_or(Ok(state), Err)
            });
            let object = objects.get(name.as_str()).copied();
            let planned_ips = object.map(addresses).unwrap_or_default();
            this.nodes.push(NodeFacts {
                ips: joined(&planned_ips, node.ips),
                planned_ips,
                ready: node.ready,
                gateway: object.is_some_and(|object| object.spec.is_gateway()),
                pod_ips,
                tables: read,
                differences,
                nat_unread,
                filters_unread,
                host_floater,
                pod_floater,
                name,
            });
        }
        for (missing, nodes) in lacking {
            self.warnings.push(format!(
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

/// The datapath's addresses of a node, and those that its cluster reports of families in which the datapath has none of these.
fn joined(planned: &[IpAddr], reported: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = planned.to_vec();
    let is_told = |ip: &IpAddr| {
        let mut alike = reported
            .iter()
            .filter(|known| known.is_ipv4() == ip.is_ipv4());
        alike.any(|known| planned.contains(known))
    };
    all.extend(reported.iter().filter(|ip| !is_told(ip)).copied());
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
            filters_unread: None,
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
