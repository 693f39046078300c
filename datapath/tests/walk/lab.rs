//! A fleet in the kernel: namespaces for nodes, pods and a router, with the rows of hand-made tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use datapath::diff::{Change, ChangeSet};
use datapath::kernel::LinuxKernel;
use datapath::mac::Mac;
use datapath::reconcile::Kernel as _;
use datapath::state::{Family, LinkKind, Nat, NodeState, Row, RuleAction, Vxlan};
use netns_harness::namespace::Netns;
use netns_harness::netlink::{Message, Netlink};
use netns_harness::sysctl;
use netns_harness::wire::{End, Route, Wire as _};

use super::fleet::{self, Spec};

pub(crate) const PORT: u16 = 8889;

/// One namespace and the way to change it.
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
}

impl Place {
    fn new() -> Self {
        let netns = Netns::create().expect("a namespace");
        let netlink = netns
            .run(|| {
                // Addresses are usable at once, and nobody sends what was not asked for.
                for scope in ["all", "default"] {
                    sysctl::set(&format!("net.ipv6.conf.{scope}.accept_dad"), "0").expect("set");
                    sysctl::set(&format!("net.ipv6.conf.{scope}.router_solicitations"), "0")
                        .expect("set");
                    sysctl::set(&format!("net.ipv4.conf.{scope}.rp_filter"), "0").expect("set");
                }
                Netlink::open().expect("netlink")
            })
            .expect("enter");
        Self { netns, netlink }
    }

    /// Adds address translations.
    pub(crate) fn translate(&self, rows: impl Iterator<Item = Nat>) {
        let changes = rows.map(|row| Change::Add(Row::Nat(row))).collect();
        let set = ChangeSet::ordered(changes);
        self.netns
            .run(|| {
                LinuxKernel::open()
                    .expect("netlink")
                    .apply(&set)
                    .expect("apply")
            })
            .expect("enter");
    }

    pub(crate) fn set(&self, name: &str, value: i64) {
        self.netns
            .run(|| sysctl::set(name, &value.to_string()).expect("set"))
            .expect("enter");
    }
}

/// The index of a link of a node.
pub(crate) fn index(link: &str) -> u32 {
    match link {
        "eth0" => 2,
        "pod" => 3,
        "port" => 4,
        "vx-bridge" => 10,
        "vx-bridge-6" => 11,
        "vx-local" => 12,
        "vx-local-6" => 13,
        _ => 1,
    }
}

/// A fleet that runs. Nodes by name, pods as `<node>/pod`, the router as `wan`.
pub(crate) struct Lab {
    pub(crate) nodes: Vec<Spec>,
    pub(crate) places: BTreeMap<String, Place>,
    /// The nodes whose pod is a port of a bridge.
    pub(crate) bridged: BTreeSet<&'static str>,
}

impl Lab {
    /// Builds it; of each node it is asked whether its pod is a port of a bridge.
    pub(crate) fn new(nodes: Vec<Spec>, mut bridged: impl FnMut() -> bool) -> Self {
        let mut places = BTreeMap::new();
        let mut ports = BTreeSet::new();
        let mut wan = Place::new();
        wan.netlink.up(1);
        for (at, own) in (0..).zip(&nodes) {
            let bridge = format!("br{}", own.cluster);
            let bridge_index = 100 + u32::from(own.cluster);
            if !nodes[..at as usize]
                .iter()
                .any(|other| other.cluster == own.cluster)
            {
                wan.netlink
                    .bridge(&bridge, bridge_index, fleet::mac("wan", &bridge).0, 1500);
                for family in [Family::Ipv4, Family::Ipv6] {
                    let length = if family == Family::Ipv4 { 24 } else { 64 };
                    let ip = fleet::router(own, family);
                    let net = ipnet::IpNet::new(ip, length).expect("a length");
                    wan.netlink.address(bridge_index, net);
                }
            }
            let node = Place::new();
            let name = own.name;
            let as_port = bridged();
            if as_port {
                ports.insert(name);
            }
            wan.netlink.veth(
                &End {
                    name,
                    index: 10 + at,
                    mac: fleet::mac("wan", name).0,
                    mtu: 1500,
                    namespace: None,
                    master: Some(bridge_index),
                },
                &End {
                    name: "eth0",
                    index: 2,
                    mac: fleet::mac(name, "eth0").0,
                    mtu: 1500,
                    namespace: Some(&node.netns),
                    master: None,
                },
            );
            wan.netlink.flush().expect("wires");
            let (node, pod) = build_node(own, &nodes, node, as_port);
            places.insert(name.to_owned(), node);
            places.insert(format!("{name}/pod"), pod);
        }
        for family in ["ipv4", "ipv6"] {
            wan.set(&format!("net.{family}.conf.all.forwarding"), 1);
        }
        places.insert("wan".to_owned(), wan);
        let mut lab = Self {
            nodes,
            places,
            bridged: ports,
        };
        lab.settle();
        lab
    }

    pub(crate) fn place(&mut self, name: &str) -> &mut Place {
        self.places.get_mut(name).expect("a place of the lab")
    }

    /// Makes the kernel draw all conclusions of lost and found carriers now.
    pub(crate) fn settle(&mut self) {
        for (name, place) in &mut self.places {
            let count = if name == "wan" { 110 } else { 14 };
            for index in 1..count {
                place.netlink.settle(index);
            }
            // Links that are not there are no reason to fail.
            place.netlink.flush_all();
        }
    }
}

fn build_node(own: &Spec, nodes: &[Spec], mut node: Place, bridged: bool) -> (Place, Place) {
    let mut pod = Place::new();
    if bridged {
        node.netlink
            .bridge("pod", 3, fleet::mac(own.name, "pod").0, 1500);
    }
    let port = if bridged { "port" } else { "pod" };
    node.netlink.veth(
        &End {
            name: port,
            index: index(port),
            mac: fleet::mac(own.name, port).0,
            mtu: 1500,
            namespace: None,
            master: bridged.then_some(3),
        },
        &End {
            name: "eth0",
            index: 2,
            mac: fleet::mac(own.name, "pod-eth0").0,
            mtu: 1500,
            namespace: Some(&pod.netns),
            master: None,
        },
    );
    for link in 1..=3 {
        node.netlink.up(link);
    }
    let state = fleet::state_among(own, nodes);
    for link in &state.links {
        if let LinkKind::Vxlan(vxlan) = &link.kind {
            node.netlink.queue(tunnel(
                &link.name,
                link.mac.expect("a MAC"),
                link.mtu,
                vxlan,
            ));
        }
    }
    node.netlink.flush().expect("links");
    node.netns
        .run(|| {
            for row in &state.sysctls {
                sysctl::set(&row.name, &row.value.to_string()).expect("set");
            }
        })
        .expect("enter");
    rows(&mut node.netlink, &state);
    node.netlink.flush().expect("rows");
    node.translate(state.nat.iter().cloned());
    for link in 1..=2 {
        pod.netlink.up(link);
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        let length = own.pod_prefix(family).prefix_len();
        let net = ipnet::IpNet::new(pod_ip(own, family), length).expect("a length");
        pod.netlink.address(2, net);
        pod.netlink.route(&Route {
            dst: if family == Family::Ipv4 {
                fleet::net("0.0.0.0/0")
            } else {
                fleet::net("::/0")
            },
            via: Some(own.pod_gateway(family)),
            index: 2,
            table: 254,
        });
    }
    pod.netlink.flush().expect("a pod");
    (node, pod)
}

/// Puts the rows in that have a place in the kernel.
pub(crate) fn rows(netlink: &mut Netlink, state: &NodeState) {
    for row in &state.addresses {
        netlink.address(index(&row.link), row.net);
    }
    for row in &state.neighbours {
        netlink.neighbour(index(&row.link), row.ip, row.mac.expect("a MAC").0);
    }
    for row in &state.fdb {
        netlink.forwarding(index(&row.link), row.mac.0, row.dst.expect("a VTEP"));
    }
    for row in &state.rules {
        if let RuleAction::Lookup(table) = row.action {
            netlink.queue(rule(RTM_NEWRULE, row.family, row.priority, table));
        }
    }
    for row in &state.routes {
        netlink.route(&Route {
            dst: row.dst,
            via: row.hops[0].via,
            index: index(&row.hops[0].link),
            table: row.table,
        });
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELADDR: u16 = 21;
const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
const CREATE: i32 = 0x400;
const REPLACE: i32 = 0x100;

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn af(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

/// Makes a VXLAN link, up.
pub(crate) fn tunnel(name: &str, mac: Mac, mtu: u32, vxlan: &Vxlan) -> Message {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index(name).to_ne_bytes());
    // IFF_UP
    header[8] = 1;
    header[12] = 1;
    let local = vxlan.local.expect("a VTEP");
    Message::new(RTM_NEWLINK, CREATE, &header, format!("make {name}"))
        .text(3, name)
        .attribute(1, &mac.0)
        .number(4, mtu)
        .nest(18, |info| {
            info.text(1, "vxlan").nest(2, |data| {
                data.number(1, vxlan.vni)
                    .number(3, index("eth0"))
                    .attribute(if local.is_ipv4() { 4 } else { 17 }, &octets(local))
                    .attribute(7, &[u8::from(vxlan.learning)])
                    .attribute(15, &vxlan.port.to_be_bytes())
            })
        })
}

pub(crate) fn rule(kind: u16, family: Family, priority: u32, table: u32) -> Message {
    let mut header = [0; 12];
    header[0] = af(family);
    header[4] = table as u8;
    // FR_ACT_TO_TBL
    header[7] = 1;
    Message::new(kind, CREATE, &header, format!("rule {priority}"))
        .number(6, priority)
        .number(15, table)
}

/// A rule before all others but that of the local table, for what comes in by a link: `action` is `FR_ACT_*`.
pub(crate) fn hijack(family: Family, iif: &str, action: u8) -> Message {
    let mut header = [0; 12];
    header[0] = af(family);
    header[7] = action;
    Message::new(RTM_NEWRULE, CREATE, &header, format!("rule iif {iif}"))
        .number(6, 100)
        .text(3, iif)
}

/// A route with two ways.
pub(crate) fn two_ways(dst: ipnet::IpNet, table: u32, link: u32, via: [IpAddr; 2]) -> Message {
    let mut header = [0; 12];
    header[0] = af(Family::of(dst.addr()));
    header[1] = dst.prefix_len();
    header[4] = table as u8;
    header[5] = 3;
    header[7] = 1;
    let mut ways = Vec::new();
    for via in via {
        let via = octets(via);
        let length = 8 + 4 + via.len() as u16;
        ways.extend(length.to_ne_bytes());
        // RTNH_F_ONLINK, weight 1.
        ways.extend([4, 0]);
        ways.extend(link.to_ne_bytes());
        ways.extend((4 + via.len() as u16).to_ne_bytes());
        ways.extend(5_u16.to_ne_bytes());
        ways.extend(via);
    }
    Message::new(
        RTM_NEWROUTE,
        CREATE | REPLACE,
        &header,
        format!("two ways to {dst}"),
    )
    .attribute(1, &octets(dst.addr()))
    .number(15, table)
    .attribute(9, &ways)
}

/// A route that refuses: `kind` is `rtm_type`.
pub(crate) fn refusal(kind: u8, dst: ipnet::IpNet, table: u32) -> Message {
    let mut header = [0; 12];
    header[0] = af(Family::of(dst.addr()));
    header[1] = dst.prefix_len();
    header[4] = table as u8;
    header[5] = 3;
    header[7] = kind;
    Message::new(
        RTM_NEWROUTE,
        CREATE | REPLACE,
        &header,
        format!("refuse {dst}"),
    )
    .attribute(1, &octets(dst.addr()))
    .number(15, table)
}

pub(crate) fn mtu(link: u32, mtu: u32) -> Message {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    Message::new(RTM_NEWLINK, 0, &header, format!("mtu {mtu}")).number(4, mtu)
}

pub(crate) fn without_address(link: u32, net: ipnet::IpNet) -> Message {
    let mut header = [0; 8];
    header[0] = af(Family::of(net.addr()));
    header[1] = net.prefix_len();
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    Message::new(RTM_DELADDR, 0, &header, format!("take {net} away"))
        .attribute(2, &octets(net.addr()))
        .attribute(1, &octets(net.addr()))
}

pub(crate) fn pod_ip(own: &Spec, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => own.pod(5),
        Family::Ipv6 => own.pod6(5),
    }
}

/// Marks the number of an answer.
pub(crate) const ANSWER: u32 = 1 << 31;

/// A socket that remembers the numbers that it receives, and answers those that are not answers themselves.
pub(crate) struct Ear {
    /// Whose it is.
    place: String,
    socket: UdpSocket,
    heard: Vec<u32>,
}

impl Ear {
    pub(crate) fn open(lab: &Lab, place: &str, at: IpAddr) -> Option<Self> {
        let socket = lab.places[place]
            .netns
            .run(|| UdpSocket::bind(SocketAddr::new(at, PORT)))
            .expect("enter")
            .ok()?;
        Some(Self::of(place, socket))
    }

    fn of(place: &str, socket: UdpSocket) -> Self {
        socket.set_nonblocking(true).expect("nonblocking");
        Self {
            place: place.to_owned(),
            socket,
            heard: Vec::new(),
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // What an earlier packet of ours met, told to the next caller.
                Err(_) => continue,
            };
            let Some(number) = buffer.first_chunk().filter(|_| length >= 4) else {
                continue;
            };
            let number = u32::from_be_bytes(*number);
            self.heard.push(number);
            if number & ANSWER == 0 {
                // An answer that cannot be sent is one that is not heard.
                let _ = self.socket.send_to(&(number | ANSWER).to_be_bytes(), from);
            }
        }
    }
}

/// Sends a numbered datagram and gives the socket that hears the answer; a refusal to send is an answer too, and one that
/// the receiver's silence tells.
pub(crate) fn say(
    lab: &Lab,
    place: &str,
    src: IpAddr,
    dst: IpAddr,
    number: u32,
    length: usize,
    ttl: Option<u8>,
) -> Option<Ear> {
    let mut data = vec![0; length.max(4)];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let socket = lab.places[place]
        .netns
        .run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(src, 0))?;
            if let (Some(ttl), true) = (ttl, src.is_ipv4()) {
                socket.set_ttl(u32::from(ttl))?;
            }
            socket.send_to(&data, SocketAddr::new(dst, PORT))?;
            Ok::<_, std::io::Error>(socket)
        })
        .expect("enter");
    Some(Ear::of(place, socket.ok()?))
}

/// Waits until all of `expected` were heard or the time is over; then all that was heard within the grace that even the
/// slowest unexpected packet would need.
pub(crate) fn listen(
    ears: &mut [Ear],
    expected: &BTreeSet<(String, u32)>,
    limit: Duration,
    grace: Duration,
) -> BTreeSet<(String, u32)> {
    let start = Instant::now();
    loop {
        ears.iter_mut().for_each(Ear::listen);
        let of = |ear: &Ear| {
            let place = ear.place.clone();
            ear.heard
                .iter()
                .map(move |&number| (place.clone(), number))
                .collect::<Vec<_>>()
        };
        let heard: BTreeSet<_> = ears.iter().flat_map(of).collect();
        let all = expected.is_subset(&heard);
        let waited = start.elapsed();
        if waited >= limit || all && waited >= grace {
            return heard;
        }
        poll(ears, if all { grace } else { limit }.saturating_sub(waited));
    }
}

fn poll(ears: &[Ear], limit: Duration) {
    use std::os::fd::AsFd as _;
    let mut descriptors: Vec<_> = ears
        .iter()
        .map(|ear| nix::poll::PollFd::new(ear.socket.as_fd(), nix::poll::PollFlags::POLLIN))
        .collect();
    let limit = nix::poll::PollTimeout::try_from(limit).unwrap_or(nix::poll::PollTimeout::MAX);
    nix::poll::poll(&mut descriptors, limit).expect("poll");
}

/// How often the machine had no room for a neighbour (`table_fulls`).
pub(crate) fn neighbour_overflows() -> u64 {
    let column = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let names = lines.next().unwrap_or_default().split_whitespace();
        let at = names.into_iter().position(|name| name == "table_fulls");
        let of = |line: &str| u64::from_str_radix(line.split_whitespace().nth(at?)?, 16).ok();
        lines.filter_map(of).sum::<u64>()
    };
    column("/proc/net/stat/arp_cache") + column("/proc/net/stat/ndisc_cache")
}
