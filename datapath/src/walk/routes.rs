//! Policy rules and routing tables, ordered for the longest prefix.

use std::net::IpAddr;

use ipnet::IpNet;

use super::node::{LinkId, Node};
use crate::diff::name_of;
use crate::nodeconfig::{PRIORITY, TABLE};
use crate::state::{Family, Finer, NodeState, RouteKind, Row, RuleAction, TABLE_LOCAL, TABLE_MAIN};

/// `RT_TABLE_DEFAULT`.
const TABLE_DEFAULT: u32 = 253;

/// The rules of a kernel that nobody changed, as (priority, table).
const DEFAULT_RULES: [(u32, u32); 3] = [
    (0, TABLE_LOCAL),
    (32766, TABLE_MAIN),
    (32767, TABLE_DEFAULT),
];

/// An address, left-aligned in 128 bits so that one search serves both families.
pub(super) fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The inverse of [`bits`].
pub(super) fn address(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => {
            let [a, b, c, d, ..] = bits.to_be_bytes();
            IpAddr::from([a, b, c, d])
        }
        Family::Ipv6 => IpAddr::from(bits.to_be_bytes()),
    }
}

/// The bits of a prefix of that length.
pub(super) fn masked(bits: u128, length: u8) -> u128 {
    // A shift by the whole width is the one that `>>` does not define.
    bits & !u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextHop {
    pub(super) via: Option<IpAddr>,
    pub(super) link: LinkId,
    pub(super) dead: bool,
}

/// A route without its table.
#[derive(Debug, Clone)]
pub(super) struct Route {
    bits: u128,
    pub(super) length: u8,
    pub(super) metric: u32,
    pub(super) kind: RouteKind,
    pub(super) mtu: Option<u32>,
    pub(super) src: Option<IpAddr>,
    pub(super) next_hops: Box<[NextHop]>,
}

impl Route {
    /// One without an MTU or a source of its own.
    pub(super) fn new(
        dst: IpNet,
        metric: u32,
        kind: RouteKind,
        next_hops: impl IntoIterator<Item = NextHop>,
    ) -> Self {
        Self {
            bits: masked(bits(dst.addr()), dst.prefix_len()),
            length: dst.prefix_len(),
            metric,
            kind,
            mtu: None,
            src: None,
            next_hops: next_hops.into_iter().collect(),
        }
    }

    /// Its destination.
    pub(super) fn dst(&self, family: Family) -> IpNet {
        let ip = address(self.bits, family);
        IpNet::new(ip, self.length).unwrap_or_else(|_| IpNet::from(ip))
    }

    fn order(&self) -> (u128, u8, u32) {
        (self.bits, self.length, self.metric)
    }
}

/// One table of one family.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    /// The lengths that occur, longest first.
    lengths: Vec<u8>,
    rows: Vec<Route>,
}

impl RouteTable {
    fn add(&mut self, route: Route) {
        self.rows.push(route);
    }

    fn seal(&mut self) {
        self.rows.sort_by_key(Route::order);
        self.rows.shrink_to_fit();
        self.lengths = self.rows.iter().map(|row| row.length).collect();
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }

    /// The routes to an address: longest prefix first, then smallest metric.
    pub(super) fn matching(&self, ip: IpAddr) -> impl Iterator<Item = &Route> {
        let wanted = bits(ip);
        self.lengths.iter().flat_map(move |&length| {
            let key = (masked(wanted, length), length);
            let start = self
                .rows
                .partition_point(|row| (row.bits, row.length) < key);
            self.rows
                .iter()
                .skip(start)
                .take_while(move |row| (row.bits, row.length) == key)
        })
    }
}

/// A policy rule of one family.
#[derive(Debug)]
pub(super) struct Rule {
    /// As it is written everywhere.
    pub(super) name: Box<str>,
    pub(super) priority: u32,
    pub(super) src: Option<IpNet>,
    pub(super) dst: Option<IpNet>,
    pub(super) iif: Option<LinkId>,
    pub(super) oif: Option<LinkId>,
    pub(super) mark: Option<(u32, u32)>,
    pub(super) finer: Option<Finer>,
    pub(super) invert: bool,
    pub(super) action: RuleAction,
}

/// The rules and tables of one family.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// In the order in which they are asked.
    pub(super) rules: Vec<Rule>,
    /// Whether there is a rule that the kernel does not make itself (`fib4_has_custom_rules`).
    pub(super) custom: bool,
    /// Whether the tables lack what a kernel adds by itself: local routes, link-local addresses.
    pub(super) derived: bool,
    /// By number.
    tables: Vec<(u32, RouteTable)>,
}

impl Routing {
    pub(super) fn table(&self, number: u32) -> Option<&RouteTable> {
        let at = self
            .tables
            .binary_search_by_key(&number, |table| table.0)
            .ok()?;
        self.tables.get(at).map(|table| &table.1)
    }

    fn table_mut(&mut self, number: u32) -> &mut RouteTable {
        let at = match self.tables.binary_search_by_key(&number, |table| table.0) {
            Ok(at) => at,
            Err(at) => {
                self.tables.insert(at, (number, RouteTable::default()));
                at
            }
        };
        &mut self.tables[at].1
    }
}

fn plain(priority: u32, table: u32) -> Rule {
    Rule {
        name: Box::default(),
        priority,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        finer: None,
        invert: false,
        action: RuleAction::Lookup(table),
    }
}

fn is_plain(rule: &Rule, priority: u32, table: u32) -> bool {
    rule.priority == priority
        && rule.action == RuleAction::Lookup(table)
        && !rule.invert
        && rule.src.is_none()
        && rule.dst.is_none()
        && rule.iif.is_none()
        && rule.oif.is_none()
        && rule.mark.is_none()
        && rule.finer.is_none()
}

impl Rule {
    /// Its name where it is neither one that every kernel has nor the datapath's own.
    pub(super) fn foreign(&self) -> Option<&str> {
        let own = [(PRIORITY, TABLE)];
        let mut usual = DEFAULT_RULES.iter().chain(&own);
        let is_usual = usual.any(|&(priority, table)| is_plain(self, priority, table));
        (!is_usual).then_some(&*self.name)
    }
}

impl Node {
    /// The rules and tables of one family.
    pub(super) fn routing_of(&mut self, state: &NodeState, family: Family) -> Routing {
        let mut routing = Routing::default();
        for rule in state.rules.iter().filter(|rule| rule.family == family) {
            routing.rules.push(Rule {
                name: name_of(&Row::Rule(rule.clone())).into(),
                priority: rule.priority,
                src: rule.src,
                dst: rule.dst,
                iif: rule.iif.as_deref().map(|link| self.intern(link)),
                oif: rule.oif.as_deref().map(|link| self.intern(link)),
                mark: rule.mark,
                finer: rule.finer,
                invert: rule.invert,
                action: rule.action,
            });
        }
        routing.custom = routing.rules.iter().any(|rule| {
            !DEFAULT_RULES
                .iter()
                .any(|&(priority, table)| is_plain(rule, priority, table))
        });
        // A kernel whose rules never ask the local table receives nothing, so these rules are a plan's.
        if !routing
            .rules
            .iter()
            .any(|rule| rule.action == RuleAction::Lookup(TABLE_LOCAL))
        {
            for (priority, table) in DEFAULT_RULES {
                if !routing
                    .rules
                    .iter()
                    .any(|rule| rule.action == RuleAction::Lookup(table))
                {
                    routing.rules.push(plain(priority, table));
                }
            }
        }
        routing.rules.sort_by_key(|rule| rule.priority);
        for route in state
            .routes
            .iter()
            .filter(|route| family_of(route.dst) == family)
        {
            let next_hops = route
                .hops
                .iter()
                .map(|hop| NextHop {
                    via: hop.via,
                    link: self.intern(&hop.link),
                    dead: hop.dead,
                })
                .collect();
            routing.table_mut(route.table).add(Route {
                bits: masked(bits(route.dst.addr()), route.dst.prefix_len()),
                length: route.dst.prefix_len(),
                metric: route.metric,
                kind: route.kind,
                mtu: route.mtu,
                src: route.src,
                next_hops,
            });
        }
        if routing.table(TABLE_LOCAL).is_none() {
            routing.derived = true;
            self.derive_connected(&mut routing, family);
        }
        for (_, table) in &mut routing.tables {
            table.seal();
        }
        routing
    }

    /// The routes that a kernel makes of addresses by itself, for tables that hold none of them.
    fn derive_connected(&self, routing: &mut Routing, family: Family) {
        for (at, link) in (0..).zip(&self.links) {
            for net in &link.addresses {
                if family_of(*net) != family || (family == Family::Ipv6 && !link.up) {
                    continue;
                }
                let route = |length: u8, kind: RouteKind| Route {
                    bits: masked(bits(net.addr()), length),
                    length,
                    metric: 0,
                    kind,
                    mtu: None,
                    src: Some(net.addr()),
                    next_hops: Box::new([NextHop {
                        via: None,
                        link: at,
                        dead: false,
                    }]),
                };
                routing
                    .table_mut(TABLE_LOCAL)
                    .add(route(net.max_prefix_len(), RouteKind::Local));
                if link.up && net.prefix_len() < net.max_prefix_len() {
                    let connected = route(net.prefix_len(), RouteKind::Unicast);
                    let main = routing.table_mut(TABLE_MAIN);
                    if !main.rows.iter().any(|row| row.order() == connected.order()) {
                        main.add(connected);
                    }
                }
            }
        }
    }
}

fn family_of(net: IpNet) -> Family {
    Family::of(net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{NextHop as HopRow, Route as Row};
    use proptest::prelude::*;

    #[test]
    fn bits_and_masks() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "255.255.255.255",
            "::",
            "fd00::1",
            "ffff::ffff",
        ] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(address(bits(ip), Family::of(ip)), ip);
            assert_eq!(masked(bits(ip), 0), 0);
            assert_eq!(masked(bits(ip), 128), bits(ip));
        }
        let ip = bits("10.1.2.3".parse().expect("an address"));
        assert_eq!(masked(ip, 8), bits("10.0.0.0".parse().expect("an address")));
    }

    fn route(dst: IpNet, metric: u32) -> Row {
        Row {
            table: TABLE_MAIN,
            dst,
            metric,
            kind: RouteKind::Unicast,
            hops: vec![HopRow {
                via: None,
                link: "eth0".to_owned(),
                onlink: false,
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: 3,
            mtu: None,
        }
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes often hold each other.
        let ipv4 = (0_u32..16, 0_u8..=32)
            .prop_map(|(bits, length)| IpNet::new(IpAddr::V4((bits << 26).into()), length));
        let ipv6 = (0_u128..16, 0_u8..=128)
            .prop_map(|(bits, length)| IpNet::new(IpAddr::V6((bits << 122).into()), length));
        prop_oneof![ipv4, ipv6].prop_map(|net| net.expect("a length").trunc())
    }

    proptest! {
        #[test]
        fn the_longest_prefix_with_the_smallest_metric_is_first(
            rows in proptest::collection::vec((prefix(), 0_u32..3), 0..40),
            wanted in prefix(),
        ) {
            let wanted = wanted.addr();
            let mut state = NodeState::default();
            state.routes.extend(rows.into_iter().map(|(dst, metric)| route(dst, metric)));
            let node = Node::new("n", &state, None);
            let mut expected: Vec<_> = state
                .routes
                .iter()
                .filter(|row| row.dst.contains(&wanted))
                .map(|row| (row.dst, row.metric))
                .collect();
            expected.sort_by_key(|(dst, metric)| (std::cmp::Reverse(dst.prefix_len()), *metric));
            let family = Family::of(wanted);
            let found: Vec<_> = node
                .routing(family)
                .table(TABLE_MAIN)
                .into_iter()
                .flat_map(|table| table.matching(wanted))
                .map(|row| (row.dst(family), row.metric))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn routes_have_the_names_that_differences_give_them(dst in prefix(), metric in 0_u32..2000) {
            let row = route(dst, metric);
            let mut state = NodeState::default();
            state.routes.insert(row.clone());
            let node = Node::new("n", &state, None);
            let family = Family::of(dst.addr());
            let table = node.routing(family).table(TABLE_MAIN).expect("a table");
            let found = table.matching(dst.addr()).next().expect("a route");
            prop_assert_eq!(
                crate::walk::lookup::route_name(found, TABLE_MAIN, family),
                name_of(&crate::state::Row::Route(row))
            );
        }
    }
}
