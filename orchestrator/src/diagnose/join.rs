//! Which pairs suffer, and from what.
//!
//! A suspicion is blamed for a pair where the pair's way by intent, there or back, crosses what the suspicion concerns, and the pair's
//! packets are lost (or, where none were sent, a walk over the observed tables stops).

use std::collections::{BTreeSet, HashMap};

use datapath::filter::Decider;
use datapath::state::Family;
use floater::wire::Layer;
use rayon::prelude::*;

use super::demand::Demand;
use super::intent::Intended;
use super::pairs::{Fate, Pair, PairKey};
use super::scope::Scope;
use super::tables::Suspicion;
use super::walks::{Walked, Walks};
use crate::evidence::NodeRef;
use crate::graph::{Connectivity, Part, Way};
use crate::probe_plan::target_from;

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
    /// Whether a packet filter explains it.
    pub(super) is_filtered: bool,
}

impl Joined<'_, '_> {
    /// What became of it: by packets if they tell, else by tables. Where too few packets were lost to accuse anybody, tables that lose
    /// them, too, are the second witness.
    pub(super) fn fate(&self) -> Fate {
        match (&self.pair, &self.walked) {
            (Some(pair), Some(Walked::Stops { .. })) if pair.asks_the_tables() => Fate::Lost,
            (Some(pair), _) => pair.fate.clone(),
            (None, Some(Walked::Passes | Walked::Loses { .. })) => Fate::Passes,
            (None, Some(Walked::Stops { .. })) => Fate::Lost,
            (None, Some(Walked::Unknown) | None) => Fate::Unknown("not probed".to_owned()),
        }
    }

    /// The rule of a packet filter that explains it, and the node that has it.
    pub(super) fn filter(&self) -> Option<(NodeRef, &Decider)> {
        self.walked.as_ref()?.filter()
    }

    /// Whether something is known that explains it.
    pub(super) fn is_explained(&self) -> bool {
        !self.blamed.is_empty() || self.is_objected || self.is_filtered
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
    demand: &Demand,
) -> Vec<Joined<'p, 'a>> {
    let mut concerned: HashMap<(NodeRef, Part), Vec<usize>> = HashMap::new();
    for (at, suspicion) in suspicions.iter().enumerate() {
        for &part in &suspicion.parts {
            concerned.entry(part).or_default().push(at);
        }
    }
    demand
        .pairs
        .par_iter()
        .map(|&(key, needed)| {
            let probed = pairs.binary_search_by_key(&key, |pair| pair.key);
            let pair = probed.ok().map(|at| &pairs[at]);
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
                Some(walks.judge(key, pair))
            } else {
                pair.and_then(|pair| in_part(walks, pair))
            };
            let mut joined = Joined {
                key,
                pair,
                walked,
                covered,
                crosses: crosses.into_iter().collect(),
                blamed: Vec::new(),
                is_objected: false,
                is_filtered: false,
            };
            joined.blamed = blame(&joined, suspicions);
            joined
        })
        .collect()
}

/// What the tables say of a pair that lets some packets pass: only what fits that. No row of a table does, some rules of filters do.
fn in_part(walks: &Walks<'_>, pair: &Pair<'_>) -> Option<Walked> {
    if !matches!(pair.fate, Fate::Half | Fate::Lossy) {
        return None;
    }
    let walked = walks.judge(pair.key, Some(pair));
    let fits = match (&pair.fate, &walked) {
        (Fate::Half, Walked::Stops { .. }) => walked.filter().is_some(),
        (Fate::Lossy, Walked::Loses { .. }) => true,
        _ => false,
    };
    fits.then_some(walked)
}

/// The suspicions that explain a pair: those that are known to harm, or else any, unless the tables let the packet through with them.
/// Where only one protocol is lost no row of a table is to blame, and where somebody else answers none that drops. Where large packets
/// alone are lost it is a link of another size.
fn blame(joined: &Joined<'_, '_>, suspicions: &[Suspicion]) -> Vec<usize> {
    if joined.pair.is_some_and(|pair| pair.has_impostor()) {
        return Vec::new();
    }
    match joined.fate() {
        Fate::Lost => {}
        Fate::Large => {
            let crosses = joined.crosses.iter().copied();
            return crosses.filter(|&at| suspicions[at].is_of_size()).collect();
        }
        _ => return Vec::new(),
    }
    let hard: Vec<usize> = joined
        .crosses
        .iter()
        .copied()
        .filter(|&at| !suspicions[at].soft)
        .collect();
    if !hard.is_empty() {
        hard
    } else if matches!(joined.walked, Some(Walked::Passes | Walked::Loses { .. }))
        || joined.filter().is_some()
    {
        Vec::new()
    } else {
        joined.crosses.clone()
    }
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
    let nodes = scope.all_nodes().into_iter();
    Connectivity::new(
        &intended.planner,
        nodes.map(|at| (at, intended.name(at), scope.node(at).ips.as_slice())),
    )
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
