//! Frames: wires, bridges, tunnels, and the question who has an address.

use std::net::IpAddr;

use super::forward::{At, Final, Walker};
use super::node::{Kind, LinkId, NodeId, Tunnel};
use super::outcome::{Carrier, Stop};
use super::{Packet, lookup::Lookup, lookup::Query};
use crate::mac::Mac;
use crate::state::{NeighbourState, RouteKind};

/// Ethernet, VXLAN and UDP around a packet; the outer IP header comes on top.
const ENCAPSULATION: u32 = 14 + 8 + 8;
/// A VLAN tag, by which a frame may exceed the MTU of the end of a wire (`is_skb_forwardable`).
const TAG: u32 = 4;
/// Tunnels in tunnels and bridges in a row, beyond which the kernel sees a loop.
const DEPTH: u8 = 8;

/// To whom a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    /// One MAC; none where the link has no MACs or where it is not known and does not matter.
    One(Option<Mac>),
    /// A question for the holder of an address.
    Who(IpAddr),
}

/// A frame on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) src: Option<Mac>,
    pub(super) cast: Cast,
    /// Where its packet goes on this segment.
    pub(super) next_hop: IpAddr,
    /// Its packet, or of a question the one that waits for the answer.
    pub(super) packet: Packet,
    /// Where the questioner's VTEP is, for those that learn.
    pub(super) learned: Option<IpAddr>,
}

impl Frame {
    fn len(&self) -> u32 {
        match self.cast {
            Cast::One(_) => self.packet.len,
            Cast::Who(_) => 28,
        }
    }
}

/// Where a frame, or one of its copies, ended.
#[derive(Debug)]
pub(super) enum Landing {
    /// A link took it.
    On(NodeId, LinkId),
    /// Its end, or its tunnel's.
    Ended(Final),
}

fn lost(node: NodeId, stop: Stop) -> Landing {
    Landing::Ended(Final::Stopped { node, stop })
}

impl Walker<'_> {
    /// Sends a packet's frame and says where it lands.
    pub(super) fn send(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
    ) -> Result<(NodeId, LinkId), Final> {
        let mut landings = Vec::new();
        self.emit(node, link, frame, depth, &mut landings);
        let copies = landings.len();
        let mut left = None;
        let mut first = None;
        for landing in landings {
            match landing {
                Landing::On(node, link) => return Ok((node, link)),
                Landing::Ended(end @ Final::Left { .. }) => left = left.or(Some(end)),
                Landing::Ended(end) => first = first.or(Some(end)),
            }
        }
        let at = self.world.node(node).link(link);
        let unheard = || match frame.cast {
            Cast::One(Some(mac)) => Stop::NoFdb {
                link: at.name.to_string(),
                mac,
            },
            Cast::One(None) => Stop::LinkDown {
                link: at.name.to_string(),
            },
            Cast::Who(ip) => Stop::NoNeighbour {
                link: at.name.to_string(),
                ip,
            },
        };
        Err(match (left, first) {
            (Some(end), _) => end,
            // One copy: its own end says more than that nobody took it.
            (None, Some(end)) if copies == 1 => end,
            (None, _) => Final::Stopped {
                node,
                stop: unheard(),
            },
        })
    }

    /// Puts a frame out by a link.
    fn emit(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let here = self.world.node(node);
        let at = here.link(link);
        if let Some(end) = self.unusable(node, link) {
            out.push(Landing::Ended(end));
            return;
        }
        match &at.kind {
            Kind::Vxlan(tunnel) => {
                let tunnel = *tunnel;
                self.encapsulate(node, link, &tunnel, frame, depth, out);
            }
            Kind::Bridge => self.bridge(node, link, None, frame, depth, out),
            Kind::Loopback | Kind::Plain => match &at.wire {
                Some((peer, peer_link)) => {
                    let peer = *peer;
                    let far = self.world.node(peer);
                    if !far.known {
                        out.push(self.leaves(node, link, frame));
                        return;
                    }
                    let Some(peer_link) =
                        far.link_named(peer_link).filter(|&at| far.link(at).exists)
                    else {
                        let link = peer_link.to_string();
                        out.push(lost(peer, Stop::LinkMissing { link }));
                        return;
                    };
                    let end = far.link(peer_link);
                    if end.mtu > 0 && frame.len() > end.mtu + TAG {
                        out.push(lost(
                            peer,
                            Stop::TooBig {
                                link: end.name.to_string(),
                                mtu: end.mtu,
                            },
                        ));
                        return;
                    }
                    self.arrive(peer, peer_link, frame, depth, out);
                }
                None if self.world.trusts_underlay && at.underlay => {
                    self.cross(node, link, frame, depth, out);
                }
                None => out.push(self.leaves(node, link, frame)),
            },
        }
    }

    fn leaves(&self, node: NodeId, link: LinkId, frame: &Frame) -> Landing {
        Landing::Ended(Final::Left {
            node,
            link: Some(link),
            to: frame.next_hop,
            packet: frame.packet,
        })
    }

    /// Why a link cannot send, blamed on the far end of its wire if that is what took the carrier away.
    pub(super) fn unusable(&self, node: NodeId, link: LinkId) -> Option<Final> {
        let at = self.world.node(node).link(link);
        let name = at.name.to_string();
        if !at.exists {
            return Some(Final::Stopped {
                node,
                stop: Stop::LinkMissing { link: name },
            });
        }
        if at.up && at.carrier {
            return None;
        }
        if at.up
            && let Some((peer, peer_link)) = &at.wire
        {
            let far = self.world.node(*peer);
            if let Some(end) = far.link_named(peer_link).map(|link| far.link(link))
                && end.exists
                && !end.up
            {
                return Some(Final::Stopped {
                    node: *peer,
                    stop: Stop::LinkDown {
                        link: end.name.to_string(),
                    },
                });
            }
        }
        Some(Final::Stopped {
            node,
            stop: Stop::LinkDown { link: name },
        })
    }

    /// A frame comes in by a link.
    fn arrive(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let at = self.world.node(node).link(link);
        if !at.up {
            let link = at.name.to_string();
            out.push(lost(node, Stop::LinkDown { link }));
        } else if let Some(bridge) = at.master {
            self.bridge(node, bridge, Some(link), frame, depth, out);
        } else {
            out.push(self.accept(node, link, frame));
        }
    }

    /// A node takes a frame that reached one of its own links, or not.
    fn accept(&self, node: NodeId, link: LinkId, frame: &Frame) -> Landing {
        let at = self.world.node(node).link(link);
        match (frame.cast, at.mac) {
            (Cast::One(Some(wanted)), Some(own)) if wanted != own => lost(
                node,
                Stop::NotForUs {
                    link: at.name.to_string(),
                    mac: wanted,
                },
            ),
            _ => Landing::On(node, link),
        }
    }

    /// A frame in a bridge, from one of its ports or from the node itself.
    fn bridge(
        &mut self,
        node: NodeId,
        bridge: LinkId,
        from: Option<LinkId>,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let here = self.world.node(node);
        let at = here.link(bridge);
        if !at.up || depth >= DEPTH {
            let link = at.name.to_string();
            out.push(lost(node, Stop::LinkDown { link }));
            return;
        }
        if let Cast::One(Some(mac)) = frame.cast {
            let own = at.mac == Some(mac)
                || at
                    .ports
                    .iter()
                    .any(|&port| here.link(port).mac == Some(mac));
            if from.is_some() && own {
                out.push(Landing::On(node, bridge));
                return;
            }
            if let Some(port) = here.port(bridge, mac) {
                if Some(port) != from {
                    self.emit_port(node, port, frame, depth + 1, out);
                }
                return;
            }
        } else if from.is_some() {
            out.push(Landing::On(node, bridge));
        }
        for &port in &at.ports {
            let port_at = here.link(port);
            if Some(port) != from && port_at.up && port_at.carrier {
                self.emit_port(node, port, frame, depth + 1, out);
            }
        }
    }

    fn emit_port(
        &mut self,
        node: NodeId,
        port: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let at = self.world.node(node).link(port);
        if at.mtu > 0 && frame.len() > at.mtu + TAG {
            out.push(lost(
                node,
                Stop::TooBig {
                    link: at.name.to_string(),
                    mtu: at.mtu,
                },
            ));
            return;
        }
        self.emit(node, port, frame, depth, out);
    }

    /// A frame crosses an underlay that gives no tables: to the next hop if a node has that address, else to the node that
    /// has the destination.
    fn cross(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let (wanted, at) = match self.world.across_underlay(node, frame.next_hop) {
            Some(found) => (frame.cast, Some(found)),
            None => (
                Cast::One(None),
                self.world.across_underlay(node, frame.packet.dst),
            ),
        };
        match at {
            Some((peer, Some(peer_link))) => {
                let frame = Frame {
                    cast: wanted,
                    ..*frame
                };
                if let Some(end) = self.unusable(peer, peer_link) {
                    out.push(Landing::Ended(end));
                } else if self.world.node(peer).link(peer_link).kind == Kind::Bridge {
                    out.push(self.accept(peer, peer_link, &frame));
                } else {
                    self.arrive(peer, peer_link, &frame, depth, out);
                }
            }
            Some((peer, None)) => out.push(Landing::Ended(Final::Delivered {
                node: peer,
                link: None,
                packet: frame.packet,
            })),
            None => out.push(self.leaves(node, link, frame)),
        }
    }

    /// A frame goes into a tunnel, once for every remote end that the forwarding rows give.
    fn encapsulate(
        &mut self,
        node: NodeId,
        link: LinkId,
        tunnel: &Tunnel,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let world = self.world;
        let here = world.node(node);
        let at = here.link(link);
        if depth >= DEPTH {
            let row = at.name.to_string();
            out.push(lost(node, Stop::Loop { row }));
            return;
        }
        if let Some(local) = tunnel.local
            && local.is_ipv4()
            && !here.partial
            && here.holder(local).is_none()
        {
            let link = at.name.to_string();
            out.push(lost(node, Stop::VtepLocalGone { link, local }));
            return;
        }
        let (mac, rows) = match frame.cast {
            Cast::One(Some(mac)) => (mac, here.remotes(link, mac)),
            Cast::One(None) | Cast::Who(_) => (Mac::ZERO, here.remotes(link, Mac::ZERO)),
        };
        let flooded = rows.len() == 0 || mac.is_zero();
        let mut remotes: Vec<IpAddr> = if flooded {
            here.remotes(link, Mac::ZERO).collect()
        } else {
            rows.collect()
        };
        if let (true, Some(learned)) = (flooded, frame.learned)
            && tunnel.learning
        {
            remotes = vec![learned];
        }
        if remotes.is_empty() {
            let link = at.name.to_string();
            out.push(lost(node, Stop::NoFdb { link, mac }));
            return;
        }
        if flooded {
            // Of a flood to every peer only those copies matter that can find whom they are for.
            remotes.retain(|&remote| self.may_hold(remote, frame.cast));
        }
        let mark = self.mark();
        let mut kept = false;
        for remote in remotes {
            let row_mac = if flooded { Mac::ZERO } else { mac };
            self.note_tunnel(|| Carrier {
                vni: tunnel.vni,
                port: tunnel.port,
                to: remote,
                fdb: format!("{row_mac} dst {remote} dev {}", at.name),
                flooded,
            });
            let landed = out.len();
            self.tunnel_to(node, link, tunnel, remote, frame, depth, out);
            let on = |landing: &Landing| matches!(landing, Landing::On(..));
            let taken = out.get(landed..).is_some_and(|new| new.iter().any(on));
            if taken {
                kept = true;
                break;
            }
            if flooded {
                self.rewind(mark);
            }
        }
        let matters = |landing: &Landing| {
            matches!(
                landing,
                Landing::On(..) | Landing::Ended(Final::Left { .. })
            )
        };
        if flooded
            && !kept
            && let Cast::One(Some(mac)) = frame.cast
            && !out.iter().any(matters)
        {
            // The copies' own ends are those of peers that have nothing to do with the packet.
            out.clear();
            let link = at.name.to_string();
            out.push(lost(node, Stop::NoFdb { link, mac }));
        }
    }

    /// Whether the node behind a remote VTEP can be the one that a flooded frame looks for.
    fn may_hold(&self, remote: IpAddr, cast: Cast) -> bool {
        let world = self.world;
        let wanted = |node: NodeId| match cast {
            Cast::One(Some(mac)) => world.nodes_with(mac).contains(&node),
            Cast::One(None) => true,
            Cast::Who(ip) => {
                world.holders(ip).iter().any(|holder| holder.0 == node)
                    || world.node(node).links.iter().any(|link| link.proxy_arp)
            }
        };
        let holders = world.holders(remote);
        holders.is_empty()
            || holders
                .iter()
                .any(|&(node, _)| wanted(node) || world.node(node).bridges_tunnels)
    }

    /// One copy through the tunnel to one remote end.
    #[expect(clippy::too_many_arguments, reason = "the parts of one transmission")]
    fn tunnel_to(
        &mut self,
        node: NodeId,
        link: LinkId,
        tunnel: &Tunnel,
        remote: IpAddr,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let world = self.world;
        let header = if remote.is_ipv4() { 20 } else { 40 };
        let outer = Packet {
            src: tunnel.local.unwrap_or_else(|| unspecified(remote)),
            dst: remote,
            protocol: Packet::UDP,
            src_port: 0,
            dst_port: tunnel.port,
            len: frame.len() + ENCAPSULATION + header,
            // The kernel cuts a tunnel's own packet for IPv4 only (`ip6_fragment` without `ignore_df`).
            dont_fragment: remote.is_ipv6(),
            ttl: 64,
        };
        let end = if world.node(node).partial && world.trusts_underlay {
            self.over_plan(node, remote, outer)
        } else {
            // A forwarding row names no link of its own, so the route alone chooses it, whatever the tunnel is bound to.
            self.run(At::made_by(node, outer, depth + 1))
        };
        let (peer, outer_packet) = match end {
            Final::Delivered { node, packet, .. } => (node, packet),
            Final::Left { packet, .. } if world.trusts_underlay && packet.dst == remote => {
                let here = world.node(node).link(link);
                let mac = match frame.cast {
                    Cast::One(Some(mac)) => mac,
                    Cast::One(None) | Cast::Who(_) => Mac::ZERO,
                };
                let stop = Stop::VtepUnknown {
                    link: here.name.to_string(),
                    mac,
                    to: remote,
                };
                out.push(lost(node, stop));
                return;
            }
            end => {
                out.push(Landing::Ended(end));
                return;
            }
        };
        self.decapsulate(peer, tunnel, &outer_packet, frame, depth, out);
    }

    /// Where a tunnel's packet goes from a node of which only a plan is known.
    fn over_plan(&self, node: NodeId, remote: IpAddr, outer: Packet) -> Final {
        match self.world.across_underlay(node, remote) {
            Some((peer, Some(link))) => self.unusable(peer, link).unwrap_or(Final::Delivered {
                node: peer,
                link: Some(link),
                packet: outer,
            }),
            Some((peer, None)) => Final::Delivered {
                node: peer,
                link: None,
                packet: outer,
            },
            None => Final::Left {
                node,
                link: None,
                to: remote,
                packet: outer,
            },
        }
    }

    /// A tunnel's packet reached a node: the link with its port, family and VNI takes the frame out.
    fn decapsulate(
        &mut self,
        node: NodeId,
        sent: &Tunnel,
        outer: &Packet,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Landing>,
    ) {
        let here = self.world.node(node);
        let mut listens = false;
        let mut down = None;
        for (at, link) in (0..).zip(&here.links) {
            let Some(tunnel) = link.tunnel() else {
                continue;
            };
            let family = tunnel
                .local
                .is_none_or(|local| local.is_ipv4() == outer.dst.is_ipv4());
            if tunnel.port != outer.dst_port || !family {
                continue;
            }
            if !link.up {
                if tunnel.vni == sent.vni {
                    down = Some(link.name.to_string());
                }
                continue;
            }
            listens = true;
            if tunnel.vni != sent.vni {
                continue;
            }
            if let (Some(src), Some(own)) = (frame.src, link.mac)
                && src == own
            {
                let link = link.name.to_string();
                out.push(lost(node, Stop::OwnMac { link, mac: own }));
                return;
            }
            let frame = Frame {
                learned: Some(outer.src),
                ..*frame
            };
            self.arrive(node, at, &frame, depth, out);
            if let Some(Landing::On(..)) = out.last() {
                self.learned = Some(outer.src);
            }
            return;
        }
        let stop = match down {
            Some(link) => Stop::LinkDown { link },
            None if listens => Stop::VniUnknown {
                vni: sent.vni,
                port: sent.port,
            },
            None => Stop::NobodyListens { port: sent.port },
        };
        out.push(lost(node, stop));
    }

    /// The MAC of a next hop: from its row, or from whoever answers for it. The second is whether it was asked for.
    pub(super) fn resolve(
        &mut self,
        node: NodeId,
        link: LinkId,
        next_hop: IpAddr,
        packet: &Packet,
        depth: u8,
    ) -> Result<(Option<Mac>, bool), Final> {
        let world = self.world;
        let here = world.node(node);
        let at = here.link(link);
        let Some(own) = at.mac else {
            return Ok((None, false));
        };
        let row = here.neighbour(link, next_hop);
        if let Some(row) = row
            && row.state != NeighbourState::Failed
            && let Some(mac) = row.mac
        {
            return Ok((Some(mac), false));
        }
        let silent = || Final::Stopped {
            node,
            stop: Stop::NoNeighbour {
                link: at.name.to_string(),
                ip: next_hop,
            },
        };
        let unwired = at.kind == Kind::Plain && at.wire.is_none();
        if unwired {
            // Nobody can be asked: what the kernel found out by asking is the better word.
            if row.is_some() {
                return Err(silent());
            }
            let owner = (world.trusts_underlay && at.underlay)
                .then(|| world.across_underlay(node, next_hop))
                .flatten();
            let mac = owner.and_then(|(peer, link)| world.node(peer).link(link?).mac);
            return Ok((mac, false));
        }
        // A solicitation needs a source of the link's own (`ndisc_solicit`).
        let can_ask = next_hop.is_ipv4()
            || here.ipv6.derived
            || at.has_link_local()
            || here.holds_on(link, packet.src);
        if !can_ask {
            return Err(silent());
        }
        let question = Frame {
            src: Some(own),
            cast: Cast::Who(next_hop),
            next_hop,
            packet: *packet,
            learned: None,
        };
        let mut landings = Vec::new();
        let recording = self.pause();
        self.learned = None;
        self.emit(node, link, &question, depth, &mut landings);
        let learned = self.learned.take();
        let sender = if here.holder(packet.src).is_some() {
            Some(packet.src)
        } else {
            here.source(link, next_hop, next_hop)
        };
        let mut answer = None;
        let mut left = None;
        for landing in landings {
            match landing {
                Landing::On(peer, peer_link) => {
                    if !self.answers(peer, peer_link, next_hop, sender) {
                        continue;
                    }
                    let theirs = world.node(peer).link(peer_link).mac;
                    let reply = Frame {
                        src: theirs,
                        cast: Cast::One(Some(own)),
                        next_hop: sender.unwrap_or(next_hop),
                        packet: Packet { len: 28, ..*packet },
                        learned,
                    };
                    if self.send(peer, peer_link, &reply, depth) == Ok((node, link)) {
                        answer = theirs;
                        break;
                    }
                }
                Landing::Ended(end @ Final::Left { .. }) => left = Some(end),
                Landing::Ended(_) => {}
            }
        }
        self.resume(recording);
        match (answer, left) {
            (Some(mac), _) => Ok((Some(mac), true)),
            // Somebody out of sight may answer, unless the kernel already found that nobody does.
            (None, Some(_)) if row.is_none() => Ok((None, true)),
            (None, _) => Err(silent()),
        }
    }

    /// Whether a node answers a question for an address that came in by a link (`arp_process`, `ndisc_recv_ns`).
    fn answers(&self, node: NodeId, link: LinkId, wanted: IpAddr, sender: Option<IpAddr>) -> bool {
        let here = self.world.node(node);
        let at = here.link(link);
        if wanted.is_ipv6() {
            return !at.ipv6_off && here.holds_on(link, wanted);
        }
        let src = sender.unwrap_or(unspecified(wanted));
        let query = Query {
            src,
            dst: wanted,
            iif: Some(link),
        };
        let Lookup::Found { route, .. } = here.lookup(&query) else {
            return false;
        };
        if sender.is_some_and(|src| here.refuse_source(link, src, wanted, None).is_some()) {
            return false;
        }
        match route.kind {
            RouteKind::Local => true,
            _ => at.proxy_arp && at.forward4 && here.ways(route).all(|way| way.link != link),
        }
    }
}

/// The address that stands for none, of another's family.
pub(super) fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    }
}
