//! The octets of a packet's fields, as far as they are known, and what a test says of them.

use std::net::IpAddr;

use super::{Connection, Seen};
use crate::filter::{Field, Load, Octets, Order, Relation, Step, Verdict};
use crate::walk::Packet;

/// Octets of which some bits may not be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::walk) struct Value {
    octets: Vec<u8>,
    /// Which bits are known; the others are 0.
    known: Vec<u8>,
    /// Whether there is no such field here, so that no test of it holds.
    is_absent: bool,
    /// Of a random number: how many it can be (0: 2³²) and the least of them.
    random: Option<(u32, u32)>,
}

impl Value {
    pub(in crate::walk) fn known(octets: Vec<u8>) -> Self {
        Self {
            known: vec![0xff; octets.len()],
            octets,
            is_absent: false,
            random: None,
        }
    }

    pub(in crate::walk) fn unknown(length: usize) -> Self {
        Self {
            octets: vec![0; length],
            known: vec![0; length],
            is_absent: false,
            random: None,
        }
    }

    fn is_known(&self, length: usize) -> bool {
        let known = self.known.get(..length);
        known.is_some_and(|known| known.iter().all(|bits| *bits == 0xff))
    }

    fn part(&self, at: u16, length: u16) -> Self {
        let range = usize::from(at)..usize::from(at) + usize::from(length);
        match (self.octets.get(range.clone()), self.known.get(range)) {
            (Some(octets), Some(known)) => Self {
                octets: octets.to_vec(),
                known: known.to_vec(),
                is_absent: false,
                random: None,
            },
            _ => Self::unknown(usize::from(length.min(64))),
        }
    }

    fn put(&mut self, at: usize, octets: &[u8]) {
        for (place, octet) in (at..).zip(octets) {
            if let (Some(value), Some(known)) =
                (self.octets.get_mut(place), self.known.get_mut(place))
            {
                *value = *octet;
                *known = 0xff;
            }
        }
    }

    fn after(mut self, step: &Step) -> Self {
        match step {
            Step::Bits { mask, xor } => {
                for (at, octet) in self.octets.iter_mut().enumerate() {
                    let of = |octets: &Octets, or| octets.0.get(at).copied().unwrap_or(or);
                    let (mask, xor) = (of(mask, 0xff), of(xor, 0));
                    // A bit that is masked out is known to be none.
                    self.known[at] |= !mask;
                    *octet = ((*octet & mask) ^ xor) & self.known[at];
                }
                self.random = None;
            }
            Step::Swap(size) => {
                let size = usize::from(*size).max(1);
                self.octets.chunks_mut(size).for_each(<[u8]>::reverse);
                self.known.chunks_mut(size).for_each(<[u8]>::reverse);
            }
        }
        self
    }

    /// As a register of several fields has it.
    fn padded(mut self) -> Self {
        let length = self.octets.len().next_multiple_of(4);
        self.octets.resize(length, 0);
        self.known.resize(length, 0xff);
        self
    }
}

/// Whether a test holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// It cannot be told; of so many packets in a million where it is left to chance.
    Maybe(Option<u32>),
}

impl Holds {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, other) => other,
            (one, Self::Yes) => one,
            (Self::Maybe(Some(one)), Self::Maybe(Some(other))) => {
                let both = u64::from(one) * u64::from(other) / 1_000_000;
                Self::Maybe(u32::try_from(both).ok())
            }
            (Self::Maybe(_), Self::Maybe(_)) => Self::Maybe(None),
        }
    }

    pub(super) fn per_million(self) -> Option<u32> {
        match self {
            Self::Maybe(chance) => chance,
            Self::Yes | Self::No => None,
        }
    }

    fn not(self, not: bool) -> Self {
        match self {
            Self::Yes if not => Self::No,
            Self::No if not => Self::Yes,
            Self::Maybe(Some(chance)) if not => {
                Self::Maybe(Some(1_000_000_u32.saturating_sub(chance)))
            }
            other => other,
        }
    }

    fn known(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// A field of a packet.
pub(super) fn of(load: &Load, seen: &Seen<'_>) -> Value {
    load.then
        .iter()
        .fold(field(&load.field, seen), Value::after)
}

fn field(field: &Field, seen: &Seen<'_>) -> Value {
    let packet = &seen.packet;
    let name = |link: Option<(&str, u32)>| {
        let mut octets = link.map_or_else(Vec::new, |(name, _)| name.as_bytes().to_vec());
        octets.resize(16, 0);
        Value::known(octets)
    };
    // The orchestrator's and the node's order are taken to be one: all that Kubernetes runs on but s390x.
    let host = |number: u32| Value::known(number.to_le_bytes().to_vec());
    let is_v4 = packet.dst.is_ipv4();
    let route_type = |is_local: bool| host(if is_local { 2 } else { 1 });
    match field {
        Field::Iifname => name(seen.iif),
        Field::Oifname => name(seen.oif),
        Field::Iif => host(seen.iif.map_or(0, |(_, index)| index)),
        Field::Oif => host(seen.oif.map_or(0, |(_, index)| index)),
        Field::Nfproto => Value::known(vec![if is_v4 { 2 } else { 10 }]),
        Field::L4proto => Value::known(vec![packet.protocol]),
        Field::Protocol => Value::known(if is_v4 {
            vec![0x08, 0x00]
        } else {
            vec![0x86, 0xdd]
        }),
        Field::Mark => seen.mark.clone().unwrap_or_else(|| host(0)),
        Field::Network(at, length) => network(packet).part(*at, *length),
        Field::Transport(at, length) => transport(seen).part(*at, *length),
        Field::CtState => host(match seen.connection {
            Connection::Invalid => 1,
            Connection::Answer => 2,
            Connection::New => 8,
            Connection::Untracked => 64,
        }),
        Field::CtDirection => match seen.connection {
            Connection::New => Value::known(vec![0]),
            Connection::Answer => Value::known(vec![1]),
            Connection::Invalid | Connection::Untracked => Value {
                is_absent: true,
                ..Value::unknown(1)
            },
        },
        Field::CtStatus => Value::unknown(4),
        Field::FibSaddrType => route_type(seen.is_local.0),
        Field::FibDaddrType => route_type(seen.is_local.1),
        Field::Random(modulus, offset) => Value {
            random: Some((*modulus, *offset)),
            ..Value::unknown(4)
        },
        Field::Other(_, length) => Value::unknown(usize::from((*length).min(64))),
    }
}

/// The IP header (RFC 791, RFC 8200), without what a sender chooses.
fn network(packet: &Packet) -> Value {
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = Value::unknown(20);
            header.put(0, &[0x45]);
            // The first fragment, and no other is asked about: all but the flag that forbids cutting.
            header.known[6] = 0xbf;
            header.put(7, &[0]);
            header.put(9, &[packet.protocol]);
            header.put(12, &src.octets());
            header.put(16, &dst.octets());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = Value::unknown(40);
            header.octets[0] = 0x60;
            header.known[0] = 0xf0;
            header.put(6, &[packet.protocol]);
            header.put(8, &src.octets());
            header.put(24, &dst.octets());
            header
        }
        _ => Value::unknown(0),
    }
}

/// The header above IP: ports (0 where a sender chooses one), types of ICMP, flags of a connection's first two packets.
fn transport(seen: &Seen<'_>) -> Value {
    let packet = &seen.packet;
    let mut header = Value::unknown(20);
    match packet.protocol {
        Packet::ICMP => header.put(0, &[if seen.is_answer { 0 } else { 8 }, 0]),
        Packet::ICMP6 => header.put(0, &[if seen.is_answer { 129 } else { 128 }, 0]),
        Packet::TCP | Packet::UDP => {
            for (at, port) in [(0, packet.src_port), (2, packet.dst_port)] {
                if port != 0 {
                    header.put(at, &port.to_be_bytes());
                }
            }
            if packet.protocol == Packet::TCP {
                header.put(13, &[if seen.is_answer { 0x12 } else { 0x02 }]);
            }
        }
        _ => {}
    }
    header
}

/// Whether a relation holds of some fields.
pub(super) fn test(values: &[Value], of: &[Load], relation: &Relation) -> Holds {
    if values.iter().any(|value| value.is_absent) {
        return Holds::No;
    }
    if let [value] = values
        && let Some(random) = value.random
    {
        let is_swapped = of
            .first()
            .is_some_and(|load| load.then.iter().any(|step| matches!(step, Step::Swap(_))));
        return chance(random, is_swapped, relation);
    }
    match relation {
        Relation::Compare(order, wanted) => match joined(values) {
            Some(value) => compare(&value, *order, wanted),
            None => Holds::Maybe(None),
        },
        Relation::Within { low, high, not } => within(values, low, high).not(*not),
        Relation::In { ranges, not, .. } => match ranges {
            Some(ranges) => any(ranges.iter().map(|(low, high)| within(values, low, high))),
            None => Holds::Maybe(None),
        }
        .not(*not),
    }
}

/// Yes if one does, no if none can.
fn any(each: impl Iterator<Item = Holds>) -> Holds {
    let mut all = Holds::No;
    for one in each {
        match one {
            Holds::Yes => return Holds::Yes,
            Holds::No => {}
            Holds::Maybe(_) => all = Holds::Maybe(None),
        }
    }
    all
}

/// The verdict of a map's element that fields are in; an inner none where they are in none, an outer one where it cannot be told.
pub(super) fn arm<'r>(
    values: &[Value],
    arms: &'r [(Octets, Octets, Verdict)],
) -> Option<Option<&'r Verdict>> {
    let mut is_sure = true;
    for (low, high, verdict) in arms {
        match within(values, low, high) {
            Holds::Yes => return Some(Some(verdict)),
            Holds::No => {}
            Holds::Maybe(_) => is_sure = false,
        }
    }
    is_sure.then_some(None)
}

fn joined(values: &[Value]) -> Option<Value> {
    match values {
        [one] => Some(one.clone()),
        _ => None,
    }
}

fn compare(value: &Value, order: Order, wanted: &Octets) -> Holds {
    let wanted = wanted.0.as_slice();
    if let Order::Eq | Order::Ne = order {
        return equals(value, wanted).not(order == Order::Ne);
    }
    if !value.is_known(wanted.len()) {
        return Holds::Maybe(None);
    }
    let own = &value.octets[..wanted.len()];
    Holds::known(match order {
        Order::Lt => own < wanted,
        Order::Le => own <= wanted,
        Order::Gt => own > wanted,
        Order::Ge => own >= wanted,
        Order::Eq | Order::Ne => return Holds::Maybe(None),
    })
}

fn equals(value: &Value, wanted: &[u8]) -> Holds {
    let bits = value.octets.iter().zip(&value.known).zip(wanted);
    let mut bits = bits.map(|((octet, known), wanted)| (octet ^ wanted) & known);
    if bits.any(|differs| differs != 0) {
        return Holds::No;
    }
    if value.is_known(wanted.len()) {
        Holds::Yes
    } else {
        Holds::Maybe(None)
    }
}

/// Field by field, as sets of several fields are compared.
fn within(values: &[Value], low: &Octets, high: &Octets) -> Holds {
    let is_one = values.len() == 1;
    let mut at = 0;
    let mut holds = Holds::Yes;
    for value in values {
        let value = if is_one {
            value.clone()
        } else {
            value.clone().padded()
        };
        // A set of names has keys of 16 octets, whatever the kernel keeps of them.
        let end = if is_one {
            low.0.len()
        } else {
            at + value.octets.len()
        };
        let (Some(low), Some(high)) = (low.0.get(at..end), high.0.get(at..end)) else {
            return Holds::Maybe(None);
        };
        at = end;
        let one = if low == high {
            equals(&value, low)
        } else if value.is_known(low.len()) {
            let own = &value.octets[..low.len()];
            Holds::known(low <= own && own <= high)
        } else {
            Holds::Maybe(None)
        };
        holds = holds.and(one);
    }
    holds
}

/// How often a random number fulfils a relation.
fn chance((modulus, offset): (u32, u32), is_swapped: bool, relation: &Relation) -> Holds {
    let all = if modulus == 0 {
        1 << 32
    } else {
        u64::from(modulus)
    };
    let number = |octets: &Octets| {
        let octets: [u8; 4] = octets.0.get(..4)?.try_into().ok()?;
        // All octets of a number without a modulus are alike, so that the first counts most.
        let is_first_highest = is_swapped || modulus == 0;
        let value = if is_first_highest {
            u32::from_be_bytes(octets)
        } else {
            u32::from_le_bytes(octets)
        };
        Some(u64::from(value).saturating_sub(u64::from(offset)).min(all))
    };
    let (order, wanted) = match relation {
        Relation::Compare(order, wanted) => (*order, wanted),
        Relation::Within { .. } | Relation::In { .. } => return Holds::Maybe(None),
    };
    let Some(limit) = number(wanted) else {
        return Holds::Maybe(None);
    };
    let matching = match order {
        Order::Eq => u64::from(limit < all),
        Order::Ne => all - u64::from(limit < all),
        Order::Lt => limit,
        Order::Le => (limit + 1).min(all),
        Order::Gt => all.saturating_sub(limit + 1),
        Order::Ge => all - limit,
    };
    match matching {
        0 => Holds::No,
        matching if matching >= all => Holds::Yes,
        matching => Holds::Maybe(u32::try_from(matching * 1_000_000 / all).ok()),
    }
}
