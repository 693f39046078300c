//! What a container is made of: a process in a namespace, or a task of the lab's own process on sockets opened there.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::process::{self, Program, Spawner};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::Image;
use super::status::Exit;

/// A container that was started.
pub(super) struct Workload {
    child: Child,
    end: AsyncFd<OwnedFd>,
}

/// Starts a process.
pub(super) async fn process(
    spawner: &Arc<Spawner>,
    image: &Image,
    netns: &Netns,
    log: &Path,
    env: Vec<(String, String)>,
    args: Vec<String>,
    hostname: String,
) -> Result<Workload, String> {
    let own = image.env.iter().map(|(name, value)| (OsString::from(name), value.clone()));
    let given = env.into_iter().map(|(name, value)| (name.into(), value.into()));
    let program = Program {
        program: image.program.clone(),
        args: image.verb.iter().cloned().chain(args.into_iter().map(OsString::from)).collect(),
        // The lab's mark comes last: no pod can take it off.
        env: [(OsString::from("HOSTNAME"), OsString::from(hostname))]
            .into_iter()
            .chain(given)
            .chain(own)
            .collect(),
        log: log.to_owned(),
        netns: netns.clone(),
    };
    let spawner = spawner.clone();
    let child = tokio::task::spawn_blocking(move || spawner.spawn(program))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| crate::error::chain(&error))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    // Our own child keeps its number until it is reaped, so there is a process.
    let end = process::pidfd(pid)
        .and_then(|fd| fd.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH)))
        .and_then(AsyncFd::new)
        .map_err(|error| error.to_string())?;
    Ok(Workload { child, end })
}

impl Workload {
    /// Waits for its end. Dropping it midway loses nothing.
    pub(super) async fn ended(&mut self) -> Exit {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                return Exit {
                    code: code.unwrap_or(255),
                };
            }
            // It stays readable once the process has ended.
            if self.end.readable().await.is_err() {
                return Exit { code: 255 };
            }
        }
    }

    /// Asks it to end, and makes it after the grace.
    pub(super) async fn stop(mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if timeout(grace, self.ended()).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself; its number is ours until it is reaped.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // One that was not waited for is of a lab that goes down.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
