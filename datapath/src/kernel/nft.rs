//! Address translation, as rules of nftables in tables of our own.
//!
//! ```text
//!   table ip clusterlink, table ip6 clusterlink
//!     chain CLUSTERLINK-PREROUTING   type nat hook prerouting  priority -101     NETMAP
//!     chain CLUSTERLINK-POSTROUTING  type nat hook postrouting priority 99       MASQUERADE, SNAT
//! ```
//!
//! The priorities are just before those of other people's translation, because the first that translates a connection wins. Each rule
//! carries its words as a comment, and counts only while its expressions are those that we write for these words. A change writes
//! the whole table anew in one transaction, so that no packet finds a part of it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{AF_INET, AF_INET6};
use super::message::{
    Attributes, Batch, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Pardon, attributes, read_text,
    read_u32,
};
use super::socket::Netlink;
use crate::api::Iptables;
use crate::diff::name_of;
use crate::error::Error;
use crate::nodeconfig::translation;
use crate::state::{Nat, Row};
use crate::table::Table;

/// The name of our tables.
const TABLE: &str = "clusterlink";

const SUBSYSTEM: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM << 8;
const NFT_MSG_GETTABLE: u16 = SUBSYSTEM << 8 | 1;
const NFT_MSG_DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NFT_MSG_NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM << 8 | 7;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

/// The type of a comment in a rule's user data (libnftnl).
const UDATA_COMMENT: u8 = 0;

const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_POST_ROUTING: u32 = 4;
const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_NETMAP: u32 = 1 << 6;

/// One of the two chains of a table.
struct Chain {
    name: &'static str,
    hook: u32,
    priority: i32,
}

const PREROUTING: Chain = Chain {
    name: "CLUSTERLINK-PREROUTING",
    hook: NF_INET_PRE_ROUTING,
    priority: -101,
};
const POSTROUTING: Chain = Chain {
    name: "CLUSTERLINK-POSTROUTING",
    hook: NF_INET_POST_ROUTING,
    priority: 99,
};

/// What our tables hold.
pub(super) fn observe(socket: &mut Netlink) -> Result<Table<Nat>, Error> {
    let mut filter = Vec::new();
    Attributes::new(&mut filter).text(NFTA_RULE_TABLE, TABLE);
    let mut found = Table::default();
    // One family after the other: a filtered dump of all of them ends with the first table of that name.
    for family in [AF_INET, AF_INET6] {
        if !is_awake(socket, family)? {
            continue;
        }
        let dump = socket.dump("nftables", NFT_MSG_GETRULE, &header(family, 0), &filter)?;
        for (_, payload) in dump.messages() {
            match read(payload) {
                Some(Read::Ours(row)) => drop(found.insert(row)),
                Some(Read::Changed) => {}
                Some(Read::Foreign) => {
                    // Nobody else writes here. Whatever it does to packets, our rules are not what decides any more.
                    return Ok(Table::default());
                }
                None => {}
            }
        }
    }
    Ok(found)
}

/// Whether our table of a family is there and its hooks are registered.
fn is_awake(socket: &mut Netlink, family: u8) -> Result<bool, Error> {
    let mut name = Vec::new();
    Attributes::new(&mut name).text(NFTA_TABLE_NAME, TABLE);
    let answer = socket.get("nftables", NFT_MSG_GETTABLE, &header(family, 0), &name)?;
    let Some(answer) = answer else {
        return Ok(false);
    };
    let flags = answer.messages().find_map(|(_, payload)| {
        let (_, value) =
            attributes(payload.get(4..)?).find(|(kind, _)| *kind == NFTA_TABLE_FLAGS)?;
        Some(u32::from_be(read_u32(value)?))
    });
    Ok(flags.unwrap_or(0) & NFT_TABLE_F_DORMANT == 0)
}

/// Makes our tables hold these rows, in one transaction.
pub(super) fn replace(socket: &mut Netlink, rows: &Table<Nat>) -> Result<(), (i32, String)> {
    let mut batch = Batch::default();
    marker(&mut batch, NFNL_MSG_BATCH_BEGIN);
    for family in [AF_INET, AF_INET6] {
        let mut of_family = rows
            .iter()
            .filter(|row| family_of(row) == family)
            .peekable();
        let mut table = |kind, flags| {
            push(&mut batch, kind, flags, family, |table| {
                table.text(NFTA_TABLE_NAME, TABLE);
            });
        };
        // Only what exists can be deleted; so it is made first.
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE);
        table(NFT_MSG_DELTABLE, 0);
        if of_family.peek().is_none() {
            continue;
        }
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE);
        for chain in [PREROUTING, POSTROUTING] {
            push(&mut batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |new| {
                new.text(NFTA_CHAIN_TABLE, TABLE)
                    .text(NFTA_CHAIN_NAME, chain.name)
                    .nest(NFTA_CHAIN_HOOK, |hook| {
                        hook.u32_be(NFTA_HOOK_HOOKNUM, chain.hook)
                            .u32_be(NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
                    })
                    .text(NFTA_CHAIN_TYPE, "nat");
            });
        }
        for row in of_family {
            let words = name_of(&Row::Nat(row.clone()));
            push(
                &mut batch,
                NFT_MSG_NEWRULE,
                NLM_F_CREATE | NLM_F_APPEND,
                family,
                |rule| {
                    rule.text(NFTA_RULE_TABLE, TABLE)
                        .text(NFTA_RULE_CHAIN, chain_of(row).name)
                        .nest(NFTA_RULE_EXPRESSIONS, |list| write_expressions(row, list))
                        .bytes(NFTA_RULE_USERDATA, &comment(&words));
                },
            );
        }
    }
    marker(&mut batch, NFNL_MSG_BATCH_END);
    socket.transact(&mut batch)
}

fn push(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    family: u8,
    write: impl FnOnce(&mut Attributes<'_>),
) {
    batch.push(
        (kind, flags | NLM_F_ACK),
        (0, Pardon::Nothing),
        &header(family, 0),
        write,
    );
}

fn marker(batch: &mut Batch, kind: u16) {
    batch.push(
        (kind, 0),
        (0, Pardon::Nothing),
        &header(0, SUBSYSTEM),
        |_| {},
    );
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn comment(words: &str) -> Vec<u8> {
    let length = u8::try_from(words.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![UDATA_COMMENT, length];
    bytes.extend(words.bytes().take(usize::from(length) - 1));
    bytes.push(0);
    bytes
}

fn family_of(row: &Nat) -> u8 {
    let (Nat::Masquerade { src: net, .. }
    | Nat::Netmap { dst: net, .. }
    | Nat::Snat { src: net, .. }) = row;
    super::address::family(net.addr())
}

fn chain_of(row: &Nat) -> Chain {
    match row {
        Nat::Masquerade { .. } | Nat::Snat { .. } => POSTROUTING,
        Nat::Netmap { .. } => PREROUTING,
    }
}

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

fn write_expressions(row: &Nat, list: &mut Attributes<'_>) {
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
            (2, Value::Number(u32::from(super::address::family(ip)))),
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

/// What a rule in our tables turns out to be.
enum Read {
    /// Its words are ours and its expressions are not, or it is in the wrong chain or table.
    Changed,
    /// It has no words of ours.
    Foreign,
    /// As we wrote it.
    Ours(Nat),
}

/// None where the message is no rule of our tables.
fn read(payload: &[u8]) -> Option<Read> {
    let family = *payload.first()?;
    let (mut table, mut chain, mut list, mut data) = (None, None, &[][..], &[][..]);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_RULE_TABLE => table = read_text(value),
            NFTA_RULE_CHAIN => chain = read_text(value),
            NFTA_RULE_EXPRESSIONS => list = value,
            NFTA_RULE_USERDATA => data = value,
            _ => {}
        }
    }
    if table.as_deref() != Some(TABLE) {
        return None;
    }
    let words = match data {
        [UDATA_COMMENT, length, rest @ ..] => rest.get(..usize::from(*length)).and_then(read_text),
        _ => None,
    };
    let row = words.as_deref().and_then(|words| {
        let (chain, rule) = words.split_once(' ')?;
        translation::parse(&Iptables {
            table: "nat".to_owned(),
            chain: chain.to_owned(),
            rule: rule.to_owned(),
        })
        .ok()
    });
    let Some(row) = row else {
        return Some(Read::Foreign);
    };
    let in_place = chain.as_deref() == Some(chain_of(&row).name) && family == family_of(&row);
    Some(if in_place && are_those_of(list, &row) {
        Read::Ours(row)
    } else {
        Read::Changed
    })
}

/// Whether a list of expressions is what we write for a row. The kernel adds attributes of its own; ours must be among them unchanged.
fn are_those_of(list: &[u8], row: &Nat) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Nat> {
        let net = |text: &str| -> IpNet { text.parse().expect("a prefix") };
        let masquerade = |src: &str, out: Option<&str>| Nat::Masquerade {
            src: net(src),
            out: out.map(str::to_owned),
        };
        let netmap = |dst: &str, to: &str| Nat::Netmap {
            dst: net(dst),
            input: "vx-bridge".into(),
            to: net(to),
        };
        let snat = |src: &str, to: &str| Nat::Snat {
            src: net(src),
            out: "vx-bridge".into(),
            to: to.parse().expect("an address"),
        };
        vec![
            masquerade("220.0.0.0/8", None),
            masquerade("220.0.0.0/9", None),
            masquerade("220.0.0.0/8", Some("vx-bridge")),
            masquerade("220.0.0.0/8", Some("vx-bridge-6")),
            masquerade("9470::/16", None),
            netmap("10.210.0.0/16", "10.244.0.0/16"),
            netmap("10.210.0.0/16", "10.245.0.0/16"),
            netmap("10.210.0.0/16", "10.244.0.0/17"),
            netmap("fd99::/48", "fd10::/48"),
            snat("10.244.0.0/16", "10.210.0.0"),
            snat("10.244.0.0/16", "10.210.0.1"),
            snat("fd10::/48", "fd99::"),
        ]
    }

    #[test]
    fn a_rule_is_known_by_what_it_does() {
        for written in rows() {
            let mut list = Vec::new();
            write_expressions(&written, &mut Attributes::new(&mut list));
            for read in rows() {
                assert_eq!(
                    are_those_of(&list, &read),
                    read == written,
                    "{written:?} {read:?}"
                );
            }
            let mut longer = list.clone();
            write_expressions(&written, &mut Attributes::new(&mut longer));
            assert!(!are_those_of(&longer, &written));
            assert!(!are_those_of(&[], &written));
        }
    }

    #[test]
    fn a_rule_with_our_words_and_another_deed_is_not_ours() {
        let rows = rows();
        let message = |words: &Nat, deed: &Nat| {
            let mut payload = header(AF_INET, 0).to_vec();
            Attributes::new(&mut payload)
                .text(NFTA_RULE_TABLE, TABLE)
                .text(NFTA_RULE_CHAIN, POSTROUTING.name)
                .nest(NFTA_RULE_EXPRESSIONS, |list| write_expressions(deed, list))
                .bytes(
                    NFTA_RULE_USERDATA,
                    &comment(&name_of(&Row::Nat(words.clone()))),
                );
            payload
        };
        assert!(
            matches!(read(&message(&rows[0], &rows[0])), Some(Read::Ours(row)) if row == rows[0])
        );
        assert!(matches!(
            read(&message(&rows[0], &rows[1])),
            Some(Read::Changed)
        ));
        // In the wrong chain.
        assert!(matches!(
            read(&message(&rows[5], &rows[5])),
            Some(Read::Changed)
        ));
        let mut foreign = header(AF_INET, 0).to_vec();
        Attributes::new(&mut foreign)
            .text(NFTA_RULE_TABLE, TABLE)
            .text(NFTA_RULE_CHAIN, POSTROUTING.name);
        assert!(matches!(read(&foreign), Some(Read::Foreign)));
        assert!(read(&[2, 0, 0, 0]).is_none());
    }
}
