//! The rows of all bundles at once, and where a node holds another row than all of them together: what sums of sums are made of.

use ipnet::IpNet;

use super::bundle::PeerKey;
use super::rows::{Via, peer_row, route_of};
use super::slots::Holders;
use super::{Planner, Row, View};
use crate::state::Family;

impl Planner {
    /// The route to every prefix of a family as the preferred bundle offers it, through whom `via` says.
    pub(crate) fn preferred_routes(&self, family: Family, via: Via) -> impl Iterator<Item = Row> {
        let exports = self.slots.routes.values().filter_map(|holders| {
            let first = holders.as_slice().first()?;
            first.export()
        });
        exports
            .filter(move |export| export.family() == family)
            .map(move |export| route_of(export, via))
    }

    /// The row about a peer under every key of a family as the preferred bundle offers it.
    pub(crate) fn preferred_peers(&self, family: Family) -> impl Iterator<Item = Row> {
        let peers = self.slots.peers_of(family).iter();
        peers.filter_map(|(key, holders)| preferred_peer(*key, holders))
    }

    /// The prefixes of all bundles that meet one of the node's own cluster.
    pub(crate) fn shadowed_prefixes(&self, view: &View) -> impl Iterator<Item = IpNet> {
        let own = view.shadow().iter();
        own.flat_map(|net| self.slots.meeting(net).map(|(net, _)| *net))
    }

    /// The prefixes that a cluster exports.
    pub(crate) fn exported_prefixes(&self, cluster: &str) -> impl Iterator<Item = IpNet> {
        let bundle = self.bundle(cluster);
        let exports = bundle.into_iter().flat_map(|bundle| &bundle.exports);
        exports.map(|export| export.dst)
    }

    /// The preferred route to a prefix, as it were for the node, and the one that this holds. None where nobody exports the prefix, or
    /// the node has no route of its family.
    pub(crate) fn route_slot(&self, view: &View, dst: IpNet) -> Option<(Row, Option<Row>)> {
        let holders = self.slots.routes.get(&dst)?;
        let export = holders.as_slice().first()?.export()?;
        let preferred = route_of(export, view.via(export.family())?);
        Some((preferred, view.route_of(holders)))
    }

    /// The preferred rows of a family under the keys of the node's own tunnel end, each with the one that the node holds in its place.
    pub(crate) fn other_peers(
        &self,
        view: &View,
        family: Family,
    ) -> impl Iterator<Item = (Row, Option<Row>)> {
        let own = self.member(view.node());
        let end = own.and_then(|(_, node)| node.bridge.get(family));
        let keys = end.into_iter().flat_map(|end| end.keys());
        keys.filter_map(move |key| {
            let holders = self.slots.peers_of(family).get(&key)?;
            Some((preferred_peer(key, holders)?, view.peer_of(key, holders)))
        })
    }
}

fn preferred_peer(key: PeerKey, holders: &Holders) -> Option<Row> {
    let first = holders.as_slice().first()?;
    Some(peer_row(&first.vtep()?.end, key))
}
