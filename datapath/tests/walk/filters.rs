//! Random rules of packet filters, some of which meet packets of the lab.

use std::net::IpAddr;

use datapath::filter::{
    Base, Chain, ChainKind, Clause, Field, Filters, Hook, Load, Octets, Order, Policy, Relation,
    Rule, Step, TableFamily, Test, Translation, Verdict,
};
use datapath::kernel::LinuxKernel;
use datapath::state::Family;
use ipnet::IpNet;

use crate::chance::Chance;
use crate::fleet::Spec;
use crate::lab::Lab;

const UDP: u8 = 17;

/// Puts a table with a few rules into a node or pod; what it is.
pub(crate) fn put_somewhere(lab: &mut Lab, chance: &mut Chance) -> String {
    let own = *chance.pick(&lab.nodes);
    let place = match chance.below(6) {
        0 => format!("{}/pod", own.name),
        _ => own.name.to_owned(),
    };
    let filters = table(&lab.nodes, &own, chance);
    let put = lab.place(&place).netns.run(|| {
        let mut kernel = LinuxKernel::open().expect("netlink sockets");
        kernel
            .add_filters(&filters)
            .expect("rules that a kernel takes");
    });
    put.expect("enter");
    let words: Vec<String> = filters
        .chains
        .iter()
        .map(|chain| {
            let rules: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
            let base = chain.base.as_ref();
            let hook = base.map_or_else(String::new, |base| {
                format!(
                    "{} {} {}",
                    base.hook.word(),
                    base.priority,
                    base.policy.word()
                )
            });
            format!(
                "{} {} {hook} [{}]",
                chain.family.word(),
                chain.name,
                rules.join("; ")
            )
        })
        .collect();
    format!("{place}: {}", words.join(", "))
}

fn table(nodes: &[Spec], own: &Spec, chance: &mut Chance) -> Filters {
    use TableFamily::{Inet, Ip, Ip6};
    let family = *chance.pick(&[Inet, Ip, Ip, Ip6]);
    let table = format!("t{}", chance.below(1_000_000));
    let is_nat = chance.below(6) == 0 && family != Inet;
    let hook = match is_nat {
        true => Hook::Postrouting,
        false => *chance.pick(&[
            Hook::Prerouting,
            Hook::Input,
            Hook::Forward,
            Hook::Forward,
            Hook::Output,
            Hook::Postrouting,
        ]),
    };
    let priority = match is_nat {
        true => 100,
        false => *chance.pick(&[-300, -150, 0, 50, 200]),
    };
    // What is not UDP is the neighbours' and must pass, but where no neighbour is asked.
    let drops = !is_nat && chance.below(4) == 0 && (family == Ip || hook == Hook::Forward);
    let chain = |name: &str, base, rules| Chain {
        family,
        table: table.clone(),
        name: name.to_owned(),
        base,
        rules,
        is_cut: false,
    };
    let count = 1 + chance.below(4);
    let mut rules: Vec<Rule> = (0..count)
        .map(|_| rule((nodes, own), (family, hook, is_nat), true, chance))
        .collect();
    if drops {
        rules.iter_mut().for_each(|rule| permit(rule, chance));
    }
    let called = (0..2)
        .map(|_| rule((nodes, own), (family, hook, is_nat), false, chance))
        .collect();
    let base = Base {
        kind: if is_nat {
            ChainKind::Nat
        } else {
            ChainKind::Filter
        },
        hook,
        priority,
        policy: if drops { Policy::Drop } else { Policy::Accept },
        devices: Vec::new(),
    };
    Filters {
        chains: vec![
            chain("called", None, called),
            chain("base", Some(base), rules),
        ],
    }
}

/// Where the policy drops most rules let pass.
fn permit(rule: &mut Rule, chance: &mut Chance) {
    if let Some(Clause::Verdict(verdict @ (Verdict::Drop | Verdict::Reject))) =
        rule.clauses.last_mut()
        && chance.below(4) > 0
    {
        *verdict = Verdict::Accept;
    }
}

fn rule(
    (nodes, own): (&[Spec], &Spec),
    (family, hook, is_nat): (TableFamily, Hook, bool),
    may_call: bool,
    chance: &mut Chance,
) -> Rule {
    let mut clauses = vec![is(Field::L4proto, vec![UDP])];
    let families = match family {
        TableFamily::Ip => &[Family::Ipv4][..],
        TableFamily::Ip6 => &[Family::Ipv6],
        _ => &[Family::Ipv4, Family::Ipv6],
    };
    let of = *chance.pick(families);
    for _ in 0..chance.below(4) {
        match chance.below(6) {
            0 => clauses.push(port(chance)),
            1 | 2 => {
                if family == TableFamily::Inet {
                    let number = if of == Family::Ipv4 { 2 } else { 10 };
                    clauses.push(is(Field::Nfproto, vec![number]));
                }
                clauses.push(address(nodes, of, chance));
            }
            3 => clauses.push(link(hook, chance)),
            4 => {
                let mask = *chance.pick(&[8, 2, 10, 1, 6]);
                clauses.push(state(mask));
            }
            _ => clauses.push(is(Field::CtDirection, vec![*chance.pick(&[0, 1])])),
        }
    }
    if is_nat {
        // Of pods' packets: what becomes of a tunnel's whose address is exchanged is another matter.
        clauses.push(inside(nodes, of, chance));
    }
    clauses.push(match (is_nat, hook) {
        (true, _) => Clause::Translate(match chance.below(2) {
            0 => Translation::Masquerade,
            _ => Translation::Source(Some(own.underlay(of))),
        }),
        _ => Clause::Verdict(verdict(hook, may_call, chance)),
    });
    Rule {
        handle: 0,
        clauses,
        packets: None,
    }
}

fn verdict(hook: Hook, may_call: bool, chance: &mut Chance) -> Verdict {
    match chance.below(8) {
        0..=3 => Verdict::Drop,
        4 => Verdict::Accept,
        5 if matches!(hook, Hook::Input | Hook::Forward | Hook::Output) => Verdict::Reject,
        6 => Verdict::Return,
        7 if may_call => match chance.below(2) {
            0 => Verdict::Goto("called".to_owned()),
            _ => Verdict::Jump("called".to_owned()),
        },
        _ => Verdict::Drop,
    }
}

fn is(field: Field, octets: Vec<u8>) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(Order::Eq, Octets(octets)),
    })
}

fn masked(field: Field, mask: Vec<u8>, order: Order, value: Vec<u8>) -> Clause {
    Clause::Test(Test {
        of: vec![Load {
            field,
            then: vec![Step::Bits {
                xor: Octets(vec![0; mask.len()]),
                mask: Octets(mask),
            }],
        }],
        is: Relation::Compare(order, Octets(value)),
    })
}

fn state(mask: u8) -> Clause {
    masked(Field::CtState, vec![mask, 0, 0, 0], Order::Ne, vec![0; 4])
}

fn port(chance: &mut Chance) -> Clause {
    let octets = |port: u16| Octets(port.to_be_bytes().to_vec());
    let port = *chance.pick(&[8889, 4876, 4877, 4866, 4867, 9]);
    let of = vec![Field::Transport(2, 2).into()];
    let is = match chance.below(3) {
        0 => Relation::Within {
            low: octets(port - 1),
            high: octets(port),
            not: chance.below(4) == 0,
        },
        1 => Relation::Compare(*chance.pick(&[Order::Lt, Order::Ge]), octets(5000)),
        _ => Relation::Compare(Order::Eq, octets(port)),
    };
    Clause::Test(Test { of, is })
}

fn ip(nodes: &[Spec], family: Family, chance: &mut Chance) -> IpAddr {
    let node = chance.pick(nodes);
    match chance.below(2) {
        0 => node.underlay(family),
        _ => crate::lab::pod_ip(node, family),
    }
}

/// From a pod of a cluster.
fn inside(nodes: &[Spec], family: Family, chance: &mut Chance) -> Clause {
    let net = chance.pick(nodes).cluster_prefix(family);
    let (at, length) = match family {
        Family::Ipv4 => (12, 4),
        Family::Ipv6 => (8, 16),
    };
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (mask, value) = (octets(net.netmask()), octets(net.network()));
    masked(Field::Network(at, length), mask, Order::Eq, value)
}

fn address(nodes: &[Spec], family: Family, chance: &mut Chance) -> Clause {
    let node = *chance.pick(nodes);
    let net: IpNet = match chance.below(3) {
        0 => node.pod_prefix(family),
        1 => node.cluster_prefix(family),
        _ => ip(nodes, family, chance).into(),
    };
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let is_source = chance.below(2) == 0;
    let field = match (family, is_source) {
        (Family::Ipv4, true) => Field::Network(12, 4),
        (Family::Ipv4, false) => Field::Network(16, 4),
        (Family::Ipv6, true) => Field::Network(8, 16),
        (Family::Ipv6, false) => Field::Network(24, 16),
    };
    let order = *chance.pick(&[Order::Eq, Order::Eq, Order::Eq, Order::Ne]);
    masked(field, octets(net.netmask()), order, octets(net.network()))
}

fn link(hook: Hook, chance: &mut Chance) -> Clause {
    let field = match hook {
        Hook::Prerouting | Hook::Input => Field::Iifname,
        Hook::Forward => chance.pick(&[Field::Iifname, Field::Oifname]).clone(),
        _ => Field::Oifname,
    };
    let name = *chance.pick(&["eth0", "pod", "vx-bridge", "vx-local", "vx-bridge-6"]);
    let mut octets = name.as_bytes().to_vec();
    octets.resize(16, 0);
    let order = *chance.pick(&[Order::Eq, Order::Eq, Order::Ne]);
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(order, Octets(octets)),
    })
}
