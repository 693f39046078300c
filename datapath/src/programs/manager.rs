//! The manager: NodeConfigs, and what the objects of a fleet say about themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _, select_all};
use kube::Client;
use kube::api::{Api, Preconditions};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::controller::{word, write_status};
use super::leader::Contest;
use super::metrics::{self, Metrics};
use super::objects::{Change, Pen, Wrote, changes};
use super::told::{Word, tell};
use super::{Clock, Common, MANAGER_LEASE, Managing};
use crate::api::{GROUP, VERSION};
use crate::control::conditions::{self, Board, Condition, Outcome, Show};
use crate::control::configs::{Command, Writer, patch};
use crate::control::inventory::{Inventory, Kind};
use crate::control::leaving::{Deed, Leaving, REMOVED};
use crate::moment;
use crate::plan::Planner;
use crate::watching::kosmos;

/// The most writes on their way.
const AT_ONCE: usize = 16;
/// The longest that news may go on coming in before a plan is made of them.
const GATHERING: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Watching {
    Config,
    Object(Kind),
}

/// What came of a write.
enum Done {
    Config(Command, Wrote),
    Left(Deed, Wrote),
    Shown(Show, Wrote),
}

struct Manager {
    inventory: Inventory,
    writer: Writer,
    board: Board,
    leaving: Leaving,
    managing: Managing,
    /// The kinds that are known completely.
    listed: BTreeSet<Watching>,
    /// What is said of the objects may be otherwise by now.
    is_stale: bool,
    metrics: Arc<Metrics>,
}

/// How the manager writes.
struct Pens {
    client: Client,
    configs: Pen,
    clusters: Pen,
    nodes: Pen,
}

/// Manages until it is stopped.
pub(crate) async fn manager(client: Client, managing: Managing, mut common: Common) {
    let clock = Clock::start();
    let (contest, mut leading) = Contest::begin(client.clone(), MANAGER_LEASE, &common);
    let kinds = [
        (
            Watching::Object(Kind::Cluster),
            "Cluster",
            kosmos("Cluster", "clusters"),
        ),
        (
            Watching::Object(Kind::ClusterNode),
            "ClusterNode",
            kosmos("ClusterNode", "clusternodes"),
        ),
        (
            Watching::Config,
            "NodeConfig",
            kosmos("NodeConfig", "nodeconfigs"),
        ),
    ];
    let pen = |at: usize| {
        Pen::new(
            &client,
            kinds[at].1,
            &kinds[at].2,
            &common.metrics,
            &leading,
        )
    };
    let pens = Pens {
        client: client.clone(),
        clusters: pen(0),
        nodes: pen(1),
        configs: pen(2),
    };
    let mut events = select_all(kinds.iter().map(|(key, word, resource)| {
        let api = Api::all_with(client.clone(), resource);
        changes(
            *key,
            word,
            api,
            watcher::Config::default(),
            common.metrics.clone(),
            Some(leading.clone()),
        )
    }));
    let mut awaited = common.readiness.awaits();
    let mut manager = Manager {
        inventory: Inventory::default(),
        writer: Writer::new(managing.mode, managing.limit),
        board: Board::default(),
        leaving: Leaving::default(),
        managing,
        listed: BTreeSet::new(),
        is_stale: true,
        metrics: common.metrics.clone(),
    };
    let mut writes: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    loop {
        let is_known = manager.listed.len() == 3;
        if is_known && awaited.done() {
            info!(
                clusters = manager.inventory.clusters().len(),
                nodes = manager.inventory.nodes().len(),
                "everything is listed"
            );
        }
        let leads = is_known && leading.is_now();
        if leads {
            // A large plan takes longer than whoever renews the Lease may wait for this thread.
            tokio::task::block_in_place(|| manager.plan(clock.now()));
            while writes.len() < AT_ONCE
                && let Some(deed) = manager.next(&pens, clock.now())
            {
                writes.push(deed);
            }
        }
        let deadline = manager
            .writer
            .deadline()
            .into_iter()
            .chain(manager.board.deadline())
            .chain(manager.leaving.deadline())
            .min();
        tokio::select! {
            biased;
            () = common.stopped() => break,
            Some(done) = writes.next() => manager.done(&pens, done, clock.now()),
            () = leading.turned() => {
                if leading.is_now() {
                    info!(objects = manager.inventory.nodes().len(), "planning and writing");
                }
            }
            Some((key, change)) = events.next() => {
                manager.take(key, change);
                // What comes with it is one plan's business, as far as nobody has to wait for that.
                let until = Instant::now() + GATHERING;
                while Instant::now() < until && let Some(Some((key, change))) = events.next().now_or_never() {
                    manager.take(key, change);
                }
            }
            () = clock.at(deadline), if leads && writes.len() < AT_ONCE => {}
        }
    }
    drop(writes);
    contest.end().await;
}

impl Manager {
    fn take(&mut self, key: Watching, change: Change) {
        match (key, change) {
            (Watching::Object(kind), Change::Set(name, object)) => {
                self.is_stale |= self.inventory.set(kind, &name, &object).is_any();
                self.board.seen(kind, &name, &object);
                self.leaving(kind, &name, Some(&object));
            }
            (Watching::Object(kind), Change::Gone(name)) => {
                self.is_stale |= self.inventory.remove(kind, &name).is_any();
                self.board.gone(kind, &name);
                self.leaving(kind, &name, None);
            }
            (Watching::Object(kind), Change::Listed(names)) => {
                let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                let missing = match kind {
                    Kind::Cluster => self.inventory.clusters().missing_in(&names),
                    Kind::ClusterNode => self.inventory.nodes().missing_in(&names),
                };
                for name in missing {
                    self.is_stale |= self.inventory.remove(kind, &name).is_any();
                    self.board.gone(kind, &name);
                    self.leaving(kind, &name, None);
                }
                self.listed.insert(key);
            }
            (Watching::Config, Change::Set(name, object)) => {
                // What only its agent says of it is nothing to plan by.
                if !self.leaving.config(&name, Some(&object)) {
                    return;
                }
                // One that cannot be read lends what it lent before: its tunnels have not changed.
                if let Some(spec) = self.writer.held(&name, &object) {
                    self.inventory.lend(&name, Some(&spec));
                }
            }
            (Watching::Config, Change::Gone(name)) => self.no_config(&name),
            (Watching::Config, Change::Listed(names)) => {
                let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                for name in self.writer.missing_in(&names) {
                    self.no_config(&name);
                }
                self.listed.insert(key);
            }
        }
    }

    fn leaving(&mut self, kind: Kind, name: &str, object: Option<&Value>) {
        match kind {
            Kind::Cluster => self.leaving.cluster(name, object),
            Kind::ClusterNode => self.leaving.node(name, object),
        }
    }

    fn no_config(&mut self, name: &str) {
        self.leaving.config(name, None);
        self.writer.gone(name);
        self.inventory.lend(name, None);
    }

    /// Brings the plan and what is said about it up to what is known.
    fn plan(&mut self, now: Duration) {
        if !self.inventory.is_planned() {
            let began = Instant::now();
            let touched = self.inventory.plan();
            self.writer.touch(&touched, self.inventory.planner());
            self.metrics.count(&metrics::PLANS, &[]);
            self.metrics
                .set(&metrics::PLAN_SECONDS, &[], began.elapsed().as_secs_f64());
            self.is_stale = true;
        }
        for (name, order) in self.leaving.step(now) {
            self.writer.order(&name, order);
            self.is_stale = true;
        }
        if std::mem::take(&mut self.is_stale) {
            self.say();
        }
    }

    fn say(&mut self) {
        let mut wanted = conditions::wanted(&self.inventory, &self.writer, self.managing.mode);
        let leaving: BTreeMap<&str, Condition> = self.leaving.conditions().collect();
        for (id, wanted) in wanted
            .iter_mut()
            .filter(|((kind, _), _)| *kind == Kind::Cluster)
        {
            let takes_part = || {
                self.inventory
                    .clusters()
                    .get(&id.1)
                    .is_some_and(|one| one.part().is_some())
            };
            let is_back = || self.board.shows(id, REMOVED) && takes_part();
            let own = leaving.get(id.1.as_str()).cloned();
            wanted.extend(own.or_else(|| is_back().then(Condition::of_return)));
        }
        self.board.want(wanted);
        let (clusters, nodes) = (self.inventory.clusters(), self.inventory.nodes());
        for (kind, known, unreadable) in [
            ("Cluster", clusters.len(), clusters.unreadable()),
            ("ClusterNode", nodes.len(), nodes.unreadable()),
            ("NodeConfig", self.writer.len(), 0),
        ] {
            self.metrics
                .set(&metrics::OBJECTS, &[("kind", kind)], known as f64);
            self.metrics
                .set(&metrics::UNREADABLE, &[("kind", kind)], unreadable as f64);
        }
        let (large, refused) = self.writer.troubles();
        self.metrics.set(&metrics::TOO_LARGE, &[], large as f64);
        self.metrics.set(&metrics::REFUSED, &[], refused as f64);
    }

    /// What to write next: rows first, then what is said about them.
    fn next(&mut self, pens: &Pens, now: Duration) -> Option<BoxFuture<'static, Done>> {
        let planner: Arc<Planner> = self.inventory.planner().clone();
        let nodes = self.inventory.nodes();
        let before = self.writer.troubles();
        // Of what never could be read nobody knows what is planned.
        let is_kept =
            |name: &str| nodes.fault(name).is_some() || is_of_unreadable(&self.inventory, name);
        let command = tokio::task::block_in_place(|| self.writer.next(&planner, now, is_kept));
        if let Some(command) = command {
            return Some(write_config(pens.configs.clone(), command).boxed());
        }
        if before != self.writer.troubles() {
            self.say();
        }
        let board = &self.board;
        let is_told = |cluster: &str| board.is_told(&(Kind::Cluster, cluster.to_owned()));
        if let Some(deed) = self.leaving.next(now, is_told) {
            let pen = match &deed {
                Deed::RemoveNode { .. } => pens.nodes.clone(),
                Deed::Release { .. } => pens.clusters.clone(),
            };
            return Some(leave(pen, deed).boxed());
        }
        let show = self.board.next(now, &moment::now())?;
        let pen = match show.id.0 {
            Kind::Cluster => pens.clusters.clone(),
            Kind::ClusterNode => pens.nodes.clone(),
        };
        Some(write_conditions(pen, show).boxed())
    }

    /// Says how a cluster left where its definition has no conditions to say it.
    fn released(&self, pens: &Pens, name: &str) {
        if self.board.is_kept(Kind::Cluster) {
            return;
        }
        let told = self.leaving.conditions().find(|(of, _)| *of == name);
        let Some((_, condition)) = told.filter(|(_, condition)| !condition.is_true) else {
            return;
        };
        let word = Word {
            kind: Kind::Cluster.word(),
            name: name.to_owned(),
            uid: self.board.uid(&(Kind::Cluster, name.to_owned())).to_owned(),
            is_warning: true,
            reason: condition.reason,
            message: condition.message,
        };
        tokio::spawn(tell(pens.client.clone(), "clusterlink-manager", word));
    }

    fn done(&mut self, pens: &Pens, done: Done, now: Duration) {
        match done {
            Done::Config(command, wrote) => {
                let before = self.writer.trouble(command.name()).cloned();
                match wrote {
                    Wrote::Done(_) => self.writer.done(&command, Ok(()), now),
                    Wrote::Dropped => self.writer.dropped(&command),
                    Wrote::Conflict => self.writer.overtaken(&command, now),
                    Wrote::Failed(why) => {
                        warn!(name = command.name(), why, "a NodeConfig cannot be written");
                        self.writer.done(&command, Err(why), now);
                    }
                }
                self.is_stale |= before.as_ref() != self.writer.trouble(command.name());
            }
            Done::Left(deed, wrote) => {
                match &wrote {
                    Wrote::Failed(why) => {
                        warn!(
                            name = deed.name(),
                            why, "an object of a cluster that leaves stays"
                        );
                    }
                    Wrote::Done(_) => info!(name = deed.name(), "{}", deed.word()),
                    Wrote::Conflict | Wrote::Dropped => {}
                }
                let is_done = matches!(wrote, Wrote::Done(_));
                if let (Deed::Release { name, .. }, true) = (&deed, is_done) {
                    self.released(pens, name);
                }
                self.leaving.done(&deed, is_done, now);
                self.is_stale = true;
            }
            Done::Shown(show, wrote) => {
                let outcome = match wrote {
                    Wrote::Done(Some(object)) => {
                        for turned in &show.turned {
                            tokio::spawn(tell(
                                pens.client.clone(),
                                "clusterlink-manager",
                                word(&show, turned),
                            ));
                        }
                        Outcome::Written(object)
                    }
                    Wrote::Dropped => return self.board.dropped(&show),
                    Wrote::Done(None) | Wrote::Conflict => Outcome::Conflict,
                    Wrote::Failed(why) => {
                        warn!(name = show.id.1, why, "a condition cannot be written");
                        Outcome::Failed
                    }
                };
                self.board.done(&show, outcome, now);
                let kind = show.id.0;
                if !self.board.is_kept(kind) {
                    info!(
                        kind = kind.word(),
                        "the definition of this kind has no conditions; the log says what they would"
                    );
                }
            }
        }
    }
}

async fn leave(pen: Pen, deed: Deed) -> Done {
    let wrote = match &deed {
        Deed::RemoveNode { name, uid } => {
            let of = Preconditions {
                uid: Some(uid.clone()),
                ..Preconditions::default()
            };
            pen.delete(name, Some(of)).await
        }
        Deed::Release { name, patch } => pen.merge(name, patch).await,
    };
    Done::Left(deed, wrote)
}

/// Whether a NodeConfig belongs to a cluster that never could be read.
fn is_of_unreadable(inventory: &Inventory, name: &str) -> bool {
    let Some(node) = inventory.nodes().get(name) else {
        return false;
    };
    let fault = inventory.clusters().fault(&node.spec.cluster_name);
    fault.is_some_and(|(_, is_kept)| !is_kept)
}

async fn write_config(pen: Pen, command: Command) -> Done {
    let wrote = match &command {
        Command::Delete { name } => pen.delete(name, None).await,
        Command::Put {
            name,
            spec,
            is_new: true,
        } => {
            let object = json!({
                "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "NodeConfig", "metadata": {"name": name}, "spec": spec,
            });
            pen.create(object).await
        }
        Command::Put {
            name,
            spec,
            is_new: false,
        } => pen.merge(name, &json!({"spec": patch(spec)})).await,
    };
    Done::Config(command, wrote)
}

async fn write_conditions(pen: Pen, show: Show) -> Done {
    let name = show.id.1.clone();
    let patch: Value = json!({"metadata": {"resourceVersion": show.version}, "status": {"conditions": show.conditions}});
    let wrote = match show.id.0 {
        // Kosmos' definition has the status with the object.
        Kind::Cluster => write_status(&pen, &name, &patch).await,
        Kind::ClusterNode => pen.merge_status(&name, &patch).await,
    };
    Done::Shown(show, wrote)
}
