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

pub(super) async fn run(arguments: &Matrix, progress: Progress) -> Outcome {
    let report = match &arguments.replay {
        Some(file) => report(&Source::read(file)?)?,
        None => live(arguments, progress).await?,
    };
    show(report).await
}

/// From a run of now.
async fn live(arguments: &Matrix, progress: Progress) -> Result<Report, Failure> {
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
    dr::diagnose(options, &interrupt).await
}

/// A report from a file.
pub(super) fn report(source: &Source) -> Result<Report, Failure> {
    report::parse(&source.text, &source.name)
        .map_err(|error| Failure::input(error.file, error.line, error.rule))
}

/// A terminal gets the view, a pipe the text. Looking at a report judges nothing, so the exit code is 0.
async fn show(report: Report) -> Outcome {
    if !terminal::is_interactive() {
        output::print(&view::plain(&report))?;
        return Ok(OK);
    }
    let interrupt = Interrupt::catch()?;
    let view = tokio::task::spawn_blocking(move || terminal::show(&mut Model::new(report)));
    tokio::select! {
        shown = view => {
            let shown = shown.map_err(|error| Failure::Failed(format!("the view: {error}")))?;
            shown.map_err(|error| Failure::Missing(format!("the terminal cannot be used: {error}")))?;
            Ok(OK)
        }
        // The view waits for a key on its thread, so it cannot give the terminal back itself.
        () = interrupt.come() => {
            terminal::give_back();
            Err(Failure::Interrupted { left: Vec::new() })
        }
    }
}
