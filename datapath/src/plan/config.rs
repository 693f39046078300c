//! NodeConfigs as Kosmos writes them: the border at which rows become strings.

use std::net::IpAddr;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::bundle::Pair;
use super::members::{Class, End, Member, MemberCluster};
use super::{Planner, order};
use crate::api::{Arp, Device, Fdb, Gateway, NodeConfigSpec, Route};
use crate::mac::Mac;
use crate::tunnel::Tunnel;

/// The NodeConfigs of a planner, by the names of their ClusterNodes. Serialised it is one map, of which one NodeConfig at a time is in
/// memory.
#[derive(Debug, Clone, Copy)]
pub struct Configs<'p>(pub(super) &'p Planner);

impl Serialize for Configs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.nodes().len()))?;
        for (cluster, node) in self.0.members() {
            map.serialize_entry(&*node.name, &of_node(self.0, cluster, node))?;
        }
        map.end()
    }
}

/// The NodeConfig of one node, with its lists in the order in which Kosmos writes them.
pub(super) fn of_node(planner: &Planner, cluster: &MemberCluster, node: &Member) -> NodeConfigSpec {
    let translations = cluster.translations.rows_of(node.class);
    let mut config = NodeConfigSpec {
        devices: devices(node),
        routes: match node.class {
            Class::Endpoint | Class::Gateway => routes(planner, cluster, None),
            Class::Internal | Class::Standby => cluster
                .gateway()
                .map(|gateway| routes(planner, cluster, Some(gateway)))
                .unwrap_or_default(),
        },
        gateways: gateways(planner, cluster, node),
        takeover: if node.class == Class::Standby {
            routes(planner, cluster, None)
        } else {
            Vec::new()
        },
        iptables: translations.map(|row| row.1.clone()).collect(),
        ..NodeConfigSpec::default()
    };
    for bundle in planner.bundles() {
        for vtep in &bundle.vteps {
            let is_shared = node.bridge.get(vtep.end.tunnel.family()).is_some();
            if is_shared && vtep.node != node.name {
                add_peer(&mut config, &vtep.end);
            }
        }
    }
    for peer in cluster.local_peers(node) {
        for end in peer.local.ends() {
            if node.local.get(end.tunnel.family()).is_some() {
                add_peer(&mut config, end);
            }
        }
    }
    order::sort(&mut config);
    config
}

fn devices(node: &Member) -> Vec<Device> {
    let device = |end: &End| Device {
        kind: "vxlan".to_owned(),
        name: end.tunnel.name().to_owned(),
        addr: end.net.to_string(),
        mac: end.mac.to_string(),
        bind_dev: node.spec.interface_name.clone(),
        id: i32::try_from(end.tunnel.vni()).unwrap_or_default(),
        port: i32::from(end.tunnel.port()),
    };
    node.ends().map(device).collect()
}

/// The gateways whose ends a node watches: its own cluster's, where that has a standby, and those of others that have one. Gateway and standby
/// also watch those that have none: from all of them together they learn whether they are cut off.
fn gateways(planner: &Planner, cluster: &MemberCluster, node: &Member) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    let mut add = |cluster: &str, pair: &Pair| {
        gateways.push(Gateway {
            dev: pair.tunnel.name().to_owned(),
            active: pair.active.to_string(),
            standby: pair.standby.map(|ip| ip.to_string()).unwrap_or_default(),
            cluster: cluster.to_owned(),
        });
    };
    let mut is_central = false;
    if let (Some(gateway), Some(standby)) = (cluster.gateway(), cluster.standby()) {
        is_central = [&gateway.name, &standby.name].contains(&&node.name);
        let (active, standby, own) = if cluster.is_p2p() {
            (&gateway.bridge, &standby.bridge, &node.bridge)
        } else {
            (&gateway.local, &standby.local, &node.local)
        };
        // Nodes of a P2P cluster need no gateway of their own.
        if is_central || !cluster.is_p2p() {
            let pairs = Pair::of(active, Some(standby)).into_iter();
            pairs
                .filter(|pair| own.get(pair.tunnel.family()).is_some())
                .for_each(|pair| add(&cluster.name, &pair));
        }
    }
    if node.is_in_mesh() {
        let others = planner.bundles();
        for bundle in others.filter(|bundle| bundle.cluster != cluster.name) {
            let pairs = bundle.gateways.iter();
            pairs
                .filter(|pair| pair.standby.is_some() || is_central)
                .filter(|pair| node.bridge.get(pair.tunnel.family()).is_some())
                .for_each(|pair| add(&bundle.cluster, pair));
        }
    }
    gateways
}

/// The exports of all others, in the families that the cluster links, that do not touch its own prefixes, through those who offer them or through
/// a `gateway`.
fn routes(planner: &Planner, cluster: &MemberCluster, gateway: Option<&Member>) -> Vec<Route> {
    let route = |text: String, via: IpAddr, tunnel: Tunnel| Route {
        cidr: text,
        gw: via.to_string(),
        dev: tunnel.name().to_owned(),
    };
    let others = planner
        .bundles()
        .filter(|bundle| bundle.cluster != cluster.name);
    let reached = others
        .flat_map(|bundle| &bundle.exports)
        .filter(|export| cluster.families.has(export.family()))
        .filter(|export| !cluster.shadow.touches(export.dst));
    reached
        .filter_map(|export| match gateway {
            None => {
                let tunnel = Tunnel::bridge(export.family());
                Some(route(export.text(), export.via, tunnel))
            }
            Some(gateway) => {
                let end = gateway.local.get(export.family())?;
                Some(route(export.text(), end.ip(), end.tunnel))
            }
        })
        .collect()
}

fn add_peer(config: &mut NodeConfigSpec, end: &End) {
    let dev = end.tunnel.name();
    for mac in [Mac::ZERO, end.mac] {
        config.fdbs.push(Fdb {
            ip: end.underlay_text(),
            mac: mac.to_string(),
            dev: dev.to_owned(),
        });
    }
    config.arps.push(Arp {
        ip: end.ip().to_string(),
        mac: end.mac.to_string(),
        dev: dev.to_owned(),
    });
}
