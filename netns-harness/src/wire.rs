//! Links, addresses, routes and neighbours as netlink requests. All of them only queue; [`Netlink::flush`] carries out.
//!
//! Indices and MACs are the caller's choice, so nothing has to be read back before the next request can name it.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::Error;
use crate::namespace::Netns;
use crate::netlink::{Message, Netlink};

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
/// The router need not be in a connected prefix.
const RTNH_F_ONLINK: u32 = 4;
/// `IFA_F_NODAD`.
const NODAD: u32 = 0x02;

/// One end of a pair of virtual Ethernet links.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// The link's name, at most 15 bytes.
    pub name: &'a str,
    /// Its interface index; has to be free in its namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Where it is put; none for the netlink socket's own namespace.
    pub namespace: Option<&'a Netns>,
    /// The index of the bridge whose port it becomes; only for an end in the socket's own namespace.
    pub master: Option<u32>,
}

/// A route to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The router; none where the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// The link's index.
    pub index: u32,
    /// The table; 254 is the main one.
    pub table: u32,
}

/// What can be asked of the network of a namespace.
pub trait Wire {
    /// Makes a pair of links. `here` is up; `there` has to be set up from inside of its namespace.
    fn veth(&mut self, here: &End<'_>, there: &End<'_>);
    /// Makes a bridge that forwards at once, up.
    fn bridge(&mut self, name: &str, index: u32, mac: [u8; 6], mtu: u32);
    /// Sets a link up.
    fn up(&mut self, index: u32);
    /// Sets a link down.
    fn down(&mut self, index: u32);
    /// Removes a link, and with it its other end.
    fn remove_link(&mut self, index: u32);
    /// Changes a link's Ethernet address.
    fn mac(&mut self, index: u32, mac: [u8; 6]);
    /// Asks for a link, which makes the kernel settle its operational state at once instead of within a second.
    fn settle(&mut self, index: u32);
    /// Adds an address; IPv6 without duplicate address detection.
    fn address(&mut self, index: u32, net: IpNet);
    /// Adds a route or replaces the one with its destination.
    fn route(&mut self, route: &Route);
    /// Removes a route.
    fn remove_route(&mut self, route: &Route);
    /// Adds a permanent neighbour or replaces the one with its address.
    fn neighbour(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]);
    /// Removes a neighbour.
    fn remove_neighbour(&mut self, index: u32, ip: IpAddr);
    /// Appends a permanent row to the forwarding database of a VXLAN link.
    fn forwarding(&mut self, index: u32, mac: [u8; 6], dst: IpAddr);
    /// Removes such a row.
    fn remove_forwarding(&mut self, index: u32, mac: [u8; 6], dst: IpAddr);
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: i32, change: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ndmsg`.
fn neighbour_header(family: i32, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    // Address families are small numbers; libc types them as int.
    header[0] = family as u8;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// `struct rtmsg`.
fn route_header(route: &Route, flags: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(route.dst.addr()) as u8;
    header[1] = route.dst.prefix_len();
    header[4] = u8::try_from(route.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    header[5] = libc::RTPROT_BOOT;
    header[6] = if route.via.is_none() && route.dst.addr().is_ipv4() {
        libc::RT_SCOPE_LINK
    } else {
        libc::RT_SCOPE_UNIVERSE
    };
    header[7] = libc::RTN_UNICAST;
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn family(ip: IpAddr) -> i32 {
    if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn end(message: Message, end: &End<'_>) -> Message {
    let message = message
        .text(libc::IFLA_IFNAME, end.name)
        .attribute(libc::IFLA_ADDRESS, &end.mac)
        .number(libc::IFLA_MTU, end.mtu);
    let message = match end.master {
        Some(master) => message.number(libc::IFLA_MASTER, master),
        None => message,
    };
    match end.namespace {
        // Descriptors are not negative.
        Some(netns) => message.number(libc::IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32),
        None => message,
    }
}

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

impl Wire for Netlink {
    fn veth(&mut self, here: &End<'_>, there: &End<'_>) {
        let message = Message::new(
            libc::RTM_NEWLINK,
            CREATE,
            &link_header(here.index, libc::IFF_UP, libc::IFF_UP),
            format!("make veth {} and {}", here.name, there.name),
        );
        let message = end(message, here).nest(libc::IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        end(
                            // The kernel opens no end whose other end it has not made yet (ENOTCONN).
                            peer.raw(&link_header(there.index, 0, 0)),
                            there,
                        )
                    })
                })
        });
        self.queue(message);
    }

    fn bridge(&mut self, name: &str, index: u32, mac: [u8; 6], mtu: u32) {
        let message = Message::new(
            libc::RTM_NEWLINK,
            CREATE,
            &link_header(index, libc::IFF_UP, libc::IFF_UP),
            format!("make bridge {name}"),
        )
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_ADDRESS, &mac)
        .number(libc::IFLA_MTU, mtu)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, |data| {
                    // No snooping: a segment without a querier must still carry neighbour solicitations.
                    data.number(IFLA_BR_FORWARD_DELAY, 0)
                        .attribute(IFLA_BR_MCAST_SNOOPING, &[0])
                })
        });
        self.queue(message);
    }

    fn up(&mut self, index: u32) {
        self.queue(Message::new(
            libc::RTM_NEWLINK,
            0,
            &link_header(index, libc::IFF_UP, libc::IFF_UP),
            format!("set link {index} up"),
        ));
    }

    fn down(&mut self, index: u32) {
        self.queue(Message::new(
            libc::RTM_NEWLINK,
            0,
            &link_header(index, 0, libc::IFF_UP),
            format!("set link {index} down"),
        ));
    }

    fn remove_link(&mut self, index: u32) {
        self.queue(Message::new(
            libc::RTM_DELLINK,
            0,
            &link_header(index, 0, 0),
            format!("remove link {index}"),
        ));
    }

    fn mac(&mut self, index: u32, mac: [u8; 6]) {
        self.queue(
            Message::new(
                libc::RTM_NEWLINK,
                0,
                &link_header(index, 0, 0),
                format!("change the address of link {index}"),
            )
            .attribute(libc::IFLA_ADDRESS, &mac),
        );
    }

    fn settle(&mut self, index: u32) {
        self.queue(Message::new(
            libc::RTM_GETLINK,
            0,
            &link_header(index, 0, 0),
            format!("ask for link {index}"),
        ));
    }

    fn address(&mut self, index: u32, net: IpNet) {
        let mut header = [0; 8];
        header[0] = family(net.addr()) as u8;
        header[1] = net.prefix_len();
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let ip = octets(net.addr());
        let message = Message::new(
            libc::RTM_NEWADDR,
            REPLACE,
            &header,
            format!("add {net} to link {index}"),
        )
        .attribute(libc::IFA_LOCAL, &ip)
        .attribute(libc::IFA_ADDRESS, &ip);
        let message = match net {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message.attribute(libc::IFA_BROADCAST, &net.broadcast().octets())
            }
            IpNet::V4(_) => message,
            IpNet::V6(_) => message.number(libc::IFA_FLAGS, NODAD),
        };
        self.queue(message);
    }

    fn route(&mut self, route: &Route) {
        let message = route_message(libc::RTM_NEWROUTE, REPLACE, route, "add");
        self.queue(message);
    }

    fn remove_route(&mut self, route: &Route) {
        let message = route_message(libc::RTM_DELROUTE, 0, route, "remove");
        self.queue(message);
    }

    fn neighbour(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]) {
        self.queue(
            Message::new(
                libc::RTM_NEWNEIGH,
                REPLACE,
                &neighbour_header(family(ip), index, libc::NUD_PERMANENT, 0),
                format!("add neighbour {ip} to link {index}"),
            )
            .attribute(libc::NDA_DST, &octets(ip))
            .attribute(libc::NDA_LLADDR, &mac),
        );
    }

    fn remove_neighbour(&mut self, index: u32, ip: IpAddr) {
        self.queue(
            Message::new(
                libc::RTM_DELNEIGH,
                0,
                &neighbour_header(family(ip), index, 0, 0),
                format!("remove neighbour {ip} from link {index}"),
            )
            .attribute(libc::NDA_DST, &octets(ip)),
        );
    }

    fn forwarding(&mut self, index: u32, mac: [u8; 6], dst: IpAddr) {
        self.queue(
            Message::new(
                libc::RTM_NEWNEIGH,
                libc::NLM_F_CREATE | libc::NLM_F_APPEND,
                &neighbour_header(
                    libc::AF_BRIDGE,
                    index,
                    libc::NUD_PERMANENT | libc::NUD_NOARP,
                    libc::NTF_SELF,
                ),
                format!("add forwarding row {} to link {index}", mac_text(mac)),
            )
            .attribute(libc::NDA_LLADDR, &mac)
            .attribute(libc::NDA_DST, &octets(dst)),
        );
    }

    fn remove_forwarding(&mut self, index: u32, mac: [u8; 6], dst: IpAddr) {
        self.queue(
            Message::new(
                libc::RTM_DELNEIGH,
                0,
                &neighbour_header(libc::AF_BRIDGE, index, 0, libc::NTF_SELF),
                format!("remove forwarding row {} from link {index}", mac_text(mac)),
            )
            .attribute(libc::NDA_LLADDR, &mac)
            .attribute(libc::NDA_DST, &octets(dst)),
        );
    }
}

fn route_message(kind: u16, flags: i32, route: &Route, verb: &str) -> Message {
    let onlink = if route.via.is_some() {
        RTNH_F_ONLINK
    } else {
        0
    };
    let message = Message::new(
        kind,
        flags,
        &route_header(route, onlink),
        format!("{verb} route {} by link {}", route.dst, route.index),
    )
    .attribute(libc::RTA_DST, &octets(route.dst.network()))
    .number(libc::RTA_OIF, route.index)
    .number(libc::RTA_TABLE, route.table);
    match route.via {
        Some(via) => message.attribute(libc::RTA_GATEWAY, &octets(via)),
        None => message,
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Waits until a namespace has at most this many links, woken by the kernel at every change; false when the limit passes first.
///
/// The other ends of links go when the kernel frees their namespaces, which is long after their last holder let go.
pub fn wait_for_links(netns: &Netns, most: usize, limit: Duration) -> Result<bool, Error> {
    netns.run(|| {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )
        .map_err(Error::doing("open a netlink socket"))?;
        // The mask's bit of RTNLGRP_LINK.
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))
            .map_err(Error::doing("listen for changes of links"))?;
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 64 << 10];
        loop {
            // This file lists the reading thread's namespace, after two lines of headings.
            let text = std::fs::read_to_string("/proc/thread-self/net/dev")
                .map_err(Error::doing("count links"))?;
            if text.lines().count().saturating_sub(2) <= most {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(
                &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::new("wait for links to go", error)),
            }
            // What exactly changed is of no interest, nor is an overflow.
            while !matches!(
                recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()),
                Err(Errno::EAGAIN)
            ) {}
        }
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn prefix(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    #[ignore = "netns: needs veth, bridge"]
    fn packets_cross_a_bridged_segment_and_a_router_at_once() {
        let [router, left, right] = [(); 3].map(|()| Netns::create().expect("create"));
        let mut hub = router
            .run(|| {
                crate::sysctl::set("net.ipv4.ip_forward", "1").expect("sysctl");
                Netlink::open()
            })
            .expect("run")
            .expect("open");
        for (at, netns, net) in [(10, &left, "10.1.0"), (20, &right, "10.2.0")] {
            hub.bridge(&format!("br{at}"), at, [2, 0, 0, 0, 9, at as u8], 1500);
            hub.veth(
                &End {
                    name: &format!("p{at}"),
                    index: at + 1,
                    mac: [2, 0, 0, 0, 1, at as u8],
                    mtu: 1500,
                    namespace: None,
                    master: Some(at),
                },
                &End {
                    name: "eth0",
                    index: 2,
                    mac: [2, 0, 0, 0, 2, at as u8],
                    mtu: 1500,
                    namespace: Some(netns),
                    master: None,
                },
            );
            hub.address(at, prefix(&format!("{net}.1/24")));
            hub.settle(at + 1);
            hub.settle(at);
            hub.flush().expect("wire");
            let mut node = netns.run(Netlink::open).expect("run").expect("open");
            node.up(1);
            node.up(2);
            node.address(2, prefix(&format!("{net}.2/24")));
            node.route(&Route {
                dst: prefix("0.0.0.0/0"),
                via: Some(format!("{net}.1").parse().expect("an address")),
                index: 2,
                table: 254,
            });
            node.settle(2);
            node.flush().expect("wire");
        }
        let listener = right
            .run(|| TcpListener::bind("10.2.0.2:7").expect("bind"))
            .expect("run");
        left.run(|| {
            TcpStream::connect_timeout(
                &"10.2.0.2:7".parse().expect("an address"),
                std::time::Duration::from_secs(3),
            )
            .expect("connect")
        })
        .expect("run");
        listener.accept().expect("accept");
    }
}
