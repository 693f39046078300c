//! The bytes of a row.
//!
//! A row is its kind, one byte, and its fields. Those that are its key come first, so that the key's bytes are the first ones of the
//! row's. Numbers are in network byte order.
//!
//! | kind | key | then |
//! |---|---|---|
//! | 1 address | link, address, length | |
//! | 2 forwarding row | link, MAC, option of address | |
//! | 3 link | name | option of MAC, MTU (4), up (1), made of, option of master's name |
//! | 4 neighbour | link, address | option of MAC |
//! | 5 route | table (4), address, length, metric (4) | kind (1), option of source, option of MTU (4), next hops |
//! | 6 rule | family (1), priority (4), option of source prefix, option of destination prefix, option of ingress link, option of egress link, option of mark (4) and mask (4), inverted (1), action | |
//! | 7 translation | 1, source prefix, option of egress link; or 2, destination prefix, ingress link, prefix; or 3, source prefix, egress link, address | |
//!
//! - name, link: its length in bytes (2) and the bytes; address: 4 and 4 bytes, or 6 and 16 bytes; prefix: address, length (1);
//!   family: 4 or 6; option: 0, or 1 and the value; MAC: 6 bytes; yes and no: 1 and 0
//! - what a link is made of: 1 bridge; 2 loopback; 3 any other kind, its name; 4 veth; 5 VXLAN: VNI (4), port (2), option of local address,
//!   option of lower link, learning (1)
//! - kind of route: 1 blackhole, 2 local, 3 prohibit, 4 throw, 5 unicast, 6 unreachable
//! - next hops: their number (2), of each: router (0 none; 1, its address; 2 the node's own gateway, see [`Gateways`]), link, on-link (1),
//!   weight (2)
//! - action: 1 blackhole; 2 lookup, table (4); 3 any other, number (1); 4 prohibit; 5 unreachable
//!
//! Left out is what [`diff`](crate::diff::diff) does not compare either: index, carrier and counters of a link, its peer's index, who wrote
//! a route and whether its links have a carrier; and what all owned rows have alike: that neighbours and forwarding rows are permanent.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Gateways;
use crate::diff;
use crate::mac::Mac;
use crate::nodeconfig::{TABLE, default_metric};
use crate::plan::{self, Hops};
use crate::state::{
    Address, Family, Fdb, Link, LinkKind, Nat, Neighbour, NextHop, NodeState, Route, RouteKind,
    Row, Rule, RuleAction,
};
use crate::tunnel::Tunnel;

/// A row that stays where it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Borrowed<'a> {
    Address(&'a Address),
    Fdb(&'a Fdb),
    Link(&'a Link),
    Nat(&'a Nat),
    Neighbour(&'a Neighbour),
    Route(&'a Route),
    Rule(&'a Rule),
}

impl<'a> Borrowed<'a> {
    /// The row, if the datapath owns it. It owns no setting.
    pub(super) fn of(row: &'a Row) -> Option<Self> {
        match row {
            Row::Address(row) => diff::is_owned_address(row).then_some(Self::Address(row)),
            Row::Fdb(row) => diff::is_owned_fdb(row).then_some(Self::Fdb(row)),
            Row::Link(row) => diff::is_tunnel(&row.name).then_some(Self::Link(row)),
            Row::Nat(row) => Some(Self::Nat(row)),
            Row::Neighbour(row) => diff::is_owned_neighbour(row).then_some(Self::Neighbour(row)),
            Row::Route(row) => diff::is_owned_route(row).then_some(Self::Route(row)),
            Row::Rule(row) => diff::is_owned_rule(row).then_some(Self::Rule(row)),
            Row::Sysctl(_) => None,
        }
    }

    /// The rows that the datapath owns and that are not local to the node's links: neighbours, FDB, routes, translations.
    pub(super) fn tables(state: &'a NodeState) -> impl Iterator<Item = Self> {
        let neighbours = state.neighbours.iter();
        let neighbours = neighbours.filter(|row| diff::is_owned_neighbour(row));
        let fdb = state.fdb.iter().filter(|row| diff::is_owned_fdb(row));
        let routes = state.routes.iter().filter(|row| diff::is_owned_route(row));
        neighbours
            .map(Self::Neighbour)
            .chain(fdb.map(Self::Fdb))
            .chain(routes.map(Self::Route))
            .chain(state.nat.iter().map(Self::Nat))
    }

    /// The other rows that it owns: links, their addresses, rules.
    pub(super) fn local(state: &'a NodeState) -> impl Iterator<Item = Self> {
        let links = state.links.iter().filter(|row| diff::is_tunnel(&row.name));
        let addresses = state.addresses.iter();
        let addresses = addresses.filter(|row| diff::is_owned_address(row));
        let rules = state.rules.iter().filter(|row| diff::is_owned_rule(row));
        links
            .map(Self::Link)
            .chain(addresses.map(Self::Address))
            .chain(rules.map(Self::Rule))
    }

    /// Whether it is one of [`Self::local`].
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Address(_) | Self::Link(_) | Self::Rule(_))
    }

    pub(super) fn to_row(self) -> Row {
        match self {
            Self::Address(row) => Row::Address(row.clone()),
            Self::Fdb(row) => Row::Fdb(row.clone()),
            Self::Link(row) => Row::Link(row.clone()),
            Self::Nat(row) => Row::Nat(row.clone()),
            Self::Neighbour(row) => Row::Neighbour(row.clone()),
            Self::Route(row) => Row::Route(row.clone()),
            Self::Rule(row) => Row::Rule(row.clone()),
        }
    }
}

/// A row's bytes, in memory that serves many rows one after the other.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    bytes: Vec<u8>,
    /// How many of them are the key's.
    key: usize,
    pub(super) gateways: Gateways,
}

impl Bytes {
    /// Of the rows of a node with these gateways of its own.
    pub(super) fn of(gateways: Gateways) -> Self {
        Self {
            gateways,
            ..Self::default()
        }
    }

    pub(super) fn row(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn key(&self) -> &[u8] {
        self.bytes.get(..self.key).unwrap_or_default()
    }

    pub(super) fn write(&mut self, row: Borrowed<'_>) {
        match row {
            Borrowed::Address(row) => {
                self.begin(1);
                self.text(&row.link);
                self.prefix(row.net);
                self.end_key();
            }
            Borrowed::Fdb(row) => self.fdb(&row.link, row.mac, row.dst),
            Borrowed::Link(row) => self.link(row),
            Borrowed::Nat(row) => self.nat(row),
            Borrowed::Neighbour(row) => self.neighbour(&row.link, row.ip, row.mac),
            Borrowed::Route(row) => self.route(row),
            Borrowed::Rule(row) => self.rule(row),
        }
    }

    /// As [`Self::write`] of the row of a state that it makes.
    pub(super) fn write_planned(&mut self, row: plan::Row) {
        match row {
            plan::Row::Fdb { tunnel, mac, dst } => self.fdb(tunnel.name(), mac, Some(dst)),
            plan::Row::Nat(translation) => self.nat(&translation.into()),
            plan::Row::Neighbour { tunnel, ip, mac } => {
                self.neighbour(tunnel.name(), ip, Some(mac));
            }
            plan::Row::Route { tunnel, dst, via } => self.planned_route(tunnel, dst, via),
        }
    }

    fn fdb(&mut self, link: &str, mac: Mac, dst: Option<IpAddr>) {
        self.begin(2);
        self.text(link);
        self.bytes.extend(mac.0);
        self.option(dst, Self::address);
        self.end_key();
    }

    fn link(&mut self, row: &Link) {
        self.begin(3);
        self.text(&row.name);
        self.end_key();
        self.option(row.mac, |out, mac| out.bytes.extend(mac.0));
        self.bytes.extend(row.mtu.to_be_bytes());
        self.flag(row.up);
        match &row.kind {
            LinkKind::Bridge => self.bytes.push(1),
            LinkKind::Loopback => self.bytes.push(2),
            LinkKind::Other { name } => {
                self.bytes.push(3);
                self.text(name);
            }
            LinkKind::Veth { .. } => self.bytes.push(4),
            LinkKind::Vxlan(vxlan) => {
                self.bytes.push(5);
                self.bytes.extend(vxlan.vni.to_be_bytes());
                self.bytes.extend(vxlan.port.to_be_bytes());
                self.option(vxlan.local, Self::address);
                self.option(vxlan.lower.as_deref(), Self::text);
                self.flag(vxlan.learning);
            }
        }
        self.option(row.master.as_deref(), Self::text);
    }

    fn neighbour(&mut self, link: &str, ip: IpAddr, mac: Option<Mac>) {
        self.begin(4);
        self.text(link);
        self.address(ip);
        self.end_key();
        self.option(mac, |out, mac| out.bytes.extend(mac.0));
    }

    fn route(&mut self, row: &Route) {
        self.route_key(row.table, row.dst, row.metric);
        self.bytes.push(match row.kind {
            RouteKind::Blackhole => 1,
            RouteKind::Local => 2,
            RouteKind::Prohibit => 3,
            RouteKind::Throw => 4,
            RouteKind::Unicast => UNICAST,
            RouteKind::Unreachable => 6,
        });
        self.option(row.src, Self::address);
        self.option(row.mtu, |out, mtu| out.bytes.extend(mtu.to_be_bytes()));
        self.count(row.hops.len());
        for NextHop {
            via,
            link,
            onlink,
            weight,
            dead: _,
        } in &row.hops
        {
            self.next_hop(*via, link, *onlink, *weight);
        }
    }

    fn planned_route(&mut self, tunnel: Tunnel, dst: IpNet, via: Hops) {
        self.route_key(TABLE, dst, default_metric(dst));
        // No source, no MTU.
        self.bytes.extend([UNICAST, 0, 0]);
        self.count(via.iter().count());
        for via in via.iter() {
            self.next_hop(Some(via), tunnel.name(), true, 1);
        }
    }

    fn route_key(&mut self, table: u32, dst: IpNet, metric: u32) {
        self.begin(5);
        self.bytes.extend(table.to_be_bytes());
        self.prefix(dst);
        self.bytes.extend(metric.to_be_bytes());
        self.end_key();
    }

    fn next_hop(&mut self, via: Option<IpAddr>, link: &str, onlink: bool, weight: u16) {
        match via {
            Some(via) if self.gateways.has(via) => self.bytes.push(2),
            via => self.option(via, Self::address),
        }
        self.text(link);
        self.flag(onlink);
        self.bytes.extend(weight.to_be_bytes());
    }

    fn rule(&mut self, row: &Rule) {
        self.begin(6);
        self.bytes.push(match row.family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        });
        self.bytes.extend(row.priority.to_be_bytes());
        self.option(row.src, Self::prefix);
        self.option(row.dst, Self::prefix);
        self.option(row.iif.as_deref(), Self::text);
        self.option(row.oif.as_deref(), Self::text);
        self.option(row.mark, |out, (mark, mask)| {
            out.bytes.extend(mark.to_be_bytes());
            out.bytes.extend(mask.to_be_bytes());
        });
        self.flag(row.invert);
        match row.action {
            RuleAction::Blackhole => self.bytes.push(1),
            RuleAction::Lookup(table) => {
                self.bytes.push(2);
                self.bytes.extend(table.to_be_bytes());
            }
            RuleAction::Other(number) => self.bytes.extend([3, number]),
            RuleAction::Prohibit => self.bytes.push(4),
            RuleAction::Unreachable => self.bytes.push(5),
        }
        if let Some(finer) = row.finer {
            let ports = |out: &mut Self, (first, last): (u16, u16)| {
                out.bytes.extend(first.to_be_bytes());
                out.bytes.extend(last.to_be_bytes());
            };
            self.option(finer.protocol, |out, protocol| out.bytes.push(protocol));
            self.option(finer.src_ports, ports);
            self.option(finer.dst_ports, ports);
            self.option(finer.suppress, |out, length| out.bytes.push(length));
        }
        self.end_key();
    }

    fn nat(&mut self, row: &Nat) {
        self.begin(7);
        match row {
            Nat::Masquerade { src, out } => {
                self.bytes.push(1);
                self.prefix(*src);
                self.option(out.as_deref(), Self::text);
            }
            Nat::Netmap { dst, input, to } => {
                self.bytes.push(2);
                self.prefix(*dst);
                self.text(input);
                self.prefix(*to);
            }
            Nat::Snat { src, out, to } => {
                self.bytes.push(3);
                self.prefix(*src);
                self.text(out);
                self.address(*to);
            }
        }
        self.end_key();
    }

    fn begin(&mut self, kind: u8) {
        self.bytes.clear();
        self.bytes.push(kind);
    }

    fn end_key(&mut self) {
        self.key = self.bytes.len();
    }

    fn text(&mut self, text: &str) {
        // The kernel's names have at most 15 bytes. Of one that no kernel gives, the bytes beyond the number still tell it apart.
        self.count(text.len());
        self.bytes.extend(text.as_bytes());
    }

    fn count(&mut self, number: usize) {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        self.bytes.extend(number.to_be_bytes());
    }

    fn address(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.bytes.push(4);
                self.bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                self.bytes.push(6);
                self.bytes.extend(ip.octets());
            }
        }
    }

    fn prefix(&mut self, net: IpNet) {
        self.address(net.addr());
        self.bytes.push(net.prefix_len());
    }

    fn flag(&mut self, yes: bool) {
        self.bytes.push(u8::from(yes));
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.bytes.push(0),
            Some(value) => {
                self.bytes.push(1);
                write(self, value);
            }
        }
    }
}

const UNICAST: u8 = 5;

/// The canonical bytes of a row of a node without a gateway of its own, without the version; none of a row that the datapath does not own.
#[must_use]
pub fn canonical(row: &Row) -> Option<Vec<u8>> {
    let mut bytes = Bytes::default();
    bytes.write(Borrowed::of(row)?);
    Some(bytes.bytes)
}
