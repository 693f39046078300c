//! What the verbs do. One module each; what two of them need is beside them.

mod demo;
mod dr;
mod explain;
mod link;
mod matrix;
mod pages;
mod sim;

use std::future::Future;

use crate::cli::sim::Sim;
use crate::cli::{Cli, Link, Verb};
use crate::exit::{Failure, OK, Outcome};
use crate::output;
use crate::progress::{self, Progress};
use crate::terminal;

/// Does what was asked.
///
/// # Errors
/// Why it could not be done; see [`Failure::code`].
pub fn run(cli: &Cli) -> Outcome {
    let progress = Progress::new(cli.global.verbose);
    // A view has the whole screen: lines of logs would be written across it.
    let is_view = matches!(cli.verb, Verb::Matrix(_)) && terminal::is_interactive();
    if cli.global.verbose > 1 && !is_view {
        progress::log();
    }
    let color = cli.global.color.unwrap_or_default().for_stdout();
    match &cli.verb {
        Verb::Analyse(arguments) => on_runtime(dr::analyse(arguments, color, progress)),
        Verb::Completions(arguments) => pages::completions(arguments.shell),
        Verb::Dr(arguments) if arguments.schema => dr::schema(),
        Verb::Dr(arguments) => on_runtime(dr::run(arguments, color, progress)),
        Verb::Explain(arguments) => explain::run(arguments),
        Verb::Link(Link::Plan(arguments)) => link::plan(arguments),
        Verb::Man(arguments) => pages::man(arguments),
        Verb::Matrix(arguments) => on_runtime(matrix::run(arguments, progress)),
        Verb::Demo(arguments) => on_runtime(demo::run(arguments, color, progress)),
        Verb::Sim(Sim::Run(arguments)) => on_runtime(sim::scenario::run(arguments, progress)),
        Verb::Sim(Sim::Up(arguments)) => on_runtime(sim::up(arguments, progress)),
        Verb::Sim(sim) => sim::run(sim, progress),
        Verb::Version => {
            output::print(&format!("floaterctl {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(OK)
        }
    }
}

/// Two threads: one for what waits for the network, one beside it for what computes.
fn on_runtime(verb: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Missing(format!("threads: {error}")))?;
    let outcome = runtime.block_on(verb);
    // What still waits for a cluster that does not answer is not waited for.
    runtime.shutdown_background();
    outcome
}
