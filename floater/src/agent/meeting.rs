//! Holds a meeting over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Instant;

use datapath::state::Family;
use socket2::{SockFilter, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Sockets;
use super::mmsg::{self, Inbox};
use crate::meeting::{CONTENT, MAGIC, Session};
use crate::wire::{Hearing, Meeting};

/// The longest header of IPv4, and UDP's.
const HEADERS: usize = 60 + UDP;
const UDP: usize = 8;
/// `IP_PMTUDISC_PROBE`: sets don't-fragment and ignores what was learned of the path.
const PROBE_PMTU: i32 = 3;

/// The sockets of one family.
struct Lane {
    family: Family,
    out: Socket,
    heard: AsyncFd<Socket>,
}

impl Lane {
    fn open(sockets: &dyn Sockets, family: Family) -> io::Result<Self> {
        let out = sockets.udp_socket(family)?;
        out.set_nonblocking(true)?;
        let (level, discover) = match family {
            Family::Ipv4 => (libc::SOL_IP, libc::IP_MTU_DISCOVER),
            Family::Ipv6 => (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        mmsg::set_option(out.as_fd(), level, discover, PROBE_PMTU)?;
        let heard = sockets.raw_udp_socket(family)?;
        heard.set_nonblocking(true)?;
        // A node's datagrams are many, and few of them are ours.
        heard.attach_filter(&filter(family))?;
        Ok(Self {
            family,
            out,
            heard: mmsg::watch(heard, Interest::READABLE)?,
        })
    }

    /// The bytes of the IP header, which a raw socket of IPv4 delivers and one of IPv6 does not.
    fn header(&self, bytes: &[u8]) -> usize {
        match self.family {
            Family::Ipv4 => bytes
                .first()
                .map_or(0, |first| usize::from(first & 0xf) * 4),
            Family::Ipv6 => 0,
        }
    }

    /// Takes in what has come, as far as it is not more than a wake may cost.
    fn drain(&self, inbox: &mut Inbox, session: &mut Session) {
        const BATCHES: usize = 8;
        for _ in 0..BATCHES {
            let Ok(count @ 1..) = inbox.receive(self.heard.get_ref().as_fd(), 0) else {
                return;
            };
            for at in 0..count {
                let bytes = inbox.get(at).bytes;
                let Some(datagram) = bytes.get(self.header(bytes)..) else {
                    continue;
                };
                let (Some(head), Some(content)) = (datagram.get(..UDP), datagram.get(UDP..)) else {
                    continue;
                };
                let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
                let size = half(4).saturating_add(self.overhead());
                session.take(half(2), size, content);
            }
        }
    }

    /// Bytes of the IP header of what is sent.
    fn overhead(&self) -> u16 {
        match self.family {
            Family::Ipv4 => 20,
            Family::Ipv6 => 40,
        }
    }
}

/// Datagrams that begin as those of meetings do.
fn filter(family: Family) -> Vec<SockFilter> {
    // Classic BPF; offsets are from the IPv4 header, or from the UDP header.
    const X_IS_HEADER_LENGTH: u16 = 0xb1;
    const WORD_AT_X: u16 = 0x40;
    const WORD: u16 = 0x20;
    const IS: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Behind UDP's header.
    const BEHIND: u32 = 8;
    let (start, word) = match family {
        Family::Ipv4 => (
            Some(SockFilter::new(X_IS_HEADER_LENGTH, 0, 0, 0)),
            WORD_AT_X,
        ),
        Family::Ipv6 => (None, WORD),
    };
    start
        .into_iter()
        .chain([
            SockFilter::new(word, 0, 0, BEHIND),
            SockFilter::new(IS, 0, 1, u32::from_be_bytes(MAGIC)),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])
        .collect()
}

/// Holds a meeting: what was heard, and what could not be sent and why.
///
/// # Errors
/// The system gives no socket for a family of its peers.
pub(super) async fn hold(
    meeting: &Meeting,
    token: [u8; 16],
    sockets: &dyn Sockets,
) -> io::Result<(Vec<Hearing>, Vec<String>)> {
    let families: BTreeSet<Family> = meeting
        .peers
        .iter()
        .map(|peer| Family::of(peer.ip))
        .collect();
    let lanes = families
        .into_iter()
        .map(|family| Ok((family, Lane::open(sockets, family)?)))
        .collect::<io::Result<BTreeMap<_, _>>>()?;
    let epoch = Instant::now();
    let mut session = Session::new(meeting, token, epoch.elapsed());
    let mut inbox = Inbox::new(HEADERS + CONTENT);
    let mut unsent: BTreeMap<(u16, u16), String> = BTreeMap::new();
    loop {
        for lane in lanes.values() {
            lane.drain(&mut inbox, &mut session);
        }
        let now = epoch.elapsed();
        for send in session.poll(now) {
            let peer = meeting.peers[send.peer];
            let Some(lane) = lanes.get(&Family::of(peer.ip)) else {
                continue;
            };
            let mut bytes = send.content.to_vec();
            bytes.resize(usize::from(send.trial.size - lane.overhead()) - UDP, 0);
            let to = SocketAddr::new(peer.ip, send.trial.port);
            match lane.out.send_to(&bytes, &to.into()) {
                Ok(_) => drop(unsent.remove(&(peer.number, send.trial.size))),
                Err(error) => {
                    let why = format!("{} bytes to {}: {error}", send.trial.size, peer.ip);
                    unsent.insert((peer.number, send.trial.size), why);
                }
            }
        }
        let Some(deadline) = session.deadline() else {
            return Ok((session.heard(), unsent.into_values().collect()));
        };
        let readable = lanes.values().map(|lane| Box::pin(lane.heard.readable()));
        let readable: Vec<_> = readable.collect();
        let arrival = async {
            match readable.is_empty() {
                true => std::future::pending().await,
                false => futures::future::select_all(readable).await.0,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(deadline.saturating_sub(epoch.elapsed())) => {}
            ready = arrival => match ready {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is going away.
                Err(error) => return Err(error),
            }
        }
    }
}
