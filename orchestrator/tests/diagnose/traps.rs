//! What must not be taken for a fault, and what nobody can know.

use datapath::state::{Family, Fdb, RouteKind};
use floater::wire::{Failure, Layer, Protocol};
use orchestrator::diagnose::diagnose;
use orchestrator::evidence::Gathered;
use orchestrator::probe_plan::What;
use orchestrator::report::{CellVerdict, Observation, RunVerdict, Severity};

use super::fleet::{
    BOTH, IPV4, affected, at, consistent, forget, gateway, healthy, ip, judged, keep, many, net,
    only, outcome, p2p, probe, route, settle, tables, titles,
};

pub(crate) fn three() -> Gathered {
    healthy(&[
        gateway("east", IPV4),
        gateway("north", IPV4),
        gateway("west", IPV4),
    ])
}

pub(crate) fn probed(
    mut gathered: Gathered,
    mut change: impl FnMut(&mut orchestrator::evidence::ProbeRecord),
) -> Gathered {
    probe(&mut gathered, &What::default());
    gathered.probes.iter_mut().for_each(&mut change);
    gathered
}

pub(crate) fn lose(record: &mut orchestrator::evidence::ProbeRecord) {
    super::fleet::lose(record, Failure::Timeout);
}

pub(crate) fn look(gathered: &Gathered) -> orchestrator::diagnose::Judged {
    let judged = diagnose(gathered, &What::default());
    consistent(gathered, &judged);
    judged
}

#[test]
fn t1_filtered_echo_requests_are_no_fault() {
    let gathered = probed(three(), |record| {
        if record.protocol == Protocol::Icmp {
            lose(record);
        }
    });
    let judged = look(&gathered);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
}

#[test]
fn t3_a_node_that_reboots_is_no_fault_of_the_network() {
    let mut gathered = probed(three(), |_| {});
    let here = at(&gathered, "west/n2");
    let node = &mut gathered.clusters[here.cluster].nodes[here.node];
    node.ready = false;
    node.tables = Err("node is not ready".to_owned());
    node.host_floater = Some("node is not ready".to_owned());
    node.pod_floater = Some("node is not ready".to_owned());
    for record in &mut gathered.probes {
        if record.src == here {
            forget(record, "node is not ready");
        } else if record.dst == here {
            lose(record);
        }
    }
    let judged = look(&gathered);
    assert!(
        judged
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Info),
        "{:#?}",
        titles(&judged)
    );
    assert!(!judged.unjudged.is_empty());
}

#[test]
fn t5_a_small_loss_everywhere_is_no_fault() {
    let mut gathered = many(30, gateway("c", IPV4));
    probe(&mut gathered, &What::default());
    // One packet in a hundred, spread over all.
    let mut count = 0_u32;
    for record in &mut gathered.probes {
        let outcome = outcome(record);
        count += outcome.sent;
        if count >= 100 {
            count -= 100;
            outcome.received -= 1;
            outcome.failure = Some(Failure::Timeout);
            // As a run does with whatever was lost.
            settle(record);
        }
    }
    let judged = look(&gathered);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
}

#[test]
fn a_heavy_loss_of_one_pair_is_one() {
    let gathered = probed(three(), |record| {
        if record.src.cluster == 0 && record.dst.cluster == 2 && record.layer == Layer::Pod {
            keep(record, 1, Failure::Timeout);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "LOSS-GRAY");
    assert_eq!(finding.affects.len(), 1);
}

/// The first node of north hears nothing of what it asks; everybody reaches it.
fn deaf(excused: Option<&str>) -> Gathered {
    probed(three(), |record| {
        if (record.src.cluster, record.src.node) == (1, 0) {
            lose(record);
            for ask in &mut record.asks {
                ask.excused = excused.map(str::to_owned);
            }
        }
    })
}

#[test]
fn t7_an_observer_that_reports_its_own_starvation_is_no_witness() {
    let judged = look(&deaf(Some("its floater was kept from running for 2.0 s")));
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Unknown);
    assert!(
        judged
            .unjudged
            .iter()
            .any(|sentence| sentence.contains("north/n1") && sentence.contains("2.0 s")),
        "{:?}",
        judged.unjudged
    );
}

#[test]
fn a_source_whose_every_question_is_lost_is_the_cause_and_none_of_those_it_asked() {
    let judged = look(&deaf(None));
    assert_eq!(
        titles(&judged),
        ["error FORWARD-POLICY-DROP at north/n1 responder"; 2]
    );
    assert_ne!(judged.findings[0].id, judged.findings[1].id);
    // The same for connections alone.
    let gathered = probed(three(), |record| {
        if (record.src.cluster, record.src.node) == (1, 0) && record.protocol == Protocol::Tcp {
            lose(record);
        }
    });
    let judged = look(&gathered);
    assert_eq!(
        titles(&judged),
        ["error L4-SELECTIVE-DROP at north/n1 responder"; 2]
    );
}

#[test]
fn t9_rows_of_others_are_no_finding() {
    let mut gathered = three();
    let tables = tables(&mut gathered, "east/n1");
    tables.routes.insert(route(
        200,
        net("192.0.2.0/24"),
        Some(ip("100.64.0.250")),
        "eth0",
    ));
    tables.routes.insert(route(
        254,
        net("198.51.100.0/24"),
        Some(ip("100.64.0.250")),
        "eth0",
    ));
    let mut refused = route(254, net("203.0.113.0/24"), None, "eth0");
    refused.kind = RouteKind::Unreachable;
    refused.hops.clear();
    tables.routes.insert(refused);
    tables.fdb.insert(Fdb {
        link: "vx-bridge".to_owned(),
        mac: datapath::mac::Mac([2, 7, 7, 7, 7, 7]),
        dst: Some(ip("100.64.9.9")),
        permanent: true,
    });
    let mut rule = tables.rules.iter().next().expect("a rule").clone();
    rule.priority = 30_000;
    tables.rules.insert(rule);
    let judged = judged(&mut gathered);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
}

#[test]
fn t10_a_cluster_whose_api_is_down_is_unknown_and_nothing_else() {
    let mut gathered = probed(three(), |_| {});
    let west = &mut gathered.clusters[2];
    west.unreachable = Some("connection refused".to_owned());
    west.nodes.clear();
    west.families.clear();
    west.id.clear();
    west.mode = None;
    gathered
        .probes
        .retain(|record| record.src.cluster != 2 && record.dst.cluster != 2);
    let judged = look(&gathered);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Unknown);
    assert_eq!(judged.coverage.cells, 18);
    assert_eq!(judged.coverage.unobserved, 10);
    assert_eq!(judged.clusters[2].state, Observation::Unobserved);
    assert_eq!(
        judged.clusters[2].reason.as_deref(),
        Some("connection refused")
    );
    for cell in judged.cells() {
        let unknown = cell.src == "west" || cell.dst == "west";
        assert_eq!(cell.verdict == CellVerdict::Unknown, unknown, "{cell:?}");
    }
    assert_eq!(judged.unjudged.len(), 1);
}

#[test]
fn an_agent_that_dies_is_unknown_and_nothing_else() {
    let mut gathered = probed(three(), |_| {});
    let here = at(&gathered, "west/n2");
    gathered.clusters[here.cluster].nodes[here.node].pod_floater =
        Some("the pod is gone".to_owned());
    for record in &mut gathered.probes {
        if record.layer == Layer::Pod && record.src == here {
            forget(record, "the pod is gone");
        } else if record.layer == Layer::Pod && record.dst == here {
            lose(record);
        }
    }
    let judged = look(&gathered);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Unknown);
    // Its cluster's other node still answers for the cells.
    assert!(
        judged
            .cells()
            .all(|cell| cell.verdict == CellVerdict::Pass || cell.src == "west")
    );
    assert_eq!(judged.clusters[2].state, Observation::Partly);

    // Refused connections where echo requests are answered: the floaters alone are gone, where they say nothing any more themselves.
    let refused = |record: &mut orchestrator::evidence::ProbeRecord| {
        if record.layer == Layer::Pod && record.protocol == Protocol::Tcp && record.dst.cluster == 2
        {
            super::fleet::lose(record, Failure::Refused);
        }
    };
    let mut gathered = probed(three(), refused);
    for node in &mut gathered.clusters[2].nodes {
        node.pod_floater = Some("the pod is gone".to_owned());
    }
    assert_eq!(titles(&look(&gathered)), Vec::<String>::new());
    // While they answer their API, somebody else refuses for them.
    let judged = look(&probed(three(), refused));
    assert_eq!(
        titles(&judged),
        ["error L4-SELECTIVE-DROP at west/- cluster"]
    );
    assert!(only(&judged).ambiguous_with.contains(&"REJECT".into()));
}

#[test]
fn t11_an_ipv4_cluster_beside_dual_stack_ones() {
    let judged = judged(&mut healthy(&[
        gateway("east", BOTH),
        gateway("north", IPV4),
        p2p("west", BOTH),
    ]));
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
}

/// A run that judged nothing has found nothing healthy.
#[test]
fn what_nobody_has_is_unknown_and_says_so() {
    let globs = |text: &str| vec![text.into()];
    for (what, told) in [
        (
            What {
                sources: globs("nobody"),
                ..What::default()
            },
            "no two clusters match",
        ),
        (
            What {
                families: vec![Family::Ipv6],
                ..What::default()
            },
            "no two clusters match",
        ),
        (
            What {
                nodes: globs("nobody"),
                ..What::default()
            },
            "no node of cluster east is among those asked for",
        ),
    ] {
        let mut gathered = healthy(&[gateway("east", IPV4), p2p("west", IPV4)]);
        probe(&mut gathered, &what);
        let judged = diagnose(&gathered, &what);
        assert_eq!(judged.verdict, RunVerdict::Unknown);
        assert!(
            judged.unjudged[0].starts_with(told),
            "{:?}",
            judged.unjudged
        );
    }
}

#[test]
fn t20_nodes_of_equal_name_are_told_apart() {
    let mut gathered = three();
    tables(&mut gathered, "north/n1")
        .links
        .get_mut("vx-bridge")
        .expect("a tunnel")
        .up = false;
    tables(&mut gathered, "north/n1")
        .routes
        .retain(|row| row.table != 200);
    tables(&mut gathered, "north/n1")
        .neighbours
        .retain(|row| row.link != "vx-bridge");
    let judged = judged(&mut gathered);
    let finding = only(&judged);
    assert_eq!(finding.element.cluster.as_deref(), Some("north"));
    assert!(
        affected(&judged, finding)
            .iter()
            .all(|cell| cell.src == "north" || cell.dst == "north")
    );
}

#[test]
fn somebody_else_who_answers_is_a_finding() {
    let gathered = probed(three(), |record| {
        if record.layer == Layer::Pod
            && record.protocol == Protocol::Tcp
            && (record.dst.cluster, record.dst.node) == (2, 1)
        {
            super::fleet::lose(
                record,
                Failure::WrongIdentity {
                    answered: "elsewhere/n9".to_owned(),
                },
            );
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "WRONG-IDENTITY");
    assert_eq!(finding.element.kind.word(), "responder");
    assert_eq!(finding.element.node.as_deref(), Some("n2"));
    // What a stranger calls itself is not repeated.
    assert!(!format!("{finding:?}").contains("elsewhere"));
}

#[test]
fn one_protocol_alone_is_a_filter() {
    let gathered = probed(three(), |record| {
        if record.layer == Layer::Host
            && record.protocol == Protocol::Tcp
            && record.dst.cluster == 2
            && record.dst.node == 0
        {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "L4-SELECTIVE-DROP");
    assert_eq!(finding.severity, Severity::Error);
}

#[test]
fn packets_that_fail_against_all_tables_are_never_passed_over() {
    // Tunnels between two gateways are dropped on the way; every table is right.
    let gathered = probed(three(), |record| {
        let ends = (record.src.cluster, record.dst.cluster);
        if record.layer == Layer::Pod && (ends == (0, 2) || ends == (2, 0)) {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "TUNNEL-UDP-BLOCKED-ONEWAY");
    assert_eq!(finding.element.kind.word(), "underlay");
    assert_eq!(finding.element.cluster, None);
    assert!(!finding.ambiguous_with.is_empty());
    assert_eq!(judged.coverage.certificate.indistinguishable.len(), 1);

    // Everything to and from one gateway's tunnel.
    let gathered = probed(three(), |record| {
        let west = record.src.cluster == 2 || record.dst.cluster == 2;
        if record.layer == Layer::Pod && west && record.src.cluster != record.dst.cluster {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "TUNNEL-UDP-BLOCKED-HOST");
    assert_eq!(finding.element.cluster.as_deref(), Some("west"));
    assert_eq!(finding.element.node.as_deref(), Some("n1"));
}

#[test]
fn with_unreadable_tables_only_a_set_of_causes_is_told() {
    let mut gathered = healthy(&[
        gateway("east", BOTH),
        gateway("north", BOTH),
        gateway("west", BOTH),
    ]);
    probe(&mut gathered, &What::default());
    let here = at(&gathered, "west/n1");
    gathered.clusters[here.cluster].nodes[here.node].tables = Err("permission denied".to_owned());
    for record in &mut gathered.probes {
        let west = record.src.cluster == 2 || record.dst.cluster == 2;
        if record.layer == Layer::Pod
            && record.family == Family::Ipv6
            && west
            && record.src.cluster != record.dst.cluster
        {
            lose(record);
        }
    }
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "V6-ROUTE-MISSING");
    assert_eq!(finding.element.node.as_deref(), Some("n1"));
    assert!(finding.ambiguous_with.contains(&"FDB-MISSING".into()));
}

#[test]
fn a_cluster_that_nobody_reaches_is_one_finding_outside_of_it() {
    let gathered = probed(three(), |record| {
        let ends = (record.src.cluster == 2, record.dst.cluster == 2);
        if ends.0 != ends.1 {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "UNDERLAY-ARP-POISON");
    assert_eq!(finding.element.kind.word(), "underlay");
    assert_eq!(finding.element.name.as_str(), "west - all others");
    assert_eq!(finding.affects.len(), 8);
}

/// What one family loses is told by that family: the other one neither clears it nor is blamed with it.
#[test]
fn the_underlay_of_one_family_alone_is_one_finding() {
    for (place, is_lost) in [
        (
            "west - all others in ipv6",
            (|src, dst| (src == (2, 0) || src == (2, 1)) != (dst == (2, 0) || dst == (2, 1)))
                as fn((usize, usize), (usize, usize)) -> bool,
        ),
        ("west in ipv6", |src, dst| src.0 == 2 || dst.0 == 2),
        ("east/n1 - west/n2 in ipv6", |src, dst| {
            [(src, dst), (dst, src)].contains(&((0, 0), (2, 1)))
        }),
    ] {
        let mut gathered = healthy(&[gateway("east", BOTH), p2p("north", BOTH), p2p("west", BOTH)]);
        probe(&mut gathered, &What::default());
        for record in &mut gathered.probes {
            let ends = [record.src, record.dst].map(|at| (at.cluster, at.node));
            // What pods send between clusters crosses the gateways of those that have the mode.
            let over = [record.src, record.dst].map(|at| match (record.layer, at.cluster) {
                (Layer::Pod, 0) if record.src.cluster != record.dst.cluster => (0, 0),
                _ => (at.cluster, at.node),
            });
            if record.family == Family::Ipv6 && ends[0] != ends[1] && is_lost(over[0], over[1]) {
                lose(record);
            }
        }
        let judged = look(&gathered);
        let finding = only(&judged);
        assert_eq!(finding.code.word(), "UNDERLAY-ARP-POISON");
        assert_eq!(finding.element.name.as_str(), place);
        assert!(
            finding
                .affects
                .iter()
                .all(|cell| cell.family == Family::Ipv6)
        );
    }
}

#[test]
fn without_packets_on_the_underlay_it_is_not_accused() {
    let what = What {
        layers: vec![Layer::Pod],
        ..What::default()
    };
    let mut gathered = three();
    probe(&mut gathered, &what);
    for record in &mut gathered.probes {
        if (record.src.cluster == 2) != (record.dst.cluster == 2) {
            lose(record);
        }
    }
    let judged = diagnose(&gathered, &what);
    assert_eq!(only(&judged).code.word(), "TUNNEL-UDP-BLOCKED-HOST");
}

#[test]
fn a_gateway_that_only_its_own_cluster_reaches_is_one_finding() {
    let west = |node: orchestrator::evidence::NodeRef| (node.cluster, node.node) == (2, 0);
    let gathered = probed(three(), |record| {
        let abroad = record.src.cluster != record.dst.cluster;
        let on_it = west(record.src) || west(record.dst);
        let through = record.src.cluster == 2 || record.dst.cluster == 2;
        if abroad && (on_it || (record.layer == Layer::Pod && through)) {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "UNDERLAY-ARP-POISON");
    assert_eq!(finding.element.name.as_str(), "west/n1 - other clusters");
}

/// Claims that contradict each other are in the report: named, and with what could not be judged for them.
#[test]
fn clusters_of_one_id_are_a_finding_and_not_judged() {
    let mut gathered = probed(three(), |_| {});
    gathered.inventory_notes = vec![orchestrator::evidence::InventoryNote {
        code: orchestrator::report::Code::ClusterIdDuplicate,
        clusters: vec!["east".to_owned(), "west".to_owned()],
        text: "east and west report the same cluster id".into(),
    }];
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "CLUSTER-ID-DUPLICATE");
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.element.name.as_str(), "east, west");
    assert_eq!(judged.unjudged.len(), 1);
}

/// A node that its cluster calls not ready, or that no floater runs on and nobody plans for, is a reason and no fault.
#[test]
fn nodes_that_nobody_counts_on_are_reasons() {
    for ready in [false, true] {
        let mut gathered = probed(three(), |_| {});
        let here = at(&gathered, "west/n2");
        let reason = "it runs no kubelet";
        let node = &mut gathered.clusters[here.cluster].nodes[here.node];
        node.ready = ready;
        node.tables = Err(reason.to_owned());
        node.host_floater = Some(reason.to_owned());
        node.pod_floater = Some(reason.to_owned());
        if ready {
            // Leased from elsewhere: the datapath does not know it.
            gathered.intent.fleet.cluster_nodes.retain(|object| {
                (
                    object.spec.cluster_name.as_str(),
                    object.spec.node_name.as_str(),
                ) != ("west", "n2")
            });
        }
        for record in &mut gathered.probes {
            if record.src == here {
                forget(record, reason);
            } else if record.dst == here {
                lose(record);
            }
        }
        let judged = look(&gathered);
        assert!(
            judged
                .findings
                .iter()
                .all(|finding| finding.severity != Severity::Error
                    && finding.element.node.as_deref() != Some("n2")),
            "{:?}",
            titles(&judged)
        );
        assert_ne!(judged.verdict, RunVerdict::Fault);
        assert!(!judged.unjudged.is_empty());
    }
}

/// A link that takes less than the others and is silent about it: small packets and connections pass.
#[test]
fn large_packets_that_vanish_on_the_way_to_one_node_are_one_finding() {
    let gathered = probed(three(), |record| {
        // The answer is as large as the request.
        let crosses = [record.src, record.dst]
            .iter()
            .any(|at| (at.cluster, at.node) == (2, 1));
        if record.payload_bytes > 1000 && crosses {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "PMTU-BLACKHOLE");
    assert_eq!(finding.element.cluster.as_deref(), Some("west"));
    assert_eq!(finding.element.node.as_deref(), Some("n2"));
    assert!(finding.ambiguous_with.contains(&"L2-MTU-MISMATCH".into()));
}

/// What floaters of one cluster say of another's nodes is no proof against those as long as everybody else reaches them.
#[test]
fn one_cluster_s_word_does_not_accuse_the_nodes_of_another() {
    let gathered = probed(three(), |record| {
        if record.src.cluster == 0 && record.dst.cluster == 2 && record.protocol == Protocol::Tcp {
            let answered = "somebody".to_owned();
            super::fleet::lose(record, Failure::WrongIdentity { answered });
        }
    });
    let judged = look(&gathered);
    assert!(!judged.findings.is_empty());
    for finding in &judged.findings {
        assert_eq!(finding.code.word(), "WRONG-IDENTITY");
        assert_eq!(finding.element.cluster, None, "{:#?}", titles(&judged));
        assert!(finding.element.name.as_str().contains("from east to west"));
    }
}

/// A path that takes less and says so is in order: connections heed it.
#[test]
fn large_packets_that_a_node_on_the_way_refuses_in_words_are_no_fault() {
    for (kind, code) in [(3, 4), (2, 0)] {
        let gathered = probed(three(), |record| {
            if record.payload_bytes > 1000 && record.dst.cluster == 2 {
                let from = std::net::Ipv4Addr::new(100, 64, 0, 1).into();
                super::fleet::lose(record, Failure::IcmpError { from, kind, code });
            }
        });
        let judged = look(&gathered);
        assert!(judged.findings.is_empty(), "{:#?}", titles(&judged));
        assert_eq!(judged.verdict, RunVerdict::Healthy);
    }
}
