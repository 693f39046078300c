//! The elector of a member cluster: which nodes are its gateways, and which one stands by.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures::stream::select_all;
use kube::api::Api;
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::leader::Contest;
use super::objects::{Change, Pen, Wrote, changes};
use super::told::{Word, tell};
use super::{Clock, Cluster, Common, ELECTOR_LEASE, metrics};
use crate::api::{CLUSTER_LABEL, CUT_OFF, ClusterNode};
use crate::control::gateways::{self, Able, Role, Roles, Wish};
use crate::control::kept::Kept;
use crate::control::nodes::Node;
use crate::watching::kosmos;

/// Until what failed is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClusterNode,
    Node,
}

struct Elector {
    cluster: String,
    wish: Wish,
    /// The ClusterNodes whose agents say that they reach no other cluster.
    cut_off: BTreeSet<String>,
    /// The Nodes that are ready.
    ready: BTreeSet<String>,
    nodes: BTreeSet<String>,
    cluster_nodes: Kept<ClusterNode>,
    /// `resourceVersion` and `uid` of each ClusterNode.
    versions: BTreeMap<String, (Value, String)>,
    /// The kinds that are known completely.
    listed: BTreeSet<Kind>,
}

/// Elects until it is stopped.
pub(crate) async fn elector(cluster: Cluster, wish: Wish, mut common: Common) {
    let clock = Clock::start();
    let (contest, mut leading) = Contest::begin(cluster.member.clone(), ELECTOR_LEASE, &common);
    let pen = Pen::new(
        &cluster.control,
        "ClusterNode",
        &kosmos("ClusterNode", "clusternodes"),
        &common.metrics,
        &leading,
    );
    let mut events = select_all([
        changes(
            Kind::Node,
            "Node",
            nodes_api(&cluster.member),
            watcher::Config::default(),
            common.metrics.clone(),
            Some(leading.clone()),
        ),
        changes(
            Kind::ClusterNode,
            "ClusterNode",
            Api::all_with(
                cluster.control.clone(),
                &kosmos("ClusterNode", "clusternodes"),
            ),
            watcher::Config::default().labels(&format!("{CLUSTER_LABEL}={}", cluster.name)),
            common.metrics.clone(),
            None,
        ),
    ]);
    let mut awaited = common.readiness.awaits();
    let mut elector = Elector {
        cluster: cluster.name.clone(),
        wish,
        cut_off: BTreeSet::new(),
        ready: BTreeSet::new(),
        nodes: BTreeSet::new(),
        cluster_nodes: Kept::default(),
        versions: BTreeMap::new(),
        listed: BTreeSet::new(),
    };
    let mut writing: Option<BoxFuture<'static, Vec<(Roles, Wrote)>>> = None;
    let mut retry = None;
    loop {
        if elector.listed.len() == 2 {
            awaited.done();
        }
        if writing.is_none() && retry.is_none() && leading.is_now() && elector.listed.len() == 2 {
            let due = elector.due();
            let gateways = elector
                .cluster_nodes
                .iter()
                .filter(|(_, node)| node.spec.is_gateway())
                .count();
            common.metrics.set(&metrics::GATEWAYS, &[], gateways as f64);
            if !due.is_empty() {
                writing = Some(write(pen.clone(), due).boxed());
            }
        }
        // What was asked for is answered before it is asked again; nothing is lost where an arm is dropped.
        tokio::select! {
            biased;
            () = common.stopped() => break,
            Some(wrote) = OptionFuture::from(writing.as_mut()) => {
                writing = None;
                for (roles, wrote) in wrote {
                    if !elector.wrote(&cluster, &roles, wrote) {
                        retry = Some(clock.now() + RETRY);
                    }
                }
            }
            () = leading.turned() => {}
            Some((kind, change)) = events.next() => {
                elector.take(kind, change);
                // What has come by now is one step's business.
                while let Some(Some((kind, change))) = events.next().now_or_never() {
                    elector.take(kind, change);
                }
            }
            () = clock.at(retry), if retry.is_some() => retry = None,
        }
    }
    drop(writing);
    contest.end().await;
}

/// The Nodes of a cluster.
pub(super) fn nodes_api(client: &kube::Client) -> Api<kube::api::DynamicObject> {
    let nodes =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Node"), "nodes");
    Api::all_with(client.clone(), &nodes)
}

/// One after the other: the role is taken from no node before another has it.
async fn write(pen: Pen, due: Vec<(Roles, Value)>) -> Vec<(Roles, Wrote)> {
    let mut wrote = Vec::new();
    for (roles, patch) in due {
        let outcome = pen.merge(&roles.cluster_node, &patch).await;
        let is_done = matches!(outcome, Wrote::Done(_));
        wrote.push((roles, outcome));
        if !is_done {
            break;
        }
    }
    wrote
}

impl Elector {
    fn take(&mut self, kind: Kind, change: Change) {
        match (kind, change) {
            (Kind::Node, Change::Set(name, object)) => {
                let node = Node::of(&object).unwrap_or_default();
                if node.is_ready && node.is_member {
                    self.ready.insert(name.clone());
                } else {
                    self.ready.remove(&name);
                }
                self.nodes.insert(name);
            }
            (Kind::Node, Change::Gone(name)) => {
                self.ready.remove(&name);
                self.nodes.remove(&name);
            }
            (Kind::Node, Change::Listed(names)) => {
                self.ready.retain(|name| names.contains(name));
                self.nodes = names;
                self.listed.insert(kind);
            }
            (Kind::ClusterNode, Change::Set(name, object)) => self.set(&name, &object),
            (Kind::ClusterNode, Change::Gone(name)) => {
                self.forget(&name);
            }
            (Kind::ClusterNode, Change::Listed(names)) => {
                let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                for name in self.cluster_nodes.missing_in(&names) {
                    self.forget(&name);
                }
                self.listed.insert(kind);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.cluster_nodes.remove(name);
        self.versions.remove(name);
        self.cut_off.remove(name);
    }

    fn set(&mut self, name: &str, object: &Value) {
        self.cluster_nodes.set(name, object);
        let metadata = &object["metadata"];
        let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
        self.versions
            .insert(name.to_owned(), (metadata["resourceVersion"].clone(), uid));
        if metadata["annotations"][CUT_OFF].is_string() {
            self.cut_off.insert(name.to_owned());
        } else {
            self.cut_off.remove(name);
        }
    }

    /// What has to be written, with the version that it is meant for.
    fn due(&self) -> Vec<(Roles, Value)> {
        // A cluster without a Node is one whose Nodes nobody knows.
        if self.nodes.is_empty() {
            return Vec::new();
        }
        let own: Vec<ClusterNode> = self
            .cluster_nodes
            .iter()
            .filter(|(_, node)| node.spec.cluster_name == self.cluster)
            .map(|(_, node)| node.clone())
            .collect();
        let cut_off = own
            .iter()
            .filter(|node| self.cut_off.contains(&node.metadata.name))
            .map(|node| node.spec.node_name.as_str());
        let able = Able {
            ready: self.ready.iter().map(String::as_str).collect(),
            cut_off: cut_off.collect(),
        };
        let roles = gateways::roles(&own, &able, self.wish).into_iter();
        roles
            .map(|roles| {
                let version = self.versions.get(&roles.cluster_node).map(|(version, _)| version);
                let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"roles": roles.roles}});
                (roles, patch)
            })
            .collect()
    }

    /// Whether what was written need not be tried again after a pause.
    fn wrote(&mut self, cluster: &Cluster, roles: &Roles, wrote: Wrote) -> bool {
        match wrote {
            Wrote::Done(object) => {
                if let Some(object) = object {
                    self.set(&roles.cluster_node, &object);
                }
                let (did, reason) = match (roles.role, roles.before) {
                    (Role::Gateway, _) => ("is the gateway", "GatewayElected"),
                    (_, Role::Gateway) => ("is not the gateway any more", "GatewayReplaced"),
                    (Role::Standby, _) => ("stands by for the gateway", "StandbyNamed"),
                    (Role::None, _) => (
                        "does not stand by for the gateway any more",
                        "StandbyReplaced",
                    ),
                };
                info!(cluster = self.cluster, node = roles.node, "the node {did}");
                let uid = self
                    .versions
                    .get(&roles.cluster_node)
                    .map(|(_, uid)| uid.clone());
                let word = Word {
                    kind: "ClusterNode",
                    name: roles.cluster_node.clone(),
                    uid: uid.unwrap_or_default(),
                    is_warning: false,
                    reason: reason.to_owned(),
                    message: format!("node {} {did} of cluster {}", roles.node, self.cluster),
                };
                tokio::spawn(tell(cluster.control.clone(), "clusterlink-elector", word));
                true
            }
            Wrote::Dropped => true,
            Wrote::Conflict => false,
            Wrote::Failed(why) => {
                warn!(
                    cluster = self.cluster,
                    node = roles.node,
                    why,
                    "the gateway role cannot be written"
                );
                false
            }
        }
    }
}
