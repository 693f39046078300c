//! Random fleets: healthy ones accuse nobody whatever is lost by chance, a single fault is named, and names decide nothing.

use datapath::api::NetworkType;
use datapath::state::Family;
use floater::wire::{Failure, Layer, Protocol};
use orchestrator::diagnose::diagnose;
use orchestrator::evidence::{Ask, Gathered, NodeRef, ProbeRecord};
use orchestrator::probe_plan::What;
use orchestrator::report::{RunVerdict, Severity};
use orchestrator::run::exit_code;
use orchestrator::sequential::{Decision, Losses};

use super::fleet::{
    BOTH, IPV4, IPV6, Spec, at, consistent, forget, healthy, lose, outcome, probe, tables, titles,
};

/// SplitMix64, so that a case can be repeated by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("a small number")
    }

    /// True in so many of a million.
    fn chance(&mut self, of_a_million: usize) -> bool {
        self.below(1_000_000) < of_a_million
    }
}

const NAMES: [&str; 6] = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot"];

fn fleet(random: &mut Random) -> Gathered {
    let count = 1 + random.below(5);
    let families = [IPV4, IPV6, BOTH];
    let common = families[random.below(3)];
    let specs: Vec<Spec> = NAMES[..count]
        .iter()
        .map(|&name| Spec {
            name,
            mode: if random.chance(500_000) {
                NetworkType::Gateway
            } else {
                NetworkType::P2p
            },
            // Some clusters have both families beside others that have one.
            families: if random.chance(300_000) { BOTH } else { common },
            nodes: 1 + random.below(3),
            map: &[],
        })
        .collect();
    let mut gathered = healthy(&specs);
    probe(&mut gathered, &What::default());
    gathered
}

/// Loses packets of what passes by chance, and asks again as a run does.
fn weather(random: &mut Random, record: &mut ProbeRecord, rate: usize, excused: Option<&str>) {
    let Ok(first) = record.asks[0].outcome.clone() else {
        return;
    };
    if first.received < first.sent {
        return;
    }
    let again = if record.protocol == Protocol::Icmp {
        8
    } else {
        4
    };
    let mut losses = Losses::default();
    record.asks.clear();
    for round in 0..7 {
        let mut outcome = first.clone();
        outcome.sent = if round == 0 { first.sent } else { again };
        outcome.received = (0..outcome.sent)
            .map(|_| u32::from(!random.chance(rate)))
            .sum();
        outcome.failure = (outcome.received < outcome.sent).then_some(Failure::Timeout);
        losses.add(outcome.sent.into(), outcome.received.into());
        record.asks.push(Ask {
            outcome: Ok(outcome),
            excused: excused.map(str::to_owned),
        });
        if losses.decision() != Decision::Undecided {
            break;
        }
    }
}

#[test]
fn five_hundred_random_healthy_fleets_have_no_finding() {
    for case in 0..500 {
        let mut random = Random(case);
        let mut gathered = fleet(&mut random);
        let rate = random.below(10_001);
        let all: Vec<NodeRef> = (0..gathered.clusters.len())
            .flat_map(|cluster| {
                (0..gathered.clusters[cluster].nodes.len())
                    .map(move |node| NodeRef { cluster, node })
            })
            .collect();
        let starved: Vec<NodeRef> = all
            .iter()
            .copied()
            .filter(|_| random.chance(150_000))
            .collect();
        let gone: Vec<NodeRef> = all
            .iter()
            .copied()
            .filter(|_| random.chance(100_000))
            .collect();
        for node in &gone {
            let facts = &mut gathered.clusters[node.cluster].nodes[node.node];
            facts.pod_floater = Some("the pod is gone".to_owned());
            facts.ready = facts.gateway || random.chance(500_000);
        }
        for record in &mut gathered.probes {
            let ends = [record.src, record.dst];
            if record.layer == Layer::Pod && gone.contains(&record.src) {
                forget(record, "the pod is gone");
            } else if record.layer == Layer::Pod && gone.contains(&record.dst) {
                lose(record, Failure::Timeout);
            } else if ends.iter().any(|end| starved.contains(end)) {
                weather(
                    &mut random,
                    record,
                    400_000,
                    Some("its floater was starved"),
                );
            } else {
                weather(&mut random, record, rate, None);
            }
        }
        let judged = diagnose(&gathered, &What::default());
        consistent(&gathered, &judged);
        assert_eq!(
            titles(&judged),
            Vec::<String>::new(),
            "case {case}, loss {rate} of 10^6"
        );
        assert!(
            matches!(judged.verdict, RunVerdict::Healthy | RunVerdict::Unknown),
            "case {case}"
        );
        let report = judged.into_report(super::reports::run());
        assert_ne!(exit_code(&report, Severity::Info), 1, "case {case}");
    }
}

/// A single row that is wrong, one packet in a hundred lost everywhere: the node that has the row is named, and no other is accused.
#[test]
fn a_single_fault_among_background_loss_is_named_and_nobody_else() {
    let mut found = 0;
    for case in 0..120 {
        let mut random = Random(1_000_000 + case);
        let specs: Vec<Spec> = NAMES[..2 + random.below(3)]
            .iter()
            .map(|&name| Spec {
                name,
                mode: NetworkType::Gateway,
                families: if random.chance(500_000) { BOTH } else { IPV4 },
                nodes: 2 + random.below(2),
                map: &[],
            })
            .collect();
        let mut gathered = healthy(&specs);
        let name = specs[random.below(specs.len())].name;
        let place = format!("{name}/n1");
        let kind = random.below(5);
        let state = tables(&mut gathered, &place);
        match kind {
            0 => {
                let dst = state
                    .fdb
                    .iter()
                    .find(|row| row.link == "vx-bridge")
                    .and_then(|row| row.dst);
                state
                    .fdb
                    .retain(|row| row.link != "vx-bridge" || row.dst != dst);
            }
            1 => {
                let dst = state
                    .routes
                    .iter()
                    .find(|row| row.table == 200 && row.dst.addr().is_ipv4())
                    .map(|row| row.dst);
                state
                    .routes
                    .retain(|row| row.table != 200 || Some(row.dst) != dst);
            }
            2 => {
                state
                    .sysctls
                    .get_mut("net.ipv4.conf.all.forwarding")
                    .expect("a setting")
                    .value = 0;
                for name in ["eth0", "vx-bridge", "vx-local", "pod"] {
                    if let Some(row) = state
                        .sysctls
                        .get_mut(&format!("net.ipv4.conf.{name}.forwarding"))
                    {
                        row.value = 0;
                    }
                }
            }
            3 => {
                state.links.get_mut("vx-bridge").expect("a tunnel").up = false;
                state
                    .routes
                    .retain(|row| row.hops.iter().all(|hop| hop.link != "vx-bridge"));
                state.neighbours.retain(|row| row.link != "vx-bridge");
            }
            _ => {
                state.links.get_mut("vx-bridge").expect("a tunnel").mac =
                    Some("02:de:ad:be:ef:01".parse().expect("a MAC"));
            }
        }
        probe(&mut gathered, &What::default());
        for record in &mut gathered.probes {
            weather(&mut random, record, 10_000, None);
        }
        let judged = diagnose(&gathered, &What::default());
        consistent(&gathered, &judged);
        for title in titles(&judged) {
            assert!(
                title.contains(&place),
                "case {case}, kind {kind} at {place}: {title}"
            );
        }
        found += usize::from(!judged.findings.is_empty());
    }
    // A service's route that nobody probes can be the row that is gone: then it is found by the tables all the same.
    assert_eq!(found, 120);
}

/// The titles of a fleet whose clusters stand in this order, where a packet of a record is lost by the names of its ends.
fn judged_in_order(
    order: &[&'static str],
    lost: fn(&str, &str, &ProbeRecord) -> bool,
) -> Vec<String> {
    let specs: Vec<Spec> = order
        .iter()
        .map(|&name| Spec {
            name,
            mode: NetworkType::Gateway,
            families: IPV4,
            nodes: 2,
            map: &[],
        })
        .collect();
    let mut gathered = healthy(&specs);
    probe(&mut gathered, &What::default());
    let names: Vec<String> = gathered
        .clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    for record in &mut gathered.probes {
        let place = |at: NodeRef| format!("{}/n{}", names[at.cluster], at.node + 1);
        if lost(&place(record.src), &place(record.dst), record) {
            lose(record, Failure::Timeout);
        }
    }
    let judged = diagnose(&gathered, &What::default());
    let mut titles: Vec<String> = judged
        .findings
        .iter()
        .map(|finding| {
            let mut others: Vec<String> = finding
                .ambiguous_with
                .iter()
                .map(ToString::to_string)
                .collect();
            others.sort();
            format!(
                "{} at {} or {others:?}",
                finding.code,
                finding.element.place()
            )
        })
        .collect();
    titles.sort();
    titles
}

#[test]
fn the_order_of_clusters_decides_nothing() {
    let scenarios: [fn(&str, &str, &ProbeRecord) -> bool; 6] = [
        // Two gateways' tunnel, both ways; one gateway's; one source's connections; one cluster's underlay; a half of one direction.
        |src, dst, record| {
            record.layer == Layer::Pod
                && [(src, dst), (dst, src)]
                    .iter()
                    .any(|(a, b)| a.starts_with("a/") && b.starts_with("b/"))
        },
        |src, dst, record| {
            record.layer == Layer::Pod && src.starts_with("b/") != dst.starts_with("b/")
        },
        |src, _, record| src == "a/n2" && record.protocol == Protocol::Tcp,
        |src, dst, _| src.starts_with("a/") != dst.starts_with("a/"),
        |src, dst, record| {
            src.starts_with("a/") && dst.starts_with("b/") && record.protocol == Protocol::Tcp
        },
        |src, dst, _| (src == "a/n1") != (dst == "a/n1"),
    ];
    for (number, &lost) in scenarios.iter().enumerate() {
        for orders in [
            [&["a", "b"][..], &["b", "a"][..]],
            [&["a", "b", "c"][..], &["c", "b", "a"][..]],
        ] {
            let [one, other] = orders.map(|order| judged_in_order(order, lost));
            assert_eq!(one, other, "scenario {number} of {}", orders[0].len());
            assert!(!one.is_empty());
        }
    }
}

/// With two clusters nothing tells one end from the other: neither is accused alone.
#[test]
fn with_two_clusters_a_tie_names_both_ends() {
    let titles = judged_in_order(&["a", "b"], |src, dst, _| {
        src.starts_with("a/") != dst.starts_with("a/")
    });
    assert_eq!(titles.len(), 1, "{titles:?}");
    assert!(titles[0].contains("underlay a - b"), "{titles:?}");
    for end in ["a - all others", "b - all others"] {
        assert!(titles[0].contains(end), "{titles:?}");
    }
}

/// A fault that the tables show needs no more packets than a few: they are the second witness.
#[test]
fn tables_and_a_few_lost_packets_accuse_together() {
    let specs = [NAMES[0], NAMES[1]].map(|name| Spec {
        name,
        mode: NetworkType::Gateway,
        families: IPV4,
        nodes: 2,
        map: &[],
    });
    let mut gathered = healthy(&specs);
    let here = at(&gathered, "alpha/n1");
    assert_eq!(here.node, 0);
    tables(&mut gathered, "alpha/n1")
        .routes
        .retain(|row| row.table != 200 || row.dst != super::fleet::pods(1, None, Family::Ipv4));
    probe(&mut gathered, &What::default());
    for record in &mut gathered.probes {
        // One round, and by a starved floater at that.
        record.asks.truncate(1);
        if outcome(record).received == 0 {
            record.asks[0].excused = Some("its floater was starved".to_owned());
        }
    }
    let judged = diagnose(&gathered, &What::default());
    assert_eq!(titles(&judged), ["error ROUTE-MISSING at alpha/n1 route"]);
}
