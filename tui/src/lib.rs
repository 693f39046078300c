//! Everything that a person touches: the command `floaterctl` and its terminal views.
//!
//! Duty: the command line, its layers of settings and its exit codes, the drawing of reports in a terminal, and the
//! hand-over to the crates that do the work. May know: all of them. Decides nothing about networks.
//!
//! Results go to stdout, everything else to stderr. Units: as in the crates below; times of the command line are seconds
//! unless they carry a unit.
//!
//! ```
//! use tui::cli::Verb;
//!
//! let words = ["floaterctl", "dr", "--sim", "lab"].map(Into::into).to_vec();
//! let env = |name: &str| (name == "FLOATER_ROUNDS").then(|| "3".into());
//! let cli = tui::config::parse(words, &env, None).expect("a right command line and environment");
//! let Verb::Dr(dr) = cli.verb else { panic!("another verb") };
//! assert_eq!((dr.inventory.sim.as_deref(), dr.probes.rounds), (Some("lab"), Some(3)));
//! ```

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod exit;
pub mod input;
pub mod lab;
pub mod output;
pub mod plan_diff;
pub mod progress;
pub mod render;
pub mod signals;
pub mod spelling;
pub mod terminal;
pub mod verbs;
pub mod view;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// The program: the command line without hidden verbs.
#[must_use]
pub fn main(mut argv: Vec<OsString>) -> ExitCode {
    // Before the first thread and before anything is made.
    let held = signals::Held::hold();
    exit::describe_panics();
    if let Some(name) = argv.first_mut()
        && Path::new(name).file_name() == Some("kubectl-floater".as_ref())
    {
        // As kubectl's plugin it is called with a space, and that is what help should say.
        *name = "kubectl floater".into();
    }
    exit::finish(exit::guarded(|| {
        layered(argv).and_then(|cli| verbs::run(&cli, held))
    }))
}

/// The command line with environment and configuration file applied.
fn layered(argv: Vec<OsString>) -> Result<cli::Cli, exit::Failure> {
    let env = |name: &str| std::env::var_os(name);
    // The command line comes first, so that `--help` works beside a broken file.
    let bare = config::parse(argv.clone(), &|_| None, None)?;
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    config::unknown_variables(names.iter().map(String::as_str))
        .iter()
        .for_each(progress::warn);
    let whole =
        config::read(&env).and_then(|file| config::parse(argv.clone(), &env, file.as_ref()));
    match whole {
        Err(failure @ exit::Failure::Input { .. }) if !bare.verb.needs_settings() => {
            progress::warn(format_args!("ignored: {failure}"));
            config::parse(argv, &env, None)
        }
        other => other,
    }
}
