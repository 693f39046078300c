//! Large fleets: what is wrong is found, nobody else is accused, and the work grows with the clusters.

#[path = "../../benches/diagnose/fleet.rs"]
pub(crate) mod fleet;
#[path = "../../benches/diagnose/in_process.rs"]
pub(crate) mod in_process;

use orchestrator::diagnose::diagnose;
use orchestrator::probe_plan::What;
use orchestrator::report::{RunVerdict, Severity};

use fleet::{FAULTS, Virtual};

#[test]
fn a_thousand_healthy_clusters_are_wholly_judged() {
    let mut fleet = Virtual::new(1000);
    fleet.probe(&What::default());
    let judged = diagnose(&fleet.gathered, &What::default());
    assert_eq!(judged.findings, []);
    assert_eq!(judged.unjudged, Vec::<String>::new());
    assert_eq!(judged.verdict, RunVerdict::Healthy);
    assert_eq!(judged.coverage.cells, 2_000_000);
    assert_eq!(judged.coverage.ordered_pairs, 999_000);
    assert_eq!(
        judged.coverage.probed + judged.coverage.proved,
        judged.coverage.cells
    );
}

#[test]
fn faults_of_twelve_codes_are_found_among_hundreds_and_nobody_else_is_blamed() {
    let mut fleet = Virtual::new(400);
    let mut expected = Vec::new();
    for (at, &(code, node, change)) in (0_u32..).zip(FAULTS.iter().cycle().take(25)) {
        let cluster = 3 + at * 15;
        fleet.breaks(cluster, node, |state| change(state, cluster + 7));
        expected.push(format!("{code} at c{cluster:04}/n{}", node + 1));
    }
    fleet.probe(&What::default());
    let judged = diagnose(&fleet.gathered, &What::default());
    let mut found: Vec<String> = judged
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| {
            let place = |part: &Option<datapath::printable::Printable>| {
                part.as_ref().map_or_else(String::new, ToString::to_string)
            };
            format!(
                "{} at {}/{}",
                finding.code,
                place(&finding.element.cluster),
                place(&finding.element.node)
            )
        })
        .collect();
    found.sort();
    found.dedup();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(judged.verdict, RunVerdict::Fault);
    for finding in &judged.findings {
        assert!(!finding.affects.is_empty() || finding.severity != Severity::Error);
    }
}
