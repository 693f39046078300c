//! What passes between the machine and its driver.

use std::net::IpAddr;
use std::time::Duration;

use super::{Lane, Token};
use crate::wire::Failure;

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Give up on a connection; it is judged already.
    Abandon {
        /// Which.
        token: Token,
    },
    /// Connect to a probe's destination and, if it says so, ask who is there.
    Connect {
        /// Comes back in [`Input::Connected`].
        token: Token,
        /// The place of the probe in the plan.
        probe: usize,
    },
    /// Send an echo request.
    Echo {
        /// Comes back in the reply's payload.
        token: Token,
        /// Comes back in the reply's payload.
        cookie: u64,
        /// Where to.
        dst: IpAddr,
        /// Bytes behind the ICMP header.
        payload_bytes: u16,
    },
}

/// What happened to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A connection came to something: the time it took, or why not.
    Connected {
        /// From [`Command::Connect`].
        token: Token,
        /// The round-trip time of the handshake, or the failure.
        result: Result<Duration, Failure>,
    },
    /// An ICMP error that quotes one of our echoes.
    IcmpError {
        /// The lane of the socket that it came to.
        lane: Lane,
        /// The quoted sequence number.
        sequence: u16,
        /// The quoted destination.
        dst: IpAddr,
        /// Who complains.
        from: IpAddr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
    /// The lane's receive buffer ran over: what was in flight may have been answered.
    Overflowed {
        /// The lane.
        lane: Lane,
        /// How many datagrams were dropped since the last time.
        drops: u32,
    },
    /// An echo reply.
    Reply {
        /// From the payload.
        token: Token,
        /// From the payload.
        cookie: u64,
        /// Whose address it came from.
        from: IpAddr,
        /// When the kernel received it, by its wall clock; none where it did not say.
        received: Option<Duration>,
    },
    /// An echo could not be sent.
    SendFailed {
        /// From [`Command::Echo`].
        token: Token,
        /// The system's words.
        error: String,
        /// Whether the system is short of something, so that sending more makes it worse.
        short: bool,
    },
    /// An echo is about to be sent, by the wall clock of the kernel's time stamps.
    Sending {
        /// From [`Command::Echo`].
        token: Token,
        /// The time.
        at: Duration,
    },
    /// The kernel gave an echo to the device. To be told before the reply, if both are known.
    Transmitted {
        /// From the payload.
        token: Token,
        /// From the payload.
        cookie: u64,
        /// When, by the kernel's wall clock.
        at: Duration,
    },
}
