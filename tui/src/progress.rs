//! What is going on, one line at a time on stderr: on a terminal, or where `-v` asks for it.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Writes lines with the time since the program started.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    since: Instant,
    wanted: bool,
}

impl Progress {
    /// For this process' stderr.
    #[must_use]
    pub fn new(verbose: u8) -> Self {
        Self {
            since: Instant::now(),
            wanted: verbose > 0 || std::io::stderr().is_terminal(),
        }
    }

    /// Says something.
    pub fn say(&self, what: impl Display) {
        if self.wanted {
            let seconds = self.since.elapsed().as_secs_f64();
            // Nobody reads it any more: then there is nothing to say.
            let _ = writeln!(std::io::stderr(), "{seconds:6.2}s  {what}");
        }
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
        .try_init();
}

/// Says what somebody waits for, wanted or not.
pub fn tell(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Says something that a person has to know, wanted or not.
pub fn warn(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "warning: {what}");
}
