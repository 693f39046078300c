//! The expressions of a rule: those that a translation is written as, and whether those of a rule are still the same.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::address;
use super::super::message::{Attributes, attributes, read_text};
use crate::state::Nat;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_NETMAP: u32 = 1 << 6;

/// The value of an attribute of an expression.
enum Value {
    /// Octets inside of `NFTA_DATA_VALUE`.
    Data(Vec<u8>),
    /// A number in network byte order.
    Number(u32),
}

impl Value {
    fn write(&self, kind: u16, into: &mut Attributes<'_>) {
        match self {
            Self::Data(octets) => drop(into.nest(kind, |data| {
                data.bytes(NFTA_DATA_VALUE, octets);
            })),
            Self::Number(number) => drop(into.u32_be(kind, *number)),
        }
    }

    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Data(octets) => attributes(bytes)
                .any(|(kind, value)| kind == NFTA_DATA_VALUE && value == octets.as_slice()),
            Self::Number(number) => bytes == number.to_be_bytes(),
        }
    }
}

/// A name and attributes.
type Expression = (&'static str, Vec<(u16, Value)>);

/// The registers that we use, of 16 octets each.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// The expressions of a rule.
fn expressions(row: &Nat) -> Vec<Expression> {
    match row {
        Nat::Masquerade { src, out } => {
            let mut list = in_prefix(*src, Side::Source);
            if let Some(link) = out {
                list.extend(on_link(link, META_OIFNAME));
            }
            list.push(("masq", Vec::new()));
            list
        }
        Nat::Netmap { dst, input, to } => {
            let mut list = in_prefix(*dst, Side::Destination);
            list.extend(on_link(input, META_IIFNAME));
            list.push(load(FIRST, octets(to.network())));
            list.push(load(SECOND, octets(to.broadcast())));
            list.push(nat(
                1,
                to.addr(),
                SECOND,
                NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_NETMAP,
            ));
            list
        }
        Nat::Snat { src, out, to } => {
            let mut list = in_prefix(*src, Side::Source);
            list.extend(on_link(out, META_OIFNAME));
            list.push(load(FIRST, octets(*to)));
            list.push(nat(0, *to, FIRST, NF_NAT_RANGE_MAP_IPS));
            list
        }
    }
}

/// Writes a row's expressions as a list.
pub(super) fn write(row: &Nat, list: &mut Attributes<'_>) {
    for (name, data) in expressions(row) {
        list.nest(NFTA_LIST_ELEM, |expression| {
            expression.text(NFTA_EXPR_NAME, name);
            expression.nest(NFTA_EXPR_DATA, |inside| {
                for (kind, value) in &data {
                    value.write(*kind, inside);
                }
            });
        });
    }
}

enum Side {
    Destination,
    Source,
}

/// The packet's address, masked, is the prefix.
fn in_prefix(net: IpNet, side: Side) -> Vec<Expression> {
    // Offsets in the headers of RFC 791 and RFC 8200.
    let (offset, length) = match (net, side) {
        (IpNet::V4(_), Side::Source) => (12, 4),
        (IpNet::V4(_), Side::Destination) => (16, 4),
        (IpNet::V6(_), Side::Source) => (8, 16),
        (IpNet::V6(_), Side::Destination) => (24, 16),
    };
    let (network, mask) = (octets(net.network()), octets(net.netmask()));
    let zero = vec![0; mask.len()];
    vec![
        (
            "payload",
            vec![
                (1, Value::Number(FIRST)),
                // NFT_PAYLOAD_NETWORK_HEADER
                (2, Value::Number(1)),
                (3, Value::Number(offset)),
                (4, Value::Number(length)),
            ],
        ),
        (
            "bitwise",
            vec![
                (1, Value::Number(FIRST)),
                (2, Value::Number(FIRST)),
                (3, Value::Number(length)),
                (4, Value::Data(mask)),
                (5, Value::Data(zero)),
            ],
        ),
        equals(network),
    ]
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;

/// The link's name, padded to `IFNAMSIZ`, is this.
fn on_link(name: &str, key: u32) -> [Expression; 2] {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    [
        (
            "meta",
            vec![(1, Value::Number(FIRST)), (2, Value::Number(key))],
        ),
        equals(padded),
    ]
}

fn equals(octets: Vec<u8>) -> Expression {
    (
        "cmp",
        vec![
            (1, Value::Number(FIRST)),
            // NFT_CMP_EQ
            (2, Value::Number(0)),
            (3, Value::Data(octets)),
        ],
    )
}

fn load(register: u32, octets: Vec<u8>) -> Expression {
    (
        "immediate",
        vec![(1, Value::Number(register)), (2, Value::Data(octets))],
    )
}

fn nat(kind: u32, ip: IpAddr, last: u32, flags: u32) -> Expression {
    (
        "nat",
        vec![
            (1, Value::Number(kind)),
            (2, Value::Number(u32::from(address::family(ip)))),
            (3, Value::Number(FIRST)),
            (4, Value::Number(last)),
            (7, Value::Number(flags)),
        ],
    )
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Whether a list of expressions is what we write for a row. The kernel adds attributes of its own; ours must be among them unchanged.
pub(super) fn are_those_of(list: &[u8], row: &Nat) -> bool {
    let mut there = attributes(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
    for (name, wanted) in expressions(row) {
        let Some((_, expression)) = there.next() else {
            return false;
        };
        let (mut is_named, mut data) = (false, &[][..]);
        for (kind, value) in attributes(expression) {
            match kind {
                NFTA_EXPR_NAME => is_named = read_text(value).as_deref() == Some(name),
                NFTA_EXPR_DATA => data = value,
                _ => {}
            }
        }
        let holds = |(wanted, value): &(u16, Value)| {
            attributes(data).any(|(kind, bytes)| kind == *wanted && value.is(bytes))
        };
        if !is_named || !wanted.iter().all(holds) {
            return false;
        }
    }
    there.next().is_none()
}
