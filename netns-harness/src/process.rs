//! Programs inside of namespaces, which die with whoever started them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::Error;
use crate::namespace::Netns;

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The file that its output is appended to.
    pub log: PathBuf,
    /// Where it runs.
    pub netns: Netns,
}

type Request = (Program, mpsc::SyncSender<Result<Child, Error>>);

/// The thread that starts programs. The kernel kills them when it ends (`PR_SET_PDEATHSIG` follows the parent *thread*),
/// be it by [`Drop`] or because the process was killed.
#[derive(Debug)]
pub struct Spawner {
    requests: Option<Mutex<Sender<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> Result<Self, Error> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let thread = thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (program, answer) in inbox {
                    // An asker that is gone cannot reap its child: it is not started twice, and dies with us.
                    let _ = answer.send(start(&program));
                }
            })
            .map_err(Error::doing("start the spawner thread"))?;
        Ok(Self {
            requests: Some(Mutex::new(requests)),
            thread: Some(thread),
        })
    }

    /// Starts a program: standard input empty, output to its log. The caller reaps the child.
    pub fn spawn(&self, program: Program) -> Result<Child, Error> {
        let ended = || {
            Error::new(
                "start a program",
                io::Error::other("the spawner thread has ended"),
            )
        };
        let (answer, started) = mpsc::sync_channel(1);
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests
            .lock()
            .map_err(|_| ended())?
            .send((program, answer))
            .map_err(|_| ended())?;
        started.recv().map_err(|_| ended())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported to its asker.
            let _ = thread.join();
        }
    }
}

fn log_file(program: &Program) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&program.log)
}

fn start(program: &Program) -> Result<Child, Error> {
    let doing = || format!("start {}", program.program.display());
    let log = log_file(program).map_err(Error::doing(format!("open {}", program.log.display())))?;
    let errors = log.try_clone().map_err(Error::doing(doing()))?;
    let mut command = Command::new(&program.program);
    command
        .args(&program.args)
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    enter_in_child(&mut command, program.netns.clone(), getpid());
    command.spawn().map_err(Error::doing(doing()))
}

#[expect(
    unsafe_code,
    reason = "a child enters its namespace between fork and exec"
)]
fn enter_in_child(command: &mut Command, netns: Netns, parent: Pid) {
    // SAFETY: between fork and exec the closure only makes system calls (setns, prctl, getppid) and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Died in between: the signal was missed.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
}

/// Replaces the calling process by a program inside of a namespace; returns only on failure. With a user namespace the
/// process must have a single thread.
#[must_use]
pub fn exec(mut command: Command, userns: Option<OwnedFd>, netns: &Netns) -> Error {
    let doing = format!("run {}", command.get_program().display());
    if let Some(userns) = userns
        && let Err(error) = setns(&userns, CloneFlags::CLONE_NEWUSER)
    {
        return Error::new("enter the lab's user namespace", error);
    }
    if let Err(error) = netns.enter() {
        return error;
    }
    Error::new(doing, command.exec())
}

/// Waits until a process that is not our child has ended; at once when there is none by this number.
pub fn wait_for_end(pid: i32, limit: std::time::Duration) -> Result<bool, Error> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Some(pidfd) = pidfd(pid).map_err(Error::doing(format!("watch process {pid}")))? else {
        return Ok(true);
    };
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Error::new(format!("watch process {pid}"), error)),
        }
    }
}

/// A descriptor of a process that becomes readable when it ends (pidfd_open(2)); none when there is no process by this number.
#[expect(unsafe_code, reason = "nix has no pidfd_open")]
pub fn pidfd(pid: i32) -> io::Result<Option<OwnedFd>> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(None)
    } else {
        Err(error)
    }
}

/// The processes whose environment holds `NAME=value`, the caller excepted. Those of other users cannot be seen.
#[must_use]
pub fn marked(marker: &str) -> Vec<i32> {
    let me = getpid().as_raw();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|entry| entry == marker.as_bytes())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[ignore = "netns: needs CAP_SYS_ADMIN"]
    fn a_program_runs_where_it_should_and_dies_with_its_spawner() {
        let netns = Netns::create().expect("create");
        let spawner = Spawner::start().expect("start");
        let log = std::env::temp_dir().join(format!("spawner-{}.log", getpid()));
        let program = |script: &str| Program {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("SPAWNER_TEST".into(), getpid().to_string().into())],
            log: log.clone(),
            netns: netns.clone(),
        };
        let mut child = spawner
            .spawn(program("readlink /proc/self/ns/net"))
            .expect("spawn");
        assert!(child.wait().expect("wait").success());
        let told = std::fs::read_to_string(&log).expect("read");
        std::fs::remove_file(&log).expect("remove");
        assert_eq!(
            told.trim(),
            format!("net:[{}]", netns.inode().expect("stat"))
        );

        let mut child = spawner.spawn(program("exec sleep 1000")).expect("spawn");
        let pid = i32::try_from(child.id()).expect("a pid");
        assert_eq!(marked(&format!("SPAWNER_TEST={}", getpid())), [pid]);
        drop(spawner);
        assert!(wait_for_end(pid, Duration::from_secs(5)).expect("wait"));
        assert!(!child.wait().expect("reap").success());
        assert!(wait_for_end(pid, Duration::ZERO).expect("gone"));
        std::fs::remove_file(&log).expect("remove");
    }
}
