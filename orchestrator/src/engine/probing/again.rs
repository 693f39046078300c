//! Which probes ask again: the pairs of which more packets would tell more, and others that share an end with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

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
/// The most of one round that go to one address, and to one cluster.
const PER_ADDRESS: usize = 100;
const PER_CLUSTER: usize = 1_000;
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
    /// As many of the probes as the budget allows, taken evenly from all over the fleet: no address and no cluster is asked more than
    /// a share of it, whatever it claims.
    pub(super) fn take(&mut self, probes: Vec<usize>, planned: &[PlannedProbe]) -> Vec<usize> {
        let most = PER_ROUND.min(self.left);
        if most == 0 {
            return Vec::new();
        }
        let probes = evenly(probes, PER_ADDRESS, |at| planned[at].target);
        let probes = evenly(probes, PER_CLUSTER, |at| planned[at].dst.cluster);
        let taken = evenly(probes, most, |_| ());
        self.left -= taken.len();
        taken
    }
}

/// Of all probes that have the same key at most so many, spread over all of them.
fn evenly<K: Eq + Hash>(probes: Vec<usize>, most: usize, key: impl Fn(usize) -> K) -> Vec<usize> {
    let mut counts: HashMap<K, usize> = HashMap::new();
    for &at in &probes {
        *counts.entry(key(at)).or_default() += 1;
    }
    let mut seen: HashMap<K, usize> = HashMap::new();
    probes
        .into_iter()
        .filter(|&at| {
            let count = counts[&key(at)];
            let before = seen.entry(key(at)).or_default();
            let number = *before;
            *before += 1;
            // Taken where the share of those taken passes a whole number: `most` of `count`, at even distances.
            count <= most || (number + 1) * most / count > number * most / count
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_evenly_and_no_key_gets_more_than_its_own() {
        let all: Vec<usize> = (0..1000).collect();
        assert_eq!(evenly(all.clone(), 1000, |_| ()), all);
        let some = evenly(all.clone(), 7, |_| ());
        assert_eq!(some.len(), 7);
        assert!(
            some.windows(2)
                .all(|two| (142..=143).contains(&(two[1] - two[0])))
        );
        // One of a hundred keys has most of the probes and gets no more than the others may.
        let key = |at: usize| at.saturating_sub(900);
        let some = evenly(all, 5, key);
        assert_eq!(some.iter().filter(|&&at| key(at) == 0).count(), 5);
        assert_eq!(some.len(), 5 + 99);
        assert_eq!(evenly(Vec::new(), 3, |_| ()), Vec::<usize>::new());
    }
}
