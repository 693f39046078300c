//! One packet from node to node.

use std::borrow::Cow;
use std::net::IpAddr;

use super::filter::{Connection, Seen, Turn};
use super::lookup::{Lookup, Query, route_name};
use super::nat::{self, Tracked, Translation};
use super::node::{LinkId, NodeId};
use super::outcome::{Carrier, End, Hop, Stop, dotted};
use super::routes::{NextHop, Route};
use super::segment::{Cast, Frame};
use super::{Packet, World};
use crate::filter::Hook;
use crate::state::{Family, RouteKind};

/// Forks that are followed to each of their ends; beyond, the first next hop stands for all.
const FORKS: u8 = 16;

/// How a packet ended, in the world's own indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Final {
    Delivered {
        node: NodeId,
        link: Option<LinkId>,
        packet: Packet,
    },
    Left {
        node: NodeId,
        link: Option<LinkId>,
        to: IpAddr,
        packet: Packet,
    },
    Stopped {
        node: NodeId,
        stop: Stop,
    },
}

impl Final {
    pub(super) fn named(self, world: &World) -> End {
        let node_name = |id: NodeId| world.node(id).name.clone();
        let link_name = |id: NodeId, link: LinkId| world.node(id).link(link).name.to_string();
        match self {
            Self::Delivered { node, link, .. } => End::Delivered {
                node: node_name(node),
                link: link.map(|link| link_name(node, link)),
            },
            Self::Left {
                node,
                link,
                to,
                packet,
            } => End::Left {
                node: node_name(node),
                link: link.map_or_else(String::new, |link| link_name(node, link)),
                to,
                packet,
            },
            Self::Stopped { node, stop } => End::Stopped {
                node: node_name(node),
                stop,
            },
        }
    }
}

/// A packet in a node, before that decides.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub(super) node: NodeId,
    pub(super) ingress: Option<LinkId>,
    pub(super) packet: Packet,
    /// Tunnels around the packet that was asked about.
    pub(super) depth: u8,
    /// Where the packet has been: the same place again is a loop.
    seen: Vec<(NodeId, Option<LinkId>, IpAddr, IpAddr)>,
}

impl At {
    pub(super) fn made_by(node: NodeId, packet: Packet, depth: u8) -> Self {
        Self {
            node,
            ingress: None,
            packet,
            depth,
            seen: Vec::new(),
        }
    }

    pub(super) fn in_by(mut self, ingress: Option<LinkId>) -> Self {
        self.ingress = ingress;
        self
    }
}

/// Where the datapath's own translations are among the priorities of pre-routing and post-routing.
const OWN_PREROUTING: i32 = -101;
pub(super) const OWN_POSTROUTING: i32 = 99;

/// What a node decided.
struct Decision<'w> {
    route: Cow<'w, Route>,
    next_hops: Vec<NextHop>,
    translation: Translation,
    /// The packet as it came.
    before: Packet,
    /// The packet to the filters: what they remember of it.
    seen: Seen<'w>,
    /// Which hop of the record is its own.
    hop: usize,
}

/// A walk that goes on.
pub(super) struct Walker<'w> {
    pub(super) world: &'w World,
    hops: Vec<Hop>,
    recording: bool,
    forks: u8,
    /// What connection tracking holds.
    pub(super) tracked: Vec<Tracked>,
    /// Whether the packet answers the tracked ones.
    pub(super) answering: bool,
    /// The outer source of the last frame that a tunnel gave out.
    pub(super) learned: Option<IpAddr>,
    /// The tunnels that the packet is inside of, outermost last.
    pub(super) inside: Vec<(NodeId, LinkId)>,
}

impl<'w> Walker<'w> {
    pub(super) fn new(world: &'w World, recording: bool) -> Self {
        Self {
            world,
            hops: Vec::new(),
            recording,
            forks: FORKS,
            tracked: Vec::new(),
            answering: false,
            learned: None,
            inside: Vec::new(),
        }
    }

    /// The walk of the answer, in the memory of the question's.
    pub(super) fn answer(self) -> Self {
        Self {
            tracked: self.tracked,
            answering: true,
            ..Self::new(self.world, self.recording)
        }
    }

    pub(super) fn take_hops(&mut self) -> Vec<Hop> {
        std::mem::take(&mut self.hops)
    }

    /// Follows a packet to its end.
    pub(super) fn run(&mut self, mut at: At) -> Final {
        loop {
            let decision = match self.decide(&mut at) {
                Ok(decision) => decision,
                Err(end) => return end,
            };
            if decision.next_hops.len() > 1 && self.forks > 0 {
                return self.fork(&at, &decision);
            }
            let Some(next_hop) = decision.next_hops.first() else {
                let node = at.node;
                let dst = at.packet.dst;
                let stop = Stop::NoRoute { dst };
                return Final::Stopped { node, stop };
            };
            match self.depart(&at, &decision, next_hop) {
                Ok(next) => at = next,
                Err(end) => return end,
            }
        }
    }

    /// Several next hops: all must lead to an end that is not a stop. The result is the first that stops, else the first.
    fn fork(&mut self, at: &At, decision: &Decision<'w>) -> Final {
        let mut kept: Option<(Final, Vec<Hop>)> = None;
        let mark = self.mark();
        for next_hop in &decision.next_hops {
            self.forks = self.forks.saturating_sub(1);
            self.rewind(mark);
            let end = match self.depart(at, decision, next_hop) {
                Ok(next) => self.run(next),
                Err(end) => end,
            };
            if matches!(end, Final::Stopped { .. }) {
                return end;
            }
            if kept.is_none() {
                kept = Some((end, self.hops.clone()));
            }
        }
        match kept {
            Some((end, hops)) => {
                self.hops = hops;
                end
            }
            None => Final::Stopped {
                node: at.node,
                stop: Stop::NoRoute { dst: at.packet.dst },
            },
        }
    }

    /// Input, pre-routing, routing and the checks of forwarding.
    fn decide(&mut self, at: &mut At) -> Result<Decision<'w>, Final> {
        let world = self.world;
        let id = at.node;
        let node = world.node(id);
        let stopped = |stop: Stop| Final::Stopped { node: id, stop };
        let before = at.packet;
        let hop = self.note(|| Hop {
            node: node.name.clone(),
            depth: at.depth,
            ingress: at.ingress.map(|link| node.link(link).name.to_string()),
            src: at.packet.src,
            dst: at.packet.dst,
            rule: None,
            route: None,
            via: None,
            egress: None,
            neighbour: None,
            asked: false,
            tunnel: None,
            translated: Vec::new(),
            altered: Vec::new(),
            doubts: Vec::new(),
        });
        let mut seen = self.seen(at);
        if at.ingress.is_some() {
            self.meet(at, hop, Hook::Ingress, Turn::After(i32::MIN), &mut seen)?;
            self.meet(
                at,
                hop,
                Hook::Prerouting,
                Turn::Before(OWN_PREROUTING),
                &mut seen,
            )?;
        }
        let translation = if node.tracks() && seen.connection != Connection::Untracked {
            nat::enter(
                node,
                id,
                at.ingress,
                &self.tracked,
                self.answering,
                &mut at.packet,
            )
        } else {
            Translation::Ignored
        };
        if at.ingress.is_some() {
            if translation == Translation::Fresh && before.dst == at.packet.dst {
                self.redirect(at, hop, &mut seen);
            }
            seen = seen.of(at.packet);
            self.meet(
                at,
                hop,
                Hook::Prerouting,
                Turn::After(OWN_PREROUTING),
                &mut seen,
            )?;
        }
        if before.dst != at.packet.dst {
            self.edit(hop, |hop| {
                hop.dst = at.packet.dst;
                hop.translated
                    .push(format!("destination was {}", before.dst));
            });
        }
        let family = Family::of(at.packet.dst);
        if let Some(link) = at.ingress.map(|link| node.link(link))
            && family == Family::Ipv6
            && link.ipv6_off
        {
            let link = link.name.to_string();
            return Err(stopped(Stop::Ipv6Off { link }));
        }
        if at.ingress.is_none() && at.depth == 0 && !node.may_send_from(at.packet.src) {
            return Err(stopped(Stop::SourceNotOwn { src: at.packet.src }));
        }
        let query = Query {
            src: at.packet.src,
            dst: at.packet.dst,
            iif: at.ingress,
            upper: Some((at.packet.protocol, at.packet.src_port, at.packet.dst_port)),
        };
        let found = node.lookup(&query);
        self.edit(hop, |hop| {
            hop.rule = found.foreign_rule().map(str::to_owned);
            if let Lookup::Found { table, route, .. } = &found {
                hop.route = Some(route_name(route, *table, family));
            }
        });
        let forwards = at.ingress.is_none_or(|link| match family {
            Family::Ipv4 => node.link(link).forward4,
            Family::Ipv6 => node.forward6 || node.link(link).force_forward6,
        });
        let forwarding_off = |link: LinkId| {
            let link = &node.link(link).name;
            let sysctl = match family {
                Family::Ipv4 => format!("net.ipv4.conf.{}.forwarding", dotted(link)),
                Family::Ipv6 => "net.ipv6.conf.all.forwarding".to_owned(),
            };
            stopped(Stop::ForwardingOff {
                link: link.to_string(),
                sysctl,
            })
        };
        let (table, route, next_hops) = match found {
            Lookup::Found { route, .. } if route.kind == RouteKind::Local => {
                if let Some(link) = at.ingress
                    && let Some(stop) = node.refuse_source(link, at.packet.src, at.packet.dst, None)
                {
                    return Err(stopped(stop));
                }
                if at.ingress.is_some() {
                    seen.is_local.1 = true;
                    self.meet(at, hop, Hook::Input, Turn::After(i32::MIN), &mut seen)?;
                }
                if let Translation::Undone(src) = translation {
                    at.packet.src = src;
                }
                self.track(id, before, at.packet);
                return Err(Final::Delivered {
                    node: id,
                    link: at.ingress,
                    packet: at.packet,
                });
            }
            Lookup::Found { table, route, .. } => {
                let next_hops: Vec<NextHop> = node.next_hops(&route).copied().collect();
                (table, route, next_hops)
            }
            Lookup::Missing if node.partial => {
                return Err(Final::Left {
                    node: id,
                    link: None,
                    to: at.packet.dst,
                    packet: at.packet,
                });
            }
            Lookup::Missing | Lookup::Refused(..) => {
                if let (Some(link), false, Family::Ipv4) = (at.ingress, forwards, family) {
                    return Err(forwarding_off(link));
                }
                return Err(stopped(match found {
                    Lookup::Refused(stop, _) => stop,
                    _ => Stop::NoRoute { dst: at.packet.dst },
                }));
            }
        };
        if let Some(link) = at.ingress {
            if !forwards {
                return Err(forwarding_off(link));
            }
            let oif = next_hops.first().map(|next_hop| next_hop.link);
            if let Some(stop) = node.refuse_source(link, at.packet.src, at.packet.dst, oif) {
                return Err(stopped(stop));
            }
            // A node forwards what has more than one hop left.
            if at.packet.ttl <= 1 {
                return Err(stopped(Stop::TtlExpired));
            }
            at.packet.ttl -= 1;
        }
        let place = (id, at.ingress, at.packet.src, at.packet.dst);
        if at.seen.contains(&place) {
            let row = route_name(&route, table, family);
            return Err(stopped(Stop::Loop { row }));
        }
        at.seen.push(place);
        Ok(Decision {
            route,
            next_hops,
            translation,
            before,
            seen,
            hop,
        })
    }

    /// Post-routing, size, neighbour and frame.
    fn depart(
        &mut self,
        at: &At,
        decision: &Decision<'w>,
        next_hop: &NextHop,
    ) -> Result<At, Final> {
        let world = self.world;
        let id = at.node;
        let node = world.node(id);
        let link = node.link(next_hop.link);
        let mut packet = at.packet;
        let mut before = decision.before;
        let target = next_hop.via.unwrap_or(packet.dst);
        self.edit(decision.hop, |hop| {
            hop.via = next_hop.via;
            hop.egress = Some(link.name.to_string());
        });
        if let Some(end) = self.unusable(id, next_hop.link) {
            return Err(end);
        }
        if packet.src.is_unspecified() {
            let preferred = decision.route.src;
            packet.src = preferred
                .or_else(|| node.source(next_hop.link, target, packet.dst))
                .unwrap_or(packet.src);
            before.src = packet.src;
        }
        let mtu = decision.route.mtu.unwrap_or(link.mtu);
        if mtu > 0 && packet.len > mtu {
            let forwarded = at.ingress.is_some();
            if packet.dont_fragment || (packet.dst.is_ipv6() && forwarded) {
                return Err(Final::Stopped {
                    node: id,
                    stop: Stop::TooBig {
                        link: link.name.to_string(),
                        mtu,
                    },
                });
            }
            // The largest piece stands for all.
            packet.len = mtu;
        }
        let seen = self.on_its_way(at, (decision.hop, &decision.seen), next_hop.link, packet)?;
        let src = packet.src;
        if node.tracks() {
            nat::leave(
                node,
                next_hop.link,
                target,
                decision.translation,
                &mut packet,
            );
            if packet.src != src {
                self.edit(decision.hop, |hop| {
                    hop.translated
                        .push(format!("source becomes {}", packet.src));
                });
            } else if decision.translation == Translation::Fresh {
                self.disguise(
                    decision.hop,
                    id,
                    (next_hop.link, target),
                    &seen,
                    &mut packet,
                );
            }
            if seen.connection != Connection::Untracked {
                self.track(id, before, packet);
            }
        }
        self.leave_last(at, decision.hop, seen.of(packet))?;
        let (mac, asked) = self.resolve(id, next_hop.link, target, &packet, at.depth)?;
        self.edit(decision.hop, |hop| {
            hop.asked = asked;
            if mac.is_some() && !asked && node.neighbour(next_hop.link, target).is_some() {
                hop.neighbour = Some(format!("{target} dev {}", link.name));
            }
        });
        let frame = Frame {
            src: link.mac,
            cast: Cast::One(mac),
            next_hop: target,
            packet,
            learned: None,
        };
        let (node, ingress) = self.send(id, next_hop.link, &frame, at.depth)?;
        Ok(At {
            node,
            ingress: Some(ingress),
            packet,
            depth: at.depth,
            seen: at.seen.clone(),
        })
    }

    fn track(&mut self, node: NodeId, before: Packet, after: Packet) {
        if !self.answering && self.world.node(node).tracks() {
            self.tracked.push(Tracked::new(node, before, after));
        }
    }

    /// Adds a hop to the record; its place in there.
    fn note(&mut self, hop: impl FnOnce() -> Hop) -> usize {
        if self.recording {
            self.hops.push(hop());
        }
        self.hops.len().saturating_sub(1)
    }

    pub(super) fn edit(&mut self, at: usize, change: impl FnOnce(&mut Hop)) {
        if self.recording
            && let Some(hop) = self.hops.get_mut(at)
        {
            change(hop);
        }
    }

    /// Notes the tunnel that the last hop's packet goes into.
    pub(super) fn note_tunnel(&mut self, tunnel: impl FnOnce() -> Carrier) {
        if self.recording
            && let Some(hop) = self.hops.last_mut()
        {
            hop.tunnel = Some(tunnel());
        }
    }

    pub(super) fn mark(&self) -> usize {
        self.hops.len()
    }

    pub(super) fn rewind(&mut self, mark: usize) {
        self.hops.truncate(mark);
    }

    /// Records nothing until [`Self::resume`]; the value is what that wants.
    pub(super) fn pause(&mut self) -> bool {
        std::mem::replace(&mut self.recording, false)
    }

    pub(super) fn resume(&mut self, recording: bool) {
        self.recording = recording;
    }
}
