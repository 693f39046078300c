//! The DaemonSet controller: one pod per node that the template fits, replaced a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::defaults;
use super::delete;
use super::managed::{self, Writer};
use super::replicated::{controlled, is_ready, owned_by};
use super::resource::Resource;
use super::scheduler::{self, TOLERATED};
use super::shape;
use super::store::{Inner, key, key_of};
use super::{events, pod_security, priority};

/// Brings every DaemonSet one step closer; what it writes wakes it again.
pub(crate) fn reconcile(inner: &mut Inner) {
    let sets: Vec<Arc<Value>> = inner.list(Resource::DAEMON_SETS, None).collect();
    if sets.is_empty() {
        return;
    }
    let nodes: Vec<Arc<Value>> = inner.list(Resource::NODES, None).collect();
    for set in sets {
        one(inner, &set, &nodes);
    }
}

fn one(inner: &mut Inner, set: &Arc<Value>, nodes: &[Arc<Value>]) {
    let namespace = set["metadata"]["namespace"].as_str().unwrap_or_default();
    let pods = controlled(inner, Resource::PODS, set);
    let deleting = set["metadata"]["deletionTimestamp"].is_string();
    let template = &set["spec"]["template"];
    let hash = hash(template);
    let mut held: BTreeMap<&str, &Arc<Value>> = BTreeMap::new();
    for pod in &pods {
        held.insert(node_of(pod), pod);
    }
    let (mut desired, mut current, mut misplaced) = (0, 0, 0);
    let (mut ready, mut updated, mut unavailable) = (0_i64, 0, 0);
    let mut outdated = Vec::new();
    let mut missing = Vec::new();
    for node in nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let fits = fits(&template["spec"], node);
        let Some(pod) = held.remove(name) else {
            if fits {
                desired += 1;
                unavailable += 1;
                missing.push(name);
            }
            continue;
        };
        let going = pod["metadata"]["deletionTimestamp"].is_string();
        if !fits {
            misplaced += 1;
            if !going && !deleting {
                delete::delete_object(inner, Resource::PODS, pod, None);
            }
            continue;
        }
        desired += 1;
        if going {
            unavailable += 1;
            continue;
        }
        current += 1;
        let is_ready = is_ready(pod);
        ready += i64::from(is_ready);
        unavailable += i64::from(!is_ready);
        if pod["status"]["phase"] == "Failed" {
            if !deleting {
                delete::delete_object(inner, Resource::PODS, pod, Some(0));
            }
        } else if pod["metadata"]["labels"]["controller-revision-hash"] == hash.as_str() {
            updated += 1;
        } else {
            outdated.push((is_ready, pod));
        }
    }
    if !deleting {
        // What is left runs on nodes that are gone: no kubelet is there to end it.
        for pod in held.into_values() {
            delete::delete_object(inner, Resource::PODS, pod, Some(0));
        }
        let held = inner.get(Resource::NAMESPACES, &key(None, namespace));
        for node in missing {
            let mut pod = pod(set, node, &hash);
            let refused = held
                .as_ref()
                .and_then(|held| pod_security::violation(held, &pod["spec"]))
                .or_else(|| priority::resolve(inner, &mut pod).err());
            if let Some(why) = refused {
                // The real one tries one pod first, too, and all others only once that succeeded.
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let message = format!("Error creating: pods {name:?} is forbidden: {why}");
                events::warn(inner, set, "FailedCreate", &message, "daemonset-controller");
                break;
            }
            // Upstream leaves all of them to the scheduler, which has to find what is in the way only here.
            if !scheduler::is_port_taken(inner, &pod["spec"], node) {
                pod["spec"]["nodeName"] = node.into();
            }
            // A pod of that name that somebody else made stands in the way; the next change tries again.
            let _ = inner.create(Resource::PODS, Some(namespace), pod);
        }
        if set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            let most = most_unavailable(&set["spec"]["updateStrategy"], desired);
            // Those that are down already first: replacing them costs nothing.
            outdated.sort_by_key(|(is_ready, _)| *is_ready);
            let mut down = unavailable;
            for (is_ready, pod) in outdated {
                if is_ready && down >= most {
                    break;
                }
                down += i64::from(is_ready);
                delete::delete_object(inner, Resource::PODS, pod, None);
            }
        }
    }
    let mut status = json!({
        "currentNumberScheduled": current, "numberMisscheduled": misplaced, "desiredNumberScheduled": desired,
        "numberReady": ready, "observedGeneration": set["metadata"]["generation"],
    });
    for (name, number) in [
        ("updatedNumberScheduled", updated),
        ("numberAvailable", ready),
        ("numberUnavailable", unavailable),
    ] {
        if number != 0 {
            status[name] = number.into();
        }
    }
    let Some(old) = inner.get(Resource::DAEMON_SETS, &key_of(set)) else {
        return;
    };
    if old["status"] != status {
        let mut new = (*old).clone();
        new["status"] = status;
        let writer = Writer {
            manager: "kube-controller-manager",
            api_version: "apps/v1",
            subresource: "status",
        };
        managed::update(&shape::builtin("DaemonSet"), true, &old, &mut new, &writer);
        inner.replace(Resource::DAEMON_SETS, &old, new);
    }
}

/// The node that a daemon's pod is meant for, whether it is there already or not.
fn node_of(pod: &Value) -> &str {
    const NAME: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    let bound = pod["spec"]["nodeName"].as_str();
    let meant = || pod.pointer(NAME).and_then(Value::as_str);
    bound
        .filter(|node| !node.is_empty())
        .or_else(meant)
        .unwrap_or_default()
}

fn most_unavailable(strategy: &Value, desired: i64) -> i64 {
    let most = match &strategy["rollingUpdate"]["maxUnavailable"] {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (desired * percent + 99) / 100
        }
        value => value.as_i64().unwrap_or(1),
    };
    most.max(1)
}

/// Whether a node gets a daemon: what is meant for it, and what every daemon tolerates or this one does.
fn fits(spec: &Value, node: &Value) -> bool {
    let mut tolerant = json!({"tolerations": spec["tolerations"]});
    add_tolerations(&mut tolerant, spec["hostNetwork"] == json!(true));
    scheduler::is_chosen(spec, node) && scheduler::untolerated(&tolerant, node).is_none()
}

/// Adds what every daemon's pod tolerates.
fn add_tolerations(spec: &mut Value, host: bool) {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    for (key, effect) in TOLERATED.iter().chain(host.then_some(&network)) {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    }
    spec["tolerations"] = tolerations.into();
}

/// A short name for a template, the same for equal ones.
pub(crate) fn hash(template: &Value) -> String {
    let mut text = String::new();
    canonical(template, &mut text);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    digest.as_ref()[..10]
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

/// Fields in the order of their names, so that the order in which a client sent them does not count.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            text.push('{');
            for (name, inner) in sorted {
                text.push_str(name);
                text.push(':');
                canonical(inner, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(list) => {
            text.push('[');
            for inner in list {
                canonical(inner, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// The pod of a node.
fn pod(set: &Value, node: &str, hash: &str) -> Value {
    let template = &set["spec"]["template"];
    let name = set["metadata"]["name"].as_str().unwrap_or_default();
    let mut labels = template["metadata"]["labels"].clone();
    labels["controller-revision-hash"] = hash.into();
    labels["pod-template-generation"] =
        set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    let mut metadata = json!({
        "name": format!("{name}-{node}"), "generateName": format!("{name}-"), "labels": labels,
        "ownerReferences": owned_by(set),
    });
    if template["metadata"]["annotations"].is_object() {
        metadata["annotations"] = template["metadata"]["annotations"].clone();
    }
    let mut spec = template["spec"].clone();
    spec["enableServiceLinks"] = true.into();
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    let host = spec["hostNetwork"] == json!(true);
    add_tolerations(&mut spec, host);
    let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec});
    let writer = Writer {
        manager: "kube-controller-manager",
        api_version: "v1",
        subresource: "",
    };
    managed::update(&shape::builtin("Pod"), true, &json!({}), &mut pod, &writer);
    defaults::prepare_pod(&mut pod);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_fields_does_not_change_a_template() {
        let (a, b) = (json!({"x": 1, "y": [2]}), json!({"y": [2], "x": 1}));
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&json!({"x": 1})));
    }
}
