//! The rows that the bundles give a node, one at a time by key.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bundle::{Pair, PeerKey};
use super::{Class, Planner, Row, View};
use crate::mac::Mac;
use crate::state::{self, Family};
use crate::tunnel::Tunnel;

impl Planner {
    /// Whether a node's route leads through the standby of the gateway that it is planned through, as it may while that is dead. Also whether a standby itself
    /// has the route that it has in its gateway's place.
    #[must_use]
    pub fn is_detour(&self, node: &str, planned: &state::Route, observed: &state::Route) -> bool {
        let hop = |route: &state::Route| match route.hops.as_slice() {
            [hop] => Some((hop.link.clone(), hop.via?)),
            _ => None,
        };
        let (Some(planned_hop), Some(observed_hop)) = (hop(planned), hop(observed)) else {
            return false;
        };
        let Some((cluster, member)) = self.member(node) else {
            return false;
        };
        let own = match (cluster.gateway(), cluster.standby()) {
            (Some(gateway), Some(standby)) => Pair::of(&gateway.local, Some(&standby.local)),
            _ => Vec::new(),
        };
        let stands_in = |link: &str, active: IpAddr, standby: IpAddr| {
            let is_it = |pair: &Pair| {
                let ends = (pair.active, pair.standby) == (active, Some(standby));
                ends && pair.tunnel.name() == link
            };
            own.iter().any(is_it)
                || self
                    .bundles()
                    .any(|bundle| bundle.gateways.iter().any(is_it))
        };
        if planned_hop.0 == observed_hop.0 {
            return stands_in(&planned_hop.0, planned_hop.1, observed_hop.1);
        }
        let exporter = self.slots.routes.get(&observed.dst).and_then(|holders| {
            let mut holders = holders.as_slice().iter();
            let holder = holders.find(|holder| holder.cluster() != &*cluster.name)?;
            Some(holder.export()?.via)
        });
        let Some(exporter) = exporter.filter(|_| member.class == Class::Standby) else {
            return false;
        };
        let family = Family::of(exporter);
        let is_direct = Tunnel::bridge(family).name() == observed_hop.0;
        let is_used = observed_hop.1 == exporter;
        is_direct && (is_used || stands_in(&observed_hop.0, exporter, observed_hop.1))
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
