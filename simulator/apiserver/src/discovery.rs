//! Which groups, versions and kinds there are: the plain documents and the aggregated one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::crd;
use super::kinds::{self, Served};
use super::resource::Resource;
use super::store::Store;

/// Verbs of a status subresource.
const STATUS: &[&str] = &["get", "patch", "update"];

/// A resource or subresource, ready to be written either way.
struct Entry {
    resource: Resource,
    singular: String,
    short: Vec<String>,
    categories: Vec<String>,
    verbs: &'static [&'static str],
    subresources: Vec<(&'static str, &'static str, &'static [&'static str])>,
    custom: bool,
}

impl Entry {
    fn of(served: &Served) -> Self {
        let mut subresources = served.more.to_vec();
        if served.status {
            subresources.push(("status", served.resource.kind, STATUS));
        }
        subresources.sort_unstable();
        Self {
            resource: served.resource,
            singular: served.singular.clone(),
            short: served.short.clone(),
            categories: served.categories.clone(),
            verbs: served.verbs(),
            subresources,
            custom: served.custom.is_some(),
        }
    }
}

/// Groups by place and name, their versions by rank and name.
type Groups = BTreeMap<(usize, String), BTreeMap<(i64, String), Vec<Entry>>>;

/// The kinds of every group version, groups as the API orders them.
fn groups(store: &Store) -> Groups {
    const ORDER: &[&str] = &[
        "",
        "apiregistration.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
        "apiextensions.k8s.io",
        "scheduling.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
    ];
    let mut groups = Groups::new();
    let mut add = |entry: Entry| {
        let r = entry.resource;
        let place = ORDER
            .iter()
            .position(|group| *group == r.group)
            .unwrap_or(ORDER.len());
        let (stable, major, minor) = crd::priority(r.version);
        let rank = -(i64::from(stable) * 1_000_000
            + i64::try_from(major.min(999) * 1000 + minor.min(999)).unwrap_or(0));
        groups
            .entry((place, r.group.to_owned()))
            .or_default()
            .entry((rank, r.version.to_owned()))
            .or_default()
            .push(entry);
    };
    for served in kinds::builtins() {
        add(Entry::of(served));
    }
    for (resource, singular) in kinds::REVIEWS {
        add(Entry {
            resource: *resource,
            singular: (*singular).to_owned(),
            short: Vec::new(),
            categories: Vec::new(),
            verbs: &["create"],
            subresources: Vec::new(),
            custom: false,
        });
    }
    let custom: Vec<Arc<Served>> = store.lock().custom().cloned().collect();
    for served in &custom {
        add(Entry::of(served));
    }
    groups
}

/// `/api`.
pub(crate) fn versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
        {"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:6443"},
    ]})
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

/// `/apis`.
pub(crate) fn group_list(store: &Store) -> Value {
    let groups: Vec<Value> = groups(store)
        .into_iter()
        .filter(|((_, group), _)| !group.is_empty())
        .map(|((_, group), versions)| {
            let versions: Vec<String> = versions.into_keys().map(|(_, version)| version).collect();
            group_value(&group, &versions)
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(store: &Store, wanted: &str) -> Option<Value> {
    let (_, versions) = groups(store)
        .into_iter()
        .find(|((_, group), _)| group == wanted)?;
    let versions: Vec<String> = versions.into_keys().map(|(_, version)| version).collect();
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(value), Value::Object(group)) =
        (value.as_object_mut(), group_value(wanted, &versions))
    {
        value.extend(group);
    }
    Some(value)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resources(store: &Store, group: &str, version: &str) -> Option<Value> {
    let (_, versions) = groups(store)
        .into_iter()
        .find(|((_, name), _)| name == group)?;
    let (_, entries) = versions
        .into_iter()
        .find(|((_, name), _)| name == version)?;
    let mut resources = Vec::new();
    for entry in entries {
        let r = entry.resource;
        let mut value = json!({
            "name": r.plural, "singularName": entry.singular, "namespaced": r.namespaced, "kind": r.kind,
            "verbs": entry.verbs,
        });
        if !entry.short.is_empty() {
            value["shortNames"] = entry.short.into();
        }
        if !entry.categories.is_empty() {
            value["categories"] = entry.categories.into();
        }
        resources.push(value);
        for (name, kind, verbs) in entry.subresources {
            let mut value = json!({
                "name": format!("{}/{name}", r.plural), "singularName": "", "namespaced": r.namespaced,
                "kind": kind, "verbs": verbs,
            });
            if let Some((group, version)) = kinds::elsewhere(kind) {
                value["group"] = group.into();
                value["version"] = version.into();
            }
            resources.push(value);
        }
    }
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = if group.is_empty() {
        version.into()
    } else {
        format!("{group}/{version}").into()
    };
    list["resources"] = resources.into();
    Some(list)
}

/// The aggregated document of `/api` or `/apis`.
pub(crate) fn aggregated(store: &Store, core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(store)
        .into_iter()
        .filter(|((_, group), _)| group.is_empty() == core)
        .map(|((_, group), versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|((_, version), entries)| {
                    let resources: Vec<Value> = entries.into_iter().map(aggregated_entry).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_entry(entry: Entry) -> Value {
    let r = entry.resource;
    let kind = |kind: &str| {
        if entry.custom {
            json!({"group": r.group, "version": r.version, "kind": kind})
        } else {
            json!({"group": "", "version": "", "kind": kind})
        }
    };
    let mut value = json!({
        "resource": r.plural, "responseKind": kind(r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": entry.singular, "verbs": entry.verbs,
    });
    if !entry.short.is_empty() {
        value["shortNames"] = entry.short.clone().into();
    }
    if !entry.categories.is_empty() {
        value["categories"] = entry.categories.clone().into();
    }
    if !entry.subresources.is_empty() {
        value["subresources"] = entry
            .subresources
            .iter()
            .map(|(name, subkind, verbs)| {
                let kind = match kinds::elsewhere(subkind) {
                    Some((group, version)) => {
                        json!({"group": group, "version": version, "kind": subkind})
                    }
                    None => kind(subkind),
                };
                json!({"subresource": name, "responseKind": kind, "verbs": verbs})
            })
            .collect();
    }
    value
}
