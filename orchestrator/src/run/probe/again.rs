//! Which probes ask again: the pairs of which more packets would tell more, and others that share an end with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datapath::state::Family;
use floater::wire::{Layer, Protocol};

use crate::evidence::{ClusterFacts, NodeRef};
use crate::probe_plan::{self, PlannedProbe, Planner, What};

/// Echo requests and connections of one probe that asks again.
const COUNTS: (u16, u16) = (8, 4);
/// So many other sources ask a destination of which something was lost, and so many other destinations are asked by a source.
const OTHERS: usize = 3;
/// The most probes that are sent again in one round, and in all.
const PER_ROUND: usize = 8_000;
const IN_ALL: usize = 24_000;
/// The most pairs for whose ends others are asked.
const COMPANIONS: usize = 500;

/// A pair of nodes on a layer, in a family.
pub(super) type Key = (NodeRef, NodeRef, Layer, Family);

/// What may still be sent again.
pub(super) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: IN_ALL }
    }
}

impl Budget {
    /// As many of the probes as the budget allows, taken evenly from all over the fleet.
    pub(super) fn take(&mut self, probes: Vec<usize>) -> Vec<usize> {
        let most = PER_ROUND.min(self.left);
        if most == 0 {
            return Vec::new();
        }
        let stride = probes.len().div_ceil(most).max(1);
        let taken: Vec<usize> = probes.into_iter().step_by(stride).collect();
        self.left -= taken.len();
        taken
    }
}

/// The probes of these pairs, which from now on send as many packets as a decision takes.
pub(super) fn probes(open: &[Key], planned: &mut [PlannedProbe]) -> Vec<usize> {
    let open: BTreeSet<Key> = open.iter().copied().collect();
    let mut asked = Vec::new();
    for (at, probe) in planned.iter_mut().enumerate() {
        if open.contains(&(probe.src, probe.dst, probe.layer, probe.family)) {
            probe.count = match probe.protocol {
                Protocol::Icmp => COUNTS.0,
                Protocol::Tcp => COUNTS.1,
            };
            asked.push(at);
        }
    }
    asked
}

/// Probes that nobody has planned: from other sources to the destinations of these pairs, and from their sources to other destinations.
/// Those that share an end with a pair that fails tell which end it is.
pub(super) fn others(
    clusters: &[ClusterFacts],
    what: &What,
    open: &[Key],
    planned: &[PlannedProbe],
) -> Vec<PlannedProbe> {
    let known: BTreeSet<Key> = planned
        .iter()
        .map(|probe| (probe.src, probe.dst, probe.layer, probe.family))
        .collect();
    // A node that is asked or asks already by enough others needs no more.
    let mut ends: HashMap<(bool, NodeRef, Layer, Family), usize> = HashMap::new();
    for &(src, dst, layer, family) in &known {
        *ends.entry((false, src, layer, family)).or_default() += 1;
        *ends.entry((true, dst, layer, family)).or_default() += 1;
    }
    let mut wanted: BTreeMap<Key, ()> = BTreeMap::new();
    let stride = open.len().div_ceil(COMPANIONS).max(1);
    for &(src, dst, layer, family) in open.iter().step_by(stride) {
        for (is_target, here, there) in [(true, dst, src), (false, src, dst)] {
            let count = ends.entry((is_target, here, layer, family)).or_default();
            for other in near(clusters, what, there) {
                if *count > OTHERS {
                    break;
                }
                let key = if is_target {
                    (other, here, layer, family)
                } else {
                    (here, other, layer, family)
                };
                if other != here
                    && probe_plan::is_asked(clusters, what, key.0, key.1, family)
                    && !known.contains(&key)
                    && wanted.insert(key, ()).is_none()
                {
                    *count += 1;
                }
            }
        }
    }
    let mut planner = Planner::new(clusters, what);
    for (src, dst, layer, family) in wanted.into_keys() {
        planner.add(src, dst, layer, family, COUNTS.1);
    }
    planner.finish().probes
}

/// Other nodes, beginning with those of the clusters that follow the node's own.
fn near<'a>(
    clusters: &'a [ClusterFacts],
    what: &'a What,
    at: NodeRef,
) -> impl Iterator<Item = NodeRef> + use<'a> {
    let count = clusters.len();
    (1..=count.min(4 * OTHERS)).flat_map(move |step| {
        let cluster = (at.cluster + step) % count;
        let facts = &clusters[cluster];
        (0..facts.nodes.len().min(OTHERS))
            .filter(move |&node| what.wants_node(&facts.name, &facts.nodes[node].name))
            .map(move |node| NodeRef { cluster, node })
    })
}
