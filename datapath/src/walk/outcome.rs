//! What became of a packet, and how that is described.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Packet;
use crate::filter::Decider;
use crate::mac::Mac;

/// The path of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// The nodes that routed it, in order; the nodes that routed its tunnels' packets follow the node that sent those.
    pub hops: Vec<Hop>,
    /// How it ended.
    pub end: End,
}

impl Walk {
    /// Whether the packet was stopped. One that left is not thereby where it should be: compare the node that it left.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.end, End::Stopped { .. })
    }

    /// The rows that decided, as (node, name), in the order in which they did; the row that stopped the packet is last.
    ///
    /// The node that drops a packet is often innocent: a wrong row upstream is in this list too.
    pub fn rows(&self) -> impl Iterator<Item = (&str, String)> {
        let last = match &self.end {
            End::Stopped { node, stop } => Some((node.as_str(), stop.row())),
            End::Delivered { .. } | End::Left { .. } => None,
        };
        self.hops
            .iter()
            .flat_map(|hop| hop.rows().map(|row| (hop.node.as_str(), row.to_owned())))
            .chain(last)
    }
}

/// What one node decided about a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The node.
    pub node: String,
    /// How many tunnels the packet is the carrier of: 0 for the packet that was asked about.
    pub depth: u8,
    /// The link that it came in by; none where the node made it.
    pub ingress: Option<String>,
    /// The source, as it was routed.
    pub src: IpAddr,
    /// The destination, as it was routed.
    pub dst: IpAddr,
    /// The rule that decided, where it is neither one that every kernel has nor the datapath's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The name of the route; none where there is none.
    pub route: Option<String>,
    /// The router; none where the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// The link that it goes out by; none where it stays or stops.
    pub egress: Option<String>,
    /// The name of the neighbour row; none where none was needed or the address was asked for.
    pub neighbour: Option<String>,
    /// Whether the neighbour was not known and answered.
    pub asked: bool,
    /// The tunnel that takes it.
    pub tunnel: Option<Carrier>,
    /// How its addresses changed here.
    pub translated: Vec<String>,
    /// What rules of others did to its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub altered: Vec<Altered>,
    /// Rules that may have stopped it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
}

/// An address that a rule of others exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The rule.
    pub by: Decider,
    /// The address that it was.
    pub from: IpAddr,
    /// The address that it became.
    pub to: IpAddr,
}

/// A rule that stops packets and of which it cannot be told whether it stops this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The rule.
    pub by: Decider,
    /// How many packets of a million it stops, where that is left to chance alone.
    pub per_million: Option<u32>,
}

impl Hop {
    /// The rows that decided here, in order.
    pub fn rows(&self) -> impl Iterator<Item = &str> {
        [
            self.route.as_deref(),
            self.egress.as_deref(),
            self.neighbour.as_deref(),
            self.tunnel.as_ref().map(|tunnel| tunnel.fdb.as_str()),
        ]
        .into_iter()
        .flatten()
    }
}

/// A VXLAN packet around a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// The VNI.
    pub vni: u32,
    /// The UDP destination port.
    pub port: u16,
    /// The remote VTEP.
    pub to: IpAddr,
    /// The name of the forwarding row.
    pub fdb: String,
    /// Whether that is a flood row, for want of one for the MAC.
    pub flooded: bool,
}

/// How a packet ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum End {
    /// A node took it for its own.
    Delivered {
        /// The node.
        node: String,
        /// The link that it came in by; none where the node made it itself.
        link: Option<String>,
    },
    /// It left what the world knows of.
    Left {
        /// The last node that is known.
        node: String,
        /// The link that it went out by; empty where the node's tables are a plan that ends there.
        link: String,
        /// The next hop.
        to: IpAddr,
        /// It, as it left: the tunnel's packet if that is what left.
        packet: Packet,
    },
    /// It went no further.
    Stopped {
        /// The node that dropped it.
        node: String,
        /// Why.
        stop: Stop,
    },
}

/// Why a packet goes no further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stop")]
pub enum Stop {
    /// A route or rule throws it away.
    Blackhole {
        /// The row's name.
        row: String,
    },
    /// A rule or the policy of a packet filter drops it.
    Filtered {
        /// Which.
        by: Box<Decider>,
        /// Whether it is a tunnel's packet.
        carries: bool,
    },
    /// Forwarding is off where it came in.
    ForwardingOff {
        /// The link that it came in by.
        link: String,
        /// The setting.
        sysctl: String,
    },
    /// IPv6 is off on the link.
    Ipv6Off {
        /// The link.
        link: String,
    },
    /// The link is down.
    LinkDown {
        /// The link.
        link: String,
    },
    /// A row names a link that is not there.
    LinkMissing {
        /// The link.
        link: String,
    },
    /// A rule that nobody planned asked for the way on which it is lost. Not what a walk ends with, but why.
    Hijacked {
        /// The rule's name.
        rule: String,
    },
    /// A route that nobody planned leads it astray. Not what a walk ends with, but why.
    Astray {
        /// The route's name.
        row: String,
    },
    /// It came back to where it was.
    Loop {
        /// The name of the route that sent it round.
        row: String,
    },
    /// Its source is an address of the node that it reached.
    MartianSource {
        /// The link that it came in by.
        link: String,
        /// The source.
        src: IpAddr,
    },
    /// No forwarding row says where the MAC is (`SKB_DROP_REASON_NO_TX_TARGET` or a flood that nobody took).
    NoFdb {
        /// The VXLAN link or bridge.
        link: String,
        /// The MAC.
        mac: Mac,
    },
    /// The next hop has no MAC and nobody answers for it.
    NoNeighbour {
        /// The link.
        link: String,
        /// The next hop.
        ip: IpAddr,
    },
    /// No route.
    NoRoute {
        /// The destination.
        dst: IpAddr,
    },
    /// No tunnel listens on the port.
    NobodyListens {
        /// The UDP port.
        port: u16,
    },
    /// It came with another's MAC (`SKB_DROP_REASON_OTHERHOST`).
    NotForUs {
        /// The link that it came in by.
        link: String,
        /// The MAC that it came with.
        mac: Mac,
    },
    /// The tunnel's own MAC came back as a source (`SKB_DROP_REASON_LOCAL_MAC`).
    OwnMac {
        /// The VXLAN link.
        link: String,
        /// The MAC.
        mac: Mac,
    },
    /// A route or rule forbids it.
    Prohibited {
        /// The row's name.
        row: String,
    },
    /// A rule of a packet filter refuses it, and tells its sender.
    Refused {
        /// Which.
        by: Box<Decider>,
        /// Whether it is a tunnel's packet.
        carries: bool,
    },
    /// The route back does not use the link that it came in by.
    RpFilter {
        /// The link that it came in by.
        link: String,
        /// The source.
        src: IpAddr,
    },
    /// The node that makes it does not have its source.
    SourceNotOwn {
        /// The source.
        src: IpAddr,
    },
    /// It is larger than the link takes and may not be cut.
    TooBig {
        /// The link.
        link: String,
        /// What the link or route takes, bytes.
        mtu: u32,
    },
    /// A rule exchanged an address, and with the other one it or its answer does not arrive.
    Translated {
        /// Which.
        by: Box<Decider>,
        /// The address that it was.
        from: IpAddr,
        /// The address that it became.
        to: IpAddr,
    },
    /// Its hops are used up.
    TtlExpired,
    /// The world has no such node.
    UnknownNode,
    /// A route or rule says that the destination cannot be reached.
    Unreachable {
        /// The row's name.
        row: String,
    },
    /// A tunnel listens on the port, but none with the VNI.
    VniUnknown {
        /// The VNI.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// The tunnel's own outer address is not the node's.
    VtepLocalGone {
        /// The VXLAN link.
        link: String,
        /// The address.
        local: IpAddr,
    },
    /// No node owns the address that a forwarding row leads to.
    VtepUnknown {
        /// The VXLAN link.
        link: String,
        /// The MAC.
        mac: Mac,
        /// The address.
        to: IpAddr,
    },
}

impl Stop {
    /// The name of the row that stops the packet or is missing, as row names are written everywhere.
    #[must_use]
    pub fn row(&self) -> String {
        match self {
            Self::Astray { row }
            | Self::Hijacked { rule: row }
            | Self::Blackhole { row }
            | Self::Loop { row }
            | Self::Prohibited { row }
            | Self::Unreachable { row } => row.clone(),
            Self::Filtered { by, .. } | Self::Refused { by, .. } | Self::Translated { by, .. } => {
                by.to_string()
            }
            Self::ForwardingOff { sysctl, .. } => sysctl.clone(),
            Self::Ipv6Off { link } => format!("net.ipv6.conf.{}.disable_ipv6", dotted(link)),
            Self::LinkDown { link }
            | Self::LinkMissing { link }
            | Self::MartianSource { link, .. }
            | Self::NotForUs { link, .. }
            | Self::OwnMac { link, .. }
            | Self::TooBig { link, .. }
            | Self::VtepLocalGone { link, .. } => link.clone(),
            Self::NoFdb { link, mac } => format!("{mac} dev {link}"),
            Self::NoNeighbour { link, ip } => format!("{ip} dev {link}"),
            Self::NoRoute { dst } => format!("route to {dst}"),
            Self::NobodyListens { port } => format!("udp port {port}"),
            Self::RpFilter { link, .. } => format!("net.ipv4.conf.{}.rp_filter", dotted(link)),
            Self::SourceNotOwn { src } => format!("address {src}"),
            Self::TtlExpired => "ttl".to_owned(),
            Self::UnknownNode => "node".to_owned(),
            Self::VniUnknown { vni, .. } => format!("vni {vni}"),
            Self::VtepUnknown { link, mac, to } => format!("{mac} dst {to} dev {link}"),
        }
    }
}

/// A link's name as part of a setting's.
pub(super) fn dotted(link: &str) -> String {
    link.replace('.', "/")
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Astray { row } => write!(f, "{row} leads it astray"),
            Self::Hijacked { rule } => write!(f, "rule {rule} leads it astray"),
            Self::Blackhole { row } => write!(f, "blackhole {row}"),
            Self::Filtered { by, carries } => {
                let what = if *carries { "the tunnel's packet " } else { "" };
                write!(
                    f,
                    "{what}dropped in {} by {by}: {}",
                    by.hook.word(),
                    by.text
                )
            }
            Self::ForwardingOff { link, sysctl } => {
                write!(
                    f,
                    "forwarding is off for what comes in by {link} ({sysctl})"
                )
            }
            Self::Ipv6Off { link } => write!(f, "ipv6 is off on {link}"),
            Self::LinkDown { link } => write!(f, "link {link} is down"),
            Self::LinkMissing { link } => write!(f, "there is no link {link}"),
            Self::Loop { row } => write!(f, "{row} sends it round in a loop"),
            Self::MartianSource { link, src } => {
                write!(f, "{src} came in by {link} but is an address of this node")
            }
            Self::NoFdb { link, mac } => write!(f, "no fdb row leads to {mac} dev {link}"),
            Self::NoNeighbour { link, ip } => write!(f, "no neighbour {ip} dev {link}"),
            Self::NoRoute { dst } => write!(f, "no route to {dst}"),
            Self::NobodyListens { port } => write!(f, "no tunnel listens on udp port {port}"),
            Self::NotForUs { link, mac } => {
                write!(f, "came in by {link} for {mac}, which is another's MAC")
            }
            Self::OwnMac { link, mac } => {
                write!(f, "{link} received its own MAC {mac} as a source")
            }
            Self::Prohibited { row } => write!(f, "prohibit {row}"),
            Self::Refused { by, carries } => {
                let what = if *carries { "the tunnel's packet " } else { "" };
                write!(
                    f,
                    "{what}refused in {} by {by}: {}",
                    by.hook.word(),
                    by.text
                )
            }
            Self::RpFilter { link, src } => {
                write!(
                    f,
                    "reverse path filter of {link}: the route to {src} uses another link"
                )
            }
            Self::SourceNotOwn { src } => write!(f, "this node has no address {src}"),
            Self::TooBig { link, mtu } => write!(f, "larger than the {mtu} bytes of {link}"),
            Self::Translated { by, from, to } => {
                write!(f, "{from} became {to} by {by}: {}", by.text)
            }
            Self::TtlExpired => f.write_str("its hops are used up"),
            Self::UnknownNode => f.write_str("nothing is known of this node"),
            Self::Unreachable { row } => write!(f, "unreachable {row}"),
            Self::VniUnknown { vni, port } => {
                write!(f, "no tunnel with vni {vni} on udp port {port}")
            }
            Self::VtepLocalGone { link, local } => {
                write!(
                    f,
                    "{link} sends from {local}, which this node no longer has"
                )
            }
            Self::VtepUnknown { link, mac, to } => {
                write!(f, "{mac} dev {link} leads to {to}, which no node has")
            }
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered {
                node,
                link: Some(link),
            } => write!(f, "delivered to {node}, in by {link}"),
            Self::Delivered { node, link: None } => write!(f, "delivered to {node} itself"),
            Self::Left { node, link, to, .. } if link.is_empty() => {
                write!(f, "left the plan of {node} for {to}")
            }
            Self::Left { node, link, to, .. } => write!(f, "left {node} by {link} for {to}"),
            Self::Stopped { node, stop } => write!(f, "stopped at {node}: {stop}"),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for _ in 0..self.depth {
            f.write_str("  ")?;
        }
        write!(f, "{}: {} -> {}", self.node, self.src, self.dst)?;
        if let Some(ingress) = &self.ingress {
            write!(f, ", in by {ingress}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, ", rule {rule}")?;
        }
        if let Some(route) = &self.route {
            write!(f, ", route {route}")?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(egress) = &self.egress {
            write!(f, " dev {egress}")?;
        }
        if let Some(neighbour) = &self.neighbour {
            write!(f, ", neighbour {neighbour}")?;
        }
        if self.asked {
            f.write_str(", neighbour asked for")?;
        }
        if let Some(tunnel) = &self.tunnel {
            write!(f, ", vxlan {} to {}:{}", tunnel.vni, tunnel.to, tunnel.port)?;
            if tunnel.flooded {
                f.write_str(" (flooded)")?;
            }
        }
        for change in &self.translated {
            write!(f, ", {change}")?;
        }
        for Altered { by, from, to } in &self.altered {
            write!(f, ", {from} becomes {to} by {by}")?;
        }
        for Doubt { by, per_million } in &self.doubts {
            match per_million {
                Some(of) => write!(f, ", {by} drops {of} of a million")?,
                None => write!(f, ", {by} may drop it ({})", by.text)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for hop in &self.hops {
            writeln!(f, "{hop}")?;
        }
        write!(f, "{}", self.end)
    }
}
