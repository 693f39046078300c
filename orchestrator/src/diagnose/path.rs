//! The way of one packet and of its answer: hop by hop, as the plan has it and as the nodes' tables have it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use datapath::diff::diff;
use datapath::memory::MemoryKernel;
use datapath::printable::Printable;
use datapath::reconcile::Kernel as _;
use datapath::state::{Family, NodeState, TABLE_LOCAL};
use datapath::walk::{End, Packet, Walk, World, round_trip};
use floater::wire::Layer;
use serde::Serialize;

use super::intent::Intended;
use super::scope::Scope;
use super::walks::{Walks, pod_link};
use crate::evidence::{Gathered, NodeRef};
use crate::probe_plan::{What, target_from, target_of};

/// How an end is written.
const FORMS: &str = "an end is CLUSTER, CLUSTER/NODE, CLUSTER/NODE/POD or an address";

/// One end of a path, as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address of a node or of a pod.
    Address(IpAddr),
    /// The pods of a cluster's first node; its hosts where it runs no floater in a pod.
    Cluster(String),
    /// A node's own network.
    Node(String, String),
    /// The floater's pod on a node, by cluster, node and name.
    Pod(String, String, String),
}

impl Place {
    /// The cluster that it names.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Cluster(cluster) | Self::Node(cluster, _) | Self::Pod(cluster, _, _) => {
                Some(cluster)
            }
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address(ip));
        }
        let words: Vec<&str> = text.split('/').collect();
        if words.iter().any(|word| word.is_empty()) {
            return Err(FORMS.to_owned());
        }
        let owned = |word: &str| word.to_owned();
        match words[..] {
            [cluster] => Ok(Self::Cluster(owned(cluster))),
            [cluster, node] => Ok(Self::Node(owned(cluster), owned(node))),
            [cluster, node, pod] => Ok(Self::Pod(owned(cluster), owned(node), owned(pod))),
            _ => Err(FORMS.to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Cluster(cluster) => f.write_str(cluster),
            Self::Node(cluster, node) => write!(f, "{cluster}/{node}"),
            Self::Pod(cluster, node, pod) => write!(f, "{cluster}/{node}/{pod}"),
        }
    }
}

/// What was asked, and what is known of it.
#[derive(Debug, Clone, Serialize)]
pub struct Traced {
    /// The version of this form: `floater.path/v1`.
    pub schema: &'static str,
    /// Where packets begin: `CLUSTER/NODE`, and the layer.
    pub src: Site,
    /// Where they should end; none where no node of the inventory has the address.
    pub dst: Option<Site>,
    /// One for each family that both ends have.
    pub paths: Vec<Path>,
    /// What could not be told, and why.
    pub unjudged: Vec<String>,
}

/// A node or its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// Its own network, or that of its pods.
    pub layer: Layer,
}

/// A packet's way in one family.
#[derive(Debug, Clone, Serialize)]
pub struct Path {
    /// The family.
    pub family: Family,
    /// The source address.
    pub src: IpAddr,
    /// The destination address, as the source calls it.
    pub dst: IpAddr,
    /// By the plan of the control plane's objects, over what else the nodes hold.
    pub planned: Trip,
    /// By the tables that were read.
    pub observed: Trip,
    /// Whether both go the same way by the same rows.
    pub as_planned: bool,
    /// Probes of this run from node to node on this layer and in this family; none where it sent none.
    pub probes: Option<Probes>,
}

/// There and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trip {
    /// The packet.
    pub there: Walk,
    /// Its answer, where it arrives.
    pub back: Option<Walk>,
    /// Whether both arrive; none where it ends where nothing was read.
    pub passes: Option<bool>,
}

/// What packets said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Probes {
    /// How many were sent and judged.
    pub sent: u64,
    /// How many were answered by the right one.
    pub received: u64,
}

impl Traced {
    /// Whether every path passes as observed; none where one cannot be told and no other is known to stop.
    #[must_use]
    pub fn passes(&self) -> Option<bool> {
        let each = self.paths.iter().map(|path| path.observed.passes);
        let mut all = Some(!self.paths.is_empty()).filter(|any| *any);
        for one in each {
            match one {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }
}

/// An end that was found.
#[derive(Debug, Clone, Copy)]
struct Found {
    at: NodeRef,
    layer: Layer,
    /// The very address that was asked about; none for that of its family.
    ip: Option<IpAddr>,
}

/// Follows a packet from one place to another.
///
/// # Errors
/// There is no such place, in words.
pub fn trace(
    gathered: &Gathered,
    what: &What,
    (from, to): (&Place, &Place),
) -> Result<Traced, String> {
    let scope = Scope::new(gathered, what);
    let intended = Intended::new(&scope);
    let walks = Walks::new(&scope, &intended);
    let plan = planned_world(&scope, &intended);
    let src = find(&scope, from)?.ok_or_else(|| unknown(from))?;
    let dst = match (find(&scope, to)?, to) {
        (Some(found), _) => Some(found),
        (None, Place::Address(_)) => None,
        (None, _) => return Err(unknown(to)),
    };
    let mut paths = Vec::new();
    let families = [Family::Ipv4, Family::Ipv6].into_iter();
    for family in families.filter(|&family| what.wants_family(family)) {
        let Some((own, other)) = addresses(&scope, src, (dst, to), family) else {
            continue;
        };
        let ends = Ends {
            src,
            dst,
            own,
            other,
        };
        let observed = ends.trip(&scope, walks.world());
        let planned = ends.trip(&scope, &plan);
        paths.push(Path {
            family,
            src: own,
            dst: other,
            as_planned: same(&planned, &observed),
            planned,
            observed,
            probes: dst
                .filter(|dst| dst.layer == src.layer)
                .and_then(|dst| probes(gathered, src, dst, family)),
        });
    }
    if paths.is_empty() {
        return Err(format!("{from} and {to} have no family in common"));
    }
    let site = |found: Found| Site {
        cluster: scope.cluster(found.at.cluster).name.clone(),
        node: scope.node(found.at).name.clone(),
        layer: found.layer,
    };
    Ok(Traced {
        schema: "floater.path/v1",
        src: site(src),
        dst: dst.map(site),
        paths,
        unjudged: scope.unasked(),
    })
}

fn unknown(place: &Place) -> String {
    format!(
        "no node of the inventory has {}",
        Printable::new(&place.to_string())
    )
}

/// The node that a place means; none where no node has the address.
fn find(scope: &Scope<'_>, place: &Place) -> Result<Option<Found>, String> {
    let cluster_of = |name: &str| {
        let mut all = scope.gathered.clusters.iter();
        let at = all.position(|cluster| cluster.name == name);
        at.ok_or_else(|| {
            format!(
                "there is no cluster `{}` in the inventory",
                Printable::new(name)
            )
        })
    };
    let node_of = |cluster: usize, name: &str| {
        let nodes = &scope.cluster(cluster).nodes;
        let node = nodes.iter().position(|node| node.name == name);
        let node = node.ok_or_else(|| {
            let names: Vec<&str> = nodes
                .iter()
                .take(10)
                .map(|node| node.name.as_str())
                .collect();
            format!(
                "{} has no node `{}` that is known (it has {})",
                scope.cluster(cluster).name,
                Printable::new(name),
                names.join(", ")
            )
        })?;
        Ok::<_, String>(NodeRef { cluster, node })
    };
    let found = |at, layer| Found {
        at,
        layer,
        ip: None,
    };
    Ok(Some(match place {
        Place::Cluster(name) => {
            let cluster = cluster_of(name)?;
            let facts = scope.cluster(cluster);
            let has_pod = |node: &usize| !facts.nodes[*node].pod_ips.is_empty();
            let all = 0..facts.nodes.len();
            let node = all.clone().find(has_pod).or(all.clone().next());
            let node = node.ok_or_else(|| {
                let why = facts.unreachable.as_deref().unwrap_or("it has none");
                format!("no node of {} is known: {why}", facts.name)
            })?;
            let layer = if has_pod(&node) {
                Layer::Pod
            } else {
                Layer::Host
            };
            found(NodeRef { cluster, node }, layer)
        }
        Place::Node(cluster, node) => found(node_of(cluster_of(cluster)?, node)?, Layer::Host),
        Place::Pod(cluster, node, pod) => {
            let at = node_of(cluster_of(cluster)?, node)?;
            if scope.node(at).pod_ips.is_empty() {
                return Err(format!(
                    "no address of {}/{} is known; give the address",
                    scope.place(at),
                    Printable::new(pod)
                ));
            }
            found(at, Layer::Pod)
        }
        Place::Address(ip) => match owner(scope, *ip) {
            Some((at, layer)) => Found {
                at,
                layer,
                ip: Some(*ip),
            },
            None => return Ok(None),
        },
    }))
}

/// Who has an address: a node, one of the pods that are known, or a pod that only its node's routes tell of.
fn owner(scope: &Scope<'_>, ip: IpAddr) -> Option<(NodeRef, Layer)> {
    let all = scope.all_nodes();
    let with = |has: &dyn Fn(NodeRef) -> bool| all.iter().copied().find(|&at| has(at));
    let host = || with(&|at| scope.node(at).ips.contains(&ip)).map(|at| (at, Layer::Host));
    let pod = || with(&|at| scope.node(at).pod_ips.contains(&ip)).map(|at| (at, Layer::Pod));
    let routed = || {
        let own = |at: NodeRef| {
            scope
                .node(at)
                .tables
                .as_ref()
                .is_ok_and(|tables| is_routed_to_pod(tables, ip))
        };
        with(&own).map(|at| (at, Layer::Pod))
    };
    host().or_else(pod).or_else(routed)
}

/// Whether a node has the address behind a link of its own, without a router between.
fn is_routed_to_pod(tables: &NodeState, ip: IpAddr) -> bool {
    let routes = tables.routes.iter();
    let best = routes
        .filter(|route| {
            route.table != TABLE_LOCAL && route.dst.contains(&ip) && route.dst.prefix_len() > 0
        })
        .max_by_key(|route| route.dst.prefix_len());
    best.is_some_and(|route| {
        route
            .hops
            .iter()
            .all(|hop| hop.via.is_none() && hop.link != "eth0")
            && pod_link(tables, ip).is_some()
    })
}

/// The addresses of both ends in a family, the destination's as the source calls it.
fn addresses(
    scope: &Scope<'_>,
    src: Found,
    (dst, to): (Option<Found>, &Place),
    family: Family,
) -> Option<(IpAddr, IpAddr)> {
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let own = match src.ip {
        Some(ip) => Some(ip).filter(of_family),
        None => target_of(scope.node(src.at), src.layer, family),
    }?;
    let other = match (dst, to) {
        (_, Place::Address(ip)) => Some(*ip).filter(of_family),
        (Some(dst), _) => {
            let clusters = &scope.gathered.clusters;
            target_from(clusters, src.at, dst.at, dst.layer, family)
        }
        (None, _) => None,
    }?;
    Some((own, other))
}

/// Both ends of a packet in one family.
struct Ends {
    src: Found,
    dst: Option<Found>,
    own: IpAddr,
    other: IpAddr,
}

impl Ends {
    fn trip(&self, scope: &Scope<'_>, world: &World) -> Trip {
        let link = match self.src.layer {
            Layer::Host => None,
            Layer::Pod => {
                let tables = scope.node(self.src.at).tables.as_ref().ok();
                tables.and_then(|tables| pod_link(tables, self.own))
            }
        };
        let packet = Packet::udp(self.own, self.other, floater::wire::PORT);
        let (there, back) = round_trip(world, &scope.place(self.src.at), link, packet);
        let arrives = self.arrives(scope, &there.end, self.dst.map(|dst| dst.at));
        let returns = back
            .as_ref()
            .map(|back| self.arrives(scope, &back.end, Some(self.src.at)));
        let passes = match (arrives, returns) {
            (Some(false), _) | (_, Some(Some(false))) => Some(false),
            (Some(true), Some(Some(true))) => Some(true),
            _ => None,
        };
        Trip {
            there,
            back,
            passes,
        }
    }

    /// Whether a packet ends at a node, or at a pod behind it; none where it ends where nothing is known.
    fn arrives(&self, scope: &Scope<'_>, end: &End, wanted: Option<NodeRef>) -> Option<bool> {
        let wanted = wanted.map(|at| scope.place(at));
        match end {
            End::Stopped { .. } => Some(false),
            End::Delivered { node, .. } => wanted.map(|wanted| *node == wanted),
            // A plan ends where the cluster's own network begins.
            End::Left { node, link, .. } if link.is_empty() => {
                wanted.filter(|wanted| wanted == node).map(|_| true)
            }
            End::Left { node, .. } => wanted.map(|wanted| *node == wanted),
        }
    }
}

/// What every node would be if its agent brought it to the plan; the plan alone where it could not be read.
fn planned_world(scope: &Scope<'_>, intended: &Intended) -> World {
    let mut world = World::new();
    world.assume_underlay(true);
    for at in scope.all_nodes() {
        let name = scope.place(at);
        let observed = intended.observed(scope, at);
        match (intended.desired(scope, at), observed) {
            (Some(desired), Some(observed)) => {
                let changes = diff(&desired, &observed);
                let mut kernel = MemoryKernel::new(observed.into_owned());
                // A row that this kernel refuses stays as it is, which is then told as a difference.
                let _ = kernel.apply(&changes);
                world.insert_from(name, kernel.state());
            }
            (None, Some(observed)) => world.insert_from(name, &observed),
            (_, None) => {
                if let Some((own, layer)) = intended.planned(scope, at) {
                    world.insert_layered(name, &own, layer);
                }
            }
        }
    }
    world
}

/// Whether both are the same way by the same rows, there and back.
fn same(planned: &Trip, observed: &Trip) -> bool {
    let is_same = |planned: &Walk, observed: &Walk| planned.rows().eq(observed.rows());
    is_same(&planned.there, &observed.there)
        && match (&planned.back, &observed.back) {
            (Some(planned), Some(observed)) => is_same(planned, observed),
            (None, None) => true,
            _ => false,
        }
}

/// What came of the run's own probes between these nodes.
fn probes(gathered: &Gathered, src: Found, dst: Found, family: Family) -> Option<Probes> {
    let of_pair = gathered.probes.iter().filter(|probe| {
        (probe.src, probe.dst, probe.layer, probe.family) == (src.at, dst.at, src.layer, family)
    });
    let mut probes = Probes {
        sent: 0,
        received: 0,
    };
    for ask in of_pair.flat_map(|probe| &probe.asks) {
        if let Ok(outcome) = &ask.outcome {
            probes.sent += u64::from(outcome.sent);
            probes.received += u64::from(outcome.received);
        }
    }
    (probes.sent > 0).then_some(probes)
}
