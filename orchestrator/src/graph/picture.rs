//! A report as a graph of what packets pass: the paths of what is wrong, or the whole fleet folded where nothing is.
//!
//! ```text
//!   east                                              west
//!   pods ─► n1 ─► route 10.21.0.0/16 ─► vx-bridge ─► underlay ─► vx-bridge ─► gateway ─► pods
//!                 ^ the finding's element
//! ```
//! A report names the elements that it accuses and the cells that suffer, not the node pairs behind them. So a path is as exact as
//! the report: the node and the row that a finding names, and for the rest of the way what its clusters' modes make of it. A
//! report that was read back gives the same picture as the run that wrote it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use datapath::element::{Element, ElementKind};
use datapath::state::Family;
use floater::wire::Layer;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef as _;

use super::tunnel_named;
use crate::matrix::badness;
use crate::report::{CellId, CellVerdict, Finding, Observation, Report, Severity};

/// So many findings are drawn; the others are counted.
pub const FINDINGS: usize = 25;
/// Up to so many clusters each is drawn by itself where nothing is wrong.
pub const SMALL: usize = 12;

/// A cluster, or several that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A fold of [`Picture::folds`].
    Fold(usize),
    /// A cluster by its position in [`Report::clusters`].
    One(usize),
}

/// Clusters that look alike: same mode, families and state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    /// Their positions in [`Report::clusters`], ascending.
    pub clusters: Vec<usize>,
}

/// A vertex: something that packets pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Spot {
    /// A row or an object that decides; none of the group where it is of no cluster of the report.
    Element(Option<Group>, Element),
    /// The gateway node.
    Gateway(Group),
    /// The nodes' own network.
    Hosts(Group),
    /// A node by its name.
    Node(Group, String),
    /// The pods.
    Pods(Group),
    /// A tunnel of the datapath.
    Tunnel(Group, &'static str),
    /// What is between clusters.
    Underlay(Family),
}

impl Spot {
    /// Where it is; none between clusters.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        match self {
            Self::Element(group, _) => *group,
            Self::Gateway(group)
            | Self::Hosts(group)
            | Self::Node(group, _)
            | Self::Pods(group)
            | Self::Tunnel(group, _) => Some(*group),
            Self::Underlay(_) => None,
        }
    }
}

/// A vertex with the findings that accuse it, by their positions in [`Report::findings`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// What it is.
    pub spot: Spot,
    /// Ascending; empty for what is only passed.
    pub findings: Vec<usize>,
}

/// What goes from one vertex to the next: the worst verdict of each layer and family. Empty where one only belongs to the other.
pub type Carried = BTreeMap<(Layer, Family), CellVerdict>;

/// The graph of a report, bounded whatever the size of the fleet.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    graph: DiGraph<Vertex, Carried>,
    index: HashMap<Spot, NodeIndex>,
    folds: Vec<Fold>,
    left_out: usize,
}

impl Picture {
    /// Draws every finding of severity error with the path of one pair that it affects, there and back, the worst
    /// [`FINDINGS`] of them. Where there is none, the fleet is folded into clusters that are alike, with the elements of its warnings.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let mut picture = Self::default();
        let names: HashMap<&str, usize> = report
            .clusters
            .iter()
            .enumerate()
            .map(|(at, cluster)| (cluster.name.as_str(), at))
            .collect();
        let errors = picture.chosen(report, Severity::Error);
        for &at in &errors {
            picture.path_of(report, &names, at);
        }
        if errors.is_empty() {
            picture.overview(report);
            for at in picture.chosen(report, Severity::Warning) {
                picture.beside(report, &names, at);
            }
        }
        picture
    }

    /// The vertices in the order of their numbers.
    pub fn vertices(&self) -> impl Iterator<Item = (usize, &Vertex)> {
        self.graph
            .node_indices()
            .map(|at| (at.index(), &self.graph[at]))
    }

    /// The edges by the numbers of their vertices, in the order in which they were drawn.
    pub fn edges(&self) -> impl Iterator<Item = (usize, usize, &Carried)> {
        self.graph
            .edge_references()
            .map(|edge| (edge.source().index(), edge.target().index(), edge.weight()))
    }

    /// Clusters that are drawn as one.
    #[must_use]
    pub fn folds(&self) -> &[Fold] {
        &self.folds
    }

    /// How many findings of the severity that is drawn are left out.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The findings of a severity that are drawn: those that affect most first, then in the report's order.
    fn chosen(&mut self, report: &Report, severity: Severity) -> Vec<usize> {
        let all = report.findings.iter().enumerate();
        let mut chosen: Vec<usize> = all
            .filter(|(_, finding)| finding.severity == severity)
            .map(|(at, _)| at)
            .collect();
        chosen.sort_by_key(|&at| Reverse(report.findings[at].affects.len()));
        self.left_out = chosen.len().saturating_sub(FINDINGS);
        chosen.truncate(FINDINGS);
        chosen
    }

    fn vertex(&mut self, spot: Spot) -> NodeIndex {
        if let Some(&at) = self.index.get(&spot) {
            return at;
        }
        let at = self.graph.add_node(Vertex {
            spot: spot.clone(),
            findings: Vec::new(),
        });
        self.index.insert(spot, at);
        at
    }

    fn mark(&mut self, spot: Spot, finding: usize) -> NodeIndex {
        let at = self.vertex(spot);
        let findings = &mut self.graph[at].findings;
        if let Err(place) = findings.binary_search(&finding) {
            findings.insert(place, finding);
        }
        at
    }

    fn edge(
        &mut self,
        (from, to): (NodeIndex, NodeIndex),
        carries: Option<(Layer, Family, CellVerdict)>,
    ) {
        let edge = match self.graph.find_edge(from, to) {
            Some(edge) => edge,
            None => self.graph.add_edge(from, to, Carried::new()),
        };
        if let (Some((layer, family, verdict)), Some(carried)) =
            (carries, self.graph.edge_weight_mut(edge))
        {
            let worst = carried.entry((layer, family)).or_insert(verdict);
            if badness(verdict) > badness(*worst) {
                *worst = verdict;
            }
        }
    }

    /// The path of one pair that a finding affects, there and back, its element marked.
    fn path_of(&mut self, report: &Report, names: &HashMap<&str, usize>, at: usize) {
        let finding = &report.findings[at];
        let accused = Accused::of(finding, names);
        let Some(pair) = pair_of(finding, accused.cluster) else {
            self.alone(&accused, at);
            return;
        };
        let back = CellId {
            src: pair.dst,
            dst: pair.src,
            ..pair
        };
        let inside = pair.src == pair.dst;
        for id in [Some(pair), (!inside).then_some(back)]
            .into_iter()
            .flatten()
        {
            let plane = report.cells.plane(id.layer, id.family);
            let mark = plane.map(|plane| plane.at(id.src as usize, id.dst as usize));
            let Some(verdict) = mark.and_then(crate::report::Mark::verdict) else {
                continue;
            };
            let way = way(report, id, &accused);
            for legs in way.windows(2) {
                let ends = (self.vertex(legs[0].clone()), self.vertex(legs[1].clone()));
                self.edge(ends, Some((id.layer, id.family, verdict)));
            }
        }
        if self.index.contains_key(&accused.spot) {
            self.mark(accused.spot, at);
        } else {
            self.alone(&accused, at);
        }
    }

    /// An accused element that no path passes, at its node or cluster.
    fn alone(&mut self, accused: &Accused<'_>, finding: usize) {
        let at = self.mark(accused.spot.clone(), finding);
        if let (Some(group), Some(node), false) = (
            accused.spot.group(),
            accused.node,
            matches!(accused.spot, Spot::Node(..)),
        ) {
            let node = self.vertex(Spot::Node(group, node.to_owned()));
            self.edge((node, at), None);
        }
    }

    /// A warning's element beside the folded fleet.
    fn beside(&mut self, report: &Report, names: &HashMap<&str, usize>, at: usize) {
        let accused = Accused::of(&report.findings[at], names);
        self.alone(&accused, at);
    }

    /// Every cluster's way out, those that are alike as one.
    fn overview(&mut self, report: &Report) {
        let mut groups = Vec::with_capacity(report.clusters.len());
        let mut known = HashMap::new();
        for (at, cluster) in report.clusters.iter().enumerate() {
            if report.clusters.len() <= SMALL {
                groups.push((Group::One(at), at));
                continue;
            }
            let key = (&cluster.mode, &cluster.families, cluster.state.word());
            let fold = *known.entry(key).or_insert_with(|| {
                self.folds.push(Fold::default());
                self.folds.len() - 1
            });
            self.folds[fold].clusters.push(at);
            groups.push((Group::Fold(fold), fold));
        }
        let count = groups.iter().map(|(_, at)| at + 1).max().unwrap_or(0);
        for plane in report.cells.planes() {
            // The worst that leaves and that enters, by group.
            let mut worst = vec![[None::<CellVerdict>; 2]; count];
            for (src, dst, mark) in plane.cells() {
                let (Some(verdict), Some(from), Some(to)) =
                    (mark.verdict(), groups.get(src), groups.get(dst))
                else {
                    continue;
                };
                for (at, side) in [(from.1, 0), (to.1, 1)] {
                    let known = &mut worst[at][side];
                    if known.is_none_or(|known| badness(verdict) > badness(known)) {
                        *known = Some(verdict);
                    }
                }
            }
            let mut drawn = HashSet::new();
            for (at, &(group, of)) in groups.iter().enumerate() {
                if !drawn.insert(group) {
                    continue;
                }
                let side = side(report, (group, at), plane.layer, plane.family, None);
                let mut out: Vec<NodeIndex> = Vec::new();
                for spot in side {
                    out.push(self.vertex(spot));
                }
                out.push(self.vertex(Spot::Underlay(plane.family)));
                for legs in out.windows(2) {
                    for (ends, verdict) in [
                        ((legs[0], legs[1]), worst[of][0]),
                        ((legs[1], legs[0]), worst[of][1]),
                    ] {
                        if let Some(verdict) = verdict {
                            self.edge(ends, Some((plane.layer, plane.family, verdict)));
                        }
                    }
                }
            }
        }
        // Clusters of which no cell is known are there all the same.
        for (at, &(group, _)) in groups.iter().enumerate() {
            if report.clusters[at].state == Observation::Unobserved {
                self.vertex(Spot::Hosts(group));
            }
        }
    }
}

/// The element of a finding and where it is.
struct Accused<'r> {
    spot: Spot,
    cluster: Option<usize>,
    node: Option<&'r str>,
    element: &'r Element,
}

impl<'r> Accused<'r> {
    fn of(finding: &'r Finding, names: &HashMap<&str, usize>) -> Self {
        let element = &finding.element;
        let name = element.cluster.as_ref().map(|name| name.as_str());
        let cluster = name.and_then(|name| names.get(name).copied());
        let node = element.node.as_ref().map(|name| name.as_str());
        let group = cluster.map(Group::One);
        let spot = match (group, node, element.kind) {
            (Some(group), Some(node), ElementKind::Node) => Spot::Node(group, node.to_owned()),
            _ => Spot::Element(group, element.clone()),
        };
        Self {
            spot,
            cluster,
            node,
            element,
        }
    }

    /// Whether it decides only where packets are sent to: those that come in do not pass it.
    fn is_asked_by_senders(&self) -> bool {
        matches!(
            self.element.kind,
            ElementKind::Fdb | ElementKind::Neighbour | ElementKind::Route | ElementKind::Rule
        )
    }

    /// Whether it is the underlay between clusters.
    fn is_between(&self) -> bool {
        self.cluster.is_none()
    }
}

/// One cell that a finding affects: one that the element's cluster sends, or else receives, or else the first.
fn pair_of(finding: &Finding, cluster: Option<usize>) -> Option<CellId> {
    let affects = finding.affects.iter();
    let by = |end: fn(&CellId) -> u32| {
        let found = affects.clone().find(|id| {
            cluster.is_some_and(|cluster| cluster == end(id) as usize) && id.src != id.dst
        });
        found.copied()
    };
    by(|id| id.src)
        .or_else(|| by(|id| id.dst))
        .or_else(|| finding.affects.first().copied())
}

/// What a packet of a cell passes.
fn way(report: &Report, id: CellId, accused: &Accused<'_>) -> Vec<Spot> {
    let end = |cluster: u32, leaves: bool| {
        let at = cluster as usize;
        let own = (accused.cluster == Some(at)).then_some(accused);
        let mut side = side(report, (Group::One(at), at), id.layer, id.family, own);
        if !leaves && accused.is_asked_by_senders() {
            side.retain(|spot| *spot != accused.spot);
        }
        side
    };
    let mut way = end(id.src, true);
    if id.src == id.dst {
        // Within a cluster nothing leaves by the tunnel between clusters.
        way.retain(|spot| !matches!(spot, Spot::Gateway(_) | Spot::Tunnel(..)));
        way.extend(way.first().cloned());
        return way;
    }
    way.push(if accused.is_between() {
        accused.spot.clone()
    } else {
        Spot::Underlay(id.family)
    });
    way.extend(end(id.dst, false).into_iter().rev());
    way
}

/// A cluster's part of a path, from its inside to its edge.
fn side(
    report: &Report,
    (group, at): (Group, usize),
    layer: Layer,
    family: Family,
    accused: Option<&Accused<'_>>,
) -> Vec<Spot> {
    let mode = report
        .clusters
        .get(at)
        .and_then(|cluster| cluster.mode.as_deref());
    let bridge = match family {
        Family::Ipv4 => "vx-bridge",
        Family::Ipv6 => "vx-bridge-6",
    };
    let mut side = vec![match layer {
        Layer::Host => Spot::Hosts(group),
        Layer::Pod => Spot::Pods(group),
    }];
    // An internal node sends by the local tunnel to its gateway; any other that is accused is where the tunnel begins.
    let is_internal = accused.is_some_and(|accused| accused.element.name.contains("vx-local"));
    if let Some(node) = accused.and_then(|accused| accused.node) {
        side.push(Spot::Node(group, node.to_owned()));
    }
    let has_tunnel = layer == Layer::Pod && mode.is_some();
    let is_own = |spot: &Spot| matches!(spot, Spot::Node(..));
    let element = accused
        .map(|accused| accused.spot.clone())
        .filter(|spot| !is_own(spot));
    let kind = accused.map(|accused| accused.element.kind);
    let name = accused.map_or("", |accused| accused.element.name.as_str());
    let is_tunnel = kind == Some(ElementKind::Link) && tunnel_named(name) == Some(bridge);
    let is_outside = kind == Some(ElementKind::Link) && tunnel_named(name).is_none();
    if let Some(element) = element.clone().filter(|_| !is_tunnel && !is_outside) {
        side.push(element);
    }
    if has_tunnel {
        let has_node = accused.is_some_and(|accused| accused.node.is_some());
        if mode == Some("gateway") && (!has_node || is_internal) {
            side.push(Spot::Gateway(group));
        }
        side.push(match element.clone().filter(|_| is_tunnel) {
            Some(element) => element,
            None => Spot::Tunnel(group, bridge),
        });
    }
    side.extend(element.filter(|_| is_outside));
    side
}

#[cfg(test)]
mod tests;
