//! Which pairs suffer, and from what.
//!
//! A suspicion is blamed for a pair where the pair's way by intent, there or back, crosses what the suspicion concerns, and the pair's
//! packets are lost (or, where none were sent, a walk over the observed tables stops).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datapath::state::Family;
use floater::wire::Layer;
use rayon::prelude::*;

use super::intent::Intended;
use super::pairs::{Fate, Pair, PairKey};
use super::scope::{CellKey, Scope};
use super::tables::Suspicion;
use super::walks::{Walked, Walks};
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, Part, Way};
use crate::probe_plan::target_from;

/// Up to so many pairs every one that could cross a suspicion is looked at; above, those that were probed and one of each cell.
const EVERY_PAIR_UP_TO: usize = 200_000;

/// A pair with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Joined<'p, 'a> {
    pub(super) key: PairKey,
    /// What was probed; none where nothing was.
    pub(super) pair: Option<&'p Pair<'a>>,
    /// What the tables say; none where nobody had to look.
    pub(super) walked: Option<Walked>,
    /// Whether packets of other pairs cross all the shared parts of its ways.
    pub(super) covered: bool,
    /// Suspicions on its way.
    pub(super) crosses: Vec<usize>,
    /// Suspicions that are to blame.
    pub(super) blamed: Vec<usize>,
    /// Whether the control plane's own objects explain it.
    pub(super) is_objected: bool,
}

impl Joined<'_, '_> {
    /// What became of it: by packets if they tell, else by tables. Where too few packets were lost to accuse anybody, tables that lose
    /// them, too, are the second witness.
    pub(super) fn fate(&self) -> Fate {
        match (&self.pair, &self.walked) {
            (Some(pair), Some(Walked::Stops { .. })) if pair.asks_the_tables() => Fate::Lost,
            (Some(pair), _) => pair.fate.clone(),
            (None, Some(Walked::Passes)) => Fate::Passes,
            (None, Some(Walked::Stops { .. })) => Fate::Lost,
            (None, Some(Walked::Unknown) | None) => Fate::Unknown("not probed".to_owned()),
        }
    }

    pub(super) fn suffers(&self) -> bool {
        self.fate().suffers()
    }
}

/// Both ways of a pair by intent; none where an address is not known.
pub(super) fn ways(scope: &Scope<'_>, graph: &Connectivity, key: PairKey) -> Option<(Way, Way)> {
    let clusters = &scope.gathered.clusters;
    let there = target_from(clusters, key.src, key.dst, key.layer, key.family)?;
    let back = target_from(clusters, key.dst, key.src, key.layer, key.family)?;
    Some((
        graph.way(key.src, key.dst, key.layer, there),
        graph.way(key.dst, key.src, key.layer, back),
    ))
}

/// Joins probes, suspicions and walks; sorted by pair.
pub(super) fn join<'p, 'a>(
    scope: &Scope<'a>,
    graph: &Connectivity,
    walks: &Walks<'_>,
    pairs: &'p [Pair<'a>],
    suspicions: &[Suspicion],
) -> Vec<Joined<'p, 'a>> {
    let mut concerned: HashMap<(NodeRef, Part), Vec<usize>> = HashMap::new();
    for (at, suspicion) in suspicions.iter().enumerate() {
        for &part in &suspicion.parts {
            concerned.entry(part).or_default().push(at);
        }
    }
    let probed: BTreeMap<PairKey, &'p Pair<'a>> =
        pairs.iter().map(|pair| (pair.key, pair)).collect();
    let suspected: BTreeSet<usize> = suspicions
        .iter()
        .map(|suspicion| suspicion.at.cluster)
        .collect();
    let demanded = demanded(scope, &probed, &suspected);
    demanded
        .par_iter()
        .map(|&(key, needed)| {
            let pair = probed.get(&key).copied();
            let mut crosses = BTreeSet::new();
            let mut covered = false;
            if (needed || !concerned.is_empty())
                && let Some((there, back)) = ways(scope, graph, key)
            {
                for part in there.parts.iter().chain(&back.parts) {
                    crosses.extend(concerned.get(part).into_iter().flatten().copied());
                }
                covered = graph.is_covered(&there) && graph.is_covered(&back);
            }
            let lost = pair.is_some_and(|pair| pair.fate == Fate::Lost || pair.asks_the_tables());
            let walked = if lost || (pair.is_none() && (needed || !crosses.is_empty())) {
                Some(walks.judge(key))
            } else {
                None
            };
            let mut joined = Joined {
                key,
                pair,
                walked,
                covered,
                crosses: crosses.into_iter().collect(),
                blamed: Vec::new(),
                is_objected: false,
            };
            joined.blamed = blame(&joined, suspicions);
            joined
        })
        .collect()
}

/// The suspicions that explain a pair: those that are known to harm, or else any, unless the tables let the packet through with them.
/// Where only one protocol is lost no row of a table is to blame, and where somebody else answers none that drops.
fn blame(joined: &Joined<'_, '_>, suspicions: &[Suspicion]) -> Vec<usize> {
    if joined.fate() != Fate::Lost || joined.pair.is_some_and(|pair| pair.has_impostor()) {
        return Vec::new();
    }
    let hard: Vec<usize> = joined
        .crosses
        .iter()
        .copied()
        .filter(|&at| !suspicions[at].soft)
        .collect();
    if !hard.is_empty() {
        hard
    } else if joined.walked == Some(Walked::Passes) {
        Vec::new()
    } else {
        joined.crosses.clone()
    }
}

/// The pairs to look at, sorted, each with whether its cell has to be judged by tables.
///
/// A way never crosses a third cluster, so that only pairs of suspected clusters can suffer from a suspicion; of these every one is
/// looked at. Of another cell that no packet judges one pair is walked, whose nodes take turns from cell to cell: that the rows of
/// all the others equal intent is known already.
fn demanded(
    scope: &Scope<'_>,
    probed: &BTreeMap<PairKey, &Pair<'_>>,
    suspected: &BTreeSet<usize>,
) -> Vec<(PairKey, bool)> {
    let cells = scope.cells();
    let with_packets: BTreeSet<CellKey> = probed.keys().map(|key| key.cell()).collect();
    let members: Vec<Vec<NodeRef>> = (0..scope.gathered.clusters.len())
        .map(|cluster| scope.members(cluster))
        .collect();
    let is_suspected =
        |cell: &CellKey| suspected.contains(&cell.src) || suspected.contains(&cell.dst);
    let pairs_of = |wanted: &dyn Fn(&CellKey) -> bool| -> usize {
        cells
            .iter()
            .filter(|cell| wanted(cell))
            .map(|cell| members[cell.src].len() * members[cell.dst].len())
            .sum()
    };
    let all = pairs_of(&is_suspected);
    // Rows that nobody planned differ from no intent: without packets only a walk of every pair finds them.
    let walk_all = scope.what.tables_only && pairs_of(&|_| true) <= EVERY_PAIR_UP_TO;
    let mut wanted: BTreeMap<PairKey, bool> = probed.keys().map(|&key| (key, false)).collect();
    for &cell in &cells {
        let needed = !with_packets.contains(&cell);
        let every = walk_all || (is_suspected(&cell) && all <= EVERY_PAIR_UP_TO);
        let (sources, targets) = (&members[cell.src], &members[cell.dst]);
        if sources.is_empty() || targets.is_empty() || !(needed || every) {
            continue;
        }
        let mut want = |src: NodeRef, dst: NodeRef| {
            if src != dst || (sources.len() == 1 && cell.src == cell.dst) {
                let key = PairKey {
                    src,
                    dst,
                    layer: cell.layer,
                    family: cell.family,
                };
                *wanted.entry(key).or_default() |= needed;
            }
        };
        if every {
            for &src in sources {
                targets.iter().for_each(|&dst| want(src, dst));
            }
        } else {
            // A step aside within one cluster, where a node does not ask itself.
            let aside = usize::from(cell.src == cell.dst && sources.len() > 1);
            let source = cell.dst % sources.len();
            let target = (cell.src + aside) % targets.len();
            want(sources[source], targets[target]);
        }
    }
    wanted.into_iter().collect()
}

/// Marks in the graph what packets of this run crossed.
pub(super) fn cover(scope: &Scope<'_>, graph: &mut Connectivity, pairs: &[Pair<'_>]) {
    for pair in pairs {
        if pair.fate == Fate::Passes
            && pair.key.src != pair.key.dst
            && let Some((there, back)) = ways(scope, graph, pair.key)
        {
            graph.cover(&there);
            graph.cover(&back);
        }
    }
}

/// The graph of what nodes should do.
pub(super) fn graph(scope: &Scope<'_>, intended: &Intended) -> Connectivity {
    let empty = datapath::state::NodeState::default();
    Connectivity::new(scope.all_nodes().into_iter().map(|at| {
        (
            at,
            intended.desired.get(&at).unwrap_or(&empty),
            scope.node(at).ips.as_slice(),
        )
    }))
}

/// A pair's name for a person, without the source.
pub(super) fn towards(scope: &Scope<'_>, key: PairKey) -> String {
    format!(
        "{} {} to {}",
        crate::report::layer_word(key.layer),
        key.family,
        scope.place(key.dst)
    )
}

/// The families in which a pair of nodes passes on a layer.
pub(super) fn passing_families(
    joined: &[Joined<'_, '_>],
) -> BTreeSet<(NodeRef, NodeRef, Layer, Family)> {
    joined
        .iter()
        .filter(|joined| joined.fate() == Fate::Passes)
        .map(|joined| {
            (
                joined.key.src,
                joined.key.dst,
                joined.key.layer,
                joined.key.family,
            )
        })
        .collect()
}
