//! What passed, failed and was skipped, and the table of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::upstream;

/// One line of the table.
struct Line {
    name: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    took: Duration,
    remarks: Vec<String>,
}

/// The gate's count.
pub(crate) struct Tally {
    lines: Vec<Line>,
    required: Required,
}

/// The capabilities whose absence is a failure.
enum Required {
    All,
    Named(BTreeSet<String>),
}

/// What a suite of tests came to.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// Sentences for the table: failures first, then reasons of skips.
    pub(crate) remarks: Vec<String>,
}

impl Tally {
    /// An empty count; `FLOATER_REQUIRE` is a comma-separated list of capabilities, or `all`.
    pub(crate) fn from_environment() -> Self {
        let text = std::env::var("FLOATER_REQUIRE").unwrap_or_default();
        let named: BTreeSet<String> = text
            .split(',')
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect();
        let required = if named.contains("all") {
            Required::All
        } else {
            Required::Named(named)
        };
        Self {
            lines: Vec::new(),
            required,
        }
    }

    /// Whether the absence of a capability is a failure. `all` asks for an upstream control plane only where it can be built: nothing
    /// else of the project needs Go.
    pub(crate) fn demands(&self, capability: &str) -> bool {
        match &self.required {
            Required::All => capability != upstream::NAME || upstream::is_within_reach(),
            Required::Named(names) => names.contains(capability),
        }
    }

    /// Runs a check that passes or fails as a whole.
    pub(crate) fn step(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) {
        eprintln!("gate: {name}");
        let started = Instant::now();
        let outcome = check();
        let failed = usize::from(outcome.is_err());
        self.lines.push(Line {
            name: name.to_owned(),
            passed: 1 - failed,
            failed,
            skipped: 0,
            took: started.elapsed(),
            remarks: outcome.err().into_iter().collect(),
        });
    }

    /// Enters what a suite came to.
    pub(crate) fn enter(&mut self, name: String, counts: Counts, took: Duration) {
        let Counts {
            passed,
            failed,
            skipped,
            remarks,
        } = counts;
        self.lines.push(Line {
            name,
            passed,
            failed,
            skipped,
            took,
            remarks,
        });
    }

    /// The number of failures.
    pub(crate) fn failed(&self) -> usize {
        self.lines.iter().map(|line| line.failed).sum()
    }

    /// Prints the table; its last line is the count.
    pub(crate) fn print(&self, took: Duration) {
        let width = self
            .lines
            .iter()
            .map(|line| line.name.len())
            .max()
            .unwrap_or(0)
            .max(5);
        println!("\n{:width$}  passed  failed  skipped    time", "check");
        for line in &self.lines {
            println!(
                "{:width$}  {:>6}  {:>6}  {:>7}  {:>5.1} s",
                line.name,
                line.passed,
                line.failed,
                line.skipped,
                line.took.as_secs_f64()
            );
            for remark in &line.remarks {
                println!("    {remark}");
            }
        }
        let (mut passed, mut skipped) = (0, 0);
        for line in &self.lines {
            passed += line.passed;
            skipped += line.skipped;
        }
        println!("\nin {:.0} s", took.as_secs_f64());
        println!(
            "{passed} passed, {} failed, {skipped} skipped",
            self.failed()
        );
    }
}
