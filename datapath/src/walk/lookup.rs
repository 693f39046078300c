//! Policy rules, longest prefixes and the check of sources.

use std::borrow::Cow;
use std::net::IpAddr;

use super::node::{LinkId, Node};
use super::outcome::Stop;
use super::routes::{NextHop, Route, Rule};
use crate::nodeconfig::{METRIC_IPV6, TABLE};
use crate::state::{Family, Finer, RouteKind, RuleAction};

/// What is looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// None for what the node itself makes, which the kernel takes to come in by the loopback link.
    pub(super) iif: Option<LinkId>,
    /// The IP protocol with the source and destination port; none where the kernel does not know them (the check of sources).
    pub(super) upper: Option<(u8, u16, u16)>,
}

/// What rules and tables answer.
#[derive(Debug)]
pub(super) enum Lookup<'n> {
    /// A route that delivers or forwards.
    Found {
        table: u32,
        route: Cow<'n, Route>,
        /// The rule that asked the table.
        rule: &'n Rule,
    },
    /// Nothing matches.
    Missing,
    /// A row says no; with the rule that says so or that asked the row's table.
    Refused(Stop, &'n Rule),
}

impl Lookup<'_> {
    /// The rule that decided, where it is neither one that every kernel has nor the datapath's own.
    pub(super) fn foreign_rule(&self) -> Option<&str> {
        match self {
            Self::Found { rule, .. } | Self::Refused(_, rule) => rule.foreign(),
            Self::Missing => None,
        }
    }
}

impl Node {
    /// Asks the rules in order, as `fib_rules_lookup` does.
    pub(super) fn lookup(&self, query: &Query) -> Lookup<'_> {
        let family = Family::of(query.dst);
        let routing = self.routing(family);
        for rule in &routing.rules {
            if !self.selects(rule, query) {
                continue;
            }
            let row = || rule.name.to_string();
            let number = match rule.action {
                RuleAction::Blackhole => {
                    return Lookup::Refused(Stop::Blackhole { row: row() }, rule);
                }
                RuleAction::Prohibit => {
                    return Lookup::Refused(Stop::Prohibited { row: row() }, rule);
                }
                RuleAction::Unreachable => {
                    return Lookup::Refused(Stop::Unreachable { row: row() }, rule);
                }
                // `goto` and `nop` are no more than their own absence here.
                RuleAction::Other(_) => continue,
                RuleAction::Lookup(number) => number,
            };
            let suppressed = rule.finer.and_then(|finer| finer.suppress);
            for route in self.matching(number, query.dst) {
                if suppressed.is_some_and(|length| route.length <= length) {
                    break;
                }
                let row = || route_name(&route, number, family);
                match route.kind {
                    RouteKind::Blackhole => {
                        return Lookup::Refused(Stop::Blackhole { row: row() }, rule);
                    }
                    RouteKind::Prohibit => {
                        return Lookup::Refused(Stop::Prohibited { row: row() }, rule);
                    }
                    RouteKind::Unreachable => {
                        return Lookup::Refused(Stop::Unreachable { row: row() }, rule);
                    }
                    RouteKind::Throw => break,
                    RouteKind::Local => {
                        return Lookup::Found {
                            table: number,
                            route,
                            rule,
                        };
                    }
                    RouteKind::Unicast => {
                        // A dead route does not hide a shorter prefix or a larger metric.
                        if self.next_hops(&route).next().is_some() {
                            return Lookup::Found {
                                table: number,
                                route,
                                rule,
                            };
                        }
                    }
                }
            }
        }
        Lookup::Missing
    }

    /// The routes of one table to an address: longest prefix first, then smallest metric.
    fn matching(&self, number: u32, dst: IpAddr) -> impl Iterator<Item = Cow<'_, Route>> {
        let table = self.routing(Family::of(dst)).table(number);
        let own = table.into_iter().flat_map(move |table| table.matching(dst));
        let own = own.map(Cow::Borrowed);
        let layered = match &self.layered {
            Some(layered) if number == TABLE => layered,
            _ => return Either::Own(own),
        };
        let mut routes: Vec<Cow<'_, Route>> = own.collect();
        for shared in layered.routes(dst) {
            let key = |route: &Route| (std::cmp::Reverse(route.length), route.metric);
            // A row of the node's own under the same key is what is there in place of the planned one.
            if let Err(at) = routes.binary_search_by_key(&key(&shared), |route| key(route)) {
                routes.insert(at, Cow::Owned(shared));
            }
        }
        Either::Merged(routes.into_iter())
    }

    /// The next hops of a route that the kernel would use.
    pub(super) fn next_hops<'r>(
        &self,
        route: &'r Route,
    ) -> impl Iterator<Item = &'r NextHop> + use<'r, '_> {
        route.next_hops.iter().filter(|next_hop| {
            let link = self.link(next_hop.link);
            let no_carrier_only = link.up && !link.carrier;
            !next_hop.dead || no_carrier_only
        })
    }

    /// Whether a socket of the node can have that source (`inet_addr_type`).
    pub(super) fn may_send_from(&self, src: IpAddr) -> bool {
        if self.partial || src.is_unspecified() || self.holder(src).is_some() {
            return true;
        }
        let query = Query {
            src,
            dst: src,
            iif: None,
            upper: None,
        };
        matches!(self.lookup(&query), Lookup::Found { route, .. } if route.kind == RouteKind::Local)
    }

    fn selects(&self, rule: &Rule, query: &Query) -> bool {
        let iif = |wanted: LinkId| match query.iif {
            Some(link) => link == wanted,
            None => &*self.link(wanted).name == "lo",
        };
        let selected = rule.src.is_none_or(|net| net.contains(&query.src))
            && rule.dst.is_none_or(|net| net.contains(&query.dst))
            && rule.iif.is_none_or(iif)
            // No packet here is bound to a link or carries a mark.
            && rule.oif.is_none()
            && rule.mark.is_none_or(|(mark, mask)| mark & mask == 0)
            && rule.finer.is_none_or(|finer| asks_for(&finer, query));
        selected != rule.invert
    }

    /// `fib_validate_source`: whether a source may come in by a link, given where its packet would go.
    pub(super) fn refuse_source(
        &self,
        link: LinkId,
        src: IpAddr,
        dst: IpAddr,
        oif: Option<LinkId>,
    ) -> Option<Stop> {
        if !src.is_ipv4() {
            return None;
        }
        let at = self.link(link);
        let filtered = || {
            (at.rp_filter > 0).then(|| Stop::RpFilter {
                link: at.name.to_string(),
                src,
            })
        };
        let martian = || {
            Some(Stop::MartianSource {
                link: at.name.to_string(),
                src,
            })
        };
        if at.rp_filter == 0 && !self.ipv4.custom {
            return if at.accept_local || self.holder(src).is_none() {
                None
            } else {
                martian()
            };
        }
        let back = Query {
            src: dst,
            dst: src,
            iif: oif,
            upper: None,
        };
        let Lookup::Found { route, .. } = self.lookup(&back) else {
            return if self.partial { None } else { filtered() };
        };
        if route.kind == RouteKind::Local && !at.accept_local {
            return martian();
        }
        if route.next_hops.iter().any(|next_hop| next_hop.link == link) {
            return None;
        }
        // A link without an address has no say; a loose filter is content with any route back.
        if at.rp_filter == 1 || !at.addresses.iter().any(|net| net.addr().is_ipv4()) {
            return filtered();
        }
        None
    }
}

/// Whether a rule's question about the upper layer is answered by a packet.
fn asks_for(finer: &Finer, query: &Query) -> bool {
    let within = |(first, last): (u16, u16), port: u16| (first..=last).contains(&port);
    let Some((protocol, src_port, dst_port)) = query.upper else {
        return finer.protocol.is_none() && finer.src_ports.is_none() && finer.dst_ports.is_none();
    };
    finer.protocol.is_none_or(|wanted| wanted == protocol)
        && finer.src_ports.is_none_or(|ports| within(ports, src_port))
        && finer.dst_ports.is_none_or(|ports| within(ports, dst_port))
}

/// The routes of a table alone, or merged with those of a layer.
enum Either<Own, Merged> {
    Own(Own),
    Merged(Merged),
}

impl<T, Own: Iterator<Item = T>, Merged: Iterator<Item = T>> Iterator for Either<Own, Merged> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Own(own) => own.next(),
            Self::Merged(merged) => merged.next(),
        }
    }
}

/// The name of a route, as [`crate::diff::name_of`] writes it.
pub(super) fn route_name(route: &Route, table: u32, family: Family) -> String {
    let usual = match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => METRIC_IPV6,
    };
    let dst = route.dst(family);
    if route.metric == usual {
        format!("{dst} table {table}")
    } else {
        format!("{dst} table {table} metric {}", route.metric)
    }
}
