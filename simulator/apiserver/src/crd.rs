//! Kinds that clients define, and the three of Kosmos, which every cluster knows.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::kinds::{Columns, Served};
use super::resource::Resource;
use super::shape;

#[cfg(feature = "kosmos")]
const DEFINITIONS: &[&str] = &datapath::api::DEFINITIONS;
#[cfg(not(feature = "kosmos"))]
const DEFINITIONS: &[&str] = &[];

/// The definitions of `kosmos.io`, as every cluster has them.
pub(crate) static KOSMOS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    DEFINITIONS
        .iter()
        .filter_map(|text| serde_saphyr::from_str(text).ok())
        .collect()
});

static KOSMOS_SERVED: LazyLock<Vec<Vec<Arc<Served>>>> =
    LazyLock::new(|| KOSMOS.iter().map(compile).collect());

/// The kinds that a definition defines, one per served version, the preferred one first.
pub(crate) fn served(definition: &Value) -> Vec<Arc<Served>> {
    // The three that all clusters share are compiled once.
    for (known, served) in KOSMOS.iter().zip(KOSMOS_SERVED.iter()) {
        if known["spec"] == definition["spec"] {
            return served.clone();
        }
    }
    compile(definition)
}

fn compile(definition: &Value) -> Vec<Arc<Served>> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let mut versions: Vec<&Value> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true)
        .collect();
    versions.sort_by_key(|version| std::cmp::Reverse(priority(&word(&version["name"]))));
    versions
        .into_iter()
        .map(|version| {
            let schema = version["schema"]["openAPIV3Schema"].clone();
            let columns = match version["additionalPrinterColumns"].as_array() {
                Some(columns) => columns.clone(),
                None => vec![serde_json::json!({
                    "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
                })],
            };
            Arc::new(Served {
                resource: Resource::custom(
                    &word(&spec["group"]),
                    &word(&version["name"]),
                    &word(&names["plural"]),
                    &word(&names["kind"]),
                    spec["scope"] == "Namespaced",
                ),
                singular: match names["singular"].as_str() {
                    Some(singular) => singular.to_owned(),
                    None => word(&names["kind"]).to_lowercase(),
                },
                short: words(&names["shortNames"]),
                categories: words(&names["categories"]),
                status: version["subresources"]["status"].is_object(),
                generation: true,
                selectable: version["selectableFields"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|field| word(&field["jsonPath"]).trim_start_matches('.').to_owned())
                    .collect(),
                more: &[],
                shape: Arc::new(shape::of_custom(&schema)),
                columns: Columns::Custom(columns),
                custom: Some(schema),
            })
        })
        .collect()
}

/// Orders versions as clients prefer them: v2, v1, v1beta1, v1alpha1, and what is no version last.
pub(crate) fn priority(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse() else {
        return (0, 0, 0);
    };
    let number = |text: &str| text.parse().ok();
    match &rest[end..] {
        "" => (3, major, 0),
        rest => match (
            rest.strip_prefix("beta").and_then(number),
            rest.strip_prefix("alpha").and_then(number),
        ) {
            (Some(minor), _) => (2, major, minor),
            (_, Some(minor)) => (1, major, minor),
            _ => (0, 0, 0),
        },
    }
}

#[cfg(all(test, feature = "kosmos"))]
mod tests {
    use super::*;

    #[test]
    fn the_three_definitions_are_read() {
        let names: Vec<_> = KOSMOS
            .iter()
            .map(|definition| definition["metadata"]["name"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(
            names,
            [
                "clusters.kosmos.io",
                "clusternodes.kosmos.io",
                "nodeconfigs.kosmos.io"
            ]
        );
        assert!(
            !KOSMOS_SERVED[0][0].status,
            "status is written by plain update"
        );
        assert!(KOSMOS_SERVED[1][0].status);
        assert_eq!(KOSMOS_SERVED[2][0].resource, Resource::NODE_CONFIGS);
    }

    #[test]
    fn newer_and_stabler_versions_come_first() {
        let mut versions = ["v1alpha1", "v2", "foo", "v1beta2", "v1", "v1beta1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(
            versions,
            ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]
        );
    }
}
