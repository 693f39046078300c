//! Four clusters by hand, in both modes and both families, as docs of the datapath draw them:
//!
//! ```text
//!  A gateway: a1 (gateway) a2      C gateway: c1 (gateway) c2
//!  B p2p:     b1 b2                D p2p:     d1                 all on router `wan`, one port each
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath::mac::Mac;
use datapath::state::Family;
use datapath::state::{
    Address, Fdb, Link, LinkKind, Nat, Neighbour, NeighbourState, NextHop, NodeState, Route,
    RouteKind, Rule, RuleAction, Sysctl, TABLE_MAIN, Vxlan,
};
use datapath::walk::World;
use ipnet::IpNet;

pub(crate) const TABLE: u32 = 200;

/// A node: its name, its cluster's letter and number, its own number in there, and the number of its gateway (0: p2p).
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) cluster: u8,
    pub(crate) host: u8,
    pub(crate) gateway: u8,
    pub(crate) pods: u8,
}

pub(crate) const NODES: [Spec; 7] = [
    spec("a1", 1, 11, 11, 0),
    spec("a2", 1, 12, 11, 1),
    spec("b1", 2, 21, 0, 0),
    spec("b2", 2, 22, 0, 1),
    spec("c1", 3, 31, 31, 0),
    spec("c2", 3, 32, 31, 1),
    spec("d1", 4, 41, 0, 0),
];

const fn spec(name: &'static str, cluster: u8, host: u8, gateway: u8, pods: u8) -> Spec {
    Spec {
        name,
        cluster,
        host,
        gateway,
        pods,
    }
}

impl Spec {
    fn bridges(&self) -> bool {
        self.gateway == 0 || self.gateway == self.host
    }

    pub(crate) fn underlay(&self, family: Family) -> IpAddr {
        let (cluster, host) = (self.cluster, self.host);
        ip(&match family {
            Family::Ipv4 => format!("192.168.{cluster}.{host}"),
            Family::Ipv6 => format!("fd00:{cluster}::{host}"),
        })
    }

    pub(crate) fn overlay(&self, tunnel: &str) -> IpAddr {
        let (cluster, host) = (self.cluster, self.host);
        ip(&match tunnel {
            "vx-local" => format!("210.168.{cluster}.{host}"),
            "vx-bridge" => format!("220.168.{cluster}.{host}"),
            "vx-local-6" => format!("9480:a8:{cluster}::{host}"),
            _ => format!("9470:a8:{cluster}::{host}"),
        })
    }

    pub(crate) fn pod_prefix(&self, family: Family) -> IpNet {
        let (second, pods) = (243 + u32::from(self.cluster), self.pods);
        net(&match family {
            Family::Ipv4 => format!("10.{second}.{pods}.0/24"),
            Family::Ipv6 => format!("fd10:{second}:{pods}::/64"),
        })
    }

    pub(crate) fn cluster_prefix(&self, family: Family) -> IpNet {
        let second = 243 + u32::from(self.cluster);
        net(&match family {
            Family::Ipv4 => format!("10.{second}.0.0/16"),
            Family::Ipv6 => format!("fd10:{second}::/32"),
        })
    }

    /// The address of the node towards its pods.
    pub(crate) fn pod_gateway(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.pod(1),
            Family::Ipv6 => self.pod6(1),
        }
    }

    /// The address of its pod with that number.
    pub(crate) fn pod(&self, number: u8) -> IpAddr {
        ip(&format!(
            "10.{}.{}.{number}",
            243 + u32::from(self.cluster),
            self.pods
        ))
    }

    pub(crate) fn pod6(&self, number: u8) -> IpAddr {
        ip(&format!(
            "fd10:{}:{}::{number}",
            243 + u32::from(self.cluster),
            self.pods
        ))
    }
}

pub(crate) fn node(name: &str) -> Spec {
    *NODES
        .iter()
        .find(|spec| spec.name == name)
        .expect("one of the seven")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn mac(node: &str, link: &str) -> Mac {
    Mac::derived(&[node, link])
}

pub(crate) fn tunnel_for(family: Family, layer: &str) -> String {
    match family {
        Family::Ipv4 => format!("vx-{layer}"),
        Family::Ipv6 => format!("vx-{layer}-6"),
    }
}

pub(crate) fn plain(node: &str, name: &str) -> Link {
    Link {
        name: name.to_owned(),
        index: 0,
        mac: Some(mac(node, name)),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 0 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

pub(crate) fn route(table: u32, dst: IpNet, via: Option<IpAddr>, link: &str) -> Route {
    Route {
        table,
        dst,
        metric: if dst.addr().is_ipv4() { 0 } else { 1024 },
        kind: RouteKind::Unicast,
        hops: vec![NextHop {
            via,
            link: link.to_owned(),
            onlink: via.is_some(),
            weight: 1,
            dead: false,
        }],
        src: None,
        protocol: 3,
        mtu: None,
    }
}

pub(crate) fn rule(family: Family, priority: u32, table: u32) -> Rule {
    Rule {
        family,
        priority,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        finer: None,
        invert: false,
        action: RuleAction::Lookup(table),
    }
}

pub(crate) fn neighbour(link: &str, ip: IpAddr, mac: Mac) -> Neighbour {
    Neighbour {
        link: link.to_owned(),
        ip,
        mac: Some(mac),
        state: NeighbourState::Permanent,
    }
}

pub(crate) fn fdb(link: &str, mac: Mac, dst: IpAddr) -> Fdb {
    Fdb {
        link: link.to_owned(),
        mac,
        dst: Some(dst),
        permanent: true,
    }
}

pub(crate) fn sysctl(name: &str, value: i64) -> Sysctl {
    Sysctl {
        name: name.to_owned(),
        value,
    }
}

/// What a node knows of a peer behind a tunnel.
fn entry(state: &mut NodeState, link: &str, peer: &Spec, family: Family) {
    let to = mac(peer.name, link);
    state
        .neighbours
        .insert(neighbour(link, peer.overlay(link), to));
    state.fdb.insert(fdb(link, to, peer.underlay(family)));
    state
        .fdb
        .insert(fdb(link, Mac::ZERO, peer.underlay(family)));
}

fn tunnel(state: &mut NodeState, own: &Spec, name: &str, vni: u32, port: u16, family: Family) {
    let mut link = plain(own.name, name);
    link.mtu = if family == Family::Ipv4 { 1450 } else { 1430 };
    link.kind = LinkKind::Vxlan(Vxlan {
        vni,
        port,
        local: Some(own.underlay(family)),
        lower: Some("eth0".to_owned()),
        learning: false,
    });
    state.links.insert(link);
    let length = if family == Family::Ipv4 { 8 } else { 16 };
    state.addresses.insert(Address {
        link: name.to_owned(),
        net: IpNet::new(own.overlay(name), length).expect("a length"),
    });
    state
        .sysctls
        .insert(sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), 2));
}

/// The tables of a node.
pub(crate) fn state(own: &Spec) -> NodeState {
    state_among(own, &NODES)
}

/// The tables of a node of another fleet.
pub(crate) fn state_among(own: &Spec, nodes: &[Spec]) -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(plain(own.name, "eth0"));
    state.links.insert(plain(own.name, "pod"));
    for name in [
        "net.ipv4.conf.all.forwarding",
        "net.ipv6.conf.all.forwarding",
    ] {
        state.sysctls.insert(sysctl(name, 1));
    }
    state
        .sysctls
        .insert(sysctl("net.ipv4.conf.eth0.rp_filter", 2));
    for family in [Family::Ipv4, Family::Ipv6] {
        family_state(&mut state, own, nodes, family);
    }
    if own.bridges() && own.gateway != 0 {
        state.nat.insert(Nat::Masquerade {
            src: net("210.0.0.0/8"),
            out: Some("vx-bridge".to_owned()),
        });
        state.nat.insert(Nat::Masquerade {
            src: net("220.0.0.0/8"),
            out: None,
        });
    }
    state
}

fn family_state(state: &mut NodeState, own: &Spec, nodes: &[Spec], family: Family) {
    let (length, default) = match family {
        Family::Ipv4 => (24, net("0.0.0.0/0")),
        Family::Ipv6 => (64, net("::/0")),
    };
    let underlay = IpNet::new(own.underlay(family), length).expect("a length");
    state.addresses.insert(Address {
        link: "eth0".to_owned(),
        net: underlay,
    });
    state.routes.insert(route(
        TABLE_MAIN,
        default,
        Some(router(own, family)),
        "eth0",
    ));
    state.rules.insert(rule(family, TABLE, TABLE));
    let bridge = tunnel_for(family, "bridge");
    let local = tunnel_for(family, "local");
    if own.bridges() {
        tunnel(state, own, &bridge, 54, 4876, family);
    }
    if own.gateway != 0 {
        tunnel(state, own, &local, 55, 4877, family);
    }
    let pods = own.pod_prefix(family);
    state.addresses.insert(Address {
        link: "pod".to_owned(),
        net: IpNet::new(own.pod_gateway(family), pods.prefix_len()).expect("a length"),
    });
    // Its own pods and the pods of its cluster's other nodes, by host routes.
    state
        .routes
        .insert(route(TABLE_MAIN, own.pod_prefix(family), None, "pod"));
    for &peer in nodes {
        if peer.cluster == own.cluster && peer.host != own.host {
            let via = Some(peer.underlay(family));
            state
                .routes
                .insert(route(TABLE_MAIN, peer.pod_prefix(family), via, "eth0"));
            // Tunnels inside of a cluster lead from and to its gateway.
            if own.gateway != 0 && (own.bridges() || peer.host == own.gateway) {
                entry(state, &local, &peer, family);
            }
        }
        if peer.cluster != own.cluster {
            let prefix = if peer.gateway == 0 {
                peer.pod_prefix(family)
            } else {
                peer.cluster_prefix(family)
            };
            if own.bridges() && peer.bridges() {
                entry(state, &bridge, &peer, family);
                let via = Some(peer.overlay(&bridge));
                state.routes.insert(route(TABLE, prefix, via, &bridge));
            } else if !own.bridges() {
                let gateway = nodes
                    .iter()
                    .find(|node| node.cluster == own.cluster && node.host == own.gateway)
                    .expect("a gateway");
                let via = Some(gateway.overlay(&local));
                state.routes.insert(route(TABLE, prefix, via, &local));
            }
        }
    }
}

pub(crate) fn router(own: &Spec, family: Family) -> IpAddr {
    let cluster = own.cluster;
    ip(&match family {
        Family::Ipv4 => format!("192.168.{cluster}.1"),
        Family::Ipv6 => format!("fd00:{cluster}::1"),
    })
}

/// The router: a bridge per cluster, so that its nodes share a segment.
pub(crate) fn wan() -> NodeState {
    let mut state = NodeState::default();
    for own in NODES {
        let bridge = format!("br{}", own.cluster);
        let mut port = plain("wan", own.name);
        port.master = Some(bridge.clone());
        state.links.insert(port);
        let mut link = plain("wan", &bridge);
        link.kind = LinkKind::Bridge;
        state.links.insert(link);
        for (family, length) in [(Family::Ipv4, 24), (Family::Ipv6, 64)] {
            state.addresses.insert(Address {
                link: bridge.clone(),
                net: IpNet::new(router(&own, family), length).expect("a length"),
            });
        }
    }
    state
}

/// All tables, to change before they become a world.
pub(crate) fn tables() -> BTreeMap<String, NodeState> {
    let mut tables: BTreeMap<String, NodeState> = NODES
        .iter()
        .map(|own| (own.name.to_owned(), state(own)))
        .collect();
    tables.insert("wan".to_owned(), wan());
    tables
}

/// Tables with wires.
pub(crate) fn wired(tables: BTreeMap<String, NodeState>) -> World {
    let mut world = World::new();
    for own in NODES {
        world.wire((own.name, "eth0"), ("wan", own.name));
    }
    for (name, state) in tables {
        world.insert(name, state);
    }
    world
}

/// Tables whose underlay is taken on trust: no router, no wires.
pub(crate) fn trusted(mut tables: BTreeMap<String, NodeState>) -> World {
    tables.remove("wan");
    let mut world = World::new();
    for (name, state) in tables {
        world.insert(name, state);
    }
    world.assume_underlay(true);
    world
}
