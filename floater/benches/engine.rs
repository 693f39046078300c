//! What the probe machine costs a packet: sent, stamped, answered, judged. The network answers at once.

#![allow(
    missing_docs,
    reason = "criterion's macro makes an undocumented function"
)]

use std::net::IpAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floater::session::{Command, Input, Limits, Session};
use floater::stats::merge;
use floater::wire::{Plan, Probe, Protocol, Rtt};

fn plan(probes: u32) -> Plan {
    Plan {
        version: 2,
        run: "bench".to_owned(),
        budget_pps: u32::MAX,
        timeout_ms: 1000,
        ports: Vec::new(),
        probes: (0..probes)
            .map(|id| Probe {
                id,
                dst: IpAddr::from([10, (id >> 16) as u8, (id >> 8) as u8, id as u8]),
                protocol: Protocol::Icmp,
                port: 0,
                count: 3,
                payload_bytes: 56,
                timeout_ms: None,
                expect: None,
            })
            .collect(),
    }
}

/// Runs a plan in virtual time: how many packets it sent.
fn run(plan: &Plan) -> u64 {
    let limits = Limits {
        icmp4_bytes: 1 << 21,
        icmp6_bytes: 1 << 21,
        connections: 1,
        secret: 1,
    };
    let wall = Duration::from_secs(1_700_000_000);
    let mut session = Session::new(plan, limits);
    let mut now = Duration::ZERO;
    let mut answers = Vec::new();
    while let Some(deadline) = session.deadline(now) {
        now = now.max(deadline);
        session.wake(now);
        for input in answers.drain(..) {
            session.handle(now, input);
        }
        while let Some(command) = session.poll(now) {
            if let Command::Echo {
                token, cookie, dst, ..
            } = command
            {
                session.handle(
                    now,
                    Input::Sending {
                        token,
                        at: wall + now,
                    },
                );
                answers.push(Input::Transmitted {
                    token,
                    cookie,
                    at: wall + now,
                });
                answers.push(Input::Reply {
                    token,
                    cookie,
                    from: dst,
                    received: Some(wall + now),
                });
            }
        }
        while session.event(now).is_some() {}
    }
    session.counts().replies
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    for probes in [10_u32, 100, 1000, 5000] {
        let plan = plan(probes);
        assert_eq!(
            run(&plan),
            u64::from(probes) * 3,
            "every packet is answered"
        );
        group.throughput(Throughput::Elements(u64::from(probes) * 3));
        group.bench_with_input(
            BenchmarkId::from_parameter(probes),
            &plan,
            |bencher, plan| {
                bencher.iter(|| run(plan));
            },
        );
    }
    group.finish();
}

fn statistics(criterion: &mut Criterion) {
    let parts: Vec<Rtt> = (0..100_u64)
        .filter_map(|probe| Rtt::of((0..10).map(|sample| 200 + probe * 7 + sample * 31)))
        .collect();
    let mut group = criterion.benchmark_group("stats");
    group.throughput(Throughput::Elements(parts.len() as u64));
    group.bench_function("merge", |bencher| bencher.iter(|| merge(&parts)));
    group.finish();
}

criterion_group!(engine, session, statistics);
criterion_main!(engine);
