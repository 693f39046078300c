//! Datagrams that floaters send each other, to find out which ports and sizes pass in which direction before anything listens there.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{VERSION, line, lines, unhex_exactly};

/// The most peers of a meeting.
pub const MAX_PEERS: usize = 64;
/// The most pairs of port and size.
pub const MAX_TRIALS: usize = 32;
/// The most datagrams of a round, over all peers.
pub const MAX_ROUND: usize = 512;
/// The longest meeting, milliseconds.
pub const MAX_MEETING_MS: u32 = 10_000;
/// The sizes that a datagram may have, bytes with its IP header: what every header and content need, and no jumbo frame.
pub const SIZES: std::ops::RangeInclusive<u16> = 128..=9000;

/// What a floater is asked to send and to listen for.
///
/// Every floater of a meeting is asked at once. Each sends every trial to every peer, again and again, until the peer says in a datagram of
/// its own that it has heard it. Nobody answers a datagram: a firewall that lets answers pass and no question would not be noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meeting {
    /// The major version: [`VERSION`].
    pub version: u32,
    /// Hexadecimal, 16 bytes that nobody else knows: datagrams without it are not heard.
    pub token: String,
    /// This floater's number in the meeting.
    pub number: u16,
    /// The others.
    pub peers: Vec<Peer>,
    /// What is sent to each of them.
    pub trials: Vec<Trial>,
    /// When it ends at the latest.
    pub millis: u32,
}

/// Another floater of a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its number.
    pub number: u16,
    /// Its address.
    pub ip: IpAddr,
}

/// One kind of datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Its UDP destination port.
    pub port: u16,
    /// Its size, bytes with its IP header; it must not be fragmented.
    pub size: u16,
}

/// What came of a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// The protocol's major version.
    pub version: u32,
    /// The node's name.
    #[serde(deserialize_with = "line")]
    pub node: String,
    /// What was heard.
    pub heard: Vec<Hearing>,
    /// What could not be sent, and why: one sentence each.
    #[serde(deserialize_with = "lines")]
    pub unsent: Vec<String>,
    /// Whether the kernel makes VXLAN links; none where it did not say.
    #[serde(default)]
    pub vxlan: Option<bool>,
}

/// A trial of a peer that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hearing {
    /// The peer's number.
    pub peer: u16,
    /// The trial's place among those of the meeting.
    pub trial: u16,
}

impl Meeting {
    /// Its token.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<[u8; 16], String> {
        let rule = |rule: &str| Err(rule.to_owned());
        if self.version != VERSION {
            return Err(format!("version: {VERSION} is spoken here"));
        }
        let Some(token) = unhex_exactly::<16>(&self.token) else {
            return rule("token: hexadecimal, 16 bytes");
        };
        if self.peers.len() > MAX_PEERS {
            return Err(format!("peers: at most {MAX_PEERS}"));
        }
        if self.trials.len() > MAX_TRIALS || self.trials.len() * self.peers.len() > MAX_ROUND {
            return Err(format!(
                "trials: at most {MAX_TRIALS}, and {MAX_ROUND} with those of all peers"
            ));
        }
        if self.millis == 0 || self.millis > MAX_MEETING_MS {
            return Err(format!("millis: 1 to {MAX_MEETING_MS}"));
        }
        let is_bad = |trial: &&Trial| trial.port == 0 || !SIZES.contains(&trial.size);
        if self.trials.iter().any(|trial| is_bad(&trial)) {
            return Err(format!(
                "trials: a port, and a size of {} to {}",
                SIZES.start(),
                SIZES.end()
            ));
        }
        for peer in &self.peers {
            let ip = peer.ip;
            let is_host = !ip.is_unspecified()
                && !ip.is_multicast()
                && !ip.is_loopback()
                && ip != IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
            if !is_host || peer.number == self.number {
                return rule("peers: addresses of hosts elsewhere, with numbers of their own");
            }
        }
        let mut numbers: Vec<u16> = self.peers.iter().map(|peer| peer.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() < self.peers.len() {
            return rule("peers: no number twice");
        }
        Ok(token)
    }
}
