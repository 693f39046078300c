//! What Kubernetes a cluster is, and whether the kinds of Kosmos that it has are the ones that are written here.

use serde_json::Value;

use super::super::objects::{is_ours, name_of};

/// The oldest minor version of Kubernetes that has everything that is asked for: bound tokens and server-side apply.
const OLDEST: u32 = 24;
/// The newest one that this program was tried with.
const NEWEST: u32 = 37;

/// What the operator should know of a version, as `v1.33.1`, whose release is `1` and `33`.
pub(super) fn warning(cluster: &str, version: &str, release: (&str, &str)) -> Option<String> {
    let (major, minor) = release;
    let minor = minor.trim_end_matches('+').parse::<u32>().ok();
    match (major, minor) {
        ("1", Some(minor)) if minor < OLDEST => Some(format!(
            "{cluster} runs Kubernetes {version}: too old, 1.{OLDEST} is the oldest that has everything that is asked for"
        )),
        ("1", Some(minor)) if minor > NEWEST => Some(format!(
            "{cluster} runs Kubernetes {version}: newer than 1.{NEWEST}, the newest that was tried"
        )),
        ("1", Some(_)) => None,
        _ => Some(format!(
            "{cluster} says that it runs Kubernetes {version}, which is no version that is known"
        )),
    }
}

/// The definitions that somebody else made have to take what is written.
pub(super) const KINDS: [&str; 3] = [
    "clusternodes.kosmos.io",
    "clusters.kosmos.io",
    "nodeconfigs.kosmos.io",
];

/// Why a definition that is there cannot be used; none where it can, or is ours and will be what it is to be.
pub(super) fn refusal(cluster: &str, definition: &Value) -> Option<String> {
    if is_ours(definition) {
        return None;
    }
    let name = datapath::printable::printable(name_of(definition), 253);
    let refuse = |why: &str| {
        Some(format!(
            "CustomResourceDefinition {name} of {cluster} is not the datapath's: {why} (the chart's folder crds has definitions with every field of Kosmos' own; apply the one of {name})"
        ))
    };
    let spec = &definition["spec"];
    if spec["scope"] != "Cluster" {
        return refuse("its objects are in namespaces");
    }
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions
        .clone()
        .find(|version| version["name"] == datapath::api::VERSION && version["served"] == true);
    let Some(served) = served else {
        return refuse("v1alpha1 is not served");
    };
    let schema = &served["schema"]["openAPIV3Schema"];
    let has = |path: &[&str]| {
        let mut at = schema;
        for field in path {
            if at["x-kubernetes-preserve-unknown-fields"] == true {
                return true;
            }
            at = &at["properties"][*field];
        }
        !at.is_null()
    };
    // Agents say by these conditions that their node is as planned.
    if name.starts_with("nodeconfigs.") && !has(&["status", "conditions"]) {
        return refuse("it drops status.conditions, by which agents report");
    }
    if name.starts_with("clusters.") && !has(&["spec", "clusterLinkOptions"]) {
        return refuse("it drops spec.clusterLinkOptions");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn old_new_and_unknown_versions_are_told() {
        for fine in [("1", "24"), ("1", "33+"), ("1", "37")] {
            assert_eq!(warning("west", "v0.0.0-master", fine), None, "{fine:?}");
        }
        for (release, word) in [
            (("1", "19"), "too old"),
            (("1", "52"), "newer"),
            (("2", "0"), "no version"),
            (("", ""), "no version"),
            (("1", "x"), "no version"),
        ] {
            let text = warning("west", "v9", release).expect(word);
            assert!(text.contains(word) && text.starts_with("west"), "{text}");
        }
    }

    fn definition(scope: &str, version: &str, status: Value) -> Value {
        json!({
            "metadata": {"name": "nodeconfigs.kosmos.io"},
            "spec": {"scope": scope, "versions": [{"name": version, "served": true,
                     "schema": {"openAPIV3Schema": {"properties": {"spec": {}, "status": status}}}}]},
        })
    }

    #[test]
    fn a_definition_of_another_shape_is_refused_with_what_helps() {
        let conditions = json!({"properties": {"conditions": {"type": "array"}}});
        let fine = definition("Cluster", "v1alpha1", conditions.clone());
        assert_eq!(refusal("east", &fine), None);
        let loose = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(
            refusal("east", &definition("Cluster", "v1alpha1", loose)),
            None
        );
        for (bad, word) in [
            (
                definition("Namespaced", "v1alpha1", conditions.clone()),
                "namespaces",
            ),
            (definition("Cluster", "v1", conditions), "v1alpha1"),
            (
                definition(
                    "Cluster",
                    "v1alpha1",
                    json!({"properties": {"lastSyncTime": {}}}),
                ),
                "status.conditions",
            ),
        ] {
            let text = refusal("east", &bad).expect(word);
            assert!(text.contains(word) && text.contains("crds"), "{text}");
        }
        let mut ours = definition("Namespaced", "v1", json!({}));
        ours["metadata"]["labels"] =
            json!({crate::manifest::MANAGED_BY_LABEL: crate::manifest::MANAGED_BY});
        assert_eq!(refusal("east", &ours), None, "it will be changed");
    }
}
