//! The Kubernetes objects of a run's floaters, as pure values with the least privilege that works.
//!
//! | object | name | why |
//! |---|---|---|
//! | Namespace | as asked | only where it is absent |
//! | ServiceAccount | `floater-<run>` | no token, no role: a floater never talks to the API |
//! | Secret | `floater-<run>` | the run key, which otherwise would stand in the DaemonSet |
//! | DaemonSet | `floater-host-<run>` | host layer and tables |
//! | DaemonSet | `floater-<run>` | pod layer |
//!
//! A floater has root's uid because Kubernetes gives capabilities to nobody else, and of root's powers `NET_RAW` alone,
//! for echo requests. Dumps of links, addresses, neighbours, routes and rules need no capability; a dump of nftables does
//! (`nfnetlink_rcv` refuses everybody without `NET_ADMIN`, readers too), so host floaters have that one as well, to read
//! alone.
//!
//! Whoever removes objects selects by [`MANAGED_BY`] and [`RUN_LABEL`], never by name.

use floater::wire::{Layer, hex};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The label that says what an object is part of.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// The value of [`NAME_LABEL`].
pub const NAME: &str = "floater";
/// The label that marks everything that a run makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "floaterctl";
/// The label that holds the run's id.
pub const RUN_LABEL: &str = "floater.kosmos.io/run";
/// The label of DaemonSets and pods that holds their layer.
pub const LAYER_LABEL: &str = "floater.kosmos.io/layer";
/// The annotation that says when an object may be swept, RFC 3339; absent: never.
pub const EXPIRES: &str = "floater.kosmos.io/expires";
/// The annotation of floaters that expire and still are there for other runs to use (`--keep`).
pub const SHARED: &str = "floater.kosmos.io/shared";
/// Labels and taints whose presence says that a node has no kubelet of its own, whatever their value.
const VIRTUAL_KEYS: [&str; 2] = ["kosmos.io/node", "virtual-kubelet.io/provider"];
/// The most nodes that are excluded by name.
const EXCLUDED_BY_NAME: usize = 1000;
/// The key of the Secret that holds the run key, hexadecimal.
pub const SECRET_KEY: &str = "key";
/// The image's base name.
pub const IMAGE: &str = "clusterlink-floater";

/// Whether a label or taint says that a node has no kubelet of its own: serverless nodes of clouds, virtual-kubelet and its
/// descendants.
#[must_use]
pub fn marks_virtual(key: &str, value: &str) -> bool {
    let last = key.rsplit('/').next().unwrap_or_default();
    VIRTUAL_KEYS.contains(&key)
        || matches!(last, "type" | "compute-type" | "node-type")
            && matches!(
                value,
                "virtual-kubelet" | "virtual-node" | "virtual" | "fargate" | "serverless"
            )
}

/// What the objects of one run in one cluster depend on.
#[derive(Clone)]
pub struct Spec {
    /// The run's id, a DNS label.
    pub run: String,
    /// The cluster's id, which floaters prove with their answers.
    pub cluster_id: String,
    /// The namespace of everything.
    pub namespace: String,
    /// The layers that need floaters.
    pub layers: Vec<Layer>,
    /// What the image's name begins with, without a trailing slash.
    pub image_repository: String,
    /// The image's tag.
    pub version: String,
    /// Names of Secrets of the namespace with credentials for the image's registry.
    pub image_pull_secrets: Vec<String>,
    /// A ServiceAccount that is there already and is used instead of an own one.
    pub service_account: Option<String>,
    /// The run key of this cluster.
    pub run_key: Vec<u8>,
    /// The responder's port in the host network and the pods'.
    pub port: u16,
    /// The API's port.
    pub api_port: u16,
    /// When the objects may be swept, and floaters fall silent by themselves.
    pub expires: Timestamp,
    /// Whether other runs may use the floaters while they live.
    pub shared: bool,
    /// Nodes that get no floater since nobody would run it there.
    pub excluded: Vec<String>,
}

/// An object and where it is created.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its kind, for messages.
    pub kind: &'static str,
    /// The layer that it brings floaters to; none where all layers need it.
    pub layer: Option<Layer>,
    /// The collection's path in the API.
    pub collection: String,
    /// The object.
    pub value: Value,
}

impl Spec {
    /// The objects besides the namespace, in the order of creation.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let core = |plural: &str| format!("/api/v1/namespaces/{}/{plural}", self.namespace);
        let mut objects = Vec::new();
        if self.service_account.is_none() {
            objects.push(Object {
                kind: "ServiceAccount",
                layer: None,
                collection: core("serviceaccounts"),
                value: self.service_account(),
            });
        }
        objects.push(Object {
            kind: "Secret",
            layer: None,
            collection: core("secrets"),
            value: self.secret(),
        });
        objects.extend(self.layers.iter().map(|&layer| Object {
            kind: "DaemonSet",
            layer: Some(layer),
            collection: format!("/apis/apps/v1/namespaces/{}/daemonsets", self.namespace),
            value: self.daemon_set(layer),
        }));
        objects
    }

    /// The namespace, marked as made by this run so that the run may remove it again.
    #[must_use]
    pub fn namespace(&self) -> Object {
        let mut metadata = self.metadata(&self.namespace, None);
        // Host network and NET_RAW are beyond what clusters that enforce pod security allow by default.
        metadata["labels"]["pod-security.kubernetes.io/enforce"] = json!("privileged");
        Object {
            kind: "Namespace",
            layer: None,
            collection: "/api/v1/namespaces".to_owned(),
            value: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
        }
    }

    /// The name of ServiceAccount and Secret, and of the pod layer's DaemonSet.
    #[must_use]
    pub fn name(&self) -> String {
        format!("floater-{}", self.run)
    }

    fn metadata(&self, name: &str, layer: Option<Layer>) -> Value {
        let mut annotations = Map::new();
        annotations.insert(EXPIRES.to_owned(), json!(self.expires.to_string()));
        if self.shared {
            annotations.insert(SHARED.to_owned(), json!("true"));
        }
        json!({
            "name": name,
            "labels": self.labels(layer),
            "annotations": annotations,
        })
    }

    fn labels(&self, layer: Option<Layer>) -> Value {
        let mut labels = json!({
            NAME_LABEL: NAME,
            MANAGED_BY_LABEL: MANAGED_BY,
            RUN_LABEL: self.run,
        });
        if let Some(layer) = layer {
            labels[LAYER_LABEL] = json!(word(layer));
        }
        labels
    }

    fn service_account(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(&self.name(), None),
            "automountServiceAccountToken": false,
        })
    }

    fn secret(&self) -> Value {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(hex(&self.run_key));
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self.metadata(&self.name(), None),
            "type": "Opaque",
            "immutable": true,
            "data": {SECRET_KEY: key},
        })
    }

    /// The name of a layer's DaemonSet.
    #[must_use]
    pub fn set_name(&self, layer: Layer) -> String {
        match layer {
            Layer::Host => format!("floater-host-{}", self.run),
            Layer::Pod => self.name(),
        }
    }

    fn daemon_set(&self, layer: Layer) -> Value {
        let name = self.set_name(layer);
        let mut selector = self.labels(Some(layer));
        if let Some(labels) = selector.as_object_mut() {
            labels.remove(MANAGED_BY_LABEL);
        }
        let mut template = self.metadata("", Some(layer));
        if let Some(metadata) = template.as_object_mut() {
            metadata.remove("name");
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": self.metadata(&name, Some(layer)),
            "spec": {
                "selector": {"matchLabels": selector},
                "template": {"metadata": template, "spec": self.pod(layer)},
            },
        })
    }

    fn pod(&self, layer: Layer) -> Value {
        let mut pod = json!({
            "serviceAccountName": self.service_account.clone().unwrap_or_else(|| self.name()),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            // A node that is cordoned, tainted or sick is one that somebody wants to know about.
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [self.nodes()],
            }}},
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [self.container(layer)],
        });
        if !self.image_pull_secrets.is_empty() {
            let named = |name: &String| json!({"name": name});
            pod["imagePullSecrets"] = self.image_pull_secrets.iter().map(named).collect();
        }
        if layer == Layer::Host {
            pod["hostNetwork"] = json!(true);
            pod["dnsPolicy"] = json!("ClusterFirstWithHostNet");
        }
        pod
    }

    /// The nodes that get floaters.
    fn nodes(&self) -> Value {
        let mut expressions =
            vec![json!({"key": "kubernetes.io/os", "operator": "NotIn", "values": ["windows"]})];
        let absent = |key: &&str| json!({"key": key, "operator": "DoesNotExist"});
        expressions.extend(VIRTUAL_KEYS.iter().map(absent));
        let mut term = json!({"matchExpressions": expressions});
        if !self.excluded.is_empty() {
            // One name each: more than one is not allowed in a field's requirement.
            let not = |name: &String| json!({"key": "metadata.name", "operator": "NotIn", "values": [name]});
            let names = self.excluded.iter().take(EXCLUDED_BY_NAME);
            term["matchFields"] = names.map(not).collect();
        }
        term
    }

    fn container(&self, layer: Layer) -> Value {
        let capabilities = match layer {
            Layer::Host => json!(["NET_ADMIN", "NET_RAW"]),
            Layer::Pod => json!(["NET_RAW"]),
        };
        json!({
            "name": NAME,
            "image": format!("{}/{IMAGE}:{}", self.image_repository, self.version),
            "imagePullPolicy": "IfNotPresent",
            "env": [
                {"name": "FLOATER_CLUSTER_ID", "value": self.cluster_id},
                {"name": "FLOATER_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "FLOATER_LAYER", "value": word(layer)},
                {"name": "FLOATER_RUN", "value": self.run},
                {"name": "FLOATER_RUN_KEY", "valueFrom": {"secretKeyRef": {"name": self.name(), "key": SECRET_KEY}}},
                {"name": "FLOATER_EXPIRES", "value": self.expires.to_string()},
                {"name": "PORT", "value": self.port.to_string()},
                {"name": "FLOATER_API_PORT", "value": self.api_port.to_string()},
            ],
            "ports": [
                {"name": "probe", "containerPort": self.port, "protocol": "TCP"},
                {"name": "api", "containerPort": self.api_port, "protocol": "TCP"},
            ],
            "readinessProbe": {
                "httpGet": {"path": "/", "port": self.port},
                "periodSeconds": 1,
                "timeoutSeconds": 1,
            },
            // No limit on the processor: a throttled observer reports latencies of its own.
            "resources": {
                "requests": {"cpu": "10m", "memory": "16Mi"},
                "limits": {"memory": "128Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"add": capabilities, "drop": ["ALL"]},
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "runAsUser": 0,
            },
        })
    }
}

/// The label's word for a layer.
#[must_use]
pub fn word(layer: Layer) -> &'static str {
    match layer {
        Layer::Host => "host",
        Layer::Pod => "pod",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            run: "r1".into(),
            cluster_id: "0b5c".into(),
            namespace: "kosmos-system".into(),
            layers: vec![Layer::Host, Layer::Pod],
            image_repository: "ghcr.io/kosmos-io".into(),
            version: "0.1.0".into(),
            image_pull_secrets: Vec::new(),
            service_account: None,
            run_key: vec![0xab; 32],
            port: 8889,
            api_port: 8890,
            expires: "2026-11-24T12:00:00Z".parse().expect("RFC 3339"),
            shared: false,
            excluded: Vec::new(),
        }
    }

    /// The whole text of what a run asks of a cluster: a change of any privilege is a change of this file.
    #[test]
    fn the_objects_are_these() {
        let mut objects = vec![spec().namespace().value];
        objects.extend(spec().objects().into_iter().map(|object| object.value));
        let text = serde_json::to_string_pretty(&objects).expect("values are JSON") + "\n";
        assert_eq!(text, include_str!("manifest/objects.json"), "{text}");
    }

    #[test]
    fn the_run_key_stands_in_the_secret_alone() {
        let key = hex(&spec().run_key);
        for object in spec().objects() {
            let text = object.value.to_string();
            assert!(!text.contains(&key), "{}", object.kind);
        }
        let debugged = format!("{:?}", spec().namespace());
        assert!(!debugged.contains(&key));
    }

    #[test]
    fn a_named_service_account_is_used_and_not_made() {
        let mut spec = spec();
        spec.service_account = Some("granted".into());
        spec.image_pull_secrets = vec!["registry".into()];
        let objects = spec.objects();
        let kinds: Vec<_> = objects.iter().map(|object| object.kind).collect();
        assert_eq!(kinds, ["Secret", "DaemonSet", "DaemonSet"]);
        for set in &objects[1..] {
            let pod = &set.value["spec"]["template"]["spec"];
            assert_eq!(pod["serviceAccountName"], "granted");
            assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
        }
    }

    #[test]
    fn kept_floaters_say_that_others_may_use_them() {
        let mut spec = spec();
        spec.shared = true;
        for object in spec.objects() {
            let annotations = &object.value["metadata"]["annotations"];
            assert_eq!(annotations[SHARED], json!("true"), "{}", object.kind);
        }
    }
}
