//! Many datagrams in one system call, with the control messages that the kernel adds: recvmmsg(2), sendmmsg(2).
//!
//! The only unsafe code of the crate. Control messages and addresses are parsed from bytes, safely.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockAddr, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams in one call: more gain nothing.
pub(super) const BATCH: usize = 32;

const CONTROL: usize = 256;
const NAME: usize = 28;

/// Room for a batch of datagrams. Reused from call to call.
pub(super) struct Inbox {
    size: usize,
    data: Vec<u8>,
    control: Vec<[u8; CONTROL]>,
    names: Vec<[u8; NAME]>,
    lengths: [Lengths; BATCH],
}

#[derive(Clone, Copy, Default)]
struct Lengths {
    data: usize,
    control: usize,
    name: usize,
}

/// One datagram or one record of the error queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    /// What the socket delivered, cut to the inbox's size.
    pub(super) bytes: &'a [u8],
    /// Who sent it; on the error queue, where it had been sent to.
    pub(super) address: Option<IpAddr>,
    control: &'a [u8],
}

/// What the error queue says (`struct sock_extended_err`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// An ICMP error came back.
    Icmp { from: IpAddr, kind: u8, code: u8 },
    /// This node refused.
    Local,
    /// A transmit time stamp; the bytes are the frame.
    Stamp,
}

impl Inbox {
    /// An inbox for datagrams of up to `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            data: vec![0; size * BATCH],
            control: vec![[0; CONTROL]; BATCH],
            names: vec![[0; NAME]; BATCH],
            lengths: [Lengths::default(); BATCH],
        }
    }

    /// Receives what there is, at most a batch, without waiting: how many. `MSG_ERRQUEUE` in `flags` reads the other queue.
    #[expect(
        unsafe_code,
        reason = "recvmmsg has no safe wrapper that can be reused between calls"
    )]
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, flags: i32) -> io::Result<usize> {
        let mut iovecs = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        // SAFETY: all-zero bytes are a valid value of this plain C struct: null pointers and no lengths.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (at, header) in headers.iter_mut().enumerate() {
            iovecs[at] = libc::iovec {
                iov_base: self.data[at * self.size..][..self.size].as_mut_ptr().cast(),
                iov_len: self.size,
            };
            header.msg_hdr.msg_iov = &raw mut iovecs[at];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.control[at].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
            header.msg_hdr.msg_name = self.names[at].as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME as _;
        }
        // SAFETY: every header points to one iovec of `iovecs` and to buffers of `self`, of the lengths given and
        // distinct from each other; all of them outlive the call, and nothing else borrows them meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as _,
                (flags | libc::MSG_DONTWAIT) as _,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        #[allow(
            clippy::unnecessary_cast,
            reason = "the types of these fields differ between C libraries"
        )]
        for (lengths, header) in self.lengths.iter_mut().zip(&headers) {
            *lengths = Lengths {
                data: (header.msg_len as usize).min(self.size),
                control: (header.msg_hdr.msg_controllen as usize).min(CONTROL),
                name: (header.msg_hdr.msg_namelen as usize).min(NAME),
            };
        }
        Ok(received)
    }

    /// The datagram at a place below what [`Self::receive`] returned.
    pub(super) fn get(&self, at: usize) -> Received<'_> {
        let lengths = self.lengths[at];
        Received {
            bytes: &self.data[at * self.size..][..lengths.data],
            address: address(&self.names[at][..lengths.name]),
            control: &self.control[at][..lengths.control],
        }
    }
}

impl Received<'_> {
    /// When the kernel received or transmitted it, since the epoch of its wall clock.
    pub(super) fn stamp(&self) -> Option<Duration> {
        let stamp = self.control(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING)?;
        let seconds = i64::from_ne_bytes(stamp.get(..8)?.try_into().ok()?);
        let nanos = i64::from_ne_bytes(stamp.get(8..16)?.try_into().ok()?);
        let stamp = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        (!stamp.is_zero()).then_some(stamp)
    }

    /// How many datagrams the socket had dropped before this one for want of room, modulo 2³².
    pub(super) fn dropped(&self) -> Option<u32> {
        let count = self.control(libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
        Some(u32::from_ne_bytes(count.get(..4)?.try_into().ok()?))
    }

    /// What the error queue says of it.
    pub(super) fn report(&self) -> Option<Report> {
        let error = self
            .control(libc::SOL_IP, libc::IP_RECVERR)
            .or_else(|| self.control(libc::SOL_IPV6, libc::IPV6_RECVERR))?;
        match *error.get(4)? {
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Some(Report::Icmp {
                from: address(error.get(16..)?)?,
                kind: error[5],
                code: error[6],
            }),
            libc::SO_EE_ORIGIN_LOCAL => Some(Report::Local),
            libc::SO_EE_ORIGIN_TIMESTAMPING => Some(Report::Stamp),
            _ => None,
        }
    }

    fn control(&self, level: i32, kind: i32) -> Option<&[u8]> {
        let mut rest = self.control;
        // struct cmsghdr: length with this header (usize), level, type; each starts at a multiple of a usize.
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        while rest.len() >= HEADER {
            let length = usize::from_ne_bytes(rest[..WORD].try_into().ok()?);
            let number = |at: usize| Some(i32::from_ne_bytes(rest[at..at + 4].try_into().ok()?));
            let body = rest.get(HEADER..length)?;
            if (number(WORD)?, number(WORD + 4)?) == (level, kind) {
                return Some(body);
            }
            rest = rest.get(length.next_multiple_of(WORD)..)?;
        }
        None
    }
}

/// Sends each packet to its address: how many were sent before one was refused. An error is the first packet's.
#[expect(
    unsafe_code,
    reason = "sendmmsg has no safe wrapper without an allocation for each call"
)]
pub(super) fn send(socket: BorrowedFd<'_>, packets: &[(Vec<u8>, SockAddr)]) -> io::Result<usize> {
    let count = packets.len().min(BATCH);
    let mut iovecs = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; BATCH];
    // SAFETY: all-zero bytes are a valid value of this plain C struct: null pointers and no lengths.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for (at, (bytes, address)) in packets[..count].iter().enumerate() {
        iovecs[at] = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        headers[at].msg_hdr.msg_iov = &raw mut iovecs[at];
        headers[at].msg_hdr.msg_iovlen = 1;
        headers[at].msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        headers[at].msg_hdr.msg_namelen = address.len();
    }
    // SAFETY: the first `count` headers point to bytes and addresses of `packets`, which are only read and outlive the
    // call, and to iovecs of this frame.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as _,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Registers a socket with the calling runtime.
#[expect(
    unsafe_code,
    reason = "the safe constructor deems every descriptor liable to change"
)]
pub(super) fn watch<T: Owned>(owned: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: what is `Owned` owns its descriptor, returns the same one always and closes it only when it is dropped,
    // which nobody but the `AsyncFd` that owns it from here on can do.
    unsafe { AsyncFd::register_with_interest(owned, interest) }.map_err(io::Error::from)
}

/// What owns one descriptor for as long as it lives, and never returns another.
pub(super) trait Owned: AsRawFd {}

impl Owned for Socket {}
impl Owned for super::connections::Poll {}

/// setsockopt(2) with an integer.
#[expect(unsafe_code, reason = "options that no safe wrapper knows")]
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: i32,
) -> io::Result<()> {
    // SAFETY: the value is an integer of the size that is given, read during the call only.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as _,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The handshake's round-trip time as TCP itself measured it; none where it had to repeat itself (Karn's rule).
#[expect(unsafe_code, reason = "TCP_INFO has no safe wrapper")]
pub(super) fn handshake(socket: BorrowedFd<'_>) -> Option<Duration> {
    // SAFETY: all-zero bytes are a valid value of this plain C struct of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`, and the length that it wrote.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (done == 0 && info.tcpi_rtt > 0 && info.tcpi_total_retrans == 0)
        .then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
}

/// A `struct sockaddr_in` or `sockaddr_in6`.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(level: i32, kind: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn received(control: &[u8]) -> Received<'_> {
        Received {
            bytes: &[],
            address: None,
            control,
        }
    }

    #[test]
    fn control_messages_are_found_behind_others() {
        let mut control = message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes());
        let stamp = [3_i64, 500, 0, 0, 0, 0].map(i64::to_ne_bytes).concat();
        control.extend(message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &stamp));
        let mut error = vec![
            0,
            0,
            0,
            0,
            libc::SO_EE_ORIGIN_ICMP,
            3,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        error.extend(2_u16.to_ne_bytes());
        error.extend([0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        control.extend(message(libc::SOL_IP, libc::IP_RECVERR, &error));
        let received = received(&control);
        assert_eq!(received.dropped(), Some(7));
        assert_eq!(received.stamp(), Some(Duration::new(3, 500)));
        assert_eq!(
            received.report(),
            Some(Report::Icmp {
                from: IpAddr::from([192, 0, 2, 1]),
                kind: 3,
                code: 1
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..80, kind in 0_u8..6) {
            let received = super::tests::received(&bytes);
            let _ = (received.stamp(), received.dropped(), received.report(), address(&bytes));
            let mut control = message(libc::SOL_IP, libc::IP_RECVERR, &[&[0, 0, 0, 0, kind], &bytes[..]].concat());
            control.truncate(length);
            let _ = super::tests::received(&control).report();
        }
    }
}
