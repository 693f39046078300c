//! NodeConfigs as Kosmos writes them: the border at which rows become strings.

use std::net::IpAddr;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::members::{Class, End, Member, MemberCluster};
use super::{Planner, order};
use crate::api::{Arp, Device, Fdb, NodeConfigSpec, Route};
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
        routes: routes(planner, cluster, node),
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

/// The exports of all others, in the families that the cluster links, that do not touch its own prefixes.
fn routes(planner: &Planner, cluster: &MemberCluster, node: &Member) -> Vec<Route> {
    let gateway = match node.class {
        Class::Endpoint | Class::Gateway => None,
        Class::Internal => match cluster.gateway() {
            Some(gateway) => Some(gateway),
            None => return Vec::new(),
        },
    };
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
