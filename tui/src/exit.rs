//! Why a command ends without having done its work, and the exit code that says so.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | judged, and no finding at or above the bar of `--fail-on` |
//! | 1 | judged, and at least one such finding; nothing else gives this code |
//! | 2 | no fault found, but some of what was asked could not be judged |
//! | 64 | usage |
//! | 65 | bad input, with file, line and rule |
//! | 69 | nothing to work with |
//! | 70 | this program itself failed; what could be written is written |
//! | 74 | an output could not be written; the findings are on the other outputs |
//! | 130 | interrupted; everything the run created has been removed |

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::progress;

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
/// This program itself failed.
pub const INTERNAL: u8 = 70;
/// An output could not be written.
pub const OUTPUT: u8 = 74;
/// A signal ended the run.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do its work. One variant per exit code that a shell sees.
#[derive(Debug)]
pub enum Failure {
    /// Help or version was asked for, or the command line is wrong in clap's words.
    Clap(Box<clap::Error>),
    /// This program itself failed: a step that should have worked did not, or a panic was caught.
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
    /// An output could not be written.
    Output {
        /// Its file, or `stdout`.
        name: String,
        /// Why not.
        why: String,
    },
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
            Self::Failed(_) => INTERNAL,
            Self::Input { .. } => INPUT,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Missing(_) => MISSING,
            Self::Output { .. } => OUTPUT,
            Self::Usage(_) => USAGE,
        }
    }

    /// An output that could not be written.
    pub fn output(name: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Output {
            name: name.into(),
            why: why.to_string(),
        }
    }

    /// Prints it - help to stdout, everything else to stderr as one line that begins with `error: ` - and gives the exit code.
    pub fn report(&self) -> u8 {
        match self {
            // In clap's words and colours.
            Self::Clap(error) => match error.print() {
                // Whoever closed the pipe has read enough of a page; of an error nobody can be told any more.
                Err(why) if why.kind() != ErrorKind::BrokenPipe && !error.use_stderr() => {
                    Self::output("stdout", why).report()
                }
                _ => self.code(),
            },
            other => {
                progress::end();
                progress::tell(format_args!("error: {other}"));
                self.code()
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clap(error) => f.write_str(one_line(error).as_str()),
            Self::Failed(text) | Self::Missing(text) | Self::Usage(text) => {
                f.write_str(&unbroken(text))
            }
            Self::Output { name, why } => {
                write!(f, "{name} could not be written: {}", unbroken(why))
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

impl From<datapath::error::Error> for Failure {
    fn from(error: datapath::error::Error) -> Self {
        use datapath::error::Error;
        match error {
            Error::Input { file, line, rule } => Self::Input { file, line, rule },
            Error::Output { name, why } => Self::Output {
                name,
                why: why.to_string(),
            },
            other if other.exit_code() == MISSING => Self::Missing(other.problem().rule),
            other => Self::Failed(other.problem().rule),
        }
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
    ExitCode::from(match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    })
}

/// Has panics say in one line what happened and where, by the writer that never panics itself; with a backtrace where
/// `RUST_BACKTRACE` asks for one.
pub fn describe_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {place}"));
        progress::tell(format_args!(
            "panic{}: {}",
            place.unwrap_or_default(),
            message(panic.payload())
        ));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(progress::tell);
        }
    }));
}

/// Does something whose panic is a failure as others are; [`describe_panics`] has told it already.
///
/// # Errors
/// The work's own, and [`Failure::Failed`] for a panic.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // Nothing that the work has left half done is looked at afterwards.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Failure::Failed(format!(
            "internal error: {}",
            message(&*panic)
        )))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
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
            (Failure::Failed(String::new()), 70),
            (Failure::output("stdout", "full"), 74),
            (Failure::Interrupted { left: Vec::new() }, 130),
        ] {
            assert_eq!(failure.code(), code);
        }
    }

    #[test]
    fn a_panic_is_an_internal_failure_and_not_a_finding() {
        let caught = guarded(|| -> Outcome { panic!("{} of {}", 3, 2) });
        let failure = caught.expect_err("it panicked");
        assert_eq!(failure.to_string(), "internal error: 3 of 2");
        assert_eq!(failure.code(), 70);
        assert_eq!(guarded(|| Ok(2)).expect("no panic"), 2);
    }

    #[test]
    fn an_output_that_failed_is_named() {
        let failure = Failure::output("report.json", "No space left on device");
        assert_eq!(
            failure.to_string(),
            "report.json could not be written: No space left on device"
        );
    }
}
