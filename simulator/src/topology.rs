//! A topology file, read, checked, and completed with names, prefixes and addresses.
//!
//! ```text
//! text ──document──► keys and types ──rules──► names, ranges, prefixes ──addresses──► Topology ──rules──► overlaps
//! ```
//!
//! Reading is pure: what this kernel cannot do is for whoever builds the lab to say. Every refusal is an
//! [`Error::Input`] with the line and the rule.

mod addresses;
mod document;
mod draft;
mod rules;
mod schema;
mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use datapath::code::Code;
use datapath::state::Family;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use addresses::{UNDERLAY_V4, UNDERLAY_V6};
pub use schema::schema;
pub use steps::{Exec, Step};

use crate::Error;

/// The most bytes of a topology file; none that a person or a program writes comes near it.
pub const MAX_BYTES: usize = 4 << 20;
/// The most clusters that a topology may have.
pub const MAX_CLUSTERS: usize = 10_000;
/// The most nodes that a cluster may have.
pub const MAX_NODES: u32 = 500;

/// A fleet to be built, with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The lab's name, where the file gives one.
    pub name: Option<String>,
    /// The clusters, in the file's order; the first is the control plane.
    pub clusters: Vec<Cluster>,
    /// Whether every node runs floaters from the start.
    pub floater: bool,
    /// How floaters are run.
    pub floaters: Floaters,
    /// Whether nobody has linked the clusters: there is no datapath, and nothing of it in their APIs.
    #[serde(default)]
    pub bare: bool,
    /// How often kubelets are heard of.
    #[serde(default)]
    pub kubelets: Kubelets,
    /// The folder of upstream's programs, for clusters that have such a control plane.
    #[serde(default)]
    pub upstream: Option<PathBuf>,
    /// What is broken once the lab is up.
    pub faults: Vec<Fault>,
    /// What is done then, one after the other.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What a diagnosis has to find in the end.
    pub expect: Vec<Expect>,
}

impl Topology {
    /// Makes every cluster a virtual one.
    pub fn make_virtual(&mut self) {
        for cluster in &mut self.clusters {
            cluster.is_virtual = true;
        }
    }

    /// Gives upstream's control plane, from the programs of a folder, to every cluster of which the file does not say otherwise.
    pub fn run_upstream(&mut self, programs: PathBuf) {
        for cluster in &mut self.clusters {
            cluster.control_plane.get_or_insert(ControlPlane::Upstream);
        }
        self.upstream = Some(programs);
    }

    /// The nodes of a cluster; none where there is no such cluster.
    pub fn nodes_of(&self, cluster: &str) -> impl Iterator<Item = &Node> {
        let mut clusters = self.clusters.iter();
        let found = clusters.find(|known| known.name == cluster);
        found.into_iter().flat_map(|cluster| &cluster.nodes)
    }

    /// Whether a cluster has upstream's control plane.
    #[must_use]
    pub fn has_upstream(&self) -> bool {
        self.clusters.iter().any(Cluster::is_upstream)
    }

    /// Whether the datapath's programs are pods, which somebody has to link, and the lab has none of its own.
    #[must_use]
    pub fn is_unlinked(&self) -> bool {
        self.bare || self.has_upstream()
    }

    /// Whether no cluster needs a kernel.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.clusters.iter().all(|cluster| cluster.is_virtual)
    }

    /// Whether floaters share the lab's process.
    #[must_use]
    pub fn shares_floaters(&self) -> bool {
        match self.floaters {
            Floaters::Auto => self.clusters.len() > Floaters::PROCESS_CLUSTERS,
            Floaters::Process => false,
            Floaters::Shared => true,
        }
    }
}

/// A cluster to be built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, a DNS label, unique in the topology.
    pub name: String,
    /// How its nodes reach other clusters.
    pub mode: Mode,
    /// The families it has.
    pub family: Families,
    /// Its nodes, `n1` first.
    pub nodes: Vec<Node>,
    /// Its pod prefixes.
    pub pod_cidrs: Vec<IpNet>,
    /// Its service prefixes.
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of the cluster and what they are called outside of it, as in the Cluster object.
    pub global_cidrs_map: BTreeMap<String, String>,
    /// The segment its nodes stand on.
    pub segment: Segment,
    /// How that segment behaves.
    pub underlay: Underlay,
    /// Whether it has no kernel: its tables are computed, and its probes walked.
    #[serde(rename = "virtual", default)]
    pub is_virtual: bool,
    /// Who answers at its API, where the file says so; [`ControlPlane::Simulated`] where nobody does.
    #[serde(default)]
    pub control_plane: Option<ControlPlane>,
}

/// Who answers at a cluster's API and controls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlPlane {
    /// The lab's own process.
    Simulated,
    /// Upstream's etcd, kube-apiserver, kube-controller-manager and kube-scheduler on the cluster's first node.
    Upstream,
}

/// How often kubelets are heard of, and how long they may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubelets {
    /// Between two renewals of a node's Lease.
    pub renew: Duration,
    /// How long nothing may be heard of a node until it is lost.
    pub grace: Duration,
}

impl Kubelets {
    /// The least of both: Leases count in seconds.
    pub const LEAST: Duration = Duration::from_secs(1);
}

impl Default for Kubelets {
    /// As upstream has it (nodeLeaseDurationSeconds / 4, node-monitor-grace-period).
    fn default() -> Self {
        Self {
            renew: Duration::from_secs(10),
            grace: Duration::from_secs(50),
        }
    }
}

/// A node to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `n1`, `n2`, ….
    pub name: String,
    /// Its underlay address, where the cluster has IPv4.
    pub ip: Option<Ipv4Addr>,
    /// Its underlay address, where the cluster has IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Its share of the cluster's pod prefixes, at most one per family, IPv4 first.
    pub pod_cidrs: Vec<IpNet>,
}

impl Cluster {
    /// Whether its control plane is upstream's.
    #[must_use]
    pub fn is_upstream(&self) -> bool {
        self.control_plane == Some(ControlPlane::Upstream)
    }

    /// Whether its links have IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.family.has(Family::Ipv6)
    }
}

impl Node {
    /// Its underlay addresses, IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let (ip, ip6) = (self.ip.map(IpAddr::V4), self.ip6.map(IpAddr::V6));
        ip.into_iter().chain(ip6)
    }
}

/// The part of the underlay that a cluster's nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The underlay router's addresses on it, with the length of the segment's prefix; one per family of the cluster.
    pub routers: Vec<IpNet>,
}

/// How a segment behaves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Underlay {
    /// The largest packet, bytes.
    pub mtu: u32,
    /// How long a packet takes more than it must.
    pub delay: Duration,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
}

/// How a cluster's nodes reach other clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Through the cluster's gateway node.
    Gateway,
    /// Each node for itself.
    P2p,
}

/// The modes of a generated fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChoice {
    /// All clusters in gateway mode.
    Gateway,
    /// Gateway and p2p in turn.
    Mixed,
    /// All clusters in p2p mode.
    P2p,
}

/// The families of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Both.
    All,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// The families of a generated fleet.
pub type FamilyChoice = Families;

impl Families {
    /// Whether it has a family.
    #[must_use]
    pub fn has(self, family: Family) -> bool {
        matches!(
            (self, family),
            (Self::All, _) | (Self::Ipv4, Family::Ipv4) | (Self::Ipv6, Family::Ipv6)
        )
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::P2p => "p2p",
        })
    }
}

/// How floaters are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Floaters {
    /// Processes up to [`Floaters::PROCESS_CLUSTERS`] clusters, shared above.
    #[default]
    Auto,
    /// One process each.
    Process,
    /// Many in the lab's own process, on sockets opened in their namespaces.
    Shared,
}

impl Floaters {
    /// Up to how many clusters `auto` means a process each.
    pub const PROCESS_CLUSTERS: usize = 200;
}

/// A fault to be injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its cause code.
    pub code: Code,
    /// `CLUSTER` or `CLUSTER/NODE`.
    pub at: String,
    /// The other side, `CLUSTER` or `CLUSTER/NODE`, where the fault concerns one.
    pub peer: Option<String>,
}

/// What a diagnosis has to find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// A finding.
    Finding {
        /// Its cause code.
        code: Code,
        /// Where: `CLUSTER` or `CLUSTER/NODE`; none for anywhere.
        at: Option<String>,
    },
    /// The whole verdict.
    Verdict(String),
}

/// A refusal that quotes the file, as it may be printed.
fn printable_rule(rule: &str) -> String {
    datapath::printable::printable(rule, 1000).into_owned()
}

/// Reads a topology file; `file` names it in refusals.
///
/// # Errors
/// [`Error::Input`] with the first line that breaks a rule.
pub fn parse(text: &str, file: &str) -> Result<Topology, Error> {
    let document = document::read(text, file)?;
    rules::complete(document, file)
}

/// The topology that `--clusters`, `--nodes`, `--mode` and `--family` ask for; clusters are `c1`, `c2`, ….
///
/// # Errors
/// [`Error::Input`] that names the argument which is out of range.
pub fn generated(
    clusters: usize,
    nodes: usize,
    mode: ModeChoice,
    family: FamilyChoice,
) -> Result<Topology, Error> {
    if !(1..=MAX_CLUSTERS).contains(&clusters) {
        return Err(Error::argument(
            "--clusters",
            format!("must be from 1 to {MAX_CLUSTERS}, not {clusters}"),
        ));
    }
    let nodes = u32::try_from(nodes)
        .ok()
        .filter(|nodes| (1..=MAX_NODES).contains(nodes))
        .ok_or_else(|| {
            Error::argument(
                "--nodes",
                format!("must be from 1 to {MAX_NODES}, not {nodes}"),
            )
        })?;
    let clusters = (0..clusters)
        .map(|index| {
            let mode = match mode {
                ModeChoice::Gateway => Mode::Gateway,
                ModeChoice::P2p => Mode::P2p,
                ModeChoice::Mixed if index % 2 == 0 => Mode::Gateway,
                ModeChoice::Mixed => Mode::P2p,
            };
            draft::Draft::generated(rules::default_name(index, clusters), mode, family, nodes)
        })
        .collect();
    let clusters = addresses::assign(clusters)
        .map_err(|refusal| Error::argument("--clusters", refusal.rule))?;
    Ok(Topology {
        name: None,
        clusters,
        floater: true,
        floaters: Floaters::Auto,
        bare: false,
        kubelets: Kubelets::default(),
        upstream: None,
        faults: Vec::new(),
        steps: Vec::new(),
        expect: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
