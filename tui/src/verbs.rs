//! What the verbs do. One module each; what two of them need is beside them.

mod demo;
mod dr;
mod explain;
mod link;
mod matrix;
mod pages;
mod path;
mod sim;

use crate::cli::link::Link;
use crate::cli::sim::Sim;
use crate::cli::{Cli, Verb};
use crate::exit::{self, Failure, OK, Outcome};
use crate::output;
use crate::progress::{self, Progress};
use crate::signals::{Held, Interrupt};
use crate::terminal;

/// Does what was asked. Whatever makes something catches the signals first; the others may be ended by them at any moment.
///
/// # Errors
/// Why it could not be done; see [`Failure::code`].
pub fn run(cli: &Cli, held: Held) -> Outcome {
    let progress = Progress::new(cli.global.verbose, cli.global.quiet);
    // A view has the whole screen: lines of logs would be written across it.
    let is_view = matches!(cli.verb, Verb::Matrix(_)) && terminal::is_interactive();
    if cli.global.verbose > 1 && !is_view {
        progress::log();
    }
    let color = cli.global.color.unwrap_or_default().for_stdout();
    if is_view {
        ratatui::crossterm::style::force_color_output(color);
    }
    match &cli.verb {
        Verb::Analyse(arguments) => on_runtime(held, async |interrupt| {
            dr::analyse(arguments, color, progress, &interrupt).await
        }),
        Verb::Completions(arguments) => pages::completions(arguments.shell),
        Verb::Dr(arguments) | Verb::Check(arguments) => match arguments.schema {
            Some(version) => dr::schema(version),
            None => on_runtime(held, async |interrupt| {
                dr::run(arguments, color, progress, &interrupt).await
            }),
        },
        Verb::Explain(arguments) => explain::run(arguments),
        Verb::Link(Link::Plan(arguments)) => link::plan(arguments),
        Verb::Link(deed) => on_runtime(held, async |interrupt| match deed {
            Link::Plan(arguments) => link::plan(arguments),
            Link::Install(arguments) => link::install(arguments, color, progress, &interrupt).await,
            Link::Join(arguments) => link::join(arguments, color, progress, &interrupt).await,
            Link::Unjoin(arguments) => link::unjoin(arguments, progress, &interrupt).await,
            Link::Uninstall(arguments) => link::uninstall(arguments, progress, &interrupt).await,
            Link::Status(arguments) => link::status(arguments, &interrupt).await,
            Link::Upgrade(arguments) => link::upgrade(arguments, progress, &interrupt).await,
        }),
        Verb::Man(arguments) => pages::man(arguments),
        Verb::Matrix(arguments) => on_runtime(held, async |interrupt| {
            matrix::run(arguments, progress, &interrupt).await
        }),
        Verb::Path(arguments) => on_runtime(held, async |interrupt| {
            path::run(arguments, progress, &interrupt).await
        }),
        Verb::Demo(arguments) => on_runtime(held, async |interrupt| {
            demo::run(arguments, color, progress, &interrupt).await
        }),
        Verb::Sim(Sim::Run(arguments)) => on_runtime(held, async |interrupt| {
            sim::scenario::run(arguments, progress, &interrupt).await
        }),
        Verb::Sim(Sim::Up(arguments)) => on_runtime(held, async |interrupt| {
            sim::up(arguments, progress, &interrupt).await
        }),
        Verb::Sim(sim) => {
            // A program that this one becomes must find the signals as they were.
            drop(held);
            sim::run(sim, progress)
        }
        Verb::Version => {
            output::print(&format!("floaterctl {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(OK)
        }
    }
}

/// Two threads: one for what waits for the network, one beside it for what computes.
fn on_runtime(held: Held, verb: impl AsyncFnOnce(Interrupt) -> Outcome) -> Outcome {
    let interrupt = held
        .catch()
        .map_err(|error| Failure::Missing(format!("cannot handle signals: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Missing(format!("cannot start threads: {error}")))?;
    let outcome = exit::guarded(|| runtime.block_on(verb(interrupt)));
    // What still waits for a cluster that does not answer is not waited for.
    runtime.shutdown_background();
    outcome
}
