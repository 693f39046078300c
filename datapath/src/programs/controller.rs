//! The controller of a member cluster: its Nodes become ClusterNodes, its prefixes its Cluster's status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt as _, select_all};
use kube::api::{Api, Preconditions};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::elector::nodes_api;
use super::leader::Contest;
use super::objects::{Change, Pen, Wrote, changes};
use super::told::{Word, tell};
use super::{CONTROLLER_LEASE, Clock, Cluster, Common, metrics, news, tokens};
use crate::api::CLUSTER_LABEL;
use crate::control::conditions::{Board, Condition, Outcome, Show};
use crate::control::inventory;
use crate::control::leaving::{is_deleted, leaves};
use crate::control::nodes::{Command, Links, Member, Node};
use crate::control::prefixes::Found;
use crate::evidence::{self, Gathered};
use crate::moment;
use crate::watching::kosmos;

/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the cluster is looked at for what gives no notice: the flags of an API server, say.
const ROUND: Duration = Duration::from_secs(60);
/// From a notice to the look, so that one look serves many.
const SETTLE: Duration = Duration::from_millis(200);
/// The most writes on their way.
const AT_ONCE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cluster,
    ClusterNode,
    Node,
}

/// What came of a write.
enum Done {
    Condition(Show, Wrote),
    Node(Command, Wrote, Option<Value>),
    Status(Wrote),
}

struct Controller {
    member: Member,
    /// The Cluster; none while there is none, and then nothing is written.
    cluster: Option<Value>,
    held: BTreeMap<String, Value>,
    /// The kinds that are known completely.
    listed: BTreeSet<Kind>,
    found: Option<Found>,
    board: Board,
    due: VecDeque<Command>,
    busy: BTreeSet<String>,
    /// Something may differ from what it should be.
    is_dirty: bool,
    /// The Cluster is being written.
    is_telling: bool,
    /// When to look at the cluster again.
    look: Option<Duration>,
    taken: BTreeSet<String>,
}

/// Controls until it is stopped.
pub(crate) async fn controller(cluster: Cluster, mut common: Common) {
    let clock = Clock::start();
    let (contest, mut leading) = Contest::begin(cluster.member.clone(), CONTROLLER_LEASE, &common);
    let (clusters, cluster_nodes) = (
        kosmos("Cluster", "clusters"),
        kosmos("ClusterNode", "clusternodes"),
    );
    let nodes_pen = Pen::new(
        &cluster.control,
        "ClusterNode",
        &cluster_nodes,
        &common.metrics,
        &leading,
    );
    let cluster_pen = Pen::new(
        &cluster.control,
        "Cluster",
        &clusters,
        &common.metrics,
        &leading,
    );
    let own = format!("metadata.name={}", cluster.name);
    let labelled = format!("{CLUSTER_LABEL}={}", cluster.name);
    let count = &common.metrics;
    let mut events = select_all([
        changes(
            Kind::Node,
            "Node",
            nodes_api(&cluster.member),
            watcher::Config::default(),
            count.clone(),
            Some(leading.clone()),
        ),
        changes(
            Kind::Cluster,
            "Cluster",
            Api::all_with(cluster.control.clone(), &clusters),
            watcher::Config::default().fields(&own),
            count.clone(),
            None,
        ),
        changes(
            Kind::ClusterNode,
            "ClusterNode",
            Api::all_with(cluster.control.clone(), &cluster_nodes),
            watcher::Config::default().labels(&labelled),
            count.clone(),
            None,
        ),
    ]);
    let mut hints = select_all(news::news(&cluster.member));
    let mut awaited = common.readiness.awaits();
    let mut controller = Controller::of(&cluster.name);
    let mut writes: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    let mut looking: Option<BoxFuture<'static, Result<Gathered, String>>> = None;
    let mut retry: Option<Duration> = None;
    let given = (common.clone(), leading.clone());
    let mut keeping = pin!(tokens::keep(&cluster, &given.0, &given.1));
    loop {
        let is_known = controller.listed.len() == 3;
        if is_known {
            awaited.done();
        }
        if is_known && leading.is_now() && retry.is_none() {
            controller.refill();
            while writes.len() < AT_ONCE
                && let Some(command) = controller.due.pop_front()
            {
                controller.busy.insert(command.name().to_owned());
                writes.push(write_node(nodes_pen.clone(), command).boxed());
            }
            if let Some(deed) = controller.tell(&cluster_pen, clock.now()) {
                writes.push(deed);
            }
        }
        tokio::select! {
            biased;
            () = common.stopped() => break,
            Some(done) = writes.next() => {
                if !controller.done(&cluster, done, clock.now()) {
                    retry = Some(clock.now() + RETRY);
                }
            }
            Some(gathered) = OptionFuture::from(looking.as_mut()) => {
                looking = None;
                let wait = controller.gathered(gathered, &common);
                controller.look = Some(clock.now() + wait);
            }
            () = &mut keeping => {}
            () = leading.turned() => controller.is_dirty = true,
            Some((kind, change)) = events.next() => {
                controller.take(kind, change, clock.now());
                // What has come by now is one step's business.
                while let Some(Some((kind, change))) = events.next().now_or_never() {
                    controller.take(kind, change, clock.now());
                }
            }
            Some(()) = hints.next() => controller.look_by(clock.now() + SETTLE),
            () = clock.at(retry), if retry.is_some() => {
                retry = None;
                controller.is_dirty = true;
            }
            // Nobody has to look for somebody who writes nothing.
            () = clock.at(controller.look), if is_known && looking.is_none() && leading.is_now() && controller.look.is_some() => {
                controller.look = None;
                looking = Some(controller.gather(&cluster, &common));
            }
        }
    }
    drop(writes);
    contest.end().await;
}

async fn write_node(pen: Pen, command: Command) -> Done {
    let wrote = match &command {
        Command::Create { object, .. } => pen.create(object.clone()).await,
        Command::Change { name, patch } => pen.merge(name, patch).await,
        Command::Delete { name, uid, version } => {
            let of = Preconditions {
                uid: Some(uid.clone()),
                resource_version: Some(version.clone()),
            };
            pen.delete(name, Some(of)).await
        }
    };
    let now = match wrote {
        // It may carry no label that a watch would find it by.
        Wrote::Conflict => pen.get(command.name()).await,
        _ => None,
    };
    Done::Node(command, wrote, now)
}

impl Controller {
    fn of(cluster: &str) -> Self {
        Self {
            member: Member {
                cluster: cluster.to_owned(),
                ..Member::default()
            },
            cluster: None,
            held: BTreeMap::new(),
            listed: BTreeSet::new(),
            found: None,
            board: Board::default(),
            due: VecDeque::new(),
            busy: BTreeSet::new(),
            is_dirty: true,
            is_telling: false,
            look: Some(Duration::ZERO),
            taken: BTreeSet::new(),
        }
    }

    fn look_by(&mut self, at: Duration) {
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }

    fn take(&mut self, kind: Kind, change: Change, now: Duration) {
        match (kind, change) {
            (Kind::Node, Change::Set(name, object)) => {
                let node = Node::of(&object).unwrap_or_default();
                // Heartbeats say nothing new.
                if self.member.nodes.get(&name) != Some(&node) {
                    self.member.nodes.insert(name, node);
                    self.is_dirty = true;
                    self.look_by(now + SETTLE);
                }
            }
            (Kind::Node, Change::Gone(name)) => {
                self.member.nodes.remove(&name);
                self.is_dirty = true;
                self.look_by(now + SETTLE);
            }
            (Kind::Node, Change::Listed(names)) => {
                self.member.nodes.retain(|name, _| names.contains(name));
                self.is_dirty = true;
                self.listed.insert(kind);
            }
            (Kind::Cluster, Change::Set(name, object)) if name == self.member.cluster => {
                let links = Links::of(&object);
                let stays = self.cluster.as_ref().map(|one| !leaves(one));
                if leaves(&object) {
                    if stays != Some(false) {
                        info!(
                            cluster = name,
                            "the cluster leaves; its ClusterNodes are not written any more"
                        );
                    }
                    self.due.clear();
                } else {
                    self.is_dirty |= stays == Some(false);
                }
                self.is_dirty |= self.cluster.is_none() || links != self.member.links;
                self.member.links = links;
                let cni = |object: &Value| object["spec"]["clusterLinkOptions"]["cni"].clone();
                if self.cluster.as_ref().map(&cni) != Some(cni(&object)) {
                    self.look_by(now + SETTLE);
                }
                self.board.seen(inventory::Kind::Cluster, &name, &object);
                self.cluster = Some(*object);
            }
            (Kind::Cluster, Change::Gone(name)) if name == self.member.cluster => self.no_cluster(),
            (Kind::Cluster, Change::Listed(names)) => {
                if !names.contains(&self.member.cluster) {
                    self.no_cluster();
                }
                self.listed.insert(kind);
            }
            // A server that ignores selectors.
            (Kind::Cluster, _) => {}
            (Kind::ClusterNode, Change::Set(name, object)) => {
                self.held.insert(name, *object);
                self.is_dirty = true;
            }
            (Kind::ClusterNode, Change::Gone(name)) => {
                self.held.remove(&name);
                self.is_dirty = true;
            }
            (Kind::ClusterNode, Change::Listed(names)) => {
                self.held.retain(|name, _| names.contains(name));
                self.is_dirty = true;
                self.listed.insert(kind);
            }
        }
    }

    fn no_cluster(&mut self) {
        let name = self.member.cluster.clone();
        info!(
            cluster = name,
            "there is no such Cluster; nothing is written until there is"
        );
        self.board.gone(inventory::Kind::Cluster, &name);
        self.due.clear();
        self.is_dirty = true;
        self.cluster = None;
    }

    /// Finds what has to be written to ClusterNodes, once what was found before is.
    fn refill(&mut self) {
        let stays = self.cluster.as_ref().is_some_and(|one| !leaves(one));
        if !self.is_dirty || !self.due.is_empty() || !self.busy.is_empty() || !stays {
            return;
        }
        self.is_dirty = false;
        let changes = self.member.changes(&self.held);
        for name in changes.taken.difference(&self.taken) {
            warn!(
                name,
                "a ClusterNode of this name belongs to another cluster; it is left alone"
            );
        }
        self.taken = changes.taken;
        self.due = changes.commands.into();
    }

    /// What has to be written to the Cluster: prefixes first, then what is said about them.
    fn tell(&mut self, pen: &Pen, now: Duration) -> Option<BoxFuture<'static, Done>> {
        if self.is_telling {
            return None;
        }
        let cluster = self.cluster.as_ref().filter(|one| !is_deleted(one))?;
        let found = self.found.as_ref()?;
        let (pen, name) = (pen.clone(), self.member.cluster.clone());
        let deed = if let Some(patch) = found.patch(cluster) {
            async move { Done::Status(write_status(&pen, &name, &patch).await) }.boxed()
        } else {
            let id = (inventory::Kind::Cluster, name.clone());
            self.board
                .want(BTreeMap::from([(id, vec![Condition::of_prefixes(found)])]));
            let show = self.board.next(now, &moment::now())?;
            async move {
                let patch = json!({"metadata": {"resourceVersion": show.version}, "status": {"conditions": show.conditions}});
                let wrote = write_status(&pen, &name, &patch).await;
                Done::Condition(show, wrote)
            }
            .boxed()
        };
        self.is_telling = true;
        Some(deed)
    }

    /// Whether nothing has to be tried again after a pause.
    fn done(&mut self, cluster: &Cluster, done: Done, now: Duration) -> bool {
        match done {
            Done::Node(command, wrote, object) => {
                let name = command.name().to_owned();
                self.busy.remove(&name);
                match wrote {
                    Wrote::Done(Some(object)) => drop(self.held.insert(name, *object)),
                    Wrote::Done(None) => drop(self.held.remove(&name)),
                    Wrote::Dropped => self.is_dirty = true,
                    Wrote::Conflict => {
                        // It is looked at as it is now, and a server that refuses again is given time.
                        match object {
                            Some(object) => drop(self.held.insert(name, object)),
                            None => drop(self.held.remove(&name)),
                        }
                        self.is_dirty = true;
                        return false;
                    }
                    Wrote::Failed(why) => {
                        warn!(name, why, "a ClusterNode cannot be written");
                        self.is_dirty = true;
                        return false;
                    }
                }
                true
            }
            Done::Status(wrote) => {
                self.is_telling = false;
                match wrote {
                    Wrote::Done(object) => {
                        info!(
                            cluster = self.member.cluster,
                            "wrote the cluster's prefixes"
                        );
                        self.read_back(object);
                        true
                    }
                    Wrote::Dropped => true,
                    Wrote::Conflict => false,
                    Wrote::Failed(why) => {
                        warn!(
                            cluster = self.member.cluster,
                            why, "the cluster's prefixes cannot be written"
                        );
                        false
                    }
                }
            }
            Done::Condition(show, wrote) => {
                self.is_telling = false;
                let (outcome, is_well) = match wrote {
                    Wrote::Done(Some(object)) => {
                        self.read_back(Some(object.clone()));
                        for turned in &show.turned {
                            tokio::spawn(tell(
                                cluster.control.clone(),
                                "clusterlink-controller",
                                word(&show, turned),
                            ));
                        }
                        (Outcome::Written(object), true)
                    }
                    Wrote::Dropped => {
                        self.board.dropped(&show);
                        return true;
                    }
                    Wrote::Done(None) | Wrote::Conflict => (Outcome::Conflict, true),
                    Wrote::Failed(_) => (Outcome::Failed, false),
                };
                self.board.done(&show, outcome, now);
                is_well
            }
        }
    }

    fn read_back(&mut self, object: Option<Box<Value>>) {
        if let Some(object) = object {
            self.board
                .seen(inventory::Kind::Cluster, &self.member.cluster, &object);
            self.cluster = Some(*object);
        }
    }

    fn gather(
        &self,
        cluster: &Cluster,
        common: &Common,
    ) -> BoxFuture<'static, Result<Gathered, String>> {
        let cni = self
            .cluster
            .as_ref()
            .and_then(|one| one["spec"]["clusterLinkOptions"]["cni"].as_str());
        let cni = cni.unwrap_or_default().to_owned();
        let nodes = self
            .member
            .nodes
            .values()
            .filter(|node| node.is_member)
            .cloned()
            .collect();
        evidence::gather(cluster.member.clone(), cni, nodes, common.namespace.clone()).boxed()
    }

    /// How long to wait until the next look.
    fn gathered(&mut self, gathered: Result<Gathered, String>, common: &Common) -> Duration {
        match gathered {
            Err(why) => {
                warn!(
                    why,
                    "the cluster cannot be looked at; what was found counts"
                );
                RETRY
            }
            Ok(Gathered { evidence, blocks }) => {
                let found = evidence.prefixes();
                for (of, nets) in [("pods", &found.pods), ("services", &found.services)] {
                    let count = nets.as_ref().map_or(0, |(_, nets)| nets.len());
                    common
                        .metrics
                        .set(&metrics::PREFIXES, &[("of", of)], count as f64);
                }
                self.is_dirty |= self.member.blocks != blocks;
                self.member.blocks = blocks;
                self.found = Some(found);
                ROUND
            }
        }
    }
}

/// Writes a status wherever the definition of its kind has it: with the object, or as a resource of its own.
pub(super) async fn write_status(pen: &Pen, name: &str, patch: &Value) -> Wrote {
    let wrote = pen.merge(name, patch).await;
    let Wrote::Done(Some(object)) = &wrote else {
        return wrote;
    };
    let took = patch["status"].as_object().into_iter().flatten();
    let is_taken = took
        .into_iter()
        .all(|(field, value)| is_within(value, &object["status"][field]));
    if is_taken {
        return wrote;
    }
    let mut patch = patch.clone();
    patch["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    match pen.merge_status(name, &patch).await {
        // There is no such resource: the definition drops the field.
        Wrote::Conflict => wrote,
        other => other,
    }
}

/// Whether an object has every field of another.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|held| is_within(value, held))),
        _ => part == whole,
    }
}

/// The turn of a condition, as an Event.
pub(super) fn word(show: &Show, turned: &Condition) -> Word {
    let (kind, name) = &show.id;
    Word {
        kind: kind.word(),
        name: name.clone(),
        uid: show.uid.clone(),
        is_warning: !turned.is_true,
        reason: turned.reason.clone(),
        message: if turned.message.is_empty() {
            format!("{} is as it should be", turned.kind)
        } else {
            turned.message.clone()
        },
    }
}
