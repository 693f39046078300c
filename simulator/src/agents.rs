//! The agents of all nodes: each makes its node's kernel what its NodeConfig says, and keeps it so.
//!
//! An agent acts when its NodeConfig changes, when the kernel tells of a change, when it is thawed, and now and then for
//! what the kernel tells nobody.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datapath::api::NodeConfigSpec;
use datapath::kernel::{LinuxKernel, Monitor};
use datapath::reconcile::{Reconciled, reconcile};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::Error;
use crate::apiserver::{EventKind, Resource, Store};
use crate::freeze::Freezer;
use crate::network::{Network, NodeNet};
use crate::objects;
use crate::readable::Readable;
use crate::reconciler::spec_of;

/// How often an agent looks although nothing was told: drift is repaired within a second.
const ROUND: Duration = Duration::from_millis(900);
/// In large fleets the rounds of all agents together take a tenth of a core: each pauses this many times the time that all
/// of them would take.
const IDLENESS: u32 = 10;
/// The least time between two looks at one node, whatever the kernel tells.
const PAUSE: Duration = Duration::from_millis(50);

/// What tells each agent, by its ClusterNode's name, of changes in its kernel.
pub(crate) type Monitors = Vec<(String, Monitor)>;

/// How far an agent is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The config that the kernel was last made equal to; none before the first time.
    verified: Option<Arc<NodeConfigSpec>>,
    /// Why not, in the agent's words.
    pub(crate) trouble: Option<String>,
}

/// All agents of a lab.
#[derive(Debug)]
pub(crate) struct Agents {
    root: Arc<Store>,
    freezer: Arc<Freezer>,
    agents: BTreeMap<String, Arc<Agent>>,
}

#[derive(Debug)]
struct Agent {
    net: Arc<NodeNet>,
    /// Held while the kernel is being changed.
    hands: Mutex<Hands>,
    config: watch::Sender<Option<Arc<NodeConfigSpec>>>,
    progress: watch::Sender<Progress>,
}

struct Hands {
    kernel: LinuxKernel,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}

impl Agents {
    /// Opens every node's kernel.
    pub(crate) fn open(
        network: &Network,
        root: Arc<Store>,
        freezer: Arc<Freezer>,
    ) -> Result<(Arc<Self>, Monitors), Error> {
        let mut agents = BTreeMap::new();
        let mut monitors = Vec::new();
        for ((cluster, node), net) in &network.nodes {
            let doing = || format!("open the kernel of {cluster}/{node}");
            let (kernel, monitor) = network
                .opener
                .open(&net.netns, || (LinuxKernel::open(), Monitor::open()))?;
            let kernel = kernel.map_err(Error::failed(doing()))?;
            let name = objects::cluster_node_name(cluster, node);
            monitors.push((name.clone(), monitor.map_err(Error::failed(doing()))?));
            agents.insert(
                name,
                Arc::new(Agent {
                    net: net.clone(),
                    hands: Mutex::new(Hands { kernel }),
                    config: watch::Sender::new(None),
                    progress: watch::Sender::new(Progress::default()),
                }),
            );
        }
        let agents = Self {
            root,
            freezer,
            agents,
        };
        Ok((Arc::new(agents), monitors))
    }

    /// Runs all agents until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, monitors: Monitors) {
        let mut tasks = JoinSet::new();
        // Reading and changing tables is the kernel's work: more at once than cores gains nothing.
        let turns = Arc::new(Semaphore::new(2));
        let fleet = u32::try_from(self.agents.len()).unwrap_or(u32::MAX);
        for (name, monitor) in monitors {
            let Some(agent) = self.agents.get(&name).cloned() else {
                continue;
            };
            let (freezer, turns) = (self.freezer.clone(), turns.clone());
            tasks.spawn(async move {
                if let Err(error) = agent.run(monitor, &freezer, &turns, fleet).await {
                    warn!(name, error = %crate::error::chain(&error), "the agent cannot hear its kernel");
                }
            });
        }
        self.distribute().await;
    }

    /// Hands NodeConfigs to their agents.
    async fn distribute(&self) {
        let mut watch = self.root.watch(Resource::NODE_CONFIGS, 0);
        loop {
            let event = watch.next().await;
            let name = event.object["metadata"]["name"]
                .as_str()
                .unwrap_or_default();
            let config = match event.kind {
                EventKind::Added | EventKind::Modified => spec_of(&event.object),
                // A node without a NodeConfig holds nothing of the datapath.
                EventKind::Deleted => Some(NodeConfigSpec::default()),
                EventKind::Relist => {
                    watch = self.root.watch(Resource::NODE_CONFIGS, 0);
                    continue;
                }
            };
            if let (Some(agent), Some(config)) = (self.agents.get(name), config) {
                agent.config.send_if_modified(|held| {
                    let changed = held.as_deref() != Some(&config);
                    if changed {
                        *held = Some(Arc::new(config));
                    }
                    changed
                });
            }
        }
    }

    /// Returns once no agent of the places is in the middle of a change; the freezer is set before.
    pub(crate) fn wait_idle(&self) {
        for agent in self.agents.values() {
            drop(agent.hands.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits until every thawed node's kernel is what its NodeConfig in the API says.
    pub(crate) async fn wait_settled(&self, limit: Duration) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + limit;
        for (name, agent) in &self.agents {
            let mut progress = agent.progress.subscribe();
            loop {
                let (cluster, node) = (&agent.net.cluster, &agent.net.node.name);
                let wanted = self.root.get(Resource::NODE_CONFIGS, None, name);
                let wanted = wanted.as_deref().and_then(spec_of);
                let settled = {
                    let progress = progress.borrow_and_update();
                    match (&progress.verified, &wanted) {
                        (Some(verified), Some(wanted)) => **verified == *wanted,
                        _ => false,
                    }
                };
                if settled || self.freezer.node(cluster, node) {
                    break;
                }
                let waited = tokio::time::timeout_at(deadline, progress.changed()).await;
                if !matches!(waited, Ok(Ok(()))) {
                    let trouble = agent.progress.borrow().trouble.clone();
                    return Err(Error::Failed {
                        doing: format!("link node {cluster}/{node}"),
                        why: trouble.unwrap_or_else(|| format!("not done within {limit:?}")),
                    });
                }
            }
        }
        Ok(())
    }

    /// Has every thawed agent look again, and forget what it verified before.
    pub(crate) fn look_again(&self) {
        for agent in self.agents.values() {
            if !self.freezer.node(&agent.net.cluster, &agent.net.node.name) {
                agent
                    .progress
                    .send_modify(|progress| progress.verified = None);
                agent.config.send_modify(|_| ());
            }
        }
    }

    /// What keeps a node from being settled.
    pub(crate) fn trouble(&self, cluster: &str, node: &str) -> Option<String> {
        let agent = self
            .agents
            .get(&objects::cluster_node_name(cluster, node))?;
        agent.progress.borrow().trouble.clone()
    }
}

impl Agent {
    async fn run(
        self: Arc<Self>,
        mut monitor: Monitor,
        freezer: &Freezer,
        turns: &Semaphore,
        fleet: u32,
    ) -> std::io::Result<()> {
        let news = Readable::new(monitor.as_fd().try_clone_to_owned()?)?;
        let mut config = self.config.subscribe();
        let mut frozen = freezer.subscribe();
        let mut waiting = false;
        let mut round = ROUND;
        loop {
            let wanted = config.borrow_and_update().clone();
            frozen.borrow_and_update();
            if let Some(wanted) = wanted
                && !freezer.node(&self.net.cluster, &self.net.node.name)
            {
                // Closed only with the lab.
                let Ok(_turn) = turns.acquire().await else {
                    return Ok(());
                };
                let this = self.clone();
                let place = (self.net.cluster.clone(), self.net.node.name.clone());
                let still = freezer.subscribe();
                let started = Instant::now();
                let done = tokio::task::spawn_blocking(move || {
                    let mut hands = this.hands.lock().unwrap_or_else(PoisonError::into_inner);
                    // Frozen while it waited for its turn.
                    if still.borrow().node(&place.0, &place.1) {
                        return;
                    }
                    this.reconcile(&mut hands, wanted);
                })
                .await;
                if done.is_err() {
                    warn!(
                        cluster = self.net.cluster,
                        node = self.net.node.name,
                        "the agent failed"
                    );
                }
                round = ROUND.max(
                    started
                        .elapsed()
                        .saturating_mul(IDLENESS.saturating_mul(fleet)),
                );
                // Our own changes are no news.
                monitor.drain();
                waiting = true;
            }
            if waiting {
                tokio::time::sleep(PAUSE).await;
                waiting = false;
            }
            tokio::select! {
                changed = config.changed() => if changed.is_err() { return Ok(()) },
                changed = frozen.changed() => if changed.is_err() { return Ok(()) },
                taken = news.take() => {
                    taken?;
                    // What changed is for the next observation to say.
                    monitor.drain();
                }
                () = tokio::time::sleep(round) => {}
            }
        }
    }

    fn reconcile(&self, hands: &mut Hands, wanted: Arc<NodeConfigSpec>) {
        let place = format!("{}/{}", self.net.cluster, self.net.node.name);
        let progress = match reconcile(&mut hands.kernel, &wanted) {
            Ok(done) => {
                if !done.applied.is_empty() {
                    info!(place, changes = done.applied.changes.len(), "applied");
                }
                Progress {
                    trouble: trouble(&done),
                    verified: done.left.is_empty().then_some(wanted),
                }
            }
            Err(error) => Progress {
                verified: None,
                trouble: Some(crate::error::chain(&error)),
            },
        };
        self.progress.send_if_modified(|held| {
            let news = progress.trouble != held.trouble
                || match (&progress.verified, &held.verified) {
                    (Some(new), Some(old)) => !Arc::ptr_eq(new, old) && new != old,
                    (None, None) => false,
                    _ => true,
                };
            if news {
                if let Some(trouble) = &progress.trouble {
                    warn!(place, trouble, "not settled");
                }
                *held = progress;
            }
            news
        });
    }
}

fn trouble(done: &Reconciled) -> Option<String> {
    let problems = done
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.object, problem.rule));
    let left = (!done.left.is_empty()).then(|| format!("left undone: {}", done.left));
    let words: Vec<String> = problems.chain(left).collect();
    (!words.is_empty()).then(|| words.join("; "))
}
