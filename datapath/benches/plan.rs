//! The planner's time over the number of nodes, in both modes. Gateway mode grows with clusters, P2P mode with the square of nodes.
#![allow(missing_docs, reason = "made by criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datapath::plan::plan;
use fleet::fleet;

#[path = "plan/fleet.rs"]
mod fleet;

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
