//! Every check of the project, in the order in which it is cheapest to fail.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

mod cargo;
mod enter;
mod licences;
mod measures;
mod purity;
mod sources;
mod suites;
mod tally;
mod upstream;

use cargo::Cargo;
use tally::Tally;

/// What the gate is asked to do.
#[derive(Debug, clap::Parser)]
#[command(name = "gate", about = "Run every check of the project")]
pub struct Options {
    /// Only what the everyday loop needs: format, lints, direction of dependencies, tests without privilege
    #[arg(long, conflicts_with = "bench")]
    quick: bool,
    /// Print the project's measures instead of judging it
    #[arg(long)]
    bench: bool,
    /// What takes hours, and nothing else: five hundred random healthy fleets, fifty runs under overload, ten minutes of churn, 10⁵ NodeConfigs
    #[arg(long, conflicts_with_all = ["quick", "bench", "only"])]
    corpus: bool,
    /// Only test suites whose package or name contains this; with --bench only such rows of the budget table
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only these sizes of the budget table
    #[arg(
        long,
        value_name = "CLUSTERS",
        value_delimiter = ',',
        requires = "bench"
    )]
    sizes: Vec<usize>,
}

/// Runs one of the gate's own verbs, by which it starts itself; none where the word is no such verb.
#[must_use]
pub fn hidden(verb: &OsStr, rest: &[OsString]) -> Option<ExitCode> {
    if verb == enter::VERB {
        Some(enter::run(rest))
    } else if verb == enter::CAPABILITIES {
        Some(enter::print_capabilities())
    } else if verb == measures::PEAK {
        Some(measures::run_and_weigh(rest))
    } else if let Some(verb @ (crate::pour::POUR | crate::pour::DRAIN)) = verb.to_str() {
        Some(crate::pour::run(verb, rest))
    } else if verb == crate::kosmos::VERB {
        Some(crate::kosmos::run(rest))
    } else if verb == crate::stream::VERB {
        Some(crate::stream::run(rest))
    } else {
        None
    }
}

/// Runs the gate; success only if nothing failed. The last line is `N passed, N failed, N skipped`.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let started = Instant::now();
    let cargo = Cargo::here();
    if options.bench {
        return measures::run(&cargo, options.only.as_deref(), &options.sizes);
    }
    let mut tally = Tally::from_environment();
    if options.corpus {
        for suite in ["endurance", "config_laws"] {
            suites::run(&cargo, &mut tally, suites::Reach::Corpus, Some(suite));
        }
    } else if let Some(only) = &options.only {
        suites::run(&cargo, &mut tally, suites::Reach::All, Some(only));
    } else {
        checks(&cargo, &mut tally, options.quick);
    }
    tally.print(started.elapsed());
    if tally.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn checks(cargo: &Cargo, tally: &mut Tally, quick: bool) {
    tally.step("format", || cargo.run(&["fmt", "--all", "--", "--check"]));
    tally.step("direction of dependencies", || purity::check(cargo));
    tally.step("modules that decide do no I/O", || {
        sources::pure_modules(cargo)
    });
    tally.step("dependencies are used", || {
        sources::unused_dependencies(cargo)
    });
    tally.step("no path of this machine", || sources::machine_paths(cargo));
    if !quick {
        tally.step("licences and duplicates", || licences::check(cargo));
    }
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    tally.step("lints", || cargo.run(&lints));
    if quick {
        suites::run(cargo, tally, suites::Reach::Unprivileged, None);
        return;
    }
    for (package, features) in purity::ALONE {
        let name = format!(
            "{package} alone, features [{}]",
            features.unwrap_or("default")
        );
        tally.step(&name, || {
            let mut arguments = vec!["check", "--quiet", "--package", package];
            if let Some(features) = features {
                arguments.extend(["--no-default-features", "--features", features]);
            }
            cargo.run(&arguments)
        });
    }
    tally.step("documentation", || {
        cargo.run_with(
            &[
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--quiet",
            ],
            &[("RUSTDOCFLAGS", "-D warnings")],
        )
    });
    let program = suites::run(cargo, tally, suites::Reach::All, None);
    tally.step("examples in documentation", || {
        cargo.run(&["test", "--workspace", "--doc", "--quiet"])
    });
    tally.step("benches, once", || {
        // The bench of the datapath's programs starts them as they were built for the suites.
        let program = program.as_deref().and_then(Path::to_str);
        cargo.run_with(
            &[
                "bench",
                "--workspace",
                "--benches",
                "--quiet",
                "--profile",
                "dev",
                "--",
                "--test",
            ],
            &[("FLOATERCTL", program.unwrap_or_default())],
        )
    });
}
