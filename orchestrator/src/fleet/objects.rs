//! The parts of Kubernetes' objects that a run reads, and nothing else of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use floater::wire::{API_PORT, Layer, PORT};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use super::api::words;
use crate::manifest;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// A server that writes `null` for a value that it does not know is no reason to see nothing of the object.
    labels: Option<BTreeMap<String, Option<String>>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    pub(crate) deletion_timestamp: Option<String>,
}

impl Metadata {
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key)?.as_deref()
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_deref()
    }

    /// When it may be swept; none where it never may, or does not say so in a way that can be read.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.annotation(manifest::EXPIRES)?.parse().ok()
    }
}

/// Any object, as far as its metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    pub(crate) metadata: Metadata,
    /// A Secret's.
    pub(crate) r#type: Option<String>,
}

/// Something that happened to an object, in the words of a controller.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Happening {
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) r#type: Option<String>,
    last_timestamp: Option<String>,
    event_time: Option<String>,
    pub(crate) involved_object: Involved,
}

impl Happening {
    /// When it happened last, as the server writes times; empty where it does not say.
    pub(crate) fn at(&self) -> &str {
        let (last, first) = (&self.last_timestamp, &self.event_time);
        last.as_deref().or(first.as_deref()).unwrap_or_default()
    }
}

/// What it happened to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Involved {
    pub(crate) kind: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
    value: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    message: String,
}

fn is_ready(conditions: Option<&Vec<Condition>>) -> bool {
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

impl Node {
    pub(crate) fn is_ready(&self) -> bool {
        is_ready(self.status.conditions.as_ref())
    }

    /// The label or taint that says that no kubelet of its own runs pods on it: another cluster's, a cloud's or Kosmos' stands
    /// behind it.
    pub(crate) fn is_virtual(&self) -> Option<String> {
        let labels = self.metadata.labels.iter().flatten();
        let labels = labels.map(|(key, value)| (key.as_str(), value.as_deref()));
        let taints = self.spec.taints.iter().flatten();
        let taints = taints.map(|taint| (taint.key.as_str(), taint.value.as_deref()));
        labels
            .chain(taints)
            .find(|(key, value)| manifest::marks_virtual(key, value.unwrap_or_default()))
            .map(|(key, value)| format!("{key}={}", value.unwrap_or_default()))
    }

    /// Whether a floater's image can run on it.
    pub(crate) fn runs_linux(&self) -> bool {
        self.metadata.label("kubernetes.io/os") != Some("windows")
    }

    /// Its InternalIPs, in their order.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.status
            .addresses
            .iter()
            .flatten()
            .filter(|address| address.r#type == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect()
    }

    pub(crate) fn pod_prefixes(&self) -> Vec<IpNet> {
        let listed = self.spec.pod_cidrs.as_deref().unwrap_or_default();
        let listed: Vec<IpNet> = listed.iter().filter_map(|text| text.parse().ok()).collect();
        if listed.is_empty() {
            return self.spec.pod_cidr.parse().into_iter().collect();
        }
        listed
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    affinity: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    env: Option<Vec<Variable>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Variable {
    name: String,
    value: String,
    value_from: Option<VariableSource>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VariableSource {
    secret_key_ref: Option<SecretKey>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub(crate) struct SecretKey {
    pub(crate) name: String,
    pub(crate) key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    reason: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    conditions: Option<Vec<Condition>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    start_time: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Stopped>,
    terminated: Option<Stopped>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Stopped {
    reason: String,
    message: String,
}

impl Pod {
    pub(crate) fn run(&self) -> Option<&str> {
        self.metadata.label(manifest::RUN_LABEL)
    }

    pub(crate) fn layer(&self) -> Option<Layer> {
        match self.metadata.label(manifest::LAYER_LABEL)? {
            "host" => Some(Layer::Host),
            "pod" => Some(Layer::Pod),
            _ => None,
        }
    }

    /// The node it runs on, or is meant for while a DaemonSet's pod waits to be scheduled.
    pub(crate) fn node(&self) -> Option<&str> {
        if !self.spec.node_name.is_empty() {
            return Some(&self.spec.node_name);
        }
        self.spec
            .affinity
            .as_ref()?
            .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0")?
            .as_str()
    }

    pub(crate) fn is_host_network(&self) -> bool {
        self.spec.host_network
    }

    pub(crate) fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its container runs, ready or not: readiness is the node's opinion of an address, which a broken network spoils.
    pub(crate) fn runs(&self) -> bool {
        let is_up = |status: &ContainerStatus| {
            status.state.waiting.is_none() && status.state.terminated.is_none()
        };
        !self.is_going()
            && self.status.phase == "Running"
            && self.status.container_statuses.iter().flatten().all(is_up)
    }

    /// Whether a kubelet has taken it up.
    pub(crate) fn is_taken_up(&self) -> bool {
        self.status.start_time.is_some() || self.status.phase == "Running"
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.is_going() && is_ready(self.status.conditions.as_ref())
    }

    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        let listed: Vec<IpAddr> = self
            .status
            .pod_ips
            .iter()
            .flatten()
            .filter_map(|ip| ip.ip.parse().ok())
            .collect();
        if listed.is_empty() {
            return self.status.pod_ip.parse().into_iter().collect();
        }
        listed
    }

    fn variable(&self, name: &str) -> Option<&Variable> {
        // A mesh may have put its own beside it, and first.
        let containers = &self.spec.containers;
        let named = containers
            .iter()
            .find(|container| container.name == manifest::NAME);
        let container = named.or(match &containers[..] {
            [only] => Some(only),
            _ => None,
        })?;
        let mut variables = container.env.iter().flatten();
        variables.find(|variable| variable.name == name)
    }

    fn port_of(&self, variable: &str, default: u16) -> u16 {
        self.variable(variable)
            .and_then(|variable| variable.value.parse().ok())
            .unwrap_or(default)
    }

    /// Where its responder listens.
    pub(crate) fn port(&self) -> u16 {
        self.port_of("PORT", PORT)
    }

    /// Where its API listens.
    pub(crate) fn api_port(&self) -> u16 {
        self.port_of("FLOATER_API_PORT", API_PORT)
    }

    /// The Secret that its run key comes from.
    pub(crate) fn run_key(&self) -> Option<&SecretKey> {
        self.variable("FLOATER_RUN_KEY")?
            .value_from
            .as_ref()?
            .secret_key_ref
            .as_ref()
    }

    /// Whether its ports are taken on its node, by the scheduler's word.
    pub(crate) fn lacks_ports(&self) -> bool {
        self.status.conditions.iter().flatten().any(|condition| {
            condition.r#type == "PodScheduled"
                && condition.status == "False"
                && condition.message.contains("free ports")
        })
    }

    /// Why it is not ready, as far as it says and as far as `event`, the latest warning about it, says more.
    pub(crate) fn trouble(&self, event: Option<&str>) -> String {
        let own = self.own_trouble();
        match event {
            // A scheduler writes the same words to the pod's status.
            Some(event)
                if !event
                    .split_once(": ")
                    .is_some_and(|(_, said)| own.contains(said)) =>
            {
                format!("{own}; {event}")
            }
            _ => own,
        }
    }

    fn own_trouble(&self) -> String {
        let name = &self.metadata.name;
        if self.is_going() {
            return format!("pod {name} is being removed");
        }
        let statuses = self.status.container_statuses.iter().flatten();
        for status in statuses {
            if let Some(stopped) = status
                .state
                .waiting
                .as_ref()
                .or(status.state.terminated.as_ref())
            {
                let reason = words(&stopped.reason);
                let why = match words(&stopped.message).as_str() {
                    "" => reason,
                    message => format!("{reason}: {message}"),
                };
                return format!("pod {name} does not run: {why}");
            }
        }
        let unscheduled =
            self.status.conditions.iter().flatten().find(|condition| {
                condition.r#type == "PodScheduled" && condition.status == "False"
            });
        if let Some(condition) = unscheduled {
            let why = words(&condition.message);
            return format!("pod {name} is not scheduled: {why}");
        }
        match (&*words(&self.status.phase), &*words(&self.status.reason)) {
            ("", _) => format!("pod {name} has not been started"),
            (phase, "") => format!("pod {name} is {phase} and not ready"),
            (phase, reason) => format!("pod {name} is {phase}: {reason}"),
        }
    }
}

/// A Secret's bytes, base64.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Secret {
    pub(crate) data: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("it is a pod")
    }

    #[test]
    fn a_pod_says_where_it_listens_and_where_its_key_is() {
        let pod = pod(json!({
            "metadata": {"name": "p", "labels": {"floater.kosmos.io/layer": "host", "pod-template-generation": null}},
            "spec": {"nodeName": "n1", "hostNetwork": true, "containers": [{"env": [
                {"name": "PORT", "value": "9000"},
                {"name": "FLOATER_RUN_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
            ]}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        assert_eq!((pod.port(), pod.api_port()), (9000, API_PORT));
        assert_eq!(pod.layer(), Some(Layer::Host));
        assert_eq!(pod.ips().len(), 2);
        assert_eq!(pod.run_key().map(|key| key.name.as_str()), Some("s"));
        assert!(pod.is_ready());
    }

    #[test]
    fn a_sidecar_before_the_floater_hides_nothing_of_it() {
        let sidecar = json!({"name": "proxy", "env": [{"name": "PORT", "value": "15001"}]});
        let own = json!({"name": "floater", "env": [{"name": "PORT", "value": "9000"}]});
        let meshed =
            pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [sidecar, own]}}));
        assert_eq!(meshed.port(), 9000);
    }

    #[test]
    fn nodes_without_a_kubelet_are_known_by_labels_and_taints_of_any_vendor() {
        let node = |labels: serde_json::Value, taints: serde_json::Value| -> Node {
            let value =
                json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}});
            serde_json::from_value(value).expect("it is a node")
        };
        for (key, value) in [
            ("type", "virtual-kubelet"),
            ("eks.amazonaws.com/compute-type", "fargate"),
            ("vendor.example/compute-type", "serverless"),
            ("virtual-kubelet.io/provider", "azure"),
            ("liqo.io/type", "virtual-node"),
            ("kosmos.io/node", "true"),
        ] {
            let expected = Some(format!("{key}={value}"));
            assert_eq!(node(json!({key: value}), json!([])).is_virtual(), expected);
            let taint = json!([{"key": key, "value": value, "effect": "NoSchedule"}]);
            assert_eq!(node(json!({}), taint).is_virtual(), expected);
        }
        let ordinary = json!({
            "kubernetes.io/os": "linux", "eks.amazonaws.com/compute-type": "auto", "type": "worker",
            "node.kubernetes.io/instance-type": "m5.large"});
        assert_eq!(
            node(ordinary, json!([{"key": "dedicated", "value": "infra"}])).is_virtual(),
            None
        );
    }

    #[test]
    fn a_pod_that_waits_belongs_to_its_node_and_says_why() {
        let waiting = pod(json!({
            "metadata": {"name": "p"},
            "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}}},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "no free ports"}]},
        }));
        assert_eq!(waiting.node(), Some("n2"));
        assert_eq!(
            waiting.trouble(None),
            "pod p is not scheduled: no free ports"
        );
        let broken = pod(json!({
            "metadata": {"name": "p"},
            "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]},
        }));
        assert_eq!(
            broken.trouble(None),
            "pod p does not run: ErrImagePull: no such image"
        );
        let pulled = Some("Failed: no such image");
        assert_eq!(broken.trouble(pulled), broken.trouble(None));
        let mounted = Some("FailedMount: secret \"s\" not found");
        assert_eq!(
            broken.trouble(mounted),
            "pod p does not run: ErrImagePull: no such image; FailedMount: secret \"s\" not found"
        );
        // An evicted pod has no container status at all.
        let evicted = pod(
            json!({"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": "Evicted"}}),
        );
        assert_eq!(evicted.trouble(None), "pod p is Failed: Evicted");
    }
}
