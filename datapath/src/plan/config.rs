//! NodeConfigs as Kosmos writes them: the border at which rows become strings.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::bundle::{Export, Pair};
use super::members::{Class, End, Member, MemberCluster};
use super::{Planner, order};
use crate::api::{Arp, Device, Fdb, Gateway, Multipath, NodeConfigSpec, Route};
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
    let mut multipath = Vec::new();
    let mut routes = |is_direct| routes(planner, cluster, is_direct, &mut multipath);
    let mut config = NodeConfigSpec {
        devices: devices(node),
        routes: routes(matches!(node.class, Class::Endpoint | Class::Gateway)),
        gateways: gateways(planner, cluster, node),
        takeover: match node.class {
            Class::Standby => routes(true),
            _ => Vec::new(),
        },
        iptables: translations.map(|row| row.1.clone()).collect(),
        ..NodeConfigSpec::default()
    };
    config.multipath = multipath;
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
    let own = Pair::of_cluster(cluster, |gateway| match cluster.is_p2p() {
        true => &gateway.bridge,
        false => &gateway.local,
    });
    let central: Vec<&Member> = cluster.gateways().chain(cluster.standby()).collect();
    let has_standby = central.len() > 1;
    let is_central = has_standby && central.iter().any(|one| one.name == node.name);
    // Nodes of a P2P cluster need no gateway of their own.
    if has_standby && (is_central || !cluster.is_p2p()) {
        let ends = if cluster.is_p2p() {
            &node.bridge
        } else {
            &node.local
        };
        own.iter()
            .filter(|pair| ends.get(pair.tunnel.family()).is_some())
            .for_each(|pair| add(&cluster.name, pair));
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
/// the cluster's own gateways. Of several next hops the first is the route's, and the others go into `multipath`.
fn routes(
    planner: &Planner,
    cluster: &MemberCluster,
    is_direct: bool,
    multipath: &mut Vec<Multipath>,
) -> Vec<Route> {
    let others = planner
        .bundles()
        .filter(|bundle| bundle.cluster != cluster.name);
    let reached = others
        .flat_map(|bundle| &bundle.exports)
        .filter(|export| cluster.families.has(export.family()))
        .filter(|export| !cluster.shadow.touches(export.dst));
    let route_of = |export: &Export| {
        let family = export.family();
        let (via, tunnel) = if is_direct {
            (export.via, Tunnel::bridge(family))
        } else {
            (cluster.own_gateways(family)?, Tunnel::local(family))
        };
        let route = Route {
            cidr: export.text(),
            gw: via.first().to_string(),
            dev: tunnel.name().to_owned(),
        };
        multipath.extend(via.iter().skip(1).map(|via| Multipath {
            cidr: route.cidr.clone(),
            gw: route.gw.clone(),
            dev: route.dev.clone(),
            via: via.to_string(),
        }));
        Some(route)
    };
    reached.filter_map(route_of).collect()
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
