//! From evidence to findings: healthy fleets, every cause, and what must not be mistaken for one.
#![allow(missing_docs, reason = "a test")]

#[path = "diagnose/faults.rs"]
mod faults;
#[path = "diagnose/filters.rs"]
mod filters;
#[path = "diagnose/fleet.rs"]
mod fleet;
#[path = "../benches/diagnose/node.rs"]
mod node;
#[path = "diagnose/objects.rs"]
mod objects;
#[path = "diagnose/own.rs"]
mod own;
#[path = "diagnose/random.rs"]
mod random;
#[path = "diagnose/reports.rs"]
mod reports;
#[path = "diagnose/scale.rs"]
mod scale;
#[path = "diagnose/traps.rs"]
mod traps;
#[path = "diagnose/tunnels.rs"]
mod tunnels;

use fleet::{BOTH, IPV4, IPV6, Spec, gateway, healthy, judged, many, p2p, titles};
use floater::wire::Layer;
use orchestrator::diagnose::diagnose;
use orchestrator::probe_plan::What;
use orchestrator::report::{CellState, CellVerdict, RunVerdict};

#[test]
fn healthy_fleets_have_no_finding() {
    let fleets: [&[Spec]; 7] = [
        &[
            gateway("east", IPV4),
            gateway("north", IPV4),
            gateway("west", IPV4),
        ],
        &[p2p("east", IPV4), p2p("west", IPV4)],
        &[gateway("east", IPV6), gateway("west", IPV6)],
        &[
            gateway("east", BOTH),
            p2p("north", BOTH),
            gateway("west", IPV4),
        ],
        &[p2p("east", BOTH), p2p("west", IPV6)],
        &[gateway("alone", IPV4)],
        &[
            Spec {
                nodes: 1,
                ..gateway("east", IPV4)
            },
            Spec {
                nodes: 3,
                ..p2p("west", BOTH)
            },
        ],
    ];
    for specs in fleets {
        let judged = judged(&mut healthy(specs));
        assert_eq!(titles(&judged), Vec::<String>::new());
        assert_eq!(judged.verdict, RunVerdict::Healthy, "{:?}", judged.unjudged);
        assert_eq!(judged.coverage.probed, judged.coverage.cells);
        assert_eq!(
            judged.coverage.ordered_pairs,
            specs.len() * (specs.len() - 1)
        );
        assert!(judged.cells().all(|cell| cell.verdict == CellVerdict::Pass));
    }
}

#[test]
fn a_pair_is_judged_in_the_families_that_both_have() {
    let judged = judged(&mut healthy(&[
        gateway("east", BOTH),
        gateway("west", IPV4),
    ]));
    let names: Vec<String> = judged.cells().map(|cell| cell.name().to_string()).collect();
    assert_eq!(names.len(), 4 + 2 + 2 + 2, "{names:?}");
    assert!(names.contains(&"east -> east pod ipv6".to_owned()));
    assert!(!names.contains(&"east -> west pod ipv6".to_owned()));
}

#[test]
fn mapped_prefixes_are_reached_by_their_names_outside() {
    let mut gathered = healthy(&[
        Spec {
            map: &[("10.20.0.0/16", "10.210.0.0/16")],
            ..gateway("east", IPV4)
        },
        gateway("north", IPV4),
        gateway("west", IPV4),
    ]);
    let judged = judged(&mut gathered);
    assert!(
        gathered
            .probes
            .iter()
            .any(|probe| probe.target.to_string() == "10.210.1.2")
    );
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
    let nat = fleet::tables(&mut gathered, "east/n1");
    nat.nat
        .retain(|row| !matches!(row, datapath::state::Nat::Netmap { .. }));
    let judged = fleet::judged(&mut gathered);
    let finding = fleet::only(&judged);
    assert_eq!(finding.code.word(), "NAT-MISSING");
    assert!(
        fleet::affected(&judged, finding)
            .iter()
            .all(|cell| cell.src == "east" || cell.dst == "east")
    );
    assert!(!finding.affects.is_empty());
}

#[test]
fn tables_alone_judge_too() {
    let what = What {
        tables_only: true,
        ..What::default()
    };
    let gathered = healthy(&[gateway("east", BOTH), p2p("west", BOTH)]);
    let judged = diagnose(&gathered, &what);
    fleet::consistent(&gathered, &judged);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(
        judged.coverage.inferred, judged.coverage.cells,
        "{:#?}",
        judged.cells
    );
    assert_eq!(judged.verdict, RunVerdict::Healthy);
}

#[test]
fn a_large_fleet_is_proved_where_it_is_not_probed() {
    let mut gathered = many(100, gateway("c", IPV4));
    let before = std::time::Instant::now();
    fleet::probe(&mut gathered, &What::default());
    println!(
        "{} probes simulated in {:?}",
        gathered.probes.len(),
        before.elapsed()
    );
    let before = std::time::Instant::now();
    let judged = diagnose(&gathered, &What::default());
    println!("judged in {:?}", before.elapsed());
    fleet::consistent(&gathered, &judged);
    assert_eq!(titles(&judged), Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy, "{:?}", judged.unjudged);
    assert_eq!(judged.coverage.cells, 100 * 100 * 2);
    assert!(
        judged.coverage.proved > 15_000,
        "{:?}",
        judged.coverage.proved
    );
    assert_eq!(judged.coverage.unobserved, 0);
}

#[test]
fn one_row_of_a_large_fleet_is_found_and_breaks_cells_that_were_not_probed() {
    let mut gathered = many(100, gateway("c", IPV4));
    let route = fleet::pods(61, None, datapath::state::Family::Ipv4);
    fleet::tables(&mut gathered, "c-017/n1")
        .routes
        .retain(|row| row.dst != route);
    fleet::probe(&mut gathered, &What::default());
    let before = std::time::Instant::now();
    let judged = diagnose(&gathered, &What::default());
    println!("judged in {:?}", before.elapsed());
    let finding = fleet::only(&judged);
    assert_eq!(finding.code.word(), "ROUTE-MISSING");
    assert_eq!(finding.affects.len(), 2, "{:?}", finding.affects);
    for (src, dst) in [("c-017", "c-061"), ("c-061", "c-017")] {
        let cell = judged
            .cells()
            .find(|cell| cell.src == src && cell.dst == dst && cell.layer == Layer::Pod)
            .expect("a cell");
        assert_eq!(cell.verdict, CellVerdict::Fail);
    }
    assert!(judged.cells().any(|cell| cell.state == CellState::Proved));
}

#[test]
fn equal_evidence_gives_equal_bytes() {
    let build = || {
        let mut gathered = healthy(&[
            gateway("east", BOTH),
            p2p("north", BOTH),
            gateway("west", BOTH),
        ]);
        fleet::tables(&mut gathered, "west/n1")
            .fdb
            .retain(|row| row.mac.is_zero());
        judged(&mut gathered)
    };
    let text = |judged: orchestrator::diagnose::Judged| {
        orchestrator::report::json::text(&judged.into_report(orchestrator::report::Run {
            id: "r".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            seconds: 1.0,
            seed: 7,
            tool: "0.1.0".to_owned(),
        }))
    };
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool");
    let four = rayon::ThreadPoolBuilder::new()
        .num_threads(4)
        .build()
        .expect("a pool");
    let first = text(one.install(build));
    assert_eq!(first, text(four.install(build)));
    let read = orchestrator::report::parse(&first, "report.json").expect("its own output");
    assert_eq!(orchestrator::report::json::text(&read), first);
}
