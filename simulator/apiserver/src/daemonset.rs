//! The DaemonSet controller: one pod per node that the template fits, replaced a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::defaults;
use super::delete;
use super::managed::{self, Writer};
use super::resource::Resource;
use super::selector;
use super::shape;
use super::store::{self, Inner, key, key_of};
use super::{events, pod_security};

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
    let uid = &set["metadata"]["uid"];
    let pods: Vec<Arc<Value>> = inner
        .list(Resource::PODS, Some(namespace))
        .filter(|pod| {
            pod["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|owner| owner["uid"] == *uid && owner["controller"] == json!(true))
        })
        .collect();
    let deleting = set["metadata"]["deletionTimestamp"].is_string();
    let template = &set["spec"]["template"];
    let hash = hash(template);
    let mut held: BTreeMap<&str, &Arc<Value>> = BTreeMap::new();
    for pod in &pods {
        held.insert(pod["spec"]["nodeName"].as_str().unwrap_or_default(), pod);
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
            let pod = pod(set, node, &hash);
            let refused = held
                .as_ref()
                .and_then(|held| pod_security::violation(held, &pod["spec"]));
            if let Some(why) = refused {
                // The real one tries one pod first, too, and all others only once that succeeded.
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let message = format!("Error creating: pods {name:?} is forbidden: {why}");
                events::warn(inner, set, "FailedCreate", &message, "daemonset-controller");
                break;
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

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
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

/// What every daemon's pod tolerates.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Whether a pod of this specification may run on a node: selector, required affinity, taints.
pub(crate) fn fits(spec: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selected = spec["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(name, value)| labels.get(name) == Some(value));
    let named = spec["nodeName"]
        .as_str()
        .is_none_or(|name| name.is_empty() || node["metadata"]["name"] == name);
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let near = required["nodeSelectorTerms"]
        .as_array()
        .is_none_or(|terms| terms.iter().any(|term| term_holds(term, node)));
    selected && named && near && tolerated(spec, node)
}

fn term_holds(term: &Value, node: &Value) -> bool {
    let list = |name: &str| term[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let (labels, fields) = (list("matchExpressions"), list("matchFields"));
    let names = json!({"metadata.name": node["metadata"]["name"]});
    // A term that says nothing selects nothing.
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|one| selector::expression_holds(one, &node["metadata"]["labels"]))
        && fields
            .iter()
            .all(|one| selector::expression_holds(one, &names))
}

fn tolerated(spec: &Value, node: &Value) -> bool {
    let daemon = |taint: &Value| {
        TOLERATED
            .iter()
            .any(|(name, effect)| taint["key"] == *name && taint["effect"] == *effect)
            || taint["key"] == "node.kubernetes.io/network-unavailable"
                && spec["hostNetwork"] == json!(true)
    };
    let own = |taint: &Value| {
        spec["tolerations"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|toleration| {
                let word = |field: &str| toleration[field].as_str().unwrap_or_default();
                let effect = word("effect").is_empty() || taint["effect"] == word("effect");
                let all = word("key").is_empty() && word("operator") == "Exists";
                let same = taint["key"] == word("key")
                    && (word("operator") == "Exists"
                        || taint["value"].as_str().unwrap_or_default() == word("value"));
                effect && (all || same)
            })
    };
    node["spec"]["taints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|taint| taint["effect"] != "PreferNoSchedule")
        .all(|taint| daemon(taint) || own(taint))
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
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": set["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }],
    });
    if template["metadata"]["annotations"].is_object() {
        metadata["annotations"] = template["metadata"]["annotations"].clone();
    }
    let mut spec = template["spec"].clone();
    spec["enableServiceLinks"] = true.into();
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let host = spec["hostNetwork"] == json!(true);
    for (key, effect) in TOLERATED.iter().chain(host.then_some(&network)) {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    }
    spec["tolerations"] = tolerations.into();
    let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec});
    let writer = Writer {
        manager: "kube-controller-manager",
        api_version: "v1",
        subresource: "",
    };
    managed::update(&shape::builtin("Pod"), true, &json!({}), &mut pod, &writer);
    pod["spec"]["nodeName"] = node.into();
    defaults::prepare_pod(&mut pod);
    pod
}

/// Gives pods without a node one: the fitting node that has the fewest.
pub(crate) fn schedule(inner: &mut Inner) {
    let waiting: Vec<Arc<Value>> = inner
        .list(Resource::PODS, None)
        .filter(|pod| {
            pod["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
                && !pod["metadata"]["deletionTimestamp"].is_string()
                && pod["spec"]["schedulerName"] == "default-scheduler"
        })
        .collect();
    for pod in waiting {
        let mut best: Option<(usize, String)> = None;
        for node in inner.list(Resource::NODES, None) {
            let cordoned = node["spec"]["unschedulable"] == json!(true);
            if cordoned || !is_ready(&node) || !fits(&pod["spec"], &node) {
                continue;
            }
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let load = inner
                .list(Resource::PODS, None)
                .filter(|pod| pod["spec"]["nodeName"] == name)
                .count();
            if best.as_ref().is_none_or(|(least, _)| load < *least) {
                best = Some((load, name.to_owned()));
            }
        }
        let namespace = pod["metadata"]["namespace"].as_str();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let Some(old) = inner.get(Resource::PODS, &key(namespace, name)) else {
            continue;
        };
        let mut new = (*old).clone();
        match best {
            Some((_, node)) => new["spec"]["nodeName"] = node.into(),
            None => {
                let nodes = inner.list(Resource::NODES, None).count();
                let message = format!(
                    "0/{nodes} nodes are available: none is ready, schedulable, and fits the pod's selector, affinity and tolerations."
                );
                events::warn(
                    inner,
                    &old,
                    "FailedScheduling",
                    &message,
                    "default-scheduler",
                );
                unschedulable(&mut new, &message);
            }
        }
        if *old != new {
            inner.replace(Resource::PODS, &old, new);
        }
    }
}

/// Says in a pod's conditions that it has no node, and why; what says so already stays as it is.
fn unschedulable(pod: &mut Value, message: &str) {
    let conditions = pod["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default();
    let says_so =
        |condition: &Value| condition["type"] == "PodScheduled" && condition["message"] == message;
    if conditions.iter().any(says_so) {
        return;
    }
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": store::now(),
    }));
    pod["status"]["conditions"] = conditions.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_affinity_and_taints_decide() {
        let node = json!({"metadata": {"name": "n1", "labels": {"a": "b"}}, "spec": {}});
        let excluded = json!({"metadata": {"name": "n2", "labels": {"kosmos.io/exclude": "true"}}});
        let away = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "kosmos.io/exclude", "operator": "DoesNotExist"}]}],
        }}}});
        assert!(fits(&away, &node));
        assert!(!fits(&away, &excluded));
        assert!(fits(&json!({"nodeSelector": {"a": "b"}}), &node));
        assert!(!fits(&json!({"nodeSelector": {"a": "c"}}), &node));
        let mut tainted = node.clone();
        tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        assert!(!fits(&json!({}), &tainted));
        assert!(fits(
            &json!({"tolerations": [{"operator": "Exists"}]}),
            &tainted
        ));
        assert!(fits(
            &json!({"tolerations": [{"key": "k", "operator": "Equal", "value": "v"}]}),
            &tainted
        ));
    }

    #[test]
    fn the_order_of_fields_does_not_change_a_template() {
        let (a, b) = (json!({"x": 1, "y": [2]}), json!({"y": [2], "x": 1}));
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&json!({"x": 1})));
    }
}
