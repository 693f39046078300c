//! What a diagnosis costs by the size of its fleet: time, and the peak of the process's resident memory. Each size runs in a process of
//! its own, since a peak is that of a whole process.
//!
//! `cargo bench --bench diagnose` prints a table; with `--test`, as the gate runs it, only the smallest size is tried.
#![allow(missing_docs, clippy::expect_used, reason = "a bench")]

#[path = "diagnose/fleet.rs"]
mod fleet;
#[path = "diagnose/in_process.rs"]
mod in_process;
#[path = "diagnose/node.rs"]
mod node;

use std::process::Command;
use std::time::{Duration, Instant};

use fleet::{FAULTS, Virtual};
use in_process::{Api, InProcess, settings};
use orchestrator::diagnose::diagnose;
use orchestrator::matrix::Matrix;
use orchestrator::probe_plan::What;
use orchestrator::report::{Finding, Run, Severity, json, parse};

const SIZES: [u32; 4] = [100, 300, 1000, 5000];
/// Names the size to the process that measures it.
const SIZE: &str = "FLOATER_BENCH_CLUSTERS";

fn main() {
    if let Some(size) = std::env::var(SIZE).ok().and_then(|text| text.parse().ok()) {
        return measure(size);
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    let sizes = if is_test { &SIZES[..1] } else { &SIZES[..] };
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}",
        "clusters",
        "probes",
        "fleet",
        "run",
        "diagnose",
        "to JSON",
        "read",
        "layout",
        "JSON KiB",
        "peak MiB"
    );
    for size in sizes {
        let program = std::env::current_exe().expect("a program has a path");
        let ended = Command::new(program)
            .env(SIZE, size.to_string())
            .status()
            .expect("it starts");
        assert!(ended.success(), "{size} clusters: {ended}");
    }
}

/// The peak of this process's resident memory, MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.expect("a number") / 1024
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

fn measure(clusters: u32) {
    let what = What::default();
    let (mut fleet, built) = timed(|| Virtual::new(clusters));
    let mut broken = Vec::new();
    for (at, &(code, node, change)) in (0_u32..).zip(FAULTS.iter().cycle().take(25)) {
        // Neither among those that do not answer nor about one of them.
        let cluster = 3 + at * (clusters - 20) / 25 / 4 * 4;
        fleet.breaks(cluster, node, |state| change(state, cluster + 7));
        broken.push(format!("{code} c{cluster:04}"));
    }
    // The whole run but for what clusters take to answer: time passes only where the run waits for it.
    let mut run = InProcess::new(&fleet);
    run.api = Box::new(|cluster| match cluster % 40 {
        36 => Api::Hangs,
        32 => Api::Refuses,
        _ => Api::Answers(Duration::from_millis(20)),
    });
    let (gathered, probed) = timed(|| run.run(settings(what.clone())).expect("clusters answer"));
    drop(run);
    drop(fleet);
    let probes = gathered.probes.len();
    let (judged, diagnosed) = timed(|| diagnose(&gathered, &what));
    drop(gathered);
    let accused = |finding: &Finding| {
        let cluster = finding.element.cluster.as_ref();
        let cluster = cluster.map_or_else(String::new, ToString::to_string);
        format!("{} {cluster}", finding.code)
    };
    let errors = judged.findings.iter();
    let errors = errors.filter(|finding| finding.severity == Severity::Error);
    let mut found: Vec<String> = errors.map(accused).collect();
    found.sort();
    found.dedup();
    broken.sort();
    broken.dedup();
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
    let (text, written) = timed(|| json::text(&report));
    let (read, parsed) = timed(|| parse(&text, "report.json").expect("its own output"));
    let (matrix, laid) = timed(|| Matrix::of(&read));
    assert!(
        matrix.groups.groups.len() > 1,
        "25 faults make no uniform fleet"
    );
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    println!(
        "{clusters:>8} {probes:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}",
        ms(built),
        ms(probed),
        ms(diagnosed),
        ms(written),
        ms(parsed),
        ms(laid),
        text.len() / 1024,
        peak()
    );
}
