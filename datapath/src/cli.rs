//! The program `clusterlink` (feature `clusterlink`).

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use serde::Serialize;

use crate::agent::Timing;
use crate::api::NodeConfigSpec;
use crate::diff::diff;
use crate::error::{Error, Problem, ProblemKind};
use crate::kernel::LinuxKernel;
use crate::liveness::paths;
use crate::nodeconfig::desired;
use crate::programs::Plan;
use crate::reconcile::Kernel;
use crate::state::NodeState;
use crate::walk::{End, Packet, World, walk};

mod input;
mod programs;

/// A wrong command line (`EX_USAGE`).
const USAGE: u8 = 64;

/// The multi-cluster datapath: the agent of a node, and the programs of its control plane.
#[derive(Parser)]
#[command(name = "clusterlink", version)]
enum Verb {
    /// Keep this node as its NodeConfig says, until interrupted.
    ///
    /// The former state stays while the Kubernetes API is away, while the NodeConfig cannot be understood, and on exit.
    Agent {
        /// The cluster's name.
        #[arg(long, env = "CLUSTER_NAME")]
        cluster: String,
        /// The node's name.
        #[arg(long, env = "NODE_NAME")]
        node: String,
        /// The control plane's kubeconfig; without it the environment's or the pod's own.
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// Whether this node's rows are planned here, of the fleet's Clusters and ClusterNodes: `auto` does so where there is no NodeConfig
        #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
        plan: Plan,
        /// How long rows stay after the NodeConfig was deleted, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        grace: u64,
        /// How many packets a second this node may send to find out which gateways are alive; with fewer of them fewer are watched, or more slowly
        #[arg(long, value_name = "PACKETS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        session_budget: u32,
        /// How long a gateway has to be alive again before its standby is left, seconds; twice as long after each failure
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
        session_hold: u64,
        #[command(flatten)]
        listening: programs::Listening,
    },
    /// Keep a member cluster's objects in the control plane: a ClusterNode for each Node, the prefixes of its pods and services, and,
    /// unless --no-elector is given, which node is its gateway.
    ///
    /// Of several replicas one writes, by a Lease in the member cluster. What is known stays while an API server is away.
    Controller {
        #[command(flatten)]
        member: programs::MemberOptions,
        /// Leave the gateway to an elector that runs by itself
        #[arg(long)]
        no_elector: bool,
        #[command(flatten)]
        wish: programs::Wanted,
        #[command(flatten)]
        replica: programs::Replica,
        #[command(flatten)]
        listening: programs::Listening,
    },
    /// Keep a member cluster's gateway: a ready node that is it already, or else its standby, or else the first ready node by name.
    Elector {
        #[command(flatten)]
        member: programs::MemberOptions,
        #[command(flatten)]
        wish: programs::Wanted,
        #[command(flatten)]
        replica: programs::Replica,
        #[command(flatten)]
        listening: programs::Listening,
    },
    /// Keep the NodeConfigs of a fleet as its Clusters and ClusterNodes say, and conditions on those objects.
    ///
    /// Of several replicas one writes, by a Lease in the control plane.
    Manager {
        /// The control plane's kubeconfig (default: KUBECONFIG, or the pod's service account)
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// Which NodeConfigs are written: `auto` leaves out those that are larger than --node-config-limit, and says so on their objects
        #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
        node_configs: programs::Which,
        /// The largest NodeConfig that `auto` writes, in bytes of JSON; etcd takes no object of more than 1.5 MiB
        #[arg(long, value_name = "BYTES", default_value_t = programs::LIMIT)]
        node_config_limit: usize,
        #[command(flatten)]
        replica: programs::Replica,
        #[command(flatten)]
        listening: programs::Listening,
    },
    /// Print the changes that would make this node what a NodeConfig says.
    ///
    /// Exit code 0: none. 1: there are some, or the node lacks a link that the NodeConfig stands on. 65: the NodeConfig is malformed.
    Diff {
        /// The NodeConfig as JSON or YAML: what kubectl prints (also Lists and several documents), or a spec alone; - is stdin.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Which NodeConfig of the file (required where it has several).
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A state as `show` prints it, in place of this node's own.
        #[arg(long, value_name = "FILE")]
        observed: Option<PathBuf>,
        /// Print the changes as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the NodeConfigs of a fleet as JSON.
    Plan {
        /// Clusters, ClusterNodes and NodeConfigs as JSON or YAML: what kubectl prints (also Lists and several documents), or
        /// {"clusters": […], "clusterNodes": […], "nodeConfigs": […]}; - is stdin.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Print this node's tables as JSON.
    Show,
    /// Say what this node does with a packet.
    Walk {
        /// The destination.
        dst: IpAddr,
        /// The source; without it the node chooses.
        #[arg(long)]
        from: Option<IpAddr>,
        /// The link that the packet comes in by; without it the node makes it.
        #[arg(long, value_name = "LINK")]
        ingress: Option<String>,
        /// The UDP destination port.
        #[arg(long, default_value_t = 8889)]
        port: u16,
        /// A state as `show` prints it, in place of this node's own.
        #[arg(long, value_name = "FILE")]
        observed: Option<PathBuf>,
    },
}

impl Verb {
    /// Itself, where its arguments go together.
    fn checked(self) -> Result<Self, clap::Error> {
        let (Self::Controller { replica, .. }
        | Self::Elector { replica, .. }
        | Self::Manager { replica, .. }) = &self
        else {
            return Ok(self);
        };
        match replica.rule() {
            None => Ok(self),
            Some(rule) => Err(Self::command().error(ErrorKind::ValueValidation, rule)),
        }
    }
}

/// Runs the program on its arguments, without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words = std::iter::once(OsString::from("clusterlink")).chain(args);
    let verb = match Verb::try_parse_from(words).and_then(Verb::checked) {
        Ok(verb) => verb,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(verb) {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            note(&text);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Agent {
            cluster,
            node,
            kubeconfig,
            plan,
            grace,
            session_budget,
            session_hold,
            listening,
        } => {
            let sessions = paths::Settings {
                budget: session_budget,
                hold: Duration::from_secs(session_hold),
            };
            let timing = Timing {
                grace: Duration::from_secs(grace),
                ..Timing::default()
            };
            let settings = (timing, sessions);
            programs::agent((&cluster, &node), kubeconfig, plan, settings, listening)
        }
        Verb::Controller {
            member,
            no_elector,
            wish,
            replica,
            listening,
        } => {
            let elects = (!no_elector).then_some(wish);
            programs::controller(member, elects, replica, listening)
        }
        Verb::Elector {
            member,
            wish,
            replica,
            listening,
        } => programs::elector(member, wish, replica, listening),
        Verb::Manager {
            kubeconfig,
            node_configs,
            node_config_limit,
            replica,
            listening,
        } => programs::manager(
            kubeconfig,
            node_configs,
            node_config_limit,
            replica,
            listening,
        ),
        Verb::Diff {
            file,
            name,
            observed,
            json,
        } => {
            let config = input::spec(&file, name.as_deref())?;
            difference(&file, &config, &observe(observed)?, json)
        }
        Verb::Plan { file } => {
            let planner = crate::plan::Planner::of(&input::fleet(&file)?);
            for objection in planner.objections() {
                note(format_args!("warning: {objection}"));
            }
            print_json(&planner.configs())?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Show => {
            print_json(&observe(None)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Walk {
            dst,
            from,
            ingress,
            port,
            observed,
        } => {
            let mut world = World::new();
            world.insert("node", observe(observed)?);
            let any = if dst.is_ipv4() {
                IpAddr::from([0; 4])
            } else {
                IpAddr::from([0; 16])
            };
            let packet = Packet::udp(from.unwrap_or(any), dst, port);
            let walked = walk(&world, "node", ingress.as_deref(), packet);
            print(&format!("{walked}\n"))?;
            Ok(ExitCode::from(u8::from(matches!(
                walked.end,
                End::Stopped { .. }
            ))))
        }
    }
}

/// Prints what is between a NodeConfig and a node's tables.
fn difference(
    file: &Path,
    config: &NodeConfigSpec,
    observed: &NodeState,
    json: bool,
) -> Result<ExitCode, Error> {
    let (wanted, problems) = desired(config, observed);
    let malformed = |problem: &&Problem| problem.kind == ProblemKind::Malformed;
    if let Some(first) = problems.iter().find(malformed) {
        for problem in problems.iter().filter(malformed).skip(1) {
            note(format_args!("{}: {problem}", file.display()));
        }
        return Err(input::refusal(file, first.to_string()));
    }
    for problem in &problems {
        note(format_args!("warning: {}: {problem}", file.display()));
    }
    let set = diff(&wanted, observed);
    if json {
        print_json(&set)?;
    } else {
        print(&set.to_string())?;
    }
    let is_unmet = problems
        .iter()
        .any(|problem| problem.kind == ProblemKind::Unmet);
    Ok(ExitCode::from(u8::from(!set.is_empty() || is_unmet)))
}

/// This node's tables, or those of a file.
fn observe(file: Option<PathBuf>) -> Result<NodeState, Error> {
    match file {
        Some(file) => input::state(&file),
        None => {
            let mut kernel = LinuxKernel::open()?;
            let state = kernel.observe()?;
            if !kernel.is_nat_readable() {
                note("address translation cannot be read here (CAP_NET_ADMIN)");
            }
            Ok(state)
        }
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from);
    done(
        written
            .and_then(|()| writeln!(stdout))
            .and_then(|()| stdout.flush()),
    )
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    done(written.and_then(|()| stdout.flush()))
}

/// Whoever closed a pipe has read enough.
fn done(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output {
            name: "stdout".to_owned(),
            why,
        }),
        _ => Ok(()),
    }
}

/// A line on stderr. One that cannot be written, on a full disk say, changes nothing else.
fn note(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "clusterlink: {text}");
}
