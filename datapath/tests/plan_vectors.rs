//! The planner against the other implementation's own output, and against permuted and broken input.
#![allow(clippy::expect_used, reason = "a test")]

#[path = "plan/check.rs"]
mod check;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use datapath::api::{Fleet, NodeConfigSpec};
use datapath::plan::{Plan, Planner, check, plan};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Vector {
    input: Fleet,
    expected: BTreeMap<String, NodeConfigSpec>,
}

fn vectors() -> Vec<(String, Vector)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut vectors: Vec<_> = fs::read_dir(folder)
        .expect("the folder of vectors")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("a readable vector");
            let vector = serde_json::from_str(&text).expect("a vector");
            (path.display().to_string(), vector)
        })
        .collect();
    vectors.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(vectors.len(), 16);
    vectors
}

fn assert_same(file: &str, plan: &Plan, expected: &BTreeMap<String, NodeConfigSpec>) {
    assert_eq!(
        plan.configs.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{file}"
    );
    for (name, config) in expected {
        // Byte order too, so that a config that the other side wrote is left alone.
        assert_eq!(&plan.configs[name], config, "{file}: {name}");
    }
}

#[test]
fn every_vector_is_met_in_content_and_order() {
    for (file, vector) in vectors() {
        assert_same(&file, &plan(&vector.input), &vector.expected);
    }
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    for (file, mut vector) in vectors() {
        vector.input.clusters.reverse();
        vector.input.cluster_nodes.rotate_left(1);
        vector.input.node_configs.reverse();
        assert_same(&file, &plan(&vector.input), &vector.expected);
    }
}

#[test]
fn a_node_at_a_time_is_the_same_as_all_at_once() {
    for (file, vector) in vectors() {
        let planner = Planner::of(&vector.input);
        assert!(planner.nodes().eq(vector.expected.keys()), "{file}");
        for (name, config) in &vector.expected {
            assert_eq!(
                planner.config(name).as_ref(),
                Some(config),
                "{file}: {name}"
            );
        }
        assert_eq!(planner.config("nobody"), None);
        assert_eq!(planner.objections(), check(&vector.input), "{file}");
    }
}

#[test]
fn macs_are_derived_where_none_is_lent_and_are_stable() {
    for (file, mut vector) in vectors() {
        vector.input.node_configs.clear();
        let first = plan(&vector.input);
        assert_eq!(first, plan(&vector.input), "{file}");
        for config in first.configs.values() {
            for device in &config.devices {
                let mac: datapath::mac::Mac = device.mac.parse().expect("a MAC");
                assert_eq!(mac.0[0], 2, "{file}: {mac}");
            }
        }
    }
}

#[test]
fn a_bad_object_harms_only_itself() {
    for (file, mut vector) in vectors() {
        let mut broken = vector.input.clusters[0].clone();
        broken.metadata.name = "broken".into();
        let options = broken.spec.cluster_link_options.get_or_insert_default();
        options.enable = true;
        options.ip_family = "all".into();
        options.bridge_cidrs.ip = "bogus".into();
        options.local_cidrs.ip6 = "10.0.0.0/8".into();
        options
            .global_cidrs_map
            .insert("nonsense".into(), "10.0.0.0/8".into());
        broken.status.cluster_link_status.pod_cidrs = vec!["300.1.2.3/8".into(), "x".into()];
        broken.status.cluster_link_status.service_cidrs = vec![String::new()];
        vector.input.clusters.push(broken);
        let template = vector.input.cluster_nodes[0].clone();
        for (name, ip, ip6) in [
            ("broken-n1", "not an address", "fd00::1"),
            ("broken-n2", "", ""),
        ] {
            let mut node = template.clone();
            node.metadata.name = name.into();
            node.spec.cluster_name = "broken".into();
            node.spec.ip = ip.into();
            node.spec.ip6 = ip6.into();
            node.spec.pod_cidrs = vec!["10.0.0.0/99".into()];
            vector.input.cluster_nodes.push(node);
        }
        let mut orphan = template.clone();
        orphan.metadata.name = "orphan".into();
        orphan.spec.cluster_name = "nobody".into();
        vector.input.cluster_nodes.push(orphan);

        let plan = plan(&vector.input);
        for object in [
            "cluster broken",
            "clusternode broken-n2",
            "clusternode orphan",
        ] {
            assert!(
                plan.objections
                    .iter()
                    .any(|objection| objection.at.object.to_string() == object),
                "{file}: {object} is not reported: {:?}",
                plan.objections
            );
        }
        // Peers of an IPv6 mesh may learn the broken cluster's good half; nothing of theirs goes away.
        for (name, config) in &vector.expected {
            let planned = &plan.configs[name];
            assert_eq!(planned.devices, config.devices, "{file}: {name}");
            assert_eq!(planned.routes, config.routes, "{file}: {name}");
            assert_eq!(planned.iptables, config.iptables, "{file}: {name}");
            for row in &config.fdbs {
                assert!(planned.fdbs.contains(row), "{file}: {name}: {row:?}");
            }
        }
    }
}

#[test]
fn two_gateways_give_one_and_a_problem() {
    let (_, mut vector) = vectors().remove(0);
    for node in &mut vector.input.cluster_nodes {
        node.spec.roles = vec!["Gateway".into()];
    }
    let plan = plan(&vector.input);
    let bridges = |cluster: &str| {
        plan.configs
            .iter()
            .filter(|(name, _)| name.starts_with(cluster))
            .filter(|(_, config)| {
                config
                    .devices
                    .iter()
                    .any(|device| device.name.starts_with("vx-bridge"))
            })
            .count()
    };
    assert_eq!(bridges("c0-"), 1);
    assert_eq!(bridges("c1-"), 1);
    assert!(
        plan.objections
            .iter()
            .any(|objection| objection.at.to_string() == "clusternode c0-n1 spec.roles")
    );
}

#[test]
fn shared_overlay_addresses_are_told() {
    let node = |cluster: &str, name: &str, ip: &str| {
        let roles: &[&str] = if name == "n1" { &["gateway"] } else { &[] };
        json!({"metadata": {"name": format!("{cluster}-{name}")}, "spec": {"clusterName": cluster, "nodeName": name, "ip": ip,
            "interfaceName": "eth0", "roles": roles}})
    };
    let cluster = |name: &str, pods: &str| {
        json!({"metadata": {"name": name}, "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4"}},
        "status": {"clusterLinkStatus": {"podCIDRs": [pods]}}})
    };
    let fleet = serde_json::from_value(json!({
        "clusters": [cluster("a", "10.20.0.0/16"), cluster("b", "10.21.0.0/16")],
        "clusterNodes": [
            node("a", "n1", "10.1.0.1"), node("a", "n2", "10.1.0.2"), node("a", "n3", "11.1.0.2"),
            // As a-n2 and a-n1, which matters for the gateways only.
            node("b", "n2", "12.1.0.2"), node("b", "n1", "12.1.0.1"),
        ],
    }))
    .expect("a fleet");
    let said: Vec<String> = check(&fleet).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "VTEP-IP-DUPLICATE clusternode a-n3 spec.ip: gives it the overlay address 210.1.0.2 on vx-local, which is also that of a-n2",
            "VTEP-IP-DUPLICATE clusternode b-n1 spec.ip: gives it the overlay address 220.1.0.1 on vx-bridge, which is also that of a-n1",
        ]
    );
}
