//! `matrix`: who reaches whom, from a report or from a run.

use orchestrator::report::{self, Report};

use crate::app::Model;
use crate::cli::Matrix;
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::{output, terminal, view};

pub(super) fn run(arguments: &Matrix) -> Outcome {
    match &arguments.replay {
        Some(file) => show(report(&Source::read(file)?)?),
        None => Err(Failure::Usage("not available in this version".to_owned())),
    }
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
