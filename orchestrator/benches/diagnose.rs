//! What a diagnosis and its report cost by the size of the fleet: 25 faults of twelve codes in gateway clusters of two nodes, with
//! evidence as floaters give it. `cargo gate --bench` prints the rows beside those of the other crates.
#![allow(missing_docs, clippy::expect_used, reason = "a bench")]

#[path = "diagnose/fleet.rs"]
mod fleet;
#[path = "diagnose/in_process.rs"]
mod in_process;
#[path = "../../tests/src/gate/measures/measured.rs"]
mod measured;
#[path = "diagnose/node.rs"]
mod node;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use fleet::{FAULTS, Virtual};
use in_process::{Api, InProcess, settings};
use measured::{Before, Measured, SIZES, bench, median, report_in, timed};
use orchestrator::diagnose::diagnose;
use orchestrator::probe_plan::What;
use orchestrator::report::{Finding, Report, Run, Severity, json, parse};

const DIAGNOSE: &str = "diagnose";
const WRITE: &str = "report JSON: write";
const READ: &str = "report JSON: read";

fn main() {
    // The first leaves the report that the others take.
    bench(&[DIAGNOSE, WRITE, READ], SIZES, measure);
}

fn measure(row: &str, size: usize, folder: &Path) -> Measured {
    let file = report_in(folder, size);
    if row == DIAGNOSE {
        return diagnosed(size, &file);
    }
    let text = std::fs::read_to_string(&file).expect("the diagnosis has left its report");
    let written = Some(text.len() as u64);
    let form = match size > json::PACK_ABOVE {
        true => "packed",
        false => "every cell by itself",
    };
    let (before, time, report);
    if row == WRITE {
        report = parse(&text, "report.json").expect("its own output");
        drop(text);
        before = Before::now();
        time = median(|| json::write(&report, true, io::sink()).expect("it takes all"));
    } else {
        before = Before::now();
        (report, time) = timed(|| parse(&text, "report.json").expect("its own output"));
    }
    Measured {
        planes: planes(&report),
        written,
        remark: form.to_owned(),
        ..before.until(row, size, time)
    }
}

fn diagnosed(size: usize, file: &Path) -> Measured {
    let clusters = u32::try_from(size).expect("few clusters");
    let what = What::default();
    let mut fleet = Virtual::new(clusters);
    let (mut broken, mut about) = (BTreeSet::new(), BTreeSet::new());
    for (at, &(code, node, change)) in (0_u32..).zip(FAULTS.iter().cycle().take(25)) {
        let cluster = 3 + at * (clusters - 20) / 25;
        fleet.breaks(cluster, node, |state| change(state, cluster + 7));
        broken.insert(format!("{code} c{cluster:04}"));
        about.extend([cluster, cluster + 7]);
    }
    // The whole run but for what clusters take to answer, some of which never do: time passes only where the run waits for it.
    let mut run = InProcess::new(&fleet);
    run.api = Box::new(move |cluster| match cluster % 40 {
        _ if about.contains(&cluster) || cluster == 0 => Api::Answers(Duration::from_millis(20)),
        17 => Api::Hangs,
        37 => Api::Refuses,
        _ => Api::Answers(Duration::from_millis(30)),
    });
    let (gathered, ran) = timed(|| run.run(settings(what.clone())).expect("clusters answer"));
    let waited = run.now;
    drop(run);
    drop(fleet);
    let probes = gathered.probes.len();
    let before = Before::now();
    let (judged, time) = timed(|| diagnose(&gathered, &what));
    let measured = before.until(DIAGNOSE, size, time);
    let accused = |finding: &Finding| {
        let cluster = finding.element.cluster.as_ref();
        let cluster = cluster.map_or_else(String::new, ToString::to_string);
        format!("{} {cluster}", finding.code)
    };
    let errors = judged.findings.iter();
    let errors = errors.filter(|finding| finding.severity == Severity::Error);
    let found: BTreeSet<String> = errors.map(accused).collect();
    assert_eq!(
        found, broken,
        "what is broken is found, and nobody else accused"
    );
    let report = judged.into_report(Run {
        id: "bench".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 0.0,
        seed: 0,
        tool: String::new(),
    });
    std::fs::write(file, json::text(&report)).expect("the folder is there");
    Measured {
        planes: planes(&report),
        remark: format!(
            "{probes} probes, {} findings; the run before it {:.1} s, and {:.0} s in virtual time",
            report.findings.len(),
            ran.as_secs_f64(),
            waited.as_secs_f64()
        ),
        ..measured
    }
}

/// What the dense planes take, bytes.
fn planes(report: &Report) -> u64 {
    let all = report.cells.planes().iter();
    all.map(|plane| (plane.side() * plane.side()) as u64).sum()
}
