//! What the API fills in: defaults of the built-in kinds, of schemas, and what only the server sets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::crd_schema;
use super::kinds::Served;
use super::resource::Resource;
use super::service_ranges;
use super::store::Inner;

/// Sets a field that is not set.
fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && !map.contains_key(field)
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// The entries of a list, none if there is no list.
fn entries<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Fills in what a reader may rely on. Doing it twice changes nothing.
pub(crate) fn fill(served: &Served, object: &mut Value) {
    if let Some(schema) = &served.custom {
        crd_schema::default(schema, object);
        return;
    }
    let r = served.resource;
    if r == Resource::SECRETS {
        secret(object);
    } else if r == Resource::SERVICES {
        service(object);
    } else if r == Resource::PODS {
        if let Some(spec) = object.get_mut("spec") {
            pod_spec(spec);
            default(spec, "enableServiceLinks", true);
        }
        pod_addresses(object);
    } else if r == Resource::DAEMON_SETS {
        daemon_set(object);
    } else if r == Resource::DEPLOYMENTS {
        deployment(object);
    } else if r == Resource::REPLICA_SETS {
        replica_set(object);
    } else if r == Resource::ENDPOINTS {
        for subset in entries(object, "subsets") {
            ports(subset);
        }
    } else if r == Resource::ENDPOINT_SLICES {
        ports(object);
    } else if r == Resource::PRIORITY_CLASSES {
        default(object, "preemptionPolicy", "PreemptLowerPriority");
    } else if r == Resource::CUSTOM_RESOURCE_DEFINITIONS {
        definition(object);
    } else if r == Resource::ROLE_BINDINGS || r == Resource::CLUSTER_ROLE_BINDINGS {
        binding(object);
    }
}

fn secret(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    if let Some(Value::Object(plain)) = map.shift_remove("stringData") {
        let data = map.entry("data").or_insert_with(|| json!({}));
        for (name, value) in plain {
            data[&name] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
    default(object, "type", "Opaque");
}

fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    default(spec, "internalTrafficPolicy", "Cluster");
    for port in entries(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        default(port, "targetPort", number);
    }
}

/// The address among the addresses, and the other way round.
fn pod_addresses(object: &mut Value) {
    let Some(status) = object.get_mut("status").filter(|status| status.is_object()) else {
        return;
    };
    if let Some(ip) = status["podIP"].as_str().map(str::to_owned)
        && status["podIPs"][0]["ip"] != ip.as_str()
    {
        status["podIPs"] = json!([{"ip": ip}]);
    }
    for condition in entries(status, "conditions") {
        default(condition, "lastProbeTime", Value::Null);
        default(condition, "lastTransitionTime", Value::Null);
    }
}

/// The defaults of a pod, in itself or in a template.
pub(crate) fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let host = spec["hostNetwork"] == json!(true);
    for list in ["initContainers", "containers"] {
        for container in entries(spec, list) {
            container_defaults(container, host);
        }
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    if let Some(account) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        spec["serviceAccount"] = account.into();
    }
    for volume in entries(spec, "volumes") {
        for source in ["configMap", "secret"] {
            if let Some(source) = volume.get_mut(source) {
                default(source, "defaultMode", 420);
            }
        }
        if let Some(path) = volume.get_mut("hostPath") {
            default(path, "type", "");
        }
    }
}

fn container_defaults(container: &mut Value, host: bool) {
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|name| name.split_once(':'));
    let latest = !image.contains('@') && tag.is_none_or(|(_, tag)| tag == "latest");
    let policy = if latest { "Always" } else { "IfNotPresent" };
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "imagePullPolicy", policy);
    for port in entries(container, "ports") {
        default(port, "protocol", "TCP");
        if host {
            let number = port["containerPort"].clone();
            default(port, "hostPort", number);
        }
    }
    for variable in entries(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else {
            continue;
        };
        default(probe, "timeoutSeconds", 1);
        default(probe, "periodSeconds", 10);
        default(probe, "successThreshold", 1);
        default(probe, "failureThreshold", 3);
        if let Some(get) = probe.get_mut("httpGet").filter(|get| get.is_object()) {
            default(get, "scheme", "HTTP");
            default(get, "path", "/");
        }
    }
}

fn daemon_set(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    default(spec, "updateStrategy", json!({}));
    let strategy = &mut spec["updateStrategy"];
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        if !strategy["rollingUpdate"].is_object() {
            strategy["rollingUpdate"] = json!({});
        }
        default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
        default(&mut strategy["rollingUpdate"], "maxSurge", 0);
    }
    default(spec, "revisionHistoryLimit", 10);
    if let Some(spec) = spec.pointer_mut("/template/spec") {
        pod_spec(spec);
    }
    let metadata = &mut object["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    default(
        &mut metadata["annotations"],
        "deprecated.daemonset.template.generation",
        "1",
    );
}

fn ports(object: &mut Value) {
    for port in entries(object, "ports") {
        default(port, "protocol", "TCP");
    }
}

fn deployment(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    default(spec, "replicas", 1);
    default(spec, "strategy", json!({}));
    let strategy = &mut spec["strategy"];
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        if !strategy["rollingUpdate"].is_object() {
            strategy["rollingUpdate"] = json!({});
        }
        default(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
        default(&mut strategy["rollingUpdate"], "maxSurge", "25%");
    }
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    if let Some(spec) = spec.pointer_mut("/template/spec") {
        pod_spec(spec);
    }
}

fn replica_set(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    default(spec, "replicas", 1);
    if let Some(spec) = spec.pointer_mut("/template/spec") {
        pod_spec(spec);
    }
}

fn definition(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    default(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
        let kind = names["kind"].as_str().unwrap_or_default().to_owned();
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = object.get_mut("roleRef") {
        default(role, "apiGroup", GROUP);
    }
    for subject in entries(object, "subjects") {
        if subject["kind"] == "User" || subject["kind"] == "Group" {
            default(subject, "apiGroup", GROUP);
        }
    }
}

/// What a new object gets from the server and no client owns.
pub(crate) fn prepare_create(served: &Served, object: &mut Value) {
    let r = served.resource;
    let Some(map) = object.as_object_mut() else {
        return;
    };
    if served.status && r != Resource::NODES {
        map.shift_remove("status");
    }
    if r == Resource::PODS {
        prepare_pod(object);
    } else if r == Resource::DAEMON_SETS {
        object["status"] = json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        });
    } else if r == Resource::DEPLOYMENTS {
        object["status"] = json!({});
    } else if r == Resource::REPLICA_SETS {
        object["status"] = json!({"replicas": 0});
    } else if r == Resource::SERVICES {
        object["status"] = json!({"loadBalancer": {}});
    } else if r == Resource::CUSTOM_RESOURCE_DEFINITIONS {
        let stored: Vec<Value> = object["spec"]["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|version| version["storage"] == json!(true))
            .map(|version| version["name"].clone())
            .collect();
        let now = super::store::stamp(jiff::Timestamp::now());
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
        object["status"] = json!({
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "acceptedNames": object["spec"]["names"], "storedVersions": stored,
        });
    }
}

/// What a pod gets when it is made, by whomever.
pub(crate) fn prepare_pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    default(spec, "serviceAccountName", "default");
    default(spec, "serviceAccount", "default");
    default(spec, "priority", 0);
    default(spec, "enableServiceLinks", true);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    pod["status"] = json!({"phase": "Pending", "qosClass": quality(&pod["spec"])});
}

fn quality(spec: &Value) -> &'static str {
    let resources: Vec<&Value> = spec["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| &container["resources"])
        .collect();
    let some = |value: &Value| value.as_object().is_some_and(|map| !map.is_empty());
    if resources
        .iter()
        .all(|r| !some(&r["limits"]) && !some(&r["requests"]))
    {
        "BestEffort"
    } else if resources.iter().all(|r| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = &r["limits"][*name];
            !limit.is_null() && (r["requests"][*name].is_null() || r["requests"][*name] == *limit)
        })
    }) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What an update does not say and keeps, and what follows from it.
pub(crate) fn prepare_update(served: &Served, old: &Value, new: &mut Value) {
    let r = served.resource;
    if r == Resource::DAEMON_SETS {
        const GENERATION: &str = "deprecated.daemonset.template.generation";
        let before = old["metadata"]["annotations"][GENERATION]
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(1);
        let changed = old["spec"]["template"] != new["spec"]["template"];
        new["metadata"]["annotations"][GENERATION] =
            (before + u64::from(changed)).to_string().into();
    } else if r == Resource::SERVICES {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !old["spec"][field].is_null() {
                let kept = old["spec"][field].clone();
                default(&mut new["spec"], field, kept);
            }
        }
    } else if r == Resource::PODS {
        for field in [
            "priority",
            "preemptionPolicy",
            "nodeName",
            "serviceAccountName",
        ] {
            if !old["spec"][field].is_null() {
                let kept = old["spec"][field].clone();
                default(&mut new["spec"], field, kept);
            }
        }
    }
}

/// Takes what is scarce: the address of a service.
pub(crate) fn allocate(inner: &Inner, served: &Served, object: &mut Value) {
    if served.resource != Resource::SERVICES {
        return;
    }
    let spec = &mut object["spec"];
    if spec["type"] == "ExternalName" {
        return;
    }
    if !spec["clusterIP"].is_string()
        && let Some(ip) = service_ranges::free(inner)
    {
        spec["clusterIP"] = ip.into();
    }
    let ip = spec["clusterIP"].clone();
    if ip != "None" {
        let family = if ip.as_str().is_some_and(|ip| ip.contains(':')) {
            "IPv6"
        } else {
            "IPv4"
        };
        default(spec, "clusterIPs", json!([ip]));
        default(spec, "ipFamilies", json!([family]));
    } else {
        default(spec, "clusterIPs", json!(["None"]));
        default(spec, "ipFamilies", json!(["IPv4"]));
    }
    default(spec, "ipFamilyPolicy", "SingleStack");
}
