//! What the control plane listens to, and which changes of it can change a plan.
//!
//! A kubelet writes its Node's status every ten seconds although nothing happened: with 5000 nodes that is 500 changes per second,
//! of which the planner reads nothing. So every object is kept as the planner reads it, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datapath::api::{Cluster, ClusterNode};
use datapath::control::kept::Kept;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::Value;

use super::{Member, is_foreign};
use crate::apiserver::{Event, EventKind, Resource, Store, Watch};
use crate::objects;

/// Everything that may change a plan: Clusters, ClusterNodes and NodeConfigs of the control plane, and the Nodes of every member.
#[derive(Debug)]
pub(crate) struct Inputs {
    root: Arc<Store>,
    read: Vec<Input>,
    configs: Watch,
}

/// The objects of one kind in one cluster, by name, as the planner reads them.
#[derive(Debug)]
struct Input {
    store: Arc<Store>,
    resource: Resource,
    watch: Watch,
    held: Held,
}

/// What the planner reads of objects.
#[derive(Debug)]
enum Held {
    Clusters(Kept<Cluster>),
    ClusterNodes(Kept<ClusterNode>),
    /// Whether a Node is ready; nothing else of it counts.
    Ready(BTreeMap<String, bool>),
}

impl Held {
    fn of(resource: Resource) -> Self {
        if resource == Resource::NODES {
            Self::Ready(BTreeMap::new())
        } else if resource == Resource::CLUSTERS {
            Self::Clusters(Kept::default())
        } else {
            Self::ClusterNodes(Kept::default())
        }
    }

    /// Takes an object in; whether the planner reads something else of it than before.
    fn set(&mut self, name: &str, object: &Value) -> bool {
        match self {
            Self::Clusters(held) => held.set(name, object).is_any(),
            Self::ClusterNodes(held) => held.set(name, object).is_any(),
            Self::Ready(held) => {
                let is_ready = objects::is_ready(object);
                held.get(name) != Some(&is_ready) && {
                    held.insert(name.to_owned(), is_ready);
                    true
                }
            }
        }
    }

    fn remove(&mut self, name: &str) -> bool {
        match self {
            Self::Clusters(held) => held.remove(name).is_any(),
            Self::ClusterNodes(held) => held.remove(name).is_any(),
            Self::Ready(held) => held.remove(name).is_some(),
        }
    }

    fn missing_in(&self, listed: &BTreeSet<&str>) -> Vec<String> {
        match self {
            Self::Clusters(held) => held.missing_in(listed),
            Self::ClusterNodes(held) => held.missing_in(listed),
            Self::Ready(held) => {
                let names = held.keys();
                names
                    .filter(|name| !listed.contains(name.as_str()))
                    .cloned()
                    .collect()
            }
        }
    }
}

impl Inputs {
    /// Listens from now on. The first member is the control-plane cluster.
    pub(super) fn open(members: &[Member]) -> Self {
        // A topology has at least one cluster.
        let root = &members[0].store;
        let of_root = [Resource::CLUSTERS, Resource::CLUSTER_NODES].map(|kind| (root, kind));
        let nodes = members
            .iter()
            .map(|member| (&member.store, Resource::NODES));
        Self {
            root: root.clone(),
            configs: root.watch(Resource::NODE_CONFIGS, root.version()),
            read: of_root
                .into_iter()
                .chain(nodes)
                .map(|(store, resource)| Input::open(store, resource))
                .collect(),
        }
    }

    /// Returns once something changed that may change the plan. May be dropped and begun anew: what was not taken out of a watch
    /// stays in it, and what was taken out is compared at once.
    pub(super) async fn changed(&mut self) {
        loop {
            let is_news = {
                // Only whoever is woken is asked: there may be thousands.
                let waits = self.read.iter_mut();
                let mut waits: FuturesUnordered<_> = waits.map(Input::next).collect();
                tokio::select! {
                    is_news = waits.next() => is_news.unwrap_or(true),
                    event = self.configs.next() => is_foreign(&event, &self.root),
                }
            };
            // One plan answers all changes so far.
            if self.drain() || is_news {
                return;
            }
        }
    }

    /// Takes in all changes so far; whether one of them may change the plan.
    pub(super) fn drain(&mut self) -> bool {
        let mut is_news = false;
        for input in &mut self.read {
            while let Some(event) = input.watch.poll() {
                is_news |= input.take(&event);
            }
        }
        while let Some(event) = self.configs.poll() {
            is_news |= is_foreign(&event, &self.root);
        }
        is_news
    }
}

impl Input {
    fn open(store: &Arc<Store>, resource: Resource) -> Self {
        let mut input = Self {
            watch: store.watch(resource, store.version()),
            store: store.clone(),
            resource,
            held: Held::of(resource),
        };
        input.relist();
        input
    }

    /// Reads all objects anew. Changes that the watch still holds are taken once more, which alters nothing.
    fn relist(&mut self) {
        let (objects, _) = self.store.list(self.resource, None);
        let mut listed = BTreeSet::new();
        for object in &objects {
            let name = name_of(object);
            self.held.set(name, object);
            listed.insert(name);
        }
        for name in self.held.missing_in(&listed) {
            self.held.remove(&name);
        }
    }

    async fn next(&mut self) -> bool {
        let event = self.watch.next().await;
        self.take(&event)
    }

    /// Whether a change is one of what the planner reads.
    fn take(&mut self, event: &Event) -> bool {
        let name = name_of(&event.object);
        match event.kind {
            EventKind::Added | EventKind::Modified => self.held.set(name, &event.object),
            EventKind::Deleted => self.held.remove(name),
            EventKind::Relist => {
                self.relist();
                true
            }
        }
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, ready: &str, beat: u32) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": format!("2026-01-01T00:00:{beat:02}Z")},
        ]}})
    }

    fn cluster_node(name: &str, ip: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"clusterName": "a", "nodeName": name, "ip": ip}})
    }

    fn put(store: &Store, resource: Resource, object: &Value) {
        let written = store.put_or_create(resource, None, name_of(object), |held| {
            let version = held["metadata"].clone();
            *held = object.clone();
            held["metadata"] = version;
        });
        written.expect("a write");
    }

    /// A control plane with the Nodes of a member, and what it listens to.
    fn listening(nodes: usize) -> (Arc<Store>, Inputs) {
        let store = Arc::new(Store::default());
        for index in 0..nodes {
            put(
                &store,
                Resource::NODES,
                &node(&format!("n{index}"), "True", 0),
            );
        }
        put(
            &store,
            Resource::CLUSTER_NODES,
            &cluster_node("a-n1", "10.0.0.1"),
        );
        let member = Member {
            name: "a".to_owned(),
            store: store.clone(),
        };
        (store, Inputs::open(&[member]))
    }

    #[test]
    fn heartbeats_of_5000_nodes_are_no_reason_to_plan() {
        let (store, mut inputs) = listening(5000);
        assert!(!inputs.drain());
        for beat in 1..3 {
            for index in 0..5000 {
                let name = format!("n{index}");
                put(&store, Resource::NODES, &node(&name, "True", beat));
                // The log keeps fewer changes than all of these, and whoever falls behind has to list again.
                assert!(!inputs.drain(), "{name}");
            }
        }
    }

    #[test]
    fn what_the_planner_reads_is_a_reason_once() {
        let changes: [(Resource, Value); 4] = [
            (Resource::NODES, node("n1", "False", 1)),
            (Resource::NODES, node("new", "True", 1)),
            (Resource::CLUSTER_NODES, cluster_node("a-n1", "10.0.0.2")),
            (
                Resource::CLUSTER_NODES,
                json!({"metadata": {"name": "a-n1"}, "spec": 7}),
            ),
        ];
        let (store, mut inputs) = listening(3);
        for (resource, object) in &changes {
            put(&store, *resource, object);
            assert!(inputs.drain(), "{object}");
            // The same once more, at another version.
            put(&store, *resource, object);
            assert!(!inputs.drain(), "{object}");
        }
        let _ = store.delete(Resource::NODES, None, "n2");
        assert!(inputs.drain());
        assert!(!inputs.drain());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_a_reason_only() {
        let (store, mut inputs) = listening(3);
        for beat in 1..4 {
            put(&store, Resource::NODES, &node("n1", "True", beat));
            let wait = std::time::Duration::from_secs(10);
            let waited = tokio::time::timeout(wait, inputs.changed()).await;
            assert!(waited.is_err(), "heartbeat {beat}");
        }
        put(&store, Resource::NODES, &node("n1", "False", 9));
        inputs.changed().await;
    }
}
