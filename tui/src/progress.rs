//! What is going on, on stderr: one live region on a terminal, lines where `-v` asks for them or there is no terminal, nothing with
//! `--quiet`. The one place that writes to stderr: a line is one printable line, and a stderr that cannot be written is never a reason
//! to fail.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datapath::printable::printable;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::{signals, terminal};

/// The most characters of a line.
const LONGEST: usize = 4096;
/// How often the region is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// The region that is drawn now.
static LIVE: Mutex<Option<Live>> = Mutex::new(None);

fn live() -> MutexGuard<'static, Option<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line with the phase and how far it is, and one with what it waits for.
struct Live {
    all: MultiProgress,
    phase: ProgressBar,
    waits: ProgressBar,
}

impl Live {
    fn new() -> Self {
        let all = MultiProgress::new();
        let phase = all.add(ProgressBar::new(0));
        let waits = all.add(ProgressBar::new(0));
        // The templates are constants; a default is as good as an error here.
        let plain = ProgressStyle::with_template("  {wide_msg}");
        waits.set_style(plain.unwrap_or_else(|_| ProgressStyle::default_bar()));
        phase.enable_steady_tick(TICK);
        Self { all, phase, waits }
    }

    fn begin(&self, what: String, total: Option<u64>) {
        let template = match total {
            Some(_) => "{elapsed:>4} {msg}  {pos} of {len}{left}",
            None => "{elapsed:>4} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.phase.set_style(style.with_key("left", left));
        }
        self.phase.set_length(total.unwrap_or(0));
        self.phase.set_position(0);
        self.phase.reset_eta();
        self.phase.set_message(what);
        self.waits.set_message("");
    }
}

/// The time that a phase will still take; nothing while no step was taken, when nobody knows.
fn left(state: &ProgressState, to: &mut dyn std::fmt::Write) {
    let steps = state.len().unwrap_or(0);
    if (1..steps).contains(&state.pos()) && state.per_sec() > 0.0 {
        // The text is in memory, which takes it.
        let _ = write!(to, ", {:#} left", HumanDuration(state.eta()));
    }
}

/// Who wants to know how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// One region, drawn again and again.
    Region,
    /// Lines, each of the many things that happen in a phase too where that is asked for.
    Lines { details: bool },
    /// Nothing.
    Quiet,
}

/// Says what is going on, with the time since the program started.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    since: Instant,
    manner: Manner,
}

impl Progress {
    /// For this process' stderr.
    #[must_use]
    pub fn new(verbose: u8, quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !terminal::is_dumb();
        Self {
            since: Instant::now(),
            manner: match (quiet, verbose) {
                (true, _) => Manner::Quiet,
                (false, 0) if is_terminal => Manner::Region,
                (false, _) => Manner::Lines {
                    details: verbose > 0,
                },
            },
        }
    }

    /// Whether nothing is to be said.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.manner == Manner::Quiet
    }

    /// Says what phase begins, and of how many steps it is where that is known.
    pub fn phase(&self, what: impl Display, steps: Option<usize>) {
        match self.manner {
            Manner::Quiet => {}
            Manner::Lines { .. } => self.line(what),
            Manner::Region => live().get_or_insert_with(Live::new).begin(
                printable(&what.to_string(), LONGEST).into_owned(),
                steps.and_then(|steps| u64::try_from(steps).ok()),
            ),
        }
    }

    /// Says what phase begins or has ended, without steps.
    pub fn say(&self, what: impl Display) {
        self.phase(what, None);
    }

    /// Says something that happened in a phase and that a person would want to have seen.
    pub fn note(&self, what: impl Display) {
        if !self.is_quiet() {
            self.line(what);
        }
    }

    /// One more step of the phase is done.
    pub fn step(&self) {
        if let (Manner::Region, Some(live)) = (self.manner, &*live()) {
            live.phase.inc(1);
        }
    }

    /// Says what the phase waits for; nothing for an empty text.
    pub fn waits(&self, what: impl Display) {
        if let (Manner::Region, Some(live)) = (self.manner, &*live()) {
            let text = printable(&what.to_string(), LONGEST).into_owned();
            live.waits.set_message(text);
        }
    }

    /// Says one of many things that happen in a phase.
    pub fn detail(&self, what: impl Display) {
        if self.manner == (Manner::Lines { details: true }) {
            self.line(what);
        }
    }

    fn line(&self, what: impl Display) {
        let seconds = self.since.elapsed().as_secs_f64();
        tell(format_args!("{seconds:6.2}s  {what}"));
    }
}

/// Takes the region away; what is said next begins on a line of its own.
pub fn end() {
    if let Some(live) = live().take() {
        live.phase.finish_and_clear();
        live.waits.finish_and_clear();
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
    let write = || std::io::stderr().lock().write_all(line.as_bytes());
    let written = match &*live() {
        Some(live) => live.all.suspend(write),
        None => write(),
    };
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
