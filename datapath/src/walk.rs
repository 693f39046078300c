//! What Linux does with one packet, given the tables of the nodes that it meets.
//!
//! ```text
//!  World ── insert(node, NodeState), wire, assume_underlay
//!    │
//!  walk ──► lookup (rules, prefixes, sources) ─► filter, nat ─► question (for MACs) ─► segment (wires, bridges), tunnel
//!    ▲                                                     │ a tunnel's packet is walked likewise, one deeper
//!    └──────────────── the next node ◄─────────────────────┘
//! ```
//!
//! The kernel's own healing is part of it: a next hop without a neighbour row is asked for on its segment, and on a VXLAN
//! link by way of the flood rows; a MAC without a forwarding row is flooded. What cannot be seen from [`NodeState`] is taken
//! to be harmless: filters and settings that were not read, the don't-fragment bit of tunnels (clear). Packet filters are met where the
//! kernel has its hooks, by tunnels' packets as well; a rule that cannot be told to hold stops nothing and is a [`Doubt`] of its hop.
//!
//! Where a route has several next hops, all of them are followed, and the first path that stops is the result: some flow will take it.
//!
//! ```
//! use datapath::state::{Address, Link, LinkKind, NodeState};
//! use datapath::walk::{End, Packet, World, walk};
//!
//! let node = |net: &str, mac| {
//!     let mut state = NodeState::default();
//!     state.links.insert(Link {
//!         name: "eth0".into(), index: 2, mac: Some(mac), mtu: 1500, up: true, carrier: true,
//!         kind: LinkKind::Veth { peer_index: 2 }, master: None, tx_dropped: 0, rx_dropped: 0,
//!     });
//!     state.addresses.insert(Address { link: "eth0".into(), net: net.parse().expect("a prefix") });
//!     state
//! };
//! let mut world = World::new();
//! world.insert("left", node("10.0.0.1/24", datapath::mac::Mac([2, 0, 0, 0, 0, 1])));
//! world.insert("right", node("10.0.0.2/24", datapath::mac::Mac([2, 0, 0, 0, 0, 2])));
//! world.wire(("left", "eth0"), ("right", "eth0"));
//! let packet = Packet::udp("10.0.0.1".parse().expect("an address"), "10.0.0.2".parse().expect("an address"), 8889);
//! let walk = walk(&world, "left", None, packet);
//! assert_eq!(walk.end, End::Delivered { node: "right".into(), link: Some("eth0".into()) }, "{walk}");
//! ```
//!
//! [`NodeState`]: crate::state::NodeState

mod filter;
mod forward;
mod hooks;
mod layer;
mod lookup;
mod nat;
mod node;
mod outcome;
mod question;
mod routes;
mod segment;
mod tunnel;
mod world;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use forward::{At, Final, Walker};
pub use layer::Layer;
pub use outcome::{Altered, Carrier, Doubt, End, Hop, Stop, Walk};
pub use world::World;

/// A packet, as far as its path depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The source; unspecified (`0.0.0.0`, `::`) to let the sending node choose.
    pub src: IpAddr,
    /// The destination.
    pub dst: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// The UDP or TCP source port; the identifier of an ICMP echo. 0 for one that a sender chooses.
    pub src_port: u16,
    /// The UDP or TCP destination port.
    pub dst_port: u16,
    /// The length with the IP header, bytes.
    pub len: u32,
    /// Whether routers may not cut it; IPv6 routers never do.
    pub dont_fragment: bool,
    /// The hops that are left.
    pub ttl: u8,
}

impl Packet {
    /// The protocol number of ICMP.
    pub const ICMP: u8 = 1;
    /// The protocol number of ICMPv6.
    pub const ICMP6: u8 = 58;
    /// The protocol number of TCP.
    pub const TCP: u8 = 6;
    /// The protocol number of UDP.
    pub const UDP: u8 = 17;

    /// A small UDP packet.
    #[must_use]
    pub fn udp(src: IpAddr, dst: IpAddr, dst_port: u16) -> Self {
        Self {
            src,
            dst,
            protocol: Self::UDP,
            src_port: 40000,
            dst_port,
            len: 84,
            dont_fragment: false,
            ttl: 64,
        }
    }

    /// The first packet of a connection, from a port that its sender chooses.
    #[must_use]
    pub fn tcp(src: IpAddr, dst: IpAddr, dst_port: u16) -> Self {
        Self {
            protocol: Self::TCP,
            src_port: 0,
            len: 60,
            ..Self::udp(src, dst, dst_port)
        }
    }

    /// A small echo request.
    #[must_use]
    pub fn echo(src: IpAddr, dst: IpAddr) -> Self {
        Self {
            protocol: if dst.is_ipv4() {
                Self::ICMP
            } else {
                Self::ICMP6
            },
            src_port: 0,
            ..Self::udp(src, dst, 0)
        }
    }

    /// The answer to it. A kernel's echo reply may be cut on the way, whatever the request forbids (`icmp_sk_init`).
    #[must_use]
    pub fn answer(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ttl: 64,
            dont_fragment: self.dont_fragment && self.protocol != Self::ICMP,
            ..*self
        }
    }
}

/// Follows a packet that a node makes (`ingress` none) or that comes in by one of its links.
#[must_use]
pub fn walk(world: &World, from: &str, ingress: Option<&str>, packet: Packet) -> Walk {
    let mut walker = Walker::new(world, true);
    let end = start(&mut walker, from, ingress, packet);
    Walk {
        hops: walker.take_hops(),
        end: named(world, from, end),
    }
}

/// As [`walk`], without the record of the path: for judging many pairs.
#[must_use]
pub fn verdict(world: &World, from: &str, ingress: Option<&str>, packet: Packet) -> End {
    let end = start(&mut Walker::new(world, false), from, ingress, packet);
    named(world, from, end)
}

/// Follows a packet and, if it arrives, the answer to it. The answer begins where the packet was delivered, or comes in by
/// the link by which the packet left (a pod's); connection tracking undoes what NAT did on the way. There is no answer to
/// what left inside of a tunnel.
///
/// The caller compares the answer's end with where it asked from.
#[must_use]
pub fn round_trip(
    world: &World,
    from: &str,
    ingress: Option<&str>,
    packet: Packet,
) -> (Walk, Option<Walk>) {
    let mut walker = Walker::new(world, true);
    let end = start(&mut walker, from, ingress, packet);
    let asked = Walk {
        hops: walker.take_hops(),
        end: named(world, from, end.clone()),
    };
    let at = match end {
        Ok(Final::Delivered { node, packet, .. }) => At::made_by(node, packet.answer(), 0),
        Ok(Final::Left {
            node,
            link,
            packet: last,
            ..
        }) if last.dst_port == packet.dst_port && last.protocol == packet.protocol => {
            At::made_by(node, last.answer(), 0).in_by(link)
        }
        Ok(Final::Left { .. } | Final::Stopped { .. }) | Err(_) => return (asked, None),
    };
    let mut walker = walker.answer();
    let end = walker.run(at);
    let answered = Walk {
        hops: walker.take_hops(),
        end: end.named(world),
    };
    (asked, Some(answered))
}

fn start(
    walker: &mut Walker<'_>,
    from: &str,
    ingress: Option<&str>,
    packet: Packet,
) -> Result<Final, Stop> {
    let id = walker.world.id(from).ok_or(Stop::UnknownNode)?;
    let node = walker.world.node(id);
    if !node.known {
        return Err(Stop::UnknownNode);
    }
    let link = match ingress {
        Some(name) => Some(
            node.link_named(name)
                .filter(|&link| node.link(link).exists)
                .ok_or_else(|| Stop::LinkMissing {
                    link: name.to_owned(),
                })?,
        ),
        None => None,
    };
    // What comes in by a port comes in by its bridge.
    let link = link.map(|link| node.link(link).master.unwrap_or(link));
    Ok(walker.run(At::made_by(id, packet, 0).in_by(link)))
}

fn named(world: &World, from: &str, end: Result<Final, Stop>) -> End {
    match end {
        Ok(end) => end.named(world),
        Err(stop) => End::Stopped {
            node: from.to_owned(),
            stop,
        },
    }
}
