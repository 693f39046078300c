//! The rows of one node, and who sees which.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::bundle::{Bundle, Export, PeerKey};
use super::family::{FAMILIES, PerFamily};
use super::hops::Hops;
use super::members::{Class, End, Member, MemberCluster};
use super::nat::Translation;
use super::shadow::Shadow;
use super::slots::{Holders, Slots};
use crate::mac::Mac;
use crate::nodeconfig;
use crate::state::{self, Family, Neighbour, NeighbourState};
use crate::tunnel::Tunnel;

/// A row of a node on one of its tunnels. It is a row of [`state`] without what the planner always writes alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// A forwarding row.
    Fdb {
        /// The link.
        tunnel: Tunnel,
        /// The inner destination; [`Mac::ZERO`] for a flood row.
        mac: Mac,
        /// The remote VTEP.
        dst: IpAddr,
    },
    /// An address translation.
    Nat(Translation),
    /// A neighbour.
    Neighbour {
        /// The link.
        tunnel: Tunnel,
        /// The overlay address.
        ip: IpAddr,
        /// What it resolves to.
        mac: Mac,
    },
    /// A route of [`nodeconfig::TABLE`].
    Route {
        /// The link.
        tunnel: Tunnel,
        /// The destination, without host bits.
        dst: IpNet,
        /// The next hops' overlay addresses.
        via: Hops,
    },
}

impl From<Row> for state::Row {
    fn from(row: Row) -> Self {
        match row {
            Row::Fdb { tunnel, mac, dst } => Self::Fdb(state::Fdb {
                link: tunnel.name().to_owned(),
                mac,
                dst: Some(dst),
                permanent: true,
            }),
            Row::Nat(translation) => Self::Nat(translation.into()),
            Row::Neighbour { tunnel, ip, mac } => Self::Neighbour(Neighbour {
                link: tunnel.name().to_owned(),
                ip,
                mac: Some(mac),
                state: NeighbourState::Permanent,
            }),
            Row::Route { tunnel, dst, via } => {
                Self::Route(nodeconfig::route_row(dst, via, tunnel.name()))
            }
        }
    }
}

impl Row {
    /// The tunnel that the row is on; none for a translation, which needs no tunnel to be there.
    #[must_use]
    pub fn tunnel(&self) -> Option<Tunnel> {
        match self {
            Self::Fdb { tunnel, .. }
            | Self::Neighbour { tunnel, .. }
            | Self::Route { tunnel, .. } => Some(*tunnel),
            Self::Nat(_) => None,
        }
    }
}

/// A tunnel that a node should have. It makes a link, an address, a rule and settings, which also depend on the underlay link:
/// [`Planner::desired`](super::Planner::desired).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device<'p> {
    /// Which one.
    pub tunnel: Tunnel,
    /// The overlay address with the length of its pool.
    pub net: IpNet,
    /// The Ethernet address.
    pub mac: Mac,
    /// The underlay link's name.
    pub lower: &'p str,
}

/// Who looks at the bundles: everything that decides which of their rows a node holds. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    cluster: Arc<str>,
    node: Arc<str>,
    class: Class,
    shadow: Arc<Shadow>,
    /// Through whom the routes of a family go; none where the node has none of it.
    via: PerFamily<Option<Via>>,
    /// Whether the node is in the mesh of a family.
    mesh: PerFamily<bool>,
}

/// The next hop of a route to another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// The node that offers the prefix, on vx-bridge.
    Exporter,
    /// The cluster's own gateways, on vx-local.
    Gateway(Hops),
}

impl View {
    pub(super) fn of(cluster: &MemberCluster, node: &Member) -> Self {
        let via = |family| match node.class {
            Class::Endpoint | Class::Gateway => {
                node.bridge.get(family)?;
                Some(Via::Exporter)
            }
            Class::Internal | Class::Standby => {
                node.local.get(family)?;
                cluster.own_gateways(family).map(Via::Gateway)
            }
        };
        Self {
            cluster: cluster.name.clone(),
            node: node.name.clone(),
            class: node.class,
            shadow: cluster.shadow.clone(),
            via: PerFamily::of(via),
            mesh: PerFamily::of(|family| node.bridge.get(family).is_some()),
        }
    }

    /// The node's cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The ClusterNode's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What the node is to the rest of the fleet.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn via(&self, family: Family) -> Option<Via> {
        *self.via.get(family)
    }

    pub(crate) fn is_in_mesh(&self, family: Family) -> bool {
        *self.mesh.get(family)
    }

    pub(super) fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// The route by which the node reaches an export of another cluster.
    pub(super) fn route(&self, export: &Export) -> Option<Row> {
        let via = self.via(export.family())?;
        (!self.shadow.touches(export.dst)).then(|| route_of(export, via))
    }

    /// The route to a prefix, of all who offer it.
    pub(super) fn route_of(&self, holders: &Holders) -> Option<Row> {
        let mut holders = holders.as_slice().iter();
        let holder = holders.find(|holder| holder.cluster() != &*self.cluster)?;
        self.route(holder.export()?)
    }

    /// The row about a peer under one key, of all who offer it.
    pub(super) fn peer_of(&self, key: PeerKey, holders: &Holders) -> Option<Row> {
        let mut ends = holders
            .as_slice()
            .iter()
            .filter_map(super::slots::Holder::vtep);
        let peer = ends.find(|vtep| vtep.node != self.node)?;
        self.is_in_mesh(peer.end.tunnel.family())
            .then(|| peer_row(&peer.end, key))
    }

    /// Every row that the bundles of the fleet give the node: routes by prefix, then peers, each key once.
    pub(super) fn shared(self, slots: &Slots) -> impl Iterator<Item = Row> + use<'_> {
        let view = Arc::new(self);
        let same = view.clone();
        let routes = slots.routes.values();
        let routes = routes.filter_map(move |holders| same.route_of(holders));
        let peers = FAMILIES.into_iter().flat_map(move |family| {
            let view = view.clone();
            let peers = slots.peers_of(family).iter();
            peers.filter_map(move |(key, holders)| view.peer_of(*key, holders))
        });
        routes.chain(peers)
    }
}

/// A route to an export.
pub(super) fn route_of(export: &Export, via: Via) -> Row {
    let family = export.family();
    match via {
        Via::Exporter => Row::Route {
            tunnel: Tunnel::bridge(family),
            dst: export.dst,
            via: export.via,
        },
        Via::Gateway(via) => Row::Route {
            tunnel: Tunnel::local(family),
            dst: export.dst,
            via,
        },
    }
}

/// One of the rows by which a peer's end is known.
pub(super) fn peer_row(end: &End, key: PeerKey) -> Row {
    let tunnel = end.tunnel;
    match key {
        PeerKey::Flood(dst) => Row::Fdb {
            tunnel,
            mac: Mac::ZERO,
            dst,
        },
        PeerKey::Neighbour(ip) => Row::Neighbour {
            tunnel,
            ip,
            mac: end.mac,
        },
        PeerKey::Unicast(mac) => Row::Fdb {
            tunnel,
            mac,
            dst: end.underlay,
        },
    }
}

impl Bundle {
    /// The rows that this bundle gives a node, as if no other bundle offered a row under the same key.
    ///
    /// A cluster's own bundle gives its nodes their peers in the mesh and no route.
    pub fn rows<'s>(&'s self, view: &'s View) -> impl Iterator<Item = Row> + 's {
        let is_own = self.cluster == view.cluster;
        let exports = self.exports.iter().filter(move |_| !is_own);
        let peers = self
            .vteps
            .iter()
            .filter(|vtep| vtep.node != view.node && view.is_in_mesh(vtep.end.tunnel.family()));
        let peers = peers.flat_map(|vtep| {
            let keys = vtep.end.keys();
            keys.map(|key| peer_row(&vtep.end, key))
        });
        exports.filter_map(|export| view.route(export)).chain(peers)
    }
}

/// What a node holds of its own cluster alone: its peers on vx-local and its translations. Sorted, each key once.
pub(super) fn own(cluster: &MemberCluster, node: &Member) -> Vec<Row> {
    let translations = cluster.translations.rows_of(node.class);
    let mut rows: Vec<Row> = translations.map(|row| Row::Nat(row.0)).collect();
    let mut peers: Vec<(PeerKey, &End)> = Vec::new();
    for peer in cluster.local_peers(node) {
        for end in peer.local.ends() {
            if node.local.get(end.tunnel.family()).is_some() {
                peers.extend(end.keys().map(|key| (key, end)));
            }
        }
    }
    // Of two under one key the one that comes first in a NodeConfig is first here, as in `slots`.
    peers.sort_by(|(key, end), (other_key, other)| {
        (end.tunnel, key)
            .cmp(&(other.tunnel, other_key))
            .then_with(|| match key {
                PeerKey::Flood(_) => std::cmp::Ordering::Equal,
                PeerKey::Neighbour(_) => other.mac.cmp(&end.mac),
                PeerKey::Unicast(_) => {
                    super::order::text(&other.underlay_text(), &end.underlay_text())
                }
            })
    });
    peers.dedup_by(|later, first| (later.1.tunnel, later.0) == (first.1.tunnel, first.0));
    rows.extend(peers.into_iter().map(|(key, end)| peer_row(end, key)));
    rows.sort();
    rows.dedup();
    rows
}
