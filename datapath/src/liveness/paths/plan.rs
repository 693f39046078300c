//! What a NodeConfig says about sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{End, Kind};
use crate::api::NodeConfigSpec;
use crate::printable::Printable;
use crate::tunnel::Tunnel;

/// The most characters of a cluster's name that are told.
const NAME: usize = 253;

/// A gateway and its standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The tunnel over which this node reaches them.
    pub tunnel: Tunnel,
    /// The gateway's overlay address.
    pub active: IpAddr,
    /// The standby's; none where there is none.
    pub standby: Option<IpAddr>,
    /// The cluster's name, printable.
    pub cluster: String,
}

/// Which sessions a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The node's own overlay addresses.
    pub own: BTreeMap<Tunnel, IpAddr>,
    /// Everybody whose packets it takes: those of whom it knows the neighbour.
    pub peers: BTreeSet<End>,
    /// Whom it watches.
    pub gateways: Vec<Gateway>,
}

/// What a node is to one of the gateways that it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It is the gateway.
    Active,
    /// It is another node of the gateway's cluster.
    Inner,
    /// It is of another cluster.
    Other,
    /// It is the standby.
    Standby,
}

impl Plan {
    /// What a NodeConfig says. Parts that cannot be read are left out; their rows are, too.
    #[must_use]
    pub fn of(spec: &NodeConfigSpec) -> Self {
        let end = |dev: &str, ip: &str| -> Option<End> {
            let (tunnel, ip) = (Tunnel::named(dev)?, ip.parse::<IpAddr>().ok()?);
            (crate::state::Family::of(ip) == tunnel.family()).then_some((tunnel, ip))
        };
        let own = spec.devices.iter().filter_map(|device| {
            let (ip, _) = device.addr.split_once('/')?;
            end(&device.name, ip)
        });
        let own: BTreeMap<Tunnel, IpAddr> = own.collect();
        let gateways = spec.gateways.iter().filter_map(|gateway| {
            let (tunnel, active) = end(&gateway.dev, &gateway.active)?;
            let standby = end(&gateway.dev, &gateway.standby).map(|(_, ip)| ip);
            own.contains_key(&tunnel).then(|| Gateway {
                tunnel,
                active,
                standby: standby.filter(|ip| *ip != active),
                cluster: Printable::bounded(&gateway.cluster, NAME)
                    .as_str()
                    .to_owned(),
            })
        });
        let gateways: Vec<Gateway> = gateways.collect();
        let peers = if own.is_empty() {
            BTreeSet::new()
        } else {
            let peers = spec.arps.iter().filter_map(|arp| end(&arp.dev, &arp.ip));
            peers.collect()
        };
        Self {
            own,
            peers,
            gateways,
        }
    }

    /// Whether this node takes part in sessions at all.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        !self.gateways.is_empty()
    }

    pub(super) fn part(&self, gateway: &Gateway) -> Part {
        let own = self.own.get(&gateway.tunnel);
        if own == Some(&gateway.active) {
            Part::Active
        } else if own.is_some() && own == gateway.standby.as_ref() {
            Part::Standby
        } else if gateway.tunnel.is_bridge() {
            Part::Other
        } else {
            Part::Inner
        }
    }

    /// The ends that this node asks for a session.
    pub(super) fn kinds(&self) -> BTreeMap<End, Kind> {
        let mut kinds = BTreeMap::new();
        for gateway in &self.gateways {
            let (active, standby) = match self.part(gateway) {
                Part::Active | Part::Inner | Part::Standby => (Kind::Own, Kind::Own),
                Part::Other => (Kind::Peer, Kind::Spare),
            };
            let ends = [(Some(gateway.active), active), (gateway.standby, standby)];
            for (ip, kind) in ends {
                if let Some(ip) = ip.filter(|ip| self.own.get(&gateway.tunnel) != Some(ip)) {
                    let held = kinds.entry((gateway.tunnel, ip)).or_insert(kind);
                    // Where several gateways stand in for each other each is one of its own.
                    *held = kind.min(*held);
                }
            }
        }
        kinds
    }

    /// How many sessions there will be within the cluster, those included that the other ends ask for.
    pub(super) fn own_sessions(&self) -> usize {
        let asked = self.kinds();
        let asked = asked.iter().filter(|(_, kind)| **kind == Kind::Own);
        let asked: BTreeSet<&End> = asked.map(|(end, _)| end).collect();
        let is_central = self
            .gateways
            .iter()
            .any(|gateway| matches!(self.part(gateway), Part::Active | Part::Standby));
        let asking = self
            .peers
            .iter()
            .filter(|(tunnel, _)| is_central && !tunnel.is_bridge());
        asking
            .chain(asked.iter().copied())
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// The cluster of an end that is watched; empty where none is known.
    pub(super) fn cluster_of(&self, (tunnel, ip): End) -> &str {
        let is_it = |gateway: &&Gateway| {
            gateway.tunnel == tunnel && (gateway.active == ip || gateway.standby == Some(ip))
        };
        let gateway = self.gateways.iter().find(is_it);
        gateway.map_or("", |gateway| &gateway.cluster)
    }
}
