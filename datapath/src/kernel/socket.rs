//! One netlink socket: dumps, and batches of requests with their errors.
//!
//! The kernel works a request off inside the system call that sends it, so that when that call returns every answer to it waits in the
//! receive queue. Batches rely on it: one acknowledgement, that of the last request, ends the reading.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send, sendmsg};

use super::message::{Batch, HEADER, NLM_F_ACK, NLM_F_DUMP, Part, Tolerated, attributes, message};
use crate::error::Error;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// How much is sent at once, bytes; well below the default send buffer.
const CHUNK: usize = 32 * 1024;
/// How many requests are sent at once, so that the answers to as many failures fit the default receive buffer.
const CHUNK_PARTS: usize = 200;
/// How often a dump that was interrupted by a change is begun again before it is given up.
const DUMP_ATTEMPTS: usize = 5;

/// A request that the kernel refused.
pub(super) struct Refused {
    pub(super) change: usize,
    pub(super) errno: i32,
    pub(super) detail: String,
}

pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's receive buffer, on loan. A process may hold a thousand sockets and reads one at a time on each thread.
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn borrowed() -> Self {
        let mut bytes = BUFFER.take();
        // The kernel fills as much of a dump at once as it saw the reader's buffer hold, up to 32 KiB.
        bytes.resize(64 * 1024, 0);
        Self(bytes)
    }

    /// Receives once; the messages that came.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        flags: MsgFlags,
    ) -> Result<Messages<'_>, Errno> {
        loop {
            match recv(socket.as_raw_fd(), &mut self.0, flags) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(length) => return Ok(Messages(&self.0[..length])),
            }
        }
    }
}

impl Buffer {
    /// As [`Self::receive`], with the number of the namespace that the messages come from; none of the socket's own.
    pub(super) fn receive_from_namespace(
        &mut self,
        socket: &Socket,
        flags: MsgFlags,
    ) -> Result<(Messages<'_>, Option<u32>), Errno> {
        let mut room = nix::cmsg_space!(u32);
        let (length, number) = loop {
            let mut parts = [IoSliceMut::new(&mut self.0)];
            let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags);
            let received = match received {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let number = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Unknown(message)
                    if message.cmsg_header.cmsg_level == libc::SOL_NETLINK
                        && message.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID =>
                {
                    super::message::read_u32(&message.data_bytes)
                }
                _ => None,
            });
            break (received.bytes, number);
        };
        Ok((Messages(&self.0[..length]), number))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        BUFFER.set(std::mem::take(&mut self.0));
    }
}

/// The messages of a dump, one after another.
#[derive(Default)]
pub(super) struct Dump(Vec<u8>);

impl Dump {
    /// Kind and payload of each message.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u16, &[u8])> {
        Messages(&self.0).map(|message| (message.kind, message.payload))
    }
}

/// A dump while it comes in.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Whether the table changed meanwhile (`NLM_F_DUMP_INTR`).
    is_interrupted: bool,
    is_done: bool,
}

impl Gathered {
    /// Takes in what one receive call gave; the error number where the kernel gives the dump up.
    fn add(&mut self, messages: Messages<'_>, sequence: u32) -> Result<(), i32> {
        for message in messages {
            if message.sequence != sequence {
                continue;
            }
            self.is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                // The end too may say that it is one before time.
                NLMSG_DONE | NLMSG_ERROR => {
                    self.is_done |= message.kind == NLMSG_DONE;
                    if message.errno() > 0 {
                        return Err(message.errno());
                    }
                }
                _ => self.bytes.extend_from_slice(message.whole),
            }
        }
        Ok(())
    }
}

impl Netlink {
    /// A socket in the namespace of the calling thread.
    pub(super) fn open(protocol: isize, name: &'static str) -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            // The kernel's own text for a refusal, without an echo of the request.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| Error::Missing {
            what: format!("netlink socket for {name}"),
            why: error.to_string(),
        })?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Has the kernel check requests strictly and filter dumps (since Linux 4.20).
    pub(super) fn be_strict(&self) {
        // An older kernel ignores what it does not know, which suits as well.
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// Everything of one kind; [`Error::Inconsistent`] where changes interrupted every attempt, because such a dump may lack rows
    /// that were there all the time.
    pub(super) fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        header: &[u8],
        attributes: &[u8],
    ) -> Result<Dump, Error> {
        let failed = |errno: Errno| Error::kernel("read", what, errno as i32);
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self
                .request(kind, NLM_F_DUMP, header, attributes)
                .map_err(failed)?;
            let mut gathered = Gathered::default();
            let mut buffer = Buffer::borrowed();
            while !gathered.is_done {
                let messages = buffer
                    .receive(&self.socket, MsgFlags::empty())
                    .map_err(failed)?;
                gathered
                    .add(messages, sequence)
                    .map_err(|errno| Error::kernel("read", what, errno))?;
            }
            if !gathered.is_interrupted {
                return Ok(Dump(gathered.bytes));
            }
        }
        Err(Error::Inconsistent { what })
    }

    /// One object; none where the kernel has none.
    pub(super) fn get(
        &mut self,
        what: &'static str,
        kind: u16,
        header: &[u8],
        attributes: &[u8],
    ) -> Result<Option<Dump>, Error> {
        let failed = |errno: Errno| Error::kernel("read", what, errno as i32);
        let sequence = self
            .request(kind, NLM_F_ACK, header, attributes)
            .map_err(failed)?;
        let mut found = None;
        let mut buffer = Buffer::borrowed();
        loop {
            let messages = buffer.receive(&self.socket, MsgFlags::empty());
            for message in messages.map_err(failed)? {
                if message.sequence != sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => {
                        return match message.errno() {
                            0 => Ok(found),
                            errno if is_gone(errno) => Ok(None),
                            errno => Err(Error::kernel("read", what, errno)),
                        };
                    }
                    _ => found = Some(Dump(message.whole.to_vec())),
                }
            }
        }
    }

    /// The answers to questions for one object each. What is not there has none.
    pub(super) fn ask(&mut self, what: &'static str, questions: &mut Batch) -> Result<Dump, Error> {
        let failed = |errno: Errno| Error::kernel("read", what, errno as i32);
        let mut found = Vec::new();
        let Batch { bytes, parts } = questions;
        for parts in parts.chunks(CHUNK_PARTS) {
            let first = self.sequence.wrapping_add(1);
            for part in parts {
                self.sequence = self.sequence.wrapping_add(1);
                let at = part.range.start;
                bytes[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            }
            let (Some(head), Some(tail)) = (parts.first(), parts.last()) else {
                continue;
            };
            let asked = IoSlice::new(&bytes[head.range.start..tail.range.end]);
            let last = self.send_ending(&[asked]).map_err(failed)?;
            let mut buffer = Buffer::borrowed();
            let mut is_done = false;
            while !is_done {
                let messages = buffer.receive(&self.socket, MsgFlags::empty());
                for message in messages.map_err(failed)? {
                    let place = message.sequence.wrapping_sub(first);
                    let part = usize::try_from(place).ok().and_then(|at| parts.get(at));
                    match (message.kind, part) {
                        (NLMSG_ERROR, None) => is_done |= message.sequence == last,
                        (NLMSG_ERROR, Some(part)) => {
                            if let Some(refused) = refusal(part, &message) {
                                return Err(Error::kernel("read", what, refused.errno));
                            }
                        }
                        (_, Some(_)) => found.extend_from_slice(message.whole),
                        (_, None) => {}
                    }
                }
            }
        }
        Ok(Dump(found))
    }

    /// Makes every request of a batch. A refusal does not keep those after it from being made.
    pub(super) fn make(&mut self, batch: &mut Batch) -> Result<Vec<Refused>, Error> {
        let mut refused = Vec::new();
        let mut first = 0;
        while first < batch.parts.len() {
            let start = batch.parts[first].range.start;
            let chunk = batch.parts[first..]
                .iter()
                .take(CHUNK_PARTS)
                .take_while(|part| part.range.end - start <= CHUNK)
                .count()
                .max(1);
            self.make_chunk(batch, first..first + chunk, &mut refused)?;
            first += chunk;
        }
        Ok(refused)
    }

    fn make_chunk(
        &mut self,
        batch: &mut Batch,
        parts: std::ops::Range<usize>,
        refused: &mut Vec<Refused>,
    ) -> Result<(), Error> {
        let before = refused.len();
        match self.try_chunk(batch, parts.clone(), refused) {
            Ok(()) => Ok(()),
            // The answers did not fit. Every request here can be made twice, so make fewer at once.
            Err(Errno::ENOBUFS) if parts.len() > 1 => {
                refused.truncate(before);
                self.discard_answers();
                let middle = parts.start + parts.len() / 2;
                self.make_chunk(batch, parts.start..middle, refused)?;
                self.make_chunk(batch, middle..parts.end, refused)
            }
            Err(errno) => Err(Error::kernel("send", "a batch of changes", errno as i32)),
        }
    }

    fn try_chunk(
        &mut self,
        batch: &mut Batch,
        range: std::ops::Range<usize>,
        refused: &mut Vec<Refused>,
    ) -> Result<(), Errno> {
        let Batch { bytes, parts } = batch;
        let parts = &parts[range];
        let (Some(head), Some(tail)) = (parts.first(), parts.last()) else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        for part in parts {
            self.sequence = self.sequence.wrapping_add(1);
            let at = part.range.start;
            bytes[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        }
        let flags = tail.range.start + 6;
        bytes[flags] |= NLM_F_ACK.to_ne_bytes()[0];
        bytes[flags + 1] |= NLM_F_ACK.to_ne_bytes()[1];
        let last = self.sequence;
        self.send(&bytes[head.range.start..tail.range.end])?;
        let mut buffer = Buffer::borrowed();
        loop {
            for message in buffer.receive(&self.socket, MsgFlags::empty())? {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                let place = message.sequence.wrapping_sub(first);
                let Some(part) = usize::try_from(place).ok().and_then(|at| parts.get(at)) else {
                    continue;
                };
                refused.extend(refusal(part, &message));
                if message.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Sends requests, and behind them one for nothing but its acknowledgement, whose number is the result.
    fn send_ending(&mut self, requests: &[IoSlice<'_>]) -> Result<u32, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut end = Vec::with_capacity(HEADER);
        message(&mut end, NLMSG_NOOP, NLM_F_ACK, &[], |_| {});
        end[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let mut all = requests.to_vec();
        all.push(IoSlice::new(&end));
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &all, &[], MsgFlags::empty(), None) {
                Ok(_) => return Ok(self.sequence),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Makes requests that are written already, without numbers of their own; how many were refused.
    pub(super) fn make_written(&mut self, requests: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let last = self.send_ending(requests)?;
        let mut refused = 0;
        let mut buffer = Buffer::borrowed();
        loop {
            let received = buffer.receive(&self.socket, MsgFlags::empty());
            let messages = received.inspect_err(|_| self.discard_answers())?;
            for message in messages.filter(|message| message.kind == NLMSG_ERROR) {
                match message.errno() {
                    0 if message.sequence == last => return Ok(refused),
                    0 => {}
                    errno if errno == Errno::EEXIST as i32 => {}
                    _ => refused += 1,
                }
            }
        }
    }

    /// Makes a transaction of nfnetlink: all of its requests, or none.
    pub(super) fn transact(&mut self, batch: &mut Batch) -> Result<(), (i32, String)> {
        let plain = |errno: Errno| (errno as i32, String::new());
        let first = self.sequence.wrapping_add(1);
        for part in &batch.parts {
            self.sequence = self.sequence.wrapping_add(1);
            let at = part.range.start;
            batch.bytes[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        }
        self.discard_answers();
        self.send(&batch.bytes).map_err(plain)?;
        let mut failure = None;
        let mut buffer = Buffer::borrowed();
        loop {
            let messages = match buffer.receive(&self.socket, MsgFlags::MSG_DONTWAIT) {
                Ok(messages) => messages,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(plain(errno)),
            };
            for message in messages {
                let ours = message.sequence.wrapping_sub(first) < 1 << 30;
                if message.kind == NLMSG_ERROR && ours && message.errno() != 0 && failure.is_none()
                {
                    failure = Some((message.errno(), message.detail()));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &[u8],
    ) -> Result<u32, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(64);
        let sequence = self.sequence;
        message(&mut bytes, kind, flags, header, |_| {});
        bytes.extend_from_slice(attributes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&bytes)?;
        Ok(sequence)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn discard_answers(&self) {
        let mut buffer = Buffer::borrowed();
        while matches!(
            buffer.receive(&self.socket, MsgFlags::MSG_DONTWAIT),
            Ok(_) | Err(Errno::ENOBUFS)
        ) {}
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_gone(errno: i32) -> bool {
    matches!(
        Errno::from_raw(errno),
        Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENOENT | Errno::ESRCH
    )
}

fn refusal(part: &Part, message: &Message<'_>) -> Option<Refused> {
    let errno = message.errno();
    let is_tolerated = match part.tolerated {
        Tolerated::Gone => is_gone(errno),
        Tolerated::Nothing => false,
        Tolerated::There => errno == Errno::EEXIST as i32,
    };
    (errno != 0 && !is_tolerated).then(|| Refused {
        change: part.change,
        errno,
        detail: message.detail(),
    })
}

/// Messages in a buffer; it ends at the first that is malformed.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    sequence: u32,
    pub(super) payload: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [a, b, c, d, kind_0, kind_1, flags_0, flags_1, e, g, h, i, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        if length < HEADER {
            return None;
        }
        let padded = length.next_multiple_of(4).min(self.0.len());
        let payload = self.0.get(HEADER..length)?;
        let (whole, rest) = self.0.split_at(padded);
        self.0 = rest;
        Some(Message {
            kind: u16::from_ne_bytes([kind_0, kind_1]),
            flags: u16::from_ne_bytes([flags_0, flags_1]),
            sequence: u32::from_ne_bytes([e, g, h, i]),
            payload,
            whole,
        })
    }
}

impl Message<'_> {
    /// The number in an error message, positive; 0 is an acknowledgement.
    pub(super) fn errno(&self) -> i32 {
        let bytes = self.payload.first_chunk::<4>().copied();
        bytes.map_or(0, i32::from_ne_bytes).saturating_neg()
    }

    /// The kernel's text in an error message.
    pub(super) fn detail(&self) -> String {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return String::new();
        }
        // The number, the header of the request, and unless it was capped the request's payload.
        let echoed = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            let length = self.payload.get(4..8).and_then(super::message::read_u32);
            usize::try_from(length.unwrap_or(0))
                .unwrap_or(0)
                .max(HEADER)
        };
        let rest = self.payload.get(4 + echoed.next_multiple_of(4)..);
        attributes(rest.unwrap_or_default())
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .and_then(|(_, value)| super::message::read_text(value))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_ROUTE;
    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    /// No kernel knows it, and anybody may ask.
    const UNKNOWN: u16 = 0x7ff0;

    #[test]
    fn refusals_that_do_not_fit_the_queue_are_all_reported_once() {
        let mut socket = Netlink::open(NETLINK_ROUTE, "rtnetlink").expect("a socket");
        setsockopt(&socket.socket, sockopt::RcvBuf, &2048).expect("a smaller queue");
        let mut batch = Batch::default();
        for change in 0..3 * CHUNK_PARTS {
            batch.push((UNKNOWN, 0), (change, Tolerated::Nothing), &[0; 16], |_| {});
        }
        // All at once the answers are too many, which is what the rest is about.
        let mut refused = Vec::new();
        let lost = socket.try_chunk(&mut batch, 0..CHUNK_PARTS, &mut refused);
        assert_eq!(lost, Err(Errno::ENOBUFS));
        socket.discard_answers();

        let refused = socket.make(&mut batch).expect("answers");
        let changes: Vec<usize> = refused.iter().map(|refused| refused.change).collect();
        assert_eq!(changes, (0..3 * CHUNK_PARTS).collect::<Vec<_>>());
        let errnos = refused.iter().map(|refused| refused.errno);
        assert!(
            errnos
                .into_iter()
                .all(|errno| errno == Errno::EOPNOTSUPP as i32)
        );
    }

    #[test]
    fn a_refused_dump_is_a_failure_and_spoils_nothing_after_it() {
        let mut socket = Netlink::open(NETLINK_ROUTE, "rtnetlink").expect("a socket");
        let Err(error) = socket.dump("something", UNKNOWN, &[0; 16], &[]) else {
            panic!("nobody can read that");
        };
        assert_eq!(
            error.problem().rule,
            "cannot read something: Operation not supported (os error 95)"
        );
        let links = socket.dump("links", 18, &[0; 16], &[]).expect("the links");
        assert!(links.messages().count() > 0);
    }

    #[test]
    fn an_interruption_anywhere_in_a_dump_is_noticed() {
        let dump = |flags: [u16; 3]| {
            let mut bytes = Vec::new();
            for (kind, flags) in [(24, flags[0]), (24, flags[1]), (NLMSG_DONE, flags[2])] {
                super::super::message::message(&mut bytes, kind, flags, &[0; 4], |_| {});
            }
            let mut gathered = Gathered::default();
            assert_eq!(gathered.add(Messages(&bytes), 0), Ok(()));
            assert!(gathered.is_done);
            gathered.is_interrupted
        };
        assert!(!dump([2, 2, 2]));
        assert!(dump([2 | NLM_F_DUMP_INTR, 2, 2]));
        assert!(dump([2, 2 | NLM_F_DUMP_INTR, 2]));
        assert!(dump([2, 2, 2 | NLM_F_DUMP_INTR]));
    }
}
