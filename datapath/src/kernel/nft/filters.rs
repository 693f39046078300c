//! All chains of a namespace, read from nf_tables: those of iptables-nft are among them, those of the older iptables are not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::message::{attributes, read_text, read_u32, read_u64};
use super::super::socket::Netlink;
use super::{
    NF_ACCEPT, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE, NFT_TABLE_F_DORMANT,
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE,
    NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, Read, TABLE, header,
};
use crate::error::Error;
use crate::filter::{
    Base, Chain, ChainKind, Clause, Filters, Hook, MOST_RULES, Policy, Rule, TableFamily, Verdict,
};

mod decode;
pub(in crate::kernel) mod encode;
mod sets;
mod xtables;

use sets::{SetName, Sets};

pub(super) const NFTA_RULE_HANDLE: u16 = 3;
pub(super) const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;

/// A number in network byte order.
fn number(value: &[u8]) -> Option<u32> {
    read_u32(value).map(u32::from_be)
}

/// A rule as the kernel tells it, before its sets are known.
struct Raw<'d> {
    family: TableFamily,
    table: String,
    chain: String,
    handle: u64,
    expressions: &'d [u8],
}

/// What packets may meet in the namespace of a socket, and how many rules there are beyond [`MOST_RULES`].
pub(in crate::kernel) fn observe(socket: &mut Netlink) -> Result<(Filters, usize), Error> {
    let asleep = asleep(socket)?;
    let dump = socket.dump("packet filters", NFT_MSG_GETCHAIN, &header(0, 0), &[])?;
    let mut chains: Vec<Chain> = dump
        .messages()
        .filter_map(|(_, payload)| read_chain(payload))
        .filter(|chain| !asleep.contains(&(chain.family, chain.table.clone())))
        .collect();
    if chains.iter().all(|chain| chain.base.is_none()) {
        return Ok((Filters::default(), 0));
    }
    let rules = socket.dump("packet filters", NFT_MSG_GETRULE, &header(0, 0), &[])?;
    let mut by_chain: HashMap<(TableFamily, String, String), Vec<Raw<'_>>> = HashMap::new();
    for (_, payload) in rules.messages() {
        // Our own translations are told as such.
        if let Some(raw) = read_rule(payload)
            && !(raw.table == TABLE && matches!(super::read(payload), Some(Read::Ours(_))))
        {
            let key = (raw.family, raw.table.clone(), raw.chain.clone());
            by_chain.entry(key).or_default().push(raw);
        }
    }
    let wanted: BTreeSet<SetName> = by_chain
        .values()
        .flatten()
        .flat_map(|raw| {
            let names = decode::sets(raw.expressions).into_iter();
            names.map(|name| (raw.family, raw.table.clone(), name))
        })
        .collect();
    let sets = sets::observe(socket, &wanted)?;
    for chain in &mut chains {
        let key = (chain.family, chain.table.clone(), chain.name.clone());
        let raw = by_chain.remove(&key).unwrap_or_default();
        chain.rules = raw.iter().map(|raw| decoded(raw, &sets)).collect();
    }
    Ok(bounded(in_order_of_meeting(chains)))
}

fn decoded(raw: &Raw<'_>, sets: &Sets) -> Rule {
    let find = |name: &str| sets.get(&(raw.family, raw.table.clone(), name.to_owned()));
    let (clauses, packets) = decode::clauses(raw.expressions, &find);
    Rule {
        handle: raw.handle,
        clauses,
        packets,
    }
}

/// Tables whose hooks are not registered.
fn asleep(socket: &mut Netlink) -> Result<BTreeSet<(TableFamily, String)>, Error> {
    let dump = socket.dump("packet filters", NFT_MSG_GETTABLE, &header(0, 0), &[])?;
    let read = |payload: &[u8]| {
        let (mut name, mut flags) = (None, 0);
        for (kind, value) in attributes(payload.get(4..)?) {
            match kind {
                NFTA_TABLE_NAME => name = read_text(value),
                NFTA_TABLE_FLAGS => flags = number(value)?,
                _ => {}
            }
        }
        (flags & NFT_TABLE_F_DORMANT != 0).then_some((family_of(payload)?, name?))
    };
    Ok(dump
        .messages()
        .filter_map(|(_, payload)| read(payload))
        .collect())
}

fn family_of(payload: &[u8]) -> Option<TableFamily> {
    let number = *payload.first()?;
    let mut all = TableFamily::ALL.into_iter();
    Some(all.find(|(known, _)| *known == number)?.1)
}

fn read_chain(payload: &[u8]) -> Option<Chain> {
    let family = family_of(payload)?;
    let (mut table, mut name, mut hook) = (None, None, None);
    let (mut policy, mut kind) = (Policy::Accept, ChainKind::Filter);
    for (attribute, value) in attributes(payload.get(4..)?) {
        match attribute {
            NFTA_CHAIN_TABLE => table = read_text(value),
            NFTA_CHAIN_NAME => name = read_text(value),
            NFTA_CHAIN_HOOK => hook = Some(value),
            NFTA_CHAIN_POLICY if number(value)? != NF_ACCEPT => policy = Policy::Drop,
            NFTA_CHAIN_TYPE => {
                kind = match read_text(value)?.as_str() {
                    "nat" => ChainKind::Nat,
                    "route" => ChainKind::Route,
                    _ => ChainKind::Filter,
                }
            }
            _ => {}
        }
    }
    let base = match hook {
        Some(hook) => Some(read_base(hook, family, (kind, policy))?),
        None => None,
    };
    Some(Chain {
        family,
        table: table?,
        name: name?,
        base,
        rules: Vec::new(),
        is_cut: false,
    })
}

fn read_base(
    described: &[u8],
    family: TableFamily,
    (kind, policy): (ChainKind, Policy),
) -> Option<Base> {
    let (mut hook, mut priority, mut devices) = (None, 0, Vec::new());
    for (attribute, value) in attributes(described) {
        match attribute {
            NFTA_HOOK_HOOKNUM => hook = number(value),
            NFTA_HOOK_PRIORITY => priority = number(value)?.cast_signed(),
            NFTA_HOOK_DEV => devices.extend(read_text(value)),
            NFTA_HOOK_DEVS => {
                devices.extend(attributes(value).filter_map(|(_, name)| read_text(name)));
            }
            _ => {}
        }
    }
    devices.sort();
    devices.dedup();
    let hook = match (family, hook?) {
        (TableFamily::Netdev, 0) => Hook::Ingress,
        (TableFamily::Netdev, 1) => Hook::Egress,
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        (_, 5) => Hook::Ingress,
        _ => return None,
    };
    Some(Base {
        kind,
        hook,
        priority,
        policy,
        devices,
    })
}

fn read_rule(payload: &[u8]) -> Option<Raw<'_>> {
    let (mut table, mut chain, mut handle, mut expressions) = (None, None, 0, &[][..]);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_RULE_TABLE => table = read_text(value),
            NFTA_RULE_CHAIN => chain = read_text(value),
            NFTA_RULE_HANDLE => handle = u64::from_be(read_u64(value)?),
            NFTA_RULE_EXPRESSIONS => expressions = value,
            _ => {}
        }
    }
    Some(Raw {
        family: family_of(payload)?,
        table: table?,
        chain: chain?,
        handle,
        expressions,
    })
}

/// The chains that packets can come to: those that filter first, since those that translate may be as many as a cluster has services.
fn in_order_of_meeting(chains: Vec<Chain>) -> Vec<Chain> {
    let rank = |chain: &Chain| {
        let base = chain.base.as_ref()?;
        let is_elsewhere = matches!(chain.family, TableFamily::Arp | TableFamily::Bridge);
        Some((is_elsewhere, base.kind == ChainKind::Nat))
    };
    let names: BTreeMap<(TableFamily, &str, &str), usize> = chains
        .iter()
        .enumerate()
        .map(|(at, chain)| {
            (
                (chain.family, chain.table.as_str(), chain.name.as_str()),
                at,
            )
        })
        .collect();
    let mut bases: Vec<usize> = (0..chains.len())
        .filter(|at| chains[*at].base.is_some())
        .collect();
    bases.sort_by_key(|at| rank(&chains[*at]));
    let (mut order, mut seen) = (Vec::new(), vec![false; chains.len()]);
    for base in bases {
        let mut open = std::collections::VecDeque::from([base]);
        while let Some(at) = open.pop_front() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            order.push(at);
            let chain = &chains[at];
            for target in chain.rules.iter().flat_map(targets) {
                let name = (chain.family, chain.table.as_str(), target);
                open.extend(names.get(&name).copied().filter(|at| !seen[*at]));
            }
        }
    }
    drop(names);
    let mut chains: Vec<Option<Chain>> = chains.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|at| chains.get_mut(at)?.take())
        // What lets everything pass says nothing.
        .filter(|chain| {
            let is_open = |base: &Base| base.policy == Policy::Accept;
            !(chain.rules.is_empty() && chain.base.as_ref().is_some_and(is_open))
        })
        .collect()
}

fn targets(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.clauses.iter().flat_map(|clause| {
        let verdicts: Vec<&Verdict> = match clause {
            Clause::Verdict(verdict) => vec![verdict],
            Clause::Dispatch { arms, .. } => arms.iter().map(|(_, _, verdict)| verdict).collect(),
            _ => Vec::new(),
        };
        verdicts.into_iter().filter_map(|verdict| match verdict {
            Verdict::Jump(name) | Verdict::Goto(name) => Some(name.as_str()),
            _ => None,
        })
    })
}

fn bounded(mut chains: Vec<Chain>) -> (Filters, usize) {
    let (mut room, mut untold) = (MOST_RULES, 0);
    for chain in &mut chains {
        let beyond = chain.rules.len().saturating_sub(room);
        chain.is_cut = beyond > 0;
        untold += beyond;
        chain.rules.truncate(room);
        room -= chain.rules.len();
    }
    (Filters { chains }, untold)
}
