//! Rules of packet filters: those that do no harm accuse nobody, those that do are named, and what a fix says mends.

use datapath::code::Code;
use datapath::filter::{
    Base, Chain, ChainKind, Clause, Field, Filters, Hook, Load, Octets, Order, Policy, Relation,
    Rule, Step, TableFamily, Test, Translation, Verdict,
};
use tests::lab::{Lab, titled};

fn is(field: Field, octets: &[u8]) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(Order::Eq, Octets(octets.to_vec())),
    })
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

fn name(link: &str) -> Vec<u8> {
    let mut octets = link.as_bytes().to_vec();
    octets.resize(16, 0);
    octets
}

fn states(mask: u8) -> Clause {
    masked(Field::CtState, &[mask, 0, 0, 0], Order::Ne, &[0; 4])
}

fn rule(clauses: Vec<Clause>) -> Rule {
    Rule {
        handle: 0,
        clauses,
        packets: Some(0),
    }
}

fn to_tcp(port: u16, verdict: Verdict) -> Rule {
    rule(vec![
        is(Field::L4proto, &[6]),
        is(Field::Transport(2, 2), &port.to_be_bytes()),
        Clause::Verdict(verdict),
    ])
}

fn chain(table: &str, name: &str, base: Option<(ChainKind, Hook, i32, Policy)>) -> Chain {
    Chain {
        family: TableFamily::Ip,
        table: table.to_owned(),
        name: name.to_owned(),
        base: base.map(|(kind, hook, priority, policy)| Base {
            kind,
            hook,
            priority,
            policy,
            devices: Vec::new(),
        }),
        rules: Vec::new(),
        is_cut: false,
    }
}

fn filter(hook: Hook, rules: Vec<Rule>) -> Filters {
    let base = (ChainKind::Filter, hook, 0, Policy::Accept);
    Filters {
        chains: vec![Chain {
            rules,
            ..chain("theirs", hook.word(), Some(base))
        }],
    }
}

/// Puts rules into the namespace of a place.
fn put(lab: &Lab, at: &str, filters: &Filters) {
    let json = serde_json::to_string(filters).unwrap();
    lab.exec_ok(at, &[env!("CARGO_BIN_EXE_nft"), "add", &json]);
}

/// What other programs have on every node of a cluster, as Docker, kube-proxy, a CNI and a firewall of the host lay it out.
fn everyday() -> Filters {
    let accept = || Clause::Verdict(Verdict::Accept);
    let jump = |name: &str| Clause::Verdict(Verdict::Jump(name.to_owned()));
    let filter = |hook, policy| Some((ChainKind::Filter, hook, 0, policy));
    let with = |chain: Chain, rules| Chain { rules, ..chain };
    Filters {
        chains: vec![
            with(
                chain("filter", "DOCKER-USER", None),
                vec![rule(vec![Clause::Verdict(Verdict::Return)])],
            ),
            with(
                chain("filter", "DOCKER", None),
                vec![rule(vec![
                    is(Field::Oifname, &name("docker0")),
                    Clause::Verdict(Verdict::Drop),
                ])],
            ),
            with(
                chain("filter", "KUBE-FORWARD", None),
                vec![
                    rule(vec![states(1), Clause::Verdict(Verdict::Drop)]),
                    rule(vec![
                        masked(Field::Mark, &[0, 0x40, 0, 0], Order::Eq, &[0, 0x40, 0, 0]),
                        accept(),
                    ]),
                    rule(vec![states(6), accept()]),
                ],
            ),
            with(
                chain("filter", "FORWARD", filter(Hook::Forward, Policy::Drop)),
                vec![
                    rule(vec![jump("DOCKER-USER")]),
                    rule(vec![jump("KUBE-FORWARD")]),
                    rule(vec![jump("DOCKER")]),
                    rule(vec![
                        masked(
                            Field::Network(12, 4),
                            &[255, 0, 0, 0],
                            Order::Eq,
                            &[10, 0, 0, 0],
                        ),
                        accept(),
                    ]),
                ],
            ),
            with(
                chain("filter", "INPUT", filter(Hook::Input, Policy::Accept)),
                vec![
                    rule(vec![states(6), accept()]),
                    to_tcp(22, Verdict::Accept),
                    to_tcp(23, Verdict::Reject),
                    rule(vec![
                        masked(Field::Network(6, 2), &[0x1f, 0xff], Order::Ne, &[0, 0]),
                        Clause::Verdict(Verdict::Drop),
                    ]),
                ],
            ),
            with(
                chain(
                    "nat",
                    "POSTROUTING",
                    Some((ChainKind::Nat, Hook::Postrouting, 100, Policy::Accept)),
                ),
                vec![
                    rule(vec![
                        masked(Field::Mark, &[0, 0x40, 0, 0], Order::Eq, &[0, 0x40, 0, 0]),
                        Clause::Translate(Translation::Masquerade),
                    ]),
                    rule(vec![
                        masked(
                            Field::Network(12, 4),
                            &[255, 255, 0, 0],
                            Order::Eq,
                            &[172, 17, 0, 0],
                        ),
                        Clause::Translate(Translation::Masquerade),
                    ]),
                ],
            ),
        ],
    }
}

fn nodes(lab: &Lab) -> Vec<String> {
    let clusters = lab.clusters.iter();
    clusters
        .flat_map(|cluster| ["n1", "n2"].map(|node| format!("{cluster}/{node}")))
        .collect()
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn everyday_rules_accuse_nobody_and_do_not_hide_a_fault() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--mode", "mixed"]);
    for at in nodes(&lab) {
        put(&lab, &at, &everyday());
    }
    let (exit, report) = lab.dr(&[]);
    assert_eq!(exit, Some(0), "{report:#}");
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["verdict"], "healthy");
    // A row that is wrong beside all those rules is still the row's fault.
    let inject = [
        "sim",
        "fault",
        "inject",
        "ROUTE-MISSING",
        "--at",
        "c1/n1,c2",
    ];
    lab.place.run(inject).expect(0);
    assert_eq!(blamed(&lab), ["ROUTE-MISSING c1/n1 route"]);
    lab.place.run(["sim", "fault", "clear"]).expect(0);
    lab.down();
}

/// Code, node and kind of each finding.
fn blamed(lab: &Lab) -> Vec<String> {
    let (_, report) = lab.dr(&[]);
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(titled).collect()
}

/// Rules that no injector makes, each at its place, with what is said of it.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn rules_of_all_kinds_are_named_where_they_are() {
    let drop = || Clause::Verdict(Verdict::Drop);
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--mode", "mixed"]);
    let one_in_three = Clause::Test(Test {
        of: vec![Field::Random(3, 0).into()],
        is: Relation::Compare(Order::Eq, Octets(vec![0; 4])),
    });
    let cases: Vec<(&str, Code, Filters)> = vec![
        // A whole node drops what it should forward, but for what was established already.
        (
            "c1/n2",
            Code::ForwardPolicyDrop,
            Filters {
                chains: vec![Chain {
                    rules: vec![rule(vec![states(6), Clause::Verdict(Verdict::Accept)])],
                    ..chain(
                        "theirs",
                        "forward",
                        Some((ChainKind::Filter, Hook::Forward, 0, Policy::Drop)),
                    )
                }],
            },
        ),
        // The host's own responder.
        (
            "c2/n2",
            Code::L4SelectiveDrop,
            filter(Hook::Input, vec![to_tcp(8889, Verdict::Drop)]),
        ),
        (
            "c2/n1",
            Code::Reject,
            filter(Hook::Forward, vec![to_tcp(8889, Verdict::Reject)]),
        ),
        // Before routing, of one peer's tunnel.
        (
            "c2/n1",
            Code::TunnelUdpBlockedOneway,
            filter(
                Hook::Prerouting,
                vec![rule(vec![
                    is(Field::Network(9, 1), &[17]),
                    masked(
                        Field::Network(12, 4),
                        &[255, 192, 0, 0],
                        Order::Eq,
                        &[100, 64, 0, 0],
                    ),
                    is(Field::Transport(2, 2), &4876_u16.to_be_bytes()),
                    drop(),
                ])],
            ),
        ),
        (
            "c1/n1",
            Code::LossGray,
            filter(Hook::Forward, vec![rule(vec![one_in_three, drop()])]),
        ),
    ];
    for (at, code, filters) in cases {
        put(&lab, at, &filters);
        let (exit, report) = lab.dr(&["--rounds", "5"]);
        assert_eq!(exit, Some(1), "{code} at {at}: {report:#}");
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{code} at {at}: {findings:#?}");
        assert_eq!(findings[0]["code"], code.word(), "{findings:#?}");
        assert_eq!(findings[0]["element"]["kind"], "filter", "{findings:#?}");
        let step = &findings[0]["fix_steps"][0];
        assert_eq!(step["place"], at, "{findings:#?}");
        let argv = step["argv"].as_array().unwrap();
        let mut words: Vec<&str> = argv.iter().map(|word| word.as_str().unwrap()).collect();
        words[0] = env!("CARGO_BIN_EXE_nft");
        lab.exec_ok(at, &words);
        let (exit, report) = lab.dr(&[]);
        assert_eq!(exit, Some(0), "{code} at {at} was not mended: {report:#}");
    }
    lab.down();
}
