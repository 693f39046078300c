//! What the observed tables do with a packet, there and back.

use std::collections::HashMap;
use std::net::IpAddr;

use datapath::diff::name_of;
use datapath::filter::Decider;
use datapath::nodeconfig::TABLE;
use datapath::state::{Family, Nat, NodeState, Route, RouteKind, Row, TABLE_LOCAL};
use datapath::walk::{Altered, End, Hop, Packet, Stop, World, round_trip, verdict, walk};
use floater::wire::Layer;
use ipnet::IpNet;

mod routes;

use super::intent::Intended;
use super::pairs::{Pair, PairKey};
use super::scope::Scope;
use crate::evidence::NodeRef;
use crate::graph::tunnel_named;
use crate::probe_plan::{target_from, target_of};

/// Rules that lose fewer packets of a million are none that anybody is accused of.
const LOSSY: u32 = 5_000;

/// What a walk says of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Walked {
    /// The packet arrives, and so does its answer.
    Passes,
    /// It or its answer stops.
    Stops {
        /// Where; none where the place is no node of the evidence.
        at: Option<NodeRef>,
        /// Whether it is the answer that stops.
        answer: bool,
        /// Why; none where it ends elsewhere than it should.
        stop: Option<Stop>,
        /// The route of the main table whose absence explains it.
        lacks: Option<IpNet>,
        /// In words.
        text: String,
    },
    /// Both arrive but for those that a rule drops at random.
    Loses {
        /// Where.
        at: NodeRef,
        /// Which rule.
        by: Box<Decider>,
        /// How many packets of a million.
        per_million: u32,
    },
    /// Tables on the way could not be read, or an address is not known.
    Unknown,
}

impl Walked {
    /// The rule of a packet filter that stops, translates or loses packets, and the node that has it.
    pub(super) fn filter(&self) -> Option<(NodeRef, &Decider)> {
        match self {
            Self::Stops {
                at: Some(at),
                stop:
                    Some(
                        Stop::Filtered { by, .. }
                        | Stop::Refused { by, .. }
                        | Stop::Translated { by, .. },
                    ),
                ..
            } => Some((*at, by)),
            Self::Loses { at, by, .. } => Some((*at, by)),
            _ => None,
        }
    }
}

/// The observed tables of all nodes, ready to be walked by any number of threads.
pub(super) struct Walks<'a> {
    scope: &'a Scope<'a>,
    planned: &'a Intended,
    world: World,
    names: HashMap<String, NodeRef>,
    /// By node and family: the link by which it reaches its pods.
    pod_links: HashMap<(NodeRef, Family), String>,
    /// Somewhere an answer passes or finds back only by what was remembered of the packet: prefixes are mapped, or packets filtered.
    remembers: bool,
    /// Packets are filtered somewhere.
    filters: bool,
}

impl<'a> Walks<'a> {
    pub(super) fn new(scope: &'a Scope<'a>, intended: &'a Intended) -> Self {
        let mut world = World::new();
        world.assume_underlay(true);
        let mut names = HashMap::new();
        let (mut mapped, mut filters) = (false, false);
        let mut pod_links = HashMap::new();
        for at in scope.all_nodes() {
            let name = scope.place(at);
            if let Ok(tables) = &scope.node(at).tables {
                for family in [Family::Ipv4, Family::Ipv6] {
                    let link = target_of(scope.node(at), Layer::Pod, family)
                        .and_then(|ip| pod_link(tables, ip));
                    if let Some(link) = link {
                        pod_links.insert((at, family), link.to_owned());
                    }
                }
            }
            filters |= scope
                .node(at)
                .tables
                .as_ref()
                .is_ok_and(|tables| !tables.filters.is_empty());
            let maps = |state: &NodeState| {
                let mut rows = state.nat.iter();
                rows.any(|row| !matches!(row, Nat::Masquerade { .. }))
            };
            let layered = match &scope.node(at).tables {
                Ok(_) => intended.layered(scope, at),
                Err(_) => intended.planned(scope, at),
            };
            match (layered, &scope.node(at).tables) {
                (Some((own, layer)), _) => {
                    mapped |= maps(&own);
                    world.insert_layered(name.clone(), &own, layer);
                }
                (None, Ok(tables)) => {
                    mapped |= maps(tables);
                    world.insert_from(name.clone(), tables);
                }
                (None, Err(_)) => {}
            }
            names.insert(name, at);
        }
        Self {
            scope,
            planned: intended,
            world,
            names,
            pod_links,
            remembers: mapped || filters,
            filters,
        }
    }

    /// The nodes by the names of their places.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The links by which a node reaches its pods.
    pub(super) fn pod_links(&self, at: NodeRef) -> impl Iterator<Item = &str> {
        [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .filter_map(move |family| Some(self.pod_links.get(&(at, family))?.as_str()))
    }

    /// Walks a pair there and back, by the protocol whose packets were lost where it was probed.
    pub(super) fn judge(&self, key: PairKey, pair: Option<&Pair<'_>>) -> Walked {
        let node = |at| self.scope.node(at);
        if node(key.src).tables.is_err() || node(key.dst).tables.is_err() {
            return Walked::Unknown;
        }
        let (Some(src), Some(dst)) = (
            target_of(node(key.src), key.layer, key.family),
            target_from(
                &self.scope.gathered.clusters,
                key.src,
                key.dst,
                key.layer,
                key.family,
            ),
        ) else {
            return Walked::Unknown;
        };
        let (mut out, mut back) = (None, None);
        if key.layer == Layer::Pod {
            let link = |at| self.pod_links.get(&(at, key.family)).map(String::as_str);
            (out, back) = (link(key.src), link(key.dst));
            if out.is_none() || back.is_none() {
                return Walked::Unknown;
            }
        }
        let packet = if !self.filters {
            Packet::udp(src, dst, floater::wire::PORT)
        } else if pair.is_none_or(|pair| pair.tcp.received < pair.tcp.sent) {
            Packet::tcp(src, dst, floater::wire::PORT)
        } else {
            Packet::echo(src, dst)
        };
        let (src_name, dst_name) = (self.scope.place(key.src), self.scope.place(key.dst));
        if self.remembers {
            let (asked, answered) = round_trip(&self.world, &src_name, out, packet);
            let there = self.outcome(&asked.end, key.dst, None, false);
            let walked = match (there, &answered) {
                (Walked::Passes, Some(answered)) => {
                    self.outcome(&answered.end, key.src, None, true)
                }
                (Walked::Passes, None) => Walked::Unknown,
                (other, _) => other,
            };
            let walked = self.by_rule(
                walked,
                asked.hops.iter(),
                answered.iter().flat_map(|walk| &walk.hops),
            );
            let is_answer = matches!(walked, Walked::Stops { answer: true, .. });
            return self.astray(walked, || match answered {
                Some(answered) if is_answer => answered.hops,
                _ => asked.hops,
            });
        }
        let there = verdict(&self.world, &src_name, out, packet);
        let there = self.outcome(&there, key.dst, Some(dst), false);
        if there != Walked::Passes {
            return self.astray(there, || walk(&self.world, &src_name, out, packet).hops);
        }
        let packet = packet.answer();
        let again = verdict(&self.world, &dst_name, back, packet);
        let again = self.outcome(&again, key.src, Some(src), true);
        self.astray(again, || walk(&self.world, &dst_name, back, packet).hops)
    }

    /// The same where a row that nobody planned sent it where it is lost: a rule, or a route of the datapath's table.
    fn astray(&self, mut walked: Walked, hops: impl FnOnce() -> Vec<Hop>) -> Walked {
        if let Walked::Stops {
            at,
            stop,
            lacks: None,
            text,
            ..
        } = &mut walked
            && let Some((node, why)) = self.misled(stop.as_ref(), hops)
        {
            *at = self.names.get(&node).copied();
            text.push_str(&format!(": {why}"));
            *stop = Some(why);
        }
        walked
    }

    /// The node and the row of it that nobody planned and that led to a stop, or out of all that is known.
    fn misled(
        &self,
        stop: Option<&Stop>,
        hops: impl FnOnce() -> Vec<Hop>,
    ) -> Option<(String, Stop)> {
        match stop {
            // Such a row is to blame itself, unless a rule was all that led to it.
            Some(Stop::Blackhole { .. } | Stop::Prohibited { .. } | Stop::Unreachable { .. }) => {
                hops().last().and_then(hijacked)
            }
            Some(Stop::NoRoute { .. } | Stop::Loop { .. }) => {
                hops().iter().rev().find_map(hijacked)
            }
            Some(_) => None,
            None => {
                let hops = hops();
                let by_rule = hops.iter().rev().find_map(hijacked);
                by_rule.or_else(|| self.strange(hops.last()?))
            }
        }
    }

    /// The route of the datapath's table by which a packet left, where the plan has none of that name.
    fn strange(&self, hop: &Hop) -> Option<(String, Stop)> {
        let row = hop.route.as_ref()?;
        let at = *self.names.get(&hop.node)?;
        let tables = self.planned.observed(self.scope, at)?;
        let is_it =
            |route: &&Route| route.table == TABLE && name_of(&Row::Route((*route).clone())) == *row;
        tables.routes.iter().find(is_it)?;
        let planned = self.planned.desired(self.scope, at)?;
        if planned.routes.iter().any(|route| is_it(&route)) {
            return None;
        }
        Some((hop.node.clone(), Stop::Astray { row: row.clone() }))
    }

    /// The same where a rule is behind it: one that exchanged an address of what does not arrive, or that loses some of what does.
    fn by_rule<'h>(
        &self,
        walked: Walked,
        asked: impl Iterator<Item = &'h Hop>,
        answered: impl Iterator<Item = &'h Hop>,
    ) -> Walked {
        match walked {
            Walked::Passes => {
                let mut losses = asked.chain(answered).flat_map(|hop| {
                    let at = self.names.get(&hop.node).copied();
                    hop.doubts.iter().filter_map(move |doubt| {
                        let per_million = doubt.per_million.filter(|of| *of >= LOSSY)?;
                        Some((at?, &doubt.by, per_million))
                    })
                });
                losses
                    .next()
                    .map_or(Walked::Passes, |(at, by, per_million)| Walked::Loses {
                        at,
                        by: Box::new(by.clone()),
                        per_million,
                    })
            }
            Walked::Stops {
                ref stop, answer, ..
            } if !matches!(stop, Some(Stop::Filtered { .. } | Stop::Refused { .. })) => {
                let mut altered = asked.filter(|hop| hop.depth == 0).flat_map(|hop| {
                    let at = self.names.get(&hop.node).copied();
                    hop.altered.iter().map(move |altered| (at, altered))
                });
                match altered.next() {
                    Some((at, Altered { by, from, to })) => {
                        let stop = Stop::Translated {
                            by: Box::new(by.clone()),
                            from: *from,
                            to: *to,
                        };
                        Walked::Stops {
                            at,
                            answer,
                            text: format!("translated: {stop}"),
                            stop: Some(stop),
                            lacks: None,
                        }
                    }
                    None => walked,
                }
            }
            other => other,
        }
    }

    fn outcome(&self, end: &End, wanted: NodeRef, ip: Option<IpAddr>, answer: bool) -> Walked {
        match end {
            End::Delivered { node, .. } if self.names.get(node) == Some(&wanted) => Walked::Passes,
            End::Left { node, to, link, .. }
                if self.names.get(node) == Some(&wanted)
                    && ip.is_none_or(|ip| ip == *to)
                    && !link.is_empty() =>
            {
                Walked::Passes
            }
            End::Stopped { node, stop } => {
                let at = self.names.get(node).copied();
                match at {
                    // What an unreadable node would do is a plan, not an observation.
                    Some(at) if self.scope.node(at).tables.is_err() => Walked::Unknown,
                    _ => Walked::Stops {
                        at,
                        answer,
                        stop: Some(stop.clone()),
                        lacks: at.and_then(|at| match stop {
                            Stop::NoRoute { dst } | Stop::RpFilter { src: dst, .. } => {
                                routes::lacking(self.scope, at, *dst)
                            }
                            _ => None,
                        }),
                        text: end.to_string(),
                    },
                }
            }
            End::Left { link, .. } if link.is_empty() => Walked::Unknown,
            End::Left { node, packet, .. } => {
                let at = self.names.get(node).copied();
                let lacks = at.and_then(|at| routes::lacking(self.scope, at, packet.dst));
                match at {
                    // A cluster's router may know its pods where the nodes do not: no table that was read tells.
                    Some(at)
                        if lacks.is_none()
                            && at != wanted
                            && at.cluster == wanted.cluster
                            && routes::is_of_the_cluster(self.scope, at, packet.dst) =>
                    {
                        Walked::Unknown
                    }
                    _ => Walked::Stops {
                        at,
                        answer,
                        stop: None,
                        lacks,
                        text: end.to_string(),
                    },
                }
            }
            End::Delivered { node, .. } => Walked::Stops {
                at: self.names.get(node).copied(),
                answer,
                stop: None,
                lacks: None,
                text: end.to_string(),
            },
        }
    }
}

/// The rule by which a node sent a packet, where it is neither the kernel's own nor the datapath's.
fn hijacked(hop: &Hop) -> Option<(String, Stop)> {
    let rule = hop.rule.clone()?;
    Some((hop.node.clone(), Stop::Hijacked { rule }))
}

/// The link by which a node reaches one of its pods.
pub(super) fn pod_link(tables: &NodeState, ip: IpAddr) -> Option<&str> {
    tables
        .routes
        .iter()
        .filter(|route| ![TABLE, TABLE_LOCAL].contains(&route.table))
        .filter(|route| route.kind == RouteKind::Unicast && route.dst.prefix_len() > 0)
        .filter(|route| Family::of(route.dst.addr()) == Family::of(ip) && route.dst.contains(&ip))
        .max_by_key(|route| route.dst.prefix_len())
        .and_then(|route| route.hops.first())
        .map(|hop| hop.link.as_str())
        .filter(|link| tunnel_named(link).is_none())
}
