//! Chains and rules written to the kernel, as far as a rule is made of what can be written: no sets.

use std::net::IpAddr;

use super::super::super::address;
use super::super::super::message::{Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE};
use super::super::{
    NF_ACCEPT, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE, NFT_MSG_NEWTABLE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_TABLE_NAME, SUBSYSTEM, marker, push,
};
use super::{NFTA_HOOK_DEV, NFTA_RULE_HANDLE};
use crate::filter::{
    Base, Chain, ChainKind, Clause, Field, Filters, Hook, Load, Octets, Order, Policy, Relation,
    Rule, Step, TableFamily, Translation, Verdict,
};

const NFT_MSG_DELRULE: u16 = SUBSYSTEM << 8 | 8;
/// The register that everything is loaded into.
const REGISTER: u32 = 1;

/// The requests that make these chains with their rules, in one transaction. A chain that is there gets the rules in addition.
///
/// # Errors
/// In words what cannot be written.
pub(in crate::kernel) fn made(filters: &Filters) -> Result<Batch, String> {
    let mut batch = Batch::default();
    marker(&mut batch, NFNL_MSG_BATCH_BEGIN);
    for chain in &filters.chains {
        let family = number(chain.family);
        push(&mut batch, NFT_MSG_NEWTABLE, NLM_F_CREATE, family, |new| {
            new.text(NFTA_TABLE_NAME, &chain.table);
        });
        push(&mut batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |new| {
            write_chain(chain, new);
        });
    }
    for chain in &filters.chains {
        for rule in &chain.rules {
            write_rule(&mut batch, chain, rule)?;
        }
    }
    marker(&mut batch, NFNL_MSG_BATCH_END);
    Ok(batch)
}

/// The requests that remove a table with all that is in it.
pub(in crate::kernel) fn table_removed(family: TableFamily, table: &str) -> Batch {
    alone(NFT_MSG_DELTABLE, family, |gone| {
        gone.text(NFTA_TABLE_NAME, table);
    })
}

/// The requests that remove a rule.
pub(in crate::kernel) fn rule_removed(
    family: TableFamily,
    (table, chain): (&str, &str),
    handle: u64,
) -> Batch {
    alone(NFT_MSG_DELRULE, family, |gone| {
        gone.text(NFTA_RULE_TABLE, table)
            .text(NFTA_RULE_CHAIN, chain)
            .bytes(NFTA_RULE_HANDLE, &handle.to_be_bytes());
    })
}

/// The requests that give a base chain another policy.
pub(in crate::kernel) fn policy_changed(
    family: TableFamily,
    (table, chain): (&str, &str),
    policy: Policy,
) -> Batch {
    alone(NFT_MSG_NEWCHAIN, family, |changed| {
        changed
            .text(NFTA_CHAIN_TABLE, table)
            .text(NFTA_CHAIN_NAME, chain)
            .u32_be(NFTA_CHAIN_POLICY, policy_number(policy));
    })
}

/// One request as a transaction of its own.
fn alone(kind: u16, family: TableFamily, write: impl FnOnce(&mut Attributes<'_>)) -> Batch {
    let mut batch = Batch::default();
    marker(&mut batch, NFNL_MSG_BATCH_BEGIN);
    push(&mut batch, kind, 0, number(family), write);
    marker(&mut batch, NFNL_MSG_BATCH_END);
    batch
}

fn number(family: TableFamily) -> u8 {
    let mut all = TableFamily::ALL.into_iter();
    let found = all.find(|(_, known)| *known == family);
    found.map_or(0, |(number, _)| number)
}

fn policy_number(policy: Policy) -> u32 {
    match policy {
        Policy::Accept => NF_ACCEPT,
        Policy::Drop => 0,
    }
}

fn write_chain(chain: &Chain, new: &mut Attributes<'_>) {
    new.text(NFTA_CHAIN_TABLE, &chain.table)
        .text(NFTA_CHAIN_NAME, &chain.name);
    let Some(base) = &chain.base else {
        return;
    };
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    new.nest(NFTA_CHAIN_HOOK, |hook| {
        hook.u32_be(NFTA_HOOK_HOOKNUM, hook_number(chain.family, base))
            .u32_be(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
        if let [device] = base.devices.as_slice() {
            hook.text(NFTA_HOOK_DEV, device);
        }
    })
    .text(NFTA_CHAIN_TYPE, kind)
    .u32_be(NFTA_CHAIN_POLICY, policy_number(base.policy));
}

fn hook_number(family: TableFamily, base: &Base) -> u32 {
    match (family, base.hook) {
        (TableFamily::Netdev, Hook::Egress) | (_, Hook::Input) => 1,
        (TableFamily::Netdev, _) | (_, Hook::Prerouting) => 0,
        (_, Hook::Forward) => 2,
        (_, Hook::Output) => 3,
        (_, Hook::Postrouting) => 4,
        (_, Hook::Ingress | Hook::Egress) => 5,
    }
}

fn write_rule(batch: &mut Batch, chain: &Chain, rule: &Rule) -> Result<(), String> {
    let mut list = Vec::new();
    let mut into = Attributes::new(&mut list);
    if rule.packets.is_some() {
        element(&mut into, "counter", |_| {});
    }
    for clause in &rule.clauses {
        write_clause(&mut into, chain.family, clause)?;
    }
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    push(batch, NFT_MSG_NEWRULE, flags, number(chain.family), |new| {
        new.text(NFTA_RULE_TABLE, &chain.table)
            .text(NFTA_RULE_CHAIN, &chain.name)
            .bytes(NFTA_RULE_EXPRESSIONS | 0x8000, &list);
    });
    Ok(())
}

fn element(list: &mut Attributes<'_>, name: &str, write: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(1, |expression| {
        expression.text(1, name).nest(2, write);
    });
}

fn octets(into: &mut Attributes<'_>, kind: u16, octets: &Octets) {
    into.nest(kind, |data| {
        data.bytes(1, &octets.0);
    });
}

fn write_clause(
    list: &mut Attributes<'_>,
    family: TableFamily,
    clause: &Clause,
) -> Result<(), String> {
    match clause {
        Clause::Test(test) => {
            let [load] = test.of.as_slice() else {
                return Err("several fields together cannot be written".to_owned());
            };
            write_load(list, load)?;
            write_relation(list, &test.is)
        }
        Clause::Verdict(verdict) => {
            write_verdict(list, family, verdict);
            Ok(())
        }
        Clause::Untrack => {
            element(list, "notrack", |_| {});
            Ok(())
        }
        Clause::Translate(translation) => write_translation(list, *translation),
        Clause::Mark(_) | Clause::Dispatch { .. } | Clause::Unknown(_) => {
            Err(format!("{clause:?} cannot be written"))
        }
    }
}

fn write_relation(list: &mut Attributes<'_>, relation: &Relation) -> Result<(), String> {
    match relation {
        Relation::Compare(order, value) => {
            let number = match order {
                Order::Eq => 0,
                Order::Ne => 1,
                Order::Lt => 2,
                Order::Le => 3,
                Order::Gt => 4,
                Order::Ge => 5,
            };
            element(list, "cmp", |cmp| {
                cmp.u32_be(1, REGISTER).u32_be(2, number);
                octets(cmp, 3, value);
            });
        }
        Relation::Within { low, high, not } => element(list, "range", |range| {
            range.u32_be(1, REGISTER).u32_be(2, u32::from(*not));
            octets(range, 3, low);
            octets(range, 4, high);
        }),
        Relation::In { .. } => return Err("a set cannot be written".to_owned()),
    }
    Ok(())
}

fn write_load(list: &mut Attributes<'_>, load: &Load) -> Result<(), String> {
    let mut keyed = |name: &str, key: u32| {
        element(list, name, |one| {
            one.u32_be(2, key).u32_be(1, REGISTER);
        });
    };
    match &load.field {
        Field::Protocol => keyed("meta", 1),
        Field::Mark => keyed("meta", 3),
        Field::Iif => keyed("meta", 4),
        Field::Oif => keyed("meta", 5),
        Field::Iifname => keyed("meta", 6),
        Field::Oifname => keyed("meta", 7),
        Field::Nfproto => keyed("meta", 15),
        Field::L4proto => keyed("meta", 16),
        Field::Random(0, _) => keyed("meta", 24),
        Field::CtState => keyed("ct", 0),
        Field::CtDirection => keyed("ct", 1),
        Field::CtStatus => keyed("ct", 2),
        Field::Network(at, length) | Field::Transport(at, length) => {
            let base = if matches!(load.field, Field::Network(..)) {
                1
            } else {
                2
            };
            element(list, "payload", |one| {
                one.u32_be(1, REGISTER)
                    .u32_be(2, base)
                    .u32_be(3, u32::from(*at))
                    .u32_be(4, u32::from(*length));
            });
        }
        Field::FibSaddrType | Field::FibDaddrType => {
            let flags = if load.field == Field::FibSaddrType {
                1
            } else {
                2
            };
            element(list, "fib", |one| {
                one.u32_be(1, REGISTER).u32_be(2, 3).u32_be(3, flags);
            });
        }
        Field::Random(modulus, offset) => element(list, "numgen", |one| {
            one.u32_be(1, REGISTER)
                .u32_be(2, *modulus)
                .u32_be(3, 1)
                .u32_be(4, *offset);
        }),
        Field::Other(name, _) => return Err(format!("{name} cannot be written")),
    }
    for step in &load.then {
        match step {
            Step::Bits { mask, xor } => element(list, "bitwise", |bits| {
                let length = u32::try_from(mask.0.len()).unwrap_or(u32::MAX);
                bits.u32_be(1, REGISTER)
                    .u32_be(2, REGISTER)
                    .u32_be(3, length);
                octets(bits, 4, mask);
                octets(bits, 5, xor);
            }),
            Step::Swap(size) => element(list, "byteorder", |swap| {
                swap.u32_be(1, REGISTER)
                    .u32_be(2, REGISTER)
                    .u32_be(3, 1)
                    .u32_be(4, u32::from(*size))
                    .u32_be(5, u32::from(*size));
            }),
        }
    }
    Ok(())
}

fn write_verdict(list: &mut Attributes<'_>, family: TableFamily, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
        Verdict::Queue => return element(list, "queue", |_| {}),
        Verdict::Reject => {
            // "Communication administratively prohibited" of RFC 1812 and RFC 4443.
            let (kind, code) = match family {
                TableFamily::Ip => (0, 13),
                TableFamily::Ip6 => (0, 1),
                _ => (2, 3),
            };
            return element(list, "reject", |reject| {
                reject.u32_be(1, kind).u8(2, code);
            });
        }
    };
    element(list, "immediate", |immediate| {
        immediate.u32_be(1, 0).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.u32_be(1, code.cast_unsigned());
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    });
}

fn write_translation(list: &mut Attributes<'_>, translation: Translation) -> Result<(), String> {
    let (kind, ip) = match translation {
        Translation::Masquerade => {
            element(list, "masq", |_| {});
            return Ok(());
        }
        Translation::Redirect => {
            element(list, "redir", |_| {});
            return Ok(());
        }
        Translation::Source(Some(ip)) => (0, ip),
        Translation::Destination(Some(ip)) => (1, ip),
        Translation::Source(None) | Translation::Destination(None) => {
            return Err("a translation to many addresses cannot be written".to_owned());
        }
    };
    let value = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    element(list, "immediate", |immediate| {
        immediate.u32_be(1, REGISTER);
        octets(immediate, 2, &Octets(value));
    });
    element(list, "nat", |nat| {
        nat.u32_be(1, kind)
            .u32_be(2, u32::from(address::family(ip)))
            .u32_be(3, REGISTER);
    });
    Ok(())
}
