//! Where measures are taken: a state folder of their own, one program at a time with its time and peak memory, and no lab left
//! behind on any way out that a process can see.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::measured::status_kib;
use crate::gate::enter;

/// The hidden first argument that makes the gate run the rest and print its peak memory.
pub(crate) const PEAK: &str = "__peak";
/// The exit code after an interruption.
const INTERRUPTED: i32 = 130;

/// A finished program.
pub(crate) struct Once {
    /// From its start until its end.
    pub(crate) took: Duration,
    /// The peak of its resident memory, KiB.
    pub(crate) peak_kib: Option<u64>,
    /// None where a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: Vec<u8>,
    /// What it said beside it.
    pub(crate) stderr: String,
}

/// The folder, the program and what runs now.
pub(crate) struct Workshop {
    place: Arc<Place>,
}

struct Place {
    program: PathBuf,
    folder: PathBuf,
    /// The group of the program that runs.
    running: Mutex<Option<Pid>>,
}

impl Place {
    /// While this is held nothing is started and nothing is waited for to its end.
    fn running(&self) -> MutexGuard<'_, Option<Pid>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.folder.join("home"))
            .env("XDG_RUNTIME_DIR", &self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Takes every lab down and the folder away.
    fn clear(&self) {
        let down = self
            .command(self.program.as_os_str())
            .args(["sim", "down", "--all"])
            .output();
        match down {
            Ok(output) if output.status.success() => {
                let _ = std::fs::remove_dir_all(&self.folder);
            }
            // Its state is what a person needs to take the lab down by hand.
            Ok(output) => eprintln!(
                "gate: sim down --all ended with {}; the state is in {}",
                output.status,
                self.folder.display()
            ),
            Err(error) => eprintln!("gate: sim down --all does not start: {error}"),
        }
    }
}

impl Workshop {
    /// An empty folder for a program. From now on an interruption clears it before the gate ends; the calling thread has to be the
    /// only one.
    ///
    /// # Errors
    /// That it cannot be made.
    pub(crate) fn new(program: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("floater-bench-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("home"))
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let place = Arc::new(Place {
            program: program.to_owned(),
            folder,
            running: Mutex::new(None),
        });
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        // Children begin without this mask; the standard library empties it.
        signals.thread_block().map_err(|error| error.to_string())?;
        let watched = Arc::clone(&place);
        std::thread::spawn(move || {
            let Ok(signal) = signals.wait() else {
                return;
            };
            eprintln!("gate: {signal}: taking down what was built");
            let running = watched.running();
            if let Some(group) = *running {
                // One that has ended meanwhile has nothing to kill.
                let _ = killpg(group, Signal::SIGKILL);
            }
            watched.clear();
            std::process::exit(INTERRUPTED);
        });
        Ok(Self { place })
    }

    /// Where files may lie for as long as the workshop lives.
    pub(crate) fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Runs the program; whatever it comes to is an answer.
    ///
    /// # Errors
    /// That it does not start, or was still running after `limit`.
    pub(crate) fn run(&self, arguments: &[&str], limit: Duration) -> Result<Once, String> {
        let mut command = self.place.command(OsStr::new(enter::ITSELF));
        // A process of its own in between has no other child, so that the kernel's maximum over children is this one's.
        command.arg(PEAK).arg(&self.place.program).args(arguments);
        let mut once = self.run_command(command, limit)?;
        let said = once.stderr.trim_end();
        let (before, last) = said.rsplit_once('\n').unwrap_or(("", said));
        once.peak_kib = last.parse().ok();
        once.stderr = before.to_owned();
        Ok(once)
    }

    /// Starts the program beside others; whoever asked waits for its end, and reads what it prints.
    ///
    /// # Errors
    /// That it does not start.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Child, String> {
        let mut command = self.place.command(self.place.program.as_os_str());
        let child = command.args(arguments).stdout(Stdio::piped()).spawn();
        child.map_err(|error| error.to_string())
    }

    /// Runs the program, which has to succeed.
    ///
    /// # Errors
    /// What it said last.
    pub(crate) fn succeed(&self, arguments: &[&str], limit: Duration) -> Result<Once, String> {
        let once = self.run(arguments, limit)?;
        match once.code {
            Some(0) => Ok(once),
            code => Err(format!(
                "floaterctl {} ended with {}: {}",
                arguments.join(" "),
                code.map_or("a signal".to_owned(), |code| code.to_string()),
                last_line(&once.stderr)
            )),
        }
    }

    /// Runs any command in a group of its own.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn run_command(
        &self,
        mut command: Command,
        limit: Duration,
    ) -> Result<Once, String> {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let (child, group) = {
            let mut running = self.place.running();
            let child = command.spawn().map_err(|error| error.to_string())?;
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            let group = group.map_err(|error| error.to_string())?;
            *running = Some(group);
            (child, group)
        };
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let output = child.wait_with_output();
            // Nobody listens any more only where the gate ends.
            let _ = sender.send((output, Instant::now()));
        });
        let mut late = false;
        let heard = match receiver.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                // It was not waited for yet, so that the group is still its own.
                let _ = killpg(group, Signal::SIGKILL);
                receiver.recv().ok()
            }
            heard => heard.ok(),
        };
        *self.place.running() = None;
        let Some((output, ended)) = heard else {
            return Err("nobody knows what became of it".to_owned());
        };
        if late {
            return Err(format!("still ran after {} s", limit.as_secs()));
        }
        let output = output.map_err(|error| error.to_string())?;
        Ok(Once {
            took: ended - started,
            peak_kib: None,
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The process of a lab, where it is up.
    pub(crate) fn lab(&self, name: &str) -> Option<String> {
        let state = self.folder().join("floater").join(name).join("lab.json");
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
        Some(state["pid"].as_u64()?.to_string())
    }

    /// The peak of the resident memory of a lab's own process, KiB.
    pub(crate) fn lab_peak_kib(&self, name: &str) -> Option<u64> {
        status_kib(&self.lab(name)?, "VmHWM")
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // An interruption that comes now waits for this, and then finds nothing.
        let _nothing_starts = self.place.running();
        self.place.clear();
    }
}

/// The last line of what a program said.
pub(crate) fn last_line(text: &str) -> &str {
    let mut lines = text.lines().rev();
    lines.find(|line| !line.trim().is_empty()).unwrap_or("")
}

/// Runs a command; the last line on standard error is the greatest resident size of it and its children, KiB: the counter that
/// `/proc` calls `VmHWM`, as it was when they ended.
pub(crate) fn run_and_weigh(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    let status = Command::new(program).args(arguments).status();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    eprintln!("{}", usage.map_or(0, |usage| usage.max_rss()));
    match status
        .ok()
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok())
    {
        Some(code) => ExitCode::from(code),
        None => ExitCode::FAILURE,
    }
}
