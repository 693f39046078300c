//! Where a packet in a node meets the chains of packet filters.

use std::net::IpAddr;

use super::Packet;
use super::filter::{Connection, Ruling, Seen, Suspect, Turn};
use super::forward::{At, Final, OWN_POSTROUTING, Walker};
use super::node::{LinkId, NodeId};
use super::outcome::{Altered, Doubt, Stop};
use crate::filter::{Hook, Translation};

/// All chains of a hook.
const ALL: Turn = Turn::After(i32::MIN);

impl<'w> Walker<'w> {
    /// A packet as filters see it where it comes into a node.
    pub(super) fn seen(&self, at: &At) -> Seen<'w> {
        let node = self.world.node(at.node);
        // A tunnel's packets are never answered by the like: each way is a connection of its own.
        let is_answer = self.answering && at.depth == 0;
        let is_known = || {
            if node.filters.is_none() {
                return true;
            }
            let mut tracked = self.tracked.iter();
            tracked.any(|known| known.is_answered_by(at.node, &at.packet))
        };
        let connection = match is_answer {
            true if is_known() => Connection::Answer,
            true if at.packet.protocol != Packet::UDP => Connection::Invalid,
            _ => Connection::New,
        };
        let mut seen = Seen::new(at.packet, connection, is_answer);
        seen.iif = at.ingress.map(|link| name_of(node, link));
        if node.filters.is_some() {
            let is_own = |ip: IpAddr| node.holder(ip).is_some();
            seen.is_local = (is_own(at.packet.src), is_own(at.packet.dst));
        }
        seen
    }

    /// Meets the filters of a hook.
    pub(super) fn meet(
        &mut self,
        at: &At,
        hop: usize,
        hook: Hook,
        turn: Turn,
        seen: &mut Seen<'w>,
    ) -> Result<(), Final> {
        let Some(filters) = &self.world.node(at.node).filters else {
            return Ok(());
        };
        let mut suspects = Vec::new();
        let ruling = filters.rule(hook, turn, seen, &mut suspects);
        if !suspects.is_empty() {
            self.edit(hop, |hop| {
                let doubts = suspects
                    .into_iter()
                    .map(|Suspect { by, per_million }| Doubt { by, per_million });
                hop.doubts.extend(doubts);
            });
        }
        let carries = at.depth > 0;
        let stop = match ruling {
            Ruling::Passes => return Ok(()),
            Ruling::Dropped(by) => Stop::Filtered {
                by: Box::new(by),
                carries,
            },
            Ruling::Refused(by) => Stop::Refused {
                by: Box::new(by),
                carries,
            },
        };
        Err(Final::Stopped {
            node: at.node,
            stop,
        })
    }

    /// Other people's translation of where a new connection goes.
    pub(super) fn redirect(&mut self, at: &mut At, hop: usize, seen: &mut Seen<'w>) {
        let node = self.world.node(at.node);
        let Some((by, translation)) = node
            .filters
            .as_ref()
            .and_then(|filters| filters.translation(Hook::Prerouting, seen))
        else {
            return;
        };
        let near = |link: LinkId| node.source(link, at.packet.src, at.packet.src);
        let to = match translation {
            Translation::Destination(to) => to,
            Translation::Redirect => at.ingress.and_then(near),
            Translation::Masquerade | Translation::Source(_) => None,
        };
        let from = at.packet.dst;
        if let Some(to) = to.filter(|to| to.is_ipv4() == from.is_ipv4()) {
            at.packet.dst = to;
            seen.is_local.1 = node.holder(to).is_some();
            self.edit(hop, |hop| hop.altered.push(Altered { by, from, to }));
        }
    }

    /// The filters between routing and the datapath's own translation.
    pub(super) fn on_its_way(
        &mut self,
        at: &At,
        (hop, seen): (usize, &Seen<'w>),
        egress: LinkId,
        packet: Packet,
    ) -> Result<Seen<'w>, Final> {
        let node = self.world.node(at.node);
        let mut seen = seen.clone().of(packet);
        seen.oif = Some(name_of(node, egress));
        let hook = if at.ingress.is_some() {
            Hook::Forward
        } else {
            Hook::Output
        };
        self.meet(at, hop, hook, ALL, &mut seen)?;
        let turn = Turn::Before(OWN_POSTROUTING);
        self.meet(at, hop, Hook::Postrouting, turn, &mut seen)?;
        Ok(seen)
    }

    /// Other people's translation of where a new connection comes from.
    pub(super) fn disguise(
        &mut self,
        hop: usize,
        node: NodeId,
        (egress, next_hop): (LinkId, IpAddr),
        seen: &Seen<'w>,
        packet: &mut Packet,
    ) {
        let node = self.world.node(node);
        let mut seen = seen.clone();
        let Some((by, translation)) = node
            .filters
            .as_ref()
            .and_then(|filters| filters.translation(Hook::Postrouting, &mut seen))
        else {
            return;
        };
        let to = match translation {
            Translation::Masquerade => node.source(egress, next_hop, packet.dst),
            Translation::Source(to) => to,
            Translation::Destination(_) | Translation::Redirect => None,
        };
        let from = packet.src;
        if let Some(to) = to.filter(|to| *to != from && to.is_ipv4() == from.is_ipv4()) {
            packet.src = to;
            self.edit(hop, |hop| hop.altered.push(Altered { by, from, to }));
        }
    }

    /// The filters after all translation.
    pub(super) fn leave_last(
        &mut self,
        at: &At,
        hop: usize,
        mut seen: Seen<'w>,
    ) -> Result<(), Final> {
        let turn = Turn::After(OWN_POSTROUTING);
        self.meet(at, hop, Hook::Postrouting, turn, &mut seen)?;
        self.meet(at, hop, Hook::Egress, ALL, &mut seen)
    }
}

/// A link's name and index.
fn name_of(node: &super::node::Node, link: LinkId) -> (&str, u32) {
    let link = node.link(link);
    (&link.name, link.index)
}
