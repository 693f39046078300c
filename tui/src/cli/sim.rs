//! The arguments of `sim`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::diagnosis::Words;
use crate::output::Output;

/// Simulate fleets of clusters on this machine.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Sim {
    /// Build a fleet; return once it is linked and ready; print the path of its kubeconfig
    Up(Up),
    /// Print what is running and in which state
    Status(Status),
    /// Print the path of a fleet's kubeconfig
    Kubeconfig(Named),
    /// Run a program in the network of a node, a pod or the underlay
    Exec(Exec),
    /// Write the packets of a node, a pod or the underlay to a file that other programs read (pcap), until Ctrl-C
    Capture(Capture),
    /// Break something on purpose
    #[command(subcommand)]
    Fault(Fault),
    /// Stop the datapath's controllers and agents, so that a state stays as it was put
    Freeze(Place),
    /// Start them again; returns once the agents have applied their NodeConfigs
    Thaw(Place),
    /// Run scenarios: build, break, diagnose, compare with what is expected, remove
    Run(Run),
    /// Print the JSON Schema of a topology file
    Schema,
    /// Read topology files and say what `up` and `run` would refuse, without building anything
    Validate(Validate),
    /// Remove a fleet with everything that belongs to it
    Down(Down),
}

/// The shape of a generated fleet.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Shape {
    /// Number of clusters (required without a topology file; the demo's default: 3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub clusters: Option<u32>,
    /// Number of nodes of each cluster (default: 2)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub nodes: Option<u32>,
    /// How clusters reach each other (default: gateway)
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Address families of the clusters (default: ipv4)
    #[arg(long, value_enum)]
    pub family: Option<Families>,
}

/// How clusters reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Through one node of each.
    #[default]
    Gateway,
    /// One cluster in gateway mode, the next in p2p mode, and so on.
    Mixed,
    /// Every node for itself.
    P2p,
}

/// The families of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Families {
    /// Both.
    All,
    /// IPv4 only.
    #[default]
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// Arguments of `sim up`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Up {
    /// The topology file; without one the options give the numbers
    #[arg(value_name = "TOPOLOGY.yaml", value_hint = ValueHint::FilePath, conflicts_with_all = ["clusters", "nodes", "mode", "family"])]
    pub topology: Option<PathBuf>,
    /// The fleet's name; beats the one in the file
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
    /// What to build without a file.
    #[command(flatten)]
    pub shape: Shape,
    /// Make every cluster a virtual one: an API, nodes and floaters, and no kernel (tables are computed, probes are walked)
    #[arg(long = "virtual")]
    pub is_virtual: bool,
    /// Leave the clusters unlinked: no datapath, and nothing of it in their APIs, which pods reach at their cluster's first node
    #[arg(long, conflicts_with = "is_virtual")]
    pub bare: bool,
    /// Run upstream's etcd, kube-apiserver, kube-controller-manager and kube-scheduler from this folder on the first node of every cluster of
    /// which the topology does not say otherwise (`controlPlane: simulated`); without --bare the clusters are linked as `link install` and `join` do it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "is_virtual")]
    pub upstream: Option<PathBuf>,
}

/// The fleet that is meant.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Named {
    /// The fleet's name (default: the one that is running)
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
}

/// Arguments of `sim status`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Status {
    /// Only this fleet
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
    /// The form of the result (default: table)
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<StatusFormat>,
}

/// The forms of a status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// JSON.
    Json,
    /// A table.
    #[default]
    Table,
}

/// Arguments of `sim exec`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Exec {
    /// The fleet's name (default: the one that is running)
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
    /// Where: CLUSTER/NODE, CLUSTER/NODE/POD or underlay
    #[arg(value_name = "PLACE")]
    pub place: String,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}

/// Arguments of `sim capture`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Capture {
    /// Where: CLUSTER/NODE, CLUSTER/NODE/POD or underlay
    #[arg(value_name = "PLACE")]
    pub place: String,
    /// The file; - for standard output
    #[arg(short, long, value_name = "FILE.pcap", value_hint = ValueHint::FilePath)]
    pub write: PathBuf,
    /// End after so many frames (default: at Ctrl-C, or with the fleet)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Only this link (default: all, a frame once on each that it passes)
    #[arg(short, long, value_name = "LINK")]
    pub interface: Option<String>,
    /// The fleet's name (default: the one that is running)
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
}

/// Arguments of `sim validate`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Validate {
    /// Topology files, scenarios included
    #[arg(value_name = "FILE.yaml", value_hint = ValueHint::FilePath, required = true)]
    pub files: Vec<PathBuf>,
}

/// Break something on purpose.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Fault {
    /// Print the codes that can be injected
    List(FaultList),
    /// Break something
    Inject(Inject),
    /// Repair everything that was broken on purpose
    Clear(Named),
}

/// Arguments of `sim fault list`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct FaultList {
    /// All cause codes, with the reason why one cannot be injected
    #[arg(long)]
    pub all: bool,
    /// The form of the result; json has all codes with title and places (default: a code a line)
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<StatusFormat>,
    /// Takes no effect: every fleet knows the same codes.
    #[arg(long, hide = true)]
    pub name: Option<String>,
}

/// Arguments of `sim fault inject`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Inject {
    /// A code of `sim fault list`
    #[arg(value_parser = Words(&super::CODES, super::any_word), hide_possible_values = true)]
    pub code: String,
    /// The cluster or node, and for some codes the peer that it cannot reach any more
    #[arg(long, value_name = "CLUSTER[/NODE][,PEER]", required = true)]
    pub at: String,
    /// The fleet's name (default: the one that is running)
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
}

/// Arguments of `sim freeze` and `sim thaw`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Place {
    /// The fleet's name (default: the one that is running)
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<String>,
    /// Only this cluster or node (default: all)
    #[arg(long, value_name = "CLUSTER[/NODE]")]
    pub at: Option<String>,
}

/// Arguments of `sim run`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Run {
    /// Topology files with `faults` and `expect`
    #[arg(value_name = "SCENARIO.yaml", value_hint = ValueHint::FilePath, required = true)]
    pub scenarios: Vec<PathBuf>,
    /// Run upstream's etcd, kube-apiserver, kube-controller-manager and kube-scheduler from this folder on the first node of every cluster of
    /// which the scenario does not say otherwise; the clusters are linked as `link install` and `join` do it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub upstream: Option<PathBuf>,
    /// junit or json, each with =FILE; may be given several times (default: a line per expectation)
    #[arg(short, long, value_name = "FORMAT[=FILE]", value_parser = Words(&["junit", "json"], super::output), hide_possible_values = true)]
    pub output: Vec<Output>,
}

/// Arguments of `sim down`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Down {
    /// The fleet's name (default: the one that is running)
    #[arg(long, conflicts_with = "all")]
    pub name: Option<String>,
    /// Every fleet of this user, also what a killed one left behind
    #[arg(long)]
    pub all: bool,
}
