//! Address translation, as rules of nftables in tables of our own.
//!
//! ```text
//!   table ip clusterlink, table ip6 clusterlink
//!     chain CLUSTERLINK-PREROUTING   type nat hook prerouting  priority -101     NETMAP
//!     chain CLUSTERLINK-POSTROUTING  type nat hook postrouting priority 99       MASQUERADE, SNAT
//! ```
//!
//! The priorities are just before those of other people's translation, because the first that translates a connection wins. Each rule
//! carries its words as a comment, and counts only while its expressions are those that we write for these words and its chain is
//! hooked as drawn. A change writes the whole table anew in one transaction, so that no packet finds a part of it.

use super::address::{AF_INET, AF_INET6};
use super::message::{
    Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE, Tolerated, attributes, read_text, read_u32,
};
use super::socket::Netlink;
use crate::api::Iptables;
use crate::diff::name_of;
use crate::error::Error;
use crate::nodeconfig::translation;
use crate::state::{Nat, Row};
use crate::table::Table;

mod expression;
pub(super) mod filters;

/// The name of our tables.
const TABLE: &str = "clusterlink";

const SUBSYSTEM: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM << 8;
const NFT_MSG_GETTABLE: u16 = SUBSYSTEM << 8 | 1;
const NFT_MSG_DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM << 8 | 4;
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
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;

/// The type of a comment in a rule's user data (libnftnl).
const UDATA_COMMENT: u8 = 0;

const NF_ACCEPT: u32 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_POST_ROUTING: u32 = 4;

/// One of the two chains of a table.
struct Chain {
    name: &'static str,
    hook: u32,
    priority: i32,
}

impl Chain {
    /// Whether the kernel's attributes of a chain are those of this one.
    fn is_described_by(&self, described: &[u8]) -> bool {
        let number = |value| read_u32(value).map(u32::from_be);
        let (mut hook, mut priority, mut policy, mut kind) = (None, None, None, None);
        for (attribute, value) in attributes(described) {
            match attribute {
                NFTA_CHAIN_HOOK => {
                    for (attribute, value) in attributes(value) {
                        match attribute {
                            NFTA_HOOK_HOOKNUM => hook = number(value),
                            NFTA_HOOK_PRIORITY => priority = number(value),
                            _ => {}
                        }
                    }
                }
                NFTA_CHAIN_POLICY => policy = number(value),
                NFTA_CHAIN_TYPE => kind = read_text(value),
                _ => {}
            }
        }
        hook == Some(self.hook)
            && priority == Some(self.priority.cast_unsigned())
            && policy == Some(NF_ACCEPT)
            && kind.as_deref() == Some("nat")
    }
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
        let mut rows = Vec::new();
        for (_, payload) in dump.messages() {
            match read(payload) {
                Some(Read::Ours(row)) => rows.push(row),
                Some(Read::Changed) => {}
                Some(Read::Foreign) => {
                    // Nobody else writes here. Whatever it does to packets, our rules are not what decides any more.
                    return Ok(Table::default());
                }
                None => {}
            }
        }
        for chain in [PREROUTING, POSTROUTING] {
            let is_in_it = |row: &Nat| chain_of(row).name == chain.name;
            if rows.iter().any(is_in_it) && !is_hooked(socket, family, &chain)? {
                rows.retain(|row| !is_in_it(row));
            }
        }
        found.extend(rows);
    }
    Ok(found)
}

/// Whether a chain is where we put it: packets pass none that has no hook, and another's order is not the one that we need.
fn is_hooked(socket: &mut Netlink, family: u8, chain: &Chain) -> Result<bool, Error> {
    let mut name = Vec::new();
    Attributes::new(&mut name)
        .text(NFTA_CHAIN_TABLE, TABLE)
        .text(NFTA_CHAIN_NAME, chain.name);
    let answer = socket.get("nftables", NFT_MSG_GETCHAIN, &header(family, 0), &name)?;
    Ok(answer.is_some_and(|answer| {
        let mut messages = answer.messages();
        messages.any(|(_, payload)| chain.is_described_by(payload.get(4..).unwrap_or_default()))
    }))
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

/// Whether a notice of nftables concerns a table of ours, or of something in one: all of its kinds name the table first.
pub(super) fn is_of_our_tables(kind: u16, payload: &[u8]) -> bool {
    let named = attributes(payload.get(4..).unwrap_or_default())
        .find(|(attribute, _)| *attribute == NFTA_TABLE_NAME)
        .and_then(|(_, value)| read_text(value));
    kind >> 8 == SUBSYSTEM && named.as_deref() == Some(TABLE)
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
                write_chain(&chain, Some((chain.hook, chain.priority)), new);
            });
        }
        for row in of_family {
            write_rule(&mut batch, row);
        }
    }
    marker(&mut batch, NFNL_MSG_BATCH_END);
    socket.transact(&mut batch)
}

fn write_chain(chain: &Chain, hook: Option<(u32, i32)>, new: &mut Attributes<'_>) {
    new.text(NFTA_CHAIN_TABLE, TABLE)
        .text(NFTA_CHAIN_NAME, chain.name);
    if let Some((number, priority)) = hook {
        new.nest(NFTA_CHAIN_HOOK, |hook| {
            hook.u32_be(NFTA_HOOK_HOOKNUM, number)
                .u32_be(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
        })
        .text(NFTA_CHAIN_TYPE, "nat");
    }
}

pub(super) fn write_rule(batch: &mut Batch, row: &Nat) {
    let words = name_of(&Row::Nat(row.clone()));
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    push(batch, NFT_MSG_NEWRULE, flags, family_of(row), |rule| {
        rule.text(NFTA_RULE_TABLE, TABLE)
            .text(NFTA_RULE_CHAIN, chain_of(row).name)
            .nest(NFTA_RULE_EXPRESSIONS, |list| expression::write(row, list))
            .bytes(NFTA_RULE_USERDATA, &comment(&words));
    });
}

fn push(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    family: u8,
    write: impl FnOnce(&mut Attributes<'_>),
) {
    batch.push(
        (kind, flags),
        (0, Tolerated::Nothing),
        &header(family, 0),
        write,
    );
}

fn marker(batch: &mut Batch, kind: u16) {
    batch.push(
        (kind, 0),
        (0, Tolerated::Nothing),
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

/// What a rule in our tables turns out to be.
pub(super) enum Read {
    /// Its words are ours and its expressions are not, or it is in the wrong chain or table.
    Changed,
    /// It has no words of ours.
    Foreign,
    /// As we wrote it.
    Ours(Nat),
}

/// None where the message is no rule of our tables.
pub(super) fn read(payload: &[u8]) -> Option<Read> {
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
    Some(if in_place && expression::are_those_of(list, &row) {
        Read::Ours(row)
    } else {
        Read::Changed
    })
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use netlink_sys::protocols::NETLINK_NETFILTER;
    use nix::sched::{CloneFlags, unshare};

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
            expression::write(&written, &mut Attributes::new(&mut list));
            for read in rows() {
                assert_eq!(
                    expression::are_those_of(&list, &read),
                    read == written,
                    "{written:?} {read:?}"
                );
            }
            let mut longer = list.clone();
            expression::write(&written, &mut Attributes::new(&mut longer));
            assert!(!expression::are_those_of(&longer, &written));
            assert!(!expression::are_those_of(&[], &written));
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
                .nest(NFTA_RULE_EXPRESSIONS, |list| expression::write(deed, list))
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
    proptest::proptest! {
        #[test]
        fn no_rule_makes_the_reader_panic(list in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
            data in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            for row in rows() {
                let mut payload = header(family_of(&row), 0).to_vec();
                Attributes::new(&mut payload)
                    .text(NFTA_RULE_TABLE, TABLE)
                    .text(NFTA_RULE_CHAIN, chain_of(&row).name)
                    .bytes(NFTA_RULE_EXPRESSIONS, &list);
                let mut ours = payload.clone();
                Attributes::new(&mut ours).bytes(NFTA_RULE_USERDATA, &comment(&name_of(&Row::Nat(row))));
                assert!(matches!(read(&ours), Some(Read::Changed)));
                Attributes::new(&mut payload).bytes(NFTA_RULE_USERDATA, &data);
                assert!(!matches!(read(&payload), Some(Read::Ours(_))));
                PREROUTING.is_described_by(&data);
            }
        }
    }

    #[test]
    fn notices_of_other_tables_are_none_of_ours() {
        let notice = |name: &str| {
            let mut payload = header(AF_INET, 0).to_vec();
            Attributes::new(&mut payload).text(NFTA_TABLE_NAME, name);
            payload
        };
        assert!(is_of_our_tables(NFT_MSG_DELTABLE, &notice(TABLE)));
        assert!(is_of_our_tables(NFT_MSG_NEWRULE, &notice(TABLE)));
        assert!(!is_of_our_tables(NFT_MSG_NEWRULE, &notice("kube-proxy")));
        // Of another subsystem of nfnetlink.
        assert!(!is_of_our_tables(1 << 8, &notice(TABLE)));
        assert!(!is_of_our_tables(NFT_MSG_NEWTABLE, &[2, 0]));
    }

    /// Our two chains, each with the hook given here, in place of what is there.
    fn rehook(socket: &mut Netlink, rows: &[Nat], change: impl Fn(&Chain) -> Option<(u32, i32)>) {
        let mut batch = Batch::default();
        marker(&mut batch, NFNL_MSG_BATCH_BEGIN);
        for kind in [NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE] {
            push(&mut batch, kind, NLM_F_CREATE, AF_INET, |table| {
                table.text(NFTA_TABLE_NAME, TABLE);
            });
        }
        for chain in [PREROUTING, POSTROUTING] {
            push(&mut batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, AF_INET, |new| {
                write_chain(&chain, change(&chain), new);
            });
        }
        for row in rows {
            write_rule(&mut batch, row);
        }
        marker(&mut batch, NFNL_MSG_BATCH_END);
        socket.transact(&mut batch).expect("a possible act");
    }

    #[test]
    #[ignore = "netns: needs nft"]
    fn rows_of_a_chain_that_is_not_hooked_as_ours_do_not_count() {
        let worker = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            let mut socket = Netlink::open(NETLINK_NETFILTER, "nfnetlink").expect("a socket");
            let rows: Vec<Nat> = rows()
                .into_iter()
                .filter(|row| family_of(row) == AF_INET)
                .collect();
            let wanted: Table<Nat> = rows.iter().cloned().collect();
            replace(&mut socket, &wanted).expect("a table");
            assert_eq!(observe(&mut socket).expect("an observation"), wanted);
            rehook(&mut socket, &rows, |chain| {
                Some((chain.hook, chain.priority))
            });
            assert_eq!(observe(&mut socket).expect("an observation"), wanted);

            let netmaps: Table<Nat> = rows
                .iter()
                .filter(|row| matches!(row, Nat::Netmap { .. }))
                .cloned()
                .collect();
            assert!(!netmaps.is_empty() && netmaps.len() < wanted.len());
            for other in [None, Some((NF_INET_POST_ROUTING, 101))] {
                rehook(&mut socket, &rows, |chain| {
                    if chain.name == POSTROUTING.name {
                        other
                    } else {
                        Some((chain.hook, chain.priority))
                    }
                });
                let found = observe(&mut socket).expect("an observation");
                assert_eq!(found, netmaps, "{other:?}");
            }
            replace(&mut socket, &wanted).expect("a table");
            assert_eq!(observe(&mut socket).expect("an observation"), wanted);
        });
        worker.join().expect("no panic in the namespace");
    }
}
