//! One socket for the echoes of one family.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datapath::state::Family;
use socket2::{SockAddr, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Sockets;
use super::mmsg::{self, BATCH, Inbox, Report};
use crate::probe::icmp::{self, HEADER, Mark};
use crate::session::{Input, Lane, Token};

/// What is asked for; what the kernel grants decides how much may be in flight.
const RECEIVE_BUFFER: i32 = 1 << 20;

/// Bytes of headers before an echo in a transmitted frame: Ethernet, a tunnel's outer headers, IPv6, and to spare.
const FRAME: usize = 256;

/// `IP_PMTUDISC_PROBE`: sets don't-fragment and ignores what was learned of the path.
const PROBE_PMTU: i32 = 3;

/// Software stamps of both directions; a transmit stamp brings its frame, by whose end the echo is known. Numbering
/// (`OPT_ID`) would do without the frame, and be off for ever by every send that failed half-way.
const STAMPS: u32 = libc::SOF_TIMESTAMPING_TX_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_SOFTWARE
    | libc::SOF_TIMESTAMPING_SOFTWARE;

/// An ICMP socket with everything that it waits to send.
pub(super) struct Echo {
    socket: AsyncFd<Socket>,
    lane: Lane,
    /// Raw sockets share the host's identifiers; a datagram socket's is the kernel's choice and its filter.
    raw: Option<u16>,
    granted: usize,
    inbox: Inbox,
    outbox: Vec<(Vec<u8>, SockAddr)>,
    tokens: Vec<Token>,
    spare: Vec<Vec<u8>>,
    dropped: u32,
    stamped: bool,
}

impl Echo {
    /// Opens a socket for payloads of up to `payload_bytes`.
    pub(super) fn open(
        sockets: &dyn Sockets,
        family: Family,
        identifier: u16,
        payload_bytes: u16,
    ) -> io::Result<Self> {
        let socket = sockets.icmp_socket(family)?;
        socket.set_nonblocking(true)?;
        let lane = match family {
            Family::Ipv4 => Lane::Icmp4,
            Family::Ipv6 => Lane::Icmp6,
        };
        let raw = (socket.r#type()? == Type::RAW).then_some(identifier);
        if let Some(identifier) = raw {
            socket.attach_filter(&filter(lane, identifier))?;
        }
        let fd = socket.as_fd();
        if mmsg::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            mmsg::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        }
        let (level, errors, discover) = match family {
            Family::Ipv4 => (libc::SOL_IP, libc::IP_RECVERR, libc::IP_MTU_DISCOVER),
            Family::Ipv6 => (libc::SOL_IPV6, libc::IPV6_RECVERR, libc::IPV6_MTU_DISCOVER),
        };
        mmsg::set_option(fd, level, errors, 1)?;
        // A kernel without one of these costs accuracy, not truth.
        for (level, name, value) in [
            (level, discover, PROBE_PMTU),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, STAMPS as i32),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
        ] {
            if let Err(error) = mmsg::set_option(fd, level, name, value) {
                tracing::debug!(%error, level, name, "socket option");
            }
        }
        let granted = socket.recv_buffer_size()?;
        Ok(Self {
            socket: mmsg::watch(socket, Interest::READABLE | Interest::ERROR)?,
            lane,
            raw,
            granted,
            inbox: Inbox::new(usize::from(payload_bytes) + HEADER + FRAME),
            outbox: Vec::with_capacity(BATCH),
            tokens: Vec::with_capacity(BATCH),
            spare: Vec::new(),
            dropped: 0,
            stamped: false,
        })
    }

    /// The receive buffer, bytes.
    pub(super) fn granted(&self) -> usize {
        self.granted
    }

    /// Whether the kernel has been seen to stamp what it receives, so that it does not matter when it is read.
    pub(super) fn is_stamped(&self) -> bool {
        self.stamped
    }

    /// Waits until there is something to read.
    pub(super) async fn wait(&self) {
        match self
            .socket
            .ready(Interest::READABLE | Interest::ERROR)
            .await
        {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is going away.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes an echo to be sent, and sends a batch when there is one.
    pub(super) fn push(
        &mut self,
        mark: Mark,
        dst: IpAddr,
        payload_bytes: u16,
        tell: impl FnMut(Input),
    ) {
        let mut packet = self.spare.pop().unwrap_or_default();
        icmp::request(&mut packet, self.raw.unwrap_or(0), mark, payload_bytes);
        self.outbox.push((packet, SocketAddr::new(dst, 0).into()));
        self.tokens.push(mark.token);
        if self.outbox.len() == BATCH {
            self.flush(tell);
        }
    }

    /// Sends what was pushed; tells what happened to each.
    pub(super) fn flush(&mut self, mut tell: impl FnMut(Input)) {
        let at = wall_clock();
        for token in &self.tokens {
            tell(Input::Sending { token: *token, at });
        }
        let mut done = 0;
        let mut tries = 0;
        while done < self.outbox.len() {
            match mmsg::send(self.socket.as_fd(), &self.outbox[done..]) {
                Ok(sent) => {
                    done += sent.max(1);
                    tries = 0;
                }
                // An error that came in for an earlier echo is reported by whichever call is next, which it spoils.
                Err(error) if tries < 2 && !is_short(&error) => {
                    tracing::trace!(%error, "send once more");
                    tries += 1;
                }
                Err(error) => {
                    tell(Input::SendFailed {
                        token: self.tokens[done],
                        short: is_short(&error),
                        error: error.to_string(),
                    });
                    done += 1;
                    tries = 0;
                }
            }
        }
        self.spare
            .extend(self.outbox.drain(..).map(|(packet, _)| packet));
        self.tokens.clear();
    }

    /// Reads everything that there is: `tell` hears of stamps and errors before it hears of replies.
    pub(super) fn drain(&mut self, mut tell: impl FnMut(Input)) {
        let mut replies = Vec::new();
        while let Some(count) = self.receive(0) {
            for at in 0..count {
                let received = self.inbox.get(at);
                if let Some(dropped) = received.dropped()
                    && dropped != self.dropped
                {
                    let drops = dropped.wrapping_sub(self.dropped);
                    self.dropped = dropped;
                    tell(Input::Overflowed {
                        lane: self.lane,
                        drops,
                    });
                }
                let raw_v4 = self.raw.is_some() && self.lane == Lane::Icmp4;
                let (Some(mark), Some(from)) = (
                    icmp::reply(self.lane, raw_v4, received.bytes),
                    received.address,
                ) else {
                    continue;
                };
                let stamp = received.stamp();
                self.stamped |= stamp.is_some();
                replies.push(Input::Reply {
                    token: mark.token,
                    cookie: mark.cookie,
                    from,
                    received: stamp,
                });
            }
        }
        while let Some(count) = self.receive(libc::MSG_ERRQUEUE) {
            for at in 0..count {
                let received = self.inbox.get(at);
                match received.report() {
                    Some(Report::Stamp) => {
                        if let (Some(mark), Some(at)) =
                            (icmp::mark(self.lane, received.bytes), received.stamp())
                        {
                            tell(Input::Transmitted {
                                token: mark.token,
                                cookie: mark.cookie,
                                at,
                            });
                        }
                    }
                    Some(Report::Icmp { from, kind, code }) => {
                        if let (Some(sequence), Some(dst)) = (
                            icmp::quoted(self.lane, self.raw, received.bytes),
                            received.address,
                        ) {
                            replies.push(Input::IcmpError {
                                lane: self.lane,
                                sequence,
                                dst,
                                from,
                                kind,
                                code,
                            });
                        }
                    }
                    // The call that sent it has failed as well.
                    Some(Report::Local) | None => {}
                }
            }
        }
        replies.into_iter().for_each(tell);
    }

    /// One batch; none when the queue is empty. A pending error is not the end of a queue.
    fn receive(&mut self, flags: i32) -> Option<usize> {
        for _ in 0..3 {
            match self.inbox.receive(self.socket.as_fd(), flags) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => tracing::trace!(%error, "receive once more"),
            }
        }
        None
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes the kernel stamp what it receives for as long as this is held by anybody: one socket serves all floaters of a process, since
/// the kernel stamps for everybody or nobody.
///
/// It begins to do so some time after it is first asked, by anybody; a floater that asks at its start has stamps when
/// its first plan comes.
pub(super) fn keep_stamping() -> Option<Arc<Socket>> {
    static HELD: Mutex<Weak<Socket>> = Mutex::new(Weak::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(socket) = held.upgrade() {
        return Some(socket);
    }
    let socket = Socket::new(socket2::Domain::IPV4, Type::DGRAM, None).ok()?;
    mmsg::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).ok()?;
    let socket = Arc::new(socket);
    *held = Arc::downgrade(&socket);
    Some(socket)
}

/// The wall clock that kernel stamps are made by.
fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whether sending more makes it worse.
fn is_short(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
    )
}

/// Lets echo replies with our identifier through. A raw socket gets a copy of every ICMP packet of the host: without
/// this the host's other traffic would fill the buffer that our answers need.
fn filter(lane: Lane, identifier: u16) -> Vec<SockFilter> {
    // Classic BPF; offsets are from the IPv4 header, or from the ICMPv6 header.
    const X_IS_HEADER_LENGTH: u16 = 0xb1;
    const BYTE_AT_X: u16 = 0x50;
    const HALF_AT_X: u16 = 0x48;
    const BYTE: u16 = 0x30;
    const HALF: u16 = 0x28;
    const IS: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (start, byte, half, reply) = match lane {
        Lane::Icmp6 => (None, BYTE, HALF, 129),
        Lane::Icmp4 | Lane::Tcp => (
            Some(SockFilter::new(X_IS_HEADER_LENGTH, 0, 0, 0)),
            BYTE_AT_X,
            HALF_AT_X,
            0,
        ),
    };
    start
        .into_iter()
        .chain([
            SockFilter::new(byte, 0, 0, 0),
            SockFilter::new(IS, 0, 3, reply),
            SockFilter::new(half, 0, 0, 4),
            SockFilter::new(IS, 0, 1, u32::from(identifier)),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])
        .collect()
}
