//! Every row that some bundle offers, under the key by which a kernel knows it, with all who offer it.
//!
//! Two clusters that export one prefix, or two nodes with one overlay address, are a mistake that [`check`](super::check) reports; a
//! kernel still holds one row for the key. It is the one that comes first in a NodeConfig, because that is the one that
//! [`nodeconfig::desired`](crate::nodeconfig::desired) keeps. Holders are in that order, so that the row of a node is the first one
//! that it may hold.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use ipnet::IpNet;

use super::bundle::{Bundle, Export, PeerKey, Vtep};
use super::family::PerFamily;
use super::order;
use crate::state::Family;

/// One row of one bundle, by its place among the bundle's exports or VTEPs.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    bundle: Arc<Bundle>,
    at: usize,
}

/// All who offer a row under one key, at least one, the preferred one first.
#[derive(Debug, Clone)]
pub(super) enum Holders {
    One(Holder),
    Many(Vec<Holder>),
}

/// All rows of all bundles by their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    pub(super) routes: BTreeMap<IpNet, Holders>,
    /// How many prefixes of each length there are.
    lengths: PerFamily<BTreeMap<u8, usize>>,
    pub(super) peers: PerFamily<BTreeMap<PeerKey, Holders>>,
}

impl Holder {
    pub(super) fn cluster(&self) -> &str {
        self.bundle.cluster()
    }

    /// The export, where this is one.
    pub(super) fn export(&self) -> Option<&Export> {
        self.bundle.exports.get(self.at)
    }

    /// The VTEP, where this is one.
    pub(super) fn vtep(&self) -> Option<&Vtep> {
        self.bundle.vteps.get(self.at)
    }

    fn is(&self, bundle: &Arc<Bundle>) -> bool {
        Arc::ptr_eq(&self.bundle, bundle)
    }
}

impl Holders {
    pub(super) fn as_slice(&self) -> &[Holder] {
        match self {
            Self::One(holder) => std::slice::from_ref(holder),
            Self::Many(holders) => holders,
        }
    }

    fn insert(&mut self, holder: Holder, order: impl Fn(&Holder, &Holder) -> Ordering) {
        if let Self::One(first) = self {
            *self = Self::Many(vec![first.clone()]);
        }
        if let Self::Many(holders) = self {
            let at = holders.partition_point(|held| order(held, &holder).is_le());
            holders.insert(at, holder);
        }
    }

    /// What is left without a bundle's rows.
    fn without(&self, bundle: &Arc<Bundle>) -> Option<Self> {
        let mut left = self.as_slice().iter().filter(|holder| !holder.is(bundle));
        let first = left.next()?.clone();
        let others: Vec<_> = left.cloned().collect();
        Some(if others.is_empty() {
            Self::One(first)
        } else {
            Self::Many([vec![first], others].concat())
        })
    }
}

impl Slots {
    /// Puts a bundle's rows in.
    pub(super) fn add(&mut self, bundle: &Arc<Bundle>) {
        let holder = |at| Holder {
            bundle: bundle.clone(),
            at,
        };
        for (at, export) in bundle.exports.iter().enumerate() {
            if put(&mut self.routes, export.dst, holder(at), prefer_export) {
                let lengths = self.lengths.get_mut(export.family());
                *lengths.entry(export.dst.prefix_len()).or_default() += 1;
            }
        }
        for (at, vtep) in bundle.vteps.iter().enumerate() {
            let peers = self.peers.get_mut(vtep.end.tunnel.family());
            for key in vtep.end.keys() {
                put(peers, key, holder(at), |a, b| prefer_peer(key, a, b));
            }
        }
    }

    /// Takes a bundle's rows out.
    pub(super) fn remove(&mut self, bundle: &Arc<Bundle>) {
        for export in &bundle.exports {
            if take(&mut self.routes, export.dst, bundle) {
                let lengths = self.lengths.get_mut(export.family());
                if let Entry::Occupied(mut count) = lengths.entry(export.dst.prefix_len()) {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
        }
        for vtep in &bundle.vteps {
            let peers = self.peers.get_mut(vtep.end.tunnel.family());
            for key in vtep.end.keys() {
                take(peers, key, bundle);
            }
        }
    }

    /// Whether another row is offered under a key of one of a bundle's rows, by another bundle or by the same.
    pub(super) fn is_contested(&self, bundle: &Bundle) -> bool {
        let others = |holders: &Holders| holders.as_slice().len() > 1;
        let routes = bundle.exports.iter();
        let mut routes = routes.filter_map(|export| self.routes.get(&export.dst));
        let mut peers = bundle.vteps.iter().flat_map(|vtep| {
            let peers = self.peers.get(vtep.end.tunnel.family());
            vtep.end.keys().filter_map(|key| peers.get(&key))
        });
        routes.any(others) || peers.any(others)
    }

    /// The prefixes of a family that meet one: those within it and those that contain it.
    pub(super) fn meeting(&self, net: IpNet) -> impl Iterator<Item = (&IpNet, &Holders)> {
        let net = net.trunc();
        let wider = (0..net.prefix_len()).filter_map(move |length| {
            let wide = IpNet::new(net.addr(), length).ok()?.trunc();
            self.routes.get_key_value(&wide)
        });
        let last = IpNet::from(net.broadcast());
        // From its first address on there are also wider ones that begin with it.
        let within = self
            .routes
            .range(net..=last)
            .filter(move |(other, _)| net.contains(*other));
        wider.chain(within)
    }

    /// The lengths of a family's prefixes, the longest first.
    pub(super) fn lengths(&self, family: Family) -> impl Iterator<Item = u8> {
        self.lengths.get(family).keys().rev().copied()
    }

    /// The rows of a family's peers.
    pub(super) fn peers_of(&self, family: Family) -> &BTreeMap<PeerKey, Holders> {
        self.peers.get(family)
    }
}

/// Puts a row in; whether it is the first under its key.
fn put<K: Ord>(
    table: &mut BTreeMap<K, Holders>,
    key: K,
    holder: Holder,
    order: impl Fn(&Holder, &Holder) -> Ordering,
) -> bool {
    match table.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(Holders::One(holder));
            true
        }
        Entry::Occupied(mut entry) => {
            entry.get_mut().insert(holder, order);
            false
        }
    }
}

/// Takes a bundle's rows under a key out; whether they were the last ones.
fn take<K: Ord>(table: &mut BTreeMap<K, Holders>, key: K, bundle: &Arc<Bundle>) -> bool {
    let Entry::Occupied(mut entry) = table.entry(key) else {
        return false;
    };
    match entry.get().without(bundle) {
        Some(left) => {
            entry.insert(left);
            false
        }
        None => {
            entry.remove();
            true
        }
    }
}

/// The order in which two routes to one prefix stand in a NodeConfig.
fn prefer_export(left: &Holder, right: &Holder) -> Ordering {
    match (left.export(), right.export()) {
        (Some(left), Some(right)) => order::text(&right.text(), &left.text()).then_with(|| {
            order::text(
                &right.via.first().to_string(),
                &left.via.first().to_string(),
            )
        }),
        _ => Ordering::Equal,
    }
}

/// The order in which two rows about peers under one key stand in a NodeConfig.
fn prefer_peer(key: PeerKey, left: &Holder, right: &Holder) -> Ordering {
    let (Some(left), Some(right)) = (left.vtep(), right.vtep()) else {
        return Ordering::Equal;
    };
    let (left, right) = (&left.end, &right.end);
    match key {
        // They are the same row.
        PeerKey::Flood(_) => Ordering::Equal,
        PeerKey::Neighbour(_) => right.mac.cmp(&left.mac),
        PeerKey::Unicast(_) => order::text(&right.underlay_text(), &left.underlay_text()),
    }
}
