//! A report in the forms of `-o`.

pub mod dot;
pub mod junit;

use orchestrator::report::{Report, Severity, json, kosmos_table, table};

use crate::cli::diagnosis::{FailOn, Judge};
use crate::exit::{self, Failure};
use crate::output::{self, Format, Output};
use crate::progress;

/// The report in one form. `kosmos` and `color` only touch tables.
///
/// # Errors
/// [`Failure::Failed`] where it cannot be made.
pub fn text(report: &Report, format: Format, kosmos: bool, color: bool) -> Result<String, Failure> {
    Ok(match format {
        Format::Dot => dot::render(report),
        Format::Json => json::write(report),
        Format::Junit => junit::of_report(report)
            .map_err(|error| Failure::Failed(format!("writing JUnit: {error}")))?,
        Format::Table | Format::Wide if kosmos => kosmos_table(report),
        Format::Table => table::render(report, false, color),
        Format::Wide => table::render(report, true, color),
    })
}

/// Writes a report in every form that was asked for; a table on stdout where none was. `node_rows` says whether JSON has
/// the rows per pair of nodes.
///
/// # Errors
/// [`Failure::Output`] naming what could not be written, [`Failure::Failed`] for a form that could not be made; the others are
/// written all the same.
pub fn write(report: &Report, judge: &Judge, node_rows: bool, color: bool) -> Result<(), Failure> {
    // Rows that only another form needs are no part of the data: one `-o` does not change another.
    let data = (!node_rows && !report.node_rows.is_empty()).then(|| Report {
        node_rows: Vec::new(),
        ..report.clone()
    });
    let default = [Output::stdout(Format::Table)];
    let outputs = if judge.output.is_empty() {
        &default[..]
    } else {
        &judge.output
    };
    let mut failed = None;
    for output in outputs {
        let color = color && output.file.is_none();
        let report = match output.format {
            Format::Json => data.as_ref().unwrap_or(report),
            _ => report,
        };
        let written = exit::guarded(|| {
            let text = text(report, output.format, judge.kosmos, color)?;
            output::write(output, &text)
        });
        match (written, &failed) {
            (Ok(()), _) => {}
            (Err(failure), None) => failed = Some(failure),
            // The exit code is the first one's, but each is named.
            (Err(failure), Some(_)) => progress::warn(failure),
        }
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
