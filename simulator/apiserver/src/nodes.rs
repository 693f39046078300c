//! Whether a node is heard of, and what becomes of its pods.
//!
//! ```text
//!   Lease renewed ─► heard ──── nothing for the grace ───► lost: conditions Unknown, tainted, its pods are not ready
//!                      ▲                                                             │
//!                      └──────────── its kubelet says that it is ready ──────────────┘
//! ```
//!
//! The pods stay until somebody deletes them, and beyond that until a kubelet confirms it: there are no evictions, which upstream begins
//! after five minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::replicated::is_ready;
use super::resource::Resource;
use super::store::{self, Change, EventKind, Inner};

/// Why a pod's condition says that it is not ready.
const LOST: &str = "NodeNotReady";

/// Where kubelets keep their Leases.
const LEASES: &str = "kube-node-lease";
/// What the conditions of a lost node say.
const SILENT: (&str, &str) = ("NodeStatusUnknown", "Kubelet stopped posting node status.");
/// What is said of a node that never said anything.
const MUTE: (&str, &str) = (
    "NodeStatusNeverUpdated",
    "Kubelet never posted node status.",
);
/// The conditions that only a kubelet can know, as upstream's controller has them.
const CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Which nodes are heard of. A node is lost once neither its Lease nor its own word on its conditions has been renewed for the grace.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    grace: Duration,
    heard: BTreeMap<String, Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    is_lost: bool,
}

impl Lifecycle {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            heard: BTreeMap::new(),
        }
    }

    /// Takes a change in that happened now.
    pub(crate) fn hear(&mut self, change: &Change, now: Instant) {
        let metadata = &change.object["metadata"];
        let Some(name) = metadata["name"].as_str() else {
            return;
        };
        let heard = Heard {
            at: now,
            is_lost: false,
        };
        if change.table == Resource::LEASES.table() {
            if metadata["namespace"] == LEASES
                && change.kind != EventKind::Deleted
                && let Some(held) = self.heard.get_mut(name)
            {
                *held = heard;
            }
            return;
        }
        if change.table != Resource::NODES.table() {
            return;
        }
        match change.kind {
            EventKind::Deleted => {
                self.heard.remove(name);
            }
            EventKind::Modified if !is_word(change) => {}
            _ => {
                self.heard.insert(name.to_owned(), heard);
            }
        }
    }

    /// Takes all nodes in where changes were missed: whoever may have been heard of meanwhile has been.
    pub(crate) fn relist(&mut self, inner: &Inner, now: Instant) {
        let nodes: Vec<Arc<Value>> = inner.list(Resource::NODES, None).collect();
        let names = nodes
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str());
        let heard = Heard {
            at: now,
            is_lost: false,
        };
        self.heard = names.map(|name| (name.to_owned(), heard)).collect();
    }

    /// When the next node is lost, if nothing is heard of it until then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.heard.values().filter(|heard| !heard.is_lost);
        waiting.map(|heard| heard.at + self.grace).min()
    }

    /// Says of nodes that are lost now that they are, and taints all as their conditions are.
    pub(crate) fn judge(&mut self, inner: &mut Inner, now: Instant) {
        for (name, heard) in &mut self.heard {
            let Some(node) = inner.get(Resource::NODES, &store::key(None, name)) else {
                continue;
            };
            heard.is_lost = now.duration_since(heard.at) >= self.grace;
            let mut new = (*node).clone();
            if heard.is_lost {
                lose(&mut new);
            }
            taint(&mut new);
            inner.replace(Resource::NODES, &node, new);
        }
    }
}

/// Whether a change of a Node is its kubelet's word: the condition Ready was written, and not as what this controller says.
fn is_word(change: &Change) -> bool {
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|one| one["type"] == "Ready").cloned()
    };
    let (before, after) = (
        change.before.as_deref().and_then(ready),
        ready(&change.object),
    );
    after != before && after.is_some_and(|ready| ready["status"] != "Unknown")
}

/// Writes that nobody knows how a node is.
fn lose(node: &mut Value) {
    let conditions = &mut node["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    for kind in CONDITIONS {
        let now = store::now();
        let Some(held) = conditions.iter_mut().find(|one| one["type"] == *kind) else {
            conditions.push(json!({
                "type": kind, "status": "Unknown", "reason": MUTE.0, "message": MUTE.1,
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }));
            continue;
        };
        if held["status"] != "Unknown" {
            held["status"] = "Unknown".into();
            held["reason"] = SILENT.0.into();
            held["message"] = SILENT.1.into();
            held["lastTransitionTime"] = now.into();
        }
    }
}

/// Gives a node the taints of its condition Ready, and takes the others away.
fn taint(node: &mut Value) {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.find(|one| one["type"] == "Ready");
    let Some(ready) = ready.and_then(|ready| ready["status"].as_str()) else {
        return;
    };
    let key = match ready {
        "True" => "",
        "False" => NOT_READY,
        _ => UNREACHABLE,
    };
    let held = node["spec"]["taints"].as_array().cloned();
    let before = held.unwrap_or_default();
    let is_of_others = |taint: &Value| taint["key"] != NOT_READY && taint["key"] != UNREACHABLE;
    let is_right = |taint: &&Value| is_of_others(taint) || taint["key"] == key;
    let mut after: Vec<Value> = before.iter().filter(is_right).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let has = |taint: &Value| taint["key"] == key && taint["effect"] == effect;
        if !key.is_empty() && !after.iter().any(has) {
            after.push(json!({"key": key, "effect": effect, "timeAdded": store::now()}));
        }
    }
    if after == before {
        return;
    }
    if after.is_empty() {
        if let Some(spec) = node["spec"].as_object_mut() {
            spec.shift_remove("taints");
        }
    } else {
        node["spec"]["taints"] = after.into();
    }
}

/// The node that a change is about and whether it is ready now, where that is new.
pub(crate) fn turned(change: &Change) -> Option<(String, bool)> {
    if change.table != Resource::NODES.table() || change.kind != EventKind::Modified {
        return None;
    }
    let (before, after) = (
        is_ready(change.before.as_deref()?),
        is_ready(&change.object),
    );
    let name = change.object["metadata"]["name"].as_str()?;
    (before != after).then(|| (name.to_owned(), after))
}

/// Says of the pods of a lost node that they are not ready, since no kubelet is there to say it; and takes it back where the node is
/// there again and no kubelet has said anything since.
pub(crate) fn tell_pods(inner: &mut Inner, node: &str, is_there: bool) {
    let pods: Vec<Arc<Value>> = inner
        .list(Resource::PODS, None)
        .filter(|pod| pod["spec"]["nodeName"] == node)
        .collect();
    for pod in pods {
        let mut new = (*pod).clone();
        let conditions = new["status"]["conditions"].as_array_mut();
        for condition in conditions.into_iter().flatten() {
            let holds = condition["status"] == "True";
            if condition["type"] != "Ready" || holds == is_there {
                continue;
            }
            if is_there && condition["reason"] != LOST {
                continue;
            }
            condition["status"] = if is_there { "True" } else { "False" }.into();
            condition["lastTransitionTime"] = store::now().into();
            if let Some(condition) = condition.as_object_mut() {
                condition.shift_remove("reason");
                if !is_there {
                    condition.insert("reason".to_owned(), LOST.into());
                }
            }
        }
        if *pod != new {
            inner.replace(Resource::PODS, &pod, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const GRACE: Duration = Duration::from_secs(40);

    fn at(seconds: u64) -> impl Fn(Instant) -> Instant {
        move |start| start + Duration::from_secs(seconds)
    }

    /// A store with a node that is ready and its Lease, and who has heard of them.
    fn heard(start: Instant) -> (Store, Lifecycle) {
        let store = Store::default();
        let make = |resource, namespace, object| {
            let made = store.create(resource, namespace, object);
            made.expect("an object");
        };
        make(
            Resource::NAMESPACES,
            None,
            json!({"metadata": {"name": LEASES}}),
        );
        let node = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "own", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        make(Resource::NODES, None, node);
        let lease = json!({"metadata": {"name": "n1"}, "spec": {"renewTime": 0}});
        make(Resource::LEASES, Some(LEASES), lease);
        let mut lifecycle = Lifecycle::new(GRACE);
        lifecycle.relist(&store.lock(), start);
        (store, lifecycle)
    }

    /// Has the newest change heard, and everything judged.
    fn heed(store: &Store, lifecycle: &mut Lifecycle, now: Instant) {
        let changes: Vec<Change> = {
            let inner = store.lock();
            let last = inner.version() - 1;
            inner
                .since(last)
                .map(|all| all.cloned().collect())
                .unwrap_or_default()
        };
        changes
            .iter()
            .for_each(|change| lifecycle.hear(change, now));
        store.write(|inner| lifecycle.judge(inner, now));
    }

    fn renew(store: &Store, time: u64) {
        let renewed = store.put(Resource::LEASES, Some(LEASES), "n1", |lease| {
            lease["spec"]["renewTime"] = time.into();
        });
        renewed.expect("a Lease");
    }

    fn node(store: &Store) -> Arc<Value> {
        store.get(Resource::NODES, None, "n1").expect("the node")
    }

    #[test]
    fn a_node_is_lost_after_the_grace_and_tainted_until_its_kubelet_speaks() {
        let start = Instant::now();
        let (store, mut lifecycle) = heard(start);
        assert_eq!(lifecycle.deadline(), Some(at(40)(start)));
        renew(&store, 1);
        heed(&store, &mut lifecycle, at(30)(start));
        assert_eq!(lifecycle.deadline(), Some(at(70)(start)));
        store.write(|inner| lifecycle.judge(inner, at(69)(start)));
        assert!(is_ready(&node(&store)));
        store.write(|inner| lifecycle.judge(inner, at(70)(start)));
        let lost = node(&store);
        let condition = &lost["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("Unknown"), &json!(SILENT.0))
        );
        let effects: Vec<&Value> = lost["spec"]["taints"]
            .as_array()
            .expect("taints")
            .iter()
            .filter(|taint| taint["key"] == UNREACHABLE)
            .map(|taint| &taint["effect"])
            .collect();
        assert_eq!(effects, ["NoSchedule", "NoExecute"]);
        assert_eq!(lifecycle.deadline(), None, "it is lost already");
        // What this controller itself has written is nobody's word.
        heed(&store, &mut lifecycle, at(71)(start));
        assert!(!is_ready(&node(&store)));
        // A Lease alone says nothing of how the node is.
        renew(&store, 2);
        heed(&store, &mut lifecycle, at(80)(start));
        assert!(!is_ready(&node(&store)));
        let spoken = store.put(Resource::NODES, None, "n1", |node| {
            node["status"]["conditions"][0]["status"] = "True".into();
        });
        spoken.expect("the node");
        heed(&store, &mut lifecycle, at(81)(start));
        assert_eq!(
            node(&store)["spec"]["taints"],
            json!([{"key": "own", "effect": "NoSchedule"}])
        );
    }

    #[test]
    fn renewals_leave_the_changes_of_others_in_the_log() {
        let (store, _) = heard(Instant::now());
        let store = Arc::new(store);
        store.keep_changes(4);
        let before = store.version();
        let mut leases = store.watch(Resource::LEASES, before);
        let mut nodes = store.watch(Resource::NODES, before);
        let changed = store.put(Resource::NODES, None, "n1", |node| {
            node["metadata"]["labels"] = json!({"a": "b"});
        });
        changed.expect("the node");
        (1..100).for_each(|time| renew(&store, time));
        let event = nodes.poll().expect("it is still there");
        assert_eq!(event.kind, EventKind::Modified);
        assert!(nodes.poll().is_none());
        assert_eq!(
            leases.poll().map(|event| event.kind),
            Some(EventKind::Relist)
        );
        renew(&store, 100);
        let event = leases.poll().expect("the newest");
        assert_eq!(event.object["spec"]["renewTime"], 100);
    }
}
