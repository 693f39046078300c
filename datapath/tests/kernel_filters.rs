//! Packet filters written to a real kernel are read back as what they are, and dormant or empty ones are no filters.
#![cfg(feature = "kernel")]
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "kernel/namespace.rs"]
mod namespace;

use std::time::Instant;

use datapath::filter::{
    Base, Chain, ChainKind, Clause, Decider, Field, Filters, Hook, Load, MOST_RULES, Octets, Order,
    Policy, Relation, Rule, Step, TableFamily, Test, Translation, Verdict,
};
use datapath::kernel::LinuxKernel;

use namespace::in_namespace;

fn test(field: Field, octets: &[u8]) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(Order::Eq, Octets(octets.to_vec())),
    })
}

fn rule(clauses: Vec<Clause>) -> Rule {
    Rule {
        handle: 0,
        clauses,
        packets: None,
    }
}

fn chain(name: &str, hook: Option<(ChainKind, Hook, i32)>, rules: Vec<Rule>) -> Chain {
    Chain {
        family: TableFamily::Inet,
        table: "trial".to_owned(),
        name: name.to_owned(),
        base: hook.map(|(kind, hook, priority)| Base {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
            devices: Vec::new(),
        }),
        rules,
        is_cut: false,
    }
}

fn of(chains: Vec<Chain>) -> Filters {
    Filters { chains }
}

/// The same without the handles, which the kernel gives.
fn plain(mut filters: Filters) -> Filters {
    let rules = filters.chains.iter_mut().flat_map(|chain| &mut chain.rules);
    rules.for_each(|rule| rule.handle = 0);
    filters
}

fn masked(field: Field, mask: &[u8], order: Order, value: &[u8]) -> Clause {
    Clause::Test(Test {
        of: vec![Load {
            field,
            then: vec![Step::Bits {
                mask: Octets(mask.to_vec()),
                xor: Octets(vec![0; mask.len()]),
            }],
        }],
        is: Relation::Compare(order, Octets(value.to_vec())),
    })
}

fn rules() -> Vec<Rule> {
    let mut name = b"vx-bridge".to_vec();
    name.resize(16, 0);
    vec![
        rule(vec![
            test(Field::Nfproto, &[2]),
            masked(
                Field::Network(12, 4),
                &[255, 255, 0, 0],
                Order::Eq,
                &[10, 1, 0, 0],
            ),
            test(Field::L4proto, &[6]),
            test(Field::Transport(2, 2), &[0x22, 0xb9]),
            Clause::Verdict(Verdict::Drop),
        ]),
        rule(vec![
            masked(Field::CtState, &[6, 0, 0, 0], Order::Ne, &[0; 4]),
            Clause::Verdict(Verdict::Accept),
        ]),
        rule(vec![
            test(Field::Iifname, &name),
            test(Field::CtDirection, &[1]),
            Clause::Verdict(Verdict::Reject),
        ]),
        rule(vec![
            Clause::Test(Test {
                of: vec![Field::Random(10, 0).into()],
                is: Relation::Compare(Order::Eq, Octets(vec![0; 4])),
            }),
            Clause::Verdict(Verdict::Drop),
        ]),
        rule(vec![
            test(Field::FibDaddrType, &[2, 0, 0, 0]),
            Clause::Verdict(Verdict::Jump("more".to_owned())),
        ]),
    ]
}

#[test]
#[ignore = "netns: needs nft"]
fn what_is_written_is_read() {
    in_namespace(|| {
        let mut kernel = LinuxKernel::open().expect("netlink sockets");
        let filter = |hook| Some((ChainKind::Filter, hook, 0));
        let wanted = of(vec![
            chain("forward", filter(Hook::Forward), rules()),
            chain(
                "more",
                None,
                vec![rule(vec![Clause::Verdict(Verdict::Return)])],
            ),
            chain(
                "out",
                Some((ChainKind::Nat, Hook::Postrouting, 100)),
                vec![rule(vec![
                    test(Field::Nfproto, &[2]),
                    Clause::Translate(Translation::Masquerade),
                ])],
            ),
        ]);
        // A chain that is called has to be there first.
        let mut order = wanted.clone();
        order.chains.sort_by_key(|chain| chain.base.is_some());
        kernel.add_filters(&order).expect("written");
        let (read, untold) = kernel.filters().expect("read");
        assert_eq!(untold, 0);
        assert_eq!(plain(read.clone()), wanted);
        let words = read.chains[0].rules[0].to_string();
        assert_eq!(
            words,
            "meta nfproto 2 ip saddr 10.1.0.0/16 tcp dport 8889 drop"
        );
        let words = read.chains[0].rules[1].to_string();
        assert_eq!(words, "ct state established,related accept");

        // A fix is what it says.
        let by = Decider::rule(&read.chains[0], &read.chains[0].rules[1], Hook::Forward);
        assert_eq!(by.removal()[..3], ["nft", "delete", "rule"]);
        kernel.remove_filter(&by).expect("removed");
        let (read, _) = kernel.filters().expect("read");
        assert_eq!(read.chains[0].rules.len(), 4);
        kernel
            .remove_filter_table(TableFamily::Inet, "trial")
            .expect("removed");
        kernel
            .remove_filter_table(TableFamily::Inet, "trial")
            .expect("gone already");
        assert!(kernel.filters().expect("read").0.is_empty());
    });
}

#[test]
#[ignore = "netns: needs nft"]
fn many_rules_are_counted_and_read_in_time() {
    in_namespace(|| {
        let mut kernel = LinuxKernel::open().expect("netlink sockets");
        let one = rules().swap_remove(0);
        let many = |name: &str, count| {
            let hook = Some((ChainKind::Filter, Hook::Forward, 0));
            chain(name, hook, vec![one.clone(); count])
        };
        // One message to the kernel has no room for more.
        let add = |kernel: &mut LinuxKernel, name: &str, times| {
            for _ in 0..times {
                kernel
                    .add_filters(&of(vec![many(name, 100)]))
                    .expect("written");
            }
        };
        add(&mut kernel, "first", 5);
        add(&mut kernel, "second", 5);
        let started = Instant::now();
        let (read, untold) = kernel.filters().expect("read");
        let took = started.elapsed();
        eprintln!("1000 rules read in {took:?}");
        assert!(took.as_millis() < 500, "{took:?}");
        assert_eq!((read.rules(), untold), (1000, 0));
        add(&mut kernel, "third", 7);
        add(&mut kernel, "fourth", 7);
        let (read, untold) = kernel.filters().expect("read");
        assert_eq!((read.rules(), untold), (MOST_RULES, 400));
        let cut: Vec<&str> = read
            .chains
            .iter()
            .filter(|chain| chain.is_cut)
            .map(|chain| chain.name.as_str())
            .collect();
        assert_eq!(cut.len(), 1, "{cut:?}");
    });
}
