//! What a floater is asked to send.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CEILING_PPS, CONNECTIONS, MAX_PLANS, OVERHEAD_BYTES};
use crate::session::GAP;

/// Echo requests that even the smallest receive buffer holds the answers of.
const ECHOES_AT_ONCE: u64 = 64;

/// What a floater is asked to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The major version: [`VERSION`](super::VERSION).
    pub version: u32,
    /// The run that asks.
    pub run: String,
    /// Packets per second over all probes; lowered to the floater's share of [`CEILING_PPS`].
    pub budget_pps: u32,
    /// How long an answer is waited for, milliseconds, where a probe says nothing else.
    pub timeout_ms: u32,
    /// The TCP ports at which the run's responders listen: a probe may go to no other.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// The probes, in any order.
    pub probes: Vec<Probe>,
}

/// One destination and how to reach for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Chosen by the run; comes back in the result.
    pub id: u32,
    /// Where to.
    pub dst: IpAddr,
    /// How.
    pub protocol: Protocol,
    /// The destination port; ignored for ICMP.
    #[serde(default)]
    pub port: u16,
    /// How many packets (ICMP) or connections (TCP), at least 1.
    pub count: u16,
    /// Payload bytes of an ICMP echo.
    #[serde(default)]
    pub payload_bytes: u16,
    /// How long an answer is waited for, milliseconds; none for the plan's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// What the responder has to answer; without it any answer will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

/// How a probe reaches for its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Echo request and reply (RFC 792, RFC 4443); the kernel answers, so it never proves who.
    Icmp,
    /// A connection to the responder, which proves who it is.
    Tcp,
}

/// The proof that only the right responder can give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Hexadecimal, chosen by the run.
    pub nonce: String,
    /// Hexadecimal: [`proof`](super::proof) of the nonce by the destination.
    pub proof: String,
}

impl Plan {
    /// How long an answer to a probe of this plan is waited for.
    #[must_use]
    pub fn timeout(&self, probe: &Probe) -> Duration {
        Duration::from_millis(u64::from(probe.timeout_ms.unwrap_or(self.timeout_ms)))
    }

    /// Packets and connections of all probes.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.probes.iter().map(|probe| u64::from(probe.count)).sum()
    }

    /// Bytes of all probes: payloads and [`OVERHEAD_BYTES`] each.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = |probe: &Probe| {
            u64::from(probe.count) * (u64::from(probe.payload_bytes) + OVERHEAD_BYTES)
        };
        self.probes.iter().map(bytes).sum()
    }

    /// The longest time that a floater can need for it, by arithmetic: pacing, the gaps within a probe, and one timeout
    /// for each window's worth of probes that nobody answers.
    ///
    /// A floater that has been silent for longer, and says nothing of its own accord, is dead.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let share = CEILING_PPS / u32::try_from(MAX_PLANS).unwrap_or(u32::MAX);
        // A system that is short of buffers makes a floater slow down; twice covers the first time.
        let pps = u64::from(self.budget_pps.clamp(1, share));
        let pacing = Duration::from_millis(2 * self.packets() * 1000 / pps);
        let gaps = self.probes.iter().map(|probe| probe.count).max();
        let waiting = |protocol, at_once: u64| {
            let of = || {
                self.probes
                    .iter()
                    .filter(move |probe| probe.protocol == protocol)
            };
            let packets: u64 = of().map(|probe| u64::from(probe.count)).sum();
            let longest = of().map(|probe| self.timeout(probe)).max();
            let windows = u32::try_from(packets.div_ceil(at_once)).unwrap_or(u32::MAX);
            longest.unwrap_or_default().saturating_mul(windows)
        };
        pacing
            .saturating_add(GAP * u32::from(gaps.unwrap_or(0)))
            .saturating_add(waiting(Protocol::Tcp, CONNECTIONS as u64))
            .saturating_add(waiting(Protocol::Icmp, ECHOES_AT_ONCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(probes: usize, protocol: Protocol) -> Plan {
        let probe = Probe {
            id: 0,
            dst: [10, 0, 0, 1].into(),
            protocol,
            port: 0,
            count: 1,
            payload_bytes: 56,
            timeout_ms: None,
            expect: None,
        };
        Plan {
            version: super::super::VERSION,
            run: "r".into(),
            budget_pps: 1000,
            timeout_ms: 1000,
            ports: Vec::new(),
            probes: vec![probe; probes],
        }
    }

    #[test]
    fn dead_targets_are_waited_for_a_window_at_a_time() {
        let seconds = |probes, protocol| plan(probes, protocol).longest().as_secs();
        // 1,800 connections that nobody answers: 15 windows of 128, a second each.
        assert!((18..25).contains(&seconds(1800, Protocol::Tcp)));
        assert!((40..50).contains(&seconds(2500, Protocol::Icmp)));
        assert_eq!(seconds(0, Protocol::Tcp), 0);
        let mut patient = plan(1800, Protocol::Tcp);
        patient.probes[7].timeout_ms = Some(5000);
        assert!(patient.longest() >= Duration::from_secs(75));
    }
}
