//! What is planned is walked: over the planned tables of a fleet in both modes, every pod reaches every other cluster's pods
//! and the answers find back.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

use std::net::IpAddr;

use datapath::api::Fleet;
use datapath::nodeconfig::desired;
use datapath::plan::plan;
use datapath::state::{Address, Family, Link, LinkKind, NodeState};
use datapath::walk::{self, End, Packet, World};
use serde_json::{Value, json};

const NODES: usize = 3;

/// Whether a cluster has gateways: every other one.
fn by_gateway(cluster: usize) -> bool {
    cluster.is_multiple_of(2)
}

fn underlay(cluster: usize, node: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::Ipv4 => format!("100.64.{cluster}.{}", node + 1),
        Family::Ipv6 => format!("fd64:{cluster}::{}", node + 1),
    };
    text.parse().expect("an address")
}

fn prefix(cluster: usize, node: usize, family: Family) -> String {
    match family {
        Family::Ipv4 => format!("10.{cluster}.{node}.0/24"),
        Family::Ipv6 => format!("fd10:{cluster}:{node}::/64"),
    }
}

fn pod(cluster: usize, node: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::Ipv4 => format!("10.{cluster}.{node}.9"),
        Family::Ipv6 => format!("fd10:{cluster}:{node}::9"),
    };
    text.parse().expect("an address")
}

fn name(cluster: usize, node: usize) -> String {
    format!("c{cluster}-n{node}")
}

fn fleet(count: usize) -> Fleet {
    let mut clusters = Vec::new();
    let mut nodes: Vec<Value> = Vec::new();
    for cluster in 0..count {
        let mode = if by_gateway(cluster) {
            "gateway"
        } else {
            "p2p"
        };
        clusters.push(json!({
            "metadata": {"name": format!("c{cluster}")},
            "spec": {"clusterLinkOptions": {
                "networkType": mode, "ipFamily": "all",
                "bridgeCIDRs": {"ip": "220.0.0.0/8", "ip6": "9470::/16"},
                "localCIDRs": {"ip": "210.0.0.0/8", "ip6": "9480::/16"},
            }},
            "status": {"clusterLinkStatus": {
                "podCIDRs": [format!("10.{cluster}.0.0/16"), format!("fd10:{cluster}::/32")],
                "serviceCIDRs": [],
            }},
        }));
        for node in 0..NODES {
            nodes.push(json!({
                "metadata": {"name": name(cluster, node)},
                "spec": {
                    "clusterName": format!("c{cluster}"), "nodeName": format!("n{node}"),
                    "ip": underlay(cluster, node, Family::Ipv4), "ip6": underlay(cluster, node, Family::Ipv6),
                    "interfaceName": "eth0", "roles": if node == 0 { json!(["gateway"]) } else { json!([]) },
                    "podCIDRs": [prefix(cluster, node, Family::Ipv4), prefix(cluster, node, Family::Ipv6)],
                },
            }));
        }
    }
    serde_json::from_value(json!({"clusters": clusters, "clusterNodes": nodes})).expect("a fleet")
}

/// What a node lends to its plan.
fn bare(cluster: usize, node: usize) -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: "eth0".to_owned(),
        index: 2,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 0 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    for (family, length) in [(Family::Ipv4, 10), (Family::Ipv6, 16)] {
        let ip = underlay(cluster, node, family);
        state.addresses.insert(Address {
            link: "eth0".to_owned(),
            net: ipnet::IpNet::new(ip, length).expect("a length"),
        });
    }
    state
}

fn planned(count: usize) -> World {
    let plan = plan(&fleet(count));
    assert_eq!(plan.objections, []);
    let mut world = World::new();
    world.assume_underlay(true);
    for cluster in 0..count {
        for node in 0..NODES {
            let (state, problems) =
                desired(&plan.configs[&name(cluster, node)], &bare(cluster, node));
            assert_eq!(problems, []);
            world.insert(name(cluster, node), state);
        }
    }
    world
}

#[test]
fn every_planned_path_leads_there_and_back() {
    let count = 6;
    let world = planned(count);
    // Where a plan ends: at the gateway of a cluster that has one, since the rest is that cluster's own network.
    let edge =
        |cluster: usize, node: usize| name(cluster, if by_gateway(cluster) { 0 } else { node });
    for family in [Family::Ipv4, Family::Ipv6] {
        for src in 0..count * NODES {
            for dst in 0..count * NODES {
                let (from, to) = ((src / NODES, src % NODES), (dst / NODES, dst % NODES));
                if from.0 == to.0 {
                    continue;
                }
                let packet =
                    Packet::udp(pod(from.0, from.1, family), pod(to.0, to.1, family), 8889);
                let (asked, answered) =
                    walk::round_trip(&world, &name(from.0, from.1), None, packet);
                let answered = answered.unwrap_or_else(|| panic!("{asked}"));
                for (walk, (cluster, node)) in [(&asked, to), (&answered, from)] {
                    assert!(
                        matches!(&walk.end, End::Left { node: at, link, .. }
                            if *at == edge(cluster, node) && link.is_empty()),
                        "{walk}"
                    );
                }
            }
        }
    }
}
