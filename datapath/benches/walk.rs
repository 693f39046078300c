//! The time of one walk over the number of clusters, which it should not depend on, and of putting a gateway's tables into a world.
#![allow(missing_docs, reason = "made by criterion's macros")]

use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use datapath::nodeconfig::desired;
use datapath::plan::plan;
use datapath::state::NodeState;
use datapath::walk::{End, Packet, World, round_trip, verdict};
use fleet::fleet;
use serde_json::json;

#[path = "plan/fleet.rs"]
mod fleet;

/// What a node's observation lends to its plan.
fn bare(ip: &str) -> NodeState {
    let text = json!({
        "links": [{"name": "eth0", "index": 2, "mac": null, "mtu": 1500, "up": true, "carrier": true, "kind": {"kind": "veth"}}],
        "addresses": [{"link": "eth0", "net": format!("{ip}/10")}],
    });
    match serde_json::from_value(text) {
        Ok(state) => state,
        Err(error) => panic!("the state is one: {error}"),
    }
}

fn planned(clusters: usize) -> Vec<(String, NodeState)> {
    let fleet = fleet("gateway", clusters, 2);
    let plan = plan(&fleet);
    let nodes = fleet.cluster_nodes.iter();
    nodes
        .filter_map(|node| {
            let config = plan.configs.get(&node.metadata.name)?;
            let state = desired(config, &bare(&node.spec.ip)).0;
            Some((node.metadata.name.clone(), state))
        })
        .collect()
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    group.sample_size(20);
    // From an internal node through two gateways.
    let packet = Packet::udp(
        IpAddr::from([10, 0, 1, 9]),
        IpAddr::from([10, 7, 1, 9]),
        8889,
    );
    for clusters in [10, 50, 200] {
        let tables = planned(clusters);
        let mut world = World::new();
        world.assume_underlay(true);
        for (name, state) in &tables {
            world.insert_from(name.as_str(), state);
        }
        let end = verdict(&world, "c0-n1", None, packet);
        assert!(
            matches!(&end, End::Left { node, .. } if node == "c7-n0"),
            "{end}"
        );
        group.bench_function(BenchmarkId::new("verdict", clusters), |bencher| {
            bencher.iter(|| verdict(&world, "c0-n1", None, packet));
        });
        group.bench_function(BenchmarkId::new("round_trip", clusters), |bencher| {
            bencher.iter(|| round_trip(&world, "c0-n1", None, packet));
        });
        let gateway = &tables[0].1;
        group.bench_function(BenchmarkId::new("insert", clusters), |bencher| {
            bencher.iter(|| world.insert_from("c0-n0", gateway));
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
