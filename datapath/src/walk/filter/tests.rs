//! Chains of one node, asked by hand.

use super::*;
use crate::filter::{Field, Octets, Order, Relation};

fn test(field: Field, octets: &[u8]) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(Order::Eq, Octets(octets.to_vec())),
    })
}

fn rule(handle: u64, mut clauses: Vec<Clause>, verdict: Verdict) -> Rule {
    clauses.push(Clause::Verdict(verdict));
    Rule {
        handle,
        clauses,
        packets: None,
    }
}

fn chain(name: &str, policy: Option<Policy>, rules: Vec<Rule>) -> Chain {
    Chain {
        family: TableFamily::Ip,
        table: "t".to_owned(),
        name: name.to_owned(),
        base: policy.map(|policy| Base {
            kind: ChainKind::Filter,
            hook: Hook::Forward,
            priority: 0,
            policy,
            devices: Vec::new(),
        }),
        rules,
        is_cut: false,
    }
}

fn seen() -> Seen<'static> {
    let ip = |text: &str| text.parse().expect("an address");
    let packet = Packet::tcp(ip("10.1.0.2"), ip("10.2.0.2"), 8889);
    let mut seen = Seen::new(packet, Connection::New, false);
    seen.iif = Some(("veth1", 5));
    seen.oif = Some(("vx-bridge", 7));
    seen
}

/// A rule's handle, and how many packets of a million it stops.
type Told = (Option<u64>, Option<u32>);

/// What the chains do, and the handles and chances of what they may do.
fn ask(chains: Vec<Chain>, mut seen: Seen<'_>) -> (String, Vec<Told>) {
    let compiled = Compiled::new(&Filters { chains }).expect("chains");
    let mut suspects = Vec::new();
    let ruling = compiled.rule(
        Hook::Forward,
        Turn::After(i32::MIN),
        &mut seen,
        &mut suspects,
    );
    let ruling = match ruling {
        Ruling::Passes => "passes".to_owned(),
        Ruling::Dropped(by) => format!("dropped by {by}"),
        Ruling::Refused(by) => format!("refused by {by}"),
    };
    let suspects = suspects.into_iter();
    (
        ruling,
        suspects
            .map(|one| (one.by.handle, one.per_million))
            .collect(),
    )
}

fn unknown(what: &str) -> Clause {
    Clause::Unknown(what.to_owned())
}

#[test]
fn the_first_rule_that_holds_decides_and_else_the_policy() {
    let port = test(Field::Transport(2, 2), &8889_u16.to_be_bytes());
    let other = test(Field::Transport(2, 2), &22_u16.to_be_bytes());
    for (first, policy, expected) in [
        (
            rule(1, vec![port.clone()], Verdict::Drop),
            Policy::Accept,
            "dropped by ip t f handle 1",
        ),
        (
            rule(1, vec![port.clone()], Verdict::Reject),
            Policy::Accept,
            "refused by ip t f handle 1",
        ),
        (
            rule(1, vec![port.clone()], Verdict::Accept),
            Policy::Drop,
            "passes",
        ),
        (
            rule(1, vec![port], Verdict::Return),
            Policy::Drop,
            "dropped by ip t f policy",
        ),
        (
            rule(1, vec![other.clone()], Verdict::Drop),
            Policy::Accept,
            "passes",
        ),
        (
            rule(1, vec![other], Verdict::Accept),
            Policy::Drop,
            "dropped by ip t f policy",
        ),
    ] {
        let found = ask(vec![chain("f", Some(policy), vec![first])], seen());
        assert_eq!(found, (expected.to_owned(), Vec::new()));
    }
}

#[test]
fn what_cannot_be_told_stops_nothing_and_is_told_as_doubt() {
    let drop = |handle, clauses| rule(handle, clauses, Verdict::Drop);
    let sport = test(Field::Transport(0, 2), &4000_u16.to_be_bytes());
    let cases = [
        (vec![drop(1, vec![unknown("limit")])], vec![(Some(1), None)]),
        (vec![drop(1, vec![sport])], vec![(Some(1), None)]),
        // What may have let it pass takes the certainty from what follows.
        (
            vec![
                rule(1, vec![unknown("limit")], Verdict::Accept),
                drop(2, Vec::new()),
            ],
            vec![(Some(2), None)],
        ),
        (
            vec![
                rule(1, vec![unknown("limit")], Verdict::Return),
                drop(2, Vec::new()),
            ],
            vec![(Some(2), None)],
        ),
        // An expression that may decide by itself.
        (
            vec![rule(1, vec![unknown("target CUSTOM")], Verdict::Accept)],
            vec![(Some(1), None)],
        ),
        // A test that surely fails makes what is not understood harmless.
        (
            vec![drop(
                1,
                vec![unknown("limit"), test(Field::Oifname, b"eth0\0")],
            )],
            vec![],
        ),
    ];
    for (rules, expected) in cases {
        let found = ask(vec![chain("f", Some(Policy::Accept), rules)], seen());
        assert_eq!(found, ("passes".to_owned(), expected));
    }
}

#[test]
fn chance_is_a_share_of_packets() {
    let random = |modulus, order, value: [u8; 4]| {
        Clause::Test(Test {
            of: vec![Field::Random(modulus, 0).into()],
            is: Relation::Compare(order, Octets(value.to_vec())),
        })
    };
    for (clause, expected) in [
        (random(10, Order::Eq, [3, 0, 0, 0]), Some(100_000)),
        (random(10, Order::Lt, [3, 0, 0, 0]), Some(300_000)),
        (random(0, Order::Lt, [0x40, 0, 0, 0]), Some(250_000)),
    ] {
        let chains = vec![chain(
            "f",
            Some(Policy::Accept),
            vec![rule(1, vec![clause], Verdict::Drop)],
        )];
        let found = ask(chains, seen());
        assert_eq!(found, ("passes".to_owned(), vec![(Some(1), expected)]));
    }
}

#[test]
fn chains_that_call_each_other_end() {
    let jump = |handle, name: &str| rule(handle, Vec::new(), Verdict::Jump(name.to_owned()));
    let chains = vec![
        chain(
            "f",
            Some(Policy::Accept),
            vec![jump(1, "a"), jump(2, "gone")],
        ),
        chain("a", None, vec![jump(3, "b"), jump(4, "b")]),
        chain("b", None, vec![jump(5, "a"), jump(6, "a")]),
    ];
    let (ruling, suspects) = ask(chains, seen());
    assert_eq!(ruling, "passes");
    assert!(!suspects.is_empty());
}

#[test]
fn who_is_called_from_where_is_told() {
    let by_link = vec![test(Field::Oifname, b"vx-bridge\0\0\0\0\0\0\0")];
    let chains = vec![
        chain(
            "f",
            Some(Policy::Accept),
            vec![rule(1, by_link, Verdict::Jump("a".to_owned()))],
        ),
        chain("a", None, vec![rule(2, Vec::new(), Verdict::Drop)]),
    ];
    let compiled = Compiled::new(&Filters { chains }).expect("chains");
    let mut found = seen();
    let ruling = compiled.rule(
        Hook::Forward,
        Turn::After(i32::MIN),
        &mut found,
        &mut Vec::new(),
    );
    let Ruling::Dropped(by) = ruling else {
        panic!("{ruling:?}");
    };
    assert_eq!(by.text, "oifname \"vx-bridge\" jump a > drop");
    assert!(by.asks.link && !by.asks.transport);
}

#[test]
fn marks_go_with_the_packet() {
    let set = |value: [u8; 4]| {
        Clause::Mark(Some(Load {
            field: Field::Mark,
            then: vec![crate::filter::Step::Bits {
                mask: Octets(vec![0xff; 4]),
                xor: Octets(value.to_vec()),
            }],
        }))
    };
    let marks = Rule {
        handle: 1,
        clauses: vec![set([0, 0x40, 0, 0])],
        packets: None,
    };
    let marked = vec![test(Field::Mark, &[0, 0x40, 0, 0])];
    let chains = vec![chain(
        "f",
        Some(Policy::Accept),
        vec![marks, rule(2, marked, Verdict::Drop)],
    )];
    assert_eq!(ask(chains, seen()).0, "dropped by ip t f handle 2");
}
