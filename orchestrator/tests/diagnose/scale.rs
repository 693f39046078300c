//! Large fleets, whole runs in virtual time: from the inventory to the evidence and its diagnosis, whatever clusters do meanwhile. What is
//! wrong is found, and nobody else is accused. The bench of the same name does so with 5000 clusters.

#[path = "../../benches/diagnose/fleet.rs"]
mod fleet;
#[path = "../../benches/diagnose/in_process.rs"]
mod in_process;

use std::time::Duration;

use orchestrator::diagnose::{Judged, diagnose};
use orchestrator::probe_plan::What;
use orchestrator::report::{CellState, CellVerdict, Run, RunVerdict, Severity, json};

use fleet::{FAULTS, Virtual};
use in_process::{Api, InProcess, settings};

const SECOND: Duration = Duration::from_secs(1);

fn judged(run: &mut InProcess<'_>) -> Judged {
    let gathered = run
        .run(settings(What::default()))
        .expect("somebody answers");
    diagnose(&gathered, &What::default())
}

fn bytes(judged: Judged) -> String {
    json::text(&judged.into_report(Run {
        id: "virtual".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 0.0,
        seed: 0,
        tool: String::new(),
    }))
}

/// Numbers that are the same every time (a linear congruential generator, Knuth's constants).
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[test]
fn a_healthy_fleet_is_judged_whole_and_asked_within_bounds() {
    let fleet = Virtual::new(1000);
    let mut run = InProcess::new(&fleet);
    let judged = judged(&mut run);
    assert_eq!(judged.findings, []);
    assert_eq!(judged.unjudged, Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
    assert_eq!(judged.coverage.cells, 2_000_000);
    assert_eq!(judged.coverage.ordered_pairs, 999_000);
    assert_eq!(
        judged.coverage.probed + judged.coverage.proved,
        judged.coverage.cells
    );
    assert_eq!(run.most_looks, 256);
    assert!(run.now < 30 * SECOND, "{:?}", run.now);
}

/// One in ten is dead and one in twenty slow: the others are judged as if these did not exist, in their own time.
#[test]
fn dead_and_slow_clusters_cost_the_others_nothing_but_a_bounded_wait() {
    let fleet = Virtual::new(200);
    let mut run = InProcess::new(&fleet);
    run.api = Box::new(|cluster| match cluster {
        0 => Api::Answers(SECOND / 50),
        cluster if cluster % 20 == 3 => Api::Refuses,
        cluster if cluster % 20 == 7 => Api::Hangs,
        cluster if cluster % 20 == 11 => Api::Answers(90 * SECOND),
        cluster => Api::Answers(SECOND * (cluster % 7 + 1) / 50),
    });
    let judged = judged(&mut run);
    let is_gone = |cluster: u32| [3, 7, 11].contains(&(cluster % 20));
    // The first answers of those that hang, then what the walk and the rounds of probes take.
    assert!(run.now < 40 * SECOND, "{:?}", run.now);
    assert_eq!(judged.findings, []);
    for (id, mark) in judged.cells.ids() {
        let is_pass = mark.verdict() == Some(CellVerdict::Pass);
        let gone = [id.src, id.dst].map(is_gone);
        if gone == [false, false] {
            assert!(is_pass, "{id:?} {mark:?}");
            assert_ne!(mark.state(), Some(CellState::Unobserved), "{id:?}");
        } else {
            assert_ne!(mark.verdict(), Some(CellVerdict::Fail), "{id:?}");
        }
    }
}

/// What came first decides nothing: answers in another order give the same bytes.
#[test]
fn the_order_of_answers_changes_no_byte() {
    let mut fleet = Virtual::new(60);
    for (at, &(_, node, change)) in (0_u32..).zip(FAULTS.iter().take(3)) {
        fleet.breaks(5 + 9 * at, node, |state| change(state, 40 + at));
    }
    let reports: Vec<String> = (0..3)
        .map(|order| {
            let mut run = InProcess::new(&fleet);
            run.api = Box::new(move |cluster| {
                let place = u64::from(cluster).wrapping_mul(0x9e37_79b9 + order) % 97;
                Api::Answers(Duration::from_millis(10 + place))
            });
            bytes(judged(&mut run))
        })
        .collect();
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0], reports[2]);
}

/// Faults of fifteen codes among hundreds of clusters whose networks lose one packet in a hundred besides.
#[test]
fn chance_hides_no_fault_and_accuses_nobody() {
    let mut fleet = Virtual::new(400);
    let mut expected = Vec::new();
    for (at, &(code, node, change)) in (0_u32..).zip(FAULTS.iter().cycle().take(25)) {
        let cluster = 3 + at * 15;
        fleet.breaks(cluster, node, |state| change(state, cluster + 7));
        expected.push(format!("{code} at c{cluster:04}/n{}", node + 1));
    }
    expected.sort();
    let mut run = InProcess::new(&fleet);
    let mut chance = numbers(7);
    run.loses = Box::new(move || chance().is_multiple_of(100));
    let judged = judged(&mut run);
    assert_eq!(accused(&judged), expected);
    assert_eq!(judged.verdict, RunVerdict::Fault);
    for finding in &judged.findings {
        assert!(!finding.affects.is_empty() || finding.severity != Severity::Error);
    }
}

#[test]
fn a_whole_network_that_loses_packets_is_no_cluster_s_fault() {
    let fleet = Virtual::new(120);
    for seed in 0..2 {
        let mut run = InProcess::new(&fleet);
        let mut chance = numbers(seed);
        run.loses = Box::new(move || chance().is_multiple_of(100));
        assert_eq!(accused(&judged(&mut run)), Vec::<String>::new());
    }
}

/// Wherever its time ends, a run says what it knows by then and accuses nobody of the rest.
#[test]
fn a_run_that_ends_early_is_judged_by_what_has_come() {
    let fleet = Virtual::new(50);
    for millis in [5, 30, 60, 130, 170, 200, 700, 1300] {
        let mut run = InProcess::new(&fleet);
        run.api = Box::new(|cluster| Api::Answers(Duration::from_millis(10 + u64::from(cluster))));
        let mut settings = settings(What::default());
        settings.deadline = Duration::from_millis(millis);
        let end = settings.deadline + 3 * SECOND;
        match run.run(settings) {
            Ok(gathered) => {
                let judged = diagnose(&gathered, &What::default());
                assert_eq!(accused(&judged), Vec::<String>::new(), "{millis} ms");
                let fails =
                    |mark: orchestrator::report::Mark| mark.verdict() == Some(CellVerdict::Fail);
                assert!(!judged.cells.ids().any(|(_, mark)| fails(mark)));
            }
            Err(error) => assert_eq!(error.exit_code(), 69, "{error}"),
        }
        assert!(run.now <= end, "{millis} ms: {:?}", run.now);
    }
}

/// The elements that errors name, each once.
fn accused(judged: &Judged) -> Vec<String> {
    let part = |part: &Option<datapath::printable::Printable>| {
        part.as_ref().map_or_else(String::new, ToString::to_string)
    };
    let mut accused: Vec<String> = judged
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| {
            let element = &finding.element;
            let (cluster, node) = (part(&element.cluster), part(&element.node));
            format!("{} at {cluster}/{node}", finding.code)
        })
        .collect();
    accused.sort();
    accused.dedup();
    accused
}
