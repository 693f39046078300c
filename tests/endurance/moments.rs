//! Moments of a program's life, known by what it says or asks for, and the ways to end it there.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::pty::PtyMaster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::program::Ran;
use tests::terminal;

/// How long a program may take to reach a moment, and to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program does when it is ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// It has said a line that contains this.
    Says(&'static str),
    /// It has asked the first cluster's API server for something: method, part of the target.
    Asks(&'static str, &'static str),
}

/// How it is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A signal that it can catch.
    Signal(Signal),
    /// The same, for a program that was started with the signal ignored, as `nohup` and shells without job control do.
    Ignored(Signal),
    /// A signal that nobody can catch.
    Kill,
    /// Its terminal is closed.
    Terminal,
    /// It is stopped for a while and goes on.
    Pause,
}

/// All of them.
pub(crate) const ENDS: &[End] = &[
    End::Signal(Signal::SIGINT),
    End::Signal(Signal::SIGTERM),
    End::Signal(Signal::SIGHUP),
    End::Ignored(Signal::SIGINT),
    End::Kill,
    End::Terminal,
    End::Pause,
];

/// A program under way.
pub(crate) struct Underway {
    child: Child,
    said: Receiver<String>,
    asked: Receiver<String>,
    master: Option<PtyMaster>,
    stdout: std::thread::JoinHandle<String>,
    heard: String,
}

/// Where a proxy tells what is asked of it, and where that is heard.
pub(crate) fn listener() -> (Sender<String>, Receiver<String>) {
    channel()
}

impl Underway {
    /// Starts it, with a terminal of its own where that is to be closed.
    pub(crate) fn start(command: &mut Command, end: End, asked: Receiver<String>) -> Self {
        let mut master = None;
        let mut command = if end == End::Terminal {
            let (terminal, slave) = terminal::pair();
            let mut leader = Command::new("setsid");
            leader
                .arg("-c")
                .arg(command.get_program())
                .args(command.get_args());
            leader
                .current_dir(command.get_current_dir().unwrap())
                .env_clear();
            let variables = command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            leader.envs(variables).stdin(slave);
            master = Some(terminal);
            leader
        } else if matches!(end, End::Ignored(_)) {
            // The shell hands its ignored signals on to what it becomes.
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' INT HUP; exec \"$@\"", "sh"]);
            shell.arg(command.get_program()).args(command.get_args());
            shell
                .current_dir(command.get_current_dir().unwrap())
                .env_clear();
            let variables = command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            shell.envs(variables).stdin(Stdio::null());
            shell
        } else {
            let mut plain = Command::new(command.get_program());
            plain
                .args(command.get_args())
                .current_dir(command.get_current_dir().unwrap());
            let variables = command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            plain.env_clear().envs(variables).stdin(Stdio::null());
            if end == End::Pause {
                // Where a group has nobody above it any more, as in the background of a shell that has ended, the kernel sends SIGHUP
                // to those of it that are stopped (POSIX, orphaned process groups): alone in a group, it has this program above it.
                std::os::unix::process::CommandExt::process_group(&mut plain, 0);
            }
            plain
        };
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, said) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdout = child.stdout.take().unwrap();
        let stdout =
            std::thread::spawn(move || std::io::read_to_string(stdout).unwrap_or_default());
        Self {
            child,
            said,
            asked,
            master,
            stdout,
            heard: String::new(),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for a moment; an error where the program ended before it.
    pub(crate) fn reach(&mut self, moment: Moment) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = match moment {
                Moment::Says(word) => self.next_line(deadline)?.contains(word),
                Moment::Asks(method, part) => {
                    let line = self.next_request(deadline)?;
                    line.starts_with(method) && line.contains(part)
                }
            };
            if found {
                return Ok(());
            }
        }
    }

    fn next_line(&mut self, deadline: Instant) -> Result<String, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.said.recv_timeout(left) {
            Ok(line) => {
                self.heard.push_str(&line);
                self.heard.push('\n');
                Ok(line)
            }
            Err(RecvTimeoutError::Timeout) => Err(format!("it never came so far: {}", self.heard)),
            Err(RecvTimeoutError::Disconnected) => Err(format!("it ended before: {}", self.heard)),
        }
    }

    fn next_request(&mut self, deadline: Instant) -> Result<String, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.asked
            .recv_timeout(left)
            .map_err(|_| format!("it never asked: {}", self.heard))
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn end(mut self, end: End) -> Result<Ran, String> {
        // A program that has ended by itself cannot be signalled any more, which its code then tells.
        let send = |signal| {
            let _ = kill(self.pid(), signal);
        };
        match end {
            End::Signal(signal) | End::Ignored(signal) => send(signal),
            End::Kill => send(Signal::SIGKILL),
            End::Terminal => drop(self.master.take()),
            End::Pause => {
                send(Signal::SIGSTOP);
                self.until_stopped()?;
                std::thread::sleep(Duration::from_millis(200));
                send(Signal::SIGCONT);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.heard.extend(self.said.iter().map(|line| line + "\n"));
                return Ok(Ran {
                    code: status.code(),
                    stdout: self.stdout.join().unwrap(),
                    stderr: self.heard,
                });
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return Err(format!("it still ran after {PATIENCE:?}: {}", self.heard));
            }
            // There is no event to wait for on a process that may end in any of several ways.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Until the system says that it is stopped, or has ended.
    fn until_stopped(&self) -> Result<(), String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let state = text
                .rsplit(')')
                .next()
                .and_then(|rest| rest.trim_start().chars().next());
            if matches!(state, None | Some('T' | 'Z' | 'X')) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("it cannot be stopped".to_owned());
            }
            std::thread::yield_now();
        }
    }
}
