//! The planner's time over the number of nodes, in both modes. Gateway mode grows with clusters, P2P mode with the square of nodes.
#![allow(missing_docs, reason = "made by criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datapath::api::Fleet;
use datapath::plan::plan;
use serde_json::json;

fn fleet(mode: &str, clusters: usize, nodes: usize) -> Fleet {
    let mut cluster_rows = Vec::new();
    let mut node_rows = Vec::new();
    for cluster in 0..clusters {
        let (high, low) = (cluster / 256, cluster % 256);
        cluster_rows.push(json!({"metadata": {"name": format!("c{cluster}")},
            "spec": {"clusterLinkOptions": {"networkType": mode, "ipFamily": "ipv4"}},
            "status": {"clusterLinkStatus": {"podCIDRs": [format!("{}.{low}.0.0/16", 10 + high)], "serviceCIDRs": []}}}));
        for node in 0..nodes {
            let roles: &[&str] = if node == 0 { &["gateway"] } else { &[] };
            node_rows.push(json!({"metadata": {"name": format!("c{cluster}-n{node}")}, "spec": {
                "clusterName": format!("c{cluster}"), "nodeName": format!("n{node}"), "interfaceName": "eth0", "roles": roles,
                "ip": format!("100.{}.{low}.{}", 64 + high, node + 1),
                "podCIDRs": [format!("{}.{low}.{node}.0/24", 10 + high)]}}));
        }
    }
    match serde_json::from_value(json!({"clusters": cluster_rows, "clusterNodes": node_rows})) {
        Ok(fleet) => fleet,
        Err(error) => panic!("the fleet is one: {error}"),
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    for (mode, clusters, nodes) in [
        ("gateway", 10, 10),
        ("gateway", 100, 2),
        ("gateway", 300, 2),
        ("p2p", 2, 50),
        ("p2p", 2, 100),
    ] {
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

criterion_group!(all, benches);
criterion_main!(all);
