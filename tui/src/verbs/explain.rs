//! `explain`: what a cause code or a finding means.

use orchestrator::{causes, explain};

use crate::cli::Explain;
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output;

pub(super) fn run(arguments: &Explain) -> Outcome {
    let subject = arguments.subject.as_str();
    let text = match &arguments.report {
        None => explain::code(&subject.to_ascii_uppercase()).ok_or_else(|| {
            Failure::Usage(format!(
                "`{subject}` is not a cause code (a finding needs --report REPORT.json); codes: {}",
                codes()
            ))
        })?,
        Some(file) => {
            let source = Source::read(file)?;
            let report = super::matrix::report(&source)?;
            explain::finding(&report, subject)
                .or_else(|| explain::code(&subject.to_ascii_uppercase()))
                .ok_or_else(|| {
                    let rule = format!(
                        "no finding of the report has the id `{subject}`, and it is no cause code"
                    );
                    Failure::input(&source.name, None, rule)
                })?
        }
    };
    output::print(&text)?;
    Ok(OK)
}

fn codes() -> String {
    let codes: Vec<&str> = causes::CATALOGUE.iter().map(|cause| cause.code).collect();
    codes.join(", ")
}
