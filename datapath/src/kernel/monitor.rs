//! Followed of changes that others make.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::MsgFlags;

use super::attention::Attention;
use super::follow::{Followed, Follower};
use super::message::read_u16;
use super::neigh::{NUD_NOARP, NUD_PERMANENT, RTM_NEWNEIGH};
use super::nft;
use super::socket::{Buffer, Message};
use crate::error::Error;
use crate::state::NodeState;

/// The multicast groups of rtnetlink that report what an observation reads.
const GROUPS: [(&str, u32); 10] = [
    ("RTNLGRP_LINK", 1),
    ("RTNLGRP_NEIGH", 3),
    ("RTNLGRP_IPV4_IFADDR", 5),
    ("RTNLGRP_IPV4_ROUTE", 7),
    ("RTNLGRP_IPV4_RULE", 8),
    ("RTNLGRP_IPV6_IFADDR", 9),
    ("RTNLGRP_IPV6_ROUTE", 11),
    ("RTNLGRP_IPV6_RULE", 19),
    ("RTNLGRP_IPV4_NETCONF", 24),
    ("RTNLGRP_IPV6_NETCONF", 25),
];
/// `NFNLGRP_NFTABLES`.
pub(super) const NFTABLES: u32 = 7;

/// A descriptor that is readable when links, addresses, permanent neighbours, FDB rows, rules, routes, forwarding settings or nftables
/// changed.
///
/// nftables reports with `CAP_NET_ADMIN` only, and on a kernel that has it; without, look there from time to time.
pub struct Monitor {
    route: Socket,
    netfilter: Option<Socket>,
    /// Joins the sockets into one descriptor.
    either: Epoll,
    /// What of the notices matters; all of them where nobody said.
    attention: Option<Attention>,
}

impl Monitor {
    /// Listens in the namespace of the calling thread. Three descriptors, usable from any thread.
    ///
    /// # Errors
    /// [`Error::Missing`] when the kernel gives no such socket.
    pub fn open() -> Result<Self, Error> {
        let missing = |what: &str, error: io::Error| Error::Missing {
            what: what.to_owned(),
            why: error.to_string(),
        };
        let route = listener(NETLINK_ROUTE)
            .map_err(|error| missing("netlink socket for notices", error))?;
        join_groups(&route)?;
        let joins = |socket: &Socket| socket.add_membership(NFTABLES).is_ok();
        let netfilter = listener(NETLINK_NETFILTER).ok().filter(joins);
        let either = join([Some(&route), netfilter.as_ref()])
            .map_err(|errno| missing("epoll descriptor for notices", errno.into()))?;
        Ok(Self {
            route,
            netfilter,
            either,
            attention: None,
        })
    }

    /// From now on only notices count that are about the tunnels, their rows, and these links: each a name, with its index while it is
    /// there. What others do with links, addresses, neighbours, rules and routes of their own then costs a look at the notice.
    pub fn attend(&mut self, links: impl IntoIterator<Item = (String, Option<u32>)>) {
        self.attention = Some(Attention::to(links));
    }

    /// Reads all notices that wait; whether one of them is worth an observation. Never blocks.
    ///
    /// True also when notices were lost, because anything may have changed then.
    pub fn drain(&mut self) -> bool {
        let attention = &mut self.attention;
        let mut changed = drain(&self.route, |message| match attention {
            None => is_drift(message),
            // Every notice is read, because some tell which index a link has.
            Some(attention) => attention.is_concerned(message) && is_drift(message),
        });
        if let Some(netfilter) = &self.netfilter {
            changed |= drain(netfilter, |message| {
                nft::is_of_our_tables(message.kind, message.payload)
            });
        }
        changed
    }

    /// Reads all notices that wait, and keeps tables up with them that were read after [`Self::drain`] and before any other notice was. Never
    /// blocks.
    ///
    /// Of the rows that are followed only the datapath's are kept up. Whatever the notices do not tell whole is [`Followed::Anything`], and the
    /// tables are then of no use any more.
    pub fn follow(&mut self, tables: &mut NodeState) -> Followed {
        let Some(attention) = &mut self.attention else {
            return if self.drain() {
                Followed::Anything
            } else {
                Followed::Nothing
            };
        };
        let mut follower = Follower::of(tables);
        let mut notice = Followed::Nothing;
        let lost = drain(&self.route, |message| {
            // Every notice is read, because some tell which index a link has; tables that are of no use any more are not kept up.
            if attention.is_concerned(message) && notice != Followed::Anything {
                notice = notice.max(follower.follow(message));
            }
            false
        });
        let netfilter = self.netfilter.as_ref();
        let is_nat_other = netfilter.is_some_and(|netfilter| {
            drain(netfilter, |message| {
                nft::is_of_our_tables(message.kind, message.payload)
            })
        });
        if lost || is_nat_other {
            Followed::Anything
        } else {
            notice
        }
    }
}

/// Has a socket told of all that an observation reads.
pub(super) fn join_groups(route: &Socket) -> Result<(), Error> {
    for (name, group) in GROUPS {
        match route.add_membership(group) {
            Ok(()) => {}
            // A kernel without IPv6 has fewer groups.
            Err(_) if name.contains("IPV6") => {}
            Err(error) => {
                return Err(Error::Missing {
                    what: name.to_owned(),
                    why: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

pub(super) fn listener(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

pub(super) fn join(sockets: [Option<&Socket>; 2]) -> Result<Epoll, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for socket in sockets.into_iter().flatten() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(epoll)
}

fn drain(socket: &Socket, mut matters: impl FnMut(&Message<'_>) -> bool) -> bool {
    let mut changed = false;
    let mut buffer = Buffer::borrowed();
    loop {
        match buffer.receive(socket, MsgFlags::MSG_DONTWAIT) {
            Ok(messages) => {
                for message in messages {
                    changed |= matters(&message);
                }
            }
            Err(Errno::ENOBUFS) => changed = true,
            Err(_) => return changed,
        }
    }
}

/// Neighbours that the kernel learns, and their ageing, are nobody's drift.
pub(super) fn is_drift(message: &Message<'_>) -> bool {
    if message.kind != RTM_NEWNEIGH {
        return true;
    }
    let state = message.payload.get(8..10).and_then(read_u16);
    state.is_none_or(|state| state & (NUD_NOARP | NUD_PERMANENT) != 0)
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.0.as_fd()
    }
}

/// For event loops that ask for a number.
impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.either.0.as_raw_fd()
    }
}
