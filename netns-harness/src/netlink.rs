//! Packed netlink: many requests in one `send`, an acknowledgement only for the last and for those that failed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

use crate::Error;

/// Bytes of requests in one `send`; well below the default send buffer.
const BATCH: usize = 64 << 10;
const HEADER: usize = 16;

/// One request under construction: netlink header, family header, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    what: String,
    ignored: &'static [i32],
}

impl Message {
    /// A request of a type with flags besides `NLM_F_REQUEST`, and its family's header.
    pub fn new(kind: u16, flags: i32, header: &[u8], what: impl Into<String>) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        // The flags of rtnetlink fit 16 bits; libc types them as int.
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Self {
            bytes,
            what: what.into(),
            ignored: &[],
        }
    }

    /// Errnos that mean that there was nothing to do.
    #[must_use]
    pub fn ignoring(mut self, errnos: &'static [i32]) -> Self {
        self.ignored = errnos;
        self
    }

    /// Appends bytes that no attribute header precedes, padded to four.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a 32-bit attribute.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a zero-terminated attribute.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute that holds what `fill` appends.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn seal(&mut self, sequence: u32, acknowledge: bool) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        if acknowledge {
            let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | libc::NLM_F_ACK as u16;
            self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        }
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// An rtnetlink socket of the namespace in which it was opened, with a queue.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    queue: Vec<Message>,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace, with strict checking and the kernel's text on errors.
    pub fn open() -> Result<Self, Error> {
        Self::open_family(SockProtocol::NetlinkRoute)
    }

    pub(crate) fn open_family(protocol: SockProtocol) -> Result<Self, Error> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .map_err(Error::doing("open a netlink socket"))?;
        for option in [
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            // Older kernels lack one or the other; nothing depends on them but the text of errors.
            let _ = set_option(&socket, option);
        }
        // An answer to every request of a batch, were they all to fail, has to fit.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &(4 << 20));
        Ok(Self {
            socket,
            sequence: 0,
            queue: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Adds a request to the queue.
    pub fn queue(&mut self, message: Message) {
        self.queue.push(message);
    }

    /// Sends the queue in order and waits for the kernel to have carried it out. All requests are tried; the errors are
    /// those that no request asked to ignore.
    pub fn flush_all(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut queue = std::mem::take(&mut self.queue);
        let mut rest = queue.as_mut_slice();
        while !rest.is_empty() {
            let mut size = 0;
            let count = rest
                .iter()
                .take_while(|message| {
                    size += message.bytes.len();
                    size <= BATCH
                })
                .count()
                .max(1);
            let (batch, later) = rest.split_at_mut(count);
            rest = later;
            if let Err(error) = self.send(batch, &mut errors) {
                errors.push(error);
                break;
            }
        }
        errors
    }

    /// Like [`flush_all`](Self::flush_all), but only the first error.
    pub fn flush(&mut self) -> Result<(), Error> {
        match self.flush_all().into_iter().next() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn send(&mut self, batch: &mut [Message], errors: &mut Vec<Error>) -> Result<(), Error> {
        let first = self.sequence.wrapping_add(1);
        self.buffer.clear();
        let last = batch.len() - 1;
        for (index, message) in batch.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence, index == last);
            self.buffer.extend_from_slice(&message.bytes);
        }
        loop {
            match send(self.socket.as_raw_fd(), &self.buffer, MsgFlags::empty()) {
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Error::new("send netlink requests", error)),
            }
        }
        let mut answer = vec![0; 256 << 10];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(Error::new("receive netlink answers", error)),
            };
            for reply in replies(&answer[..length]) {
                let Some(message) = batch.get(reply.sequence.wrapping_sub(first) as usize) else {
                    continue;
                };
                if reply.errno != 0 && !message.ignored.contains(&reply.errno) {
                    errors.push(Error {
                        doing: message.what.clone(),
                        hint: reply.hint,
                        source: io::Error::from_raw_os_error(reply.errno),
                    });
                }
                if reply.sequence == self.sequence {
                    return Ok(());
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[expect(unsafe_code, reason = "nix has no netlink socket options")]
fn set_option(socket: &OwnedFd, option: i32) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the descriptor is open for the borrow's life, and the kernel reads exactly the four bytes of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

struct Reply {
    sequence: u32,
    errno: i32,
    hint: Option<String>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The acknowledgements and errors (`NLMSG_ERROR`) in a datagram; everything else is passed over.
fn replies(mut datagram: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) = (
        word(datagram, 0),
        half(datagram, 4),
        half(datagram, 6),
        word(datagram, 8),
    ) {
        let length = length as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        if i32::from(kind) == libc::NLMSG_ERROR
            && let Some(code) = word(&datagram[..length], HEADER)
        {
            // With NETLINK_CAP_ACK the request's header alone follows the code.
            let hint = (i32::from(flags) & libc::NLM_F_ACK_TLVS != 0)
                .then(|| hint(&datagram[..length], HEADER + 4 + HEADER))
                .flatten();
            found.push(Reply {
                sequence,
                // The kernel writes the negated errno.
                errno: (code as i32).wrapping_neg(),
                hint,
            });
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    found
}

/// `NLMSGERR_ATTR_MSG` among the attributes from `at` on.
fn hint(message: &[u8], mut at: usize) -> Option<String> {
    loop {
        let length = half(message, at)? as usize;
        if length < 4 {
            return None;
        }
        if half(message, at + 2)? == 1 {
            let text = message.get(at + 4..at + length)?;
            return Some(
                String::from_utf8_lossy(text)
                    .trim_end_matches('\0')
                    .to_owned(),
            );
        }
        at += length.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nests_and_padding_have_the_kernels_shape() {
        let mut message =
            Message::new(16, 0, &[0; 16], "test").nest(18, |inner| inner.text(1, "veth"));
        message.seal(7, true);
        let bytes = &message.bytes;
        assert_eq!(word(bytes, 0), Some(bytes.len() as u32));
        assert_eq!(word(bytes, 8), Some(7));
        // Nest: 4 of its own, 4 + 5 of the text, padded to 16; its length counts the padding of what it holds.
        assert_eq!(half(bytes, 32), Some(16));
        assert_eq!(half(bytes, 36), Some(9));
        assert_eq!(bytes.len(), 48);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_datagram_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = replies(&bytes);
        }
    }

    #[test]
    #[ignore = "netns: needs veth"]
    fn every_failure_of_a_batch_is_reported_by_name() {
        let netns = crate::namespace::Netns::create().expect("create");
        let mut netlink = netns.run(Netlink::open).expect("run").expect("open");
        use crate::wire::Wire as _;
        netlink.up(1);
        netlink.up(77);
        netlink.remove_link(78);
        netlink.address(1, "10.0.0.1/24".parse().expect("prefix"));
        let errors = netlink.flush_all();
        let reported: Vec<_> = errors.iter().map(|error| error.doing.as_str()).collect();
        assert_eq!(reported, ["set link 77 up", "remove link 78"]);
        assert!(errors[1].is_already_gone(), "{:?}", errors[1]);
    }
}
