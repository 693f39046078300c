//! What a floater says of itself and of the network that it stands in.

use datapath::digest::{self, Differences, Digest};
use datapath::state::NodeState;
use serde::{Deserialize, Serialize};

use super::{line, lines};

/// What this floater can do, for [`Info::capabilities`].
pub const CAPABILITIES: [&str; 6] = ["digests", "health", "icmp", "meet", "tables", "tcp"];

/// Who a floater is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The protocol's major version.
    pub version: u32,
    /// The program's version.
    #[serde(deserialize_with = "line")]
    pub program: String,
    /// The run that started it.
    #[serde(deserialize_with = "line")]
    pub run: String,
    /// The cluster's id.
    #[serde(deserialize_with = "line")]
    pub cluster: String,
    /// The node's name.
    #[serde(deserialize_with = "line")]
    pub node: String,
    /// Which network it stands in.
    pub layer: Layer,
    /// Where its responder listens.
    pub port: u16,
    /// What it can do, sorted; for this version [`CAPABILITIES`]. What is not listed it refuses.
    #[serde(deserialize_with = "lines")]
    pub capabilities: Vec<String>,
    /// How it has fared since it started.
    pub health: Health,
}

/// How well a floater was kept running: what weighs its testimony.
///
/// Since its start in [`Info`], during the plan in [`Event::Done`](super::Event::Done).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Times that it woke more than a tolerance (10 ms) later than it had asked for.
    pub missed_ticks: u64,
    /// The latest of these wake-ups, microseconds after the time that it had asked for.
    pub worst_lateness_us: u64,
    /// How long its threads were ready to run and waited for a processor, microseconds (the second figure of
    /// `/proc/thread-self/schedstat`); none where the kernel does not say.
    #[serde(default)]
    pub run_queue_delay_us: Option<u64>,
    /// Connections that the kernel of its network dropped because a queue of connections to be accepted was full
    /// (`ListenOverflows` of `/proc/net/netstat`); none where it cannot be read.
    #[serde(default)]
    pub accept_queue_overflows: Option<u64>,
    /// Datagrams that its sockets dropped for want of room (`SO_RXQ_OVFL`).
    pub receive_drops: u64,
}

impl Health {
    /// Whether it shows that the floater was kept from running or from hearing.
    ///
    /// The delay of its run queue is no sign by itself: it adds up over any length of time.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.missed_ticks > 0
            || self.receive_drops > 0
            || self.accept_queue_overflows.is_some_and(|count| count > 0)
    }
}

/// The network that a floater stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The node's own.
    Host,
    /// The pods'.
    Pod,
}

impl Layer {
    /// `host` or `pod`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Pod => "pod",
        }
    }
}

/// Which tables are expected where a floater stands, so that only what differs has to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// What the rows are hashed with.
    pub key: digest::Key,
    /// The sums of the rows that should be there.
    pub digest: Digest,
}

/// The tables of the network that a floater stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// The protocol's major version.
    pub version: u32,
    /// The node's name.
    #[serde(deserialize_with = "line")]
    pub node: String,
    /// The rows; where `differences` are given without those that the digest counts.
    pub state: NodeState,
    /// What is there in the buckets in which the node differs from what was expected; none where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Differences>,
    /// What could not be read, and why; empty when everything could.
    #[serde(default, deserialize_with = "lines")]
    pub missing: Vec<String>,
}
