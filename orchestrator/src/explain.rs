//! What a cause code or a finding means, in words.

use std::fmt::Write as _;

use datapath::code::Code;
use datapath::element::quoted;

use crate::causes;
use crate::report::{Finding, Report, Step};

/// What a cause code means, what proves it and what to do; none where there is no such code.
#[must_use]
pub fn code(code: &str) -> Option<String> {
    code.parse().ok().map(about)
}

fn about(code: Code) -> String {
    let cause = causes::find(code);
    let note = cause.undiagnosed.map_or_else(String::new, |why| {
        format!(
            "\nNot looked for by this version\n{}\n",
            indented(&format!(
                "{why}; a finding may say that it cannot exclude it"
            ))
        )
    });
    format!(
        "{}: {}\n\nWhat it means\n{}\n\nWhat proves it\n{}\n\nWhat to do\n{}\n{note}",
        cause.code,
        cause.title,
        indented(cause.meaning),
        indented(cause.proof),
        indented(cause.fix),
    )
}

/// A finding of a report with its evidence, by id (or by the beginning of one that only it has); none where there is no such finding.
#[must_use]
pub fn finding(report: &Report, id: &str) -> Option<String> {
    let mut matching = report
        .findings
        .iter()
        .filter(|finding| !id.is_empty() && finding.id.starts_with(id));
    let found = matching.next()?;
    if matching.next().is_some() && found.id != id {
        return None;
    }
    Some(describe(report, found))
}

fn describe(report: &Report, finding: &Finding) -> String {
    let mut text = format!(
        "{} {} at {}\n{}\n",
        finding.id,
        finding.code,
        finding.element.place(),
        indented(&finding.summary)
    );
    if !finding.evidence.is_empty() {
        text.push_str("\nEvidence\n");
        for evidence in &finding.evidence {
            let _ = writeln!(
                text,
                "  {:<7} {}: {}",
                evidence.kind.word(),
                evidence.source,
                evidence.text
            );
        }
    }
    if !finding.ambiguous_with.is_empty() {
        let _ = writeln!(
            text,
            "\nCannot be told apart from\n  {}",
            finding.alternatives()
        );
    }
    if !finding.affects.is_empty() {
        text.push_str("\nAffects\n");
        for &cell in &finding.affects {
            let _ = writeln!(text, "  {}", report.name(cell));
        }
    }
    text.push_str("\nHow to fix it (not run automatically)\n");
    for step in finding.fix.steps() {
        let _ = match step {
            Step::Advice(advice) => writeln!(text, "{}", indented(advice)),
            // Whole and on a line of its own, so that it can be pasted.
            Step::Command { place, argv } => match place {
                Some(place) => writeln!(text, "  on {place}:\n  {}", quoted(argv)),
                None => writeln!(text, "  {}", quoted(argv)),
            },
        };
    }
    text.push('\n');
    text.push_str(&about(finding.code));
    text
}

/// Broken into lines of at most 76 characters, each two spaces in.
fn indented(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > 76 {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_code_is_explained_and_nothing_else() {
        for cause in crate::causes::CATALOGUE {
            let text = super::code(&cause.code.word().to_lowercase()).expect("catalogued");
            assert!(text.starts_with(cause.code.word()));
            assert!(
                text.lines().all(|line| line.chars().count() <= 110),
                "{text}"
            );
        }
        assert_eq!(super::code("NO-SUCH-CODE"), None);
    }
}
