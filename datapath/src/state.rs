//! The tables of one node: what a planner wants, what an observation reads, what a walk consults.
//!
//! Every row is keyed by what the kernel keys it by, so that two states can be compared row by row and a row has the
//! same name in a plan, in a kernel and in a finding.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::filter::Filters;
use crate::mac::Mac;
use crate::table::{Keyed, Table};

/// The number of the main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The number of the local routing table (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// The tables of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeState {
    /// Links by name.
    pub links: Table<Link>,
    /// Addresses by (link, address and prefix length).
    pub addresses: Table<Address>,
    /// Neighbours by (link, address).
    pub neighbours: Table<Neighbour>,
    /// VXLAN and bridge forwarding rows by (link, MAC, destination).
    pub fdb: Table<Fdb>,
    /// Policy rules by (family, priority, everything else).
    pub rules: Table<Rule>,
    /// Routes by (table, prefix, metric).
    pub routes: Table<Route>,
    /// Address translation that the datapath owns.
    pub nat: Table<Nat>,
    /// The settings below `net.` that decide about forwarding, by name.
    pub sysctls: Table<Sysctl>,
    /// The packet filters, and other people's address translation. No plan has any, and no comparison looks at them.
    #[serde(skip_serializing_if = "Filters::is_empty")]
    pub filters: Filters,
}

impl NodeState {
    /// Whether a link has the address.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|row| row.net.addr() == ip)
    }

    /// All rows, table by table, each as a copy.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let links = self.links.iter().cloned().map(Row::Link);
        let addresses = self.addresses.iter().cloned().map(Row::Address);
        let neighbours = self.neighbours.iter().cloned().map(Row::Neighbour);
        let fdb = self.fdb.iter().cloned().map(Row::Fdb);
        let rules = self.rules.iter().cloned().map(Row::Rule);
        let routes = self.routes.iter().cloned().map(Row::Route);
        let nat = self.nat.iter().cloned().map(Row::Nat);
        let sysctls = self.sysctls.iter().cloned().map(Row::Sysctl);
        links
            .chain(addresses)
            .chain(neighbours)
            .chain(fdb)
            .chain(rules)
            .chain(routes)
            .chain(nat)
            .chain(sysctls)
    }

    /// Puts a row into its table, in place of the one under its key.
    pub fn put(&mut self, row: Row) {
        match row {
            Row::Address(row) => drop(self.addresses.insert(row)),
            Row::Fdb(row) => drop(self.fdb.insert(row)),
            Row::Link(row) => drop(self.links.insert(row)),
            Row::Nat(row) => drop(self.nat.insert(row)),
            Row::Neighbour(row) => drop(self.neighbours.insert(row)),
            Row::Route(row) => drop(self.routes.insert(row)),
            Row::Rule(row) => drop(self.rules.insert(row)),
            Row::Sysctl(row) => drop(self.sysctls.insert(row)),
        }
    }
}

/// One network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `IFLA_IFNAME`.
    pub name: String,
    /// The interface index; 0 in a plan.
    #[serde(default)]
    pub index: u32,
    /// `IFLA_ADDRESS`; none where the link has none of six octets.
    pub mac: Option<Mac>,
    /// `IFLA_MTU`, bytes.
    pub mtu: u32,
    /// `IFF_UP`: the administrator's wish.
    pub up: bool,
    /// `IFF_LOWER_UP`: the carrier.
    #[serde(default)]
    pub carrier: bool,
    /// What the link is made of.
    pub kind: LinkKind,
    /// The name of the bridge that the link is a port of.
    #[serde(default)]
    pub master: Option<String>,
    /// Packets that the device dropped on transmit (`IFLA_STATS64`).
    #[serde(default)]
    pub tx_dropped: u64,
    /// Packets that the device dropped on receive (`IFLA_STATS64`).
    #[serde(default)]
    pub rx_dropped: u64,
}

/// What a link is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// The loopback device.
    Loopback,
    /// Any other kind, named as `IFLA_INFO_KIND` does; `physical` where the kernel names none.
    Other {
        /// The kernel's word.
        name: String,
    },
    /// One end of a pair.
    Veth {
        /// The other end's interface index (`IFLA_LINK`), in its own namespace.
        #[serde(default)]
        peer_index: u32,
    },
    /// A VXLAN tunnel end point (RFC 7348).
    Vxlan(Vxlan),
}

/// The parameters of a VXLAN device that take part in comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// `IFLA_VXLAN_ID`, 24 bits.
    pub vni: u32,
    /// `IFLA_VXLAN_PORT`, the UDP destination port.
    pub port: u16,
    /// `IFLA_VXLAN_LOCAL` or `IFLA_VXLAN_LOCAL6`: the outer source.
    pub local: Option<IpAddr>,
    /// The name of the link that `IFLA_VXLAN_LINK` refers to.
    pub lower: Option<String>,
    /// `IFLA_VXLAN_LEARNING`.
    pub learning: bool,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The link's name.
    pub link: String,
    /// The address with the length of its prefix.
    pub net: IpNet,
}

/// A row of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The link's name.
    pub link: String,
    /// The address that is resolved.
    pub ip: IpAddr,
    /// What it resolves to; none while it does not.
    pub mac: Option<Mac>,
    /// How the kernel came to know it.
    pub state: NeighbourState,
}

/// `ndm_state`, as far as forwarding cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourState {
    /// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`, `NUD_PROBE`: learned, usable.
    Dynamic,
    /// `NUD_FAILED` and `NUD_INCOMPLETE`: no answer.
    Failed,
    /// `NUD_NOARP`.
    NoArp,
    /// `NUD_PERMANENT`: put there by an administrator.
    Permanent,
}

/// A row of a VXLAN device's or bridge's forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fdb {
    /// The link's name.
    pub link: String,
    /// The inner destination; [`Mac::ZERO`] for a flood row.
    pub mac: Mac,
    /// The remote VTEP; none on a bridge.
    pub dst: Option<IpAddr>,
    /// `NUD_PERMANENT`: put there by an administrator rather than learned.
    pub permanent: bool,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Whose lookups it takes part in.
    pub family: Family,
    /// `FRA_PRIORITY`; lower is asked first.
    pub priority: u32,
    /// The source selector; none for all.
    #[serde(default)]
    pub src: Option<IpNet>,
    /// The destination selector; none for all.
    #[serde(default)]
    pub dst: Option<IpNet>,
    /// The ingress link selector (`FRA_IIFNAME`).
    #[serde(default)]
    pub iif: Option<String>,
    /// The egress link selector (`FRA_OIFNAME`).
    #[serde(default)]
    pub oif: Option<String>,
    /// The mark and its mask (`FRA_FWMARK`, `FRA_FWMASK`).
    #[serde(default)]
    pub mark: Option<(u32, u32)>,
    /// Whether the selectors are negated (`FIB_RULE_INVERT`).
    #[serde(default)]
    pub invert: bool,
    /// What it asks beyond that; none for most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finer: Option<Finer>,
    /// What it does with a packet that it selects.
    pub action: RuleAction,
}

/// What a policy rule may ask of the packet's upper layer, and of the route that its table finds.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(default, rename_all = "kebab-case")]
pub struct Finer {
    /// The IP protocol number (`FRA_IP_PROTO`).
    pub protocol: Option<u8>,
    /// The first and the last source port (`FRA_SPORT_RANGE`).
    pub src_ports: Option<(u16, u16)>,
    /// The first and the last destination port (`FRA_DPORT_RANGE`).
    pub dst_ports: Option<(u16, u16)>,
    /// A route whose prefix is no longer than this is as good as none (`FRA_SUPPRESS_PREFIXLEN`).
    pub suppress: Option<u8>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// `FR_ACT_BLACKHOLE`.
    Blackhole,
    /// `FR_ACT_TO_TBL`: asks that table.
    Lookup(u32),
    /// Any other action, by number.
    Other(u8),
    /// `FR_ACT_PROHIBIT`.
    Prohibit,
    /// `FR_ACT_UNREACHABLE`.
    Unreachable,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The table that holds it.
    pub table: u32,
    /// The destination.
    pub dst: IpNet,
    /// `RTA_PRIORITY`; lower is preferred.
    #[serde(default)]
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Where it leads; empty for kinds that lead nowhere, several for multipath.
    #[serde(default)]
    pub hops: Vec<NextHop>,
    /// `RTA_PREFSRC`.
    #[serde(default)]
    pub src: Option<IpAddr>,
    /// `rtm_protocol`.
    pub protocol: u8,
    /// `RTAX_MTU`, bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// `rtm_type`, as far as forwarding cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// `RTN_BLACKHOLE`.
    Blackhole,
    /// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST`: delivered here.
    Local,
    /// `RTN_PROHIBIT`.
    Prohibit,
    /// `RTN_THROW`: the next rule is asked.
    Throw,
    /// `RTN_UNICAST`.
    Unicast,
    /// `RTN_UNREACHABLE`.
    Unreachable,
}

/// One next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NextHop {
    /// The router; none where the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// The link's name.
    pub link: String,
    /// `RTNH_F_ONLINK`: the router need not be in a connected prefix.
    #[serde(default)]
    pub onlink: bool,
    /// Its share among several, at least 1.
    #[serde(default = "one")]
    pub weight: u16,
    /// `RTNH_F_DEAD` or `RTNH_F_LINKDOWN`.
    #[serde(default)]
    pub dead: bool,
}

fn one() -> u16 {
    1
}

/// One address translation of the datapath, in the chain of its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "nat")]
pub enum Nat {
    /// Post-routing: the source becomes the egress link's address.
    Masquerade {
        /// The sources it applies to.
        src: IpNet,
        /// The egress link it applies to; none for all.
        out: Option<String>,
    },
    /// Pre-routing: the destination's network bits are exchanged, its host bits kept.
    Netmap {
        /// The destinations it applies to.
        dst: IpNet,
        /// The ingress link it applies to.
        input: String,
        /// The network that replaces theirs.
        to: IpNet,
    },
    /// Post-routing: the source becomes one address.
    Snat {
        /// The sources it applies to.
        src: IpNet,
        /// The egress link it applies to.
        out: String,
        /// The address.
        to: IpAddr,
    },
}

/// A setting below `net.`, by its dotted name, for example `net.ipv4.conf.eth0.forwarding`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The dotted name. A link's own dots stand as `/`, as in sysctl(8).
    pub name: String,
    /// The value.
    pub value: i64,
}

impl Keyed for Link {
    type Key = String;
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Keyed for Address {
    type Key = (String, IpNet);
    fn key(&self) -> Self::Key {
        (self.link.clone(), self.net)
    }
}

impl Keyed for Neighbour {
    type Key = (String, IpAddr);
    fn key(&self) -> Self::Key {
        (self.link.clone(), self.ip)
    }
}

impl Keyed for Fdb {
    type Key = (String, Mac, Option<IpAddr>);
    fn key(&self) -> Self::Key {
        (self.link.clone(), self.mac, self.dst)
    }
}

impl Keyed for Rule {
    type Key = Self;
    fn key(&self) -> Self {
        self.clone()
    }
}

impl Keyed for Route {
    type Key = (u32, IpNet, u32);
    fn key(&self) -> Self::Key {
        (self.table, self.dst, self.metric)
    }
}

impl Keyed for Nat {
    type Key = Self;
    fn key(&self) -> Self {
        self.clone()
    }
}

impl Keyed for Sysctl {
    type Key = String;
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// A row of any table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "row", content = "is")]
pub enum Row {
    /// An address.
    Address(Address),
    /// A forwarding row.
    Fdb(Fdb),
    /// A link.
    Link(Link),
    /// An address translation.
    Nat(Nat),
    /// A neighbour.
    Neighbour(Neighbour),
    /// A route.
    Route(Route),
    /// A policy rule.
    Rule(Rule),
    /// A setting.
    Sysctl(Sysctl),
}
