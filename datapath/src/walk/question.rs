//! Who has an address: neighbour rows, and the questions that the kernel asks for want of one.

use std::net::IpAddr;

use super::Packet;
use super::forward::{Final, Walker};
use super::lookup::{Lookup, Query};
use super::node::{Kind, LinkId, NodeId};
use super::outcome::Stop;
use super::segment::{Arrival, Cast, Frame, QUESTION, unspecified};
use crate::mac::Mac;
use crate::state::{NeighbourState, RouteKind};

impl Walker<'_> {
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
        let mut arrivals = Vec::new();
        let recording = self.pause();
        self.learned = None;
        self.emit(node, link, &question, depth, &mut arrivals);
        let learned = self.learned.take();
        let sender = if here.holder(packet.src).is_some() {
            Some(packet.src)
        } else {
            here.source(link, next_hop, next_hop)
        };
        let mut answer = None;
        let mut left = None;
        for arrival in arrivals {
            match arrival {
                Arrival::On(peer, peer_link) => {
                    if !self.answers(peer, peer_link, next_hop, sender) {
                        continue;
                    }
                    let theirs = world.node(peer).link(peer_link).mac;
                    let reply = Frame {
                        src: theirs,
                        cast: Cast::One(Some(own)),
                        next_hop: sender.unwrap_or(next_hop),
                        packet: Packet {
                            len: QUESTION,
                            ..*packet
                        },
                        learned,
                    };
                    if self.send(peer, peer_link, &reply, depth) == Ok((node, link)) {
                        answer = theirs;
                        break;
                    }
                }
                Arrival::Ended(end @ Final::Left { .. }) => left = Some(end),
                Arrival::Ended(_) => {}
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
            upper: None,
        };
        let Lookup::Found { route, .. } = here.lookup(&query) else {
            return false;
        };
        if sender.is_some_and(|src| here.refuse_source(link, src, wanted, None).is_some()) {
            return false;
        }
        match route.kind {
            RouteKind::Local => true,
            _ => {
                at.proxy_arp
                    && at.forward4
                    && here.next_hops(&route).all(|next_hop| next_hop.link != link)
            }
        }
    }
}
