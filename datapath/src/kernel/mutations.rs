//! A million messages that no kernel sends, given to every reader: none panics, and none makes more of a message than was in it.

use std::net::IpAddr;

use super::link::{self, Names};
use super::message::{Batch, Tolerated, attributes, read_ip, read_mac, read_text, read_u64};
use super::socket::{Message, Messages};
use super::{address, neigh, nft, route, rule};
use crate::mac::Mac;
use crate::state::{
    Family, Fdb, Link, LinkKind, Nat, Neighbour, NeighbourState, NextHop, NodeState, Route,
    RouteKind, Rule, RuleAction, Vxlan,
};

/// Messages of each kind.
const CASES: u64 = 500_000;

/// A small generator (splitmix64): proptest's strategies alone would take most of the time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_ne_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

fn vxlan(local: IpAddr) -> Link {
    Link {
        name: "vx-bridge".into(),
        index: 3,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1450,
        up: true,
        carrier: true,
        kind: LinkKind::Vxlan(Vxlan {
            vni: 54,
            port: 4876,
            local: Some(local),
            lower: Some("eth0".into()),
            learning: true,
        }),
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

fn path(dst: &str, hops: &[&str]) -> Route {
    Route {
        table: 200,
        dst: dst.parse().expect("a prefix"),
        metric: 7,
        kind: RouteKind::Unicast,
        hops: hops
            .iter()
            .map(|via| NextHop {
                via: Some(via.parse().expect("an address")),
                link: "eth0".into(),
                onlink: true,
                weight: 1,
                dead: false,
            })
            .collect(),
        src: None,
        protocol: 3,
        mtu: Some(1400),
    }
}

/// A message of every kind that is read, in order.
fn valid() -> Vec<Vec<u8>> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut batch = Batch::default();
    for local in ["100.64.0.1", "fd64::1"] {
        link::create(&mut batch, 0, &vxlan(ip(local)), Some(2), Some(9));
        let net = format!("{local}/{}", if local.contains(':') { 64 } else { 16 });
        address::add(&mut batch, 0, net.parse().expect("a prefix"), 2);
        let neighbour = Neighbour {
            link: "vx-bridge".into(),
            ip: ip(local),
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            state: NeighbourState::Permanent,
        };
        neigh::add(&mut batch, 0, &neighbour, 3);
        let row = Fdb {
            link: "vx-bridge".into(),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            dst: Some(ip(local)),
            permanent: true,
        };
        neigh::add_fdb(&mut batch, 0, &row, 3);
    }
    let index_of = |_: &str| Some(2);
    for route in [
        path("10.1.0.0/16", &["220.0.0.1"]),
        path("10.2.0.0/16", &["220.0.0.1", "220.0.0.2", "220.0.0.3"]),
        path("fd10::/48", &["fe80::1"]),
    ] {
        route::add(&mut batch, 0, &route, &index_of).expect("known links");
    }
    let rule = Rule {
        family: Family::Ipv4,
        priority: 200,
        src: Some("10.0.0.0/8".parse().expect("a prefix")),
        dst: None,
        iif: Some("eth0".into()),
        oif: None,
        mark: Some((1, 0xff)),
        finer: None,
        invert: false,
        action: RuleAction::Lookup(200),
    };
    rule::add(&mut batch, 0, &rule);
    let translation = Nat::Netmap {
        dst: "10.1.0.0/16".parse().expect("a prefix"),
        input: "vx-bridge".into(),
        to: "10.2.0.0/16".parse().expect("a prefix"),
    };
    nft::write_rule(&mut batch, &translation);
    // A link with the settings of both families: `IFLA_IFNAME`, and `IFLA_AF_SPEC` with a list of values for each.
    batch.push(
        (link::RTM_NEWLINK, 0),
        (0, Tolerated::Nothing),
        &link::header(3, 1, 0),
        |settings| {
            settings.text(3, "vx-bridge").nest(26, |families| {
                for (family, list) in [(2, 1), (10, 2)] {
                    families.nest(family, |values| {
                        values.bytes(list, &[1; 132]);
                    });
                }
            });
        },
    );
    let parts = batch.parts.iter();
    parts
        .map(|part| batch.bytes[part.range.clone()].to_vec())
        .collect()
}

/// Does to a message what a broken or hostile sender might.
fn mutate(chance: &mut Chance, message: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=chance.below(4) {
        let at = chance.below(message.len());
        match chance.below(7) {
            0 => message.truncate(at),
            1 => {
                let count = 1 + chance.below(12);
                message.extend(chance.bytes(count));
            }
            2 => {
                // A length at the place of an attribute, or nearly so.
                let at = at & !3;
                let lengths = [0_u16, 1, 3, 4, 5, 8, 0x7fff, 0xffff];
                let length = lengths[chance.below(lengths.len())].to_ne_bytes();
                if let Some(place) = message.get_mut(at..at + 2) {
                    place.copy_from_slice(&length);
                }
            }
            3 => {
                let other = &others[chance.below(others.len())];
                let from = chance.below(other.len());
                message.splice(at..at, other[from..].iter().copied());
            }
            4 => {
                let end = (at + 1 + chance.below(8)).min(message.len());
                message.drain(at..end);
            }
            _ => {
                let byte = chance.next().to_ne_bytes()[0];
                if let Some(place) = message.get_mut(at) {
                    *place = byte;
                }
            }
        }
        if message.is_empty() {
            return;
        }
    }
}

/// What the readers need of a namespace.
struct Known {
    names: Names,
    state: NodeState,
}

impl Known {
    fn new() -> Self {
        let mut names = Names::default();
        for index in [0, 1, 2, 3, 9] {
            names.insert(index, "vx-bridge".to_owned());
        }
        let mut state = NodeState::default();
        state
            .links
            .insert(vxlan("100.64.0.1".parse().expect("an address")));
        Self { names, state }
    }

    /// Has every reader read a payload. What they make of it is bounded by its length.
    fn read(&self, kind: u16, payload: &[u8]) {
        let most = payload.len();
        if let Some(read) = link::read(payload) {
            // Two settings of each family, at most one family per attribute of four octets and a link's name in each.
            assert!(read.sysctls.len() <= most / 2);
            assert!(read.link.name.len() <= most);
            let _ = read.resolved(&self.names);
        }
        let _ = address::read(payload, &self.names);
        let _ = neigh::read(payload, &self.names);
        let _ = neigh::read_fdb(payload, &self.names, &self.state);
        if let Some(rule) = rule::read(payload) {
            let names = [rule.iif, rule.oif].into_iter().flatten();
            assert!(names.map(|name| name.len()).sum::<usize>() <= most);
        }
        if let Some(row) = route::read(payload, &self.names) {
            assert!(row.hops.len() <= 1 + most / 8);
            let mut joined = row.clone();
            route::join(&mut joined, row);
        }
        let _ = nft::read(payload);
        let _ = nft::is_of_our_tables(kind, payload);
        for (_, value) in attributes(payload) {
            let text = read_text(value).unwrap_or_default();
            assert!(text.len() <= most);
            let _ = (read_ip(value), read_mac(value), read_u64(value));
        }
    }

    /// The same for all messages of a datagram, and for its bytes as a payload.
    fn receive(&self, datagram: &[u8]) {
        let mut sum = 0;
        for message in Messages(datagram) {
            self.take(&message, datagram.len());
            sum += message.payload.len();
        }
        assert!(sum <= datagram.len());
        self.read(0, datagram);
    }

    fn take(&self, message: &Message<'_>, most: usize) {
        let _ = message.errno();
        // Three octets for each that is no UTF-8.
        assert!(message.detail().len() <= 3 * most);
        self.read(message.kind, message.payload);
    }
}

#[test]
fn arbitrary_bytes_harm_no_reader() {
    let (known, mut chance) = (Known::new(), Chance(1));
    for _ in 0..CASES {
        let count = chance.below(96);
        let mut bytes = chance.bytes(count);
        // A header that lets the rest be looked at, half of the time.
        if let Some(length) = bytes.first_chunk_mut::<4>()
            && chance.below(2) == 0
        {
            *length = u32::try_from(count).unwrap_or(0).to_ne_bytes();
        }
        known.receive(&bytes);
    }
}

#[test]
fn mutated_messages_harm_no_reader() {
    let (known, mut chance, valid) = (Known::new(), Chance(2), valid());
    for message in &valid {
        assert_eq!(Messages(message).count(), 1);
        known.receive(message);
    }
    for case in 0..CASES as usize {
        let mut message = valid[case % valid.len()].clone();
        mutate(&mut chance, &mut message, &valid);
        // Half of them keep a length that fits, so that what is within is read.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        if let Some(place) = message.first_chunk_mut::<4>()
            && chance.below(2) == 0
        {
            *place = length.to_ne_bytes();
        }
        known.receive(&message);
    }
}
