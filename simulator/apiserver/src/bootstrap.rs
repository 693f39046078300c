//! What a cluster holds before anybody writes to it; nearly all of it shared between clusters.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::resource::Resource;
use super::store::Inner;
use super::{crd, defaults, ids, kinds};

/// The version of everything that a cluster starts with.
const VERSION: u64 = 1;
const CREATED: &str = "2026-01-01T00:00:00Z";

static SHARED: LazyLock<Vec<(Resource, Arc<Value>)>> = LazyLock::new(|| {
    let mut shared = Vec::new();
    for definition in crd::KOSMOS.iter() {
        let mut definition = definition.clone();
        let r = Resource::CUSTOM_RESOURCE_DEFINITIONS;
        if let Some(served) = kinds::builtin(r.group, r.version, r.plural) {
            defaults::prepare_create(served, &mut definition);
        }
        shared.push((r, definition));
    }
    for (name, rules) in roles() {
        let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}, "rules": rules});
        shared.push((Resource::CLUSTER_ROLES, role));
    }
    for (name, groups) in [
        ("cluster-admin", &["system:masters"][..]),
        ("system:basic-user", &["system:authenticated"]),
        ("system:discovery", &["system:authenticated"]),
        (
            "system:public-info-viewer",
            &["system:authenticated", "system:unauthenticated"],
        ),
    ] {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|group| json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}))
            .collect();
        let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": subjects});
        shared.push((Resource::CLUSTER_ROLE_BINDINGS, binding));
    }
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name, "generation": 1}, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority"});
        shared.push((Resource::PRIORITY_CLASSES, class));
    }
    shared
        .into_iter()
        .map(|(resource, mut object)| {
            let metadata = &mut object["metadata"];
            metadata["uid"] = ids::uid().into();
            metadata["resourceVersion"] = VERSION.to_string().into();
            metadata["creationTimestamp"] = CREATED.into();
            if resource == Resource::CUSTOM_RESOURCE_DEFINITIONS {
                metadata["generation"] = 1.into();
            }
            (resource, Arc::new(object))
        })
        .collect()
});

fn roles() -> Vec<(&'static str, Value)> {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let urls = |urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": ["get"]});
    const ALL: &[&str] = &[
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    const READ: &[&str] = &["get", "list", "watch"];
    const CORE: &[&str] = &[
        "configmaps",
        "endpoints",
        "events",
        "pods",
        "pods/log",
        "serviceaccounts",
        "services",
    ];
    const APPS: &[&str] = &[
        "daemonsets",
        "deployments",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
    ];
    let seen = [
        rule(&[""], CORE, READ),
        rule(&[""], &["namespaces"], READ),
        rule(&["apps"], APPS, READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    ];
    let edited = [
        rule(
            &[""],
            &[
                "configmaps",
                "pods",
                "pods/eviction",
                "pods/proxy",
                "secrets",
                "serviceaccounts",
                "services",
            ],
            ALL,
        ),
        rule(&["apps"], APPS, ALL),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["coordination.k8s.io"], &["leases"], ALL),
        rule(&[""], CORE, READ),
        rule(&[""], &["namespaces"], READ),
    ];
    let mut administered = edited.to_vec();
    administered.push(rule(
        &["rbac.authorization.k8s.io"],
        &["rolebindings", "roles"],
        ALL,
    ));
    vec![
        (
            "cluster-admin",
            json!([
                rule(&["*"], &["*"], &["*"]),
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ]),
        ),
        ("admin", administered.into()),
        ("edit", edited.to_vec().into()),
        ("view", seen.to_vec().into()),
        (
            "system:basic-user",
            json!([
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(
                    &["authentication.k8s.io"],
                    &["selfsubjectreviews"],
                    &["create"]
                ),
            ]),
        ),
        (
            "system:discovery",
            json!([urls(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ])]),
        ),
        (
            "system:public-info-viewer",
            json!([urls(&[
                "/healthz",
                "/livez",
                "/readyz",
                "/version",
                "/version/"
            ])]),
        ),
    ]
}

/// Fills an empty store.
pub(crate) fn fill(inner: &mut Inner, uid: &str) {
    for (resource, object) in SHARED.iter() {
        inner.share(*resource, object);
    }
    inner.start_at(VERSION);
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        let mut namespace = json!({"metadata": {"name": name}});
        if name == "kube-system" && !uid.is_empty() {
            namespace["metadata"]["uid"] = uid.into();
        }
        // An empty store holds no namespace yet.
        let _ = inner.create(Resource::NAMESPACES, None, namespace);
    }
}
