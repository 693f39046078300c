//! The scheduler: which node a pod goes to, and why it goes to none.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::events;
use super::replicated::{is_leaving, is_ready};
use super::resource::Resource;
use super::selector;
use super::store::{self, Inner, key};

/// What every daemon's pod tolerates.
pub(crate) const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Whether a pod of this specification is meant for a node: selector and required affinity.
pub(crate) fn is_chosen(spec: &Value, node: &Value) -> bool {
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
    selected && named && near
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

/// The first taint of a node that keeps a pod away.
pub(crate) fn untolerated<'a>(spec: &Value, node: &'a Value) -> Option<&'a Value> {
    let tolerates = |taint: &Value| {
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
        .find(|taint| taint["effect"] != "PreferNoSchedule" && !tolerates(taint))
}

/// The ports of its node that a pod takes: protocol, address, number.
fn host_ports(spec: &Value) -> Vec<(&str, &str, i64)> {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let ports =
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports
        .filter_map(|port| {
            let number = port["hostPort"].as_i64().filter(|number| *number > 0)?;
            let ip = port["hostIP"].as_str().filter(|ip| !ip.is_empty());
            Some((
                port["protocol"].as_str().unwrap_or("TCP"),
                ip.unwrap_or("0.0.0.0"),
                number,
            ))
        })
        .collect()
}

/// Whether two pods want one port of their node.
fn collide(one: &Value, other: &Value) -> bool {
    let taken = host_ports(other);
    host_ports(one).into_iter().any(|(protocol, ip, number)| {
        taken.iter().any(|(theirs, address, port)| {
            let any = ip == "0.0.0.0" || *address == "0.0.0.0" || ip == *address;
            protocol == *theirs && number == *port && any
        })
    })
}

/// Whether another pod holds a port of a node that this one wants.
pub(crate) fn is_port_taken(inner: &Inner, spec: &Value, node: &str) -> bool {
    if host_ports(spec).is_empty() {
        return false;
    }
    inner.list(Resource::PODS, None).any(|other| {
        other["spec"]["nodeName"] == node && !is_over(&other) && collide(spec, &other["spec"])
    })
}

fn is_over(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Failed" | "Succeeded")
    )
}

/// Whether a pod that may not be beside those of its required anti-affinity would be: the terms count for one node each.
fn is_repelled(pod: &Value, there: &[Arc<Value>]) -> bool {
    let required = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required.as_array().into_iter().flatten();
    let mut terms = terms.filter(|term| term["topologyKey"] == "kubernetes.io/hostname");
    terms.any(|term| {
        there.iter().any(|other| {
            let namespaces = term["namespaces"]
                .as_array()
                .filter(|list| !list.is_empty());
            let own = &other["metadata"]["namespace"];
            let here = match namespaces {
                Some(list) => list.contains(own),
                None => pod["metadata"]["namespace"] == *own,
            };
            here && selector::selects(&term["labelSelector"], &other["metadata"]["labels"])
        })
    })
}

/// Why a node does not take a pod, in upstream's words; none if it does.
fn objection(pod: &Value, node: &Value, there: &[Arc<Value>]) -> Option<String> {
    let spec = &pod["spec"];
    let is_daemon = pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet";
    let tolerates_cordon = untolerated(
        spec,
        &json!({"spec": {"taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        ]}}),
    )
    .is_none();
    if node["spec"]["unschedulable"] == json!(true) && !tolerates_cordon {
        Some("node(s) were unschedulable".to_owned())
    } else if let Some(taint) = untolerated(spec, node) {
        let word = |field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        Some(format!(
            "node(s) had untolerated taint(s) {{{}: {}}}",
            word("key"),
            word("value")
        ))
    } else if !is_chosen(spec, node) {
        Some("node(s) didn't match Pod's node affinity/selector".to_owned())
    } else if !is_ready(node) && !is_daemon {
        // Upstream says this with a taint of the node lifecycle controller's.
        Some("node(s) were not ready".to_owned())
    } else if there.iter().any(|other| collide(spec, &other["spec"])) {
        Some("node(s) didn't have free ports for the requested pod ports".to_owned())
    } else if is_repelled(pod, there) {
        Some("node(s) didn't match pod anti-affinity rules".to_owned())
    } else {
        None
    }
}

/// The controller of a pod.
fn controller(pod: &Value) -> Option<&Value> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|one| one["controller"] == json!(true))?;
    Some(&owner["uid"])
}

/// Gives pods without a node one: the fitting node that has the fewest of the same controller, then the fewest at all.
pub(crate) fn schedule(inner: &mut Inner) {
    let waiting: Vec<Arc<Value>> = inner
        .list(Resource::PODS, None)
        .filter(|pod| {
            pod["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
                && !is_leaving(pod)
                && pod["spec"]["schedulerName"] == "default-scheduler"
        })
        .collect();
    if waiting.is_empty() {
        return;
    }
    let nodes: Vec<Arc<Value>> = inner.list(Resource::NODES, None).collect();
    let mut placed: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for pod in inner.list(Resource::PODS, None).filter(|pod| !is_over(pod)) {
        if let Some(node) = pod["spec"]["nodeName"]
            .as_str()
            .filter(|node| !node.is_empty())
        {
            placed.entry(node.to_owned()).or_default().push(pod);
        }
    }
    for pod in waiting {
        let chosen = choose(&pod, &nodes, &placed);
        let namespace = pod["metadata"]["namespace"].as_str();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let Some(old) = inner.get(Resource::PODS, &key(namespace, name)) else {
            continue;
        };
        let mut new = (*old).clone();
        match chosen {
            Ok(node) => {
                new["spec"]["nodeName"] = node.as_str().into();
                scheduled(&mut new);
                let bound = inner.replace(Resource::PODS, &old, new);
                placed.entry(node).or_default().push(bound);
            }
            Err(message) => {
                events::warn(
                    inner,
                    &old,
                    "FailedScheduling",
                    &message,
                    "default-scheduler",
                );
                unschedulable(&mut new, &message);
                if *old != new {
                    inner.replace(Resource::PODS, &old, new);
                }
            }
        }
    }
}

/// The node that a pod goes to, or what keeps it from each.
fn choose(
    pod: &Value,
    nodes: &[Arc<Value>],
    placed: &BTreeMap<String, Vec<Arc<Value>>>,
) -> Result<String, String> {
    let mut best: Option<((usize, usize), &str)> = None;
    let mut objections: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let there = placed.get(name).map(Vec::as_slice).unwrap_or_default();
        if let Some(why) = objection(pod, node, there) {
            *objections.entry(why).or_default() += 1;
            continue;
        }
        let owner = controller(pod);
        let alike = |other: &&Arc<Value>| owner.is_some() && controller(other) == owner;
        let load = (there.iter().filter(alike).count(), there.len());
        if best.as_ref().is_none_or(|(least, _)| load < *least) {
            best = Some((load, name));
        }
    }
    if let Some((_, name)) = best {
        return Ok(name.to_owned());
    }
    let told: Vec<String> = objections
        .into_iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    let told = if told.is_empty() {
        "no nodes available to schedule pods".to_owned()
    } else {
        told.join(", ")
    };
    Err(format!("0/{} nodes are available: {told}.", nodes.len()))
}

/// A pod that said that it has no node says so no longer.
fn scheduled(pod: &mut Value) {
    let conditions = pod["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten() {
        if condition["type"] == "PodScheduled" {
            *condition = json!({
                "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": store::now(),
            });
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

    fn fits(spec: &Value, node: &Value) -> bool {
        is_chosen(spec, node) && untolerated(spec, node).is_none()
    }

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
    fn a_port_of_a_node_is_one_pods() {
        let port = |ip: &str, number: i64, protocol: &str| json!({"containers": [{"ports": [{"hostPort": number, "hostIP": ip, "protocol": protocol}]}]});
        assert!(collide(&port("", 80, "TCP"), &port("", 80, "TCP")));
        assert!(collide(&port("10.0.0.1", 80, "TCP"), &port("", 80, "TCP")));
        assert!(!collide(
            &port("10.0.0.1", 80, "TCP"),
            &port("10.0.0.2", 80, "TCP")
        ));
        assert!(!collide(&port("", 80, "TCP"), &port("", 80, "UDP")));
        assert!(!collide(&port("", 80, "TCP"), &port("", 81, "TCP")));
        assert!(!collide(&json!({}), &port("", 80, "TCP")));
    }

    #[test]
    fn every_reason_is_counted() {
        let node = |name: &str, spec: Value, ready: &str| {
            Arc::new(json!({
                "metadata": {"name": name}, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
        };
        let nodes = [
            node("a", json!({"unschedulable": true}), "True"),
            node("b", json!({}), "False"),
            node("c", json!({"unschedulable": true}), "True"),
        ];
        let pod = json!({"metadata": {}, "spec": {}});
        assert_eq!(
            choose(&pod, &nodes, &BTreeMap::new()),
            Err(
                "0/3 nodes are available: 1 node(s) were not ready, 2 node(s) were unschedulable."
                    .to_owned()
            )
        );
        let nodes = [node("d", json!({}), "True"), node("e", json!({}), "True")];
        let own = json!({"metadata": {"ownerReferences": [{"uid": "u", "controller": true}]}, "spec": {}});
        let other = Arc::new(json!({"metadata": {}, "spec": {}}));
        let placed = BTreeMap::from([
            ("d".to_owned(), vec![Arc::new(own.clone())]),
            ("e".to_owned(), vec![other.clone(), other]),
        ]);
        assert_eq!(choose(&own, &nodes, &placed), Ok("e".to_owned()));
    }
}
