//! What a cause code or a finding means, in words.

use std::fmt::Write as _;

use crate::causes;
use crate::report::{Finding, Report};

/// What a cause code means, what proves it and what to do; none where there is no such code.
#[must_use]
pub fn code(code: &str) -> Option<String> {
    let cause = causes::find(code)?;
    let note = if cause.found {
        ""
    } else {
        "\nThis version does not look for it; a finding may say that it cannot exclude it.\n"
    };
    Some(format!(
        "{}: {}\n\nWhat it means\n{}\n\nWhat proves it\n{}\n\nWhat to do\n{}\n{note}",
        cause.code,
        cause.title,
        indented(cause.meaning),
        indented(cause.proof),
        indented(cause.fix),
    ))
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
    Some(describe(found))
}

fn describe(finding: &Finding) -> String {
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
            finding.ambiguous_with.join(", ")
        );
    }
    if !finding.affects.is_empty() {
        text.push_str("\nAffects\n");
        for cell in &finding.affects {
            let _ = writeln!(text, "  {cell}");
        }
    }
    let _ = writeln!(
        text,
        "\nTo mend it (never run by this program)\n{}",
        indented(&finding.fix)
    );
    if let Some(about) = code(&finding.code) {
        text.push('\n');
        text.push_str(&about);
    }
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
            let text = super::code(cause.code).expect("catalogued");
            assert!(text.starts_with(cause.code));
            assert!(
                text.lines().all(|line| line.chars().count() <= 110),
                "{text}"
            );
        }
        assert_eq!(super::code("NO-SUCH-CODE"), None);
    }
}
