//! Rules of packet filters in the tables of a healthy fleet: accused where packets fail, and nowhere else.

use datapath::filter::{
    Base, Chain, ChainKind, Clause, Field, Filters, Hook, Octets, Order, Policy, Relation, Rule,
    TableFamily, Test, Verdict,
};
use datapath::state::Family;
use orchestrator::diagnose::diagnose;
use orchestrator::evidence::Gathered;
use orchestrator::probe_plan::What;
use orchestrator::report::Severity;

use super::fleet::{IPV4, at, gateway, healthy, judged, only, p2p, pods, probe, tables, titles};

fn chain(hook: Hook, policy: Policy, rules: Vec<Rule>) -> Filters {
    Filters {
        chains: vec![Chain {
            family: TableFamily::Inet,
            table: "fw".to_owned(),
            name: "c".to_owned(),
            base: Some(Base {
                kind: ChainKind::Filter,
                hook,
                priority: 0,
                policy,
                devices: Vec::new(),
            }),
            rules,
            is_cut: false,
        }],
    }
}

fn rule(of: Field, octets: &[u8], verdict: Verdict) -> Rule {
    Rule {
        handle: 7,
        clauses: vec![
            Clause::Test(Test {
                of: vec![of.into()],
                is: Relation::Compare(Order::Eq, Octets(octets.to_vec())),
            }),
            Clause::Verdict(verdict),
        ],
        packets: None,
    }
}

fn fleet() -> Gathered {
    healthy(&[
        gateway("east", IPV4),
        p2p("north", IPV4),
        gateway("west", IPV4),
    ])
}

#[test]
fn a_rule_is_accused_at_its_node_by_what_it_stops() {
    let to = |link: &[u8]| {
        let mut octets = link.to_vec();
        octets.resize(16, 0);
        octets
    };
    let cases = [
        (
            chain(Hook::Forward, Policy::Drop, Vec::new()),
            "FORWARD-POLICY-DROP",
            "inet fw c policy",
        ),
        (
            chain(
                Hook::Forward,
                Policy::Accept,
                vec![rule(Field::Oifname, &to(b"pod"), Verdict::Drop)],
            ),
            "POD-POLICY",
            "inet fw c handle 7",
        ),
        (
            chain(
                Hook::Forward,
                Policy::Accept,
                vec![rule(Field::Iifname, &to(b"vx-bridge"), Verdict::Reject)],
            ),
            "REJECT",
            "inet fw c handle 7",
        ),
        (
            chain(
                Hook::Input,
                Policy::Accept,
                vec![rule(
                    Field::Transport(2, 2),
                    &4876_u16.to_be_bytes(),
                    Verdict::Drop,
                )],
            ),
            "TUNNEL-UDP-BLOCKED-HOST",
            "inet fw c handle 7",
        ),
        (
            chain(
                Hook::Output,
                Policy::Accept,
                vec![rule(
                    Field::Transport(2, 2),
                    &4876_u16.to_be_bytes(),
                    Verdict::Drop,
                )],
            ),
            "TUNNEL-UDP-BLOCKED-ONEWAY",
            "inet fw c handle 7",
        ),
    ];
    for (filters, code, name) in cases {
        let mut gathered = fleet();
        tables(&mut gathered, "west/n1").filters = filters;
        let judged = judged(&mut gathered);
        let finding = only(&judged);
        assert_eq!(finding.code.word(), code);
        assert_eq!(finding.severity, Severity::Error, "{code}");
        assert_eq!(finding.element.place(), format!("west/n1 filter {name}"));
        let fix = finding.fix.to_string();
        assert!(fix.starts_with("on west/n1: nft "), "{fix}");
    }
}

#[test]
fn a_rule_that_packets_pass_is_not_accused() {
    let mut gathered = fleet();
    probe(&mut gathered, &What::default());
    tables(&mut gathered, "west/n1").filters = chain(Hook::Forward, Policy::Drop, Vec::new());
    let judged = diagnose(&gathered, &What::default());
    assert_eq!(titles(&judged), [""; 0]);
}

#[test]
fn a_rule_and_a_row_are_two_findings() {
    let mut gathered = fleet();
    tables(&mut gathered, "west/n2").filters = chain(Hook::Forward, Policy::Drop, Vec::new());
    let north = pods(1, None, Family::Ipv4);
    let routes = &mut tables(&mut gathered, "east/n1").routes;
    let before = routes.len();
    routes.retain(|route| !(route.table == 200 && north.contains(&route.dst)));
    assert!(routes.len() < before, "nothing leads to {north}");
    let judged = judged(&mut gathered);
    let mut codes: Vec<String> = judged
        .findings
        .iter()
        .map(|finding| format!("{} {}", finding.code, finding.element.place()))
        .collect();
    codes.sort();
    codes.dedup();
    assert!(
        codes.iter().all(|code| {
            code.starts_with("ROUTE-MISSING east/n1")
                || code == "FORWARD-POLICY-DROP west/n2 filter inet fw c policy"
        }),
        "{codes:?}"
    );
    assert!(codes.len() >= 2, "{codes:?}");
}

#[test]
fn filters_that_nobody_could_read_are_told_where_packets_are_lost() {
    let mut gathered = fleet();
    tables(&mut gathered, "west/n1").filters = chain(Hook::Forward, Policy::Drop, Vec::new());
    probe(&mut gathered, &What::default());
    let at = at(&gathered, "west/n1");
    let facts = &mut gathered.clusters[at.cluster].nodes[at.node];
    facts.tables.as_mut().expect("readable").filters = Filters::default();
    facts.filters_unread = Some("filters: it takes CAP_NET_ADMIN".to_owned());
    let judged = diagnose(&gathered, &What::default());
    let told = "packets are lost, and whether packet filters of west/n1 drop them is not known: ";
    assert!(
        judged.unjudged.iter().any(|one| one.starts_with(told)),
        "{:?}",
        judged.unjudged
    );
    // Where nothing is lost nobody misses them.
    let mut gathered = fleet();
    probe(&mut gathered, &What::default());
    gathered.clusters[0].nodes[0].filters_unread = Some("filters: no".to_owned());
    assert_eq!(diagnose(&gathered, &What::default()).unjudged, [""; 0]);
}
