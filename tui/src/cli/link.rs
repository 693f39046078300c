//! The command line of `link`. Flags are those of kosmosctl where it has them, and here all of them take effect.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::diagnosis::duration;

/// The datapath between clusters.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Link {
    /// Print the NodeConfigs that follow from Cluster and ClusterNode objects; touches nothing
    Plan(LinkPlan),
    /// Install the datapath's control plane in a cluster, and link that cluster
    #[command(disable_version_flag = true)]
    Install(LinkInstall),
    /// Link one more cluster, and wait until packets pass
    #[command(disable_version_flag = true)]
    Join(LinkJoin),
    /// Take a cluster out: its nodes become as they were, and what was installed is removed
    Unjoin(LinkUnjoin),
    /// Remove the control plane and the datapath of its own cluster
    Uninstall(LinkUninstall),
    /// Say which clusters are linked, and whether each node is as planned
    Status(LinkStatus),
    /// Give the datapath's programs of a cluster another version
    #[command(disable_version_flag = true)]
    Upgrade(LinkUpgrade),
}

/// Arguments of `link plan`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkPlan {
    /// The objects: {"clusters": […], "clusterNodes": […], "nodeConfigs": […]}, JSON or YAML, `-` for stdin
    #[arg(short, long, value_name = "FLEET")]
    pub file: Option<PathBuf>,
    /// The form of the result (default: json)
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<PlanFormat>,
    /// Print only what changes against an earlier result, or against the plan of other objects
    #[arg(long, value_name = "OLD")]
    pub diff: Option<PathBuf>,
}

/// The forms of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// The cluster that something is done to.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct At {
    /// The kubeconfig of the cluster: the control plane's, or the one that joins or leaves (default: as kubectl, where it is the control plane)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Its context (default: the current one)
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// How a cluster takes part.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Datapath")]
pub struct Part {
    /// How the cluster reaches others: through one node, or each node for itself (default: gateway)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub network_type: Option<NetworkType>,
    /// The address families that are linked (default: ipv4)
    #[arg(long, value_enum, value_name = "FAMILY")]
    pub ip_family: Option<IpFamilies>,
    /// The cluster's CNI plugin, for what it knows of the pods' prefixes (default: calico)
    #[arg(long, value_enum, value_name = "PLUGIN")]
    pub cni: Option<Cni>,
    /// The link that tunnels stand on (default: the one with the route to elsewhere)
    #[arg(long, value_name = "LINK")]
    pub default_nic: Option<String>,
    /// A prefix of the cluster and what others call it; may be given several times
    #[arg(long, value_name = "PREFIX=PREFIX", value_parser = mapped)]
    pub global_cidr: Vec<(String, String)>,
}

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Programs")]
pub struct Programs {
    /// Image registry and path (default: ghcr.io/kosmos-io)
    #[arg(
        short = 'r',
        long,
        visible_alias = "private-image-registry",
        value_name = "REPOSITORY"
    )]
    pub image_repository: Option<String>,
    /// The tag of the image (default: this program's version)
    #[arg(long, value_name = "TAG")]
    pub version: Option<String>,
    /// A Secret in the programs' namespace with the registry's credentials; may be given several times
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    pub image_pull_secret: Vec<String>,
    /// The namespace of the programs, in every cluster (default: kosmos-system)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Whether agents plan for themselves: always, or where the plan of their node fits into no NodeConfig (some 5000 clusters). Gives them the
    /// right to read every Cluster of the control plane, none of which may hold a kubeconfig (default: off)
    #[arg(long, value_enum, value_name = "WHEN")]
    pub plan: Option<AgentsPlan>,
    /// Have a second node stand by for the cluster's gateway: nodes notice a dead gateway by themselves, within a second, and turn to it
    #[arg(long)]
    pub standby: bool,
    /// How many nodes are gateways at once and share the cluster's flows; each stands in for another one that is dead. Takes Linux 6.11 on all nodes of
    /// the fleet (default: 1)
    #[arg(long, value_name = "NUMBER", conflicts_with = "standby", value_parser = clap::value_parser!(u8).range(1..=4))]
    pub gateways: Option<u8>,
    /// How long to wait for programs, nodes and packets, each, seconds or with a unit (default: 120 s)
    #[arg(short = 'w', long, visible_alias = "wait-time", value_name = "SECONDS", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Check everything, print the objects that would be made, make none
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `link install`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkInstall {
    /// The control plane.
    #[command(flatten)]
    pub at: At,
    /// A kubeconfig with the address by which programs in other clusters reach the control plane (default: what --kubeconfig has, or
    /// else what the cluster says of itself)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub inner_kubeconfig: Option<PathBuf>,
    /// What the control plane's own cluster is called (default: kosmos-control-cluster)
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// How it takes part.
    #[command(flatten)]
    pub part: Part,
    /// What is installed.
    #[command(flatten)]
    pub programs: Programs,
}

/// The word that kosmosctl has after `join` and `unjoin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Noun {
    /// A cluster.
    Cluster,
}

/// The control plane of somebody else's deed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Host {
    /// The control plane's kubeconfig (default: as kubectl)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub host_kubeconfig: Option<PathBuf>,
    /// Its context (default: the current one)
    #[arg(long, value_name = "NAME")]
    pub host_context: Option<String>,
}

/// Arguments of `link join`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkJoin {
    /// May be left out
    #[arg(value_enum, hide_possible_values = true)]
    pub noun: Option<Noun>,
    /// What the cluster is called in the fleet
    #[arg(long, value_name = "NAME", required = true)]
    pub name: String,
    /// The cluster.
    #[command(flatten)]
    pub at: At,
    /// The control plane.
    #[command(flatten)]
    pub host: Host,
    /// A kubeconfig with the address by which the cluster's programs reach the control plane (default: what `link install` found)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub host_inner_kubeconfig: Option<PathBuf>,
    /// The datapath is what is joined, with this or without.
    #[arg(long, hide = true)]
    pub enable_link: bool,
    /// How it takes part.
    #[command(flatten)]
    pub part: Part,
    /// What is installed.
    #[command(flatten)]
    pub programs: Programs,
}

/// How something is removed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Removal {
    /// The namespace of the programs (default: kosmos-system)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How long to wait until the nodes are bare, seconds or with a unit (default: 120 s)
    #[arg(short = 'w', long, visible_alias = "wait-time", value_name = "SECONDS", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Print what would be removed, remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `link unjoin`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkUnjoin {
    /// May be left out
    #[arg(value_enum, hide_possible_values = true)]
    pub noun: Option<Noun>,
    /// What the cluster is called in the fleet
    #[arg(long, value_name = "NAME", required = true)]
    pub name: String,
    /// The cluster; may be left out with --force.
    #[command(flatten)]
    pub at: At,
    /// The control plane.
    #[command(flatten)]
    pub host: Host,
    /// Take it out of the fleet also where it or its nodes do not answer; says what stays in it
    #[arg(long)]
    pub force: bool,
    /// How it is removed.
    #[command(flatten)]
    pub removal: Removal,
}

/// Arguments of `link uninstall`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkUninstall {
    /// The control plane.
    #[command(flatten)]
    pub at: At,
    /// Go on also where other clusters are linked by it: their Clusters and what their nodes have stay, the accounts of their programs go
    #[arg(long)]
    pub force: bool,
    /// How it is removed.
    #[command(flatten)]
    pub removal: Removal,
}

/// Arguments of `link status`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkStatus {
    /// The control plane.
    #[command(flatten)]
    pub at: At,
    /// The form of the result (default: table)
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<super::sim::StatusFormat>,
    /// Print it again whenever it has changed, until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `link upgrade`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LinkUpgrade {
    /// The cluster's kubeconfig (default: as kubectl)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Its context; may be given several times, for one cluster after the other (default: the current one)
    #[arg(long, value_name = "NAME")]
    pub context: Vec<String>,
    /// The tag of the image (default: this program's version)
    #[arg(long, value_name = "TAG")]
    pub version: Option<String>,
    /// Image registry and path (default: as it is)
    #[arg(
        short = 'r',
        long,
        visible_alias = "private-image-registry",
        value_name = "REPOSITORY"
    )]
    pub image_repository: Option<String>,
    /// The namespace of the programs (default: kosmos-system)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How long to wait for each program, seconds or with a unit (default: 120 s)
    #[arg(short = 'w', long, visible_alias = "wait-time", value_name = "SECONDS", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Print what would be changed, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Whether agents plan for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AgentsPlan {
    /// Where there is no NodeConfig.
    Auto,
    /// Never.
    #[default]
    Off,
    /// Always.
    On,
}

/// How a cluster reaches others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum NetworkType {
    /// Through one node.
    #[default]
    Gateway,
    /// Every node for itself.
    P2p,
}

/// The families that are linked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum IpFamilies {
    /// Both.
    All,
    /// IPv4 only.
    #[default]
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// What wires a cluster's pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Cni {
    /// Calico.
    #[default]
    Calico,
    /// Cilium.
    Cilium,
    /// flannel.
    Flannel,
    /// Any other.
    Generic,
}

/// A prefix and what others call it.
fn mapped(text: &str) -> Result<(String, String), String> {
    let rule = || "a map is PREFIX=PREFIX, both of one family and one length".to_owned();
    let (own, global) = text.split_once('=').ok_or_else(rule)?;
    let read = |text: &str| text.parse::<ipnet::IpNet>().map_err(|_| rule());
    let (from, to) = (read(own)?, read(global)?);
    let is_alike =
        from.addr().is_ipv4() == to.addr().is_ipv4() && from.prefix_len() == to.prefix_len();
    if !is_alike {
        return Err(rule());
    }
    if from != from.trunc() || to != to.trunc() {
        return Err("a prefix has bits behind its length".to_owned());
    }
    Ok((own.to_owned(), global.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_two_prefixes_of_one_shape() {
        assert!(mapped("10.1.0.0/16=10.201.0.0/16").is_ok());
        for bad in [
            "",
            "10.1.0.0/16",
            "10.1.0.0/16=10.2.0.0/17",
            "10.1.0.0/16=fd00::/16",
            "10.1.0.1/16=10.2.0.0/16",
        ] {
            assert!(mapped(bad).is_err(), "{bad}");
        }
    }
}
