//! Faults on purpose: each is a few [`Edit`]s of a node's network, which its kernel is asked for, or which are laid over the tables of
//! a node that has none.
//!
//! Clearing makes the rows that a fault changed what they were before, and what the kernel removed with them (a link that goes
//! down loses its routes and neighbours), also where nothing of the datapath runs that would repair it. Rows that somebody has
//! put back already are left as they are. In a node with both families the rows of IPv4 are broken; those of IPv6 stand.
//!
//! The node's agent is frozen first, so that the fault stays. What breaks is found by the node's own tables: the route to the
//! peer's pods, the neighbour that it leads to, the forwarding row of that neighbour.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use datapath::code::Code;
use datapath::diff::{Change, ChangeSet, diff, kind_of, name_of};
use datapath::kernel::LinuxKernel;
use datapath::mac::Mac;
use datapath::nodeconfig::TABLE;
use datapath::reconcile::Kernel as _;
use datapath::state::{Family, NeighbourState, NodeState, Route, Row};
use ipnet::IpNet;
use netns_harness::sysctl;
use netns_harness::wire::{self, Wire as _};

use crate::apiserver::{Resource, Store};
use crate::network::{ETH0, NodeNet};
use crate::topology::{Cluster, Node, UNDERLAY_V6};
use crate::{Error, objects};

/// A MAC that nobody has.
const STALE: Mac = Mac([0x02, 0xde, 0xad, 0xbe, 0xef, 0x01]);
/// An underlay address that nobody has: the last but few of 100.64.0.0/10.
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 250);

/// What was injected and not yet cleared, in order.
#[derive(Default)]
pub(crate) struct Faults(Vec<Injected>);

/// A fault, and what clearing it needs.
pub(crate) struct Injected {
    pub(crate) code: Code,
    /// `CLUSTER/NODE`.
    pub(crate) place: String,
    pub(crate) undo: Undo,
}

/// How a fault is taken back.
pub(crate) enum Undo {
    /// The node's kernel is asked to.
    Kernel {
        net: Arc<NodeNet>,
        changed: Box<Changed>,
    },
    /// What is laid over the node's tables is taken off.
    Overlay,
}

/// The node's tables before a fault, and which of their rows it changed, by kind and name.
pub(crate) struct Changed {
    before: NodeState,
    pub(crate) rows: BTreeSet<(&'static str, String)>,
}

impl Changed {
    pub(crate) fn between(before: NodeState, after: &NodeState) -> Self {
        let changed = diff(&before, after).changes;
        let rows = changed.iter().flat_map(rows_of);
        let rows = rows.filter(|row| !is_of_the_kernel(row)).map(key_of);
        Self {
            rows: rows.collect(),
            before,
        }
    }

    /// Makes those rows what they were, and no others: people may have changed more since.
    pub(crate) fn put_back(&self, kernel: &mut LinuxKernel) -> Result<(), Error> {
        let now = kernel
            .observe()
            .map_err(Error::failed("read a node's tables"))?;
        let missing = diff(&self.before, &now).changes.into_iter();
        let is_ours = |change: &Change| {
            let mut rows = rows_of(change);
            rows.any(|row| self.rows.contains(&key_of(row)))
        };
        let missing = missing.filter(is_ours);
        let set = ChangeSet::ordered(missing.collect());
        if set.is_empty() {
            return Ok(());
        }
        let failures = kernel.apply(&set).err().unwrap_or_default();
        let failure = failures.into_iter().find(|error| !error.is_already_there());
        failure.map_or(Ok(()), |error| {
            Err(Error::failed("put back what a fault removed")(error))
        })
    }
}

/// The row that a change makes, and the one whose place it takes.
fn rows_of(change: &Change) -> impl Iterator<Item = &Row> {
    let replaced = match change {
        Change::Replace { from, .. } => Some(from),
        Change::Add(_) | Change::Remove(_) => None,
    };
    [change.row()].into_iter().chain(replaced)
}

/// Whether the kernel makes a row by itself where there is a reason for it.
fn is_of_the_kernel(row: &Row) -> bool {
    match row {
        Row::Address(address) => {
            matches!(address.net, IpNet::V6(net) if net.addr().is_unicast_link_local())
        }
        Row::Neighbour(row) => row.state != NeighbourState::Permanent,
        Row::Route(route) => route.protocol == libc::RTPROT_KERNEL,
        _ => false,
    }
}

fn key_of(row: &Row) -> (&'static str, String) {
    (kind_of(row), name_of(row))
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.described()).finish()
    }
}

impl Faults {
    /// Adds one that was injected just now.
    pub(crate) fn push(&mut self, fault: Injected) {
        self.0.push(fault);
    }

    /// Takes all of them out, the last first.
    pub(crate) fn take(&mut self) -> Vec<Injected> {
        self.0.drain(..).rev().collect()
    }

    /// `CODE at PLACE`, in the order of injection.
    pub(crate) fn described(&self) -> Vec<String> {
        let each = self.0.iter();
        each.map(|fault| format!("{} at {}", fault.code, fault.place))
            .collect()
    }

    /// The codes of those at a node, in the order of injection.
    pub(crate) fn at(&self, cluster: &str, node: &str) -> Vec<Code> {
        let here = self
            .0
            .iter()
            .filter(|fault| fault.place.split_once('/') == Some((cluster, node)));
        here.map(|fault| fault.code).collect()
    }
}

/// Whether a node has its cluster's gateway role.
pub(crate) fn is_gateway(root: &Store, cluster: &str, node: &str) -> bool {
    let name = objects::cluster_node_name(cluster, node);
    root.get(Resource::CLUSTER_NODES, None, &name)
        .is_some_and(|object| {
            let roles = object["spec"]["roles"].as_array();
            roles.is_some_and(|roles| roles.iter().any(|role| role == "gateway"))
        })
}

/// A place that cannot be broken.
pub(crate) fn refused<T>(rule: impl Into<String>) -> Result<T, Error> {
    Err(Error::argument("--at", rule))
}

/// The rows by which a node reaches a peer's pods.
struct Path {
    route: Route,
    link: u32,
    via: IpAddr,
    mac: Mac,
    /// Where the forwarding row of the MAC leads.
    vtep: IpAddr,
    /// The flood row to the same place, where there is one.
    floods: bool,
}

/// A change of a node's network, as an administrator would ask a kernel for it. Links go by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Adds a forwarding row.
    AddForwarding { link: u32, mac: Mac, vtep: IpAddr },
    /// Adds a route.
    AddRoute(wire::Route),
    /// Takes a link down, with what the kernel removes for that.
    Down { link: u32 },
    /// Turns forwarding off, on all links.
    NoForwarding(Family),
    /// Removes a forwarding row.
    RemoveForwarding { link: u32, mac: Mac, vtep: IpAddr },
    /// Removes a neighbour.
    RemoveNeighbour { link: u32, ip: IpAddr },
    /// Removes a route.
    RemoveRoute(wire::Route),
    /// Makes a neighbour permanent with this MAC.
    SetNeighbour { link: u32, ip: IpAddr, mac: Mac },
}

/// A node that is to be broken.
pub(crate) struct Victim<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) node: &'a Node,
    /// Its tables as they are.
    pub(crate) state: &'a NodeState,
    /// Its default routers.
    pub(crate) routers: &'a [IpAddr],
}

/// Asks a node's kernel for edits.
pub(crate) fn carry_out(edits: &[Edit], net: &NodeNet) -> Result<(), Error> {
    for edit in edits {
        if let Edit::NoForwarding(family) = edit {
            let name = match family {
                Family::Ipv4 => "net.ipv4.ip_forward",
                Family::Ipv6 => "net.ipv6.conf.all.forwarding",
            };
            net.netns.run(|| sysctl::set(name, "0"))??;
        }
    }
    net.ask(|netlink| {
        for edit in edits {
            match edit {
                Edit::AddForwarding { link, mac, vtep } => netlink.forwarding(*link, mac.0, *vtep),
                Edit::AddRoute(route) => netlink.route(route),
                Edit::Down { link } => netlink.down(*link),
                Edit::NoForwarding(_) => {}
                Edit::RemoveForwarding { link, mac, vtep } => {
                    netlink.remove_forwarding(*link, mac.0, *vtep);
                }
                Edit::RemoveNeighbour { link, ip } => netlink.remove_neighbour(*link, *ip),
                Edit::RemoveRoute(route) => netlink.remove_route(route),
                Edit::SetNeighbour { link, ip, mac } => netlink.neighbour(*link, *ip, mac.0),
            }
        }
    })?;
    Ok(())
}

/// What makes a cause at a node.
pub(crate) fn edits(
    code: Code,
    victim: &Victim<'_>,
    peer: Option<(&Cluster, Option<String>)>,
) -> Result<Vec<Edit>, Error> {
    let Victim {
        cluster,
        node,
        state,
        ..
    } = victim;
    match code {
        Code::GatewayDown => return Ok(vec![Edit::Down { link: ETH0 }]),
        Code::ForwardOff => {
            let family = if node.ip.is_some() {
                Family::Ipv4
            } else {
                Family::Ipv6
            };
            return Ok(vec![Edit::NoForwarding(family)]);
        }
        Code::TunnelDevDown => {
            let mut tunnels = ["vx-bridge", "vx-bridge-6", "vx-local", "vx-local-6"].into_iter();
            let tunnel = tunnels.find_map(|name| state.links.get(name));
            let Some(link) = tunnel.map(|link| link.index) else {
                return refused(format!("{cluster}/{} has no tunnel", node.name));
            };
            return Ok(vec![Edit::Down { link }]);
        }
        _ => {}
    }
    let Some((peer, node)) = peer else {
        return refused(format!("{code} needs another cluster"));
    };
    path(victim, peer, node.as_deref())?.break_row(code, victim)
}

/// How a node reaches the pods of a peer, by its tables; IPv4 where it does.
fn path(victim: &Victim<'_>, peer: &Cluster, node: Option<&str>) -> Result<Path, Error> {
    let state = victim.state;
    let targets: Vec<_> = match node {
        Some(node) => peer
            .nodes
            .iter()
            .filter(|known| known.name == node)
            .flat_map(|known| known.pod_cidrs.clone())
            .collect(),
        None => peer.pod_cidrs.clone(),
    };
    let routes = state.routes.iter().filter(|route| {
        let near = |target: &IpNet| target.contains(&route.dst) || route.dst.contains(target);
        let mapped = peer
            .global_cidrs_map
            .values()
            .any(|global| global.parse().is_ok_and(|global: IpNet| near(&global)));
        route.table == TABLE && (targets.iter().any(near) || mapped)
    });
    let mut paths: Vec<Path> = routes.filter_map(|route| path_of(state, route)).collect();
    paths.sort_by_key(|path| (path.via.is_ipv6(), path.route.dst));
    match paths.into_iter().next() {
        Some(path) => Ok(path),
        None => refused(format!(
            "the path from {}/{} to {} is already broken: clear the earlier fault first",
            victim.cluster, victim.node.name, peer.name
        )),
    }
}

fn path_of(state: &NodeState, route: &Route) -> Option<Path> {
    let hop = route.hops.first()?;
    let via = hop.via?;
    let neighbours = state.neighbours.iter();
    let mac = neighbours
        .filter(|row| row.link == hop.link && row.ip == via)
        .find_map(|row| row.mac)?;
    let on_link = |wanted: Mac| {
        let rows = state.fdb.iter();
        rows.filter(move |row| row.mac == wanted)
            .filter(|row| row.link == hop.link)
    };
    let vtep = on_link(mac).find_map(|row| row.dst)?;
    let floods = on_link(Mac::ZERO).any(|row| row.dst == Some(vtep));
    Some(Path {
        route: route.clone(),
        link: state.links.get(&hop.link)?.index,
        via,
        mac,
        vtep,
        floods,
    })
}

impl Path {
    fn break_row(self, code: Code, victim: &Victim<'_>) -> Result<Vec<Edit>, Error> {
        let Self {
            link,
            via,
            mac,
            vtep,
            floods,
            ..
        } = self;
        let planned = wire::Route {
            dst: self.route.dst,
            via: Some(via),
            index: link,
            table: TABLE,
        };
        let remove = |mac| Edit::RemoveForwarding { link, mac, vtep };
        Ok(match code {
            Code::FdbMissing if floods => vec![remove(mac), remove(Mac::ZERO)],
            Code::FdbMissing => vec![remove(mac)],
            Code::FdbWrongVtep => vec![
                remove(mac),
                Edit::AddForwarding {
                    link,
                    mac,
                    vtep: nobody(vtep),
                },
            ],
            Code::NeighMissing => vec![Edit::RemoveNeighbour { link, ip: via }],
            Code::NeighStaleMac => vec![Edit::SetNeighbour {
                link,
                ip: via,
                mac: STALE,
            }],
            Code::RouteMissing => vec![Edit::RemoveRoute(planned)],
            Code::RouteWrongDev => {
                let family = Family::of(via);
                let mut routers = victim.routers.iter();
                let Some(router) = routers.find(|ip| Family::of(**ip) == family) else {
                    let rule = format!("{}/{} has no router", victim.cluster, victim.node.name);
                    return refused(rule);
                };
                let astray = wire::Route {
                    via: Some(*router),
                    index: ETH0,
                    ..planned.clone()
                };
                // IPv6 would add a second hop rather than replace the first.
                vec![Edit::RemoveRoute(planned), Edit::AddRoute(astray)]
            }
            other => {
                // Refused before it came here, unless the table of what can be injected is ahead of this one.
                let rule = format!("{other} cannot be injected");
                return Err(Error::argument("CODE", rule));
            }
        })
    }
}

/// An underlay address of a family that no node has.
fn nobody(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => NOBODY_V4.into(),
        IpAddr::V6(_) => {
            let low = u128::from(u32::from(NOBODY_V4));
            Ipv6Addr::from(u128::from(UNDERLAY_V6.network()) | low).into()
        }
    }
}
