//! What was asked, and whom it could be asked of.

use std::collections::HashSet;

use datapath::api::NetworkType;
use datapath::state::Family;
use floater::wire::Layer;

use crate::evidence::{ClusterFacts, Gathered, NodeFacts, NodeRef};
use crate::probe_plan::What;
use crate::report::{CellId, CellName, ClusterReport, Observation};

/// So many floaters and tables of one cluster that could not be asked are named; the others are counted.
const TOLD: usize = 50;

/// The evidence and the question, with what both imply.
pub(super) struct Scope<'a> {
    pub(super) gathered: &'a Gathered,
    pub(super) what: &'a What,
    /// By cluster: its families, guessed from intent or the rest of the fleet where nobody could ask.
    families: Vec<Vec<Family>>,
    /// By cluster: whether it is asked about as a source.
    sources: Vec<bool>,
    /// By cluster: whether it is asked about as a destination.
    destinations: Vec<bool>,
    /// Clusters and nodes of the ClusterNodes; empty without a control plane.
    planned: HashSet<(&'a str, &'a str)>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(gathered: &'a Gathered, what: &'a What) -> Self {
        let known: Vec<Vec<Family>> = gathered
            .clusters
            .iter()
            .map(|cluster| families_of(gathered, cluster))
            .collect();
        let mut anywhere: Vec<Family> = known.iter().flatten().copied().collect();
        anywhere.sort_unstable();
        anywhere.dedup();
        if anywhere.is_empty() {
            anywhere.push(Family::Ipv4);
        }
        let families = known
            .into_iter()
            .map(|families| {
                if families.is_empty() {
                    anywhere.clone()
                } else {
                    families
                }
            })
            .collect();
        let chosen = |wanted: &dyn Fn(&str) -> bool| -> Vec<bool> {
            let names = gathered.clusters.iter().map(|cluster| &cluster.name);
            names.map(|name| wanted(name)).collect()
        };
        Self {
            gathered,
            what,
            families,
            sources: chosen(&|name| what.wants_source(name)),
            destinations: chosen(&|name| what.wants_destination(name)),
            planned: gathered
                .intent
                .fleet
                .cluster_nodes
                .iter()
                .map(|node| {
                    (
                        node.spec.cluster_name.as_str(),
                        node.spec.node_name.as_str(),
                    )
                })
                .collect(),
        }
    }

    pub(super) fn cluster(&self, at: usize) -> &'a ClusterFacts {
        &self.gathered.clusters[at]
    }

    pub(super) fn node(&self, at: NodeRef) -> &'a NodeFacts {
        &self.gathered.clusters[at.cluster].nodes[at.node]
    }

    /// `cluster/node`.
    pub(super) fn place(&self, at: NodeRef) -> String {
        format!("{}/{}", self.cluster(at.cluster).name, self.node(at).name)
    }

    /// A cell's name.
    pub(super) fn cell_name(&self, id: CellId) -> String {
        let name = |at: u32| self.cluster(at as usize).name.as_str();
        CellName {
            src: name(id.src),
            dst: name(id.dst),
            layer: id.layer,
            family: id.family,
        }
        .to_string()
    }

    /// The nodes of a cluster that take part.
    pub(super) fn members(&self, cluster: usize) -> Vec<NodeRef> {
        let facts = self.cluster(cluster);
        (0..facts.nodes.len())
            .filter(|&node| self.what.wants_node(&facts.name, &facts.nodes[node].name))
            .map(|node| NodeRef { cluster, node })
            .collect()
    }

    /// All nodes of a cluster.
    pub(super) fn members_all(&self, cluster: usize) -> impl Iterator<Item = NodeRef> + use<'a> {
        (0..self.cluster(cluster).nodes.len()).map(move |node| NodeRef { cluster, node })
    }

    /// Every node of the evidence, in order.
    pub(super) fn all_nodes(&self) -> Vec<NodeRef> {
        self.gathered
            .clusters
            .iter()
            .enumerate()
            .flat_map(|(cluster, facts)| {
                (0..facts.nodes.len()).map(move |node| NodeRef { cluster, node })
            })
            .collect()
    }

    /// Why the floater of a layer could not be asked; none when it could.
    pub(super) fn silent(&self, at: NodeRef, layer: Layer) -> Option<&'a str> {
        let node = self.node(at);
        match layer {
            Layer::Host => node.host_floater.as_deref(),
            Layer::Pod => node.pod_floater.as_deref(),
        }
    }

    /// Why nobody expects a node to be reached; none where it should be. Its own cluster says that it is not ready; or it runs no
    /// floater and the control plane plans nothing for it, as for a node that is leased from elsewhere.
    pub(super) fn excuse(&self, at: NodeRef) -> Option<String> {
        let node = self.node(at);
        // A gateway that is not ready cuts off its cluster, which somebody has to be told.
        if !node.ready && !node.gateway {
            return Some(format!("{} is not ready", self.place(at)));
        }
        let silent = node
            .host_floater
            .as_ref()
            .filter(|_| node.pod_floater.is_some())?;
        let is_planned = self.planned.is_empty()
            || self
                .planned
                .contains(&(self.cluster(at.cluster).name.as_str(), node.name.as_str()));
        (!is_planned).then(|| {
            format!(
                "{} is no part of the plan and could not be asked: {silent}",
                self.place(at)
            )
        })
    }

    /// The layers and families of which there are cells, in order.
    pub(super) fn planes(&self) -> Vec<(Layer, Family)> {
        let families: Vec<Family> = [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .filter(|&family| self.what.wants_family(family) && self.is_asked(family))
            .collect();
        self.what
            .layers()
            .into_iter()
            .flat_map(|layer| families.iter().map(move |&family| (layer, family)))
            .collect()
    }

    /// Whether any pair of clusters is asked about in a family.
    fn is_asked(&self, family: Family) -> bool {
        let (mut src, mut dst) = (false, false);
        for cluster in 0..self.families.len() {
            let (is_src, is_dst) = self.ends(cluster, family);
            src |= is_src;
            dst |= is_dst;
        }
        src && dst
    }

    /// Whether a pair of clusters is asked about in a family that is wanted.
    pub(super) fn is_cell(&self, src: usize, dst: usize, family: Family) -> bool {
        self.sources[src]
            && self.destinations[dst]
            && self.families[src].contains(&family)
            && self.families[dst].contains(&family)
    }

    /// Whether a cluster is asked about in a family, as a source and as a destination.
    pub(super) fn ends(&self, cluster: usize, family: Family) -> (bool, bool) {
        let has = self.families[cluster].contains(&family);
        (
            has && self.sources[cluster],
            has && self.destinations[cluster],
        )
    }

    /// The number of ordered pairs of distinct clusters that are asked about in any family.
    pub(super) fn ordered_pairs(&self) -> usize {
        let clusters = 0..self.families.len();
        let wanted: Vec<Family> = [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .filter(|&family| self.what.wants_family(family))
            .collect();
        // By the set of families, of which there are four: pairs of sets that have one in common.
        let set = |cluster: usize| -> usize {
            wanted
                .iter()
                .enumerate()
                .filter(|(_, family)| self.families[cluster].contains(family))
                .map(|(at, _)| 1 << at)
                .sum()
        };
        let (mut sources, mut destinations, mut own) = ([0_usize; 4], [0_usize; 4], 0);
        for cluster in clusters {
            sources[set(cluster)] += usize::from(self.sources[cluster]);
            destinations[set(cluster)] += usize::from(self.destinations[cluster]);
            let both = self.sources[cluster] && self.destinations[cluster];
            own += usize::from(both && set(cluster) > 0);
        }
        let mut pairs = 0;
        for (left, &from) in sources.iter().enumerate() {
            for (right, &to) in destinations.iter().enumerate() {
                if left & right > 0 {
                    pairs += from * to;
                }
            }
        }
        pairs - own
    }

    /// Who could not be asked and why, one sentence each.
    pub(super) fn unasked(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let layers = self.what.layers();
        if self.planes().is_empty() {
            sentences.push(
                "no two clusters match as source and destination with a family in common (--sources, --destinations, --families)"
                    .to_owned(),
            );
        }
        for (at, cluster) in self.gathered.clusters.iter().enumerate() {
            if !self.what.wants_source(&cluster.name) && !self.what.wants_destination(&cluster.name)
            {
                continue;
            }
            if let Some(reason) = &cluster.unreachable {
                sentences.push(format!(
                    "cluster {} could not be asked: {reason}; nothing is said about its network",
                    cluster.name
                ));
                continue;
            }
            if cluster.nodes.is_empty() {
                sentences.push(format!("cluster {} has no node to ask", cluster.name));
            } else if self.members(at).is_empty() {
                sentences.push(format!(
                    "no node of cluster {} is among those asked for",
                    cluster.name
                ));
            }
            let mut told = Vec::new();
            for node in self.members(at) {
                let facts = self.node(node);
                if !self.what.tables_only {
                    for &layer in &layers {
                        if let Some(reason) = self.silent(node, layer) {
                            told.push(format!(
                                "the {} floater of {} could not be asked: {reason}",
                                crate::report::layer_word(layer),
                                self.place(node)
                            ));
                        }
                    }
                }
                if let Err(reason) = &facts.tables {
                    told.push(format!(
                        "the tables of {} could not be read: {reason}",
                        self.place(node)
                    ));
                }
            }
            // A cluster may claim any number of nodes.
            let more = told.len().saturating_sub(TOLD);
            sentences.extend(told.into_iter().take(TOLD));
            if more > 0 {
                sentences.push(format!(
                    "and {more} more floaters and tables of cluster {}",
                    cluster.name
                ));
            }
        }
        sentences
    }

    /// The clusters as the report shows them.
    pub(super) fn cluster_reports(&self) -> Vec<ClusterReport> {
        self.gathered
            .clusters
            .iter()
            .enumerate()
            .map(|(at, cluster)| {
                let (state, reason) = self.observation(at);
                ClusterReport {
                    name: cluster.name.clone(),
                    mode: cluster.mode.map(|mode| {
                        match mode {
                            NetworkType::Gateway => "gateway",
                            NetworkType::P2p => "p2p",
                        }
                        .to_owned()
                    }),
                    families: cluster.families.clone(),
                    nodes: cluster.nodes.len(),
                    state,
                    reason,
                }
            })
            .collect()
    }

    fn observation(&self, at: usize) -> (Observation, Option<String>) {
        let cluster = self.cluster(at);
        if let Some(reason) = &cluster.unreachable {
            return (Observation::Unobserved, Some(reason.clone()));
        }
        let layers = self.what.layers();
        let members = self.members(at);
        if members.is_empty() {
            return (Observation::Unobserved, Some("no node".to_owned()));
        }
        let mut asked = 0;
        let mut answered = 0;
        let mut first = None;
        for &node in &members {
            let facts = self.node(node);
            let mut wanted: Vec<Option<String>> = layers
                .iter()
                .filter(|_| !self.what.tables_only)
                .map(|&layer| self.silent(node, layer).map(str::to_owned))
                .collect();
            wanted.push(facts.tables.as_ref().err().cloned());
            for reason in wanted {
                asked += 1;
                match reason {
                    None => answered += 1,
                    Some(reason) => {
                        first.get_or_insert_with(|| format!("{}: {reason}", facts.name));
                    }
                }
            }
        }
        let state = match answered {
            0 => Observation::Unobserved,
            some if some == asked => Observation::Observed,
            _ => Observation::Partly,
        };
        (state, first)
    }
}

/// What is known of a cluster's families: from itself, from intent, from its nodes' addresses.
fn families_of(gathered: &Gathered, cluster: &ClusterFacts) -> Vec<Family> {
    if !cluster.families.is_empty() {
        let mut families = cluster.families.clone();
        families.sort_unstable();
        families.dedup();
        return families;
    }
    let planned = gathered
        .intent
        .fleet
        .clusters
        .iter()
        .find(|object| object.metadata.name == cluster.name)
        .and_then(|object| object.spec.cluster_link_options.as_ref());
    match planned.map(|options| options.ip_family.as_str()) {
        Some("all") => vec![Family::Ipv4, Family::Ipv6],
        Some("ipv4") => vec![Family::Ipv4],
        Some("ipv6") => vec![Family::Ipv6],
        _ => {
            let mut families: Vec<Family> = cluster
                .nodes
                .iter()
                .flat_map(|node| node.ips.iter().map(|&ip| Family::of(ip)))
                .collect();
            families.sort_unstable();
            families.dedup();
            families
        }
    }
}
