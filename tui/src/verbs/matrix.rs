//! `matrix`: who reaches whom, from a report or from a run.

use orchestrator::report::{self, Report};

use super::dr;
use crate::app::Model;
use crate::cli::Matrix;
use crate::cli::diagnosis::{Inventory, Judge};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::progress::Progress;
use crate::signals::Interrupt;
use crate::{output, terminal, view};

/// From a report of an earlier run.
pub(super) fn replay(file: &std::path::Path) -> Outcome {
    show(report(&Source::read(file)?)?)
}

/// From a run of now.
pub(super) async fn live(arguments: &Matrix, progress: Progress) -> Outcome {
    if arguments.inventory == Inventory::default() && std::env::var_os("KUBECONFIG").is_none() {
        return Err(Failure::Usage(
            "matrix needs an inventory (--kubeconfig, --sim, ... as dr), or --replay REPORT.json"
                .to_owned(),
        ));
    }
    let interrupt = Interrupt::catch()?;
    let inventory = dr::of(&arguments.inventory)?;
    let judge = Judge::default();
    let options = dr::options(inventory, &arguments.what, &arguments.how, &judge, progress);
    let report = dr::diagnose(options, &interrupt).await?;
    // The view waits for keys on a thread of its own, and the signals still are ours.
    tokio::task::spawn_blocking(move || show(report))
        .await
        .map_err(|error| Failure::Failed(format!("the view: {error}")))?
}

/// A report from a file.
pub(super) fn report(source: &Source) -> Result<Report, Failure> {
    report::parse(&source.text, &source.name)
        .map_err(|error| Failure::input(error.file, error.line, error.rule))
}

/// A terminal gets the view, a pipe the text. Looking at a report judges nothing, so the exit code is 0.
fn show(report: Report) -> Outcome {
    if terminal::is_interactive() {
        terminal::show(&mut Model::new(report))
            .map_err(|error| Failure::Missing(format!("the terminal cannot be used: {error}")))?;
    } else {
        output::print(&view::plain(&report))?;
    }
    Ok(OK)
}
