//! Why a command ends without having done its work, and the exit code that says so.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | judged, and no finding at or above the bar of `--fail-on` |
//! | 1 | judged, and at least one such finding; or a step failed ([`Failure::Failed`]) |
//! | 2 | no fault found, but some of what was asked could not be judged |
//! | 64 | usage |
//! | 65 | bad input, with file, line and rule |
//! | 69 | nothing to work with |
//! | 130 | interrupted; everything the run created has been removed |

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

/// Judged, nothing at or above the bar.
pub const OK: u8 = 0;
/// Judged, a finding at or above the bar.
pub const FOUND: u8 = 1;
/// Nothing found, but not everything could be judged.
pub const UNJUDGED: u8 = 2;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// A file is wrong.
pub const INPUT: u8 = 65;
/// There is nothing to work with.
pub const MISSING: u8 = 69;
/// A signal ended the run.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do its work. One variant per exit code that a shell sees.
#[derive(Debug)]
pub enum Failure {
    /// Help or version was asked for, or the command line is wrong in clap's words.
    Clap(Box<clap::Error>),
    /// A step that should have worked did not.
    Failed(String),
    /// A file breaks a rule.
    Input {
        /// The file as the person named it; a lab's name for an unknown lab.
        file: String,
        /// The line, counted from 1, where one can be named.
        line: Option<u64>,
        /// The rule that it breaks.
        rule: String,
    },
    /// A signal ended the run after everything was removed.
    Interrupted {
        /// What could not be removed, and why; empty when all was.
        left: Vec<String>,
    },
    /// There is nothing to work with: no cluster answers, the kernel lacks something.
    Missing(String),
    /// The command line is wrong in this program's words.
    Usage(String),
}

impl Failure {
    /// A file that breaks a rule somewhere.
    pub fn input(file: impl Into<String>, line: Option<u64>, rule: impl fmt::Display) -> Self {
        Self::Input {
            file: file.into(),
            line,
            rule: rule.to_string(),
        }
    }

    /// The exit code of `CLI.md`; clap's own code for a wrong command line would be 2.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Clap(error) if error.use_stderr() => USAGE,
            Self::Clap(_) => OK,
            Self::Failed(_) => FOUND,
            Self::Input { .. } => INPUT,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Missing(_) => MISSING,
            Self::Usage(_) => USAGE,
        }
    }

    /// Prints it: help to stdout, everything else to stderr as one line that begins with `error: `.
    pub fn print(&self) {
        // A closed stdout or stderr is not worth a second failure.
        let _ = match self {
            Self::Clap(error) => error.print(),
            other => writeln!(std::io::stderr(), "error: {other}"),
        };
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clap(error) => f.write_str(one_line(error).as_str()),
            Self::Failed(text) | Self::Missing(text) | Self::Usage(text) => {
                f.write_str(&unbroken(text))
            }
            Self::Input { file, line, rule } => {
                f.write_str(file)?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                write!(f, ": {}", unbroken(rule))
            }
            Self::Interrupted { left } if left.is_empty() => {
                f.write_str("interrupted; everything that the run had made is removed")
            }
            Self::Interrupted { left } => {
                write!(
                    f,
                    "interrupted; not removed: {}",
                    unbroken(&left.join("; "))
                )
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Clap(Box::new(error))
    }
}

/// A writer's failure. A reader that went away (`floaterctl dr | head`) is the reader's choice, but the work is not done.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("writing the result: {error}"))
    }
}

impl From<simulator::Error> for Failure {
    fn from(error: simulator::Error) -> Self {
        use simulator::Error;
        match error {
            Error::Failed { .. } => Self::Failed(error.to_string()),
            Error::Input { file, line, rule } => Self::Input { file, line, rule },
            Error::Missing { .. } => Self::Missing(error.to_string()),
        }
    }
}

impl From<orchestrator::Error> for Failure {
    fn from(error: orchestrator::Error) -> Self {
        use orchestrator::Error;
        match error {
            Error::Input { file, line, rule } => Self::Input { file, line, rule },
            Error::Internal(why) => Self::Failed(why),
            Error::Interrupted { left } => Self::Interrupted { left },
            Error::Missing { .. } => Self::Missing(error.to_string()),
            Error::Usage(text) => Self::Usage(text),
        }
    }
}

/// What `main` returns.
pub type Outcome = Result<u8, Failure>;

/// Prints a failure and makes the process' exit code.
pub fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// The first sentence of clap's report, without its prefix.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut sentence = String::new();
    for line in text.lines() {
        if line.trim().is_empty() {
            break;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(line.trim());
    }
    sentence
        .strip_prefix("error: ")
        .unwrap_or(&sentence)
        .to_owned()
}

/// Scripts read one line an error.
fn unbroken(text: &str) -> String {
    text.split('\n')
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_names_file_line_and_rule() {
        let failure = Failure::input("a.yaml", Some(3), "unknown key\n`colour`\n");
        assert_eq!(failure.to_string(), "a.yaml:3: unknown key; `colour`");
        assert_eq!(failure.code(), 65);
        assert_eq!(
            Failure::input("lab", None, "no such lab").to_string(),
            "lab: no such lab"
        );
    }

    #[test]
    fn every_failure_has_the_code_of_the_contract() {
        for (failure, code) in [
            (Failure::Usage(String::new()), 64),
            (Failure::Missing(String::new()), 69),
            (Failure::Failed(String::new()), 1),
            (Failure::Interrupted { left: Vec::new() }, 130),
        ] {
            assert_eq!(failure.code(), code);
        }
    }
}
