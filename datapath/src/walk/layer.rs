//! The rows of a node that are its plan's, without a copy of them.
//!
//! Every gateway of a fleet has a row for every other one, so that the tables of all nodes are quadratic. Almost all of these rows are as
//! planned: such a node is a small state, which holds all that is its own or differs, over the planner's indexes, which all nodes share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::node::{LinkId, Neighbour};
use super::routes::{NextHop, Route};
use crate::digest::{Differences, Digester};
use crate::mac::Mac;
use crate::nodeconfig::default_metric;
use crate::plan::{Planner, Row, View};
use crate::state::{self, Family, NeighbourState, NodeState, RouteKind};
use crate::tunnel::Tunnel;

/// What the bundles of a plan give one node, but for the rows that are hidden.
///
/// ```
/// use std::sync::Arc;
///
/// use datapath::plan::Planner;
/// use datapath::state::NodeState;
/// use datapath::walk::{End, Layer, Packet, World, walk};
///
/// let fleet = serde_json::from_str(r#"{
///   "clusters": [
///     {"metadata": {"name": "east"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}},
///     {"metadata": {"name": "west"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}}],
///   "clusterNodes": [
///     {"metadata": {"name": "east-n1"}, "spec": {"clusterName": "east", "nodeName": "n1", "ip": "100.64.0.1",
///      "interfaceName": "eth0", "podCIDRs": ["10.20.0.0/24"]}},
///     {"metadata": {"name": "west-n1"}, "spec": {"clusterName": "west", "nodeName": "n1", "ip": "100.64.1.1",
///      "interfaceName": "eth0", "podCIDRs": ["10.21.0.0/24"]}}]
/// }"#)?;
/// let planner = Arc::new(Planner::of(&fleet));
/// let mut world = World::new();
/// world.assume_underlay(true);
/// for (node, ip) in [("east-n1", "100.64.0.1/10"), ("west-n1", "100.64.1.1/10")] {
///     // What an observation of the node lends to its plan.
///     let observed: NodeState = serde_json::from_value(serde_json::json!({
///         "links": [{"name": "eth0", "mac": null, "mtu": 1500, "up": true, "kind": {"kind": "veth"}}],
///         "addresses": [{"link": "eth0", "net": ip}],
///     }))?;
///     let (own, _) = planner.desired_own(node, &observed).expect("it takes part");
///     let layer = Layer::new(&planner, node).expect("it takes part");
///     world.insert_layered(node, &own, layer);
/// }
/// let packet = Packet::udp("10.20.0.9".parse()?, "10.21.0.9".parse()?, 8889);
/// let walk = walk(&world, "east-n1", None, packet);
/// assert!(matches!(&walk.end, End::Left { node, .. } if node == "west-n1"), "{walk}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Layer {
    planner: Arc<Planner>,
    view: View,
    hidden: BTreeSet<Row>,
    /// Whole buckets that are hidden.
    buckets: Option<(Digester, BTreeSet<u32>)>,
}

impl Layer {
    /// All rows of a node; none where it takes no part.
    #[must_use]
    pub fn new(planner: &Arc<Planner>, node: &str) -> Option<Self> {
        Some(Self {
            view: planner.view(node)?,
            planner: planner.clone(),
            hidden: BTreeSet::new(),
            buckets: None,
        })
    }

    /// Without these rows, which the node lacks. A row that is otherwise than planned under the same key need not be hidden: the node's
    /// state has it, and that counts.
    #[must_use]
    pub fn hiding(mut self, rows: impl IntoIterator<Item = Row>) -> Self {
        self.hidden.extend(rows);
        self
    }

    /// A node as it was observed: its state, without what the layer gives, and the layer. None where it takes no part.
    ///
    /// `local` is everything that the digest does not count: links, addresses, rules, settings, other people's rows. The node's own planned
    /// rows and those of the differences are put into it.
    #[must_use]
    pub fn observed(
        planner: &Arc<Planner>,
        node: &str,
        local: NodeState,
        digester: Digester,
        differences: &Differences,
    ) -> Option<(NodeState, Self)> {
        let mut state = local;
        let own = planner.own_rows(node)?;
        for row in digester.laid_over(own.into_iter(), differences) {
            state.put(row);
        }
        let buckets = differences.buckets.keys().copied().collect();
        let layer = Self {
            buckets: Some((digester, buckets)),
            ..Self::new(planner, node)?
        };
        Some((state, layer))
    }

    /// The rows that are not hidden.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.planner
            .shared_rows(&self.view)
            .filter(|row| !self.hides(row))
    }

    /// The state that a node's own makes with the layer: the tables as they would be without one.
    #[must_use]
    pub fn over(&self, own: &NodeState) -> NodeState {
        let mut state = NodeState::default();
        let has = |tunnel: Tunnel| own.links.get(tunnel.name()).is_some();
        for row in self.rows().filter(|row| row.tunnel().is_some_and(has)) {
            state.put(state::Row::from(row));
        }
        for row in own.rows() {
            state.put(row);
        }
        state
    }

    fn hides(&self, row: &Row) -> bool {
        let in_bucket = |(digester, buckets): &(Digester, BTreeSet<u32>)| {
            !buckets.is_empty() && buckets.contains(&digester.bucket_of(*row))
        };
        self.hidden.contains(row) || self.buckets.as_ref().is_some_and(in_bucket)
    }

    fn shown(&self, row: Row) -> Option<Row> {
        (!self.hides(&row)).then_some(row)
    }
}

/// A layer over the links of one node. A tunnel that the node lacks has no rows.
#[derive(Debug)]
pub(super) struct Layered {
    layer: Layer,
    /// The node's links by [`Tunnel::ALL`].
    links: [Option<LinkId>; 4],
}

impl Layered {
    pub(super) fn new(layer: Layer, link_of: impl Fn(&str) -> Option<LinkId>) -> Self {
        Self {
            layer,
            links: Tunnel::ALL.map(|tunnel| link_of(tunnel.name())),
        }
    }

    fn link(&self, tunnel: Tunnel) -> Option<LinkId> {
        let mut links = Tunnel::ALL.into_iter().zip(self.links);
        links.find(|(at, _)| *at == tunnel)?.1
    }

    fn tunnel(&self, link: LinkId) -> Option<Tunnel> {
        let mut links = Tunnel::ALL.into_iter().zip(self.links);
        Some(links.find(|(_, at)| *at == Some(link))?.0)
    }

    /// The routes to an address, the longest prefix first.
    pub(super) fn routes(&self, ip: IpAddr) -> impl Iterator<Item = Route> {
        let lengths = self.layer.planner.lengths(Family::of(ip));
        lengths.filter_map(move |length| {
            let dst = IpNet::new(ip, length).ok()?.trunc();
            self.route(self.layer.planner.route_at(&self.layer.view, dst)?)
        })
    }

    fn route(&self, row: Row) -> Option<Route> {
        let Row::Route { tunnel, dst, via } = self.layer.shown(row)? else {
            return None;
        };
        let link = self.link(tunnel)?;
        let next_hops = via.iter().map(|via| NextHop {
            via: Some(via),
            link,
            dead: false,
        });
        let metric = default_metric(dst);
        Some(Route::new(dst, metric, RouteKind::Unicast, next_hops))
    }

    /// The link of a default route of a family.
    pub(super) fn default_link(&self, family: Family) -> Option<LinkId> {
        let any: IpAddr = match family {
            Family::Ipv4 => [0; 4].into(),
            Family::Ipv6 => [0; 16].into(),
        };
        let dst = IpNet::new(any, 0).ok()?;
        let route = self.route(self.layer.planner.route_at(&self.layer.view, dst)?)?;
        Some(route.next_hops.first()?.link)
    }

    /// The neighbour with an address on a link.
    pub(super) fn neighbour(&self, link: LinkId, ip: IpAddr) -> Option<Neighbour> {
        let tunnel = self.tunnel(link)?;
        let row = self.layer.planner.neighbour_at(&self.layer.view, ip)?;
        match self.layer.shown(row)? {
            Row::Neighbour {
                tunnel: at, mac, ..
            } if at == tunnel => Some(Neighbour {
                mac: Some(mac),
                state: NeighbourState::Permanent,
            }),
            _ => None,
        }
    }

    /// The remote ends behind a link for a MAC.
    pub(super) fn remotes(&self, link: LinkId, mac: Mac) -> Vec<IpAddr> {
        let Some(tunnel) = self.tunnel(link).filter(|tunnel| tunnel.is_bridge()) else {
            return Vec::new();
        };
        let Layer { planner, view, .. } = &self.layer;
        let family = tunnel.family();
        let destination = |row: Row| match self.layer.shown(row)? {
            Row::Fdb { dst, .. } => Some(dst),
            _ => None,
        };
        if mac.is_zero() {
            return planner
                .floods(view, family)
                .filter_map(destination)
                .collect();
        }
        let row = planner.unicast_at(view, family, mac);
        row.and_then(destination).into_iter().collect()
    }
}
