//! Frames: wires, bridges, tunnels, and the question who has an address.

use std::net::IpAddr;

use super::Packet;
use super::forward::{Final, Walker};
use super::node::{Kind, LinkId, NodeId};
use super::outcome::Stop;
use crate::mac::Mac;

/// A VLAN tag, by which a frame may exceed the MTU of the end of a wire (`is_skb_forwardable`).
const TAG: u32 = 4;
/// Tunnels in tunnels and bridges in a row, beyond which the kernel sees a loop.
pub(super) const DEPTH: u8 = 8;
/// The length of a question for a MAC and of its answer (`struct arphdr` with its addresses), bytes.
pub(super) const QUESTION: u32 = 28;

/// To whom a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    /// One MAC; none where the link has no MACs or where it is not known and does not matter.
    One(Option<Mac>),
    /// A question for the holder of an address.
    Who(IpAddr),
}

/// A frame between two links.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) src: Option<Mac>,
    pub(super) cast: Cast,
    /// Where its packet goes on this segment.
    pub(super) next_hop: IpAddr,
    /// Its packet, or of a question the one that waits for the answer.
    pub(super) packet: Packet,
    /// Where the VTEP of the one that it answers is, for tunnels that learn.
    pub(super) learned: Option<IpAddr>,
}

impl Frame {
    pub(super) fn len(&self) -> u32 {
        match self.cast {
            Cast::One(_) => self.packet.len,
            Cast::Who(_) => QUESTION,
        }
    }
}

/// Where a frame, or one of its copies, ended.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A link took it.
    On(NodeId, LinkId),
    /// Its end, or its tunnel's.
    Ended(Final),
}

/// An end by a stop.
pub(super) fn lost(node: NodeId, stop: Stop) -> Arrival {
    Arrival::Ended(Final::Stopped { node, stop })
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
        let mut arrivals = Vec::new();
        self.emit(node, link, frame, depth, &mut arrivals);
        let copies = arrivals.len();
        let mut left = None;
        let mut first = None;
        for arrival in arrivals {
            match arrival {
                Arrival::On(node, link) => return Ok((node, link)),
                Arrival::Ended(end @ Final::Left { .. }) => left = left.or(Some(end)),
                Arrival::Ended(end) => first = first.or(Some(end)),
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
    pub(super) fn emit(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Arrival>,
    ) {
        let here = self.world.node(node);
        let at = here.link(link);
        if let Some(end) = self.unusable(node, link) {
            out.push(Arrival::Ended(end));
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
                    match self.too_big(peer, peer_link, frame) {
                        Some(end) => out.push(end),
                        None => self.arrive(peer, peer_link, frame, depth, out),
                    }
                }
                None if self.world.trusts_underlay && at.underlay => {
                    self.cross(node, link, frame, depth, out);
                }
                None => out.push(self.leaves(node, link, frame)),
            },
        }
    }

    fn leaves(&self, node: NodeId, link: LinkId, frame: &Frame) -> Arrival {
        Arrival::Ended(Final::Left {
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
    pub(super) fn arrive(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Arrival>,
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
    fn accept(&self, node: NodeId, link: LinkId, frame: &Frame) -> Arrival {
        let at = self.world.node(node).link(link);
        match (frame.cast, at.mac) {
            (Cast::One(Some(wanted)), Some(own)) if wanted != own => lost(
                node,
                Stop::NotForUs {
                    link: at.name.to_string(),
                    mac: wanted,
                },
            ),
            _ => Arrival::On(node, link),
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
        out: &mut Vec<Arrival>,
    ) {
        let here = self.world.node(node);
        let at = here.link(bridge);
        if depth >= DEPTH {
            let row = at.name.to_string();
            out.push(lost(node, Stop::Loop { row }));
            return;
        }
        if !at.up {
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
                out.push(Arrival::On(node, bridge));
                return;
            }
            if let Some(port) = here.port(bridge, mac) {
                if Some(port) != from {
                    self.emit_port(node, port, frame, depth + 1, out);
                }
                return;
            }
        } else if from.is_some() {
            out.push(Arrival::On(node, bridge));
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
        out: &mut Vec<Arrival>,
    ) {
        match self.too_big(node, port, frame) {
            Some(end) => out.push(end),
            None => self.emit(node, port, frame, depth, out),
        }
    }

    /// Neither the end of a wire nor a bridge's port cuts a frame.
    fn too_big(&self, node: NodeId, link: LinkId, frame: &Frame) -> Option<Arrival> {
        let at = self.world.node(node).link(link);
        (at.mtu > 0 && frame.len() > at.mtu.saturating_add(TAG)).then(|| {
            let link = at.name.to_string();
            lost(node, Stop::TooBig { link, mtu: at.mtu })
        })
    }

    /// A frame crosses an underlay that gives no tables: to the next hop if a node has that address, else to the node that
    /// has the destination.
    fn cross(
        &mut self,
        node: NodeId,
        link: LinkId,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Arrival>,
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
                    out.push(Arrival::Ended(end));
                } else if self.world.node(peer).link(peer_link).kind == Kind::Bridge {
                    out.push(self.accept(peer, peer_link, &frame));
                } else {
                    self.arrive(peer, peer_link, &frame, depth, out);
                }
            }
            Some((peer, None)) => out.push(Arrival::Ended(Final::Delivered {
                node: peer,
                link: None,
                packet: frame.packet,
            })),
            None => out.push(self.leaves(node, link, frame)),
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
