//! The datapath's control plane in miniature: it drives `datapath`'s own engines over the objects of all clusters at once.
//!
//! Who is the gateway, which objects count, and what is planned, is decided there; here is only what a lab does otherwise than the programs
//! `clusterlink elector` and `manager`: it reads and writes the stores themselves, and it can be frozen.
//!
//! It knows nothing but the objects of the APIs, and reaches the agents by NodeConfigs alone. Those are not stored: all of a large fleet
//! together are quadratic in its size, so each is made of the plan when it is asked for. One that has to stay as it is while the plan
//! changes, because its node is frozen, is stored until its node goes on.

mod generated;
mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use datapath::agent;
use datapath::api::{ClusterNode, NodeConfigSpec};
use datapath::control::configs::differences;
use datapath::control::gateways::{self, Able, Standby, Wish};
use datapath::control::inventory::{Inventory, Kind};
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
    /// Where NodeConfigs are made when they are asked for.
    configs: Arc<Configs>,
    /// The objects as they count, and how often something was planned of them.
    known: Mutex<(Inventory, u64)>,
}

impl Reconciler {
    /// The control plane of some clusters, of which the first has the objects of all; `configs` makes its NodeConfigs.
    pub(crate) fn new(members: Vec<Member>, freezer: Arc<Freezer>, configs: Arc<Configs>) -> Self {
        let reconciler = Self {
            members,
            freezer,
            configs: configs.clone(),
            known: Mutex::default(),
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
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (inventory, revision) = &mut *known;
        self.take_in(inventory);
        self.elect_all(inventory);
        self.take_in(inventory);
        let is_new = *revision == 0 || !inventory.is_planned();
        if is_new {
            self.keep_frozen();
            inventory.plan();
            self.configs.set(inventory.planner());
            *revision += 1;
        }
        let planner = inventory.planner();
        let frozen = self.freezer.now();
        let root = self.root();
        let (held, _) = root.list(Resource::NODE_CONFIGS, None);
        let held = held
            .iter()
            .filter_map(|one| one["metadata"]["name"].as_str());
        let is_current = |name: &str| !is_new && root.is_stub(Resource::NODE_CONFIGS, None, name);
        let (gone, put) = differences(planner, held, is_current);
        for name in gone
            .into_iter()
            .filter(|name| !self.is_frozen(&frozen, name))
        {
            // Somebody else may have removed it meanwhile.
            let _ = root.delete(Resource::NODE_CONFIGS, None, name);
        }
        for name in put
            .into_iter()
            .filter(|name| !self.is_frozen(&frozen, name))
        {
            let put = root.put_stub(Resource::NODE_CONFIGS, None, name, *revision);
            if let Err(status) = put {
                warn!(name, ?status, "cannot write a NodeConfig");
            }
        }
    }

    /// Reads all objects of the control plane.
    fn take_in(&self, inventory: &mut Inventory) {
        for (kind, resource) in [
            (Kind::Cluster, Resource::CLUSTERS),
            (Kind::ClusterNode, Resource::CLUSTER_NODES),
        ] {
            let (objects, _) = self.root().list(resource, None);
            let named = objects.iter().filter_map(|object| {
                let name = object["metadata"]["name"].as_str()?;
                Some((name, &**object))
            });
            inventory.relist(kind, named);
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

    fn elect_all(&self, inventory: &Inventory) {
        let mut by_cluster: BTreeMap<&str, Vec<ClusterNode>> = BTreeMap::new();
        for (_, node) in inventory.nodes().iter() {
            let nodes = by_cluster.entry(&node.spec.cluster_name);
            nodes.or_default().push(node.clone());
        }
        for member in &self.members {
            let mine = by_cluster.remove(member.name.as_str()).unwrap_or_default();
            self.elect(member, &mine);
        }
    }

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
        // The agents of a lab's process have no sessions by which they would notice that a gateway is dead.
        let able = Able {
            ready,
            ..Able::default()
        };
        for roles in gateways::roles(mine, &able, Wish::one(Standby::Absent)) {
            let put = self.root().put(
                Resource::CLUSTER_NODES,
                None,
                &roles.cluster_node,
                |object| object["spec"]["roles"] = json!(roles.roles),
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
}

/// Whether a change of a NodeConfig is somebody else's: ours make it what is planned.
fn is_foreign(event: &Event, root: &Store) -> bool {
    let name = event.object["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    !root.is_stub(Resource::NODE_CONFIGS, None, name)
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
