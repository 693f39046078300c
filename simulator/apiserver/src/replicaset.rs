//! The ReplicaSet controller: as many pods of a template as are asked for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::managed::{self, Writer};
use super::replicated::{controlled, is_leaving, is_ready, owned_by};
use super::resource::Resource;
use super::store::{self, Inner, key, key_of};
use super::{defaults, delete, events, ids, pod_security, priority, shape};

/// The most pods that one step makes for a set: the next change makes more.
const BURST: i64 = 500;

/// Brings every ReplicaSet one step closer; what it writes wakes it again.
pub(crate) fn reconcile(inner: &mut Inner) {
    let sets: Vec<Arc<Value>> = inner.list(Resource::REPLICA_SETS, None).collect();
    for set in sets {
        one(inner, &set);
    }
}

fn one(inner: &mut Inner, set: &Arc<Value>) {
    let mut active: Vec<Arc<Value>> = Vec::new();
    for pod in controlled(inner, Resource::PODS, set) {
        if is_leaving(&pod) {
            continue;
        }
        match pod["status"]["phase"].as_str() {
            Some("Failed" | "Succeeded") => {}
            _ if is_orphaned(inner, &pod) => {
                delete::delete_object(inner, Resource::PODS, &pod, Some(0));
            }
            _ => active.push(pod),
        }
    }
    let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1);
    let there = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let mut refused = None;
    if !is_leaving(set) {
        if there < wanted {
            refused = make(inner, set, (wanted - there).min(BURST));
        } else {
            drop_surplus(inner, &active, there - wanted);
        }
    }
    publish(inner, set, &active, refused);
}

/// Whether a pod is bound to a node that is gone: no kubelet is there to end it.
fn is_orphaned(inner: &Inner, pod: &Value) -> bool {
    pod["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty() && !inner.has(Resource::NODES, &key(None, node)))
}

/// Makes pods; why the first one was refused, if it was.
fn make(inner: &mut Inner, set: &Value, missing: i64) -> Option<String> {
    let namespace = set["metadata"]["namespace"].as_str().unwrap_or_default();
    let held = inner.get(Resource::NAMESPACES, &key(None, namespace))?;
    if is_leaving(&held) {
        return None;
    }
    for _ in 0..missing {
        let mut pod = pod(set);
        let violation = pod_security::violation(&held, &pod["spec"]);
        let why = violation.or_else(|| priority::resolve(inner, &mut pod).err());
        if let Some(why) = why {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let message = format!("pods {name:?} is forbidden: {why}");
            // The name is another one at every try; what is said again and again is said without it.
            let said = format!("Error creating: pods are forbidden: {why}");
            events::warn(inner, set, "FailedCreate", &said, "replicaset-controller");
            return Some(message);
        }
        // A name that is taken is tried again with another one at the next change.
        let _ = inner.create(Resource::PODS, Some(namespace), pod);
    }
    None
}

/// Ends pods that are too many: those first whose end costs least.
fn drop_surplus(inner: &mut Inner, active: &[Arc<Value>], surplus: i64) {
    let mut ranked: Vec<&Arc<Value>> = active.iter().collect();
    ranked.sort_by_key(|pod| {
        let is_bound = pod["spec"]["nodeName"]
            .as_str()
            .is_some_and(|node| !node.is_empty());
        let running = pod["status"]["phase"] == "Running";
        let made = pod["metadata"]["creationTimestamp"].as_str().unwrap_or("");
        (
            is_bound,
            running,
            is_ready(pod),
            std::cmp::Reverse(made.to_owned()),
        )
    });
    let surplus = usize::try_from(surplus).unwrap_or(0);
    for pod in ranked.into_iter().take(surplus) {
        delete::delete_object(inner, Resource::PODS, pod, None);
    }
}

fn pod(set: &Value) -> Value {
    let template = &set["spec"]["template"];
    let name = set["metadata"]["name"].as_str().unwrap_or_default();
    let mut metadata = json!({
        "name": format!("{name}-{}", ids::suffix()), "generateName": format!("{name}-"),
        "labels": template["metadata"]["labels"], "ownerReferences": owned_by(set),
    });
    if template["metadata"]["annotations"].is_object() {
        metadata["annotations"] = template["metadata"]["annotations"].clone();
    }
    let mut pod =
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": template["spec"]});
    let writer = Writer {
        manager: "kube-controller-manager",
        api_version: "v1",
        subresource: "",
    };
    pod["spec"]["enableServiceLinks"] = true.into();
    managed::update(&shape::builtin("Pod"), true, &json!({}), &mut pod, &writer);
    defaults::prepare_pod(&mut pod);
    pod
}

fn publish(inner: &mut Inner, set: &Arc<Value>, active: &[Arc<Value>], refused: Option<String>) {
    let Some(old) = inner.get(Resource::REPLICA_SETS, &key_of(set)) else {
        return;
    };
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let labelled = |pod: &&Arc<Value>| {
        labels
            .as_object()
            .into_iter()
            .flatten()
            .all(|(name, value)| pod["metadata"]["labels"].get(name) == Some(value))
    };
    let ready = active.iter().filter(|pod| is_ready(pod)).count();
    let mut status =
        json!({"replicas": active.len(), "observedGeneration": old["metadata"]["generation"]});
    for (name, number) in [
        (
            "fullyLabeledReplicas",
            active.iter().filter(labelled).count(),
        ),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
    ] {
        if number != 0 {
            status[name] = number.into();
        }
    }
    if let Some(why) = refused {
        let held = &old["status"]["conditions"][0];
        let since = match held["type"].as_str() {
            Some("ReplicaFailure") => held["lastTransitionTime"].clone(),
            _ => store::now().into(),
        };
        // The pod's name in it changes with every try; the first one stays.
        let why = match held["message"].as_str() {
            Some(said) if held["type"] == "ReplicaFailure" => said.to_owned(),
            _ => why,
        };
        status["conditions"] = json!([{
            "type": "ReplicaFailure", "status": "True", "lastTransitionTime": since, "reason": "FailedCreate", "message": why,
        }]);
    }
    write_status(inner, Resource::REPLICA_SETS, &old, status);
}

/// Replaces the status of a workload as its controller does.
pub(crate) fn write_status(inner: &mut Inner, resource: Resource, old: &Arc<Value>, status: Value) {
    if old["status"] == status {
        return;
    }
    let mut new = (**old).clone();
    new["status"] = status;
    let writer = Writer {
        manager: "kube-controller-manager",
        api_version: "apps/v1",
        subresource: "status",
    };
    managed::update(&shape::builtin(resource.kind), true, old, &mut new, &writer);
    inner.replace(resource, old, new);
}
