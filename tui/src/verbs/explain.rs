//! `explain`: what a cause code or a finding means.

use datapath::code::Code;
use orchestrator::{causes, explain};
use simulator::control;

use crate::cli::{CODES, Explain};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output;
use crate::spelling::nearest;

/// How many codes are suggested instead of a wrong one.
const SUGGESTED: usize = 3;

pub(super) fn run(arguments: &Explain) -> Outcome {
    output::print(&text(arguments)?)?;
    Ok(OK)
}

fn text(arguments: &Explain) -> Result<String, Failure> {
    let Some(subject) = arguments.subject.as_deref().filter(|_| !arguments.list) else {
        return Ok(list());
    };
    let code = subject.to_ascii_uppercase();
    let Some(file) = &arguments.report else {
        return explain::code(&code).ok_or_else(|| {
            Failure::Usage(format!(
                "`{subject}` is not a cause code; near it: {}; all: floaterctl explain --list; a finding needs --report REPORT.json",
                nearest(&code, CODES.into_iter(), SUGGESTED).join(", ")
            ))
        });
    };
    let source = Source::read(file)?;
    let report = super::matrix::report(&source)?;
    explain::finding(&report, subject)
        .or_else(|| explain::code(&code))
        .ok_or_else(|| {
            let rule =
                format!("no finding of the report has the id `{subject}`, and it is no cause code");
            Failure::input(&source.name, None, rule)
        })
}

/// Every code, what it is, and what this version can do with it: one line each.
fn list() -> String {
    let width = Code::ALL.iter().map(|code| code.word().len()).max();
    let width = width.unwrap_or(0);
    let injected = control::fault_list();
    let mut text =
        String::from("d: this version diagnoses it   i: sim fault inject can cause it\n");
    for cause in causes::CATALOGUE {
        let diagnosed = if cause.undiagnosed.is_none() {
            'd'
        } else {
            '-'
        };
        let can_be_injected = injected.contains(&cause.code);
        let injected = if can_be_injected { 'i' } else { '-' };
        text += &format!(
            "{:<width$}  {diagnosed}{injected}  {}\n",
            cause.code, cause.title
        );
    }
    text
}
