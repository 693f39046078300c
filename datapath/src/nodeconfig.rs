//! From a NodeConfig to the rows of one node.
//!
//! A NodeConfig says what is on the tunnels but not how long a packet may be or which address is the outer source; both are facts
//! of the underlay link, so an observation of the node lends them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::api::{self, Device, NodeConfigSpec};
pub use crate::error::Part;
use crate::error::{Problem, ProblemKind};
use crate::mac::Mac;
use crate::plan::{self, Hops};
use crate::state::{
    Address, Family, Fdb, Link, LinkKind, Neighbour, NeighbourState, NextHop, NodeState, Route,
    RouteKind, Rule, RuleAction, Sysctl, Vxlan,
};
use crate::tunnel::Tunnel;

pub(crate) mod translation;

/// The routing table of everything that the datapath routes.
pub const TABLE: u32 = 200;
/// The priority of the policy rule that asks [`TABLE`], before the main table.
pub const PRIORITY: u32 = 200;
/// The names of the tunnels; a link of one of these names is the datapath's.
pub const TUNNELS: [&str; 4] = ["vx-bridge", "vx-bridge-6", "vx-local", "vx-local-6"];
/// `RTPROT_BOOT`, which the other implementation's library writes.
pub const PROTOCOL: u8 = 3;
/// The metric that the kernel gives an IPv6 route that names none (`IP6_RT_PRIO_USER`).
pub const METRIC_IPV6: u32 = 1024;

/// What VXLAN adds to a packet, bytes: outer IP, UDP (8), VXLAN (8) and inner Ethernet (14) headers.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;

/// The rows of a NodeConfig, and the parts of it that make none.
///
/// `observed` lends the MTU of each underlay link and the tunnel's source: the address of that link whose host bits the overlay address
/// carries, or else its lowest global one. Rows on a tunnel that cannot be are left out with it.
#[must_use]
pub fn desired(config: &NodeConfigSpec, observed: &NodeState) -> (NodeState, Vec<Problem>) {
    let mut rows = Rows::default();
    for device in &config.devices {
        rows.try_part(Part::Device, &device.name, |rows| {
            let end = Endpoint::of(device).inspect_err(|_| {
                rows.absent.insert(device.name.clone());
            })?;
            rows.device(&end, observed)
        });
    }
    for arp in &config.arps {
        rows.try_part(Part::Arp, &arp.ip, |rows| {
            rows.require(&arp.dev)?;
            rows.neighbour(&arp.dev, address(&arp.ip)?, ethernet(&arp.mac)?)
        });
    }
    for fdb in &config.fdbs {
        rows.try_part(Part::Fdb, &fdb.mac, |rows| {
            rows.require(&fdb.dev)?;
            rows.fdb(&fdb.dev, ethernet(&fdb.mac)?, address(&fdb.ip)?)
        });
    }
    let further = Further::of(config);
    for route in &config.routes {
        rows.try_part(Part::Route, &route.cidr, |rows| {
            rows.require(&route.dev)?;
            let hops = further.hops_of(route, address(&route.gw)?);
            rows.route(&route.dev, prefix(&route.cidr)?, hops)
        });
    }
    for translation in &config.iptables {
        rows.try_part(Part::Iptables, &translation.rule, |rows| {
            rows.state.nat.insert(translation::parse(translation)?);
            Ok(())
        });
    }
    (rows.state, rows.problems)
}

/// As [`desired`], from rows that were never text.
pub(crate) fn desired_rows<'p>(
    devices: impl Iterator<Item = plan::Device<'p>>,
    planned: impl Iterator<Item = plan::Row>,
    observed: &NodeState,
) -> (NodeState, Vec<Problem>) {
    let mut rows = Rows::default();
    for device in devices {
        let end = Endpoint::from(device);
        rows.try_part(Part::Device, end.tunnel.name(), |rows| {
            rows.device(&end, observed)
        });
    }
    for row in planned {
        let (part, name) = match row {
            plan::Row::Fdb { mac, .. } => (Part::Fdb, mac.to_string()),
            plan::Row::Nat(_) => (Part::Iptables, String::new()),
            plan::Row::Neighbour { ip, .. } => (Part::Arp, ip.to_string()),
            plan::Row::Route { dst, .. } => (Part::Route, dst.to_string()),
        };
        rows.try_part(part, &name, |rows| rows.planned(row));
    }
    (rows.state, rows.problems)
}

/// What a NodeConfig's rows are, in 16 hexadecimal digits: the same for the same rows in any order, on any machine and of any version of
/// this program. It is no protection against somebody who wants two configs to have the same one.
#[must_use]
pub fn spec_digest(config: &NodeConfigSpec) -> String {
    fn sum<R: Serialize>(list: u8, rows: &[R]) -> u64 {
        let print = |row: &R| {
            let mut hasher = SipHasher13::new();
            hasher.write_u8(list);
            // Rows are text and numbers: nothing in them cannot be written.
            hasher.write(&serde_json::to_vec(row).unwrap_or_default());
            hasher.finish()
        };
        rows.iter().map(print).fold(0, u64::wrapping_add)
    }
    let sums = [
        sum(0, &config.devices),
        sum(1, &config.routes),
        sum(2, &config.iptables),
        sum(3, &config.fdbs),
        sum(4, &config.arps),
        sum(5, &config.gateways),
        sum(6, &config.takeover),
        sum(7, &config.multipath),
    ];
    format!("{:016x}", sums.into_iter().fold(0, u64::wrapping_add))
}

#[derive(Default)]
struct Rows {
    state: NodeState,
    problems: Vec<Problem>,
    /// Where each unicast MAC leads, by (link, MAC): the kernel has one destination for it.
    unicast: BTreeMap<(String, Mac), IpAddr>,
    /// Tunnels that were left out, already reported.
    absent: BTreeSet<String>,
}

/// Why a part makes no row.
enum Refusal {
    /// Its tunnel cannot be made, which a problem of its own says already.
    Absent,
    /// A field of it cannot be used.
    Malformed(String),
    /// An earlier part with the same key is kept.
    Repeated(String),
    /// The node lacks what it stands on.
    Unmet(String),
}

impl From<String> for Refusal {
    fn from(rule: String) -> Self {
        Self::Malformed(rule)
    }
}

impl Rows {
    fn try_part(
        &mut self,
        list: Part,
        name: &str,
        part: impl FnOnce(&mut Self) -> Result<(), Refusal>,
    ) {
        let (rule, kind) = match part(self) {
            Ok(()) | Err(Refusal::Absent) => return,
            Err(Refusal::Malformed(rule)) => (rule, ProblemKind::Malformed),
            Err(Refusal::Repeated(rule)) => (rule, ProblemKind::Repeated),
            Err(Refusal::Unmet(rule)) => (rule, ProblemKind::Unmet),
        };
        self.problems.push(Problem {
            part: Some(list),
            kind,
            ..Problem::new(format!("{} {name}", list.word()), rule)
        });
    }

    fn device(&mut self, end: &Endpoint<'_>, observed: &NodeState) -> Result<(), Refusal> {
        let link = end.link(observed).inspect_err(|_| {
            self.absent.insert(end.tunnel.name().to_owned());
        })?;
        let net = end.net;
        if self.state.links.get(&link.name).is_some() {
            return Err(Refusal::Repeated(
                "there are two devices of this name".to_owned(),
            ));
        }
        let family = Family::of(net.addr());
        self.state.addresses.insert(Address {
            link: link.name.clone(),
            net,
        });
        self.state.links.insert(link);
        self.state.rules.insert(Rule {
            family,
            priority: PRIORITY,
            src: None,
            dst: None,
            iif: None,
            oif: None,
            mark: None,
            finer: None,
            invert: false,
            action: RuleAction::Lookup(TABLE),
        });
        for place in ["all", end.lower, end.tunnel.name()] {
            // A link's own dots stand as `/` in a dotted name.
            let place_name = place.replace('.', "/");
            let mut set = |leaf: &str, value| {
                self.state.sysctls.insert(Sysctl {
                    name: format!("net.{}.conf.{place_name}.{leaf}", directory(family)),
                    value,
                });
            };
            set("forwarding", 1);
            if place == "all" {
                continue;
            }
            match family {
                // Replies may come by another path than their route says.
                Family::Ipv4 => set("rp_filter", 2),
                Family::Ipv6 => set("disable_ipv6", 0),
            }
        }
        Ok(())
    }

    /// Refuses a row on a link that is not a tunnel of this config.
    fn require(&self, link: &str) -> Result<(), Refusal> {
        if self.state.links.get(link).is_some() {
            Ok(())
        } else if self.absent.contains(link) {
            Err(Refusal::Absent)
        } else {
            Err(Refusal::Malformed(format!(
                "`{link}` is not one of the config's devices"
            )))
        }
    }

    fn planned(&mut self, row: plan::Row) -> Result<(), Refusal> {
        if let Some(tunnel) = row.tunnel() {
            self.require(tunnel.name())?;
        }
        match row {
            plan::Row::Fdb { tunnel, mac, dst } => self.fdb(tunnel.name(), mac, dst),
            plan::Row::Nat(translation) => {
                self.state.nat.insert(translation.into());
                Ok(())
            }
            plan::Row::Neighbour { tunnel, ip, mac } => self.neighbour(tunnel.name(), ip, mac),
            plan::Row::Route { tunnel, dst, via } => self.route(tunnel.name(), dst, via),
        }
    }

    fn neighbour(&mut self, link: &str, ip: IpAddr, mac: Mac) -> Result<(), Refusal> {
        let row = Neighbour {
            link: link.to_owned(),
            ip,
            mac: Some(mac),
            state: NeighbourState::Permanent,
        };
        match self.state.neighbours.insert(row.clone()) {
            Some(first) if first != row => {
                let rule = format!("{ip} on {link} has two MACs; the first is kept");
                self.state.neighbours.insert(first);
                Err(Refusal::Repeated(rule))
            }
            _ => Ok(()),
        }
    }

    fn fdb(&mut self, link: &str, mac: Mac, dst: IpAddr) -> Result<(), Refusal> {
        if let Some(LinkKind::Vxlan(tunnel)) = self.state.links.get(link).map(|link| &link.kind)
            && let Some(local) = tunnel.local
            && Family::of(local) != Family::of(dst)
        {
            return Err(Refusal::Malformed(format!(
                "{dst} is not of the family of {local}"
            )));
        }
        if !mac.is_zero() {
            let first = *self.unicast.entry((link.to_owned(), mac)).or_insert(dst);
            if first != dst {
                return Err(Refusal::Repeated(format!(
                    "{mac} on {link} leads to {first} and to {dst}; the first is kept"
                )));
            }
        }
        self.state.fdb.insert(Fdb {
            link: link.to_owned(),
            mac,
            dst: Some(dst),
            permanent: true,
        });
        Ok(())
    }

    fn route(&mut self, link: &str, dst: IpNet, hops: Hops) -> Result<(), Refusal> {
        let family = Family::of(dst.addr());
        if let Some(via) = hops.iter().find(|via| Family::of(*via) != family) {
            return Err(Refusal::Malformed(format!(
                "{via} is not of the family of {dst}"
            )));
        }
        let row = route_row(dst, hops, link);
        match self.state.routes.insert(row.clone()) {
            Some(first) if first != row => {
                self.state.routes.insert(first);
                return Err(Refusal::Repeated(
                    "there are two of it; the first is kept".to_owned(),
                ));
            }
            _ => {}
        }
        if hops.are_several() {
            self.state.sysctls.extend(sticky(family));
        }
        Ok(())
    }
}

/// The further next hops of a config's routes, by the words of these.
pub(crate) struct Further<'c>(BTreeMap<[&'c str; 3], Vec<IpAddr>>);

impl<'c> Further<'c> {
    /// Those that can be read; what names no route is nobody's.
    pub(crate) fn of(config: &'c NodeConfigSpec) -> Self {
        let mut further: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for hop in &config.multipath {
            if let Ok(via) = address(&hop.via) {
                let route = [&*hop.cidr, &hop.gw, &hop.dev];
                further.entry(route).or_default().push(via);
            }
        }
        Self(further)
    }

    /// All next hops of a route whose own is `first`. Those of another family, which the kernel would refuse, are left out.
    pub(crate) fn hops_of(&self, route: &api::Route, first: IpAddr) -> Hops {
        let further = self.0.get(&[&*route.cidr, &route.gw, &route.dev]);
        let further = further.into_iter().flatten().copied();
        let further = further.filter(|via| Family::of(*via) == Family::of(first));
        Hops::of(further.chain([first])).unwrap_or(first.into())
    }
}

/// `fib_multipath_hash_policy`: what `fib_multipath_hash_fields` names decides. Policy 1 takes a socket's random number where the kernel knows the socket,
/// as it does of all pods.
const POLICY: i64 = 3;
/// `fib_multipath_hash_fields`: source, destination, protocol and ports. The kernel hashes both directions of a flow to one number.
const FIELDS: i64 = 0x37;
/// `fib_multipath_hash_seed` (since Linux 6.11, of both families): any number that is the same on all nodes, so that they choose the same gateway.
const SEED: i64 = 0x6b6f_736d;

/// The settings by which the nodes of a fleet send a flow, and its replies, through the same one of several next hops.
fn sticky(family: Family) -> [Sysctl; 3] {
    let of_family = |leaf| format!("net.{}.fib_multipath_hash_{leaf}", directory(family));
    [
        (of_family("policy"), POLICY),
        (of_family("fields"), FIELDS),
        ("net.ipv4.fib_multipath_hash_seed".to_owned(), SEED),
    ]
    .map(|(name, value)| Sysctl { name, value })
}

/// A route of the datapath.
pub(crate) fn route_row(dst: IpNet, hops: Hops, link: &str) -> Route {
    Route {
        table: TABLE,
        dst,
        metric: default_metric(dst),
        kind: RouteKind::Unicast,
        hops: hops
            .iter()
            .map(|via| NextHop {
                via: Some(via),
                link: link.to_owned(),
                onlink: true,
                weight: 1,
                dead: false,
            })
            .collect(),
        src: None,
        protocol: PROTOCOL,
        mtu: None,
    }
}

/// The metric that a route has in the kernel when its author gave none.
pub(crate) fn default_metric(dst: IpNet) -> u32 {
    match dst {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => METRIC_IPV6,
    }
}

fn directory(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

fn address(text: &str) -> Result<IpAddr, Refusal> {
    text.parse()
        .map_err(|_| Refusal::Malformed(format!("`{text}` is not an address")))
}

fn ethernet(text: &str) -> Result<Mac, Refusal> {
    text.parse()
        .map_err(|error| Refusal::Malformed(format!("{error}")))
}

fn prefix(text: &str) -> Result<IpNet, Refusal> {
    let net = text.parse::<IpNet>();
    net.map(|net| net.trunc())
        .map_err(|_| Refusal::Malformed(format!("`{text}` is not a prefix")))
}

/// A tunnel's end as a NodeConfig or a plan has it.
struct Endpoint<'a> {
    tunnel: Tunnel,
    net: IpNet,
    mac: Mac,
    vni: u32,
    port: u16,
    /// The underlay link's name.
    lower: &'a str,
}

impl<'a> From<plan::Device<'a>> for Endpoint<'a> {
    fn from(device: plan::Device<'a>) -> Self {
        Self {
            tunnel: device.tunnel,
            net: device.net,
            mac: device.mac,
            vni: device.tunnel.vni(),
            port: device.tunnel.port(),
            lower: device.lower,
        }
    }
}

impl<'a> Endpoint<'a> {
    fn of(device: &'a Device) -> Result<Self, Refusal> {
        let malformed = |rule: String| Err(Refusal::Malformed(rule));
        if device.kind != "vxlan" {
            return malformed(format!("`{}` is not a kind of tunnel", device.kind));
        }
        let Some(tunnel) = Tunnel::named(&device.name) else {
            let names = TUNNELS.join(", ");
            return malformed(format!("a tunnel has one of the names {names}"));
        };
        let Ok(net) = device.addr.parse::<IpNet>() else {
            return malformed(format!("`{}` is not an address with a length", device.addr));
        };
        let mac = ethernet(&device.mac)?;
        is_station(mac)?;
        let vni = u32::try_from(device.id).ok().filter(|vni| *vni < 1 << 24);
        let Some(vni) = vni else {
            return malformed(format!("{} is not a VNI of 24 bits", device.id));
        };
        let port = u16::try_from(device.port).ok().filter(|port| *port != 0);
        let Some(port) = port else {
            return malformed(format!("{} is not a UDP port", device.port));
        };
        Ok(Self {
            tunnel,
            net,
            mac,
            vni,
            port,
            lower: &device.bind_dev,
        })
    }

    /// The link, with what the underlay link lends.
    fn link(&self, observed: &NodeState) -> Result<Link, Refusal> {
        is_station(self.mac)?;
        let name = self.lower;
        let Some(lower) = observed.links.get(name) else {
            return Err(Refusal::Unmet(format!("there is no link `{name}`")));
        };
        let family = Family::of(self.net.addr());
        let local = outer_source(self.net, &lower.name, observed)
            .ok_or_else(|| Refusal::Unmet(format!("`{name}` has no global {family} address")))?;
        let overhead = match family {
            Family::Ipv4 => OVERHEAD_IPV4,
            Family::Ipv6 => OVERHEAD_IPV6,
        };
        Ok(Link {
            name: self.tunnel.name().to_owned(),
            index: 0,
            mac: Some(self.mac),
            mtu: lower.mtu.saturating_sub(overhead),
            up: true,
            carrier: true,
            kind: LinkKind::Vxlan(Vxlan {
                vni: self.vni,
                port: self.port,
                local: Some(local),
                lower: Some(lower.name.clone()),
                learning: false,
            }),
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        })
    }
}

/// Refuses the address of many or of none.
fn is_station(mac: Mac) -> Result<(), Refusal> {
    if mac.is_zero() || mac.0[0] & 1 == 1 {
        return Err(Refusal::Malformed(format!(
            "{mac} is not the address of one station"
        )));
    }
    Ok(())
}

/// The address of the underlay link that peers know this node by.
///
/// The overlay address ends in the host bits of the ClusterNode's address, which distinguishes that one from others on the link.
fn outer_source(overlay: IpNet, link: &str, observed: &NodeState) -> Option<IpAddr> {
    let global = || {
        observed
            .addresses
            .iter()
            .filter(|address| address.link == link && is_global(address.net.addr()))
            .map(|address| address.net.addr())
            .filter(|ip| ip.is_ipv4() == overlay.addr().is_ipv4())
    };
    global()
        .find(|ip| host_bits(overlay, *ip) == host_bits(overlay, overlay.addr()))
        .or_else(|| global().next())
}

fn host_bits(net: IpNet, ip: IpAddr) -> Option<u128> {
    match (net, ip) {
        (IpNet::V4(net), IpAddr::V4(ip)) => {
            Some(u128::from(u32::from(ip) & u32::from(net.hostmask())))
        }
        (IpNet::V6(net), IpAddr::V6(ip)) => Some(u128::from(ip) & u128::from(net.hostmask())),
        _ => None,
    }
}

pub(crate) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests;
