//! `sim run`: scenarios are topology files with `faults`, `steps` and `expect`.
//!
//! ```text
//! read all ──► for each: up ──► steps, the expectations of each ──► down
//! ```
//! `faults` are steps before all others, with the datapath's programs frozen, and `expect` is a diagnosis after them.
//! Every file is read before anything is built. A scenario that cannot be run fails; the others are run all the same.

use std::time::{Duration, Instant};

use orchestrator::report::Report;
use serde::Serialize;
use simulator::control;
use simulator::topology::{self, Exec, Expect, Step, Topology};

use super::super::dr;
use super::{linking, run_upstream};
use crate::cli::diagnosis::{How, Judge, Probes, What};
use crate::cli::sim::Run;
use crate::exit::{FOUND, Failure, OK, Outcome};
use crate::input::Source;
use crate::lab::{self, OwnLab};
use crate::output::{self, Format, Output};
use crate::progress::Progress;
use crate::render::junit::{Case, CaseResult, Suite};
use crate::signals::Interrupt;

/// The longest that a program of a step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts of a step that waits.
const AGAIN: Duration = Duration::from_millis(200);
/// So many lines of what a program printed are looked at.
const LINES: usize = 100_000;

/// What came of a scenario.
#[derive(Debug, Serialize)]
struct Verdict {
    scenario: String,
    holds: bool,
    seconds: f64,
    /// Why it could not be run.
    error: Option<String>,
    expectations: Vec<Judged>,
    report: Option<Report>,
}

/// One expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Judged {
    expectation: String,
    holds: bool,
    /// What there was in its place.
    instead: Option<String>,
}

pub(in super::super) async fn run(
    arguments: &Run,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let outputs = forms(&arguments.output)?;
    let mut scenarios = Vec::new();
    for file in &arguments.scenarios {
        let source = Source::read_at_most(file, topology::MAX_BYTES as u64)?;
        let mut topology = topology::parse(&source.text, &source.name)?;
        run_upstream(&mut topology, arguments.upstream.as_deref())?;
        control::has_programs(&topology)?;
        let steps = steps(&topology);
        if !steps.iter().any(Step::expects) {
            return Err(Failure::input(
                source.name,
                None,
                "a scenario needs `expect`, or a step that expects something",
            ));
        }
        scenarios.push((source.name, topology, steps));
    }
    let mut verdicts = Vec::new();
    for (name, topology, steps) in scenarios {
        let verdict = scenario(name, topology, &steps, interrupt, progress).await?;
        if outputs.iter().all(|output| output.file.is_some()) {
            output::print(&rows(&verdict))?;
        }
        verdicts.push(verdict);
    }
    for output in &outputs {
        let text = match output.format {
            Format::Json => output::json(&verdicts)?,
            _ => crate::render::junit::render(&verdicts.iter().map(suite).collect::<Vec<_>>())
                .map_err(|error| Failure::Failed(format!("writing JUnit: {error}")))?,
        };
        output::write(output, &text)?;
    }
    let all = verdicts.iter().all(|verdict| verdict.holds);
    Ok(if all { OK } else { FOUND })
}

/// The forms of many reports are fewer than those of one.
fn forms(outputs: &[Output]) -> Result<Vec<Output>, Failure> {
    output::check(outputs)?;
    for output in outputs {
        if !matches!(output.format, Format::Json | Format::Junit) {
            return Err(Failure::Usage(
                "sim run prints one row per expectation; -o takes junit and json".to_owned(),
            ));
        }
    }
    Ok(outputs.to_vec())
}

/// What a scenario does, in its order.
fn steps(topology: &Topology) -> Vec<Step> {
    let mut steps = Vec::new();
    if !topology.faults.is_empty() {
        steps.push(Step::Freeze(None));
        steps.extend(topology.faults.iter().cloned().map(Step::Fault));
    }
    steps.extend(topology.steps.iter().cloned());
    if !topology.expect.is_empty() {
        steps.push(Step::Dr(topology.expect.clone()));
    }
    steps
}

async fn scenario(
    name: String,
    topology: Topology,
    steps: &[Step],
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<Verdict, Failure> {
    let since = Instant::now();
    progress.say(format_args!("scenario {name}"));
    let mut played = Played::default();
    let run = play(topology, steps, &mut played, interrupt, progress).await;
    let seconds = since.elapsed().as_secs_f64();
    let error = match run {
        Err(failure @ (Failure::Interrupted { .. } | Failure::Missing(_))) => return Err(failure),
        Err(failure) => Some(failure.to_string()),
        Ok(()) => None,
    };
    Ok(Verdict {
        scenario: name,
        holds: error.is_none() && played.expectations.iter().all(|judged| judged.holds),
        seconds,
        error,
        expectations: played.expectations,
        report: played.report,
    })
}

/// What came of a scenario until it ended.
#[derive(Debug, Default)]
struct Played {
    expectations: Vec<Judged>,
    /// That of its last diagnosis.
    report: Option<Report>,
}

async fn play(
    topology: Topology,
    steps: &[Step],
    played: &mut Played,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<(), Failure> {
    let wanted = topology.has_upstream().then(|| topology.clone());
    let mut lab = OwnLab::up("run", topology, interrupt, progress).await?;
    let done = async {
        if let Some(wanted) = wanted {
            linking::link(&wanted, &lab.kubeconfig(), interrupt, progress).await?;
        }
        all(&lab, steps, played, interrupt, progress).await
    };
    let done = done.await;
    lab.tell_removal(interrupt, progress);
    let removed = lab.down().await;
    done?;
    removed
}

/// One step after the other; what does not hold ends nothing.
async fn all(
    lab: &OwnLab,
    steps: &[Step],
    played: &mut Played,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<(), Failure> {
    for step in steps {
        progress.say(format_args!("step: {step}"));
        let done = tokio::select! {
            biased;
            () = interrupt.clone().come() => Err(Failure::Interrupted { left: Vec::new() }),
            done = one(lab, step, played, interrupt, progress) => done,
        };
        done?;
    }
    Ok(())
}

async fn one(
    lab: &OwnLab,
    step: &Step,
    played: &mut Played,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<(), Failure> {
    match step.clone() {
        Step::Clear => lab.with(|name| control::fault_clear(Some(name))).await,
        Step::Fault(fault) => {
            let at = match fault.peer {
                Some(peer) => format!("{},{peer}", fault.at),
                None => fault.at,
            };
            lab.with(move |name| control::fault_inject(Some(name), fault.code, &at))
                .await
        }
        Step::Freeze(at) => {
            lab.with(move |name| control::freeze(Some(name), at.as_deref()))
                .await
        }
        Step::Thaw(at) => {
            lab.with(move |name| control::thaw(Some(name), at.as_deref()))
                .await
        }
        Step::Exec(exec) => {
            let refused = answered(lab, &exec).await?;
            played
                .expectations
                .push(Judged::of(step.to_string(), refused));
            Ok(())
        }
        Step::Wait(exec, within) => {
            let until = Instant::now() + within;
            let mut refused = answered(lab, &exec).await?;
            while refused.is_some() && Instant::now() < until {
                // Nobody tells when a program would answer otherwise.
                tokio::time::sleep(AGAIN).await;
                refused = answered(lab, &exec).await?;
            }
            played
                .expectations
                .push(Judged::of(step.to_string(), refused));
            Ok(())
        }
        Step::Dr(expect) => {
            let report = diagnosed(lab, interrupt, progress).await?;
            let judged = expect.iter().map(|expectation| judge(expectation, &report));
            played.expectations.extend(judged);
            played.report = Some(report);
            Ok(())
        }
    }
}

/// Why a program did not answer as expected; none where it did. It is started as a person would: by this program, in a process of its own.
async fn answered(lab: &OwnLab, exec: &Exec) -> Result<Option<String>, Failure> {
    let mut command = tokio::process::Command::new(lab::caller()?.program);
    command
        .args(["sim", "exec", "--name", lab.name(), &exec.at, "--"])
        .args(&exec.run)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(|error| Failure::Failed(error.to_string()))?,
        Err(_) => return Ok(Some(format!("it still ran after {PATIENCE:?}"))),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(exec
        .refused(output.status.code(), &printable(&said))
        .map(|why| {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or_default();
            match last {
                "" => why,
                last => format!("{why}; {}", datapath::printable::printable(last, 300)),
            }
        }))
}

/// What a program printed, without what a terminal obeys, line by line.
fn printable(text: &str) -> String {
    let lines = text.lines().take(LINES);
    let safe = lines.map(|line| datapath::printable::printable(line, 1000).into_owned());
    safe.collect::<Vec<_>>().join("\n")
}

async fn diagnosed(
    lab: &OwnLab,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<Report, Failure> {
    let inventory = dr::of_kubeconfig(&lab.kubeconfig());
    let options = dr::options(
        inventory,
        &What::default(),
        &Probes::default(),
        &How::default(),
        &Judge::default(),
        progress,
    );
    dr::diagnose_own(options, interrupt).await
}

impl Judged {
    fn of(expectation: String, instead: Option<String>) -> Self {
        Self {
            expectation,
            holds: instead.is_none(),
            instead,
        }
    }
}

fn judge(expectation: &Expect, report: &Report) -> Judged {
    match expectation {
        Expect::Verdict(verdict) => {
            let found = report.verdict.word();
            let holds = found == verdict;
            Judged {
                expectation: format!("verdict {verdict}"),
                holds,
                instead: (!holds).then(|| format!("verdict {found}; {}", findings(report))),
            }
        }
        Expect::Finding { code, at } => {
            let holds = report.findings.iter().any(|finding| {
                finding.code == *code && at.as_deref().is_none_or(|at| is_at(finding, at))
            });
            let place = at
                .as_ref()
                .map(|at| format!(" at {at}"))
                .unwrap_or_default();
            Judged {
                expectation: format!("finding {code}{place}"),
                holds,
                instead: (!holds).then(|| findings(report)),
            }
        }
    }
}

/// `CLUSTER` or `CLUSTER/NODE`.
fn is_at(finding: &orchestrator::report::Finding, at: &str) -> bool {
    let (cluster, node) = match at.split_once('/') {
        Some((cluster, node)) => (cluster, Some(node)),
        None => (at, None),
    };
    finding.element.cluster.as_deref() == Some(cluster)
        && (node.is_none() || finding.element.node.as_deref() == node)
}

fn findings(report: &Report) -> String {
    let found: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("{} at {}", finding.code, finding.element.place()))
        .collect();
    if found.is_empty() {
        "no finding".to_owned()
    } else {
        found.join(", ")
    }
}

fn rows(verdict: &Verdict) -> String {
    let word = |holds: bool| if holds { "pass" } else { "FAIL" };
    let mut text = format!(
        "{}  {} ({:.1} s)\n",
        word(verdict.holds),
        verdict.scenario,
        verdict.seconds
    );
    if let Some(error) = &verdict.error {
        text.push_str(&format!("      could not be run: {error}\n"));
    }
    for judged in &verdict.expectations {
        text.push_str(&format!(
            "      {}  {}",
            word(judged.holds),
            judged.expectation
        ));
        if let Some(instead) = &judged.instead {
            text.push_str(&format!("; instead: {instead}"));
        }
        text.push('\n');
    }
    text
}

fn suite(verdict: &Verdict) -> Suite {
    let mut cases: Vec<Case> = verdict
        .expectations
        .iter()
        .map(|judged| Case {
            class: verdict.scenario.clone(),
            name: judged.expectation.clone(),
            result: match &judged.instead {
                None => CaseResult::Passed,
                Some(instead) => CaseResult::Failed("does not hold".to_owned(), instead.clone()),
            },
        })
        .collect();
    if let Some(error) = &verdict.error {
        cases.push(Case {
            class: verdict.scenario.clone(),
            name: "run".to_owned(),
            result: CaseResult::Failed("could not be run".to_owned(), error.clone()),
        });
    }
    Suite {
        name: verdict.scenario.clone(),
        seconds: verdict.seconds,
        cases,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"schema":"floater.report/v1",
      "run":{"id":"r1","started":"2026-01-02T03:04:05Z","seconds":1.5,"seed":7,"tool":"0.1.0"},
      "clusters":[],
      "coverage":{"ordered_pairs":0,"cells":0,"probed":0,"proved":0,"inferred":0,"stale":0,"unobserved":0,"probes_sent":0,
                  "certificate":{"covered":[],"indistinguishable":[],"not_covered":[]}},
      "cells":[],
      "findings":[{"id":"f1","code":"FDB-MISSING","severity":"error",
                   "element":{"cluster":"east","node":"n1","kind":"fdb","name":"x"},
                   "summary":"","evidence":[],"ambiguous_with":[],"affects":[],"fix":""}],
      "verdict":"fault"}"#;

    fn report() -> Report {
        orchestrator::report::parse(REPORT, "report.json").expect("a valid report")
    }

    fn finding(code: &str, at: Option<&str>) -> Expect {
        Expect::Finding {
            code: code.parse().expect("a code"),
            at: at.map(str::to_owned),
        }
    }

    #[test]
    fn expectations_hold_by_code_and_place() {
        for (expectation, holds) in [
            (finding("FDB-MISSING", None), true),
            (finding("FDB-MISSING", Some("east")), true),
            (finding("FDB-MISSING", Some("east/n1")), true),
            (finding("FDB-MISSING", Some("east/n2")), false),
            (finding("FDB-MISSING", Some("west")), false),
            (finding("FDB-WRONG-VTEP", Some("east/n1")), false),
            (Expect::Verdict("fault".to_owned()), true),
            (Expect::Verdict("healthy".to_owned()), false),
        ] {
            let judged = judge(&expectation, &report());
            assert_eq!(judged.holds, holds, "{expectation:?}");
            assert_eq!(judged.instead.is_none(), holds, "{expectation:?}");
        }
    }

    #[test]
    fn what_does_not_hold_says_what_there_was() {
        let judged = judge(&Expect::Verdict("healthy".to_owned()), &report());
        let verdict = Verdict {
            scenario: "two.yaml".to_owned(),
            holds: judged.holds,
            seconds: 1.25,
            error: None,
            expectations: vec![judged],
            report: Some(report()),
        };
        assert_eq!(
            rows(&verdict),
            "FAIL  two.yaml (1.2 s)\n      FAIL  verdict healthy; instead: verdict fault; FDB-MISSING at east/n1 fdb x\n"
        );
        let xml = crate::render::junit::render(&[suite(&verdict)]).expect("text");
        assert!(xml.contains("failures=\"1\""), "{xml}");
    }
}
