//! `explain`: what a cause code or a finding means.

use orchestrator::{causes, explain};

use crate::cli::Explain;
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output;

/// How many codes are suggested in place of a wrong one.
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
                nearest(&code).join(", ")
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

/// Every code and what it is, one line each.
fn list() -> String {
    let codes = causes::CATALOGUE.iter();
    let width = codes.map(|cause| cause.code.word().len()).max();
    let width = width.unwrap_or(0);
    causes::CATALOGUE
        .iter()
        .map(|cause| format!("{:<width$}  {}\n", cause.code, cause.title))
        .collect()
}

/// The codes that are most like a word: those that share one of its parts, then those that need the fewest changes.
fn nearest(word: &str) -> Vec<&'static str> {
    let parts: Vec<&str> = word.split('-').filter(|part| part.len() > 1).collect();
    let mut codes: Vec<&str> = causes::CATALOGUE
        .iter()
        .map(|cause| cause.code.word())
        .collect();
    codes.sort_by_key(|code| {
        let shared = code.split('-').filter(|part| parts.contains(part)).count();
        (std::cmp::Reverse(shared), distance(word, code))
    });
    codes.truncate(SUGGESTED);
    codes
}

/// How many letters have to be put in, left out or changed.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A word of any length comes from the command line, and no code is this long.
    for (at, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        for (word, code) in [
            ("FDB-MISING", "FDB-MISSING"),
            ("GATEWAYDOWN", "GATEWAY-DOWN"),
            ("MISSING-ROUTE", "ROUTE-MISSING"),
        ] {
            let near = nearest(word);
            assert!(near.contains(&code), "{word}: {near:?}");
        }
    }
}
