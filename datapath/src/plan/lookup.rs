//! The rows that the bundles give a node, one at a time by key.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bundle::{Pair, PeerKey};
use super::{Class, Planner, Row, View};
use crate::mac::Mac;
use crate::state::{self, Family};
use crate::tunnel::Tunnel;

/// An end of a tunnel, by its overlay address.
type End = (Tunnel, IpAddr);

/// The ends that a route leads through; none where it leads elsewhere, too, or nowhere.
fn ends(route: &state::Route) -> Option<Vec<End>> {
    let end = |hop: &state::NextHop| Some((Tunnel::named(&hop.link)?, hop.via?));
    let ends: Option<Vec<End>> = route.hops.iter().map(end).collect();
    ends.filter(|ends| !ends.is_empty())
}

impl Planner {
    /// Whether a node's route leads through those who stand in for the gateways that it is planned through, as it may while these are dead: its standby, or
    /// the others of several. Also whether a standby itself has the route that it has in its gateway's place.
    #[must_use]
    pub fn is_detour(&self, node: &str, planned: &state::Route, observed: &state::Route) -> bool {
        let Some((cluster, member)) = self.member(node) else {
            return false;
        };
        let (Some(planned_ends), Some(used)) = (ends(planned), ends(observed)) else {
            return false;
        };
        let own = Pair::of_cluster(cluster, |gateway| &gateway.local);
        if self.stand_in(&own, &planned_ends, &used) {
            return planned_ends != used;
        }
        let export = self.slots.routes.get(&observed.dst).and_then(|holders| {
            let mut holders = holders.as_slice().iter();
            let holder = holders.find(|holder| holder.cluster() != &*cluster.name)?;
            holder.export()
        });
        let Some(export) = export.filter(|_| member.class == Class::Standby) else {
            return false;
        };
        let tunnel = Tunnel::bridge(export.family());
        let direct: Vec<End> = export.via.iter().map(|ip| (tunnel, ip)).collect();
        self.stand_in(&[], &direct, &used)
    }

    /// Whether packets that are planned through these are used to reach everybody through those who are used, where each who is left out has somebody who
    /// stands in for it.
    fn stand_in(&self, own: &[Pair], planned: &[End], used: &[End]) -> bool {
        let pair_of = |end: &End| {
            let is_it = |pair: &&Pair| (pair.tunnel, pair.active) == *end;
            let found = own.iter().find(is_it);
            found.or_else(|| {
                let mut bundles = self.bundles();
                bundles.find_map(|bundle| bundle.gateways.iter().find(is_it))
            })
        };
        let standby_of = |end: &End| Some((end.0, pair_of(end)?.standby?));
        let is_replaced = |end: &End| standby_of(end).is_some_and(|end| used.contains(&end));
        let is_known = |end: &End| {
            planned.contains(end) || planned.iter().any(|one| standby_of(one) == Some(*end))
        };
        planned
            .iter()
            .all(|end| used.contains(end) || is_replaced(end))
            && used.iter().all(is_known)
    }

    /// The lengths of all prefixes of a family that somebody exports, the longest first.
    pub(crate) fn lengths(&self, family: Family) -> impl Iterator<Item = u8> {
        self.slots.lengths(family)
    }

    /// The route of a node to exactly a prefix without host bits.
    pub(crate) fn route_at(&self, view: &View, dst: IpNet) -> Option<Row> {
        view.route_of(self.slots.routes.get(&dst)?)
    }

    /// The route by which a node reaches an address through the bundles: that of the longest prefix.
    #[must_use]
    pub fn route_to(&self, view: &View, ip: IpAddr) -> Option<Row> {
        self.lengths(Family::of(ip))
            .filter_map(|length| IpNet::new(ip, length).ok())
            .find_map(|net| self.route_at(view, net.trunc()))
    }

    /// The neighbour of a node that has an overlay address, from the bundles.
    #[must_use]
    pub fn neighbour_at(&self, view: &View, ip: IpAddr) -> Option<Row> {
        self.peer_at(view, Family::of(ip), PeerKey::Neighbour(ip))
    }

    /// The forwarding row of a node for the MAC of a peer, from the bundles.
    #[must_use]
    pub fn unicast_at(&self, view: &View, family: Family, mac: Mac) -> Option<Row> {
        self.peer_at(view, family, PeerKey::Unicast(mac))
    }

    /// The flood rows of a node.
    pub(crate) fn floods(&self, view: &View, family: Family) -> impl Iterator<Item = Row> {
        // They are the first of the keys.
        let peers = self.slots.peers_of(family).iter();
        peers
            .take_while(|(key, _)| matches!(key, PeerKey::Flood(_)))
            .filter_map(move |(key, holders)| view.peer_of(*key, holders))
    }

    fn peer_at(&self, view: &View, family: Family, key: PeerKey) -> Option<Row> {
        view.peer_of(key, self.slots.peers_of(family).get(&key)?)
    }
}
