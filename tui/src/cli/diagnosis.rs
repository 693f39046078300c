//! The arguments that `dr`, `analyse`, `matrix` and `demo` share: which clusters, what of them, what to send, how floaters get
//! there, and how the result is judged.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Args, ValueEnum, ValueHint};

use crate::output::Output;

/// The options that name an inventory; any two of different kinds contradict each other.
pub const SOURCES: [&str; 6] = [
    "src_kubeconfig",
    "kubeconfig",
    "kubeconfig_dir",
    "fleet",
    "sim",
    "all_contexts",
];

/// Which clusters. Without any option: the current context of `KUBECONFIG`, else of `~/.kube/config`, as kubectl.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Inventory")]
pub struct Inventory {
    /// The source cluster of one pair; without --dst-kubeconfig it is also the destination
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["kubeconfig", "kubeconfig_dir", "fleet", "sim"])]
    pub src_kubeconfig: Option<PathBuf>,
    /// Its context (default: the file's current context)
    #[arg(long, value_name = "NAME", requires = "src_kubeconfig", conflicts_with_all = ["kubeconfig", "kubeconfig_dir", "fleet", "sim"])]
    pub src_context: Option<String>,
    /// The destination cluster of the pair
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "src_kubeconfig", conflicts_with_all = ["kubeconfig", "kubeconfig_dir", "fleet", "sim"])]
    pub dst_kubeconfig: Option<PathBuf>,
    /// Its context (default: the file's current context)
    #[arg(long, value_name = "NAME", requires = "dst_kubeconfig", conflicts_with_all = ["kubeconfig", "kubeconfig_dir", "fleet", "sim"])]
    pub dst_context: Option<String>,
    /// Kubeconfigs; every context in them is a cluster, with --fleet one of its members
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, num_args = 1.., conflicts_with_all = ["kubeconfig_dir", "sim"])]
    pub kubeconfig: Vec<PathBuf>,
    /// Only contexts that match one of these globs
    #[arg(long, alias = "context", value_name = "GLOB", value_delimiter = ',', conflicts_with_all = ["src_kubeconfig"])]
    pub contexts: Vec<String>,
    /// Every context of KUBECONFIG or ~/.kube/config (default: the current context alone)
    #[arg(long, conflicts_with_all = ["src_kubeconfig", "kubeconfig", "contexts", "kubeconfig_dir", "sim"])]
    pub all_contexts: bool,
    /// A directory of kubeconfigs
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "sim")]
    pub kubeconfig_dir: Option<PathBuf>,
    /// The control plane's kubeconfig: its clusters.kosmos.io are the inventory; those without a kubeconfig of their own are found among the
    /// contexts of --kubeconfig, --kubeconfig-dir or --all-contexts
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "sim")]
    pub fleet: Option<PathBuf>,
    /// A simulated fleet that is running
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub sim: Option<String>,
    /// The context of the control plane, where several clusters claim to be it
    #[arg(long, value_name = "CONTEXT", value_hint = ValueHint::Other)]
    pub control_plane: Option<String>,
}

/// What of the clusters.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "What")]
pub struct What {
    /// Only the host layer
    #[arg(long, conflicts_with = "layers")]
    pub host_network: bool,
    /// Only these layers: host, pod (default: both)
    #[arg(long, value_name = "LAYER", value_delimiter = ',', value_parser = Words(&["host", "pod"], layer), hide_possible_values = true)]
    pub layers: Vec<LayerChoice>,
    /// Only these families (default: all that both clusters have)
    #[arg(long, value_name = "FAMILY", value_delimiter = ',', value_enum)]
    pub families: Vec<IpFamily>,
    /// Only nodes whose names match one of these globs; adds a row per node pair to the report
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// Only from clusters whose names match one of these globs
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub sources: Vec<String>,
    /// Only to clusters whose names match one of these globs
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub destinations: Vec<String>,
}

/// What to send.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Probes")]
pub struct Probes {
    /// Only these protocols: icmp, tcp (default: both)
    #[arg(long, alias = "protocol", value_name = "PROTOCOL", value_delimiter = ',', value_parser = Words(&["icmp", "tcp"], protocol), hide_possible_values = true)]
    pub protocols: Vec<ProtocolChoice>,
    /// The most packets that a floater sends in a second (default: 1000)
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..))]
    pub budget: Option<u32>,
    /// How many times to probe (default: 1)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Probe every ordered pair of nodes, not only as many as every element needs to be crossed
    #[arg(long)]
    pub full: bool,
    /// What the choice of node pairs is drawn from (default: 0)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// How floaters get into the clusters.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "How")]
pub struct How {
    /// Image registry and path (default: ghcr.io/kosmos-io)
    #[arg(short = 'r', long, value_name = "REPOSITORY")]
    pub image_repository: Option<String>,
    /// The same for the destination cluster (default: as --image-repository)
    #[arg(long, value_name = "REPOSITORY")]
    pub dst_image_repository: Option<String>,
    /// The tag of the floaters' image (default: this program's version)
    #[arg(long, value_name = "TAG")]
    pub version: Option<String>,
    /// A Secret in the floaters' namespace with the registry's credentials; may be given several times
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    pub image_pull_secret: Vec<String>,
    /// A ServiceAccount that is there already, used and left as it is (default: the run makes its own)
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// The namespace of the floaters (default: kosmos-system)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The floaters' port; their API uses the next one (default: 8889)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// How long to wait for a cluster's floaters, seconds or with a unit (default: 30 s)
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = duration)]
    pub pod_wait_time: Option<Duration>,
    /// How long the whole run may take, seconds or with a unit (default: no limit)
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// How long one cluster may take until it is given up, seconds or with a unit (default: 30 s for its first answer, 10 s
    /// once another has answered, less where most clusters are faster; both of a pair are waited for)
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    pub cluster_timeout: Option<Duration>,
    /// Leave the floaters in place for a day, for other runs to use
    #[arg(long)]
    pub keep: bool,
}

/// How the result is judged and printed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Result")]
pub struct Judge {
    /// table, wide, json, junit or dot, each with =FILE; may be given several times (default: table)
    #[arg(short, long, value_name = "FORMAT[=FILE]", value_parser = Words(&["table", "wide", "json", "junit", "dot"], super::output), hide_possible_values = true)]
    pub output: Vec<Output>,
    /// Print the table in the five columns of Kosmos
    #[arg(long)]
    pub kosmos: bool,
    /// The least severity of a finding that makes the exit code 1 (default: error)
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub fail_on: Option<FailOn>,
}

/// The bar of `--fail-on`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A cell fails or degrades.
    #[default]
    Error,
    /// Anything.
    Info,
    /// Something differs from intent.
    Warning,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A layer that can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerChoice {
    /// Between nodes.
    Host,
    /// Between pods.
    Pod,
}

/// A protocol that can be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolChoice {
    /// Echo.
    Icmp,
    /// Connections.
    Tcp,
}

/// A parser with words that a shell can complete; what it takes may be more than these.
#[derive(Clone)]
pub(crate) struct Words<T: 'static>(
    pub(crate) &'static [&'static str],
    pub(crate) fn(&str) -> Result<T, String>,
);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Words<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        self.1.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

fn layer(text: &str) -> Result<LayerChoice, String> {
    match text {
        "host" => Ok(LayerChoice::Host),
        "pod" => Ok(LayerChoice::Pod),
        "service" | "dns" => Err(format!(
            "the layer `{text}` is not available in this version; available: host, pod"
        )),
        _ => Err("no such layer; available: host, pod".to_owned()),
    }
}

fn protocol(text: &str) -> Result<ProtocolChoice, String> {
    match text {
        "icmp" => Ok(ProtocolChoice::Icmp),
        "tcp" => Ok(ProtocolChoice::Tcp),
        "udp" => Err(
            "the protocol `udp` is not available in this version; available: icmp, tcp".to_owned(),
        ),
        _ => Err("no such protocol; available: icmp, tcp".to_owned()),
    }
}

/// `30`, `30s`, `500ms`, `2m`, `1h`: a positive time of at most a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let rule =
        || "a time is a positive number with the unit ms, s (the default), m or h".to_owned();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(rule()),
    };
    let number: f64 = number.parse().map_err(|_| rule())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|_| rule())?;
    if time.is_zero() {
        return Err(rule());
    }
    if time > Duration::from_secs(24 * 3600) {
        return Err("a time is at most a day".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "0", "-1", "s", "5d", "1e9", "99999999", "25h", "1.2.3"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
