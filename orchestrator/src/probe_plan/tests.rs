//! Tests of the probe plan.

use super::*;
use datapath::state::NodeState;

fn seeded(seed: u64) -> What {
    What {
        seed,
        ..What::default()
    }
}

fn fleet(clusters: usize, nodes: usize) -> Vec<ClusterFacts> {
    (0..clusters)
        .map(|cluster| ClusterFacts {
            name: format!("c{cluster:03}"),
            id: format!("id-{cluster}"),
            mode: None,
            families: vec![Family::Ipv4],
            pod_prefixes: Vec::new(),
            plans_prefixes: true,
            mapped: Vec::new(),
            nodes: (0..nodes)
                .map(|node| NodeFacts {
                    name: format!("n{}", node + 1),
                    ips: vec![
                        format!("100.64.{cluster}.{}", node + 1)
                            .parse()
                            .expect("ip"),
                    ],
                    planned_ips: Vec::new(),
                    ready: true,
                    gateway: node == 0,
                    pod_ips: vec![format!("10.{cluster}.{node}.2").parse().expect("ip")],
                    tables: Ok(NodeState::default()),
                    differences: None,
                    nat_unread: None,
                    filters_unread: None,
                    host_floater: None,
                    pod_floater: None,
                })
                .collect(),
            unreachable: None,
        })
        .collect()
}

#[test]
fn a_small_fleet_is_probed_whole() {
    let probes = plan(&fleet(3, 2), &seeded(7)).probes;
    // 6 × 5 ordered pairs of nodes, two layers, two sizes of echoes and a connection.
    assert_eq!(probes.len(), 30 * 6);
    assert!(probes.is_sorted_by_key(|probe| (
        probe.src,
        probe.dst,
        probe.layer,
        probe.family,
        probe.protocol
    )));
}

#[test]
fn in_a_large_fleet_every_node_is_source_and_target_abroad() {
    for (clusters, nodes) in [(100, 2), (30, 40), (2, 60), (1, 50)] {
        let facts = fleet(clusters, nodes);
        let probes = plan(&facts, &seeded(7)).probes;
        assert_eq!(probes, plan(&facts, &seeded(7)).probes);
        for cluster in 0..clusters {
            for node in 0..nodes {
                let here = NodeRef { cluster, node };
                let abroad =
                    |probe: &&PlannedProbe| clusters == 1 || probe.src.cluster != probe.dst.cluster;
                assert!(probes.iter().filter(abroad).any(|probe| probe.src == here));
                assert!(probes.iter().filter(abroad).any(|probe| probe.dst == here));
            }
        }
    }
    let probes = plan(&fleet(100, 2), &seeded(7)).probes;
    assert!(probes.len() <= 11_000, "{}", probes.len());
    assert_ne!(probes, plan(&fleet(100, 2), &seeded(8)).probes);
}

#[test]
fn filters_leave_only_what_was_asked_for() {
    let facts = fleet(3, 2);
    let what = What {
        layers: vec![Layer::Host],
        protocols: vec![Protocol::Icmp],
        nodes: vec!["n2".into()],
        sources: vec!["c000".into()],
        destinations: vec!["c00[12]".into(), "c002".into()],
        ..What::default()
    };
    let probes = plan(&facts, &what).probes;
    let targets: Vec<String> = probes
        .iter()
        .map(|probe| probe.target.to_string())
        .collect();
    let sizes = [SMALL_BYTES, LARGE_BYTES];
    assert_eq!(
        targets,
        ["100.64.1.2", "100.64.1.2", "100.64.2.2", "100.64.2.2"]
    );
    let sent: Vec<u16> = probes.iter().map(|probe| probe.payload_bytes).collect();
    assert_eq!(sent, [sizes, sizes].concat());
    let none = What {
        families: vec![Family::Ipv6],
        ..What::default()
    };
    assert!(plan(&facts, &none).probes.is_empty());
    let tables = What {
        tables_only: true,
        ..What::default()
    };
    assert!(plan(&facts, &tables).probes.is_empty());
}

#[test]
fn a_floater_that_cannot_be_asked_asks_nobody() {
    let mut facts = fleet(2, 1);
    facts[0].nodes[0].pod_floater = Some("no pod".to_owned());
    let probes = plan(&facts, &What::default()).probes;
    let here = NodeRef {
        cluster: 0,
        node: 0,
    };
    assert!(
        !probes
            .iter()
            .any(|probe| probe.src == here && probe.layer == Layer::Pod)
    );
    // Its address is still asked, but nobody is expected to listen there.
    assert!(probes.iter().any(|probe| probe.dst == here
        && probe.layer == Layer::Pod
        && probe.protocol == Protocol::Icmp));
    assert!(!probes.iter().any(|probe| probe.dst == here
        && probe.layer == Layer::Pod
        && probe.protocol == Protocol::Tcp));
}

/// Addresses are claims: what no node of a fleet can have, or another cluster shows better, is sent nothing, and said.
#[test]
fn probes_go_to_no_address_that_is_not_the_cluster_s() {
    let what = What::default();
    for (layer, bad) in [
        (Layer::Host, "127.0.0.1"),
        (Layer::Host, "169.254.169.254"),
        (Layer::Host, "224.0.0.9"),
        (Layer::Pod, "255.255.255.255"),
        // A node of the first cluster, which its kernel has.
        (Layer::Host, "100.64.0.1"),
        (Layer::Pod, "100.64.0.1"),
        // Outside of the pods that are planned, and within another cluster's.
        (Layer::Pod, "198.51.100.1"),
        (Layer::Pod, "10.0.9.9"),
    ] {
        let mut facts = fleet(3, 2);
        for (at, cluster) in facts.iter_mut().enumerate() {
            let prefix = format!("10.{at}.0.0/16").parse().expect("a prefix");
            cluster.pod_prefixes.push(prefix);
        }
        let has = datapath::state::Address {
            link: "eth0".to_owned(),
            net: "100.64.0.1/32".parse().expect("a prefix"),
        };
        let tables = facts[0].nodes[0].tables.as_mut().expect("tables");
        tables.addresses.insert(has);
        let honest = plan(&facts, &what);
        assert_eq!(honest.refused, Vec::<String>::new());
        let bad: IpAddr = bad.parse().expect("an address");
        let node = &mut facts[2].nodes[1];
        match layer {
            Layer::Host => node.ips = vec![bad],
            Layer::Pod => node.pod_ips = vec![bad],
        }
        let plan = plan(&facts, &what);
        let towards = |probe: &&PlannedProbe| (probe.dst.cluster, probe.layer) == (2, layer);
        assert!(
            !plan
                .probes
                .iter()
                .filter(towards)
                .any(|probe| probe.target == bad),
            "{bad}"
        );
        // The one that makes the claim pays for it.
        let others = |plan: &ProbePlan| {
            plan.probes
                .iter()
                .filter(|probe| probe.dst.cluster != 2)
                .count()
        };
        assert_eq!(others(&plan), others(&honest));
        assert_eq!(plan.refused.len(), 1, "{:?}", plan.refused);
        assert!(plan.refused[0].contains(&bad.to_string()));
    }
}

/// A cluster that claims ten thousand nodes is asked no more than a bounded number of times, in a short time.
#[test]
fn a_cluster_of_ten_thousand_nodes_does_not_flood_the_others() {
    let mut facts = fleet(3, 2);
    let node = facts[2].nodes[0].clone();
    facts[2].nodes = (0..10_000)
        .map(|at| NodeFacts {
            name: format!("n{at:05}"),
            host_floater: Some("no floater".to_owned()),
            pod_floater: Some("no floater".to_owned()),
            ..node.clone()
        })
        .collect();
    let before = std::time::Instant::now();
    let plan = plan(&facts, &What::default());
    assert!(plan.probes.len() < 2_000, "{}", plan.probes.len());
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
}

#[test]
fn a_small_part_of_a_large_fleet_is_probed_whole() {
    let facts = fleet(100, 2);
    let what = What {
        sources: vec![Pattern::from(&*facts[3].name)],
        destinations: vec![Pattern::from(&*facts[71].name)],
        ..What::default()
    };
    let probes = plan(&facts, &what).probes;
    let pairs: std::collections::BTreeSet<_> =
        probes.iter().map(|probe| (probe.src, probe.dst)).collect();
    assert_eq!(pairs.len(), 4, "{pairs:?}");
    assert!(
        probes
            .iter()
            .all(|probe| (probe.src.cluster, probe.dst.cluster) == (3, 71))
    );
}
