//! An object that a deed makes in a cluster: where it is, what it is to be, and whose it is.

use serde_json::Value;

use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL};

/// The label of everything that belongs to the datapath of one member cluster; its value is the cluster's name.
pub(super) const MEMBER_LABEL: &str = "kosmos.io/clusterlink-member";
/// What everything that is installed is part of.
pub(super) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "clusterlink");

/// An object and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) kind: &'static str,
    /// The path of its collection.
    pub(super) collection: String,
    pub(super) value: Value,
}

impl Object {
    /// An object of a kind at `/api/v1/…` or `/apis/GROUP/VERSION/…`; in its own namespace where it has one.
    pub(super) fn new(
        (api_version, kind, plural): (&str, &'static str, &str),
        value: impl serde::Serialize,
    ) -> Self {
        // What can be a Kubernetes object can be JSON.
        let mut value = serde_json::to_value(value).unwrap_or_default();
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        let root = if api_version == "v1" { "/api" } else { "/apis" };
        let collection = match value["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{root}/{api_version}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{api_version}/{plural}"),
        };
        Self {
            kind,
            collection,
            value,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        name_of(&self.value)
    }

    /// Its path.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name())
    }

    /// For people: `DaemonSet kosmos-system/clusterlink-agent`.
    pub(super) fn words(&self) -> String {
        words(self.kind, &self.value)
    }
}

/// An object's name; empty where it has none.
pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// What an object is called for people.
pub(super) fn words(kind: &str, object: &Value) -> String {
    let metadata = &object["metadata"];
    let text = |value: &Value| {
        datapath::printable::printable(value.as_str().unwrap_or_default(), 253).into_owned()
    };
    match text(&metadata["namespace"]) {
        namespace if namespace.is_empty() => format!("{kind} {}", text(&metadata["name"])),
        namespace => format!("{kind} {namespace}/{}", text(&metadata["name"])),
    }
}

/// Whether an object says that this program manages it.
pub(super) fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY
}

/// Whether two states of an object are the same to everybody but its server's bookkeeping.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(field);
            }
        }
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        object
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_where_its_kind_and_namespace_say() {
        let account = ("v1", "ServiceAccount", "serviceaccounts");
        let object = Object::new(
            account,
            json!({"metadata": {"name": "a", "namespace": "ns"}}),
        );
        assert_eq!(object.path(), "/api/v1/namespaces/ns/serviceaccounts/a");
        assert_eq!(object.words(), "ServiceAccount ns/a");
        let role = (
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            "clusterroles",
        );
        let object = Object::new(role, json!({"metadata": {"name": "a"}}));
        assert_eq!(
            object.path(),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a"
        );
        assert_eq!(object.value["kind"], "ClusterRole");
    }

    #[test]
    fn bookkeeping_is_no_difference() {
        let one = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "data": {}, "status": {"a": 1}});
        let mut other = json!({"metadata": {"name": "a", "managedFields": []}, "data": {}});
        assert!(is_same(&one, &other));
        other["data"]["x"] = "y".into();
        assert!(!is_same(&one, &other));
    }
}
