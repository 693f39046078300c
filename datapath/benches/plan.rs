//! The planner over the number of clusters of two nodes each: building, one change, one node's rows; the digest that is expected of a
//! node; the walk of a pair over layered nodes. All NodeConfigs of a fleet together are quadratic, so that there are few of them here.
#![allow(missing_docs, reason = "made by criterion's macros")]

use std::net::IpAddr;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datapath::api::{Cluster, Fleet};
use datapath::digest::{Digester, Expected, Key, Scope, bits_for};
use datapath::plan::{Change, Planner, plan};
use datapath::state::{Address, Link, LinkKind, NodeState};
use datapath::walk::{End, Layer, Packet, World, round_trip};
use fleet::fleet;

#[path = "plan/fleet.rs"]
mod fleet;

/// The numbers of clusters; a run that only tries the benches out takes the smallest.
fn sizes() -> &'static [usize] {
    if std::env::args().any(|word| word == "--test") {
        &[100]
    } else {
        &[100, 300, 1000, 5000]
    }
}

/// A cluster in the middle of a fleet that has another prefix now.
fn changed(fleet: &Fleet) -> [Cluster; 2] {
    let before = fleet.clusters[fleet.clusters.len() / 2].clone();
    let mut after = before.clone();
    after.status.cluster_link_status.pod_cidrs = vec!["192.168.0.0/16".to_owned()];
    [before, after]
}

fn planner(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planner");
    group.sample_size(20);
    for &size in sizes() {
        let fleet = fleet("gateway", size, 2);
        let (gateway, internal) = ("c0-n0", "c0-n1");
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter_batched(|| (), |()| Planner::of(&fleet), BatchSize::PerIteration);
        });
        let mut planner = Planner::of(&fleet);
        let mut turns = changed(&fleet).into_iter().cycle();
        group.bench_function(BenchmarkId::new("change", size), |bencher| {
            let turn = || turns.next().map(Change::ClusterSet);
            bencher.iter_batched(
                turn,
                |turn| turn.map(|turn| planner.apply(turn)),
                BatchSize::PerIteration,
            );
        });
        for (class, node) in [("gateway rows", gateway), ("internal rows", internal)] {
            group.bench_function(BenchmarkId::new(class, size), |bencher| {
                bencher.iter(|| planner.rows(node).map(Iterator::count));
            });
        }
        group.bench_function(BenchmarkId::new("config", size), |bencher| {
            bencher.iter(|| planner.config(gateway));
        });
        group.bench_function(BenchmarkId::new("objections", size), |bencher| {
            bencher.iter(|| planner.objections());
        });
        let bits = bits_for(planner.rows(gateway).map_or(0, Iterator::count));
        let digester = Digester::new(Key([5; 16]), Scope::Tables, bits);
        group.bench_function(BenchmarkId::new("all sums", size), |bencher| {
            bencher.iter(|| Expected::new(&planner, digester));
        });
        let mut expected = Expected::new(&planner, digester);
        group.bench_function(BenchmarkId::new("gateway digest", size), |bencher| {
            bencher.iter(|| expected.of(gateway));
        });
        let Some((state, _)) = planner.desired(gateway, &bare("100.64.0.1")) else {
            panic!("the gateway takes part");
        };
        group.bench_function(BenchmarkId::new("observed digest", size), |bencher| {
            bencher.iter(|| digester.of(&state));
        });
    }
    group.finish();
}

/// What a node's observation lends to its plan.
fn bare(ip: &str) -> NodeState {
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
    match format!("{ip}/10").parse() {
        Ok(net) => drop(state.addresses.insert(Address {
            link: "eth0".to_owned(),
            net,
        })),
        Err(error) => panic!("an address: {error}"),
    }
    state
}

fn layered(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layered walk");
    group.sample_size(20);
    // From an internal node through two gateways.
    let packet = Packet::udp(
        IpAddr::from([10, 0, 1, 9]),
        IpAddr::from([10, 7, 1, 9]),
        8889,
    );
    for &size in sizes() {
        let fleet = fleet("gateway", size, 2);
        let planner = Arc::new(Planner::of(&fleet));
        let mut world = World::new();
        world.assume_underlay(true);
        for object in &fleet.cluster_nodes {
            let node = object.metadata.name.as_str();
            let own = planner.desired_own(node, &bare(&object.spec.ip));
            if let (Some((own, _)), Some(layer)) = (own, Layer::new(&planner, node)) {
                // Of a node of which only the plan is known, the underlay is a matter of trust.
                let mut own = own;
                own.links.retain(|link| link.name != "eth0");
                world.insert_layered(node, &own, layer);
            }
        }
        let (asked, _) = round_trip(&world, "c0-n1", None, packet);
        assert!(
            matches!(&asked.end, End::Left { node, .. } if node == "c7-n0"),
            "{asked}"
        );
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| round_trip(&world, "c0-n1", None, packet));
        });
    }
    group.finish();
}

fn configs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    for (mode, clusters, nodes) in [("gateway", 10, 10), ("gateway", 100, 2), ("p2p", 2, 50)] {
        let fleet = fleet(mode, clusters, nodes);
        let rows: usize = plan(&fleet)
            .configs
            .values()
            .map(|config| config.routes.len() + config.fdbs.len() + config.arps.len())
            .sum();
        group.throughput(Throughput::Elements(rows as u64));
        let name = BenchmarkId::new(mode, format!("{clusters}x{nodes}"));
        group.bench_with_input(name, &fleet, |bencher, fleet| bencher.iter(|| plan(fleet)));
    }
    group.finish();
}

criterion_group!(all, planner, layered, configs);
criterion_main!(all);
