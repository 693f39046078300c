//! Notice of changes in many namespaces, over the sockets of one.
//!
//! A socket that listens in its own namespace costs every change in any other one a look at it: the kernel keeps those who listen in one
//! list. A thousand nodes on one machine are therefore listened to from a namespace that has numbers for theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::attention::Attention;
use super::message::{Attributes, attributes, read_u32};
use super::monitor::{self, is_drift};
use super::nft;
use super::socket::{Buffer, Message, Netlink};
use crate::error::Error;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `NETNSA_NSID_NOT_ASSIGNED`.
const NOT_ASSIGNED: u32 = u32::MAX;

/// What may wait to be read, bytes, where the kernel grants it: some thousand notices.
const WAITING: usize = 8 << 20;

/// A descriptor that is readable when what a [`Monitor`](super::Monitor) reports changed in one of many namespaces.
pub struct Listener {
    questions: Netlink,
    route: Socket,
    netfilter: Option<Socket>,
    /// Joins the sockets into one descriptor.
    either: Epoll,
    /// What matters in each namespace, by the number that it has here.
    attention: BTreeMap<u32, Attention>,
}

/// What was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The namespaces in which something changed that is worth an observation.
    pub changed: BTreeSet<u32>,
    /// Whether notices were lost, so that anything may have changed anywhere.
    pub is_lossy: bool,
}

impl Listener {
    /// Listens from the namespace of the calling thread. Four descriptors, usable from any thread.
    ///
    /// # Errors
    /// [`Error::Missing`] when the kernel gives no such socket, or shows one only its own namespace (before Linux 4.2).
    pub fn open() -> Result<Self, Error> {
        let missing = |error: io::Error| Error::Missing {
            what: "netlink socket for notices of many namespaces".to_owned(),
            why: error.to_string(),
        };
        let route = monitor::listener(NETLINK_ROUTE).map_err(missing)?;
        monitor::join_groups(&route)?;
        let netfilter = monitor::listener(NETLINK_NETFILTER).ok();
        let netfilter = netfilter.filter(|socket| socket.add_membership(monitor::NFTABLES).is_ok());
        for socket in [Some(&route), netfilter.as_ref()].into_iter().flatten() {
            socket.set_listen_all_namespaces(true).map_err(missing)?;
            // Whoever may not have more gets what there is, and overruns are told.
            if setsockopt(socket, sockopt::RcvBufForce, &WAITING).is_err() {
                let _ = setsockopt(socket, sockopt::RcvBuf, &WAITING);
            }
        }
        let either = monitor::join([Some(&route), netfilter.as_ref()])
            .map_err(|errno| missing(errno.into()))?;
        Ok(Self {
            questions: Netlink::open(NETLINK_ROUTE, "rtnetlink")?,
            route,
            netfilter,
            either,
            attention: BTreeMap::new(),
        })
    }

    /// Listens to a namespace, too, and says which number it has in what is heard. Only notices count that are about the tunnels, their
    /// rows, and these links: each a name, with its index while it is there.
    ///
    /// # Errors
    /// When the kernel gives the namespace no number.
    pub fn attend(
        &mut self,
        namespace: BorrowedFd<'_>,
        links: impl IntoIterator<Item = (String, Option<u32>)>,
    ) -> Result<u32, Error> {
        let number = match self.number_of(namespace)? {
            Some(number) => number,
            None => {
                let mut place = Vec::new();
                Attributes::new(&mut place)
                    .u32(NETNSA_NSID, NOT_ASSIGNED)
                    .u32(NETNSA_FD, namespace.as_raw_fd().cast_unsigned());
                let header = [0; 4];
                self.questions
                    .get("number of a namespace", RTM_NEWNSID, &header, &place)?;
                self.number_of(namespace)?.ok_or_else(|| {
                    Error::kernel("give", "a namespace its number", Errno::ENOSPC as i32)
                })?
            }
        };
        self.attention.insert(number, Attention::to(links));
        Ok(number)
    }

    /// The number that a namespace has here.
    fn number_of(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<u32>, Error> {
        let mut place = Vec::new();
        Attributes::new(&mut place).u32(NETNSA_FD, namespace.as_raw_fd().cast_unsigned());
        let answer = self
            .questions
            .get("number of a namespace", RTM_GETNSID, &[0; 4], &place)?;
        Ok(answer.and_then(|answer| {
            let (_, payload) = answer.messages().next()?;
            let mut rest = attributes(payload.get(4..)?);
            let (_, value) = rest.find(|(kind, _)| *kind == NETNSA_NSID)?;
            read_u32(value).filter(|number| *number != NOT_ASSIGNED)
        }))
    }

    /// Reads all notices that wait. Never blocks.
    pub fn drain(&mut self) -> Heard {
        let mut heard = Heard::default();
        let attention = &mut self.attention;
        drain(&self.route, &mut heard, |number, message| {
            // Every notice is read, because some tell which index a link has.
            let attention = attention.get_mut(&number);
            attention.is_some_and(|attention| attention.is_concerned(message) && is_drift(message))
        });
        if let Some(netfilter) = &self.netfilter {
            drain(netfilter, &mut heard, |number, message| {
                attention.contains_key(&number)
                    && nft::is_of_our_tables(message.kind, message.payload)
            });
        }
        heard
    }
}

fn drain(socket: &Socket, heard: &mut Heard, mut matters: impl FnMut(u32, &Message<'_>) -> bool) {
    let mut buffer = Buffer::borrowed();
    loop {
        match buffer.receive_from_namespace(socket, MsgFlags::MSG_DONTWAIT) {
            Ok((messages, Some(number))) => {
                for message in messages {
                    if matters(number, &message) {
                        heard.changed.insert(number);
                    }
                }
            }
            // The namespace of this socket itself.
            Ok((_, None)) => {}
            Err(Errno::ENOBUFS) => heard.is_lossy = true,
            Err(_) => return,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.0.as_fd()
    }
}

/// For event loops that ask for a number.
impl std::os::fd::AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.either.0.as_raw_fd()
    }
}
