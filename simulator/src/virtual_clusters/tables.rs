//! The tables of a node as its kernel would show them, made of what an administrator, a CNI plugin and an agent ask a kernel for and
//! of what it adds by itself.
//!
//! Left out is what a kernel learns by traffic (dynamic neighbours, multicast groups) and counts (drops).

mod changes;

use std::net::{IpAddr, Ipv6Addr};

use datapath::mac::Mac;
use datapath::nodeconfig::{METRIC_IPV6, PROTOCOL};
use datapath::state::{
    Address, Family, Link, LinkKind, Neighbour, NeighbourState, NextHop, NodeState, Route,
    RouteKind, Rule, RuleAction, Sysctl, TABLE_LOCAL, TABLE_MAIN,
};
use ipnet::IpNet;
use netns_harness::wire;

use crate::network::{
    self, ETH0, FIRST_POD, POD_ROUTER_V4, POD_ROUTER_V6, bridge_index, default_route, mac,
};
use crate::topology::{Cluster, Node};

pub(super) use changes::Laid;

/// `RTPROT_KERNEL`.
const OF_THE_KERNEL: u8 = 2;
/// `IP6_RT_PRIO_ADDRCONF`.
const METRIC_ADDRCONF: u32 = 256;
/// The number of the default routing table (`RT_TABLE_DEFAULT`).
const TABLE_DEFAULT: u32 = 253;
/// The index of a namespace's first link after the loopback.
const FIRST_LINK: u32 = 2;
/// What every bridge between clusters is called, before its number.
pub(super) const BRIDGE: &str = "br";

/// A pod with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    /// `namespace/name`.
    pub(super) key: String,
    /// Its place in its node's prefixes.
    pub(super) number: u32,
}

/// A namespace under construction.
struct Namespace {
    state: NodeState,
    forwards: bool,
    /// Whether links have IPv6 unless somebody asks otherwise.
    has_ipv6: bool,
}

/// A node that holds what is wanted of it (a function of the node as it is without), with some pods and with changes laid over all of it, in their order.
pub(super) fn of_node<'a>(
    cluster: &Cluster,
    number: u32,
    node: &Node,
    pods: impl Iterator<Item = &'a Pod>,
    wanted: impl FnOnce(&NodeState) -> NodeState,
    changes: &[Laid],
) -> NodeState {
    let mut namespace = Namespace::new(true, cluster.has_ipv6());
    let mtu = cluster.underlay.mtu;
    let place = cluster.nodes.iter().position(|known| known == node);
    let port = bridge_index(number) + 1 + u32::try_from(place.unwrap_or(0)).unwrap_or(0);
    namespace.link(veth(
        "eth0",
        ETH0,
        port,
        mac(&[&cluster.name, &node.name, "eth0"]),
        mtu,
    ));
    let bridge_mac = mac(&["underlay", &cluster.name]);
    let base = network::base(cluster, node, bridge_mac, true);
    for net in &base.addresses {
        namespace.address("eth0", *net);
    }
    for (ip, mac) in &base.neighbours {
        namespace.neighbour("eth0", *ip, *mac);
    }
    for route in &base.routes {
        namespace.route("eth0", route);
    }
    namespace.hold(&wanted(&namespace.state));
    for pod in pods {
        namespace.pod(cluster, node, pod);
    }
    changes.iter().for_each(|laid| namespace.lay(laid));
    namespace.state
}

/// A pod's own namespace.
pub(super) fn of_pod(cluster: &Cluster, node: &Node, pod: &Pod) -> NodeState {
    let mut namespace = Namespace::new(false, cluster.has_ipv6());
    let [here, there] = pod_macs(cluster, node, pod);
    let index = FIRST_POD + pod.number;
    namespace.link(veth("eth0", ETH0, index, there, cluster.underlay.mtu));
    for ip in network::pod_ips(node, pod.number) {
        let router = if ip.is_ipv4() {
            POD_ROUTER_V4
        } else {
            POD_ROUTER_V6
        };
        namespace.address("eth0", IpNet::from(ip));
        namespace.neighbour("eth0", router, here);
        let route = wire::Route {
            dst: default_route(Family::of(ip)),
            via: Some(router),
            index: ETH0,
            table: TABLE_MAIN,
        };
        namespace.route("eth0", &route);
    }
    namespace.state
}

/// The router between clusters, as far as it leads to some nodes, each with its cluster and that one's number.
pub(super) fn of_underlay<'a>(
    nodes: impl Iterator<Item = (u32, &'a Cluster, &'a Node)>,
) -> NodeState {
    let mut namespace = Namespace::new(true, true);
    for (number, cluster, node) in nodes {
        let bridge = format!("{BRIDGE}{number}");
        let bridge_mac = mac(&["underlay", &cluster.name]);
        let mtu = cluster.underlay.mtu;
        if namespace.state.links.get(bridge.as_str()).is_none() {
            namespace.link(Link {
                kind: LinkKind::Bridge,
                ..veth(&bridge, bridge_index(number), 0, bridge_mac, mtu)
            });
            for net in &cluster.segment.routers {
                namespace.address(&bridge, *net);
            }
        }
        let port = port_name(number, cluster, node);
        let port_mac = mac(&["underlay", &cluster.name, &node.name]);
        // Indexes of ports decide nothing.
        namespace.link(Link {
            master: Some(bridge.clone()),
            ..veth(&port, 0, ETH0, port_mac, mtu)
        });
        let eth0 = mac(&[&cluster.name, &node.name, "eth0"]);
        for ip in node.ips() {
            namespace.neighbour(&bridge, ip, eth0);
        }
    }
    namespace.state
}

/// The underlay's end of a node's link.
pub(super) fn port_name(number: u32, cluster: &Cluster, node: &Node) -> String {
    let place = cluster.nodes.iter().position(|known| known == node);
    format!("p{number}n{}", place.unwrap_or(0) + 1)
}

/// The node's end of a pod's link.
pub(super) fn pod_link(number: u32) -> String {
    format!("veth{number}")
}

fn pod_macs(cluster: &Cluster, node: &Node, pod: &Pod) -> [Mac; 2] {
    ["veth", "eth0"].map(|end| mac(&[&cluster.name, &node.name, &pod.key, end]))
}

fn veth(name: &str, index: u32, peer_index: u32, mac: Mac, mtu: u32) -> Link {
    Link {
        name: name.to_owned(),
        index,
        mac: Some(mac),
        mtu,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

impl Namespace {
    fn new(forwards: bool, has_ipv6: bool) -> Self {
        let mut namespace = Self {
            state: NodeState::default(),
            forwards,
            has_ipv6,
        };
        for (family, priority, table) in [
            (Family::Ipv4, 0, TABLE_LOCAL),
            (Family::Ipv4, 32_766, TABLE_MAIN),
            (Family::Ipv4, 32_767, TABLE_DEFAULT),
            (Family::Ipv6, 0, TABLE_LOCAL),
            (Family::Ipv6, 32_766, TABLE_MAIN),
        ] {
            namespace.state.rules.insert(Rule {
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
            });
        }
        namespace.set("net.ipv4.conf.all.forwarding", forwards.into());
        namespace.set("net.ipv4.conf.all.rp_filter", 0);
        namespace.set("net.ipv6.conf.all.forwarding", forwards.into());
        namespace.loopback();
        namespace
    }

    fn loopback(&mut self) {
        self.state.links.insert(Link {
            kind: LinkKind::Loopback,
            ..veth("lo", 1, 0, Mac::ZERO, 65_536)
        });
        self.settings("lo", true);
        for net in [
            IpNet::new_assert([127, 0, 0, 1].into(), 8),
            IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
        ] {
            self.state.addresses.insert(Address {
                link: "lo".to_owned(),
                net,
            });
            let src = net.addr().is_ipv4().then(|| net.addr());
            for dst in [
                net.trunc(),
                IpNet::from(net.addr()),
                IpNet::from(net.broadcast()),
            ] {
                self.local("lo", dst, 0, src);
            }
        }
    }

    fn set(&mut self, name: &str, value: i64) {
        self.state.sysctls.insert(Sysctl {
            name: name.to_owned(),
            value,
        });
    }

    /// A link's own settings as they are by default.
    fn settings(&mut self, link: &str, has_ipv6: bool) {
        let link = link.replace('.', "/");
        self.set(
            &format!("net.ipv4.conf.{link}.forwarding"),
            self.forwards.into(),
        );
        self.set(&format!("net.ipv4.conf.{link}.rp_filter"), 0);
        self.set(
            &format!("net.ipv6.conf.{link}.disable_ipv6"),
            (!has_ipv6).into(),
        );
        self.set(
            &format!("net.ipv6.conf.{link}.forwarding"),
            self.forwards.into(),
        );
    }

    /// A link that is up; one with IPv6 gives itself an address (RFC 4291, modified EUI-64).
    fn link(&mut self, link: Link) {
        let (name, ethernet, is_port) = (link.name.clone(), link.mac, link.master.is_some());
        self.state.links.insert(link);
        self.settings(&name, self.has_ipv6);
        if let Some(Mac([a, b, c, d, e, f])) = ethernet
            && self.has_ipv6
            && !is_port
        {
            let pair = |high, low| u16::from_be_bytes([high, low]);
            let host = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
            let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, host[0], host[1], host[2], host[3]);
            self.address(&name, IpNet::new_assert(ip.into(), 64));
            let multicast = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
            self.local(
                &name,
                IpNet::new_assert(multicast.into(), 8),
                METRIC_ADDRCONF,
                None,
            );
        }
    }

    /// An address, and the routes that come with it.
    fn address(&mut self, link: &str, net: IpNet) {
        self.state.addresses.insert(Address {
            link: link.to_owned(),
            net,
        });
        let is_ipv4 = net.addr().is_ipv4();
        let src = is_ipv4.then(|| net.addr());
        self.local(link, IpNet::from(net.addr()), 0, src);
        let is_host = net.prefix_len() == net.max_prefix_len();
        if !(is_ipv4 && is_host) {
            let metric = if is_ipv4 { 0 } else { METRIC_ADDRCONF };
            self.joined(Route {
                table: TABLE_MAIN,
                dst: net.trunc(),
                metric,
                kind: RouteKind::Unicast,
                hops: vec![hop(link, None)],
                src,
                protocol: OF_THE_KERNEL,
                mtu: None,
            });
        }
        match net {
            // The broadcast address; of IPv6 the anycast address of the routers of a subnet, of which this is one.
            IpNet::V4(_) if net.prefix_len() < 31 => {
                self.local(link, IpNet::from(net.broadcast()), 0, src);
            }
            IpNet::V6(_) if self.forwards && net.prefix_len() < 127 => {
                self.local(link, IpNet::from(net.network()), 0, None);
            }
            _ => {}
        }
    }

    fn local(&mut self, link: &str, dst: IpNet, metric: u32, src: Option<IpAddr>) {
        self.joined(Route {
            table: TABLE_LOCAL,
            dst,
            metric,
            kind: RouteKind::Local,
            hops: vec![hop(link, None)],
            src,
            protocol: OF_THE_KERNEL,
            mtu: None,
        });
    }

    /// Adds a route of the kernel's; those of several links to one destination are told as one.
    fn joined(&mut self, route: Route) {
        let key = (route.table, route.dst, route.metric);
        match self.state.routes.get_mut(&key) {
            Some(held) => {
                let more = route.hops.into_iter();
                let new = more.filter(|hop| !held.hops.contains(hop));
                let new: Vec<NextHop> = new.collect();
                held.hops.extend(new);
            }
            None => {
                self.state.routes.insert(route);
            }
        }
    }

    fn neighbour(&mut self, link: &str, ip: IpAddr, mac: Mac) {
        self.state.neighbours.insert(Neighbour {
            link: link.to_owned(),
            ip,
            mac: Some(mac),
            state: NeighbourState::Permanent,
        });
    }

    /// A route as an administrator adds it.
    fn route(&mut self, link: &str, route: &wire::Route) {
        self.state.routes.insert(Route {
            table: route.table,
            dst: route.dst,
            metric: metric(route.dst),
            kind: RouteKind::Unicast,
            hops: vec![hop(link, route.via)],
            src: None,
            protocol: PROTOCOL,
            mtu: None,
        });
    }

    /// What an agent makes of rows that are wanted.
    fn hold(&mut self, wanted: &NodeState) {
        for (index, link) in (FIRST_LINK..).zip(&wanted.links) {
            self.link(Link {
                index,
                ..link.clone()
            });
        }
        for address in &wanted.addresses {
            self.address(&address.link, address.net);
        }
        let state = &mut self.state;
        wanted
            .neighbours
            .iter()
            .cloned()
            .for_each(|row| drop(state.neighbours.insert(row)));
        wanted
            .fdb
            .iter()
            .cloned()
            .for_each(|row| drop(state.fdb.insert(row)));
        wanted
            .rules
            .iter()
            .cloned()
            .for_each(|row| drop(state.rules.insert(row)));
        wanted
            .routes
            .iter()
            .cloned()
            .for_each(|row| drop(state.routes.insert(row)));
        wanted
            .nat
            .iter()
            .cloned()
            .for_each(|row| drop(state.nat.insert(row)));
        wanted
            .sysctls
            .iter()
            .cloned()
            .for_each(|row| drop(state.sysctls.insert(row)));
    }

    fn pod(&mut self, cluster: &Cluster, node: &Node, pod: &Pod) {
        let link = pod_link(pod.number);
        let [here, there] = pod_macs(cluster, node, pod);
        let index = FIRST_POD + pod.number;
        self.link(veth(&link, index, ETH0, here, cluster.underlay.mtu));
        for ip in network::pod_ips(node, pod.number) {
            self.neighbour(&link, ip, there);
            let route = wire::Route {
                dst: IpNet::from(ip),
                via: None,
                index,
                table: TABLE_MAIN,
            };
            self.route(&link, &route);
        }
    }
}

/// The metric of a route that names none.
fn metric(dst: IpNet) -> u32 {
    match dst {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => METRIC_IPV6,
    }
}

fn hop(link: &str, via: Option<IpAddr>) -> NextHop {
    NextHop {
        via,
        link: link.to_owned(),
        onlink: via.is_some(),
        weight: 1,
        dead: false,
    }
}
