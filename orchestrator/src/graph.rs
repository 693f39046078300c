//! The connectivity graph: by which parts of the fleet a packet should go.
//!
//! ```text
//!   pods(a) ─► tunnel(a, vx-local) ─► underlay ─► tunnel(g, vx-local) ─► tunnel(g, vx-bridge) ─► underlay ─► ... ─► pods(b)
//!   host(a) ───────────────────────► underlay ─────────────────────────────────────────────────────────► host(b)
//! ```
//! Its edges are the parts that many pairs share: O(nodes) of them, where pairs are O(nodes²). A probe that passes covers the
//! edges of its way there and back; what only one pair uses (a route, a neighbour, a forwarding row) is a [`Part`] of the way
//! but no edge, and is the tables' business.
//!
//! [`picture`] is what is left of it in a report, for people to look at.

pub mod picture;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use datapath::mac::Mac;
use datapath::nodeconfig::TUNNELS;
use datapath::plan::{Planner, Row, View};
use datapath::state::Family;
use datapath::tunnel::Tunnel;
use floater::wire::Layer;
use ipnet::IpNet;
use petgraph::Direction;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::evidence::NodeRef;

/// A vertex: where a packet can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In a node's own network.
    Host(NodeRef),
    /// Among a node's pods.
    Pods(NodeRef),
    /// At a node's end of a tunnel.
    Tunnel(NodeRef, &'static str),
    /// Between nodes.
    Underlay(Family),
}

impl Place {
    /// The cluster that it is in; none between nodes.
    fn cluster(self) -> Option<usize> {
        match self {
            Self::Host(at) | Self::Pods(at) | Self::Tunnel(at, _) => Some(at.cluster),
            Self::Underlay(_) => None,
        }
    }
}

/// Something on a node that a packet's way depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The forwarding rows of a tunnel for the peer at that underlay address.
    Fdb(&'static str, IpAddr),
    /// Forwarding between links.
    Forward(Family),
    /// A tunnel.
    Link(&'static str),
    /// Forwarding of what comes in by the underlay link itself.
    Lower(Family),
    /// The neighbour row of a tunnel for an overlay address.
    Neighbour(&'static str, IpAddr),
    /// The node as a whole, its underlay link included.
    Node,
    /// The route of the datapath's table to a prefix.
    Route(IpNet),
    /// The rule that sends lookups to the datapath's table.
    Rule(Family),
}

/// The way of a packet by intent, one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// What it depends on, in order.
    pub parts: Vec<(NodeRef, Part)>,
    /// The shared parts, as edges of the graph.
    pub edges: Vec<EdgeIndex>,
    /// The tunnels it crosses: from where, to where, over which link.
    pub tunnels: Vec<(NodeRef, NodeRef, &'static str)>,
    /// Whether it reaches its destination.
    pub arrives: bool,
}

/// What one node is meant to do, for one question: where next.
#[derive(Debug)]
struct Intent {
    /// What other clusters give it.
    view: View,
    /// What its own cluster gives it: who has an overlay address, and where a MAC is.
    neighbours: HashMap<(Tunnel, IpAddr), Mac>,
    unicast: HashMap<(Tunnel, Mac), IpAddr>,
}

/// The graph and what has been covered of it.
#[derive(Debug)]
pub struct Connectivity {
    graph: DiGraph<Place, ()>,
    index: HashMap<Place, NodeIndex>,
    edges: HashMap<(Place, Place), EdgeIndex>,
    planner: Arc<Planner>,
    intents: HashMap<NodeRef, Intent>,
    owners: HashMap<IpAddr, NodeRef>,
    covered: Vec<bool>,
}

/// The one of [`TUNNELS`] with that name.
#[must_use]
pub fn tunnel_named(name: &str) -> Option<&'static str> {
    TUNNELS.into_iter().find(|&tunnel| tunnel == name)
}

/// The family that a tunnel carries, inside and out.
#[must_use]
pub fn family_of_tunnel(name: &str) -> Family {
    if name.ends_with("-6") {
        Family::Ipv6
    } else {
        Family::Ipv4
    }
}

impl Connectivity {
    /// The graph of nodes with the name under which the planner knows each, where it does, and its underlay addresses.
    #[must_use]
    pub fn new<'a>(
        planner: &Arc<Planner>,
        nodes: impl IntoIterator<Item = (NodeRef, Option<&'a str>, &'a [IpAddr])>,
    ) -> Self {
        let mut all = Self {
            graph: DiGraph::new(),
            index: HashMap::new(),
            edges: HashMap::new(),
            planner: Arc::clone(planner),
            intents: HashMap::new(),
            owners: HashMap::new(),
            covered: Vec::new(),
        };
        for (node, name, ips) in nodes {
            let intent = name.and_then(|name| Intent::of(planner, name));
            all.intents.extend(intent.map(|intent| (node, intent)));
            for &ip in ips {
                all.owners.entry(ip).or_insert(node);
            }
            let tunnels: Vec<&'static str> = name
                .and_then(|name| planner.devices(name))
                .into_iter()
                .flatten()
                .map(|device| device.tunnel.name())
                .collect();
            for family in [Family::Ipv4, Family::Ipv6] {
                let outside = Place::Underlay(family);
                for inside in [Place::Host(node), Place::Pods(node)] {
                    all.join(inside, outside);
                    all.join(outside, inside);
                }
                for &tunnel in tunnels
                    .iter()
                    .filter(|name| family_of_tunnel(name) == family)
                {
                    let here = Place::Tunnel(node, tunnel);
                    for (from, to) in [
                        (Place::Pods(node), here),
                        (here, Place::Pods(node)),
                        (here, outside),
                        (outside, here),
                    ] {
                        all.join(from, to);
                    }
                    for &other in tunnels
                        .iter()
                        .filter(|&&name| name != tunnel && family_of_tunnel(name) == family)
                    {
                        all.join(here, Place::Tunnel(node, other));
                    }
                }
            }
        }
        all.covered = vec![false; all.graph.edge_count()];
        all
    }

    fn vertex(&mut self, place: Place) -> NodeIndex {
        if let Some(&at) = self.index.get(&place) {
            return at;
        }
        let at = self.graph.add_node(place);
        self.index.insert(place, at);
        at
    }

    fn join(&mut self, from: Place, to: Place) {
        if !self.edges.contains_key(&(from, to)) {
            let (src, dst) = (self.vertex(from), self.vertex(to));
            let edge = self.graph.add_edge(src, dst, ());
            self.edges.insert((from, to), edge);
        }
    }

    /// The node that has an underlay address.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<NodeRef> {
        self.owners.get(&ip).copied()
    }

    /// The way that intent gives a packet from `src` to `ip`, which is an address of `dst` or of its pods.
    #[must_use]
    pub fn way(&self, src: NodeRef, dst: NodeRef, layer: Layer, ip: IpAddr) -> Way {
        let family = Family::of(ip);
        let mut way = Way::default();
        way.parts.push((src, Part::Node));
        if layer == Layer::Host {
            way.parts.push((dst, Part::Node));
            self.step(&mut way, Place::Host(src), Place::Underlay(family));
            self.step(&mut way, Place::Underlay(family), Place::Host(dst));
            way.arrives = true;
            return way;
        }
        way.parts.push((src, Part::Forward(family)));
        let mut at = Place::Pods(src);
        let mut here = src;
        // Longer than any way that a plan makes, so that a plan with a loop ends too.
        for _ in 0..8 {
            let Some(intent) = self.intents.get(&here) else {
                return way;
            };
            let route = self.planner.route_to(&intent.view, ip);
            let Some(Row::Route { tunnel, dst, via }) = route else {
                break;
            };
            // Of several next hops the first stands for all: which one a flow takes the kernel decides.
            let (prefix, link, via) = (dst, tunnel.name(), via.first());
            way.parts.push((here, Part::Rule(family)));
            way.parts.push((here, Part::Route(prefix)));
            way.parts.push((here, Part::Link(link)));
            way.parts.push((here, Part::Neighbour(link, via)));
            let Some(peer) = intent.peer(&self.planner, tunnel, via) else {
                return way;
            };
            way.parts.push((here, Part::Fdb(link, peer)));
            let Some(next) = self.owner(peer) else {
                return way;
            };
            way.tunnels.push((here, next, link));
            let out = Place::Tunnel(here, link);
            let arrived = Place::Tunnel(next, link);
            self.step(&mut way, at, out);
            self.step(&mut way, out, Place::Underlay(family));
            self.step(&mut way, Place::Underlay(family), arrived);
            way.parts.push((next, Part::Node));
            way.parts.push((next, Part::Link(link)));
            way.parts.push((next, Part::Forward(family)));
            (at, here) = (arrived, next);
        }
        if here == dst {
            self.step(&mut way, at, Place::Pods(dst));
        } else {
            // The rest is the cluster's own pod network, which leaves by the underlay.
            if at != Place::Pods(here) {
                self.step(&mut way, at, Place::Pods(here));
            }
            self.step(&mut way, Place::Pods(here), Place::Underlay(family));
            self.step(&mut way, Place::Underlay(family), Place::Pods(dst));
            way.parts.push((dst, Part::Node));
            way.parts.push((dst, Part::Lower(family)));
            way.parts.push((dst, Part::Forward(family)));
        }
        way.arrives = here.cluster == dst.cluster;
        way
    }

    fn step(&self, way: &mut Way, from: Place, to: Place) {
        way.edges.extend(self.edges.get(&(from, to)));
    }

    /// Marks the shared parts of a way as carrying packets.
    pub fn cover(&mut self, way: &Way) {
        for edge in &way.edges {
            self.covered[edge.index()] = true;
        }
    }

    /// Whether every shared part of a way carries packets.
    #[must_use]
    pub fn is_covered(&self, way: &Way) -> bool {
        way.edges.iter().all(|edge| self.covered[edge.index()])
    }

    /// Whether an edge carries packets.
    #[must_use]
    pub fn carried(&self, edge: EdgeIndex) -> bool {
        self.covered[edge.index()]
    }

    /// Whether an edge has an end in a cluster.
    #[must_use]
    pub fn touches(&self, edge: EdgeIndex, cluster: usize) -> bool {
        let ends = self.graph.edge_endpoints(edge);
        ends.is_some_and(|(from, to)| {
            [from, to]
                .into_iter()
                .any(|at| self.graph[at].cluster() == Some(cluster))
        })
    }

    /// Whether packets of this run went in and out of a place.
    #[must_use]
    pub fn carries(&self, place: Place) -> (bool, bool) {
        let Some(&at) = self.index.get(&place) else {
            return (false, false);
        };
        let carried = |direction| {
            self.graph
                .edges_directed(at, direction)
                .any(|edge| self.covered[edge.id().index()])
        };
        (carried(Direction::Incoming), carried(Direction::Outgoing))
    }
}

impl Intent {
    fn of(planner: &Planner, name: &str) -> Option<Self> {
        let mut intent = Self {
            view: planner.view(name)?,
            neighbours: HashMap::new(),
            unicast: HashMap::new(),
        };
        for row in planner.own_rows(name)? {
            match row {
                Row::Neighbour { tunnel, ip, mac } => {
                    intent.neighbours.insert((tunnel, ip), mac);
                }
                Row::Fdb { tunnel, mac, dst } if !mac.is_zero() => {
                    intent.unicast.insert((tunnel, mac), dst);
                }
                Row::Fdb { .. } | Row::Nat(_) | Row::Route { .. } => {}
            }
        }
        Some(intent)
    }

    /// The underlay address behind a next hop.
    fn peer(&self, planner: &Planner, tunnel: Tunnel, via: IpAddr) -> Option<IpAddr> {
        let own = self.neighbours.get(&(tunnel, via)).copied();
        let mac = own.or_else(|| match planner.neighbour_at(&self.view, via)? {
            Row::Neighbour {
                tunnel: at, mac, ..
            } if at == tunnel => Some(mac),
            _ => None,
        })?;
        let own = self.unicast.get(&(tunnel, mac)).copied();
        own.or_else(
            || match planner.unicast_at(&self.view, tunnel.family(), mac)? {
                Row::Fdb {
                    tunnel: at, dst, ..
                } if at == tunnel => Some(dst),
                _ => None,
            },
        )
    }
}
