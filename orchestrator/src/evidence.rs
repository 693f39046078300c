//! What a run has gathered: the input of the diagnosis, as plain data.
//!
//! A cluster, node or floater that could not be asked is a value with a reason, never a hole.

use std::net::IpAddr;

use datapath::api::{Fleet, NetworkType};
use datapath::code::Code;
use datapath::digest::{Differences, Digester};
use datapath::printable::Printable;
use datapath::state::{Family, NodeState};
use floater::wire::{Layer, Outcome, Protocol};
use ipnet::IpNet;

/// Everything that a run has gathered.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// One entry per cluster of the inventory, sorted by name.
    pub clusters: Vec<ClusterFacts>,
    /// What the control plane wants.
    pub intent: Intent,
    /// How [`NodeFacts::differences`] were counted; none where there are none.
    pub digester: Option<Digester>,
    /// What clusters claim and what is not believed for that, see [`InventoryNote`].
    pub inventory_notes: Vec<InventoryNote>,
    /// One entry per probe that was planned, in the order of the plan.
    pub probes: Vec<ProbeRecord>,
    /// What was asked for and is not sent, and why, one sentence each.
    pub refused: Vec<String>,
}

/// Claims of clusters that contradict each other, so that none of them is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryNote {
    /// [`Code::ClusterIdDuplicate`] or [`Code::ControlPlaneAmbiguous`].
    pub code: Code,
    /// The names of the clusters, sorted; at least two.
    pub clusters: Vec<String>,
    /// The contradiction and what follows from it, one sentence.
    pub text: Printable,
}

/// What is known of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// The name it is shown by, and that its `clusters.kosmos.io` object has.
    pub name: String,
    /// The uid of its kube-system namespace; empty while its API could not be reached.
    pub id: String,
    /// Its mode; none while unknown.
    pub mode: Option<NetworkType>,
    /// Its families; empty while unknown.
    pub families: Vec<Family>,
    /// Its pod prefixes.
    pub pod_prefixes: Vec<IpNet>,
    /// Whether the control plane plans these; otherwise its nodes report them, which some pod networks do not keep to.
    pub plans_prefixes: bool,
    /// Prefixes of its own that other clusters know by another name (`globalCIDRsMap`), as (own, global), sorted.
    pub mapped: Vec<(IpNet, IpNet)>,
    /// Its nodes, sorted by name.
    pub nodes: Vec<NodeFacts>,
    /// Why the cluster could not be asked at all; none when it could.
    pub unreachable: Option<String>,
}

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its underlay addresses: those that the datapath uses (its ClusterNode's) first, then those that its cluster reports (InternalIP).
    pub ips: Vec<IpAddr>,
    /// Those of `ips` that the control plane knows it by.
    pub planned_ips: Vec<IpAddr>,
    /// Whether the API server believes that it is ready.
    pub ready: bool,
    /// Whether its ClusterNode has the gateway role.
    pub gateway: bool,
    /// Addresses of its pod-network floater; empty without one.
    pub pod_ips: Vec<IpAddr>,
    /// The tables of its own network, or why they could not be read; where `differences` are given without the rows that these are about.
    pub tables: Result<NodeState, String>,
    /// How the rows of the datapath differ from the plan of the control plane's objects, as [`Gathered::digester`] counts them; none where
    /// `tables` has these rows.
    pub differences: Option<Differences>,
    /// Why its address translations could not be read where the rest was: their absence from `tables` says nothing.
    pub nat_unread: Option<String>,
    /// Why its packet filters could not be read, or not whole.
    pub filters_unread: Option<String>,
    /// Why its host floater could not be asked; none when it could.
    pub host_floater: Option<String>,
    /// Why its pod floater could not be asked; none when it could.
    pub pod_floater: Option<String>,
}

/// What the control plane wants.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// The objects, NodeConfigs included.
    pub fleet: Fleet,
    /// The name of the cluster that holds them; none where intent had to be inferred.
    pub control_plane: Option<String>,
}

/// A node of [`Gathered::clusters`], by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// Position in [`Gathered::clusters`].
    pub cluster: usize,
    /// Position in [`ClusterFacts::nodes`].
    pub node: usize,
}

/// One probe that was planned and what came of it, each time that it was sent.
#[derive(Debug, Clone)]
pub struct ProbeRecord {
    /// Who asks.
    pub src: NodeRef,
    /// Who is asked.
    pub dst: NodeRef,
    /// The layer of both ends.
    pub layer: Layer,
    /// The family of `target`.
    pub family: Family,
    /// How.
    pub protocol: Protocol,
    /// The address that is asked.
    pub target: IpAddr,
    /// Payload of an echo request, bytes; 0 for connections.
    pub payload_bytes: u16,
    /// In the order of time, one entry per round that it was part of.
    pub asks: Vec<Ask>,
}

/// One round of a probe.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What came of it, or why nobody knows: the floater died, its API did not answer.
    pub outcome: Result<Outcome, String>,
    /// Why a loss of this round proves nothing: the floater at one of its ends reported that it was starved.
    pub excused: Option<String>,
}
