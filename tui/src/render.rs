//! A report in the forms of `-o`.

pub mod dot;
pub mod junit;

use orchestrator::report::table::{COLUMNS, Look};
use orchestrator::report::{Report, Severity, json, kosmos_table, table};

use crate::cli::diagnosis::{FailOn, Judge};
use crate::exit::{self, Failure};
use crate::output::{self, Format, Output};
use crate::progress::{self, Progress};
use crate::terminal;

/// Writes the report in one form to where it belongs. `node_rows` says whether JSON has the rows per pair of nodes: rows that only
/// another form needs are no part of the data.
///
/// # Errors
/// [`Failure::Output`], and [`Failure::Failed`] where the form cannot be made.
fn to(
    report: &Report,
    output: &Output,
    kosmos: bool,
    node_rows: bool,
    color: bool,
) -> Result<(), Failure> {
    let look = |wide| Look {
        wide,
        color: color && output.file.is_none(),
        width: if output.file.is_none() {
            terminal::columns()
        } else {
            COLUMNS
        },
    };
    match output.format {
        Format::Dot => output::write(output, &dot::render(report)),
        Format::Json => output::stream(output, |to| json::write(report, node_rows, to)),
        Format::Junit => {
            let text = junit::of_report(report)
                .map_err(|error| Failure::Failed(format!("writing JUnit: {error}")))?;
            output::write(output, &text)
        }
        Format::Table | Format::Wide if kosmos => output::write(output, &kosmos_table(report)),
        Format::Table => output::write(output, &table::render(report, look(false))),
        Format::Wide => output::write(output, &table::render(report, look(true))),
    }
}

/// Writes a report in every form that was asked for; a table on stdout where none was. Where no table is on stdout the verdict is said
/// on stderr. `node_rows` says whether JSON has the rows per pair of nodes.
///
/// # Errors
/// [`Failure::Output`] naming what could not be written, [`Failure::Failed`] for a form that could not be made; the others are
/// written all the same.
pub fn write(
    report: &Report,
    judge: &Judge,
    node_rows: bool,
    color: bool,
    progress: Progress,
) -> Result<(), Failure> {
    let default = [Output::stdout(Format::Table)];
    let outputs = if judge.output.is_empty() {
        &default[..]
    } else {
        &judge.output
    };
    progress::end();
    let mut failed = None;
    for output in outputs {
        let written = exit::guarded(|| to(report, output, judge.kosmos, node_rows, color));
        match (written, &failed) {
            (Ok(()), _) => {}
            (Err(failure), None) => failed = Some(failure),
            // The exit code is the first one's, but each is named.
            (Err(failure), Some(_)) => progress::warn(failure),
        }
    }
    let shows = |output: &Output| output.file.is_none() && !output.format.is_data();
    if !progress.is_quiet() && !outputs.iter().any(shows) {
        progress::tell(format_args!("Verdict: {}", table::sentence(report)));
    }
    failed.map_or(Ok(()), Err)
}

/// Whether rows per pair of nodes are needed.
#[must_use]
pub fn wants_node_rows(judge: &Judge) -> bool {
    judge.kosmos
        || judge
            .output
            .iter()
            .any(|output| output.format == Format::Wide)
}

/// The exit code of a judged run.
#[must_use]
pub fn exit_code(report: &Report, bar: FailOn) -> u8 {
    let bar = match bar {
        FailOn::Error => Severity::Error,
        FailOn::Warning => Severity::Warning,
        FailOn::Info => Severity::Info,
    };
    orchestrator::run::exit_code(report, bar)
}
