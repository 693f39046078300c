//! JUnit's XML, as continuous integration reads it: one test case per cell, or per expectation of a scenario.

use std::time::Duration;

use orchestrator::matrix::verdict_word;
use orchestrator::report::json::PACK_ABOVE;
use orchestrator::report::{Cell, CellId, CellVerdict, Finding, Report, layer_word};
use quick_junit::{NonSuccessKind, SerializeError, TestCase, TestCaseStatus, TestSuite};

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
///
/// # Errors
/// The writer's.
pub fn render(suites: &[Suite]) -> Result<String, SerializeError> {
    let mut document = quick_junit::Report::new("floater");
    for suite in suites {
        let mut written = TestSuite::new(&suite.name);
        // A report from outside may have taken any time.
        written.set_time(Duration::try_from_secs_f64(suite.seconds).unwrap_or_default());
        written.add_test_cases(suite.cases.iter().map(|case| {
            let status = match &case.result {
                CaseResult::Passed => TestCaseStatus::success(),
                CaseResult::Failed(line, all) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(line).set_description(all);
                    status
                }
                CaseResult::Skipped(why) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(why);
                    status
                }
            };
            let mut written = TestCase::new(&case.name, status);
            written.set_classname(&case.class);
            written
        }));
        document.add_test_suite(written);
    }
    document.to_string()
}

/// A report as one suite: a case per cell, or in a large fleet one per cell that does not pass and one for all the others of a layer and
/// family.
///
/// # Errors
/// The writer's.
pub fn of_report(report: &Report) -> Result<String, SerializeError> {
    let cases = if report.clusters.len() <= PACK_ABOVE {
        report.cells().map(|cell| case(report, &cell)).collect()
    } else {
        let troubles = report.cells.planes().iter().flat_map(|plane| {
            plane.troubles().filter_map(|(src, dst, _)| {
                let id = CellId {
                    src: u32::try_from(src).ok()?,
                    dst: u32::try_from(dst).ok()?,
                    layer: plane.layer,
                    family: plane.family,
                };
                report.cell(id).map(|cell| case(report, &cell))
            })
        });
        let others = report.cells.planes().iter().map(|plane| Case {
            class: plane.title(),
            name: format!(
                "{} other cells",
                plane.cells().count() - plane.troubles().count()
            ),
            result: CaseResult::Passed,
        });
        troubles.chain(others).collect()
    };
    render(&[Suite {
        name: "floater".to_owned(),
        seconds: report.run.seconds,
        cases,
    }])
}

fn case(report: &Report, cell: &Cell<'_>) -> Case {
    let counts = format!(
        "{}: {} of {} answered",
        verdict_word(cell.verdict),
        cell.received,
        cell.sent
    );
    let explained = || {
        let mut all = counts.clone();
        let named = |finding: &&Finding| cell.findings.contains(&finding.id.as_str());
        for finding in report.findings.iter().filter(named) {
            all += &format!(
                "\n{} at {}: {}",
                finding.code,
                finding.element.place(),
                finding.summary
            );
        }
        all
    };
    Case {
        class: format!("{} {}", layer_word(cell.layer), cell.family),
        name: format!("{} to {}", cell.src, cell.dst),
        result: match cell.verdict {
            CellVerdict::Pass => CaseResult::Passed,
            CellVerdict::Fail | CellVerdict::Degraded => {
                CaseResult::Failed(counts.clone(), explained())
            }
            CellVerdict::Unknown => CaseResult::Skipped("could not be judged".to_owned()),
        },
    }
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
        }])
        .expect("text");
        for part in [
            "tests=\"3\"",
            "failures=\"1\"",
            "errors=\"0\"",
            "time=\"1.250\"",
            "message=\"&lt;&quot;&amp;&gt;\"",
        ] {
            assert!(xml.contains(part), "no {part} in {xml}");
        }
        let endless = Suite {
            seconds: f64::INFINITY,
            ..Suite::default()
        };
        assert!(render(&[endless]).is_ok());
    }
}
