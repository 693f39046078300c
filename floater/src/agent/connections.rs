//! The TCP probes of a plan: connections, each with the question who is there.
//!
//! They are driven by the engine and not by tasks of their own: whatever the kernel has done while nobody was scheduled
//! is taken in to the last byte in one pass, before the engine judges what has timed out.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use datapath::state::Family;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Sockets;
use super::mmsg::{self, Inbox, Report};
use crate::probe::tcp;
use crate::wire::{CONNECTIONS, Expect, Failure};

/// The connections under way.
pub(super) struct Connections {
    poll: AsyncFd<Poll>,
    open: HashMap<u64, Connection>,
}

/// An epoll instance as a descriptor that can be waited for.
pub(super) struct Poll(Epoll);

impl AsRawFd for Poll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

struct Connection {
    socket: Socket,
    started: Instant,
    expect: Option<Expect>,
    step: Step,
}

/// How far a connection is.
enum Step {
    Connecting,
    /// The handshake took so long; this is still to be asked.
    Asking(Duration, Vec<u8>),
    /// So much of the answer is there.
    Hearing(Duration, Vec<u8>),
}

impl Connections {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        Ok(Self {
            poll: mmsg::watch(poll, Interest::READABLE)?,
            open: HashMap::new(),
        })
    }

    /// Begins to connect under a number. Whoever expects something will ask for it.
    ///
    /// # Errors
    /// What keeps this node from it.
    pub(super) fn open(
        &mut self,
        number: u64,
        sockets: &dyn Sockets,
        dst: SocketAddr,
        expect: Option<Expect>,
    ) -> Result<(), Failure> {
        let connection = Connection {
            socket: socket(sockets, dst).map_err(|error| local(&error))?,
            started: Instant::now(),
            expect,
            step: Step::Connecting,
        };
        match connection.socket.connect(&dst.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(failure(&connection.socket, &error)),
        }
        // Each change is told once, so each is followed as far as it leads.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.poll
            .get_ref()
            .0
            .add(connection.socket.as_fd(), EpollEvent::new(flags, number))
            .map_err(|error| local(&error.into()))?;
        self.open.insert(number, connection);
        Ok(())
    }

    /// Gives up on one.
    pub(super) fn abandon(&mut self, number: u64) {
        // Closing takes it out of the epoll instance as well.
        self.open.remove(&number);
    }

    /// Takes every connection as far as it can go now; `tell` hears of those that came to something.
    pub(super) fn drain(&mut self, mut tell: impl FnMut(u64, Result<Duration, Failure>)) {
        let mut events = [EpollEvent::empty(); CONNECTIONS];
        loop {
            let count = match self.poll.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return,
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::debug!(%error, "epoll");
                    return;
                }
            };
            for event in &events[..count] {
                let number = event.data();
                let result = self.open.get_mut(&number).and_then(Connection::advance);
                if let Some(result) = result {
                    self.open.remove(&number);
                    tell(number, result);
                }
            }
        }
    }

    /// Waits until one of them can go on.
    pub(super) async fn wait(&self) {
        match self.poll.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is going away.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Connection {
    /// Goes as far as it can: what came of it, or none while it waits.
    fn advance(&mut self) -> Option<Result<Duration, Failure>> {
        loop {
            match &mut self.step {
                Step::Connecting => {
                    match self.socket.take_error() {
                        Ok(None) => {}
                        Ok(Some(error)) => return Some(Err(failure(&self.socket, &error))),
                        Err(error) => return Some(Err(local(&error))),
                    }
                    // Not yet, or not any more.
                    self.socket.peer_addr().ok()?;
                    let own = self.started.elapsed();
                    let rtt = mmsg::handshake(self.socket.as_fd())
                        .filter(|rtt| *rtt <= own)
                        .unwrap_or(own);
                    let Some(expect) = &self.expect else {
                        return Some(Ok(rtt));
                    };
                    self.step = Step::Asking(rtt, tcp::request(&expect.nonce).into_bytes());
                }
                Step::Asking(rtt, request) => match self.socket.write(request) {
                    Ok(written) => {
                        request.drain(..written);
                        if request.is_empty() {
                            self.step = Step::Hearing(*rtt, Vec::new());
                        }
                    }
                    Err(error) if is_for_later(&error) => return None,
                    Err(_) => return Some(self.judge(&[])),
                },
                Step::Hearing(_, answer) => {
                    let mut part = [0; 1024];
                    match self.socket.read(&mut part) {
                        Ok(length) if length > 0 => {
                            answer.extend_from_slice(&part[..length]);
                            if !tcp::is_whole(answer) && answer.len() < tcp::LONGEST {
                                continue;
                            }
                        }
                        Err(error) if is_for_later(&error) => return None,
                        Ok(_) | Err(_) => {}
                    }
                    let answer = std::mem::take(answer);
                    return Some(self.judge(&answer));
                }
            }
        }
    }

    /// What an answer, or what there was of it when the connection ended, proves.
    fn judge(&self, answer: &[u8]) -> Result<Duration, Failure> {
        let rtt = match self.step {
            Step::Asking(rtt, _) | Step::Hearing(rtt, _) => rtt,
            Step::Connecting => self.started.elapsed(),
        };
        match &self.expect {
            Some(expect) => tcp::judge(answer, expect).map(|()| rtt),
            None => Ok(rtt),
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn socket(sockets: &dyn Sockets, dst: SocketAddr) -> io::Result<Socket> {
    let socket = sockets.tcp_socket(Family::of(dst.ip()))?;
    socket.set_nonblocking(true)?;
    // A probe leaves no TIME_WAIT behind.
    socket.set_linger(Some(Duration::ZERO))?;
    let (level, name) = match dst {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVERR),
    };
    // Without it an unreachable is still one, only its sender stays unknown.
    let _ = mmsg::set_option(socket.as_fd(), level, name, 1);
    Ok(socket)
}

/// What a failed connection says about the path.
fn failure(socket: &Socket, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => {
            // A port unreachable looks the same and is not a refusal by the destination's TCP.
            icmp_error(socket).unwrap_or(Failure::Refused)
        }
        Some(libc::ETIMEDOUT) => Failure::Timeout,
        _ => icmp_error(socket).unwrap_or_else(|| local(error)),
    }
}

/// The ICMP error that ended a connection.
fn icmp_error(socket: &Socket) -> Option<Failure> {
    let mut inbox = Inbox::new(256);
    let count = inbox.receive(socket.as_fd(), libc::MSG_ERRQUEUE).ok()?;
    (0..count).find_map(|at| match inbox.get(at).report()? {
        Report::Icmp { from, kind, code } => Some(Failure::IcmpError { from, kind, code }),
        Report::Local | Report::Stamp => None,
    })
}

fn local(error: &io::Error) -> Failure {
    Failure::Local {
        error: error.to_string(),
    }
}
