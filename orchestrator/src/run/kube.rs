//! Does with real clusters what a run's machine wants done: every command is a task of its own, whose answer comes back as an input.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use floater::wire::{Expect, MAX_PORTS, Plan, Probe, Protocol, VERSION, hex, proof};
use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::{Context, Swept, random};
use crate::Error;
use crate::descriptors::Descriptors;
use crate::engine::messages::{Ask, Asked, Command, FloaterId, Input, ProbeOrder, TargetFacts};
use crate::engine::{self, Purpose};
use crate::fleet::agents::Agent;
use crate::fleet::look;
use crate::inventory::Target;

mod ask;
mod opened;
mod own;
mod sweeps;

use ask::Lacking;
use opened::Open;
pub(super) use sweeps::Sweeps;

/// Why something came to nothing that panicked.
const FAILED: &str = "asking it failed within this program";

/// The clusters of a run, over their APIs.
pub(super) struct Kube {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    looks: HashMap<usize, AbortHandle>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
}

/// What the tasks of a run share.
struct Shared {
    context: Context,
    purpose: Purpose,
    force: bool,
    targets: Mutex<Targets>,
    /// Those who can be asked for probes.
    agents: Mutex<HashMap<FloaterId, Agent>>,
    /// What sweeps did, by cluster.
    swept: Mutex<BTreeMap<usize, Swept>>,
    /// The name of each cluster and what would be made there.
    planned: Mutex<BTreeMap<usize, (String, Vec<Value>)>>,
}

#[derive(Default)]
struct Targets {
    all: Vec<Target>,
    /// Idle connections that each may keep.
    idle: usize,
    /// Those that have been looked at, until they have been asked.
    opened: HashMap<usize, Opened>,
}

impl Targets {
    /// How many servers they are behind; one of its own for each that does not say where it is.
    fn servers(&self) -> usize {
        let authorities: HashSet<_> = self.all.iter().filter_map(Target::authority).collect();
        let nameless = self
            .all
            .iter()
            .filter(|target| target.authority().is_none());
        authorities.len() + nameless.count()
    }
}

/// A cluster's look, done once for everybody who needs it.
type Opened = Arc<OnceCell<Result<Arc<Open>, String>>>;

impl Kube {
    pub(super) fn new(context: Context, purpose: Purpose, force: bool) -> Self {
        let (sender, inputs) = mpsc::unbounded_channel();
        Self {
            shared: Arc::new(Shared {
                context,
                purpose,
                force,
                targets: Mutex::default(),
                agents: Mutex::default(),
                swept: Mutex::default(),
                planned: Mutex::default(),
            }),
            tasks: JoinSet::new(),
            looks: HashMap::new(),
            inputs,
            sender,
        }
    }

    /// Takes the inventory: the first input of the machine.
    pub(super) fn targets(&mut self, targets: Vec<Target>, warnings: Vec<String>) -> Input {
        Input::Targets {
            targets: self.shared.add(targets),
            warnings,
        }
    }

    /// What has come; waits for it. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Input {
        while self.tasks.try_join_next().is_some() {}
        match self.inputs.recv().await {
            Some(input) => input,
            // There is always a sender: this struct's own.
            None => std::future::pending().await,
        }
    }

    /// What a run with [`Purpose::Plan`] would make, in the order of the inventory.
    pub(super) fn planned(&self) -> Vec<(String, Vec<Value>)> {
        let planned = std::mem::take(&mut *locked(&self.shared.planned));
        planned.into_values().collect()
    }

    /// What a run with [`Purpose::Sweep`] did, in the order of the inventory.
    pub(super) fn swept(&self) -> Swept {
        let mut all = Swept::default();
        for swept in std::mem::take(&mut *locked(&self.shared.swept)).into_values() {
            all.removed.extend(swept.removed);
            all.staying.extend(swept.staying);
        }
        all
    }

    /// Begins to do something; its answer comes from [`Self::next`].
    pub(super) fn execute(&mut self, command: Command) {
        let shared = Arc::clone(&self.shared);
        let failed = || FAILED.to_owned();
        match command {
            Command::Tell(progress) => shared.context.tell(*progress),
            Command::Abandon { cluster } => {
                if let Some(look) = self.looks.remove(&cluster) {
                    look.abort();
                }
            }
            Command::Look { cluster } => {
                let sender = self.sender.clone();
                let answered = move || {
                    // Nobody listens any more once the run has ended.
                    let _ = sender.send(Input::Answered { cluster });
                };
                let work = async move {
                    let opened = shared.opened(cluster, answered).await;
                    let result = opened.map(|open| open.seen.facts(open.standing.is_some()));
                    Input::Looked { cluster, result }
                };
                let result = Err(failed());
                let look = self.spawn(work, Input::Looked { cluster, result });
                self.looks.insert(cluster, look);
            }
            Command::ReadIntent { cluster } => {
                let work = async move { shared.intent(cluster).await };
                let fleet = datapath::api::Fleet::default();
                let warnings = vec![failed()];
                self.spawn(
                    work,
                    Input::Intent {
                        cluster,
                        fleet,
                        warnings,
                    },
                );
            }
            Command::Enlist {
                holder,
                root,
                reached,
            } => {
                let work = async move { shared.enlist(holder, root.as_deref(), &reached).await };
                self.spawn(
                    work,
                    Input::Enlisted {
                        targets: Vec::new(),
                        warnings: vec![failed()],
                    },
                );
            }
            Command::Identify { holder, members } => {
                let work = async move { shared.identify(holder, &members).await };
                let members = BTreeMap::new();
                self.spawn(work, Input::Identified { members });
            }
            Command::Ask(ask) => {
                let cluster = ask.cluster;
                let work = async move {
                    let asked = shared.ask(&ask).await;
                    Input::Asked { cluster, asked }
                };
                let asked = Err(failed());
                self.spawn(work, Input::Asked { cluster, asked });
            }
            Command::Probe(order) => {
                let (number, sender) = (order.order, self.sender.clone());
                let work = async move {
                    let health = shared.probe(*order, sender).await;
                    Input::Ended {
                        order: number,
                        health,
                    }
                };
                let health = Err(failed());
                let order = number;
                self.spawn(work, Input::Ended { order, health });
            }
        }
    }

    /// A task whose answer is `failed` where it panics.
    fn spawn(
        &mut self,
        work: impl Future<Output = Input> + Send + 'static,
        failed: Input,
    ) -> AbortHandle {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let done = AssertUnwindSafe(work).catch_unwind().await;
            let _ = sender.send(done.unwrap_or(failed));
        })
    }
}

impl Shared {
    /// Adds targets: what the machine has to know of them.
    fn add(&self, targets: Vec<Target>) -> Vec<TargetFacts> {
        let facts = targets.iter().map(Target::facts).collect();
        let mut known = locked(&self.targets);
        let before = known.servers();
        known.all.extend(targets);
        self.context.turns.serve(before, known.servers());
        let limit = self.context.limit;
        known.idle = Descriptors::idle(limit, known.all.len(), known.servers());
        facts
    }

    /// The look at a cluster, once.
    async fn opened(&self, cluster: usize, answered: impl FnOnce()) -> Result<Arc<Open>, String> {
        let (target, idle, cell) = {
            let mut targets = locked(&self.targets);
            let cell = Arc::clone(targets.opened.entry(cluster).or_default());
            (targets.all[cluster].clone(), targets.idle, cell)
        };
        let look = async {
            let open = opened::open(&self.context, &target, idle, answered).await;
            open.map(Arc::new)
        };
        cell.get_or_init(|| look).await.clone()
    }

    async fn intent(&self, cluster: usize) -> Input {
        let (fleet, warnings) = match self.opened(cluster, || {}).await {
            // Read of one cluster alone: the others' objects are claims that nobody needs.
            Ok(open) => look::intent(&open.api, &open.seen.members).await,
            Err(why) => (datapath::api::Fleet::default(), vec![why]),
        };
        Input::Intent {
            cluster,
            fleet,
            warnings,
        }
    }

    async fn enlist(&self, holder: usize, root: Option<&str>, reached: &BTreeSet<String>) -> Input {
        let target = locked(&self.targets).all[holder].clone();
        let (targets, warnings) = match self.opened(holder, || {}).await {
            Ok(open) => {
                let reach = target.reach_of_members().await;
                opened::members(&open.seen.members, root, reached, &reach)
            }
            Err(why) => (Vec::new(), vec![why]),
        };
        Input::Enlisted {
            targets: self.add(targets),
            warnings,
        }
    }

    async fn identify(&self, holder: usize, members: &[String]) -> Input {
        let wanted: BTreeSet<&str> = members.iter().map(String::as_str).collect();
        let open = self.opened(holder, || {}).await;
        let known = open.iter().flat_map(|open| &open.seen.members);
        let known = known.filter(|member| wanted.contains(member.name.as_str()));
        Input::Identified {
            members: known
                .filter_map(|member| {
                    let remote = opened::decoded(&member.name, &member.kubeconfig).ok()?;
                    Some((member.name.clone(), remote.identity()))
                })
                .collect(),
        }
    }

    /// Asks the floaters that stand ready, or deploys where none do.
    ///
    /// # Errors
    /// Why nothing can be asked of the whole cluster.
    async fn ask(&self, ask: &Ask) -> Result<Asked, String> {
        let context = &self.context;
        let open = self.opened(ask.cluster, || {}).await?;
        let api = open.api.renewed(opened::time(context));
        let refuse = |reason: &str| engine::refuse(&open.seen.facts(false), &ask.layers, reason);
        match self.purpose {
            // Who a cluster is has to be known for whatever purpose.
            _ if ask.standing_only => {}
            Purpose::Diagnose => context.sweeps.begin(context, &ask.name, &api),
            Purpose::Plan => {
                match own::manifests(context, &open, ask) {
                    Ok(objects) => {
                        let planned = (ask.name.clone(), objects);
                        locked(&self.planned).insert(ask.cluster, planned);
                    }
                    Err(reason) => context.warn(format!("{}: {reason}", ask.name)),
                }
                return Err("nothing is made".to_owned());
            }
            Purpose::Sweep => {
                let swept = sweeps::sweep_one(context, &ask.name, &api, self.force).await;
                locked(&self.swept).insert(ask.cluster, swept);
                return Err("it is swept".to_owned());
            }
        }
        let none = Lacking::default();
        let asked = async {
            let asked = match open.standing(&api, &context.options.namespace, &none) {
                Some(floaters) => Ok(floaters.ask(context, ask).await),
                None if ask.standing_only => Err("no floaters stand ready".to_owned()),
                None => own::own(context, &open, &api, ask).await,
            };
            match asked {
                Ok((asked, agents)) => {
                    // From here on it takes what its plans take. A client has a task of its own: one for all of them.
                    let api = open.api.renewed(context.left());
                    let agents = agents.into_iter();
                    let agents = agents.map(|(id, agent)| (id, agent.through(&api)));
                    locked(&self.agents).extend(agents);
                    asked
                }
                Err(reason) => refuse(&reason),
            }
        };
        let pod_ips = async {
            // A packet is only sent to an address where somebody is known to answer.
            match ask.pod_ips {
                true => look::pod_ips(&api, &open.seen).await,
                false => Default::default(),
            }
        };
        // Every step has its limit; this one is the cluster's, so that no number of steps takes longer.
        let done = async { tokio::join!(asked, pod_ips) };
        let late = |_| "the cluster took longer than it may (--cluster-timeout)".to_owned();
        let done = tokio::time::timeout(api.left(), done).await;
        let (mut asked, pod_ips) = done.map_err(late)?;
        asked.pod_ips = pod_ips;
        if !ask.standing_only {
            // What its floaters need they have; the rest of a look is large.
            locked(&self.targets).opened.remove(&ask.cluster);
        }
        Ok(asked)
    }

    /// Who can be asked at a place; looked for again where a resumed run knows it from before.
    async fn agent(&self, floater: &FloaterId) -> Result<Agent, String> {
        if let Some(agent) = locked(&self.agents).get(floater) {
            return Ok(agent.clone());
        }
        let open = self.opened(floater.cluster, || {}).await?;
        let none = Lacking::default();
        let api = open.api.renewed(self.context.left());
        if let Some(floaters) = open.standing(&api, &self.context.options.namespace, &none) {
            let found = floaters.agents(&self.context, &self.context.layers());
            let mut agents = locked(&self.agents);
            for (node, layer, agent) in found {
                if let Ok(agent) = agent {
                    let cluster = floater.cluster;
                    agents.insert(
                        FloaterId {
                            cluster,
                            node,
                            layer,
                        },
                        agent,
                    );
                }
            }
        }
        let agents = locked(&self.agents);
        let agent = agents.get(floater).cloned();
        agent.ok_or_else(|| "its floater is not there any more".to_owned())
    }

    async fn probe(
        &self,
        order: ProbeOrder,
        sender: mpsc::UnboundedSender<Input>,
    ) -> Result<floater::wire::Health, String> {
        let agent = self.agent(&order.sender).await?;
        let mut probes = Vec::with_capacity(order.probes.len());
        for probe in order.probes {
            let expect = match &probe.responder {
                Some((floater, at)) => match self.agent(floater).await {
                    Ok(agent) => Some(expect(&agent, *at)?),
                    // Without a floater to prove it anybody may answer, which is no answer.
                    Err(_) => continue,
                },
                None => None,
            };
            probes.push(Probe {
                id: probe.id,
                dst: probe.dst,
                protocol: probe.protocol,
                port: probe.port,
                count: probe.count,
                payload_bytes: probe.payload_bytes,
                timeout_ms: None,
                expect,
            });
        }
        let plan = Plan {
            version: VERSION,
            run: self.context.run.clone(),
            budget_pps: order.budget_pps,
            timeout_ms: order.timeout_ms,
            ports: ports(&probes),
            probes,
        };
        let order = order.order;
        let heard = |outcomes| {
            let _ = sender.send(Input::Heard { order, outcomes });
        };
        agent.probe(&plan, self.context.deadline, heard).await
    }
}

/// What a floater that takes a connection at `at` has to prove.
fn expect(agent: &Agent, at: SocketAddr) -> Result<Expect, String> {
    let mut nonce = [0; 16];
    random(&mut nonce).map_err(|error: Error| error.to_string())?;
    let nonce = hex(&nonce);
    let audience = agent.audience();
    Ok(Expect {
        proof: proof(
            agent.run_key(),
            &nonce,
            &audience.cluster,
            &audience.node,
            at,
        ),
        nonce,
    })
}

/// The ports that a plan goes to, each the run's own: a floater goes to no other.
fn ports(probes: &[Probe]) -> Vec<u16> {
    let ports: BTreeSet<u16> = probes
        .iter()
        .filter(|probe| probe.protocol == Protocol::Tcp)
        .map(|probe| probe.port)
        .collect();
    ports.into_iter().take(MAX_PORTS).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
