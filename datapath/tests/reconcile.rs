//! Reconciliation over the kernel in memory: every NodeConfig of the vectors, and what the kernel refuses.
#![allow(clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

use datapath::api::{Fleet, NodeConfigSpec};
use datapath::diff::{Change, ChangeSet};
use datapath::mac::Mac;
use datapath::memory::MemoryKernel;
use datapath::nodeconfig::TUNNELS;
use datapath::reconcile::{Kernel, reconcile};
use datapath::state::{
    Address, Fdb, Link, LinkKind, Neighbour, NeighbourState, NodeState, Row, Sysctl,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    input: Fleet,
    expected: BTreeMap<String, NodeConfigSpec>,
}

fn vectors() -> impl Iterator<Item = Vector> {
    (1..=16).map(|number| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let text = std::fs::read_to_string(folder.join(format!("{number:03}.json")));
        serde_json::from_str(&text.expect("a vector")).expect("a vector")
    })
}

/// A node as it is before the datapath comes: its underlay link with the addresses of its ClusterNode.
fn bare(interface: &str, addresses: &[&str]) -> MemoryKernel {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: interface.into(),
        index: 2,
        mac: Some(Mac([2, 0, 0, 0, 0, 2])),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 9 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    for address in addresses.iter().filter(|address| !address.is_empty()) {
        state.addresses.insert(Address {
            link: interface.into(),
            net: address
                .parse::<std::net::IpAddr>()
                .expect("an address")
                .into(),
        });
    }
    MemoryKernel::new(state)
}

#[test]
fn every_config_of_every_vector_is_made_verified_and_withdrawn() {
    let mut configs = 0;
    for vector in vectors() {
        for node in &vector.input.cluster_nodes {
            let Some(config) = vector.expected.get(&node.metadata.name) else {
                continue;
            };
            configs += 1;
            let spec = &node.spec;
            let mut kernel = bare(&spec.interface_name, &[&spec.ip, &spec.ip6]);
            let before = kernel.state().clone();
            let done = reconcile(&mut kernel, config).expect("an observation");
            assert_eq!(done.problems, [], "{}", node.metadata.name);
            assert!(done.left.is_empty(), "{}", done.left);
            let state = kernel.state();
            assert_eq!(state.links.len(), config.devices.len() + 1);
            assert_eq!(state.routes.len(), config.routes.len());
            assert_eq!(state.fdb.len(), config.fdbs.len());
            assert_eq!(state.neighbours.len(), config.arps.len());
            assert_eq!(state.nat.len(), config.iptables.len());
            let again = reconcile(&mut kernel, config).expect("an observation");
            assert!(again.applied.is_empty(), "{}", again.applied);

            let gone = reconcile(&mut kernel, &NodeConfigSpec::default()).expect("an observation");
            assert!(gone.left.is_empty());
            let state = kernel.state();
            assert_eq!(
                (&state.links, &state.addresses),
                (&before.links, &before.addresses)
            );
            assert!(state.routes.is_empty() && state.nat.is_empty() && state.rules.is_empty());
        }
    }
    assert!(configs > 100, "{configs}");
}

#[test]
fn what_the_kernel_refuses_is_a_problem_and_shows_in_what_is_left() {
    let vector = vectors().next().expect("a vector");
    let (name, config) = vector.expected.iter().next().expect("a config");
    let node = vector
        .input
        .cluster_nodes
        .iter()
        .find(|node| &node.metadata.name == name)
        .expect("its node");
    let spec = &node.spec;
    let kernel = bare(&spec.interface_name, &[&spec.ip, &spec.ip6]);

    /// Refuses every link, as a kernel without VXLAN does.
    struct Poor(MemoryKernel);
    impl Kernel for Poor {
        fn observe(&mut self) -> Result<NodeState, datapath::error::Error> {
            self.0.observe()
        }
        fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<datapath::error::Error>> {
            let is_link = |change: &Change| matches!(change.row(), Row::Link(_));
            let (links, rest): (Vec<_>, Vec<_>) = set.changes.iter().cloned().partition(is_link);
            let refusal = |change: &Change| {
                let name = datapath::diff::name_of(change.row());
                datapath::error::Error::kernel("add", format!("link {name}"), 95)
            };
            let mut errors: Vec<_> = links.iter().map(refusal).collect();
            errors.extend(
                self.0
                    .apply(&ChangeSet { changes: rest })
                    .err()
                    .unwrap_or_default(),
            );
            Err(errors)
        }
    }
    let done = reconcile(&mut Poor(kernel), config).expect("an observation");
    assert!(!done.left.is_empty());
    let problem = &done.problems[0];
    assert!(
        TUNNELS
            .iter()
            .any(|tunnel| problem.object == format!("link {tunnel}"))
    );
    assert!(problem.rule.contains("os error 95"), "{problem}");
}

#[test]
fn refusals_have_the_kernels_numbers_and_spare_the_rest() {
    let mut kernel = bare("eth0", &["100.64.0.1"]);
    let link = kernel.state().links.get("eth0").expect("a link").clone();
    let neighbour = |link: &str| {
        Row::Neighbour(Neighbour {
            link: link.into(),
            ip: "220.0.0.1".parse().expect("an address"),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            state: NeighbourState::Permanent,
        })
    };
    let flood = |link: &str| {
        Row::Fdb(Fdb {
            link: link.into(),
            mac: Mac::ZERO,
            dst: Some("100.64.0.2".parse().expect("an address")),
            permanent: true,
        })
    };
    let setting = |name: &str| {
        Row::Sysctl(Sysctl {
            name: name.into(),
            value: 1,
        })
    };
    let errors = kernel
        .apply(&ChangeSet {
            changes: vec![
                Change::Add(Row::Link(link)),
                Change::Add(neighbour("vx-bridge")),
                Change::Add(setting("net.ipv4.conf.vx-bridge.forwarding")),
                Change::Add(neighbour("eth0")),
                Change::Add(setting("net.ipv4.conf.eth0.forwarding")),
                // Gone already is no failure.
                Change::Remove(flood("vx-bridge")),
                Change::Remove(flood("eth0")),
            ],
        })
        .expect_err("three cannot be");
    assert_eq!(errors.len(), 3);
    assert!(errors[0].is_already_there());
    assert!(errors[1].is_already_gone() && errors[2].is_already_gone());
    assert!(!errors.iter().any(datapath::error::Error::is_retryable));
    assert_eq!(
        errors[1].problem().to_string(),
        "neighbour 220.0.0.1 dev vx-bridge: cannot add neighbour 220.0.0.1 dev vx-bridge: No such device (os error 19)"
    );
    assert_eq!(kernel.state().neighbours.len(), 1);
    assert_eq!(kernel.state().sysctls.len(), 1);
}
