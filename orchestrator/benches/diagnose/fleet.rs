//! Evidence of fleets of any size, as floaters give it that were told what to expect: a node's own small state and what differs from
//! its plan.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use datapath::api::{Cluster, ClusterLinkOptions, ClusterNode, Fleet, NetworkType};
use datapath::digest::{Differences, Digester, Expected, Key, Scope};
use datapath::mac::Mac;
use datapath::nodeconfig::TABLE;
use datapath::plan::Planner;
use datapath::state::{
    Address, Family, LinkKind, NextHop, NodeState, RouteKind, RuleAction, TABLE_MAIN,
};
use datapath::walk::{End, Layer as Laid, Packet, World, verdict};
use floater::wire::Layer;
use ipnet::{IpNet, Ipv4Net};
use orchestrator::evidence::{ClusterFacts, Gathered, Intent, NodeFacts};

use crate::node::{merged, route, rules, veth};

/// Nodes of each cluster.
pub(crate) const NODES: u32 = 2;
const BITS: u8 = 4;

/// A fleet of gateway clusters and how its evidence was counted.
pub(crate) struct Virtual {
    pub(crate) gathered: Gathered,
    planner: Arc<Planner>,
    digester: Digester,
}

fn ip(base: u32, offset: u32) -> IpAddr {
    Ipv4Addr::from(base + offset).into()
}

pub(crate) fn underlay(cluster: u32, node: u32) -> IpAddr {
    ip(0x6440_0000, cluster * 256 + node + 1)
}

/// The cluster's pods, 2048 of them.
pub(crate) fn pods(cluster: u32) -> IpNet {
    let net = Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + cluster * 2048), 21);
    net.expect("a length").into()
}

fn pods_of(cluster: u32, node: u32) -> IpNet {
    let net = Ipv4Net::new(
        Ipv4Addr::from(0x0a00_0000 + cluster * 2048 + node * 256),
        24,
    );
    net.expect("a length").into()
}

pub(crate) fn pod(cluster: u32, node: u32) -> IpAddr {
    ip(0x0a00_0000, cluster * 2048 + node * 256 + 2)
}

pub(crate) fn name(cluster: u32) -> String {
    format!("c{cluster:04}")
}

fn objects(clusters: u32) -> Fleet {
    let mut fleet = Fleet::default();
    for cluster in 0..clusters {
        let mut object = Cluster::default();
        object.metadata.name = name(cluster);
        object.spec.cluster_link_options = Some(ClusterLinkOptions {
            network_type: NetworkType::Gateway,
            ip_family: "ipv4".to_owned(),
            ..ClusterLinkOptions::default()
        });
        let status = &mut object.status.cluster_link_status;
        status.pod_cidrs.push(pods(cluster).to_string());
        status
            .service_cidrs
            .push(format!("{}/25", ip(0xac10_0000, cluster * 128)));
        fleet.clusters.push(object);
        for node in 0..NODES {
            let mut object = ClusterNode::default();
            object.metadata.name = format!("{}-n{}", name(cluster), node + 1);
            object.spec.cluster_name = name(cluster);
            object.spec.node_name = format!("n{}", node + 1);
            object.spec.interface_name = "eth0".to_owned();
            object
                .spec
                .pod_cidrs
                .push(pods_of(cluster, node).to_string());
            object.spec.ip = underlay(cluster, node).to_string();
            if node == 0 {
                object.spec.roles.push("gateway".to_owned());
            }
            fleet.cluster_nodes.push(object);
        }
    }
    fleet
}

/// A node without the datapath.
fn bare(cluster: u32, node: u32) -> NodeState {
    let mut state = NodeState::default();
    for link in ["eth0", "pod"] {
        let words = [&name(cluster), &node.to_string(), link];
        state.links.insert(veth(&words, link));
    }
    let own = IpNet::new(underlay(cluster, node), 24).expect("a length");
    state.addresses.insert(Address {
        link: "eth0".to_owned(),
        net: own,
    });
    let router = ip(0x6440_0000, cluster * 256 + 251);
    state
        .routes
        .insert(route(TABLE_MAIN, own.trunc(), None, "eth0"));
    let all = IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a length");
    state
        .routes
        .insert(route(TABLE_MAIN, all, Some(router), "eth0"));
    let single = IpNet::from(pod(cluster, node));
    state.routes.insert(route(TABLE_MAIN, single, None, "pod"));
    for peer in (0..NODES).filter(|&peer| peer != node) {
        let via = Some(underlay(cluster, peer));
        state
            .routes
            .insert(route(TABLE_MAIN, pods_of(cluster, peer), via, "eth0"));
    }
    rules(&mut state, Family::Ipv4);
    state
}

impl Virtual {
    /// So many clusters of [`NODES`] nodes, all of them as planned; not probed yet.
    pub(crate) fn new(clusters: u32) -> Self {
        let fleet = objects(clusters);
        let planner = Arc::new(Planner::of(&fleet));
        let digester = Digester::new(Key([7; 16]), Scope::Tables, BITS);
        let facts = (0..clusters)
            .map(|cluster| ClusterFacts {
                name: name(cluster),
                id: format!("uid-{cluster}"),
                mode: Some(NetworkType::Gateway),
                families: vec![Family::Ipv4],
                pod_prefixes: vec![pods(cluster)],
                plans_prefixes: true,
                mapped: Vec::new(),
                nodes: (0..NODES)
                    .map(|node| {
                        let mut tables = bare(cluster, node);
                        let known = known(cluster, node);
                        let desired = planner.desired_own(&known, &tables);
                        tables = merged(tables, &desired.expect("it takes part").0);
                        digester.take_counted(&mut tables);
                        NodeFacts {
                            name: format!("n{}", node + 1),
                            ips: vec![underlay(cluster, node)],
                            planned_ips: vec![underlay(cluster, node)],
                            ready: true,
                            gateway: node == 0,
                            pod_ips: vec![pod(cluster, node)],
                            tables: Ok(tables),
                            differences: Some(Differences {
                                bits: BITS,
                                ..Differences::default()
                            }),
                            nat_unread: None,
                            filters_unread: None,
                            host_floater: None,
                            pod_floater: None,
                        }
                    })
                    .collect(),
                unreachable: None,
            })
            .collect();
        Self {
            gathered: Gathered {
                digester: Some(digester),
                clusters: facts,
                intent: Intent {
                    fleet,
                    control_plane: Some(name(0)),
                },
                inventory_notes: Vec::new(),
                probes: Vec::new(),
                refused: Vec::new(),
            },
            planner,
            digester,
        }
    }

    /// The number of its clusters.
    pub(crate) fn clusters(&self) -> u32 {
        u32::try_from(self.gathered.clusters.len()).expect("few clusters")
    }

    /// Changes a node's kernel.
    pub(crate) fn breaks(&mut self, cluster: u32, node: u32, change: impl FnOnce(&mut NodeState)) {
        let known = known(cluster, node);
        let mut whole = bare(cluster, node);
        let desired = self.planner.desired(&known, &whole);
        whole = merged(whole, &desired.expect("it takes part").0);
        change(&mut whole);
        let mut expected = Expected::new(&self.planner, self.digester);
        let digest = expected.of(&known).expect("it takes part");
        let differences = self.digester.differences(&whole, &digest);
        self.digester.take_counted(&mut whole);
        let facts = &mut self.gathered.clusters[cluster as usize].nodes[node as usize];
        facts.differences = Some(differences.expect("one kind"));
        facts.tables = Ok(whole);
    }

    /// What walks packets over the tables as they are now.
    pub(crate) fn network(&self) -> Network {
        let mut world = World::new();
        world.assume_underlay(true);
        for (cluster, facts) in (0..).zip(&self.gathered.clusters) {
            for (node, facts) in (0..).zip(&facts.nodes) {
                let known = known(cluster, node);
                let tables = facts.tables.clone().expect("readable");
                let differences = facts.differences.as_ref().expect("counted");
                let laid =
                    Laid::observed(&self.planner, &known, tables, self.digester, differences);
                let (own, layer) = laid.expect("it takes part");
                world.insert_layered(known, &own, layer);
            }
        }
        Network { world }
    }
}

/// A node's name in the plan.
fn known(cluster: u32, node: u32) -> String {
    format!("{}-n{}", name(cluster), node + 1)
}

/// All tables of a fleet, for packets that are walked.
pub(crate) struct Network {
    world: World,
}

impl Network {
    /// Whether a packet that a node's floater sends reaches another node, and its answer the first one.
    pub(crate) fn passes(
        &self,
        src: (u32, u32),
        layer: Layer,
        target: IpAddr,
        dst: (u32, u32),
    ) -> bool {
        let own = match layer {
            Layer::Host => underlay(src.0, src.1),
            Layer::Pod => pod(src.0, src.1),
        };
        let ingress = (layer == Layer::Pod).then_some("pod");
        let packet = Packet::udp(own, target, 8889);
        let ends = |from: (u32, u32), to: (u32, u32), packet| {
            let end = verdict(&self.world, &known(from.0, from.1), ingress, packet);
            let to = known(to.0, to.1);
            matches!(end, End::Delivered { node, .. } | End::Left { node, .. } if node == to)
        };
        src == dst || ends(src, dst, packet) && ends(dst, src, packet.answer())
    }
}

/// A fault by its code, which its diagnosis has to name at the node.
pub(crate) type Fault = (&'static str, u32, fn(&mut NodeState, u32));

fn tunnel(state: &mut NodeState, change: impl FnOnce(&mut datapath::state::Vxlan)) {
    if let Some(link) = state.links.get_mut("vx-bridge")
        && let LinkKind::Vxlan(vxlan) = &mut link.kind
    {
        change(vxlan);
    }
}

fn down(state: &mut NodeState, name: &str) {
    if let Some(link) = state.links.get_mut(name) {
        link.up = false;
        link.carrier = false;
    }
    // The kernel takes along what leads through it.
    state
        .routes
        .retain(|row| row.hops.iter().all(|hop| hop.link != name));
    state.neighbours.retain(|row| row.link != name);
}

/// Faults of fifteen codes at a gateway; the last argument is the peer cluster that some are about.
pub(crate) const FAULTS: [Fault; 15] = [
    ("FDB-MISSING", 0, |state, peer| {
        state.fdb.retain(|row| row.dst != Some(underlay(peer, 0)));
    }),
    ("FDB-WRONG-VTEP", 0, |state, peer| {
        let rows: Vec<_> = state
            .fdb
            .iter()
            .filter(|row| row.dst == Some(underlay(peer, 0)))
            .cloned()
            .collect();
        for mut row in rows {
            state.fdb.retain(|known| *known != row);
            row.dst = Some(underlay(peer, 77));
            state.fdb.insert(row);
        }
    }),
    ("NEIGH-STALE-MAC", 0, |state, peer| {
        let overlay = ip(0xdc40_0000, peer * 256 + 1);
        let rows: Vec<_> = state.neighbours.iter().cloned().collect();
        for mut row in rows {
            if row.ip == overlay {
                row.mac = Some(Mac([2, 1, 1, 1, 1, 1]));
                state.neighbours.insert(row);
            }
        }
    }),
    ("ROUTE-MISSING", 0, |state, peer| {
        state.routes.retain(|row| row.dst != pods(peer));
    }),
    ("ROUTE-BLACKHOLE", 0, |state, peer| {
        let mut row = route(TABLE, pods(peer), None, "eth0");
        row.kind = RouteKind::Blackhole;
        row.hops.clear();
        state.routes.insert(row);
    }),
    ("POLICY-ROUTE-HIJACK", 0, |state, _| {
        state
            .rules
            .retain(|row| row.action != RuleAction::Lookup(TABLE));
    }),
    ("TUNNEL-DEV-DOWN", 0, |state, _| down(state, "vx-bridge")),
    ("GATEWAY-DOWN", 0, |state, _| down(state, "eth0")),
    ("NODE-DOWN", 1, |state, _| down(state, "eth0")),
    ("VNI-MISMATCH", 0, |state, _| {
        tunnel(state, |vxlan| vxlan.vni = 99)
    }),
    ("TUNNEL-PORT-MISMATCH", 0, |state, _| {
        tunnel(state, |vxlan| vxlan.port = 4790);
    }),
    ("FORWARD-OFF", 0, |state, _| {
        for mut row in state.sysctls.iter().cloned().collect::<Vec<_>>() {
            if row.name.starts_with("net.ipv4.conf.") && row.name.ends_with(".forwarding") {
                row.value = 0;
                state.sysctls.insert(row);
            }
        }
    }),
    ("DEV-DELETED", 0, |state, _| {
        down(state, "vx-bridge");
        state.links.retain(|row| row.name != "vx-bridge");
        state.addresses.retain(|row| row.link != "vx-bridge");
        state.fdb.retain(|row| row.link != "vx-bridge");
        state
            .sysctls
            .retain(|row| !row.name.contains(".vx-bridge."));
    }),
    ("VTEP-LOCAL-STALE", 0, |state, peer| {
        tunnel(state, |vxlan| vxlan.local = Some(underlay(peer, 77)));
    }),
    // With its last IPv4 address a link loses its IPv4 routes and neighbours.
    ("ADDRESS-MISSING", 0, |state, _| {
        let leads = |hop: &NextHop| hop.link == "vx-bridge";
        state.addresses.retain(|row| row.link != "vx-bridge");
        state.routes.retain(|row| !row.hops.iter().any(leads));
        state.neighbours.retain(|row| row.link != "vx-bridge");
    }),
];
