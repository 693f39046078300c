//! The words that run until they are stopped: what they are told, and what they have in common.

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::channel::mpsc::UnboundedSender;
use futures::stream::select;
use futures::{Stream, StreamExt as _};
use kube::Client;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::agent::{self, Liveness, Timing};
use crate::control::configs::Mode;
use crate::control::gateways::{Standby, Wish};
use crate::control::lease;
use crate::error::Error;
use crate::kernel::{LinuxKernel, Monitor};
use crate::liveness::paths::{self, Summary};
use crate::manifests;
use crate::programs::access::client;
use crate::programs::metrics::{self, Metrics};
use crate::programs::served::{self, Readiness};
use crate::programs::{self, Cluster, Common, Managing, Plan};

/// The largest NodeConfig that `auto` writes, bytes of JSON: etcd takes 1.5 MiB, and the API server adds its own.
pub(super) const LIMIT: usize = 1_400_000;

/// Where a program says how it is.
#[derive(Debug, Clone, Args)]
pub(super) struct Listening {
    /// Where to serve /metrics, /healthz and /readyz, for example 0.0.0.0:8080 (default: nowhere)
    #[arg(long, value_name = "ADDRESS", env = "CLUSTERLINK_LISTEN")]
    listen: Option<SocketAddr>,
}

/// Which member cluster, and how it is reached.
#[derive(Debug, Clone, Args)]
pub(super) struct MemberOptions {
    /// The cluster's name
    #[arg(long, env = "CLUSTER_NAME")]
    cluster: String,
    /// The control plane's kubeconfig (default: KUBECONFIG, or the pod's service account)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The member cluster's own kubeconfig (default: KUBECONFIG, or the pod's service account)
    #[arg(long, value_name = "FILE")]
    member_kubeconfig: Option<PathBuf>,
}

/// One of several replicas.
#[derive(Debug, Clone, Args)]
pub(super) struct Replica {
    /// The namespace of the Lease
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "kosmos-system"
    )]
    namespace: String,
    /// This replica's name in the Lease, which no other has (default: one made up)
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// How long a Lease lasts that its holder does not renew, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease_duration: u64,
    /// How long a leader goes on that cannot renew, seconds; less than --lease-duration
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    renew_deadline: u64,
    /// How long to wait between attempts, seconds; less than --renew-deadline
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    retry_period: u64,
}

/// Which NodeConfigs are written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Which {
    /// All, whatever their size
    On,
    /// None
    Off,
    /// Those that fit into the API's store
    #[default]
    Auto,
}

/// Whether a node is named that stands in for a dead gateway.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Standing {
    /// None
    #[default]
    Off,
    /// Wherever a second node is ready
    On,
}

/// Who forwards for a cluster, and who stands by.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Wanted {
    /// How many nodes are gateways at once and share the cluster's flows; as many as the Cluster's annotation kosmos.io/clusterlink-gateways says.
    /// Takes Linux 6.11 on all nodes of the fleet
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    gateways: u8,
    /// Whether a node stands by for the gateway, which other nodes turn to when the gateway is dead. Several gateways need none
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    standby: Standing,
}

impl From<Wanted> for Wish {
    fn from(wanted: Wanted) -> Self {
        Self {
            gateways: wanted.gateways.into(),
            standby: match wanted.standby {
                Standing::Off => Standby::Absent,
                Standing::On => Standby::Named,
            },
        }
    }
}

impl Replica {
    fn timing(&self) -> lease::Timing {
        lease::Timing {
            duration: Duration::from_secs(self.lease_duration),
            deadline: Duration::from_secs(self.renew_deadline),
            retry: Duration::from_secs(self.retry_period),
        }
    }

    /// What is wrong with its times, by the rules of client-go: a waiting replica's pause has jitter.
    pub(super) fn rule(&self) -> Option<&'static str> {
        let timing = self.timing();
        let is_fit =
            timing.duration > timing.deadline && timing.deadline > timing.retry.mul_f64(1.2);
        (!is_fit).then_some("--lease-duration has to be longer than --renew-deadline, and that longer than 1.2 times --retry-period")
    }

    fn common(self, process: &Process) -> Common {
        Common {
            timing: self.timing(),
            identity: self.identity.unwrap_or_else(identity),
            namespace: self.namespace,
            metrics: process.metrics.clone(),
            readiness: process.readiness.clone(),
            stop: process.stop.clone(),
        }
    }
}

/// The pod's name, or the machine's and something of one's own: two replicas may run in one pod that was restarted.
fn identity() -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    let name = name.unwrap_or_else(|_| "clusterlink".to_owned());
    let name = crate::printable::Printable::bounded(&name, 200);
    let own = RandomState::new().hash_one(std::process::id());
    format!("{}_{own:016x}", name.as_str())
}

/// What a running program has beside its work.
struct Process {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// True once the program has to end.
    stop: watch::Receiver<bool>,
}

pub(super) fn controller(
    member: MemberOptions,
    elects: Option<Wanted>,
    replica: Replica,
    listening: Listening,
) -> Result<ExitCode, Error> {
    run("controller", listening, |process| async move {
        let common = replica.common(&process);
        let cluster = cluster(member).await?;
        let elector = async {
            if let Some(wish) = elects {
                programs::elector(cluster.clone(), wish.into(), common.clone()).await;
            }
        };
        tokio::join!(
            programs::controller(cluster.clone(), common.clone()),
            elector
        );
        Ok(())
    })
}

pub(super) fn elector(
    member: MemberOptions,
    wish: Wanted,
    replica: Replica,
    listening: Listening,
) -> Result<ExitCode, Error> {
    run("elector", listening, |process| async move {
        let common = replica.common(&process);
        programs::elector(cluster(member).await?, wish.into(), common).await;
        Ok(())
    })
}

pub(super) fn manager(
    kubeconfig: Option<PathBuf>,
    which: Which,
    limit: usize,
    replica: Replica,
    listening: Listening,
) -> Result<ExitCode, Error> {
    let mode = match which {
        Which::Auto => Mode::Auto,
        Which::Off => Mode::Off,
        Which::On => Mode::On,
    };
    run("manager", listening, |process| async move {
        let common = replica.common(&process);
        programs::manager(client(kubeconfig).await?, Managing { mode, limit }, common).await;
        Ok(())
    })
}

async fn cluster(options: MemberOptions) -> Result<Cluster, Error> {
    let control: Client = client(options.kubeconfig).await?;
    let member = client(options.member_kubeconfig).await?;
    Ok(Cluster {
        name: options.cluster,
        member,
        control,
    })
}

/// Runs the agent of one node.
pub(super) fn agent(
    (cluster, node): (&str, &str),
    kubeconfig: Option<PathBuf>,
    plan: Plan,
    (timing, sessions): (Timing, paths::Settings),
    listening: Listening,
) -> Result<ExitCode, Error> {
    log();
    let name = &format!("{cluster}-{node}");
    let observer = LinuxKernel::open()?;
    let mut kernel = LinuxKernel::open()?;
    // A container's own is read-only.
    let settings = Path::new(manifests::SETTINGS);
    if settings.is_dir() {
        kernel = kernel.with_settings_in(settings.to_owned());
    }
    let monitor = Monitor::open()?;
    let (liveness, found) =
        Liveness::begin(sessions).map_err(|error| missing("a thread for sessions", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| missing("a runtime", &error))?;
    runtime.block_on(async {
        let client = client(kubeconfig).await?;
        let process = begin("agent", listening).await?;
        let mut awaited = Some(process.readiness.awaits());
        let mut stop = process.stop.clone();
        let stop = async move { drop(stop.wait_for(|is_over| *is_over).await) };
        let (told, news) = futures::channel::mpsc::unbounded();
        let reporting = agent::report(client.clone(), name, env!("CARGO_PKG_VERSION"), news);
        let (look, looks) = futures::channel::mpsc::unbounded();
        let detecting = programs::detect(client.clone(), cluster, node, observer, looks);
        let looked = |is_true: bool| {
            // Whoever finds the underlay ends with whoever keeps the rows.
            drop(look.unbounded_send(()));
            let outcome = if is_true { "true" } else { "false" };
            process
                .metrics
                .count(&metrics::LOOKS, &[("outcome", outcome)]);
            // Ready once the node has been what it should be.
            if is_true && let Some(mut awaited) = awaited.take() {
                awaited.done();
            }
        };
        let mut looked = looked;
        let summaries = told.clone();
        let tell = move |word: agent::Told| match word {
            agent::Told::Looked(is_true) => looked(is_true),
            agent::Told::Sessions(plan, held) => liveness.plan(plan, held),
            // Whoever writes it ends after whoever tells it.
            other => drop(told.unbounded_send(other)),
        };
        let (out, events) = futures::channel::mpsc::unbounded();
        let planning = programs::follow(client.clone(), name, plan, out);
        let detours = changes(found.detours).map(agent::Word::Detours);
        let words = select(events.map(agent::Word::from), detours);
        let keeping = agent::keep(&mut kernel, monitor, words, timing, tell, stop);
        let counting = count(found.summary.clone(), &process.metrics, summaries);
        let speaking = programs::cut_off(client, name, found.summary);
        tokio::select! {
            kept = keeping => kept,
            () = reporting => Ok(()),
            () = detecting => Ok(()),
            () = planning => Ok(()),
            () = counting => Ok(()),
            () = speaking => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a value becomes, each time that it changes.
fn changes<T: Clone>(value: watch::Receiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(value, |mut value| async move {
        value.changed().await.ok()?;
        let now = value.borrow_and_update().clone();
        Some((now, value))
    })
}

/// Counts sessions for whoever reads metrics, and tells of them. Ends never.
async fn count(
    summary: watch::Receiver<Summary>,
    metrics: &Metrics,
    told: UnboundedSender<agent::Told>,
) {
    let mut changes = pin!(changes(summary));
    let mut detours = 0;
    while let Some(now) = changes.next().await {
        for (state, count) in [("up", now.up), ("down", now.down)] {
            metrics.set(&metrics::SESSIONS, &[("state", state)], count as f64);
        }
        metrics.set(&metrics::DETOURS, &[], now.detours.len() as f64);
        metrics.set(&metrics::CUT_OFF, &[], f64::from(u8::from(now.is_cut_off)));
        for _ in detours..now.detours.len() {
            metrics.count(&metrics::FAILOVERS, &[]);
        }
        detours = now.detours.len();
        // Whoever writes it ends after whoever tells it.
        drop(told.unbounded_send(agent::Told::Summary(now)));
    }
    std::future::pending().await
}

/// Runs a program of the control plane until it is interrupted or has failed.
fn run<F>(
    word: &'static str,
    listening: Listening,
    program: impl FnOnce(Process) -> F,
) -> Result<ExitCode, Error>
where
    F: Future<Output = Result<(), Error>>,
{
    log();
    // One thread plans while the other renews the Lease.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| missing("a runtime", &error))?;
    runtime.block_on(async { program(begin(word, listening).await?).await })?;
    Ok(ExitCode::SUCCESS)
}

/// Hears signals from now on, and serves what is asked of every program.
async fn begin(word: &'static str, listening: Listening) -> Result<Process, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let metrics = Arc::new(Metrics::default());
    metrics.set(
        &metrics::BUILD,
        &[("version", env!("CARGO_PKG_VERSION")), ("word", word)],
        1.0,
    );
    let readiness = Readiness::default();
    if let Some(address) = listening.listen {
        let listener = served::listen(address).await?;
        tokio::spawn(served::serve(listener, metrics.clone(), readiness.clone()));
    }
    let heard = |kind| signal(kind).map_err(|error| missing("a signal handler", &error));
    let (mut terminate, mut interrupt) = (
        heard(SignalKind::terminate())?,
        heard(SignalKind::interrupt())?,
    );
    let (over, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        over.send_replace(true);
        // Whoever listens learns it from the value, not from the end of this task.
        over.closed().await;
    });
    Ok(Process {
        metrics,
        readiness,
        stop,
    })
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second initialisation, in a program that did it already, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

fn missing(what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Missing {
        what: what.to_owned(),
        why: why.to_string(),
    }
}
