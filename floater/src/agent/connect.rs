//! One TCP probe: a connection, and the question who is there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use datapath::state::Family;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Sockets;
use super::mmsg::{self, Inbox, Report};
use crate::probe::tcp;
use crate::wire::{Expect, Failure};

/// Connects and, if something is expected, asks for it: the handshake's round-trip time, or why not.
///
/// How long it may take is the session's affair.
pub(super) async fn connect(
    sockets: &dyn Sockets,
    dst: SocketAddr,
    expect: Option<&Expect>,
) -> Result<Duration, Failure> {
    let socket = sockets
        .tcp_socket(Family::of(dst.ip()))
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            // A probe leaves no TIME_WAIT behind.
            socket.set_linger(Some(Duration::ZERO))?;
            Ok(socket)
        })
        .map_err(|error| local(&error))?;
    let (level, name) = match dst {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVERR),
    };
    // Without it an unreachable is still one, only its sender stays unknown.
    let _ = mmsg::set_option(socket.as_fd(), level, name, 1);
    let started = Instant::now();
    let pending = match socket.connect(&dst.into()) {
        Ok(()) => None,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => None,
        Err(error) => Some(error),
    };
    if let Some(error) = pending {
        return Err(failure(&socket, &error));
    }
    let mut stream = TcpStream::from_std(socket.into()).map_err(|error| local(&error))?;
    stream.writable().await.map_err(|error| local(&error))?;
    if let Some(error) = stream.take_error().map_err(|error| local(&error))? {
        return Err(failure(&stream, &error));
    }
    let own = started.elapsed();
    let rtt = mmsg::handshake(stream.as_fd())
        .filter(|rtt| *rtt <= own)
        .unwrap_or(own);
    if let Some(expect) = expect {
        let answer = ask(&mut stream, &expect.nonce).await;
        tcp::judge(&answer, expect)?;
    }
    Ok(rtt)
}

/// The answer, or what there was of it when the connection ended.
async fn ask(stream: &mut TcpStream, nonce: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    if stream
        .write_all(tcp::request(nonce).as_bytes())
        .await
        .is_err()
    {
        return answer;
    }
    let mut part = [0; 1024];
    while answer.len() < tcp::LONGEST && !tcp::is_whole(&answer) {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
        }
    }
    answer
}

/// What a failed connection says about the path.
fn failure(socket: &impl std::os::fd::AsFd, error: &io::Error) -> Failure {
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
fn icmp_error(socket: &impl std::os::fd::AsFd) -> Option<Failure> {
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
