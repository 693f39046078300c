//! The four tunnels of the datapath and their fixed numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::Family;

/// One of the four VXLAN tunnels that a node can have. In the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// vx-bridge: between clusters, IPv4.
    #[serde(rename = "vx-bridge")]
    Bridge,
    /// vx-bridge-6: between clusters, IPv6.
    #[serde(rename = "vx-bridge-6")]
    Bridge6,
    /// vx-local: between the nodes of one cluster, IPv4.
    #[serde(rename = "vx-local")]
    Local,
    /// vx-local-6: between the nodes of one cluster, IPv6.
    #[serde(rename = "vx-local-6")]
    Local6,
}

impl Tunnel {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Bridge6, Self::Local, Self::Local6];

    /// The tunnel between clusters.
    #[must_use]
    pub fn bridge(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Bridge,
            Family::Ipv6 => Self::Bridge6,
        }
    }

    /// The tunnel between the nodes of one cluster.
    #[must_use]
    pub fn local(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Local,
            Family::Ipv6 => Self::Local6,
        }
    }

    /// The tunnel whose link has a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tunnel| tunnel.name() == name)
    }

    /// The link's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "vx-bridge",
            Self::Bridge6 => "vx-bridge-6",
            Self::Local => "vx-local",
            Self::Local6 => "vx-local-6",
        }
    }

    /// The family of the packets inside and of the addresses of its ends.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Bridge | Self::Local => Family::Ipv4,
            Self::Bridge6 | Self::Local6 => Family::Ipv6,
        }
    }

    /// Whether it leads to other clusters.
    #[must_use]
    pub const fn is_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Bridge6)
    }

    /// The VXLAN network identifier, 24 bits.
    #[must_use]
    pub const fn vni(self) -> u32 {
        match self {
            Self::Bridge => 54,
            Self::Bridge6 => 64,
            Self::Local => 55,
            Self::Local6 => 65,
        }
    }

    /// The UDP destination port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Bridge => 4876,
            Self::Bridge6 => 4866,
            Self::Local => 4877,
            Self::Local6 => 4867,
        }
    }
}

/// The link's name.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
