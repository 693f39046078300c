//! Tunnels: forwarding rows, the packet around a frame, and the frame out of it.

use std::net::IpAddr;

use super::Packet;
use super::forward::{At, Final, Walker};
use super::node::{LinkId, NodeId, Tunnel};
use super::outcome::{Carrier, Stop};
use super::segment::{Arrival, Cast, DEPTH, Frame, lost, unspecified};
use crate::mac::Mac;

/// Ethernet, VXLAN and UDP around a packet; the outer IP header comes on top.
const ENCAPSULATION: u32 = 14 + 8 + 8;

impl Walker<'_> {
    /// A frame goes into a tunnel, once for every remote end that the forwarding rows give.
    pub(super) fn encapsulate(
        &mut self,
        node: NodeId,
        link: LinkId,
        tunnel: &Tunnel,
        frame: &Frame,
        depth: u8,
        out: &mut Vec<Arrival>,
    ) {
        let world = self.world;
        let here = world.node(node);
        let at = here.link(link);
        // Its own packet comes back to it: the kernel drops that at once (`ELOOP`), and each turn would be flooded anew.
        if depth >= DEPTH || self.inside.contains(&(node, link)) {
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
        let flooded = rows.is_empty() || mac.is_zero();
        let mut remotes: Vec<IpAddr> = if flooded {
            here.remotes(link, Mac::ZERO)
        } else {
            rows
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
        self.inside.push((node, link));
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
            let on = |arrival: &Arrival| matches!(arrival, Arrival::On(..));
            let taken = out.get(landed..).is_some_and(|new| new.iter().any(on));
            if taken {
                kept = true;
                break;
            }
            if flooded {
                self.rewind(mark);
            }
        }
        self.inside.pop();
        let matters = |arrival: &Arrival| {
            matches!(
                arrival,
                Arrival::On(..) | Arrival::Ended(Final::Left { .. })
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
        out: &mut Vec<Arrival>,
    ) {
        let world = self.world;
        let header = if remote.is_ipv4() { 20 } else { 40 };
        let outer = Packet {
            src: tunnel.local.unwrap_or_else(|| unspecified(remote)),
            dst: remote,
            protocol: Packet::UDP,
            src_port: 0,
            dst_port: tunnel.port,
            len: frame.len().saturating_add(ENCAPSULATION + header),
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
                out.push(Arrival::Ended(end));
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
        out: &mut Vec<Arrival>,
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
            self.arrive(node, at, frame, depth, out);
            if let Some(Arrival::On(..)) = out.last() {
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
}
