//! The sessions of a node on its tunnels: [`Paths`] with sockets and a clock (feature `kube`).
//!
//! ```text
//!   agent ──plan──► thread of its own: sockets, one a tunnel ──► Paths ──detours──► agent
//!                                                                  └──summary──► status, metrics
//! ```
//!
//! The thread has nothing else to do: an agent that changes thousands of rows is silent for longer than a fast session bears.
//!
//! **Packets.** UDP to [`PORT`] of the other end's overlay address, from one's own and the same port: a tunnel is a single hop (RFC 5881), so the TTL is
//! 255 and the kernel drops what comes with less. Unlike RFC 5881, 4, the source port is not of the ephemeral ones: one socket serves a tunnel. Octets
//! beyond a packet's 24 are not read, and what no planned peer sent is dropped.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::liveness::Packet;
use crate::liveness::paths::{Detours, End, Paths, Plan, Settings, Summary};
use crate::tunnel::Tunnel;

/// The UDP port of BFD over a single hop (RFC 5881, 4).
pub const PORT: u16 = 3784;
/// The TTL or hop limit of all packets (RFC 5881, 5).
const TTL: libc::c_int = 255;
/// The most packets that are read of one socket before the sessions are looked at.
const AT_ONCE: usize = 256;
/// Between attempts to open a socket: its address may be yet to come.
const RETRY: Duration = Duration::from_millis(500);
/// What falls due within this time is done at once.
const TOGETHER: Duration = Duration::from_millis(2);
/// Packets that one system call sends.
const BATCH: usize = 64;

/// The sessions of a node, while it exists.
#[derive(Debug)]
pub struct Liveness {
    plan: watch::Sender<(Plan, Detours)>,
    thread: Option<JoinHandle<()>>,
}

/// What comes of the sessions, the newest state.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which gateways are replaced.
    pub detours: watch::Receiver<Detours>,
    /// How the sessions are.
    pub summary: watch::Receiver<Summary>,
}

impl Liveness {
    /// Begins in the network namespace of the calling thread, without a session.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn begin(settings: Settings) -> io::Result<(Self, Found)> {
        let (plan, plans) = watch::channel((Plan::default(), Detours::default()));
        let (detours, found) = watch::channel(Detours::default());
        let (summary, told) = watch::channel(Summary::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("liveness".to_owned())
            .stack_size(512 << 10)
            .spawn(move || runtime.block_on(run(settings, plans, &detours, &summary)))?;
        let found = Found {
            detours: found,
            summary: told,
        };
        let thread = Some(thread);
        Ok((Self { plan, thread }, found))
    }

    /// The sessions that are wanted from now on, and the detours that are kept as long as they know no better.
    pub fn plan(&self, plan: Plan, held: Detours) {
        self.plan.send_if_modified(|former| {
            let is_new = former.0 != plan;
            if is_new {
                *former = (plan, held);
            }
            is_new
        });
    }
}

/// The other ends are told, so that they do not take the end of an agent for the death of its node.
impl Drop for Liveness {
    fn drop(&mut self) {
        // The thread ends with its plans.
        let (closed, _) = watch::channel(Default::default());
        drop(std::mem::replace(&mut self.plan, closed));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the sessions ended in a panic");
        }
    }
}

async fn run(
    settings: Settings,
    mut plans: watch::Receiver<(Plan, Detours)>,
    detours: &watch::Sender<Detours>,
    summary: &watch::Sender<Summary>,
) {
    let start = Instant::now();
    // Numbers of sessions differ from those of an earlier run.
    let seed = RandomState::new().hash_one(std::process::id()) as u32;
    let mut paths = Paths::new(settings, seed);
    let mut wires = Wires::default();
    loop {
        let retry = wires.open(&paths.plan().own);
        let wait = match paths.deadline() {
            Some(at) => at.saturating_sub(start.elapsed()),
            None => Duration::from_secs(3600),
        };
        let wait = if retry { wait.min(RETRY) } else { wait };
        // Packets stay in their sockets and plans in their channel, whichever arm is taken.
        tokio::select! {
            biased;
            changed = plans.changed() => {
                if changed.is_err() {
                    break;
                }
                let (plan, held) = plans.borrow_and_update().clone();
                let sessions = plan.gateways.len();
                info!(gateways = sessions, "sessions are planned");
                paths.planned(plan, &held, start.elapsed());
            }
            () = wires.readable() => {}
            () = tokio::time::sleep(wait) => {}
        }
        wires.receive(|end, packet| paths.received(end, packet, start.elapsed()));
        let now = start.elapsed() + TOGETHER;
        paths.advance(now, |end, packet| wires.queue(end, &packet));
        wires.send();
        let now_found = paths.detours();
        detours.send_if_modified(|held| {
            let is_new = *held != now_found;
            if is_new {
                info!(detours = ?now_found, "which gateways are used has changed");
                *held = now_found;
            }
            is_new
        });
        if paths.take_changed() {
            let now_told = paths.summary();
            summary.send_if_modified(|held| {
                let is_new = *held != now_told;
                if is_new {
                    *held = now_told;
                }
                is_new
            });
        }
    }
    paths.end(start.elapsed(), |end, packet| wires.queue(end, &packet));
    wires.send();
}

/// The sockets of the tunnels, and what is to be sent through each.
#[derive(Default)]
struct Wires {
    wires: BTreeMap<Tunnel, Wire>,
}

struct Wire {
    address: IpAddr,
    socket: UdpSocket,
    waiting: Vec<(SockaddrStorage, [u8; Packet::LENGTH])>,
    /// Whether the last attempt to send failed, so that each failure is told once.
    is_failing: bool,
}

impl Wires {
    /// Has a socket for each of these addresses, and no other. Whether one is missing that has to be tried again.
    fn open(&mut self, own: &BTreeMap<Tunnel, IpAddr>) -> bool {
        self.wires
            .retain(|tunnel, wire| own.get(tunnel) == Some(&wire.address));
        let mut is_missing = false;
        for (tunnel, address) in own {
            if self.wires.contains_key(tunnel) {
                continue;
            }
            match Wire::open(*address) {
                Ok(wire) => drop(self.wires.insert(*tunnel, wire)),
                Err(error) => {
                    debug!(%tunnel, %address, %error, "no socket for sessions yet");
                    is_missing = true;
                }
            }
        }
        is_missing
    }

    /// Returns once a socket has a packet.
    async fn readable(&self) {
        let waits = self.wires.values().map(|wire| {
            let ready = async { drop(wire.socket.readable().await) };
            ready.boxed_local()
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            std::future::pending::<()>().await;
        }
        futures::future::select_all(waits).await;
    }

    /// Gives out the packets that wait.
    fn receive(&mut self, mut take: impl FnMut(End, &Packet)) {
        for (tunnel, wire) in &self.wires {
            let mut octets = [0; Packet::LENGTH + 1];
            for _ in 0..AT_ONCE {
                let (length, from) = match wire.socket.try_recv_from(&mut octets) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What an earlier packet met on its way.
                    Err(_) => continue,
                };
                if from.port() == PORT
                    && let Some(packet) = Packet::decode(&octets[..length])
                {
                    take((*tunnel, from.ip()), &packet);
                }
            }
        }
    }

    fn queue(&mut self, (tunnel, ip): End, packet: &Packet) {
        if let Some(wire) = self.wires.get_mut(&tunnel) {
            let to = storage(ip);
            wire.waiting.push((to, packet.encode()));
        }
    }

    /// Sends what was queued. What the kernel does not take is lost, as any packet may be.
    fn send(&mut self) {
        for (tunnel, wire) in &mut self.wires {
            let waiting = std::mem::take(&mut wire.waiting);
            let mut failed = None;
            for batch in waiting.chunks(BATCH) {
                failed = wire.send(batch).err().or(failed);
            }
            if let Some(error) = failed
                && !std::mem::replace(&mut wire.is_failing, true)
            {
                info!(%tunnel, %error, "packets of sessions cannot be sent");
            } else if failed.is_none() && !waiting.is_empty() {
                wire.is_failing = false;
            }
            // The room stays for the next ones.
            wire.waiting = waiting;
            wire.waiting.clear();
        }
    }
}

impl Wire {
    fn open(address: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(address, PORT))?;
        socket.set_nonblocking(true)?;
        let options = if address.is_ipv4() {
            [
                (libc::IPPROTO_IP, libc::IP_TTL),
                (libc::IPPROTO_IP, libc::IP_MINTTL),
            ]
        } else {
            [
                (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
                (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
            ]
        };
        for (level, option) in options {
            set(&socket, level, option, TTL)?;
        }
        Ok(Self {
            address,
            socket: UdpSocket::from_std(socket)?,
            waiting: Vec::new(),
            is_failing: false,
        })
    }

    /// Sends a batch with as few system calls as it takes.
    fn send(&self, batch: &[(SockaddrStorage, [u8; Packet::LENGTH])]) -> nix::Result<()> {
        let (mut left, mut failed) = (batch, Ok(()));
        while !left.is_empty() {
            let mut headers = MultiHeaders::preallocate(left.len(), None);
            let slices = left.iter().map(|(_, octets)| [IoSlice::new(octets)]);
            let slices: Vec<[IoSlice<'_>; 1]> = slices.collect();
            let to: Vec<Option<SockaddrStorage>> = left.iter().map(|(to, _)| Some(*to)).collect();
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let sent = sendmmsg(fd, &mut headers, &slices, to, [], flags).map(Iterator::count);
            // The first one of what is left cannot be sent; the others may.
            let gone = sent.unwrap_or(0).max(1).min(left.len());
            failed = failed.and(sent.map(drop));
            left = &left[gone..];
        }
        failed
    }
}

fn storage(ip: IpAddr) -> SockaddrStorage {
    match SocketAddr::new(ip, PORT) {
        SocketAddr::V4(address) => address.into(),
        SocketAddr::V6(address) => address.into(),
    }
}

#[expect(
    unsafe_code,
    reason = "nix knows neither IP_MINTTL nor IPV6_MINHOPCOUNT"
)]
fn set(
    socket: &std::net::UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let at = (&raw const value).cast();
    // SAFETY: the descriptor is open, and the kernel reads `length` octets of `value`, which outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, at, length) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
