//! Matches and targets of xtables, as iptables-nft puts them into rules: structures of the kernel's headers, each with its revision.

use super::super::super::message::{attributes, read_text, read_u16, read_u32};
use super::number;
use crate::filter::{
    Clause, Field, Load, Octets, Order, Relation, Step, Test, Translation, Verdict,
};

/// Name, revision and structure of a match or target.
fn parts(data: &[u8]) -> Option<(String, u32, &[u8])> {
    let (mut name, mut revision, mut info) = (None, 0, &[][..]);
    for (kind, value) in attributes(data) {
        match kind {
            1 => name = read_text(value),
            2 => revision = number(value)?,
            3 => info = value,
            _ => {}
        }
    }
    Some((name?, revision, info))
}

/// What a match asks.
pub(super) fn test(data: &[u8]) -> Vec<Clause> {
    let Some((name, revision, info)) = parts(data) else {
        return vec![Clause::Unknown("match".to_owned())];
    };
    let read = match (name.as_str(), revision) {
        ("comment", _) => Some(Vec::new()),
        ("tcp", 0) => ports(info, info.get(11).copied(), info.get(9..11)),
        ("udp", 0) => ports(info, info.get(8).copied(), None),
        ("conntrack", 1..=3) => states(info),
        ("state", 0) => read_u32(info).map(|mask| vec![state_test(mask.to_le_bytes(), false)]),
        ("statistic", 0) => random(info),
        ("mark", 1) => mark(info),
        ("addrtype", 1) => address_type(info),
        ("multiport", 1) => some_ports(info),
        _ => None,
    };
    read.unwrap_or_else(|| vec![Clause::Unknown(format!("match {name}"))])
}

/// What a target does.
pub(super) fn target(data: &[u8]) -> Vec<Clause> {
    let Some((name, revision, info)) = parts(data) else {
        return vec![Clause::Unknown("target".to_owned())];
    };
    match name.as_str() {
        "REJECT" => vec![Clause::Verdict(Verdict::Reject)],
        "MASQUERADE" => vec![Clause::Translate(Translation::Masquerade)],
        "SNAT" => vec![Clause::Translate(Translation::Source(None))],
        "DNAT" => vec![Clause::Translate(Translation::Destination(None))],
        "REDIRECT" => vec![Clause::Translate(Translation::Redirect)],
        "MARK" => vec![Clause::Mark(set_mark(revision, info))],
        "CONNMARK" => vec![Clause::Mark(None)],
        "AUDIT" | "CHECKSUM" | "CLASSIFY" | "CONNSECMARK" | "DSCP" | "LOG" | "NFLOG"
        | "SECMARK" | "TCPMSS" | "TOS" | "TRACE" | "TTL" | "ULOG" => Vec::new(),
        _ => vec![Clause::Unknown(format!("target {name}"))],
    }
}

fn compare(field: Field, order: Order, octets: Vec<u8>) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(order, Octets(octets)),
    })
}

/// A range of ports of the host's order; none where it is all of them.
fn port_range(field: Field, low: u16, high: u16, not: bool) -> Option<Clause> {
    let octets = |port: u16| Octets(port.to_be_bytes().to_vec());
    ((low, high) != (0, u16::MAX) || not).then(|| {
        Clause::Test(Test {
            of: vec![field.into()],
            is: Relation::Within {
                low: octets(low),
                high: octets(high),
                not,
            },
        })
    })
}

const SOURCE: Field = Field::Transport(0, 2);
const DESTINATION: Field = Field::Transport(2, 2);

/// `struct xt_tcp` and `struct xt_udp`: two ranges, then what is inverted. Flags of TCP are compared where they are given.
fn ports(info: &[u8], inverted: Option<u8>, flags: Option<&[u8]>) -> Option<Vec<Clause>> {
    let port = |at: usize| read_u16(info.get(at..)?);
    let inverted = inverted?;
    let mut clauses: Vec<Clause> = [
        port_range(SOURCE, port(0)?, port(2)?, inverted & 1 != 0),
        port_range(DESTINATION, port(4)?, port(6)?, inverted & 2 != 0),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(&[mask, wanted]) = flags {
        if mask != 0 {
            let load = Load {
                field: Field::Transport(13, 1),
                then: vec![Step::Bits {
                    mask: Octets(vec![mask]),
                    xor: Octets(vec![0]),
                }],
            };
            let order = if inverted & 4 != 0 {
                Order::Ne
            } else {
                Order::Eq
            };
            clauses.push(Clause::Test(Test {
                of: vec![load],
                is: Relation::Compare(order, Octets(vec![wanted])),
            }));
        }
        // An option of the header.
        if info.get(8).is_none_or(|option| *option != 0) {
            clauses.push(Clause::Unknown("match tcp".to_owned()));
        }
    }
    Some(clauses)
}

fn state_test(mask: [u8; 4], not: bool) -> Clause {
    Clause::Test(Test {
        of: vec![Load {
            field: Field::CtState,
            then: vec![Step::Bits {
                mask: Octets(mask.to_vec()),
                xor: Octets(vec![0; 4]),
            }],
        }],
        is: Relation::Compare(if not { Order::Eq } else { Order::Ne }, Octets(vec![0; 4])),
    })
}

/// `struct xt_conntrack_mtinfo1` to `3`, where they ask for the state alone.
fn states(info: &[u8]) -> Option<Vec<Clause>> {
    const MATCH_FLAGS: usize = 146;
    let half = |at: usize| read_u16(info.get(at..)?);
    let (wanted, inverted) = (half(MATCH_FLAGS)?, half(MATCH_FLAGS + 2)?);
    let mask = match half(MATCH_FLAGS + 4)? {
        // Whether an address was translated is not followed.
        mask if mask & 0xc0 != 0 => return None,
        // XT_CONNTRACK_STATE_UNTRACKED and NF_CT_STATE_UNTRACKED_BIT.
        mask if mask & 0x100 != 0 => mask & 0xff | 0x40,
        mask => mask,
    };
    (wanted == 1).then(|| vec![state_test(u32::from(mask).to_le_bytes(), inverted & 1 != 0)])
}

/// `struct xt_statistic_info`: at random, of 2³¹; every nth counts as one of n.
fn random(info: &[u8]) -> Option<Vec<Clause>> {
    let (mode, flags) = (read_u16(info)?, read_u16(info.get(2..)?)?);
    let first = read_u32(info.get(4..)?)?;
    let (field, limit) = match mode {
        0 => (Field::Random(0, 0), first.saturating_mul(2)),
        1 => (Field::Random(first.saturating_add(1), 0), 1),
        _ => return None,
    };
    let order = if flags & 1 != 0 { Order::Ge } else { Order::Lt };
    let octets = match mode {
        0 => limit.to_be_bytes(),
        _ => limit.to_le_bytes(),
    };
    Some(vec![compare(field, order, octets.to_vec())])
}

/// `struct xt_mark_mtinfo1`.
fn mark(info: &[u8]) -> Option<Vec<Clause>> {
    let (mark, mask) = (info.get(..4)?, info.get(4..8)?);
    let order = if *info.get(8)? != 0 {
        Order::Ne
    } else {
        Order::Eq
    };
    Some(vec![Clause::Test(Test {
        of: vec![Load {
            field: Field::Mark,
            then: vec![Step::Bits {
                mask: Octets(mask.to_vec()),
                xor: Octets(vec![0; 4]),
            }],
        }],
        is: Relation::Compare(order, Octets(mark.to_vec())),
    })])
}

/// `struct xt_mark_tginfo2`: `(mark & ~mask) ^ value`; none where it is another revision.
fn set_mark(revision: u32, info: &[u8]) -> Option<Load> {
    let (value, mask) = (info.get(..4)?, info.get(4..8)?);
    (revision == 2).then(|| Load {
        field: Field::Mark,
        then: vec![Step::Bits {
            mask: Octets(mask.iter().map(|octet| !octet).collect()),
            xor: Octets(value.to_vec()),
        }],
    })
}

/// `struct xt_addrtype_info_v1`, where it asks whether an address is the node's own.
fn address_type(info: &[u8]) -> Option<Vec<Clause>> {
    const LOCAL: u16 = 1 << 2;
    let (source, destination) = (read_u16(info)?, read_u16(info.get(2..)?)?);
    let flags = read_u32(info.get(4..)?)?;
    if flags & !3 != 0 {
        return None;
    }
    let mut clauses = Vec::new();
    for (wanted, field, not) in [
        (source, Field::FibSaddrType, flags & 1 != 0),
        (destination, Field::FibDaddrType, flags & 2 != 0),
    ] {
        match wanted {
            0 => {}
            LOCAL => {
                let order = if not { Order::Ne } else { Order::Eq };
                clauses.push(compare(field, order, vec![2, 0, 0, 0]));
            }
            _ => return None,
        }
    }
    Some(clauses)
}

/// `struct xt_multiport_v1`.
fn some_ports(info: &[u8]) -> Option<Vec<Clause>> {
    let (which, count) = (*info.first()?, usize::from(*info.get(1)?));
    let field = match which {
        0 => SOURCE,
        1 => DESTINATION,
        _ => return None,
    };
    let port = |at: usize| read_u16(info.get(2 + 2 * at..)?);
    let is_range = |at: usize| info.get(32 + at).is_some_and(|flag| *flag != 0);
    let not = *info.get(47)? != 0;
    let octets = |port: u16| Octets(port.to_be_bytes().to_vec());
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < count.min(15) {
        let low = port(at)?;
        let high = if is_range(at) {
            at += 1;
            port(at)?
        } else {
            low
        };
        ranges.push((octets(low), octets(high)));
        at += 1;
    }
    Some(vec![Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::In {
            set: "__set".to_owned(),
            ranges: Some(ranges),
            not,
        },
    })])
}

#[cfg(test)]
mod tests {
    use super::super::super::super::message::Attributes;
    use super::*;

    fn expression(name: &str, revision: u32, info: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Attributes::new(&mut bytes)
            .text(1, name)
            .u32_be(2, revision)
            .bytes(3, info);
        bytes
    }

    fn words(clauses: Vec<Clause>) -> String {
        let rule = crate::filter::Rule {
            handle: 0,
            clauses,
            packets: None,
        };
        rule.to_string()
    }

    /// `struct xt_tcp`: source and destination ports, option, flags.
    fn tcp(ports: [u16; 4], rest: [u8; 4]) -> Vec<u8> {
        let mut info: Vec<u8> = ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
        info.extend(rest);
        info
    }

    #[test]
    fn common_matches_are_read() {
        let any = [0, 65535];
        let mut conntrack = vec![0; 160];
        conntrack[146] = 1;
        conntrack[150] = 6;
        let mut two_ports = vec![1, 2];
        two_ports.extend([80_u16, 443].iter().flat_map(|port| port.to_ne_bytes()));
        two_ports.resize(48, 0);
        let half = (1_u32 << 30).to_ne_bytes();
        let statistic = [&[0, 0, 0, 0][..], &half].concat();
        let cases = [
            ("comment", 0, b"anything".to_vec(), ""),
            (
                "tcp",
                0,
                tcp([any[0], any[1], 22, 22], [0; 4]),
                "th dport 22-22",
            ),
            (
                "tcp",
                0,
                tcp([any[0], any[1], 22, 22], [0, 0, 0, 2]),
                "th dport != 22-22",
            ),
            ("conntrack", 3, conntrack, "ct state established,related"),
            ("multiport", 1, two_ports, "th dport { 80 443 }"),
            ("statistic", 0, statistic, "meta random < 0x80000000"),
            (
                "mark",
                1,
                vec![0, 0x40, 0, 0, 0, 0x40, 0, 0, 0],
                "meta mark & 0x00400000 0x00400000",
            ),
            ("hashlimit", 1, vec![0; 8], "(match hashlimit?)"),
            // Shorter than its structure.
            ("conntrack", 3, vec![0; 20], "(match conntrack?)"),
        ];
        for (name, revision, info, expected) in cases {
            let read = test(&expression(name, revision, &info));
            assert_eq!(words(read), expected, "{name}");
        }
    }

    #[test]
    fn targets_decide_or_look_on() {
        for (name, expected) in [
            ("REJECT", "reject"),
            ("MASQUERADE", "masquerade"),
            ("LOG", ""),
            ("CUSTOM", "(target CUSTOM?)"),
        ] {
            let read = target(&expression(name, 0, &[0; 16]));
            assert_eq!(words(read), expected, "{name}");
        }
    }
}
