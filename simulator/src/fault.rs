//! Faults on purpose: each is a few [`Change`]s of a node's rows, as an administrator would ask a kernel for them.
//!
//! ```text
//!   rows      what is on a path: forwarding rows, neighbours, routes, rules, translations
//!   links     tunnels, their addresses, the underlay link
//!   settings  forwarding, reverse-path checks, IPv6
//!   filters   rules of a packet filter that drop, refuse and translate
//!   undo      what a fault changed, and how it is put back
//! ```
//!
//! A node's kernel is asked for the changes, or they are laid over the tables of a node that has none. What breaks is found by the
//! node's own tables. In a node with both families the rows of IPv4 are broken and those of IPv6 stand, unless the cause is one of IPv6
//! alone. The node's agent is frozen first, so that the fault stays.

pub(crate) mod filters;
mod links;
mod rows;
mod settings;
mod undo;

use std::net::IpAddr;
use std::sync::Arc;

use datapath::code::Code;
use datapath::diff::{Change, ChangeSet};
use datapath::filter::TableFamily;
use datapath::kernel::LinuxKernel;
use datapath::reconcile::Kernel as _;
use datapath::state::{Family, NodeState};
use serde_json::Value;

use crate::apiserver::{Resource, Store};
use crate::network::NodeNet;
use crate::topology::{Cluster, Node};
use crate::{Error, objects};

pub(crate) use undo::Changed;

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
    /// A table of the node's packet filter is removed.
    Filter {
        net: Arc<NodeNet>,
        family: TableFamily,
        table: String,
    },
    /// What is laid over the node's tables is taken off.
    Overlay,
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
        .is_some_and(|object| has_gateway_role(&object))
}

/// Whether a ClusterNode is its cluster's gateway.
pub(crate) fn has_gateway_role(cluster_node: &Value) -> bool {
    let roles = cluster_node["spec"]["roles"].as_array();
    roles.is_some_and(|roles| roles.iter().any(|role| role == "gateway"))
}

/// A place that cannot be broken.
pub(crate) fn refused<T>(rule: impl Into<String>) -> Result<T, Error> {
    Err(Error::argument("--at", rule))
}

/// A node that is to be broken.
pub(crate) struct Victim<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) node: &'a Node,
    /// Whether it has its cluster's gateway role.
    pub(crate) is_gateway: bool,
    /// Its tables as they are.
    pub(crate) state: &'a NodeState,
    /// Its default routers.
    pub(crate) routers: &'a [IpAddr],
}

impl Victim<'_> {
    /// `CLUSTER/NODE`.
    fn place(&self) -> String {
        format!("{}/{}", self.cluster, self.node.name)
    }

    /// The family that is broken where a cause is of one family.
    fn family(&self) -> Family {
        if self.node.ip.is_some() {
            Family::Ipv4
        } else {
            Family::Ipv6
        }
    }
}

/// The changes that make a cause at a node, in the order of application. Those about a path are about the one to the peer.
pub(crate) fn changes(
    code: Code,
    victim: &Victim<'_>,
    peer: Option<(&Cluster, Option<String>)>,
) -> Result<ChangeSet, Error> {
    let path = || match &peer {
        Some((peer, node)) => rows::path(victim, peer, node.as_deref()),
        None => refused(format!("{code} needs another cluster")),
    };
    let changes: Vec<Change> = match code {
        Code::AddressMissing => links::without_address(victim)?,
        Code::DevDeleted => links::deleted(victim)?,
        Code::FdbMissing => path()?.without_forwarding(),
        Code::FdbWrongVtep => path()?.forwarding_astray(),
        Code::ForwardOff => settings::forwarding_off(victim)?,
        Code::GatewayDown => links::underlay_down(victim)?,
        Code::InnerMtuTooBig => links::larger_than_the_underlay(victim)?,
        Code::L2MtuMismatch => links::smaller_than_planned(victim)?,
        Code::NatMissing => rows::without_translation(victim)?,
        Code::NeighMissing => path()?.without_neighbour(),
        Code::NeighStaleMac => path()?.neighbour_astray(),
        Code::NodeDown if victim.is_gateway => {
            return refused(format!(
                "{} is the gateway of {}: inject GATEWAY-DOWN, or name another node",
                victim.place(),
                victim.cluster
            ));
        }
        Code::NodeDown => links::underlay_down(victim)?,
        Code::PolicyRouteHijack => rows::without_rule(victim)?,
        Code::RouteBlackhole => path()?.route_to_nowhere(),
        Code::RouteMissing => path()?.without_route(),
        Code::RouteWrongDev => path()?.route_astray(victim)?,
        Code::Rpfilter => settings::strict_source_check(victim)?,
        Code::TunnelDevDown => links::down(victim)?,
        Code::TunnelPortMismatch => links::other_port(victim)?,
        Code::V6ForwardOff => settings::ipv6_off(victim)?,
        Code::VniMismatch => links::other_vni(victim)?,
        Code::VtepLocalStale => links::other_source(victim)?,
        other => {
            // Refused before it came here, unless the table of what can be injected is ahead of this one.
            let rule = format!("{other} cannot be injected");
            return Err(Error::argument("CODE", rule));
        }
    };
    Ok(ChangeSet::ordered(changes))
}

/// The table of a packet filter that makes a cause at a node; about the path to the peer, where the cause is about one.
pub(crate) fn filter(
    code: Code,
    victim: &Victim<'_>,
    peer: Option<(&Cluster, Option<String>)>,
) -> Result<filters::Table, Error> {
    filters::table(code, victim, || match &peer {
        Some((peer, node)) => rows::path(victim, peer, node.as_deref()),
        None => refused(format!("{code} needs another cluster")),
    })
}

/// Asks a node's kernel for a fault's changes, and says how they are taken back.
pub(crate) fn carry_out(
    set: &ChangeSet,
    before: NodeState,
    kernel: &mut LinuxKernel,
) -> Result<Changed, Error> {
    let failure = kernel
        .apply(set)
        .err()
        .and_then(|all| all.into_iter().next());
    let after = kernel
        .observe()
        .map_err(Error::failed("read a node's tables"))?;
    let changed = Changed::between(before, &after, set);
    match failure {
        None => Ok(changed),
        Some(error) => {
            // Half a fault would stay for good, since nobody would know of it.
            changed.put_back(kernel)?;
            Err(Error::failed("break a node")(error))
        }
    }
}
