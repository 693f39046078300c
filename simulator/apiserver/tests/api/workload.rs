//! A cluster whose pods become ready by themselves and end when they are asked to.

use std::sync::Arc;

use apiserver::{ApiCluster, EventKind, Resource};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::asked::Asked;

pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A Deployment of pods that the system needs on its nodes.
pub(crate) fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "c", "image": image}],
        }},
    }})
}

/// A node whose condition Ready is this.
pub(crate) fn node(name: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

/// A cluster with its controllers and a kubelet of few words running.
pub(crate) struct World {
    pub(crate) asked: Asked,
}

impl World {
    pub(crate) fn new() -> Self {
        let asked = Asked::new();
        let cluster = asked.0.clone();
        tokio::spawn(
            cluster
                .clone()
                .run_controllers(std::future::pending::<()>()),
        );
        tokio::spawn(kubelet(cluster));
        Self { asked }
    }

    pub(crate) fn cluster(&self) -> &Arc<ApiCluster> {
        &self.asked.0
    }

    pub(crate) fn list(&self, resource: Resource) -> Vec<Arc<Value>> {
        self.cluster().store().list(resource, None).0
    }

    /// Waits until an object is as it should be.
    pub(crate) async fn until(
        &self,
        resource: Resource,
        name: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Arc<Value> {
        self.until_some(resource, |object| {
            object["metadata"]["name"] == name && holds(object)
        })
        .await
    }

    /// Waits until some object is as it should be.
    pub(crate) async fn until_some(
        &self,
        resource: Resource,
        holds: impl Fn(&Value) -> bool,
    ) -> Arc<Value> {
        let mut found = None;
        self.wait(resource, |all| {
            found = all.iter().find(|object| holds(object)).cloned();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn until_count(&self, resource: Resource, count: usize) {
        self.wait(resource, |all| all.len() == count).await;
    }

    pub(crate) async fn until_gone(&self, resource: Resource) {
        self.until_count(resource, 0).await;
    }

    /// Waits for a state of all objects of a kind, looked at after every change of one.
    async fn wait(&self, resource: Resource, mut holds: impl FnMut(&[Arc<Value>]) -> bool) {
        let mut watch = self.cluster().store().watch(resource, 0);
        let soon = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while !holds(&self.list(resource)) {
                watch.next().await;
            }
        });
        if soon.await.is_err() {
            panic!("{:#?}", self.list(resource));
        }
    }

    /// The fewest pods that were ready and the most that were there until all are as the Deployment `d` wants them.
    pub(crate) fn watch_pods(&self) -> JoinHandle<(usize, usize)> {
        let cluster = self.cluster().clone();
        let mut watch = cluster
            .store()
            .watch(Resource::PODS, cluster.store().version());
        tokio::spawn(async move {
            let mut pods = std::collections::BTreeMap::new();
            for pod in cluster.store().list(Resource::PODS, None).0 {
                pods.insert(pod["metadata"]["uid"].to_string(), pod);
            }
            let first: std::collections::BTreeSet<String> = pods.keys().cloned().collect();
            let (mut least, mut most) = (usize::MAX, 0);
            loop {
                let event = watch.next().await;
                let uid = event.object["metadata"]["uid"].to_string();
                if event.kind == EventKind::Deleted {
                    pods.remove(&uid);
                } else {
                    pods.insert(uid, event.object);
                }
                let there = |pod: &&Arc<Value>| !pod["metadata"]["deletionTimestamp"].is_string();
                let serving = pods
                    .values()
                    .filter(there)
                    .filter(|pod| is_ready(pod))
                    .count();
                (least, most) = (
                    least.min(serving),
                    most.max(pods.values().filter(there).count()),
                );
                let replaced = pods.keys().all(|uid| !first.contains(uid));
                if replaced && pods.len() == first.len() && serving == first.len() {
                    return (least, most);
                }
            }
        })
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}

/// Makes bound pods ready once and lets pods go that are to end.
async fn kubelet(cluster: Arc<ApiCluster>) {
    let mut watch = cluster.store().watch(Resource::PODS, 0);
    loop {
        let event = watch.next().await;
        if event.kind == EventKind::Deleted {
            continue;
        }
        let pod = &event.object;
        let name = pod["metadata"]["name"].as_str().unwrap();
        if pod["metadata"]["deletionTimestamp"].is_string() {
            // It may have gone since.
            let _ = cluster
                .store()
                .delete(Resource::PODS, Some("default"), name);
        } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
            let status =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            let _ = cluster
                .store()
                .put_status(Resource::PODS, Some("default"), name, status);
        }
    }
}
