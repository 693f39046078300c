//! Which pairs of nodes are looked at, and which clusters are as planned, so that theirs need not be.
//!
//! Two clusters whose nodes hold what is planned and whose shared parts carried packets reach each other by the plan: nothing between
//! them is looked at but a sample, which keeps that reasoning honest. What differs, fails or carried nothing is looked at pair by pair.
//! So the work grows with the clusters and with what is wrong with them, and not with the pairs of clusters.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use datapath::state::Family;
use floater::wire::Layer;
use ipnet::IpNet;
use rayon::prelude::*;

use super::intent::Intended;
use super::join::ways;
use super::pairs::{Pair, PairKey};
use super::scope::Scope;
use super::tables::Suspicion;
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, Part, Way};
use crate::probe_plan::Random;
use crate::report::CellId;

/// Up to so many pairs of nodes of cells that a suspicion touches every one is looked at; above, those that were probed and one of
/// each cell.
const EVERY_PAIR_UP_TO: usize = 200_000;
/// So many cells between clusters that are as planned are looked at all the same.
const SAMPLE: usize = 20_000;
/// The most cells that are looked at because of their clusters, which bounds the time of a diagnosis in which everything is wrong.
const MOST: usize = 2_000_000;
/// So many other clusters are tried as the far end for the question what a cluster's own part of a way is.
const FAR_ENDS: usize = 4;

/// Clusters that are as planned, and what keeps the others from it.
pub(super) struct Sound {
    by_plane: BTreeMap<(Layer, Family), Vec<bool>>,
    touched: Touched,
}

impl Sound {
    pub(super) fn new(
        scope: &Scope<'_>,
        intended: &Intended,
        graph: &Connectivity,
        suspicions: &[Suspicion],
    ) -> Self {
        let touched = Touched::new(scope, intended, suspicions);
        let objected: HashSet<&str> = intended
            .objections
            .iter()
            .flat_map(|objection| [Some(&objection.at), objection.other.as_ref()])
            .flatten()
            .filter_map(|at| at.object.cluster.as_deref())
            .collect();
        let clusters = scope.gathered.clusters.len();
        let judge = |cluster: usize, layer, family| {
            !touched.whole.contains(&cluster)
                && !objected.contains(scope.cluster(cluster).name.as_str())
                && is_known(scope, intended, cluster, layer)
                && (scope.what.tables_only || carries(scope, graph, cluster, layer, family))
        };
        let planes = scope.planes().into_iter();
        let by_plane = planes
            .map(|(layer, family)| {
                let sound = (0..clusters)
                    .into_par_iter()
                    .map(|cluster| judge(cluster, layer, family))
                    .collect();
                ((layer, family), sound)
            })
            .collect();
        Self { by_plane, touched }
    }

    pub(super) fn is_sound(&self, cluster: usize, layer: Layer, family: Family) -> bool {
        self.by_plane
            .get(&(layer, family))
            .is_some_and(|sound| sound.get(cluster) == Some(&true))
    }
}

/// Whether all nodes of a cluster could be read, and for pods all are planned.
fn is_known(scope: &Scope<'_>, intended: &Intended, cluster: usize, layer: Layer) -> bool {
    let members = scope.members(cluster);
    !members.is_empty()
        && members.into_iter().all(|at| {
            let is_planned = layer == Layer::Host || intended.name(at).is_some();
            scope.node(at).tables.is_ok() && is_planned
        })
}

/// Whether packets crossed everything that a cluster's ways to and from others have in common.
fn carries(
    scope: &Scope<'_>,
    graph: &Connectivity,
    cluster: usize,
    layer: Layer,
    family: Family,
) -> bool {
    let clusters = scope.gathered.clusters.len();
    let members = scope.members(cluster);
    let own_is_covered = |way: &Way| {
        way.edges
            .iter()
            .filter(|&&edge| graph.touches(edge, cluster))
            .all(|&edge| graph.carried(edge))
    };
    let far_ends = (1..clusters)
        .map(|step| (cluster + step) % clusters)
        .filter_map(|other| scope.members(other).first().copied())
        .take(FAR_ENDS);
    for far in far_ends {
        let both: Option<Vec<(Way, Way)>> = members
            .iter()
            .map(|&near| {
                let key = PairKey {
                    src: near,
                    dst: far,
                    layer,
                    family,
                };
                ways(scope, graph, key).filter(|(there, back)| there.arrives && back.arrives)
            })
            .collect();
        if let Some(both) = both {
            return both
                .iter()
                .all(|(there, back)| own_is_covered(there) && own_is_covered(back));
        }
    }
    false
}

/// What suspicions concern.
struct Touched {
    /// Clusters of which any pair may suffer.
    whole: BTreeSet<usize>,
    /// Pairs of clusters, the lower one first.
    pairs: BTreeSet<(usize, usize)>,
}

impl Touched {
    fn new(scope: &Scope<'_>, intended: &Intended, suspicions: &[Suspicion]) -> Self {
        let mut touched = Self {
            whole: BTreeSet::new(),
            pairs: BTreeSet::new(),
        };
        if suspicions.is_empty() {
            return touched;
        }
        let exporters = exporters(scope, intended);
        for suspicion in suspicions {
            let own = suspicion.at.cluster;
            if suspicion.parts.is_empty() {
                touched.whole.insert(own);
            }
            for &(at, part) in &suspicion.parts {
                let peer = match part {
                    Part::Fdb(_, ip) | Part::Neighbour(_, ip) => {
                        intended.owner(ip).map(|owner| owner.cluster)
                    }
                    Part::Route(prefix) => exporters.get(&prefix).copied(),
                    Part::Forward(_)
                    | Part::Link(_)
                    | Part::Lower(_)
                    | Part::Node
                    | Part::Rule(_) => None,
                };
                match peer.filter(|&peer| peer != own && at.cluster == own) {
                    Some(peer) => {
                        touched.pairs.insert((own.min(peer), own.max(peer)));
                    }
                    None => {
                        touched.whole.extend([own, at.cluster]);
                    }
                }
            }
        }
        touched
    }
}

/// By prefix that is routed: the only cluster that offers it.
fn exporters(scope: &Scope<'_>, intended: &Intended) -> HashMap<IpNet, usize> {
    let mut found: HashMap<IpNet, Option<usize>> = HashMap::new();
    let names: HashMap<&str, usize> = (0..)
        .zip(&scope.gathered.clusters)
        .map(|(at, cluster)| (cluster.name.as_str(), at))
        .collect();
    for bundle in intended.planner.bundles() {
        let Some(&cluster) = names.get(bundle.cluster()) else {
            continue;
        };
        for prefix in bundle.prefixes() {
            let owner = found.entry(prefix).or_insert(Some(cluster));
            if *owner != Some(cluster) {
                *owner = None;
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(prefix, cluster)| Some((prefix, cluster?)))
        .collect()
}

/// The pairs to look at.
pub(super) struct Demand {
    /// Sorted, each with whether its cell has to be judged by tables.
    pub(super) pairs: Vec<(PairKey, bool)>,
    /// Cells that would have to be looked at and are not.
    left_out: usize,
}

impl Demand {
    /// What nobody looked at, as a sentence.
    pub(super) fn unlooked(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "{} cells were neither probed nor followed through the tables, because in too many clusters something differs, fails or carried no packet",
                self.left_out
            )
        })
    }
}

struct Demanding<'s, 'a> {
    scope: &'s Scope<'a>,
    members: Vec<Vec<NodeRef>>,
    with_packets: HashSet<CellId>,
    wanted: Vec<(PairKey, bool)>,
    cells: usize,
    left_out: usize,
}

/// The pairs that were probed, those that suspicions touch, one of each cell that no packet judges and whose clusters are not both
/// sound, and a sample of the others.
pub(super) fn pairs(scope: &Scope<'_>, probed: &[Pair<'_>], sound: &Sound) -> Demand {
    let clusters = scope.gathered.clusters.len();
    let mut all = Demanding {
        scope,
        members: (0..clusters)
            .map(|cluster| scope.members(cluster))
            .collect(),
        with_packets: probed.iter().map(|pair| pair.key.cell()).collect(),
        wanted: probed.iter().map(|pair| (pair.key, false)).collect(),
        cells: 0,
        left_out: 0,
    };
    all.touched(&sound.touched);
    for (layer, family) in scope.planes() {
        for cluster in 0..clusters {
            all.cell(cluster, cluster, layer, family);
            if !sound.is_sound(cluster, layer, family) && all.is_readable(cluster) {
                for other in (0..clusters).filter(|&other| other != cluster) {
                    all.cell(cluster, other, layer, family);
                    all.cell(other, cluster, layer, family);
                }
            }
        }
    }
    all.sample(sound);
    let mut pairs = all.wanted;
    pairs.sort_unstable();
    // Of two entries of a pair the one that needs its tables is the later one.
    pairs.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        earlier.1 |= same && later.1;
        same
    });
    Demand {
        pairs,
        left_out: all.left_out,
    }
}

impl Demanding<'_, '_> {
    /// A cluster without any table has nothing to walk.
    fn is_readable(&self, cluster: usize) -> bool {
        self.members[cluster]
            .iter()
            .any(|&at| self.scope.node(at).tables.is_ok())
    }

    /// One pair of a cell that no packet judges; its nodes take turns from cell to cell.
    fn cell(&mut self, src: usize, dst: usize, layer: Layer, family: Family) {
        if !self.scope.is_cell(src, dst, family) {
            return;
        }
        let (sources, targets) = (&self.members[src], &self.members[dst]);
        if sources.is_empty() || targets.is_empty() {
            return;
        }
        // A step aside within one cluster, where a node does not ask itself.
        let aside = usize::from(src == dst && sources.len() > 1);
        let key = PairKey {
            src: sources[dst % sources.len()],
            dst: targets[(src + aside) % targets.len()],
            layer,
            family,
        };
        if self.with_packets.contains(&key.cell()) {
            return;
        }
        if self.cells >= MOST {
            self.left_out += 1;
            return;
        }
        self.cells += 1;
        self.want(key, true);
    }

    fn want(&mut self, key: PairKey, needed: bool) {
        if key.src != key.dst || self.members[key.src.cluster].len() == 1 {
            self.wanted.push((key, needed));
        }
    }

    /// Every pair of the cells that suspicions touch, as long as these are few. Without packets, and in a fleet that is small enough,
    /// every pair at all: rows that nobody planned differ from no intent, so that only a walk finds them.
    fn touched(&mut self, touched: &Touched) {
        let clusters = self.members.len();
        let mut cells: BTreeSet<(usize, usize)> = BTreeSet::new();
        let nodes: usize = self.members.iter().map(Vec::len).sum();
        let planes = self.scope.planes();
        let is_small = nodes.saturating_mul(nodes) * planes.len() <= EVERY_PAIR_UP_TO;
        if self.scope.what.tables_only && is_small {
            cells.extend((0..clusters).flat_map(|src| (0..clusters).map(move |dst| (src, dst))));
        }
        for &(low, high) in &touched.pairs {
            cells.extend([(low, high), (high, low)]);
        }
        for &cluster in &touched.whole {
            // Beyond that the cells are looked at once each, with those of other clusters that are not sound.
            if cells.len() > EVERY_PAIR_UP_TO {
                break;
            }
            cells.extend((0..clusters).flat_map(|other| [(cluster, other), (other, cluster)]));
        }
        let size = |&(src, dst): &(usize, usize)| self.members[src].len() * self.members[dst].len();
        let all: usize = cells.iter().map(size).sum::<usize>() * planes.len();
        let every = all <= EVERY_PAIR_UP_TO;
        for (layer, family) in planes {
            for &(src, dst) in &cells {
                if !self.scope.is_cell(src, dst, family) {
                    continue;
                }
                if !every {
                    self.cell(src, dst, layer, family);
                    continue;
                }
                for source in self.members[src].clone() {
                    for target in self.members[dst].clone() {
                        let key = PairKey {
                            src: source,
                            dst: target,
                            layer,
                            family,
                        };
                        let needed = !self.with_packets.contains(&key.cell());
                        self.want(key, needed);
                    }
                }
            }
        }
    }

    /// Cells between sound clusters: all of them where they are few, else as many as [`SAMPLE`], drawn from the run's seed.
    fn sample(&mut self, sound: &Sound) {
        let clusters = self.members.len();
        for (layer, family) in self.scope.planes() {
            let ends: Vec<usize> = (0..clusters)
                .filter(|&cluster| sound.is_sound(cluster, layer, family))
                .collect();
            let count = ends.len();
            if count * count <= SAMPLE {
                for &src in &ends {
                    for &dst in &ends {
                        self.cell(src, dst, layer, family);
                    }
                }
                continue;
            }
            let mut random = Random::new(self.scope.what.seed);
            for _ in 0..SAMPLE {
                let (src, dst) = (ends[random.below(count)], ends[random.below(count)]);
                self.cell(src, dst, layer, family);
            }
        }
    }
}
