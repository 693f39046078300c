//! Test suites: first what needs no privilege, then what an `#[ignore = "GROUP: needs A, B"]` says it needs.
//!
//! A test whose capability is missing is counted as skipped with the reason, and as failed where `FLOATER_REQUIRE`
//! demands that capability.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cargo::{Built, Cargo};
use super::tally::{Counts, Tally};
use super::{enter, upstream};

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything that the machine can run.
    All,
    /// The same, with the numbers that take hours.
    Corpus,
    /// Only what runs anywhere.
    Unprivileged,
}

/// The longest that one suite may take before it is ended and counted as failed.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// What the suites are told to do more of.
const CORPUS: &[(&str, &str)] = &[
    ("HEALTHY_FLEETS", "500"),
    ("OVERLOADED_RUNS", "50"),
    ("READER_CASES", "1000000"),
    ("CHURN_SECONDS", "600"),
    ("CONFIG_CASES", "100000"),
];

/// What libtest said of one test.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Failed(&'a str),
    Ignored { name: &'a str, reason: &'a str },
    Passed,
}

/// Builds and runs every suite; the program that they drive, where it could be built.
pub(crate) fn run(
    cargo: &Cargo,
    tally: &mut Tally,
    reach: Reach,
    only: Option<&str>,
) -> Option<PathBuf> {
    let mut built = Vec::new();
    tally.step("build of suites and programs", || {
        cargo.build_suites().map(|all| built = all)
    });
    let floaterctl = built
        .iter()
        .find(|one| !one.is_suite && one.target == "floaterctl")
        .cloned()?;
    let mut capabilities = enter::capabilities();
    let wanted = |suite: &&Built| {
        suite.is_suite
            && only.is_none_or(|text| suite.package.contains(text) || suite.target.contains(text))
    };
    let mut environment = Vec::new();
    let mut suites = built.iter().filter(wanted);
    if let Some(suite) = suites.find(|suite| suite.target == upstream::NAME)
        && reach != Reach::Unprivileged
    {
        let sources = suite.folder.join(upstream::NAME);
        // Programs are in target/debug.
        let target = floaterctl.executable.ancestors().nth(2);
        let programs = upstream::prepare(tally, &sources, target.unwrap_or(&suite.folder));
        let why = programs.as_ref().err().cloned().unwrap_or_default();
        capabilities.insert(upstream::NAME.to_owned(), why);
        environment.extend(programs.map(|folder| (upstream::VARIABLE, folder)));
    }
    for suite in built.iter().filter(wanted) {
        let name = format!("{}: {}", suite.package, suite.target);
        eprintln!("gate: {name}");
        let started = Instant::now();
        let mut command = Command::new(&suite.executable);
        if reach == Reach::Corpus {
            command.envs(CORPUS.iter().copied());
        }
        let text = output(prepare(&mut command, suite, &floaterctl));
        let said = text.as_deref().map(parse).unwrap_or_default();
        let mut counts = count(&said, text.as_deref().err());
        if reach != Reach::Unprivileged {
            needing(
                tally,
                suite,
                &floaterctl,
                &said,
                (&capabilities, reach, &environment),
                &mut counts,
            );
        } else {
            counts.skipped += said
                .iter()
                .filter(|said| matches!(said, Said::Ignored { .. }))
                .count();
        }
        if counts.passed + counts.failed + counts.skipped > 0 {
            tally.enter(name, counts, started.elapsed());
        }
    }
    Some(floaterctl.executable)
}

/// Runs the tests that say what they need, those with equal needs together.
fn needing(
    tally: &Tally,
    suite: &Built,
    floaterctl: &Built,
    said: &[Said<'_>],
    (capabilities, reach, environment): (
        &BTreeMap<String, String>,
        Reach,
        &[(&'static str, PathBuf)],
    ),
    counts: &mut Counts,
) {
    let mut by_need: BTreeMap<BTreeSet<String>, Vec<&str>> = BTreeMap::new();
    for said in said {
        if let Said::Ignored { name, reason } = said {
            by_need.entry(needs(reason)).or_default().push(name);
        }
    }
    for (needs, names) in by_need {
        let missing: Vec<(String, String)> = needs
            .iter()
            .filter_map(|need| Some((need.clone(), missing(capabilities, need)?)))
            .collect();
        if missing.is_empty() {
            let mut command = Command::new(enter::ITSELF);
            command
                .arg(enter::VERB)
                .arg(&suite.executable)
                .args(["--ignored", "--exact"])
                .args(&names)
                .envs(environment.iter().map(|(name, path)| (name, path)));
            if reach == Reach::Corpus {
                command.envs(CORPUS.iter().copied());
            }
            let text = output(prepare(&mut command, suite, floaterctl));
            let said = text.as_deref().map(parse).unwrap_or_default();
            let ran = count(&said, text.as_deref().err());
            let heard = ran.passed + ran.failed;
            counts.passed += ran.passed;
            counts.failed += ran.failed + names.len().saturating_sub(heard);
            counts.remarks.extend(ran.remarks);
            continue;
        }
        let demanded = missing.iter().any(|(need, _)| tally.demands(need));
        for (need, why) in &missing {
            let word = if demanded { "FAILED" } else { "SKIP" };
            counts.remarks.push(format!(
                "{word} {} tests: {need} is missing: {why}",
                names.len()
            ));
        }
        if demanded {
            counts.failed += names.len();
        } else {
            counts.skipped += names.len();
        }
    }
}

/// Why a capability is missing; none where it is there. What nobody knows how to ask for is missing, too.
fn missing(capabilities: &BTreeMap<String, String>, name: &str) -> Option<String> {
    match capabilities.get(name) {
        Some(why) if why.is_empty() => None,
        Some(why) => Some(why.clone()),
        None => Some("nobody knows such a capability".to_owned()),
    }
}

fn prepare<'a>(command: &'a mut Command, suite: &Built, floaterctl: &Built) -> &'a mut Command {
    // Suites find their data beside their manifest, and the end-to-end suite its program by name.
    command
        .current_dir(&suite.folder)
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .env("FLOATERCTL", &floaterctl.executable)
}

/// The words that a reason asks for: `netns: needs vxlan, nft` asks for netns, vxlan and nft.
fn needs(reason: &str) -> BTreeSet<String> {
    let (group, rest) = reason.split_once(':').unwrap_or((reason, ""));
    let rest = rest.trim().strip_prefix("needs ").unwrap_or("");
    std::iter::once(group)
        .chain(rest.split([',', ';']))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The suite's standard output and errors; the error says how it ended early.
fn output(command: &mut Command) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("does not start: {error}"))?;
    let Some(mut stdout) = child.stdout.take() else {
        return Err("has no output".to_owned());
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = std::io::Read::read_to_end(&mut stdout, &mut text);
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&text).into_owned()));
    });
    let text = receiver.recv_timeout(PATIENCE);
    if text.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = text
        .map_err(|_| format!("was ended after {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?;
    drop(reader);
    // 101 is libtest's own word for failed tests, and the text then says which.
    if !status.success() {
        print!("{text}");
        if status.code() != Some(101) || !text.contains("test result: FAILED") {
            return Err(format!("ended with {status}"));
        }
    }
    Ok(text)
}

fn parse(text: &str) -> Vec<Said<'_>> {
    text.lines()
        .filter_map(|line| {
            let (name, said) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
            match said {
                "ok" => Some(Said::Passed),
                "FAILED" => Some(Said::Failed(name)),
                "ignored" => Some(Said::Ignored { name, reason: "" }),
                _ => Some(Said::Ignored {
                    name,
                    reason: said.strip_prefix("ignored, ")?,
                }),
            }
        })
        .collect()
}

fn count(said: &[Said<'_>], error: Option<&String>) -> Counts {
    let mut counts = Counts::default();
    for said in said {
        match said {
            Said::Failed(name) => {
                counts.failed += 1;
                counts.remarks.push(format!("FAILED {name}"));
            }
            Said::Ignored { .. } => {}
            Said::Passed => counts.passed += 1,
        }
    }
    if let Some(error) = error {
        counts.failed += 1;
        counts.remarks.push(format!("FAILED: the suite {error}"));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_what_it_needs() {
        let words = |reason: &str| needs(reason).into_iter().collect::<Vec<_>>();
        assert_eq!(words("netns: needs vxlan, nft"), ["netns", "nft", "vxlan"]);
        assert_eq!(words("kubectl"), ["kubectl"]);
        assert_eq!(words(""), [""; 0]);
    }

    #[test]
    fn the_words_of_libtest_are_understood() {
        let text = "running 4 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, netns: needs nft\ntest e ... ignored\n";
        let said = parse(text);
        assert_eq!(
            said,
            [
                Said::Passed,
                Said::Failed("c"),
                Said::Ignored {
                    name: "d",
                    reason: "netns: needs nft"
                },
                Said::Ignored {
                    name: "e",
                    reason: ""
                },
            ]
        );
        let counts = count(&said, None);
        assert_eq!((counts.passed, counts.failed), (1, 1));
    }
}
