//! The built-in kinds, one row each, and what is served of a kind.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::columns::{self, Column};
use super::resource::Resource;
use super::shape::{self, Shape};

/// A row of the table of built-in kinds.
pub(crate) struct Row {
    resource: Resource,
    singular: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    status: bool,
    generation: bool,
    /// Field selectors beyond name and namespace.
    selectable: &'static [&'static str],
    columns: &'static [Column],
    /// Other subresources in discovery: name, kind, verbs.
    more: &'static [(&'static str, &'static str, &'static [&'static str])],
}

const fn row(
    resource: Resource,
    singular: &'static str,
    short: &'static [&'static str],
    columns: &'static [Column],
) -> Row {
    Row {
        resource,
        singular,
        short,
        categories: &[],
        status: false,
        generation: false,
        selectable: &[],
        columns,
        more: &[],
    }
}

/// The group and version of a subresource's kind where they are not the resource's own.
pub(crate) fn elsewhere(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "Eviction" => Some(("policy", "v1")),
        "Scale" => Some(("autoscaling", "v1")),
        "TokenRequest" => Some(("authentication.k8s.io", "v1")),
        _ => None,
    }
}

/// Verbs of `/scale`.
const SCALE: &[&str] = &["get", "patch", "update"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

static ROWS: &[Row] = &[
    row(
        Resource::CONFIG_MAPS,
        "configmap",
        &["cm"],
        columns::CONFIG_MAP,
    ),
    row(
        Resource::ENDPOINTS,
        "endpoints",
        &["ep"],
        columns::ENDPOINTS,
    ),
    Row {
        selectable: &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..row(Resource::EVENTS, "event", &["ev"], columns::EVENT)
    },
    Row {
        status: true,
        selectable: &["status.phase", "name"],
        more: &[("finalize", "Namespace", &["update"])],
        ..row(
            Resource::NAMESPACES,
            "namespace",
            &["ns"],
            columns::NAMESPACE,
        )
    },
    Row {
        status: true,
        selectable: &["spec.unschedulable"],
        ..row(Resource::NODES, "node", &["no"], columns::NODE)
    },
    Row {
        status: true,
        generation: true,
        categories: &["all"],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        more: &[
            ("eviction", "Eviction", &["create"]),
            ("log", "Pod", &["get"]),
            ("proxy", "PodProxyOptions", PROXY),
        ],
        ..row(Resource::PODS, "pod", &["po"], columns::POD)
    },
    Row {
        selectable: &["type"],
        ..row(Resource::SECRETS, "secret", &[], columns::SECRET)
    },
    Row {
        more: &[("token", "TokenRequest", &["create"])],
        ..row(
            Resource::SERVICE_ACCOUNTS,
            "serviceaccount",
            &["sa"],
            columns::SERVICE_ACCOUNT,
        )
    },
    Row {
        status: true,
        categories: &["all"],
        selectable: &["spec.clusterIP", "spec.type"],
        ..row(Resource::SERVICES, "service", &["svc"], columns::SERVICE)
    },
    Row {
        status: true,
        generation: true,
        categories: &["all"],
        ..row(
            Resource::DAEMON_SETS,
            "daemonset",
            &["ds"],
            columns::DAEMON_SET,
        )
    },
    Row {
        status: true,
        generation: true,
        categories: &["all"],
        more: &[("scale", "Scale", SCALE)],
        ..row(
            Resource::DEPLOYMENTS,
            "deployment",
            &["deploy"],
            columns::DEPLOYMENT,
        )
    },
    Row {
        status: true,
        generation: true,
        categories: &["all"],
        selectable: &["status.replicas"],
        more: &[("scale", "Scale", SCALE)],
        ..row(
            Resource::REPLICA_SETS,
            "replicaset",
            &["rs"],
            columns::REPLICA_SET,
        )
    },
    row(Resource::LEASES, "lease", &[], columns::LEASE),
    Row {
        status: true,
        ..row(
            Resource::SERVICE_CIDRS,
            "servicecidr",
            &[],
            columns::SERVICE_CIDR,
        )
    },
    Row {
        generation: true,
        ..row(
            Resource::ENDPOINT_SLICES,
            "endpointslice",
            &[],
            columns::ENDPOINT_SLICE,
        )
    },
    Row {
        generation: true,
        ..row(
            Resource::PRIORITY_CLASSES,
            "priorityclass",
            &["pc"],
            columns::PRIORITY_CLASS,
        )
    },
    row(
        Resource::CLUSTER_ROLE_BINDINGS,
        "clusterrolebinding",
        &[],
        columns::BINDING,
    ),
    row(Resource::CLUSTER_ROLES, "clusterrole", &[], columns::ROLE),
    row(
        Resource::ROLE_BINDINGS,
        "rolebinding",
        &[],
        columns::BINDING,
    ),
    row(Resource::ROLES, "role", &[], columns::ROLE),
    Row {
        status: true,
        generation: true,
        categories: &["api-extensions"],
        ..row(
            Resource::CUSTOM_RESOURCE_DEFINITIONS,
            "customresourcedefinition",
            &["crd", "crds"],
            columns::CRD,
        )
    },
];

/// A kind as it is served, built in or defined by a client.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) resource: Resource,
    pub(crate) singular: String,
    pub(crate) short: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// Whether `/status` is an endpoint of its own.
    pub(crate) status: bool,
    /// Whether `metadata.generation` counts changes of the intent.
    pub(crate) generation: bool,
    pub(crate) selectable: Vec<String>,
    pub(crate) more: &'static [(&'static str, &'static str, &'static [&'static str])],
    pub(crate) shape: Arc<Shape>,
    pub(crate) columns: Columns,
    /// The OpenAPI schema, for kinds that clients define.
    pub(crate) custom: Option<Value>,
}

/// How a table of a kind looks.
#[derive(Debug)]
pub(crate) enum Columns {
    /// Rows of the built-in table.
    Builtin(&'static [Column]),
    /// `additionalPrinterColumns`.
    Custom(Vec<Value>),
}

impl Served {
    fn of(row: &'static Row) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            resource: row.resource,
            singular: row.singular.to_owned(),
            short: owned(row.short),
            categories: owned(row.categories),
            status: row.status,
            generation: row.generation,
            selectable: owned(row.selectable),
            more: row.more,
            shape: shape::builtin(row.resource.kind),
            columns: Columns::Builtin(row.columns),
            custom: None,
        }
    }

    /// The verbs of the resource itself.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.resource == Resource::NAMESPACES {
            &[
                "create", "delete", "get", "list", "patch", "update", "watch",
            ]
        } else if self.custom.is_some() {
            &[
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "create",
                "update",
                "watch",
            ]
        } else {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        }
    }
}

static SERVED: LazyLock<Vec<Arc<Served>>> =
    LazyLock::new(|| ROWS.iter().map(|row| Arc::new(Served::of(row))).collect());

/// The built-in kinds in the order of their groups.
pub(crate) fn builtins() -> &'static [Arc<Served>] {
    &SERVED
}

/// A built-in kind by its path.
pub(crate) fn builtin(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Served>> {
    SERVED.iter().find(|served| {
        let r = served.resource;
        r.plural == plural && r.group == group && r.version == version
    })
}

/// Kinds that are only ever asked and never stored.
pub(crate) static REVIEWS: &[(Resource, &str)] = &[
    (
        review(
            "authentication.k8s.io",
            "selfsubjectreviews",
            "SelfSubjectReview",
        ),
        "selfsubjectreview",
    ),
    (
        review(
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
        ),
        "selfsubjectaccessreview",
    ),
    (
        review(
            "authorization.k8s.io",
            "selfsubjectrulesreviews",
            "SelfSubjectRulesReview",
        ),
        "selfsubjectrulesreview",
    ),
    (
        review(
            "authorization.k8s.io",
            "subjectaccessreviews",
            "SubjectAccessReview",
        ),
        "subjectaccessreview",
    ),
];

const fn review(group: &'static str, plural: &'static str, kind: &'static str) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        kind,
        namespaced: false,
    }
}
