//! The rows that the bundles give a node, one at a time by key.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bundle::PeerKey;
use super::{Planner, Row, View};
use crate::mac::Mac;
use crate::state::Family;

impl Planner {
    /// The lengths of all prefixes of a family that somebody exports, the longest first.
    pub(crate) fn lengths(&self, family: Family) -> impl Iterator<Item = u8> {
        self.slots.lengths(family)
    }

    /// The route of a node to exactly a prefix without host bits.
    pub(crate) fn route_at(&self, view: &View, dst: IpNet) -> Option<Row> {
        view.route_of(self.slots.routes.get(&dst)?)
    }

    /// The neighbour of a node that has an overlay address.
    pub(crate) fn neighbour_at(&self, view: &View, ip: IpAddr) -> Option<Row> {
        self.peer_at(view, Family::of(ip), PeerKey::Neighbour(ip))
    }

    /// The forwarding row of a node for the MAC of a peer.
    pub(crate) fn unicast_at(&self, view: &View, family: Family, mac: Mac) -> Option<Row> {
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
