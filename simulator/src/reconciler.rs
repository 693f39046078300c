//! The datapath's control plane in miniature: it elects gateways, plans, and writes NodeConfigs.
//!
//! It knows nothing but the objects of the APIs, and reaches the agents by NodeConfigs alone. Those are not stored: all of a large fleet
//! together are quadratic in its size, so each is made of the plan when it is asked for. One that has to stay as it is while the plan
//! changes, because its node is frozen, is stored until its node goes on.

mod generated;
mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use datapath::agent;
use datapath::api::{Cluster, ClusterNode, Fleet, NodeConfigSpec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::warn;

pub(crate) use generated::Configs;
pub(crate) use inputs::Inputs;

use crate::apiserver::{Event, Resource, Store};
use crate::freeze::{Freezer, Frozen};
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
    members: Vec<Member>,
    freezer: Arc<Freezer>,
    former: Mutex<Former>,
    /// Where NodeConfigs are made when they are asked for.
    configs: Arc<Configs>,
    /// What was planned last, and how often something was.
    generated: Mutex<(Fleet, u64)>,
}

/// Every object as it could be read last, by name.
#[derive(Debug, Default)]
struct Former {
    clusters: BTreeMap<String, Cluster>,
    cluster_nodes: BTreeMap<String, ClusterNode>,
}

impl Reconciler {
    /// The control plane of some clusters, of which the first has the objects of all; `configs` makes its NodeConfigs.
    pub(crate) fn new(members: Vec<Member>, freezer: Arc<Freezer>, configs: Arc<Configs>) -> Self {
        let reconciler = Self {
            members,
            freezer,
            former: Mutex::default(),
            configs: configs.clone(),
            generated: Mutex::default(),
        };
        reconciler.root().generate(Resource::NODE_CONFIGS, configs);
        reconciler
    }

    fn root(&self) -> &Arc<Store> {
        // A topology has at least one cluster.
        &self.members[0].store
    }

    /// Elects everywhere, and plans where something has changed.
    pub(crate) fn step(&self) {
        self.elect_all();
        let fleet = self.fleet();
        let mut generated = self
            .generated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = generated.1 == 0 || generated.0 != fleet;
        let planner = if is_new {
            self.keep_frozen();
            let planner = self.configs.plan(&fleet);
            *generated = (fleet, generated.1 + 1);
            planner
        } else {
            match self.configs.planner() {
                Some(planner) => planner,
                None => return,
            }
        };
        let frozen = self.freezer.now();
        let root = self.root();
        let (held, _) = root.list(Resource::NODE_CONFIGS, None);
        let held = held
            .iter()
            .filter_map(|one| one["metadata"]["name"].as_str());
        for name in held {
            if planner.view(name).is_none() && !self.is_frozen(&frozen, name) {
                // Somebody else may have removed it meanwhile.
                let _ = root.delete(Resource::NODE_CONFIGS, None, name);
            }
        }
        for name in planner.nodes() {
            let is_current = !is_new && root.is_stub(Resource::NODE_CONFIGS, None, name);
            if is_current || self.is_frozen(&frozen, name) {
                continue;
            }
            let put = root.put_stub(Resource::NODE_CONFIGS, None, name, generated.1);
            if let Err(status) = put {
                warn!(name, ?status, "cannot write a NodeConfig");
            }
        }
    }

    /// Stores the NodeConfigs of frozen nodes as the plan has them that is about to be replaced.
    fn keep_frozen(&self) {
        let frozen = self.freezer.now();
        if frozen.is_none() {
            return;
        }
        let (held, _) = self.root().list(Resource::NODE_CONFIGS, None);
        let names = held
            .iter()
            .filter_map(|one| one["metadata"]["name"].as_str());
        for name in names.filter(|name| self.is_frozen(&frozen, name)) {
            self.root().materialize(Resource::NODE_CONFIGS, None, name);
        }
    }

    fn is_frozen(&self, frozen: &Frozen, name: &str) -> bool {
        match self.root().get(Resource::CLUSTER_NODES, None, name) {
            Some(node) => {
                let text = |field: &str| node["spec"][field].as_str().unwrap_or_default();
                frozen.node(text("clusterName"), text("nodeName"))
            }
            None => frozen.all,
        }
    }

    fn elect_all(&self) {
        let mut by_cluster: BTreeMap<String, Vec<ClusterNode>> = BTreeMap::new();
        for node in self.fleet().cluster_nodes {
            let nodes = by_cluster.entry(node.spec.cluster_name.clone());
            nodes.or_default().push(node);
        }
        for member in &self.members {
            let mine = by_cluster.remove(&member.name).unwrap_or_default();
            self.elect(member, &mine);
        }
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

    /// Runs until it is dropped; there was a [`step`](Self::step) before.
    pub(crate) async fn run(self: Arc<Self>, mut inputs: Inputs) {
        let mut frozen = self.freezer.subscribe();
        loop {
            tokio::select! {
                () = inputs.changed() => {}
                changed = frozen.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    inputs.drain();
                }
            }
            let this = self.clone();
            // A large plan takes longer than a worker of the runtime may be held.
            if let Err(error) = tokio::task::spawn_blocking(move || this.step()).await {
                warn!(%error, "the planner failed");
            }
        }
    }

    /// Listens to whatever may change the plan from now on.
    pub(crate) fn inputs(&self) -> Inputs {
        Inputs::open(&self.members)
    }

    /// The planner's input. An object that cannot be read counts as it was before: a slip in one of them must not take rows from
    /// its node, nor those that lead there from all others.
    fn fleet(&self) -> Fleet {
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let root = self.root();
        Fleet {
            clusters: read(root, Resource::CLUSTERS, &mut former.clusters),
            cluster_nodes: read(root, Resource::CLUSTER_NODES, &mut former.cluster_nodes),
            // They are made of the plan and say nothing new.
            node_configs: Vec::new(),
        }
    }
}

/// Whether a change of a NodeConfig is somebody else's: ours make it what is planned.
fn is_foreign(event: &Event, root: &Store) -> bool {
    let name = event.object["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    !root.is_stub(Resource::NODE_CONFIGS, None, name)
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

/// The objects of a kind that are there, each as it could be read last.
fn read<T: DeserializeOwned + Clone>(
    root: &Store,
    resource: Resource,
    former: &mut BTreeMap<String, T>,
) -> Vec<T> {
    let (objects, _) = root.list(resource, None);
    let mut held = std::mem::take(former);
    for object in &objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let before = held.remove(name);
        let read = match T::deserialize(&**object) {
            Ok(read) => Some(read),
            Err(error) => {
                warn!(kind = resource.kind, name, %error, "unreadable object; it counts as it was before");
                before
            }
        };
        if let Some(read) = read {
            former.insert(name.to_owned(), read);
        }
    }
    former.values().cloned().collect()
}

/// The rows of a NodeConfig object; none where it cannot be read.
pub(crate) fn spec_of(object: &Value) -> Option<NodeConfigSpec> {
    match agent::Event::of_spec(object.get("spec")) {
        agent::Event::Wanted(spec) => Some(spec),
        _ => None,
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

    /// The control plane of a generated fleet, planned once.
    fn planned() -> (Arc<Store>, Reconciler) {
        use crate::topology::{FamilyChoice, ModeChoice, generated};
        let fleet = generated(3, 2, ModeChoice::Mixed, FamilyChoice::All).expect("a fleet");
        let root = Arc::new(Store::default());
        let mut members = Vec::new();
        for (index, cluster) in fleet.clusters.iter().enumerate() {
            let store = if index == 0 {
                root.clone()
            } else {
                Arc::new(Store::default())
            };
            let object = objects::cluster(cluster, index == 0, "");
            root.create(Resource::CLUSTERS, None, object)
                .expect("a Cluster");
            for node in &cluster.nodes {
                let object = objects::node(node, "2026-01-01T00:00:00Z");
                store.create(Resource::NODES, None, object).expect("a Node");
                let object = objects::cluster_node(cluster, node);
                root.create(Resource::CLUSTER_NODES, None, object)
                    .expect("a ClusterNode");
            }
            let name = cluster.name.clone();
            members.push(Member { name, store });
        }
        let reconciler = Reconciler::new(members, Arc::default(), Arc::default());
        reconciler.step();
        (root, reconciler)
    }

    fn specs(root: &Store) -> BTreeMap<String, NodeConfigSpec> {
        let (objects, _) = root.list(Resource::NODE_CONFIGS, None);
        let name = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
        objects
            .iter()
            .filter_map(|object| {
                let name = name(object)?;
                let whole = root.get(Resource::NODE_CONFIGS, None, &name)?;
                Some((name, spec_of(&whole)?))
            })
            .collect()
    }

    #[test]
    fn an_object_that_cannot_be_read_costs_nobody_a_row() {
        let (root, reconciler) = planned();
        let before = specs(&root);
        assert_eq!(before.len(), 6);
        for (resource, name, field) in [
            (Resource::CLUSTER_NODES, "c2-n1", "ip"),
            (Resource::CLUSTER_NODES, "c3-n2", "podCIDRs"),
            (Resource::CLUSTERS, "c1", "clusterLinkOptions"),
        ] {
            let spoilt = root.put(resource, None, name, |object| {
                object["spec"][field] = json!({"not": 7});
                object["spec"]["clusterLinkOptions"]["networkType"] = json!(7);
            });
            spoilt.expect("a write");
            reconciler.step();
            assert_eq!(specs(&root), before, "{name}");
        }
        // A NodeConfig that somebody spoils is planned anew.
        let spoilt = root.put(Resource::NODE_CONFIGS, None, "c2-n1", |object| {
            object["spec"]["routes"] = json!(7);
        });
        spoilt.expect("a write");
        reconciler.step();
        assert_eq!(specs(&root), before);
        // An object that is deleted is no longer counted, however it was last.
        root.delete(Resource::CLUSTER_NODES, None, "c3-n2")
            .expect("a ClusterNode");
        reconciler.step();
        assert!(!specs(&root).contains_key("c3-n2"));
    }
}
