//! The time of a comparison over the number of peers: of equal states, which is what an agent does all day, and of a new node.
#![allow(missing_docs, reason = "made by criterion's macros")]

use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datapath::diff::diff;
use datapath::mac::Mac;
use datapath::state::{Fdb, Neighbour, NeighbourState, NextHop, NodeState, Route, RouteKind};
use ipnet::IpNet;

fn state(peers: u16) -> NodeState {
    let mut state = NodeState::default();
    for peer in 0..peers {
        let [high, low] = peer.to_be_bytes();
        let overlay = IpAddr::from([220, 64, high, low]);
        let mac = Mac([2, 0, 0, 0, high, low]);
        for mac in [Mac::ZERO, mac] {
            state.fdb.insert(Fdb {
                link: "vx-bridge".into(),
                mac,
                dst: Some(IpAddr::from([100, 64, high, low])),
                permanent: true,
            });
        }
        state.neighbours.insert(Neighbour {
            link: "vx-bridge".into(),
            ip: overlay,
            mac: Some(mac),
            state: NeighbourState::Permanent,
        });
        let Ok(dst) = IpNet::new(IpAddr::from([10, high, low, 0]), 24) else {
            continue;
        };
        state.routes.insert(Route {
            table: 200,
            dst,
            metric: 0,
            kind: RouteKind::Unicast,
            hops: vec![NextHop {
                via: Some(overlay),
                link: "vx-bridge".into(),
                onlink: true,
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: 3,
            mtu: None,
        });
    }
    state
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("diff");
    group.sample_size(20);
    let empty = NodeState::default();
    for peers in [10, 100, 1000, 5000] {
        let full = state(peers);
        group.throughput(Throughput::Elements(u64::from(peers)));
        group.bench_with_input(BenchmarkId::new("equal", peers), &full, |bencher, full| {
            bencher.iter(|| diff(full, full));
        });
        group.bench_with_input(BenchmarkId::new("new", peers), &full, |bencher, full| {
            bencher.iter(|| diff(full, &empty));
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
