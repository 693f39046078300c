//! The address translations that the datapath owns, and the memory of them by which answers find back.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Packet;
use super::node::{LinkId, Node, NodeId};
use super::routes::{address, bits, masked};
use crate::state::{Family, Nat};

/// What connection tracking of one node knows of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tracked {
    node: NodeId,
    before: Packet,
    after: Packet,
}

impl Tracked {
    pub(super) fn new(node: NodeId, before: Packet, after: Packet) -> Self {
        Self {
            node,
            before,
            after,
        }
    }

    /// Whether a packet answers the one that was tracked; as it reaches the node.
    pub(super) fn is_answered_by(&self, node: NodeId, packet: &Packet) -> bool {
        self.node == node
            && self.after.protocol == packet.protocol
            && self.after.src == packet.dst
            && self.after.dst == packet.src
            && self.after.src_port == packet.dst_port
            && self.after.dst_port == packet.src_port
    }
}

/// What a node's NAT does with one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Translation {
    /// A connection's first packet: the rules are asked.
    Fresh,
    /// Of a connection that began elsewhere or in the middle: nothing is done.
    Ignored,
    /// An answer: the destination was put back; the source becomes this one when it leaves.
    Undone(IpAddr),
}

/// The first thing that happens to a packet in a node with NAT: an answer's destination is put back, or the destination
/// is exchanged.
pub(super) fn enter(
    node: &Node,
    id: NodeId,
    ingress: Option<LinkId>,
    tracked: &[Tracked],
    answering: bool,
    packet: &mut Packet,
) -> Translation {
    if answering {
        if let Some(known) = tracked
            .iter()
            .find(|known| known.is_answered_by(id, packet))
        {
            packet.dst = known.before.src;
            return Translation::Undone(known.before.dst);
        }
        // Only UDP may begin with an answer; for TCP and ICMP that is an invalid state, which NAT leaves alone.
        if packet.protocol != Packet::UDP {
            return Translation::Ignored;
        }
    }
    if let Some(link) = ingress {
        let name = &*node.link(link).name;
        for row in &node.nat {
            if let Nat::Netmap { dst, input, to } = row
                && input == name
                && dst.contains(&packet.dst)
            {
                packet.dst = netmapped(packet.dst, *to);
                break;
            }
        }
    }
    Translation::Fresh
}

/// The last thing: an answer's source is put back, or the source is exchanged.
pub(super) fn leave(
    node: &Node,
    egress: LinkId,
    next_hop: IpAddr,
    translation: Translation,
    packet: &mut Packet,
) {
    match translation {
        Translation::Ignored => return,
        Translation::Undone(src) => {
            packet.src = src;
            return;
        }
        Translation::Fresh => {}
    }
    let link = node.link(egress);
    for row in &node.nat {
        let src = match row {
            Nat::Masquerade { src, out }
                if src.contains(&packet.src)
                    && out.as_deref().is_none_or(|out| out == &*link.name) =>
            {
                node.source(egress, next_hop, packet.dst)
            }
            Nat::Snat { src, out, to } if src.contains(&packet.src) && out == &*link.name => {
                Some(*to)
            }
            Nat::Masquerade { .. } | Nat::Netmap { .. } | Nat::Snat { .. } => continue,
        };
        if let Some(src) = src {
            packet.src = src;
        }
        return;
    }
}

/// The address with the network bits of another network.
fn netmapped(ip: IpAddr, to: IpNet) -> IpAddr {
    let length = to.prefix_len();
    let host = bits(ip) & !masked(u128::MAX, length);
    address(masked(bits(to.addr()), length) | host, Family::of(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_kept() {
        for (ip, to, expected) in [
            ("10.210.1.7", "10.244.0.0/16", "10.244.1.7"),
            ("10.210.1.7", "0.0.0.0/0", "10.210.1.7"),
            ("10.210.1.7", "10.1.1.1/32", "10.1.1.1"),
            ("fd01:2::7", "fd10::/16", "fd10:2::7"),
        ] {
            let ip = ip.parse().expect("an address");
            let to = to.parse().expect("a prefix");
            assert_eq!(netmapped(ip, to).to_string(), expected);
        }
    }
}
