//! Asking a lab something over its control socket, for a bounded time: its process may be stopped or busy.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netns_harness::{handover, process};

use crate::Error;
use crate::protocol::{self, Answer, Request};
use crate::state::Folder;

/// How long an answer may take that costs the lab no work on its nodes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the lab's process is looked at meanwhile: nothing reports that it was stopped.
const LOOK: Duration = Duration::from_millis(500);
/// The longest answer, bytes: a status has some 200 a node.
const LONGEST: u64 = 1 << 30;

/// Refuses a lab whose process is no more; otherwise its process.
pub(super) fn alive(folder: &Folder) -> Result<i32, Error> {
    let name = &folder.name;
    folder.holder().ok_or_else(|| {
        Error::argument(
            "--name",
            format!(
                "the process of simulated fleet `{name}` was killed; `sim down --name {name}` removes what it left"
            ),
        )
    })
}

/// What a lab answers, with the descriptors that came along.
pub(super) fn ask(folder: &Folder, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
    let name = &folder.name;
    let pid = alive(folder)?;
    let mut call = Call {
        name,
        pid,
        deadline: Instant::now() + patience(folder, request),
    };
    call.check()?;
    let stream = match protocol::connect(folder.path(), call.left()) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(Error::argument(
                "--name",
                format!("simulated fleet `{name}` is still starting, or being removed"),
            ));
        }
        Err(error) => return Err(call.failed(error)),
    };
    call.exchange(stream, request)
}

/// How long an answer may take: as long as the lab itself waits for its nodes, and a little longer.
fn patience(folder: &Folder, request: &Request) -> Duration {
    let clusters = folder.record().map_or(0, |record| record.clusters);
    match request {
        Request::Clear | Request::Thaw { .. } => PATIENCE + protocol::settling(clusters),
        Request::Exec { .. }
        | Request::Freeze { .. }
        | Request::Inject { .. }
        | Request::Status => PATIENCE,
    }
}

/// A request that waits for its answer.
struct Call<'a> {
    name: &'a str,
    pid: i32,
    deadline: Instant,
}

impl Call<'_> {
    fn left(&self) -> Duration {
        // The kernel takes zero for no limit at all.
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(LOOK).max(Duration::from_millis(1))
    }

    /// Ends the call of a lab that cannot answer.
    fn check(&self) -> Result<(), Error> {
        let Self { name, pid, .. } = self;
        let why = if process::is_stopped(*pid) {
            format!(
                "its process {pid} is stopped (`kill -CONT {pid}` resumes it, `floaterctl sim down --name {name}` removes it)"
            )
        } else if Instant::now() >= self.deadline {
            format!("its process {pid} said nothing in time")
        } else {
            return Ok(());
        };
        Err(Error::Missing {
            what: format!("simulated fleet `{name}` does not answer"),
            why,
        })
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::failed(format!("talk to simulated fleet `{}`", self.name))(error)
    }

    fn exchange(
        &mut self,
        mut stream: UnixStream,
        request: &Request,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.failed(error.into()))?;
        line.push(b'\n');
        // A request is shorter than any socket's buffer.
        self.patiently(&stream, |mut stream| stream.write_all(&line))?;
        let descriptors = self.patiently(&stream, handover::receive)?;
        let mut text = Vec::new();
        let mut part = vec![0; 64 << 10];
        loop {
            let length = self.patiently(&stream, |mut stream| stream.read(&mut part))?;
            text.extend_from_slice(&part[..length]);
            if length == 0 || text.len() as u64 > LONGEST {
                break;
            }
        }
        drop(stream.flush());
        let answer: Result<Answer, Error> =
            serde_json::from_slice(&text).map_err(|error| self.failed(error.into()))?;
        Ok((answer?, descriptors))
    }

    /// Does one thing with the stream, as often as it takes, while there is hope for an answer.
    fn patiently<T>(
        &self,
        stream: &UnixStream,
        mut step: impl FnMut(&UnixStream) -> io::Result<T>,
    ) -> Result<T, Error> {
        loop {
            let left = Some(self.left());
            let limited = stream
                .set_read_timeout(left)
                .and_then(|()| stream.set_write_timeout(left));
            limited.map_err(|error| self.failed(error))?;
            match step(stream) {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    self.check()?;
                }
                done => return done.map_err(|error| self.failed(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    fn call(pid: i32, patience: Duration) -> Call<'static> {
        Call {
            name: "x",
            pid,
            deadline: Instant::now() + patience,
        }
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_without_end() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let me = nix::unistd::getpid().as_raw();
        let error = call(me, Duration::from_millis(50))
            .exchange(ours, &Request::Status)
            .expect_err("silence");
        assert_eq!(error.exit_code(), 69, "{error}");
        assert!(error.to_string().contains("in time"), "{error}");
    }

    #[test]
    fn a_stopped_process_is_told_as_such_while_it_is_waited_for() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("spawn");
        let pid = i32::try_from(child.id()).expect("a number");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop");
        nix::sys::wait::waitpid(
            Pid::from_raw(pid),
            Some(nix::sys::wait::WaitPidFlag::WUNTRACED),
        )
        .expect("it stops");
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let error = call(pid, PATIENCE)
            .exchange(ours, &Request::Status)
            .expect_err("stopped");
        child.kill().expect("kill");
        child.wait().expect("reap");
        assert!(error.to_string().contains("is stopped"), "{error}");
    }
}
