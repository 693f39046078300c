//! JUnit's XML, as continuous integration reads it: one test case per cell, or per expectation of a scenario.

use std::fmt::Write as _;

use orchestrator::report::{CellVerdict, Report, layer_word};

/// A test suite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What was tested.
    pub cases: Vec<Case>,
}

/// A test case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The group it belongs to.
    pub class: String,
    /// Its name in the group.
    pub name: String,
    /// What came of it.
    pub result: CaseResult,
}

/// What came of a test case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseResult {
    /// It failed: one line, then everything.
    Failed(String, String),
    /// It passed.
    Passed,
    /// It could not be judged, and why.
    Skipped(String),
}

/// The suites as one document.
#[must_use]
pub fn render(suites: &[Suite]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in suites {
        let failed = |case: &&Case| matches!(case.result, CaseResult::Failed(..));
        let skipped = |case: &&Case| matches!(case.result, CaseResult::Skipped(_));
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">",
            escaped(&suite.name),
            suite.cases.len(),
            suite.cases.iter().filter(failed).count(),
            suite.cases.iter().filter(skipped).count(),
            suite.seconds
        );
        for case in &suite.cases {
            let (class, name) = (escaped(&case.class), escaped(&case.name));
            let _ = write!(xml, "    <testcase classname=\"{class}\" name=\"{name}\"");
            let _ = match &case.result {
                CaseResult::Passed => writeln!(xml, "/>"),
                CaseResult::Failed(line, all) => writeln!(
                    xml,
                    ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>",
                    escaped(line),
                    escaped(all)
                ),
                CaseResult::Skipped(why) => writeln!(
                    xml,
                    ">\n      <skipped message=\"{}\"/>\n    </testcase>",
                    escaped(why)
                ),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// A report as one suite with a case per cell.
#[must_use]
pub fn of_report(report: &Report) -> String {
    let cases = report
        .cells
        .iter()
        .map(|cell| {
            let explained = |line: String| {
                let mut all = line.clone();
                for finding in report
                    .findings
                    .iter()
                    .filter(|finding| cell.findings.contains(&finding.id))
                {
                    let _ = write!(
                        all,
                        "\n{} at {}: {}",
                        finding.code,
                        finding.element.place(),
                        finding.summary
                    );
                }
                CaseResult::Failed(line, all)
            };
            let counts = format!("{} of {} answered", cell.received, cell.sent);
            Case {
                class: format!("{} {}", layer_word(cell.layer), cell.family),
                name: format!("{} to {}", cell.src, cell.dst),
                result: match cell.verdict {
                    CellVerdict::Pass => CaseResult::Passed,
                    CellVerdict::Fail => explained(format!("fails: {counts}")),
                    CellVerdict::Degraded => explained(format!("degraded: {counts}")),
                    CellVerdict::Unknown => CaseResult::Skipped("could not be judged".to_owned()),
                },
            }
        })
        .collect();
    render(&[Suite {
        name: "floater".to_owned(),
        seconds: report.run.seconds,
        cases,
    }])
}

/// Text of XML 1.0, where most control characters cannot be written at all.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(c),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_count_and_escape() {
        let case = |name: &str, result| Case {
            class: "a".to_owned(),
            name: name.to_owned(),
            result,
        };
        let xml = render(&[Suite {
            name: "x".to_owned(),
            seconds: 1.25,
            cases: vec![
                case("1", CaseResult::Passed),
                case(
                    "2",
                    CaseResult::Failed("<\"&\u{1}>".to_owned(), "all".to_owned()),
                ),
                case("3", CaseResult::Skipped("why".to_owned())),
            ],
        }]);
        assert!(
            xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"1.250\""),
            "{xml}"
        );
        assert!(
            xml.contains("message=\"&lt;&quot;&amp;\u{fffd}&gt;\""),
            "{xml}"
        );
    }
}
