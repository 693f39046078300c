//! The agents of all nodes: `datapath`'s own engine on the kernel of each, fed with its NodeConfig, and stopped where the lab is
//! frozen.
//!
//! ```text
//!   NodeConfigs ──distribute──► what each agent knows ──┐
//!   Listener, one for all kernels ──────────────────────┼─► Keeper ─► look ─► progress, for whoever waits
//!   clock ──────────────────────────────────────────────┘     ▲
//!   Freezer ── while frozen nothing is read; afterwards the newest config, and that the kernel may have changed
//! ```

mod config;
mod engine;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datapath::agent::{self, Keeper, Settled, Timing};
use datapath::kernel::Listener;
use datapath::nodeconfig::TUNNELS;
use datapath::plan::Planner;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::Error;
use crate::apiserver::{EventKind, Resource, Store, Watch, is_stub};
use crate::freeze::{Freezer, Frozen};
use crate::network::{ETH0, Network, NodeNet};
use crate::objects;
use crate::readable::Readable;
use crate::reconciler::{Configs, spec_of};
use config::{Common, Config};
use engine::Engine;

type Event = agent::Event<Config>;

/// How often an agent looks although nothing was reported: drift that the kernel reports to nobody is repaired within a second.
const ROUND: Duration = Duration::from_millis(900);
/// In large fleets the rounds of all agents together take a tenth of a core: what each adds to the round of every other one, ten
/// times what reading its tables takes.
const ROUND_PER_AGENT: Duration = Duration::from_millis(60);
/// The least time between two looks at one node, whatever the kernel reports.
const PAUSE: Duration = Duration::from_millis(50);
/// One thread makes rows in the kernel while the other one writes requests; the kernel makes them one at a time.
const FILLERS: usize = 2;
/// Whoever deletes a NodeConfig in a lab watches what becomes of it.
const GRACE: Duration = Duration::from_secs(5);

/// How far an agent is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The config that the kernel was last found to hold; none before the first time.
    verified: Option<Config>,
    /// Why not, as the agent logged it.
    pub(crate) trouble: Option<String>,
}

/// All agents of a lab.
#[derive(Debug)]
pub(crate) struct Agents {
    root: Arc<Store>,
    configs: Arc<Configs>,
    freezer: Arc<Freezer>,
    common: Arc<Common>,
    agents: BTreeMap<String, Arc<Agent>>,
}

#[derive(Debug)]
struct Agent {
    network: Arc<Network>,
    net: Arc<NodeNet>,
    common: Arc<Common>,
    /// Somebody changed something in its kernel.
    heard: Notify,
    /// Held while the kernel is being changed.
    engine: Mutex<Engine>,
    /// What is known of its NodeConfig; none before the first news.
    news: watch::Sender<Option<Event>>,
    progress: watch::Sender<Progress>,
}

impl Agents {
    /// One for each node.
    pub(crate) fn new(
        network: &Arc<Network>,
        root: Arc<Store>,
        configs: Arc<Configs>,
        freezer: Arc<Freezer>,
    ) -> Result<Arc<Self>, Error> {
        let mut agents = BTreeMap::new();
        let timing = timing(network.nodes.len());
        let common = Arc::new(Common::new()?);
        for ((cluster, node), net) in &network.nodes {
            agents.insert(
                objects::cluster_node_name(cluster, node),
                Arc::new(Agent {
                    network: network.clone(),
                    net: net.clone(),
                    common: common.clone(),
                    heard: Notify::new(),
                    engine: Mutex::new(Engine::new(Keeper::new(timing))),
                    news: watch::Sender::new(None),
                    progress: watch::Sender::new(Progress::default()),
                }),
            );
        }
        Ok(Arc::new(Self {
            root,
            configs,
            freezer,
            common,
            agents,
        }))
    }

    /// Makes the planned rows of all nodes, which are bare; `one` is called for each. Agents that run would each be told of every row.
    pub(crate) fn fill(&self, one: impl Fn() + Sync) {
        let Some(planner) = self.configs.planner() else {
            return;
        };
        let nodes: Vec<_> = self.agents.iter().collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..FILLERS {
                scope.spawn(|| {
                    while let Some((name, agent)) = nodes.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if let Err(error) = agent.fill(&planner, name) {
                            // Its agent will find out what is missing.
                            info!(%error, name, "not filled");
                        }
                        one();
                    }
                });
            }
        });
        self.common.slim();
    }

    /// Runs all agents until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        let this = self.clone();
        match tokio::task::spawn_blocking(move || this.listen()).await {
            Ok(Ok((listener, numbers))) => {
                let agents = self.agents.clone();
                tasks.spawn(async move {
                    if let Err(error) = hear(listener, &numbers, &agents).await {
                        warn!(error = %crate::error::chain(&error), "notices of kernels cannot be read");
                    }
                });
            }
            Ok(Err(error)) => warn!(%error, "agents look at their kernels from time to time only"),
            Err(error) => warn!(%error, "agents look at their kernels from time to time only"),
        }
        // Reading and changing tables is the kernel's work: more at once than cores gains nothing.
        let turns = Arc::new(Semaphore::new(2));
        for agent in self.agents.values() {
            let (agent, freezer, turns) = (agent.clone(), self.freezer.clone(), turns.clone());
            tasks.spawn(async move { agent.run(&freezer, &turns).await });
        }
        self.distribute().await;
    }

    /// Listens to all kernels at once; with the number that each agent's kernel has in what is heard.
    fn listen(&self) -> Result<(Listener, BTreeMap<u32, String>), Error> {
        let doing = || "listen to the kernels of all nodes";
        let network = self.agents.values().next().map(|agent| &agent.network);
        let Some(network) = network else {
            return Err(Error::Failed {
                doing: doing().to_owned(),
                why: "there are none".to_owned(),
            });
        };
        let listener = network.opener.open(&network.underlay, Listener::open)?;
        let mut listener = listener.map_err(Error::failed(doing()))?;
        let mut numbers = BTreeMap::new();
        for (name, agent) in &self.agents {
            let made = agent.engine().tunnels.clone();
            let tunnels = TUNNELS.map(|tunnel| (tunnel.to_owned(), made.get(tunnel).copied()));
            let underlay = ("eth0".to_owned(), Some(ETH0));
            let links = tunnels.into_iter().chain([underlay]);
            let number = listener
                .attend(agent.net.netns.as_fd(), links)
                .map_err(Error::failed(doing()))?;
            numbers.insert(number, name.clone());
        }
        Ok((listener, numbers))
    }

    /// Gives each agent the news of its NodeConfig.
    async fn distribute(&self) {
        let mut watch = self.relist();
        loop {
            let event = watch.next().await;
            let name = name_of(&event.object);
            match event.kind {
                EventKind::Added | EventKind::Modified => {
                    self.notify(name, self.wanted(&event.object))
                }
                EventKind::Deleted => self.notify(name, Event::Withdrawn),
                EventKind::Relist => watch = self.relist(),
            }
        }
    }

    /// Gives all agents what there is now, and watches for what comes next.
    fn relist(&self) -> Watch {
        let (objects, version) = self.root.list(Resource::NODE_CONFIGS, None);
        for object in &objects {
            self.notify(name_of(object), self.wanted(object));
        }
        for name in gone(self.agents.keys(), &objects) {
            self.notify(name, Event::Withdrawn);
        }
        self.root.watch(Resource::NODE_CONFIGS, version)
    }

    /// What a NodeConfig says to its agent.
    fn wanted(&self, object: &Value) -> Event {
        if is_stub(object)
            && let Some(planned) = self.planned(name_of(object))
        {
            return Event::Wanted(planned);
        }
        match agent::Event::of_spec(object.get("spec")) {
            agent::Event::Wanted(spec) => Event::Wanted(Config::Written(Arc::new(spec))),
            agent::Event::Unreadable(rule) => Event::Unreadable(rule),
            agent::Event::KernelChanged => Event::KernelChanged,
            agent::Event::Withdrawn => Event::Withdrawn,
        }
    }

    /// What a NodeConfig says that is made of the plan.
    fn planned(&self, name: &str) -> Option<Config> {
        let planner = self.configs.planner()?;
        Some(Config::Planned {
            planner,
            node: name.into(),
        })
    }

    /// What the NodeConfig of a node says now; none where there is none, or it cannot be read.
    fn current(&self, name: &str) -> Option<Config> {
        if self.root.is_stub(Resource::NODE_CONFIGS, None, name) {
            return self.planned(name);
        }
        let object = self.root.get(Resource::NODE_CONFIGS, None, name)?;
        spec_of(&object).map(|spec| Config::Written(Arc::new(spec)))
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
                let wanted = self.current(name);
                let settled = {
                    let progress = progress.borrow_and_update();
                    match (&progress.verified, &wanted) {
                        // Nothing is wanted any more, and what was goes after the grace.
                        (_, None) => true,
                        (Some(verified), Some(wanted)) => verified == wanted,
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

/// Tells agents what is heard of their kernels, by the numbers of these.
async fn hear(
    mut listener: Listener,
    numbers: &BTreeMap<u32, String>,
    agents: &BTreeMap<String, Arc<Agent>>,
) -> std::io::Result<()> {
    let readable = Readable::new(listener.as_fd().try_clone_to_owned()?)?;
    loop {
        readable.take().await?;
        let heard = listener.drain();
        for (number, name) in numbers {
            if (heard.is_lossy || heard.changed.contains(number))
                && let Some(agent) = agents.get(name)
            {
                agent.heard.notify_one();
            }
        }
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

/// The agents whose NodeConfig is not in a list of all: its deletion may be what nobody reported.
fn gone<'a>(
    agents: impl Iterator<Item = &'a String>,
    objects: &[Arc<Value>],
) -> impl Iterator<Item = &'a str> {
    let there: BTreeSet<&str> = objects.iter().map(|object| name_of(object)).collect();
    let gone: Vec<&str> = agents
        .map(String::as_str)
        .filter(|name| !there.contains(name))
        .collect();
    gone.into_iter()
}

impl Agent {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the rows of a plan on the node, which is bare.
    fn fill(&self, planner: &Arc<Planner>, name: &str) -> Result<(), datapath::error::Error> {
        let mut kernel = engine::open(&self.network, &self.net)?;
        self.engine().fill(&mut kernel, &self.common, planner, name)
    }

    async fn run(self: Arc<Self>, freezer: &Freezer, turns: &Semaphore) {
        let start = Instant::now();
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
                    return;
                }
                continue;
            }
            if std::mem::take(&mut was_frozen) {
                // No notice was read meanwhile.
                let now = start.elapsed();
                self.engine().keeper.event(Event::KernelChanged, now);
            }
            let Ok(has_news) = news.has_changed() else {
                return;
            };
            if has_news && let Some(event) = news.borrow_and_update().clone() {
                self.engine().keeper.event(event, start.elapsed());
            }
            if self.engine().keeper.is_due(start.elapsed()) {
                // Closed only with the lab.
                let Ok(_turn) = turns.acquire().await else {
                    return;
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
            }
            let deadline = self.engine().keeper.deadline();
            let wait = async {
                match deadline {
                    Some(at) => tokio::time::sleep(at.saturating_sub(start.elapsed())).await,
                    None => std::future::pending().await,
                }
            };
            // All of these may be dropped and begun anew: news stay in their channel, and what was heard is remembered.
            tokio::select! {
                changed = frozen.changed() => if changed.is_err() { return },
                changed = news.changed() => {
                    if changed.is_err() { return }
                    news.mark_changed();
                }
                () = self.heard.notified() => {
                    let now = start.elapsed();
                    self.engine().keeper.event(Event::KernelChanged, now);
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
        let settled = match engine::open(&self.network, &self.net) {
            Ok(mut kernel) => engine.look(&mut kernel, &self.common),
            Err(error) => Settled {
                is_true: false,
                problems: vec![crate::error::chain(&error)],
            },
        };
        engine.keeper.settled(settled.is_true, start.elapsed());
        let verified = engine.keeper.adopted().filter(|_| settled.is_true);
        let trouble = (!settled.problems.is_empty()).then(|| settled.problems.join("; "));
        self.progress.send_if_modified(|held| {
            let is_new = trouble != held.trouble || verified != held.verified.as_ref();
            if is_new {
                *held = Progress {
                    verified: verified.cloned(),
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
    fn a_list_says_also_what_is_gone() {
        let agents = ["c1-n1", "c1-n2", "c2-n1"].map(str::to_owned);
        let config = |name: &str| Arc::new(json!({"metadata": {"name": name}}));
        let objects = [config("c1-n1"), config("c2-n1"), config("c3-n1")];
        let gone: Vec<&str> = gone(agents.iter(), &objects).collect();
        assert_eq!(gone, ["c1-n2"]);
    }

    #[test]
    fn the_rounds_of_a_large_fleet_are_longer() {
        assert_eq!(timing(4).resync, ROUND);
        assert_eq!(timing(600).resync, Duration::from_secs(36));
    }
}
