//! Programs inside of namespaces, which die with whoever started them.

mod root;
mod vfork;

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use crate::Error;
use crate::namespace::Netns;

pub use root::Root;

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable, as seen from its root; no search is made for it.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The file that its output is appended to; on a full disk the output is lost instead.
    pub log: PathBuf,
    /// Where it runs.
    pub netns: Netns,
    /// What it sees of the machine's files; none for all of them.
    pub root: Option<Root>,
}

type Request = (Program, mpsc::SyncSender<Result<Child, Error>>);

/// The thread that starts programs. The kernel kills them when it ends (`PR_SET_PDEATHSIG` follows the parent *thread*),
/// be it by [`Drop`] or because the process was killed.
#[derive(Debug)]
pub struct Spawner {
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> Result<Self, Error> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let thread = thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                // What [`vfork::spawn`] asks for; signals to the process go to its other threads.
                if SigSet::all().thread_block().is_err() {
                    return;
                }
                for (program, answer) in inbox {
                    // An asker that is gone cannot reap its child: it is not started twice, and dies with us.
                    let _ = answer.send(start(&program));
                }
            })
            .map_err(Error::doing("start the spawner thread"))?;
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
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
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .ok_or_else(ended)?
            .send((program, answer))
            .map_err(|_| ended())?;
        started.recv().map_err(|_| ended())?
    }
}

impl Spawner {
    /// Starts nothing any more, and lets the kernel kill what was started. When this returns, each program that was
    /// being started runs as itself, with its own environment, or not at all.
    pub fn close(&self) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests = None;
        drop(requests);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic there has been reported to its asker.
            let _ = thread.join();
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.close();
    }
}

/// A program that was started. Whoever holds it takes note of its end, so that its number becomes free.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: Option<i32>,
}

impl Child {
    /// Its number; ours until its end has been taken note of.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its exit code, or 128 and the signal's number where it was killed; none while it runs.
    pub fn try_wait(&mut self) -> Result<Option<i32>, Error> {
        self.reap(Some(WaitPidFlag::WNOHANG))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<i32, Error> {
        loop {
            if let Some(code) = self.reap(None)? {
                return Ok(code);
            }
        }
    }

    /// Sends it a signal; one that has ended takes no notice.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    fn reap(&mut self, flags: Option<WaitPidFlag>) -> Result<Option<i32>, Error> {
        if self.ended.is_none() {
            self.ended = match waitpid(self.pid, flags) {
                Ok(WaitStatus::Exited(_, code)) => Some(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
                Ok(_) | Err(Errno::EINTR) => None,
                Err(error) => {
                    return Err(Error::new(format!("wait for process {}", self.pid), error));
                }
            };
        }
        Ok(self.ended)
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Whether a file system has no room left, for anybody or for this user.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn start(program: &Program) -> Result<Child, Error> {
    let doing = || format!("start {}", program.program.display());
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(Error::doing(doing()))?;
    let log = match open_log(&program.log) {
        Ok(log) => log,
        // No room for what it says is no reason not to start it.
        Err(error) if is_full(&error) => null.try_clone().map_err(Error::doing(doing()))?,
        Err(error) => {
            return Err(Error::new(format!("open {}", program.log.display()), error));
        }
    };
    let word = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|error| Error::new(doing(), io::Error::from(error)))
    };
    let path = word(program.program.as_os_str().as_bytes().to_vec())?;
    let args = program.args.iter().map(|arg| word(arg.as_bytes().to_vec()));
    let args = [Ok(path.clone())]
        .into_iter()
        .chain(args)
        .collect::<Result<Vec<_>, _>>()?;
    let env = program
        .env
        .iter()
        .map(|(name, value)| word([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let root = program.root.as_ref().map(Root::prepare).transpose();
    let root = root.map_err(Error::doing(doing()))?;
    let pid = vfork::spawn(&vfork::Start {
        path: &path,
        args: &args,
        env: &env,
        netns: program.netns.as_fd(),
        null: null.as_fd(),
        log: log.as_fd(),
        root: root.as_ref(),
    })
    .map_err(Error::doing(doing()))?;
    Ok(Child { pid, ended: None })
}

/// Replaces the calling process by a program inside of a namespace; returns only on failure. With a user namespace the
/// process must have a single thread.
#[must_use]
pub fn exec(mut command: Command, userns: Option<OwnedFd>, netns: &Netns) -> Error {
    let doing = format!("run {}", command.get_program().display());
    // Nobody may join the user namespace that he is in (setns(2)).
    if let Some(userns) = userns.filter(|userns| !is_own_user_namespace(userns))
        && let Err(error) = setns(&userns, CloneFlags::CLONE_NEWUSER)
    {
        return Error::new("enter the lab's user namespace", error);
    }
    if let Err(error) = netns.enter() {
        return error;
    }
    Error::new(doing, command.exec())
}

fn is_own_user_namespace(userns: &OwnedFd) -> bool {
    let own = nix::sys::stat::stat("/proc/self/ns/user");
    let other = nix::sys::stat::fstat(userns);
    matches!((own, other), (Ok(own), Ok(other)) if own.st_ino == other.st_ino)
}

/// Waits until a process that is not our child has ended; at once when there is none by this number.
pub fn wait_for_end(pid: i32, limit: Duration) -> Result<bool, Error> {
    match Other::find(pid)? {
        Some(process) => process.wait_for_end(limit),
        None => Ok(true),
    }
}

/// A process that is not our child, held so that its number cannot come to mean another one.
#[derive(Debug)]
pub struct Other {
    pid: i32,
    pidfd: OwnedFd,
}

impl Other {
    /// The process that has this number now; none where there is none. Whether it is the one that is meant is to be
    /// asked afterwards: from here on it is the same one.
    pub fn find(pid: i32) -> Result<Option<Self>, Error> {
        // 0 and negative numbers mean groups to kill(2), and nobody to pidfd_open(2).
        if pid <= 0 {
            return Ok(None);
        }
        let pidfd = pidfd(pid).map_err(Error::doing(format!("watch process {pid}")))?;
        Ok(pidfd.map(|pidfd| Self { pid, pidfd }))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid
    }

    /// Sends it a signal; one that has ended takes no notice.
    #[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
    pub fn signal(&self, signal: Signal) {
        // SAFETY: pidfd_send_signal takes an open descriptor, two integers and no signal information.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }

    /// Waits until it has ended, or until the limit: then false.
    pub fn wait_for_end(&self, limit: Duration) -> Result<bool, Error> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let deadline = std::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    return Err(Error::new(format!("watch process {}", self.pid), error));
                }
            }
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

/// Whether a process stands still because of a signal (SIGSTOP, SIGTSTP) or a tracer.
#[must_use]
pub fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc_pid_stat(5): "pid (name) state"; a name may hold parentheses.
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['T', 't']))
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
        .filter(|pid| *pid != me && is_marked(*pid, marker))
        .collect()
}

/// [`marked`], each held: none of them can be mistaken for a later process of its number.
pub fn held_marked(marker: &str) -> Result<Vec<Other>, Error> {
    let mut held = Vec::new();
    for pid in marked(marker) {
        // Its number may have found a new owner between the first look and the holding.
        held.extend(Other::find(pid)?.filter(|_| is_marked(pid, marker)));
    }
    Ok(held)
}

fn is_marked(pid: i32, marker: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == marker.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_by_what_holds_it_and_groups_are_nobody() {
        for group in [0, -1, i32::MIN] {
            assert!(Other::find(group).expect("ask").is_none());
        }
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let held = Other::find(i32::try_from(child.id()).expect("a number")).expect("find");
        let held = held.expect("it waits for a line");
        assert!(!held.wait_for_end(Duration::ZERO).expect("wait"));
        held.signal(Signal::SIGKILL);
        assert!(held.wait_for_end(Duration::from_secs(5)).expect("wait"));
        child.wait().expect("reap");
        // Its number is free, and whoever has it next is not meant.
        held.signal(Signal::SIGKILL);
    }

    #[test]
    #[ignore = "netns: needs veth"]
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
            root: None,
        };
        let mut child = spawner
            .spawn(program("readlink /proc/self/ns/net"))
            .expect("spawn");
        assert_eq!(child.wait().expect("wait"), 0);
        let written = std::fs::read_to_string(&log).expect("read");
        std::fs::remove_file(&log).expect("remove");
        assert_eq!(
            written.trim(),
            format!("net:[{}]", netns.inode().expect("stat"))
        );

        // No more of this process's dispositions than of its handlers: Rust ignores SIGPIPE.
        let mut child = spawner
            .spawn(program("exec grep -E '^Sig(Ign|Blk)' /proc/self/status"))
            .expect("spawn");
        assert_eq!(child.wait().expect("wait"), 0);
        let written = std::fs::read_to_string(&log).expect("read");
        std::fs::remove_file(&log).expect("remove");
        let masks: Vec<&str> = written.split_ascii_whitespace().collect();
        assert_eq!(
            masks,
            ["SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"]
        );

        // Of the machine's files it has what it needs to run, and what was put into its root.
        let folder = log.with_extension("root");
        let token = log.with_extension("token");
        std::fs::write(&token, "t0").expect("write");
        let mut confined = program(
            "cat /run/secrets/token; ls -d /etc /root /tmp; cat /proc/self/mountinfo | grep -c secrets",
        );
        confined.root = Some(Root {
            folder: folder.clone(),
            binds: vec![(token.clone(), "/run/secrets/token".into())],
        });
        let mut child = spawner.spawn(confined.clone()).expect("spawn");
        child.wait().expect("wait");
        let written = std::fs::read_to_string(&log).expect("read");
        std::fs::remove_file(&log).expect("remove");
        assert!(
            written.starts_with("t0") && written.ends_with("\n1\n"),
            "{written}"
        );
        assert_eq!(written.matches("No such file").count(), 3, "{written}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(
            !mounts.contains("secrets/token"),
            "nobody else sees its mounts"
        );
        confined.root = Some(Root {
            folder: folder.clone(),
            binds: vec![(token.clone(), "/run/../../x".into())],
        });
        spawner
            .spawn(confined)
            .expect_err("a place outside of the root");
        std::fs::remove_dir_all(&folder).expect("nothing of the machine is in it any more");
        std::fs::remove_file(&token).expect("remove");

        let mut missing = program("");
        missing.program = "/nonexistent/program".into();
        let error = spawner.spawn(missing).expect_err("there is none");
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOENT));

        // A shell that opens its pipe is past its start, where its environment cannot be read yet; then it waits for a
        // line that nobody writes.
        let pipe = log.with_extension("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("make a pipe");
        let script = format!(": > {0}; read line < {0}", pipe.display());
        let mut child = spawner.spawn(program(&script)).expect("spawn");
        drop(std::fs::File::open(&pipe).expect("meet the shell"));
        let pid = child.id();
        assert_eq!(marked(&format!("SPAWNER_TEST={}", getpid())), [pid]);
        let held = held_marked(&format!("SPAWNER_TEST={}", getpid())).expect("hold");
        assert_eq!(held.iter().map(Other::id).collect::<Vec<_>>(), [pid]);
        drop(spawner);
        assert!(wait_for_end(pid, Duration::from_secs(5)).expect("wait"));
        assert_eq!(child.wait().expect("reap"), 128 + libc::SIGKILL);
        assert!(wait_for_end(pid, Duration::ZERO).expect("gone"));
        std::fs::remove_file(&log).expect("remove");
        std::fs::remove_file(&pipe).expect("remove");
    }
}
