//! The agents of all nodes: `datapath`'s own engine on the kernel of each, fed with its NodeConfig, and stopped where the lab is
//! frozen.
//!
//! ```text
//!   NodeConfigs ──distribute──► what each agent knows ──┐
//!   Monitor ────────────────────────────────────────────┼─► Keeper ─► settle ─► progress, for whoever waits
//!   clock ──────────────────────────────────────────────┘     ▲
//!   Freezer ── while frozen nothing is read; afterwards the newest config, and that the kernel may have changed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datapath::agent::{Event, Keeper, Timing, settle};
use datapath::api::NodeConfigSpec;
use datapath::kernel::{LinuxKernel, Monitor};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::Error;
use crate::apiserver::{EventKind, Resource, Store, Watch};
use crate::freeze::{Freezer, Frozen};
use crate::network::{Network, NodeNet};
use crate::objects;
use crate::readable::Readable;
use crate::reconciler::spec_of;

/// How often an agent looks although nothing was reported: drift that the kernel reports to nobody is repaired within a second.
const ROUND: Duration = Duration::from_millis(900);
/// In large fleets the rounds of all agents together take a tenth of a core: what each adds to the round of every other one, ten
/// times what reading its tables takes.
const ROUND_PER_AGENT: Duration = Duration::from_millis(60);
/// The least time between two looks at one node, whatever the kernel reports.
const PAUSE: Duration = Duration::from_millis(50);
/// Whoever deletes a NodeConfig in a lab watches what becomes of it.
const GRACE: Duration = Duration::from_secs(5);

/// What reports changes in its kernel to each agent, by its ClusterNode's name.
pub(crate) type Monitors = Vec<(String, Monitor)>;

/// How far an agent is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The config that the kernel was last found to hold; none before the first time.
    verified: Option<Arc<NodeConfigSpec>>,
    /// Why not, as the agent logged it.
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
    engine: Mutex<Engine>,
    /// What is known of its NodeConfig; none before the first news.
    news: watch::Sender<Option<Event>>,
    progress: watch::Sender<Progress>,
}

struct Engine {
    kernel: LinuxKernel,
    keeper: Keeper,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
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
        let timing = timing(network.nodes.len());
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
                    engine: Mutex::new(Engine {
                        kernel,
                        keeper: Keeper::new(timing),
                    }),
                    news: watch::Sender::new(None),
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
        for (name, monitor) in monitors {
            let Some(agent) = self.agents.get(&name).cloned() else {
                continue;
            };
            let (freezer, turns) = (self.freezer.clone(), turns.clone());
            tasks.spawn(async move {
                if let Err(error) = agent.run(monitor, &freezer, &turns).await {
                    warn!(name, error = %crate::error::chain(&error), "the agent cannot read notices of its kernel");
                }
            });
        }
        self.distribute().await;
    }

    /// Gives each agent the news of its NodeConfig.
    async fn distribute(&self) {
        let mut watch = self.relist();
        loop {
            let event = watch.next().await;
            let name = name_of(&event.object);
            match event.kind {
                EventKind::Added | EventKind::Modified => self.notify(name, wanted(&event.object)),
                EventKind::Deleted => self.notify(name, Event::Withdrawn),
                EventKind::Relist => watch = self.relist(),
            }
        }
    }

    /// Gives all agents what there is now, and watches for what comes next.
    fn relist(&self) -> Watch {
        let (objects, version) = self.root.list(Resource::NODE_CONFIGS, None);
        for (name, event) in news(self.agents.keys(), &objects) {
            self.notify(&name, event);
        }
        self.root.watch(Resource::NODE_CONFIGS, version)
    }

    fn notify(&self, name: &str, event: Event) {
        if let Some(agent) = self.agents.get(name) {
            agent.news.send_if_modified(|held| {
                let is_new = held.as_ref() != Some(&event);
                if is_new {
                    *held = Some(event);
                }
                is_new
            });
        }
    }

    /// Returns once no agent of the places is in the middle of a change; the freezer is set before.
    pub(crate) fn wait_idle(&self) {
        for agent in self.agents.values() {
            drop(agent.engine());
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.agents.len()
    }

    /// Waits until every thawed node's kernel is what its NodeConfig in the API says.
    pub(crate) async fn wait_settled(&self, limit: Duration) -> Result<(), Error> {
        self.wait_each(limit, || ()).await
    }

    /// As [`Self::wait_settled`]; `one` is called for each node.
    pub(crate) async fn wait_each(&self, limit: Duration, one: impl Fn()) -> Result<(), Error> {
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
                        // Nothing is wanted any more, and what was goes after the grace.
                        (_, None) => true,
                        (Some(verified), Some(wanted)) => **verified == *wanted,
                        (None, Some(_)) => false,
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
            one();
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
                agent.news.send_modify(|_| ());
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

/// When the agents of a fleet of so many look at their nodes.
fn timing(agents: usize) -> Timing {
    let agents = u32::try_from(agents).unwrap_or(u32::MAX);
    Timing {
        settle: PAUSE,
        resync: ROUND.max(ROUND_PER_AGENT.saturating_mul(agents)),
        grace: GRACE,
        ..Timing::default()
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// What a NodeConfig says to its agent.
fn wanted(object: &Value) -> Event {
    Event::of_spec(object.get("spec"))
}

/// What a list of all NodeConfigs says to the agents: also to those whose NodeConfig is not in it, since its deletion may be what
/// nobody reported.
fn news<'a>(
    agents: impl Iterator<Item = &'a String>,
    objects: &[Arc<Value>],
) -> Vec<(String, Event)> {
    let there: BTreeSet<&str> = objects.iter().map(|object| name_of(object)).collect();
    let gone = agents.filter(|name| !there.contains(name.as_str()));
    let gone = gone.map(|name| (name.clone(), Event::Withdrawn));
    let listed = objects.iter();
    listed
        .map(|object| (name_of(object).to_owned(), wanted(object)))
        .chain(gone)
        .collect()
}

impl Agent {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        self: Arc<Self>,
        mut monitor: Monitor,
        freezer: &Freezer,
        turns: &Semaphore,
    ) -> std::io::Result<()> {
        let start = Instant::now();
        let changes = Readable::new(monitor.as_fd().try_clone_to_owned()?)?;
        let mut news = self.news.subscribe();
        news.mark_changed();
        let mut frozen = freezer.subscribe();
        let mut was_frozen = false;
        loop {
            if frozen
                .borrow_and_update()
                .node(&self.net.cluster, &self.net.node.name)
            {
                was_frozen = true;
                if frozen.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            if std::mem::take(&mut was_frozen) {
                // No notice was read meanwhile.
                monitor.drain();
                let now = start.elapsed();
                self.engine().keeper.event(Event::KernelChanged, now);
            }
            let Ok(has_news) = news.has_changed() else {
                return Ok(());
            };
            if has_news && let Some(event) = news.borrow_and_update().clone() {
                self.engine().keeper.event(event, start.elapsed());
            }
            if self.engine().keeper.is_due(start.elapsed()) {
                // Closed only with the lab.
                let Ok(_turn) = turns.acquire().await else {
                    return Ok(());
                };
                let (this, still) = (self.clone(), freezer.subscribe());
                let turn = tokio::task::spawn_blocking(move || this.turn(&still, start));
                if turn.await.is_err() {
                    warn!(
                        cluster = self.net.cluster,
                        node = self.net.node.name,
                        "the agent failed"
                    );
                    self.engine().keeper.settled(false, start.elapsed());
                }
                // The kernel reports the agent's own changes, too.
                monitor.drain();
            }
            let deadline = self.engine().keeper.deadline();
            let wait = async {
                match deadline {
                    Some(at) => tokio::time::sleep(at.saturating_sub(start.elapsed())).await,
                    None => std::future::pending().await,
                }
            };
            // All of these may be dropped and begun anew: news stay in their channel, changes in the monitor's socket.
            tokio::select! {
                changed = frozen.changed() => if changed.is_err() { return Ok(()) },
                changed = news.changed() => {
                    if changed.is_err() { return Ok(()) }
                    news.mark_changed();
                }
                taken = changes.take() => {
                    taken?;
                    if monitor.drain() {
                        self.engine().keeper.event(Event::KernelChanged, start.elapsed());
                    }
                }
                () = wait => {}
            }
        }
    }

    /// One look at the kernel, unless the agent was frozen while it waited for its turn.
    fn turn(&self, freezer: &watch::Receiver<Frozen>, start: Instant) {
        let mut engine = self.engine();
        if freezer
            .borrow()
            .node(&self.net.cluster, &self.net.node.name)
        {
            return;
        }
        let Engine { kernel, keeper } = &mut *engine;
        let settled = settle(kernel, keeper);
        keeper.settled(settled.is_true, start.elapsed());
        let verified = keeper.adopted().filter(|_| settled.is_true);
        let trouble = (!settled.problems.is_empty()).then(|| settled.problems.join("; "));
        self.progress.send_if_modified(|held| {
            let is_new = trouble != held.trouble || verified != held.verified.as_deref();
            if is_new {
                *held = Progress {
                    verified: verified.cloned().map(Arc::new),
                    trouble,
                };
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_says_also_what_is_gone_and_what_cannot_be_read() {
        let agents = ["c1-n1", "c1-n2", "c2-n1"].map(str::to_owned);
        let config =
            |name: &str, spec: Value| Arc::new(json!({"metadata": {"name": name}, "spec": spec}));
        let objects = [
            config(
                "c1-n1",
                json!({"routes": [{"cidr": "10.2.0.0/16", "gw": "220.0.0.1", "dev": "vx-bridge"}]}),
            ),
            config("c2-n1", json!({"routes": 7})),
        ];
        let news: BTreeMap<String, Event> = news(agents.iter(), &objects).into_iter().collect();
        assert!(matches!(&news["c1-n1"], Event::Wanted(spec) if spec.routes.len() == 1));
        assert_eq!(news["c1-n2"], Event::Withdrawn);
        assert!(matches!(&news["c2-n1"], Event::Unreadable(rule) if rule.contains('7')));
    }

    #[test]
    fn the_rounds_of_a_large_fleet_are_longer() {
        assert_eq!(timing(4).resync, ROUND);
        assert_eq!(timing(600).resync, Duration::from_secs(36));
    }
}
