//! Which probes a run sends: enough that every shared part of the fleet carries packets both ways, and no more.
//!
//! A small fleet is probed whole, every ordered pair of nodes. In a larger one every cluster asks `k = ⌈4 ln N⌉` others at
//! offsets that are drawn from the seed (a random circulant graph), with its nodes and theirs taking turns, so that every
//! node stands on both ends of some probe. The rows that only one pair uses are the tables' business, not the packets'.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use datapath::state::Family;
use floater::wire::{Layer, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::evidence::{ClusterFacts, NodeFacts, NodeRef};
use crate::glob::{self, Pattern};
use crate::probe_targets::Targets;
use crate::report::layer_word;

/// Up to so many nodes a fleet is probed whole, and a part of it up to as many pairs as such a fleet has.
pub const WHOLE_UP_TO: usize = 40;
/// Echo requests of one probe: three, so that a loss rate of one in a hundred almost never looks like a failure.
pub const ICMP_COUNT: u16 = 3;
/// Connections of one probe in a fleet that is probed whole: a single one that is lost would not tell a filter from chance. In a
/// larger fleet one has to do; there several sources tell the same about a destination.
pub const TCP_COUNT: u16 = 2;

/// What is asked of a run. An empty list leaves its question open: all that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct What {
    /// The layers to judge.
    pub layers: Vec<Layer>,
    /// The families to judge.
    pub families: Vec<Family>,
    /// How to probe.
    pub protocols: Vec<Protocol>,
    /// Patterns of nodes that take part, matched against the name and `cluster/name`.
    pub nodes: Vec<Pattern>,
    /// Patterns of source clusters.
    pub sources: Vec<Pattern>,
    /// Patterns of destination clusters.
    pub destinations: Vec<Pattern>,
    /// Probe every ordered pair of nodes, whatever the size of the fleet.
    pub full: bool,
    /// Send nothing: judge from tables alone.
    pub tables_only: bool,
    /// Report every pair of nodes that was probed, too.
    pub node_rows: bool,
    /// What choices are drawn from: whom a large fleet's clusters ask, which pairs its diagnosis looks at beyond need.
    pub seed: u64,
}

impl What {
    /// The layers to judge, in their order.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        [Layer::Host, Layer::Pod]
            .into_iter()
            .filter(|layer| self.layers.is_empty() || self.layers.contains(layer))
            .collect()
    }

    /// Whether a family is to be judged.
    #[must_use]
    pub fn wants_family(&self, family: Family) -> bool {
        self.families.is_empty() || self.families.contains(&family)
    }

    /// Whether a protocol may be used.
    #[must_use]
    pub fn wants_protocol(&self, protocol: Protocol) -> bool {
        self.protocols.is_empty() || self.protocols.contains(&protocol)
    }

    /// Whether a node takes part.
    #[must_use]
    pub fn wants_node(&self, cluster: &str, node: &str) -> bool {
        self.nodes.is_empty()
            || glob::any(&self.nodes, node)
            || glob::any(&self.nodes, &format!("{cluster}/{node}"))
    }

    /// Whether a cluster takes part as a source.
    #[must_use]
    pub fn wants_source(&self, cluster: &str) -> bool {
        glob::any(&self.sources, cluster)
    }

    /// Whether a cluster takes part as a destination.
    #[must_use]
    pub fn wants_destination(&self, cluster: &str) -> bool {
        glob::any(&self.destinations, cluster)
    }
}

/// One probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlannedProbe {
    /// Who asks.
    pub src: NodeRef,
    /// Who is asked.
    pub dst: NodeRef,
    /// The layer of both ends.
    pub layer: Layer,
    /// The family of `target`.
    pub family: Family,
    /// How.
    pub protocol: Protocol,
    /// The address to ask.
    pub target: IpAddr,
    /// How many packets or connections.
    pub count: u16,
    /// Payload of an echo request, bytes; 0 for connections.
    pub payload_bytes: u16,
}

/// Payload of an echo request, as `ping` has it.
pub const SMALL_BYTES: u16 = 56;
/// Payload of an echo request that shows whether large packets pass: 1400 bytes with the IPv4 header, 1420 with that of IPv6, which any
/// tunnel over an Ethernet of 1500 takes. Floaters never let it be divided; where a link on the way takes less and says so, nothing is
/// concluded.
pub const LARGE_BYTES: u16 = 1372;
/// The most probes towards one address, and towards one cluster.
pub const MOST_PER_ADDRESS: usize = 5_000;
/// See [`MOST_PER_ADDRESS`].
pub const MOST_PER_CLUSTER: usize = 50_000;
/// The most probes of a run, which with [`ICMP_COUNT`] echoes of some 100 bytes bounds its packets, bytes and time: twice as many as
/// 5000 clusters ask for.
pub const MOST: usize = 2_000_000;
/// So many nodes of one cluster take turns between clusters in a fleet that is not probed whole; a cluster that claims more costs the
/// others no more.
const MOST_TURNS: usize = 256;

/// What a run sends and what it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePlan {
    /// In the order of source, destination, layer, family, protocol.
    pub probes: Vec<PlannedProbe>,
    /// What was asked for and is not sent, and why, one sentence each, sorted.
    pub refused: Vec<String>,
}

/// The probes of a run. The same input and seed give the same plan; the seed matters only above [`WHOLE_UP_TO`] nodes.
#[must_use]
pub fn plan(clusters: &[ClusterFacts], what: &What) -> ProbePlan {
    if what.tables_only {
        return ProbePlan::default();
    }
    let layers = what.layers();
    let mut planner = Planner::new(clusters, what);
    let tcp_count = if planner.is_whole { TCP_COUNT } else { 1 };
    for (src, dst) in pairs(clusters, what) {
        let families = common_families(&clusters[src.cluster], &clusters[dst.cluster]);
        for &layer in &layers {
            for &family in families.iter().filter(|&&family| what.wants_family(family)) {
                planner.add(src, dst, layer, family, tcp_count);
            }
        }
    }
    planner.finish()
}

/// Checks every probe before it becomes part of a plan.
pub(crate) struct Planner<'a> {
    clusters: &'a [ClusterFacts],
    what: &'a What,
    targets: Targets<'a>,
    is_whole: bool,
    probes: Vec<PlannedProbe>,
    /// By why: how many probes.
    refused: BTreeMap<String, usize>,
    by_address: HashMap<IpAddr, usize>,
    by_cluster: HashMap<usize, usize>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(clusters: &'a [ClusterFacts], what: &'a What) -> Self {
        Self {
            clusters,
            what,
            targets: Targets::new(clusters),
            is_whole: is_whole(clusters, what),
            probes: Vec::new(),
            refused: BTreeMap::new(),
            by_address: HashMap::new(),
            by_cluster: HashMap::new(),
        }
    }

    /// The probes of one pair of nodes on a layer, in a family; none where one of them cannot take part.
    pub(crate) fn add(
        &mut self,
        src: NodeRef,
        dst: NodeRef,
        layer: Layer,
        family: Family,
        tcp_count: u16,
    ) {
        let silent = |at: NodeRef| {
            let node = &self.clusters[at.cluster].nodes[at.node];
            match layer {
                Layer::Host => node.host_floater.is_some(),
                Layer::Pod => node.pod_floater.is_some(),
            }
        };
        // Whose floater is silent is told with the floaters.
        if silent(src) {
            return;
        }
        let is_silent = silent(dst);
        let Some(target) = target_from(self.clusters, src, dst, layer, family) else {
            if !is_silent {
                let cluster = &self.clusters[dst.cluster];
                self.refuse(format!(
                    "{}/{} has no {family} address on the {} layer",
                    cluster.name,
                    cluster.nodes[dst.node].name,
                    layer_word(layer)
                ));
            }
            return;
        };
        if let Some(why) = self.targets.refusal(dst, layer, target) {
            return self.refuse(why);
        }
        // The pods' path crosses the hosts'; in a large fleet it alone is tried for size.
        let large_count = u16::from(layer == Layer::Pod || self.is_whole);
        for (protocol, payload_bytes, count) in [
            (Protocol::Icmp, SMALL_BYTES, ICMP_COUNT),
            (Protocol::Icmp, LARGE_BYTES, large_count),
            (Protocol::Tcp, 0, tcp_count),
        ] {
            // Nobody is known to listen where the floater could not be asked; the kernel still answers echo requests.
            if count == 0
                || (protocol == Protocol::Tcp && is_silent)
                || !self.what.wants_protocol(protocol)
            {
                continue;
            }
            if let Some(why) = self.full(dst, target) {
                return self.refuse(why);
            }
            *self.by_address.entry(target).or_default() += 1;
            *self.by_cluster.entry(dst.cluster).or_default() += 1;
            self.probes.push(PlannedProbe {
                src,
                dst,
                layer,
                family,
                protocol,
                target,
                count,
                payload_bytes,
            });
        }
    }

    /// Which ceiling has been reached.
    fn full(&self, dst: NodeRef, target: IpAddr) -> Option<String> {
        let count = |all: Option<&usize>| all.copied().unwrap_or_default();
        if self.probes.len() >= MOST {
            Some(format!("a run sends no more than {MOST} probes"))
        } else if count(self.by_cluster.get(&dst.cluster)) >= MOST_PER_CLUSTER {
            let name = &self.clusters[dst.cluster].name;
            Some(format!(
                "a run sends no more than {MOST_PER_CLUSTER} probes to {name}"
            ))
        } else if count(self.by_address.get(&target)) >= MOST_PER_ADDRESS {
            Some(format!(
                "a run sends no more than {MOST_PER_ADDRESS} probes to {target}"
            ))
        } else {
            None
        }
    }

    fn refuse(&mut self, why: String) {
        *self.refused.entry(why).or_default() += 1;
    }

    pub(crate) fn finish(self) -> ProbePlan {
        let refused = self.refused.into_iter();
        ProbePlan {
            probes: self.probes,
            refused: refused
                .map(|(why, count)| match count {
                    1 => format!("1 pair of nodes is not probed: {why}"),
                    _ => format!("{count} pairs of nodes are not probed: {why}"),
                })
                .collect(),
        }
    }
}

/// The families that both clusters have.
#[must_use]
pub fn common_families(src: &ClusterFacts, dst: &ClusterFacts) -> Vec<Family> {
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(|family| src.families.contains(family) && dst.families.contains(family))
        .collect()
}

/// The node's address on a layer, in a family.
#[must_use]
pub fn target_of(node: &NodeFacts, layer: Layer, family: Family) -> Option<IpAddr> {
    let ips = match layer {
        Layer::Host => &node.ips,
        Layer::Pod => &node.pod_ips,
    };
    ips.iter().copied().find(|&ip| Family::of(ip) == family)
}

/// The address by which one node reaches another on a layer, in a family: a pod of another cluster goes by the name that its cluster's
/// map gives it.
#[must_use]
pub fn target_from(
    clusters: &[ClusterFacts],
    src: NodeRef,
    dst: NodeRef,
    layer: Layer,
    family: Family,
) -> Option<IpAddr> {
    let cluster = &clusters[dst.cluster];
    let own = target_of(&cluster.nodes[dst.node], layer, family)?;
    if layer == Layer::Host || src.cluster == dst.cluster {
        return Some(own);
    }
    let global = cluster
        .mapped
        .iter()
        .find(|(prefix, _)| prefix.contains(&own))
        .and_then(|&(_, global)| in_place_of(global, own));
    Some(global.unwrap_or(own))
}

/// The address with its network bits exchanged; none where the families differ.
fn in_place_of(global: IpNet, own: IpAddr) -> Option<IpAddr> {
    match (global, own) {
        (IpNet::V4(net), IpAddr::V4(ip)) => {
            let host = u32::from(ip) & u32::from(net.hostmask());
            Some(IpAddr::from(
                (u32::from(net.network()) | host).to_be_bytes(),
            ))
        }
        (IpNet::V6(net), IpAddr::V6(ip)) => {
            let host = u128::from(ip) & u128::from(net.hostmask());
            Some(IpAddr::from(
                (u128::from(net.network()) | host).to_be_bytes(),
            ))
        }
        _ => None,
    }
}

/// Whether the pair is part of what is asked, in that family.
pub(crate) fn is_asked(
    clusters: &[ClusterFacts],
    what: &What,
    src: NodeRef,
    dst: NodeRef,
    family: Family,
) -> bool {
    let (src, dst) = (&clusters[src.cluster], &clusters[dst.cluster]);
    what.wants_source(&src.name)
        && what.wants_destination(&dst.name)
        && common_families(src, dst).contains(&family)
}

/// Whether every ordered pair of nodes that is asked about is probed: a part of a large fleet may be as few as a small one has.
fn is_whole(clusters: &[ClusterFacts], what: &What) -> bool {
    let (mut sources, mut destinations) = (0_usize, 0_usize);
    for cluster in clusters {
        let nodes = cluster.nodes.iter();
        let nodes = nodes.filter(|node| what.wants_node(&cluster.name, &node.name));
        let count = nodes.count();
        sources += count * usize::from(what.wants_source(&cluster.name));
        destinations += count * usize::from(what.wants_destination(&cluster.name));
    }
    what.full || sources.saturating_mul(destinations) <= WHOLE_UP_TO * WHOLE_UP_TO
}

/// The ordered pairs of nodes to probe, sorted.
fn pairs(clusters: &[ClusterFacts], what: &What) -> BTreeSet<(NodeRef, NodeRef)> {
    let members: Vec<Vec<NodeRef>> = clusters
        .iter()
        .enumerate()
        .map(|(cluster, facts)| {
            (0..facts.nodes.len())
                .filter(|&node| what.wants_node(&facts.name, &facts.nodes[node].name))
                .map(|node| NodeRef { cluster, node })
                .collect()
        })
        .collect();
    let wanted = |src: usize, dst: usize| {
        what.wants_source(&clusters[src].name) && what.wants_destination(&clusters[dst].name)
    };
    let mut random = Random::new(what.seed);
    let mut pairs = BTreeSet::new();
    let whole = is_whole(clusters, what);
    for (cluster, nodes) in members.iter().enumerate() {
        if wanted(cluster, cluster) {
            inside(nodes, whole, &mut random, &mut pairs);
        }
    }
    if whole {
        for (src, sources) in members.iter().enumerate() {
            for (dst, targets) in members.iter().enumerate() {
                if src != dst && wanted(src, dst) {
                    for &source in sources {
                        pairs.extend(targets.iter().map(|&target| (source, target)));
                    }
                }
            }
        }
        return pairs;
    }
    let count = clusters.len();
    if count < 2 {
        return pairs;
    }
    let offsets = random.distinct(1..count, peers(count));
    let turns: Vec<usize> = (0..count).map(|_| random.below(1 << 16)).collect();
    for here in 0..count {
        // At least one turn for every node of this cluster, as a source and as a target.
        for turn in 0..offsets.len().max(members[here].len().min(MOST_TURNS)) {
            let offset = offsets[turn % offsets.len()];
            for (src, dst) in [
                (here, (here + offset) % count),
                ((here + count - offset) % count, here),
            ] {
                let (sources, targets) = (&members[src], &members[dst]);
                if sources.is_empty() || targets.is_empty() || !wanted(src, dst) {
                    continue;
                }
                // Both ends of this offset agree on the turn, so that a pair is drawn once; each cluster starts at a node
                // of its own, so that sources and targets of equal position do not always meet.
                let source = sources[(turn + turns[src]) % sources.len()];
                let target = targets[(turn + turns[dst]) % targets.len()];
                pairs.insert((source, target));
            }
        }
    }
    pairs
}

/// The pairs within one cluster. A cluster of one node asks itself.
fn inside(
    nodes: &[NodeRef],
    whole: bool,
    random: &mut Random,
    pairs: &mut BTreeSet<(NodeRef, NodeRef)>,
) {
    if let [only] = nodes {
        pairs.insert((*only, *only));
    } else if whole {
        for &src in nodes {
            pairs.extend(
                nodes
                    .iter()
                    .filter(|&&dst| dst != src)
                    .map(|&dst| (src, dst)),
            );
        }
    } else if nodes.len() > 1 {
        for offset in random.distinct(1..nodes.len(), 2) {
            pairs
                .extend((0..nodes.len()).map(|at| (nodes[at], nodes[(at + offset) % nodes.len()])));
        }
    }
}

/// `⌈4 ln n⌉`, at most all the others.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the logarithm of a length is small and positive"
)]
fn peers(count: usize) -> usize {
    ((4.0 * (count as f64).ln()).ceil() as usize).clamp(1, count - 1)
}

/// SplitMix64: the same numbers for the same seed on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below a usize"
    )]
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// So many different numbers of the range, or all of them.
    fn distinct(&mut self, range: std::ops::Range<usize>, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = range.collect();
        let count = count.min(all.len());
        for at in 0..count {
            let other = at + self.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests;
