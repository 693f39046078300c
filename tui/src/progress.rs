//! What is going on, one line at a time on stderr: phases on a terminal, everything where `-v` asks for it, nothing with
//! `--quiet`. The one place that writes to stderr: a line is one printable line, and a stderr that cannot be written is
//! never a reason to fail.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::time::Instant;

use datapath::printable::printable;

use crate::signals;

/// The most characters of a line.
const LONGEST: usize = 4096;

/// Writes lines with the time since the program started.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    since: Instant,
    phases: bool,
    details: bool,
}

impl Progress {
    /// For this process' stderr.
    #[must_use]
    pub fn new(verbose: u8, quiet: bool) -> Self {
        Self {
            since: Instant::now(),
            phases: !quiet && (verbose > 0 || std::io::stderr().is_terminal()),
            details: !quiet && verbose > 0,
        }
    }

    /// Says what phase begins or has ended.
    pub fn say(&self, what: impl Display) {
        if self.phases {
            self.line(what);
        }
    }

    /// Says one of many things that happen in a phase.
    pub fn detail(&self, what: impl Display) {
        if self.details {
            self.line(what);
        }
    }

    fn line(&self, what: impl Display) {
        let seconds = self.since.elapsed().as_secs_f64();
        tell(format_args!("{seconds:6.2}s  {what}"));
    }
}

/// Lets the crates below say on stderr what they do. Only ours: other people's may log what a kubeconfig holds.
pub fn log() {
    let ours = "datapath=debug,floater=debug,netns_harness=debug,orchestrator=debug,simulator=debug,tui=debug";
    // Somebody else's subscriber is as good.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new(ours))
        .without_time()
        // It would say so on the same stderr, in a way that panics.
        .log_internal_errors(false)
        .try_init();
}

/// Says what somebody waits for, wanted or not.
pub fn tell(what: impl Display) {
    let line = format!("{}\n", printable(&what.to_string(), LONGEST));
    let written = std::io::stderr().lock().write_all(line.as_bytes());
    // A full disk takes no messages and hurts no run. A reader or a terminal that is gone will not see the report either.
    if let Err(error) = written
        && (error.kind() == ErrorKind::BrokenPipe
            || error.raw_os_error() == Some(nix::errno::Errno::EIO as i32))
    {
        signals::nobody_listens();
    }
}

/// Says something that a person has to know, wanted or not.
pub fn warn(what: impl Display) {
    tell(format_args!("warning: {what}"));
}
