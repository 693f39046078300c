//! One node's tables, indexed for the questions that a packet asks.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::filter::Compiled;
use super::layer::{Layer, Layered};
use super::routes::{Routing, bits};
use crate::mac::Mac;
use crate::state::{Family, LinkKind, Nat, NeighbourState, NodeState};

/// The position of a node in a world.
pub(super) type NodeId = u32;
/// The position of a link in a node.
pub(super) type LinkId = u32;

/// Rows in the order of their keys: as quick as a hash map at these sizes and half its memory, which counts where every
/// gateway of a fleet has a row for every other.
#[derive(Debug)]
struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Copy, V> Sorted<K, V> {
    fn new(mut rows: Vec<(K, V)>) -> Self {
        rows.sort_by_key(|row| row.0);
        rows.shrink_to_fit();
        Self(rows)
    }

    /// All rows under a key.
    fn get(&self, key: K) -> &[(K, V)] {
        let start = self.0.partition_point(|row| row.0 < key);
        let rows = self.0.get(start..).unwrap_or_default();
        let end = rows
            .iter()
            .position(|row| row.0 != key)
            .unwrap_or(rows.len());
        rows.get(..end).unwrap_or_default()
    }
}

/// What a link does with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bridge,
    Loopback,
    Plain,
    Vxlan(Tunnel),
}

/// A VXLAN link's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) local: Option<IpAddr>,
    pub(super) lower: Option<LinkId>,
    pub(super) learning: bool,
}

/// A link with the settings that belong to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: Box<str>,
    /// False for a name that only other rows mention.
    pub(super) exists: bool,
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) kind: Kind,
    pub(super) master: Option<LinkId>,
    /// The ports of a bridge.
    pub(super) ports: Vec<LinkId>,
    pub(super) forward4: bool,
    pub(super) ipv6_off: bool,
    pub(super) force_forward6: bool,
    /// The larger of the link's and the node's, as the kernel takes it.
    pub(super) rp_filter: i64,
    pub(super) accept_local: bool,
    pub(super) proxy_arp: bool,
    pub(super) addresses: Vec<IpNet>,
    /// Whether the link leads to the network that the tunnels run over.
    pub(super) underlay: bool,
    /// The other end, where it is known.
    pub(super) wire: Option<(NodeId, Box<str>)>,
}

impl Link {
    fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            exists: false,
            index: 0,
            mac: None,
            mtu: 0,
            up: false,
            carrier: false,
            kind: Kind::Plain,
            master: None,
            ports: Vec::new(),
            forward4: true,
            ipv6_off: false,
            force_forward6: false,
            rp_filter: 0,
            accept_local: false,
            proxy_arp: false,
            addresses: Vec::new(),
            underlay: false,
            wire: None,
        }
    }

    pub(super) fn tunnel(&self) -> Option<&Tunnel> {
        match &self.kind {
            Kind::Vxlan(tunnel) => Some(tunnel),
            _ => None,
        }
    }

    /// The addresses of a family that others may learn.
    fn usable(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.addresses.iter().filter(move |net| {
            let ip = net.addr();
            Family::of(ip) == family && !is_link_local(ip) && !ip.is_loopback()
        })
    }

    pub(super) fn has_link_local(&self) -> bool {
        self.addresses.iter().any(|net| is_link_local(net.addr()))
    }
}

/// Whether an IPv6 address is of one link only.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// A neighbour row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    pub(super) mac: Option<Mac>,
    pub(super) state: NeighbourState,
}

/// A node's tables.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// False until tables were put in.
    pub(super) known: bool,
    /// Whether the tables hold the tunnels only, as a plan does, and the rest of the node is a matter of trust.
    pub(super) partial: bool,
    pub(super) links: Vec<Link>,
    by_name: HashMap<Box<str>, LinkId>,
    pub(super) ipv4: Routing,
    pub(super) ipv6: Routing,
    /// Who holds which address.
    addresses: Sorted<IpAddr, LinkId>,
    neighbours: Sorted<(LinkId, IpAddr), Neighbour>,
    /// The remote ends behind a VXLAN link.
    remotes: Sorted<(LinkId, Mac), IpAddr>,
    /// The port of a bridge behind which a MAC is.
    ports: Sorted<(LinkId, Mac), LinkId>,
    /// The rows that it shares with other nodes.
    pub(super) layered: Option<Layered>,
    pub(super) nat: Vec<Nat>,
    /// The packet filters; none where there are none, or they are not known.
    pub(super) filters: Option<Box<Compiled>>,
    pub(super) forward6: bool,
    /// Whether a VXLAN link is a port of a bridge, so that a MAC may be behind this node rather than on it.
    pub(super) bridges_tunnels: bool,
}

impl Node {
    /// A node of which nothing is known.
    pub(super) fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            known: false,
            partial: false,
            links: Vec::new(),
            by_name: HashMap::new(),
            ipv4: Routing::default(),
            ipv6: Routing::default(),
            addresses: Sorted::default(),
            neighbours: Sorted::default(),
            remotes: Sorted::default(),
            ports: Sorted::default(),
            layered: None,
            nat: Vec::new(),
            filters: None,
            forward6: true,
            bridges_tunnels: false,
        }
    }

    /// Indexes a node's tables.
    pub(super) fn new(name: &str, state: &NodeState, layer: Option<Layer>) -> Self {
        let mut node = Self::unknown(name);
        node.known = true;
        node.add_links(state);
        node.layered = layer.map(|layer| {
            let link_of = |name: &str| {
                let link = node.link_named(name)?;
                node.link(link).exists.then_some(link)
            };
            Layered::new(layer, link_of)
        });
        node.add_addresses(state);
        node.add_sysctls(state);
        for family in [Family::Ipv4, Family::Ipv6] {
            let routing = node.routing_of(state, family);
            match family {
                Family::Ipv4 => node.ipv4 = routing,
                Family::Ipv6 => node.ipv6 = routing,
            }
        }
        let neighbours = state
            .neighbours
            .iter()
            .map(|row| {
                let value = Neighbour {
                    mac: row.mac,
                    state: row.state,
                };
                ((node.intern(&row.link), row.ip), value)
            })
            .collect();
        node.neighbours = Sorted::new(neighbours);
        node.add_forwarding(state);
        node.nat = state.nat.iter().cloned().collect();
        node.filters = Compiled::new(&state.filters);
        node.mark_underlay(state);
        node
    }

    fn add_links(&mut self, state: &NodeState) {
        for link in &state.links {
            let at = self.intern(&link.name);
            let kind = match &link.kind {
                LinkKind::Bridge => Kind::Bridge,
                LinkKind::Loopback => Kind::Loopback,
                LinkKind::Other { .. } | LinkKind::Veth { .. } => Kind::Plain,
                LinkKind::Vxlan(vxlan) => Kind::Vxlan(Tunnel {
                    vni: vxlan.vni,
                    port: vxlan.port,
                    local: vxlan.local,
                    lower: vxlan.lower.as_deref().map(|lower| self.intern(lower)),
                    learning: vxlan.learning,
                }),
            };
            let master = link.master.as_deref().map(|master| self.intern(master));
            let row = &mut self.links[at as usize];
            row.exists = true;
            row.index = link.index;
            row.mac = link.mac;
            row.mtu = link.mtu;
            row.up = link.up;
            // A plan has no index and knows of no carrier.
            row.carrier = link.carrier || link.index == 0;
            row.kind = kind;
            row.master = master;
            if let Some(master) = master {
                self.links[master as usize].ports.push(at);
            }
        }
        self.bridges_tunnels = self
            .links
            .iter()
            .any(|link| link.master.is_some() && link.tunnel().is_some());
        self.partial = !self
            .links
            .iter()
            .any(|link| link.exists && link.tunnel().is_none());
    }

    fn add_addresses(&mut self, state: &NodeState) {
        let mut owned = Vec::with_capacity(state.addresses.len());
        for row in &state.addresses {
            let at = self.intern(&row.link);
            self.links[at as usize].addresses.push(row.net);
            owned.push((row.net.addr(), at));
        }
        self.addresses = Sorted::new(owned);
    }

    fn add_sysctls(&mut self, state: &NodeState) {
        let value = |name: &str| state.sysctls.get(name).map(|row| row.value);
        let all4 = value("net.ipv4.conf.all.forwarding").or_else(|| value("net.ipv4.ip_forward"));
        let rp_all = value("net.ipv4.conf.all.rp_filter").unwrap_or(0);
        let accept_all = value("net.ipv4.conf.all.accept_local").unwrap_or(0);
        let proxy_all = value("net.ipv4.conf.all.proxy_arp").unwrap_or(0);
        let off_all = value("net.ipv6.conf.all.disable_ipv6").unwrap_or(0);
        self.forward6 = value("net.ipv6.conf.all.forwarding").unwrap_or(1) != 0;
        for link in &mut self.links {
            let dotted = link.name.replace('.', "/");
            let of =
                |family: &str, what: &str| value(&format!("net.{family}.conf.{dotted}.{what}"));
            // What was not read is taken to be as a node of a cluster needs it.
            link.forward4 = of("ipv4", "forwarding").or(all4).unwrap_or(1) != 0;
            link.rp_filter = rp_all.max(of("ipv4", "rp_filter").unwrap_or(0));
            link.accept_local = accept_all != 0 || of("ipv4", "accept_local").unwrap_or(0) != 0;
            link.proxy_arp = proxy_all != 0 || of("ipv4", "proxy_arp").unwrap_or(0) != 0;
            link.ipv6_off = of("ipv6", "disable_ipv6").unwrap_or(off_all) != 0;
            link.force_forward6 = of("ipv6", "force_forwarding").unwrap_or(0) != 0;
        }
    }

    fn add_forwarding(&mut self, state: &NodeState) {
        let mut remotes = Vec::new();
        let mut ports = Vec::new();
        for row in &state.fdb {
            let link = self.intern(&row.link);
            match row.dst {
                Some(dst) => remotes.push(((link, row.mac), dst)),
                None => {
                    if let Some(bridge) = self.links[link as usize].master {
                        ports.push(((bridge, row.mac), link));
                    }
                }
            }
        }
        self.remotes = Sorted::new(remotes);
        self.ports = Sorted::new(ports);
    }

    /// The underlay is what tunnels are bound to and what default routes use; in a node with neither, any real link.
    fn mark_underlay(&mut self, state: &NodeState) {
        let mut marked = Vec::new();
        for link in &self.links {
            if let Some(tunnel) = link.tunnel() {
                marked.extend(tunnel.lower);
                marked.extend(tunnel.local.and_then(|local| self.holder(local)));
            }
        }
        for route in state
            .routes
            .iter()
            .filter(|route| route.dst.prefix_len() == 0)
        {
            marked.extend(
                route
                    .hops
                    .iter()
                    .filter_map(|hop| self.link_named(&hop.link)),
            );
        }
        if let Some(layered) = &self.layered {
            marked.extend(
                [Family::Ipv4, Family::Ipv6]
                    .map(|family| layered.default_link(family))
                    .into_iter()
                    .flatten(),
            );
        }
        if marked.is_empty() {
            marked.extend(0..self.links.len() as LinkId);
        }
        for at in marked {
            let link = &mut self.links[at as usize];
            link.underlay = link.exists && matches!(link.kind, Kind::Bridge | Kind::Plain);
            if link.underlay {
                for port in link.ports.clone() {
                    self.links[port as usize].underlay =
                        self.links[port as usize].kind == Kind::Plain;
                }
            }
        }
    }

    pub(super) fn intern(&mut self, name: &str) -> LinkId {
        if let Some(&at) = self.by_name.get(name) {
            return at;
        }
        let at = self.links.len() as LinkId;
        self.links.push(Link::named(name));
        self.by_name.insert(name.into(), at);
        at
    }

    /// Says what a link is joined to; the link need not be there.
    pub(super) fn set_wire(&mut self, link: &str, far: (NodeId, Box<str>)) {
        let at = self.intern(link);
        self.links[at as usize].wire = Some(far);
    }

    /// Forgets it.
    pub(super) fn cut_wire(&mut self, link: &str) {
        if let Some(at) = self.link_named(link) {
            self.links[at as usize].wire = None;
        }
    }

    pub(super) fn link_named(&self, name: &str) -> Option<LinkId> {
        self.by_name.get(name).copied()
    }

    /// The link under an index that this node gave out.
    pub(super) fn link(&self, at: LinkId) -> &Link {
        &self.links[at as usize]
    }

    /// Whether connection tracking has something to remember.
    pub(super) fn tracks(&self) -> bool {
        !self.nat.is_empty() || self.filters.is_some()
    }

    pub(super) fn routing(&self, family: Family) -> &Routing {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    /// The first link that holds an address.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<LinkId> {
        self.addresses.get(ip).first().map(|row| row.1)
    }

    /// The source of a packet that goes to `dst` by a link and the router `near`: an address of that link if it has one.
    /// IPv4 takes the one whose prefix holds the router (`inet_select_addr`), IPv6 the one most like the destination
    /// (RFC 6724, rules 5 and 8).
    pub(super) fn source(&self, link: LinkId, near: IpAddr, dst: IpAddr) -> Option<IpAddr> {
        let family = Family::of(dst);
        let own = self.link(link);
        match family {
            Family::Ipv4 => own
                .usable(family)
                .find(|net| net.contains(&near))
                .or_else(|| own.usable(family).next())
                .or_else(|| {
                    let mut links: Vec<&Link> = self.links.iter().collect();
                    links.sort_by_key(|link| link.index);
                    links
                        .into_iter()
                        .find_map(|link| link.usable(family).next())
                })
                .map(IpNet::addr),
            Family::Ipv6 => {
                let unlike = |net: &&IpNet| std::cmp::Reverse(common(net.addr(), dst));
                let others = || self.links.iter().flat_map(|link| link.usable(family));
                own.usable(family)
                    .min_by_key(unlike)
                    .or_else(|| others().min_by_key(unlike))
                    .map(IpNet::addr)
            }
        }
    }

    pub(super) fn holds_on(&self, link: LinkId, ip: IpAddr) -> bool {
        self.addresses.get(ip).iter().any(|row| row.1 == link)
    }

    /// Every address with its link.
    pub(super) fn held(&self) -> impl Iterator<Item = (IpAddr, LinkId)> {
        self.addresses.0.iter().copied()
    }

    pub(super) fn neighbour(&self, link: LinkId, ip: IpAddr) -> Option<Neighbour> {
        let own = self.neighbours.get((link, ip)).first().map(|row| row.1);
        own.or_else(|| self.layered.as_ref()?.neighbour(link, ip))
    }

    /// The remote ends behind a VXLAN link for a MAC, ascending.
    pub(super) fn remotes(&self, link: LinkId, mac: Mac) -> Vec<IpAddr> {
        let own = self.remotes.get((link, mac)).iter().map(|row| row.1);
        let mut remotes: Vec<IpAddr> = own.collect();
        if let Some(layered) = &self.layered {
            remotes.extend(layered.remotes(link, mac));
            remotes.sort_unstable();
            remotes.dedup();
        }
        remotes
    }

    pub(super) fn port(&self, bridge: LinkId, mac: Mac) -> Option<LinkId> {
        self.ports.get((bridge, mac)).first().map(|row| row.1)
    }
}

/// How many leading bits two addresses share.
fn common(a: IpAddr, b: IpAddr) -> u32 {
    (bits(a) ^ bits(b)).leading_zeros()
}
