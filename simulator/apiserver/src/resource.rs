//! Which kind of object is meant: group, version, plural.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// A kind of object as the API addresses it.
///
/// The strings of kinds that a client defines at run time are interned, so that a `Resource` stays a small copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version within the group.
    pub version: &'static str,
    /// The plural, as in paths.
    pub plural: &'static str,
    /// The kind, as in objects.
    pub kind: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {
        impl Resource {
            $(
                #[doc = concat!("`", $plural, "`, kind ", $kind, ".")]
                pub const $name: Self = Self {
                    group: $group,
                    version: $version,
                    plural: $plural,
                    kind: $kind,
                    namespaced: $namespaced,
                };
            )*
        }
    };
}

resources! {
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    NODES = "" "v1" "nodes" "Node" false;
    PODS = "" "v1" "pods" "Pod" true;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    SERVICES = "" "v1" "services" "Service" true;
    EVENTS = "" "v1" "events" "Event" true;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" true;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" true;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" true;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" true;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs" "ServiceCIDR" false;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass" false;
    ROLES = "rbac.authorization.k8s.io" "v1" "roles" "Role" true;
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" true;
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false;
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" false;
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" false;
    CLUSTERS = "kosmos.io" "v1alpha1" "clusters" "Cluster" false;
    CLUSTER_NODES = "kosmos.io" "v1alpha1" "clusternodes" "ClusterNode" false;
    NODE_CONFIGS = "kosmos.io" "v1alpha1" "nodeconfigs" "NodeConfig" false;
}

impl Resource {
    /// A kind defined at run time.
    #[must_use]
    pub fn custom(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            group: intern(group),
            version: intern(version),
            plural: intern(plural),
            kind: intern(kind),
            namespaced,
        }
    }

    /// `apiVersion` as objects write it.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The name that error texts use: `daemonsets.apps`, `configmaps`.
    #[must_use]
    pub fn qualified(&self) -> String {
        qualify(self.plural, self.group)
    }

    /// As [`Resource::qualified`], with the kind.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        qualify(self.kind, self.group)
    }

    /// The table that holds the objects: versions share it.
    pub(crate) fn table(&self) -> (&'static str, &'static str) {
        (self.group, self.plural)
    }
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// One lasting copy of each distinct word; bounded by the names of kinds that clients ever define.
fn intern(word: &str) -> &'static str {
    static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut words = WORDS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = words.get(word) {
        return known;
    }
    let kept: &'static str = Box::leak(word.to_owned().into_boxed_str());
    words.insert(kept);
    kept
}
