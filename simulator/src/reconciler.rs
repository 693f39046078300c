//! The datapath's control plane in miniature: it elects gateways, plans, and writes NodeConfigs.
//!
//! It knows nothing but the objects of the APIs, and tells the agents nothing but by NodeConfigs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datapath::api::{ClusterNode, Fleet, NodeConfigSpec};
use datapath::plan::{self, Plan};
use futures::future::select_all;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tracing::warn;

use crate::apiserver::{Event, EventKind, Resource, Store, Watch};
use crate::freeze::Freezer;
use crate::objects;

/// A member cluster as the reconciler sees it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) store: Arc<Store>,
}

/// The control plane of a lab.
#[derive(Debug)]
pub(crate) struct Reconciler {
    /// The first is the control-plane cluster.
    pub(crate) members: Vec<Member>,
    pub(crate) freezer: Arc<Freezer>,
}

impl Reconciler {
    fn root(&self) -> &Arc<Store> {
        // A topology has at least one cluster.
        &self.members[0].store
    }

    /// Elects everywhere, plans once, and writes what differs; the plan is what was written or stands already.
    pub(crate) fn step(&self) -> Plan {
        let (objects, _) = self.root().list(Resource::CLUSTER_NODES, None);
        let mut by_cluster: BTreeMap<String, Vec<ClusterNode>> = BTreeMap::new();
        for object in &objects {
            if let Ok(node) = ClusterNode::deserialize(&**object) {
                let nodes = by_cluster.entry(node.spec.cluster_name.clone());
                nodes.or_default().push(node);
            }
        }
        for member in &self.members {
            let mine = by_cluster.remove(&member.name).unwrap_or_default();
            self.elect(member, &mine);
        }
        let planned = plan::plan(&fleet(self.root()));
        self.write(&planned);
        planned
    }

    /// The gateway of a cluster is its first ready node by name, and stays it while it is ready.
    fn elect(&self, member: &Member, mine: &[ClusterNode]) {
        if self.freezer.cluster(&member.name) {
            return;
        }
        let (nodes, _) = member.store.list(Resource::NODES, None);
        let ready: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| objects::is_ready(node))
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        let elected = elected(mine, &ready);
        for node in mine {
            let wanted = elected == Some(node.spec.node_name.as_str());
            if node.spec.is_gateway() == wanted {
                continue;
            }
            let roles = if wanted {
                json!(["gateway"])
            } else {
                json!([])
            };
            let put = self.root().put(
                Resource::CLUSTER_NODES,
                None,
                &node.metadata.name,
                |object| object["spec"]["roles"] = roles,
            );
            if let Err(status) = put {
                warn!(
                    cluster = member.name,
                    ?status,
                    "cannot give the gateway role"
                );
            }
        }
    }

    /// Writes the NodeConfigs that differ from the plan, where nothing is frozen.
    fn write(&self, planned: &Plan) {
        for objection in &planned.objections {
            warn!(%objection, "the plan cannot work as it is written");
        }
        let frozen = self.freezer.now();
        let is_frozen = |name: &str| match self.root().get(Resource::CLUSTER_NODES, None, name) {
            Some(node) => {
                let text = |field: &str| node["spec"][field].as_str().unwrap_or_default();
                frozen.node(text("clusterName"), text("nodeName"))
            }
            None => frozen.all,
        };
        let (objects, _) = self.root().list(Resource::NODE_CONFIGS, None);
        let held: BTreeMap<&str, &Arc<Value>> = objects
            .iter()
            .filter_map(|object| Some((object["metadata"]["name"].as_str()?, object)))
            .collect();
        for name in held.keys() {
            if !planned.configs.contains_key(*name) && !is_frozen(name) {
                // Somebody else may have removed it meanwhile.
                let _ = self.root().delete(Resource::NODE_CONFIGS, None, name);
            }
        }
        for (name, config) in &planned.configs {
            let current = held.get(name.as_str());
            if current.is_some_and(|object| spec_of(object).as_ref() == Some(config))
                || is_frozen(name)
            {
                continue;
            }
            let Ok(spec) = serde_json::to_value(config) else {
                continue;
            };
            let written = self
                .root()
                .put_or_create(Resource::NODE_CONFIGS, None, name, |object| {
                    object["spec"] = spec;
                });
            if let Err(status) = written {
                warn!(name, ?status, "cannot write a NodeConfig");
            }
        }
    }

    /// Runs until it is dropped; `planned` is what [`step`](Self::step) came to last.
    pub(crate) async fn run(self: Arc<Self>, mut planned: Plan, mut watches: Watches) {
        let mut frozen = self.freezer.subscribe();
        loop {
            let changed = {
                let inputs = watches.inputs.iter_mut();
                let input = select_all(inputs.map(|watch| Box::pin(watch.next())));
                tokio::select! {
                    _ = input => true,
                    event = watches.configs.next() => is_foreign(&event, &planned),
                    changed = frozen.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        true
                    }
                }
            };
            if !changed {
                continue;
            }
            // One look at everything answers all events so far.
            for watch in watches.inputs.iter_mut().chain([&mut watches.configs]) {
                while watch.poll().is_some() {}
            }
            let this = self.clone();
            // A large plan takes longer than a worker of the runtime may be held.
            match tokio::task::spawn_blocking(move || this.step()).await {
                Ok(done) => planned = done,
                Err(error) => warn!(%error, "the planner failed"),
            }
        }
    }

    /// Watches for whatever may change the plan from now on.
    pub(crate) fn watches(&self) -> Watches {
        let root = self.root();
        let from = root.version();
        let objects = [Resource::CLUSTERS, Resource::CLUSTER_NODES];
        let nodes = self.members.iter().map(|member| {
            let store = &member.store;
            store.watch(Resource::NODES, store.version())
        });
        Watches {
            inputs: objects
                .into_iter()
                .map(|resource| root.watch(resource, from))
                .chain(nodes)
                .collect(),
            configs: root.watch(Resource::NODE_CONFIGS, from),
        }
    }
}

/// What the reconciler listens to.
#[derive(Debug)]
pub(crate) struct Watches {
    inputs: Vec<Watch>,
    configs: Watch,
}

/// Whether a change of a NodeConfig is somebody else's: ours make it what is planned.
fn is_foreign(event: &Event, planned: &Plan) -> bool {
    let name = event.object["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    let wanted = planned.configs.get(name);
    match event.kind {
        EventKind::Added | EventKind::Modified => {
            let held = spec_of(&event.object);
            wanted.is_none() || held.as_ref() != wanted
        }
        EventKind::Deleted => wanted.is_some(),
        EventKind::Relist => true,
    }
}

/// The node that has to be the gateway, of a cluster's nodes in any order.
fn elected<'a>(nodes: &'a [ClusterNode], ready: &BTreeSet<&str>) -> Option<&'a str> {
    let mut candidates: Vec<&ClusterNode> = nodes
        .iter()
        .filter(|node| ready.contains(node.spec.node_name.as_str()))
        .collect();
    candidates.sort_by(|one, other| one.spec.node_name.cmp(&other.spec.node_name));
    candidates
        .iter()
        .find(|node| node.spec.is_gateway())
        .or(candidates.first())
        .map(|node| node.spec.node_name.as_str())
}

/// The planner's input; an object that cannot be read harms only itself.
fn fleet(root: &Store) -> Fleet {
    fn read<T: serde::de::DeserializeOwned>(root: &Store, resource: Resource) -> Vec<T> {
        let (objects, _) = root.list(resource, None);
        objects
            .iter()
            .filter_map(|object| match serde_json::from_value((**object).clone()) {
                Ok(read) => Some(read),
                Err(error) => {
                    let name = object["metadata"]["name"].as_str();
                    warn!(kind = resource.kind, name, %error, "unreadable object");
                    None
                }
            })
            .collect()
    }
    Fleet {
        clusters: read(root, Resource::CLUSTERS),
        cluster_nodes: read(root, Resource::CLUSTER_NODES),
        node_configs: read(root, Resource::NODE_CONFIGS),
    }
}

/// The rows of a NodeConfig object.
pub(crate) fn spec_of(object: &Value) -> Option<NodeConfigSpec> {
    match &object["spec"] {
        Value::Null => Some(NodeConfigSpec::default()),
        spec => serde_json::from_value(spec.clone()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::api::ClusterNodeSpec;

    fn node(name: &str, gateway: bool) -> ClusterNode {
        ClusterNode {
            spec: ClusterNodeSpec {
                node_name: name.to_owned(),
                roles: if gateway {
                    vec!["gateway".to_owned()]
                } else {
                    Vec::new()
                },
                ..ClusterNodeSpec::default()
            },
            ..ClusterNode::default()
        }
    }

    #[test]
    fn the_first_ready_node_is_elected_and_stays_while_it_is_ready() {
        let ready = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        let fresh = [node("n2", false), node("n1", false)];
        assert_eq!(elected(&fresh, &ready(&["n1", "n2"])), Some("n1"));
        assert_eq!(elected(&fresh, &ready(&["n2"])), Some("n2"));
        let settled = [node("n1", false), node("n2", true)];
        assert_eq!(elected(&settled, &ready(&["n1", "n2"])), Some("n2"));
        assert_eq!(elected(&settled, &ready(&["n1"])), Some("n1"));
        assert_eq!(elected(&settled, &ready(&[])), None);
        let two = [node("n1", true), node("n2", true)];
        assert_eq!(elected(&two, &ready(&["n1", "n2"])), Some("n1"));
    }
}
