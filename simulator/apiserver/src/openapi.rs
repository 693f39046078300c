//! The OpenAPI v3 documents that clients validate with and compute patches from.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::kinds::{self, Served};
use super::resource::Resource;
use super::shape::{self, Leaf, ListKind, Shape};
use super::store::Store;

/// `/openapi/v3`: where the documents are. The hash lets clients cache them.
pub(crate) fn index(store: &Store) -> Value {
    let mut paths = Map::new();
    let mut add = |version: String, hash: String| {
        let url = format!("/openapi/v3/{version}?hash={hash}");
        paths.insert(version, json!({"serverRelativeURL": url}));
    };
    for version in BUILTIN.keys() {
        add(version.clone(), env!("CARGO_PKG_VERSION").to_owned());
    }
    let custom: Vec<Arc<Served>> = store.lock().custom().cloned().collect();
    for served in &custom {
        let schema = served.custom.as_ref().map(Value::to_string);
        let digest =
            ring::digest::digest(&ring::digest::SHA256, schema.unwrap_or_default().as_bytes());
        let hash: String = digest.as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        add(prefix(served.resource), hash);
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` and its sisters.
pub(crate) fn document(store: &Store, version: &str) -> Option<Bytes> {
    if let Some(document) = BUILTIN.get(version) {
        return Some(document.clone());
    }
    let custom: Vec<Arc<Served>> = store
        .lock()
        .custom()
        .filter(|served| prefix(served.resource) == version)
        .cloned()
        .collect();
    (!custom.is_empty()).then(|| write(&custom).into())
}

/// `api/v1`, `apis/apps/v1`.
fn prefix(r: Resource) -> String {
    if r.group.is_empty() {
        format!("api/{}", r.version)
    } else {
        format!("apis/{}/{}", r.group, r.version)
    }
}

/// The documents of the built-in kinds, which all clusters share.
static BUILTIN: LazyLock<BTreeMap<String, Bytes>> = LazyLock::new(|| {
    let mut groups: BTreeMap<String, Vec<Arc<Served>>> = BTreeMap::new();
    for served in kinds::builtins() {
        groups
            .entry(prefix(served.resource))
            .or_default()
            .push(served.clone());
    }
    groups
        .into_iter()
        .map(|(version, kinds)| (version, write(&kinds).into()))
        .collect()
});

fn write(kinds: &[Arc<Served>]) -> String {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for served in kinds {
        let r = served.resource;
        let gvk = json!([{"group": r.group, "kind": r.kind, "version": r.version}]);
        let name = schema_name(r);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        let mut schema = match &served.custom {
            Some(custom) => {
                let mut schema = custom.clone();
                if !schema["properties"].is_object() {
                    schema["properties"] = json!({});
                }
                schema["properties"]["metadata"] = json!({"allOf": [{"$ref": format!("#/components/schemas/{META}")}], "default": {}});
                schema
            }
            None => of_shape(&served.shape),
        };
        schema["x-kubernetes-group-version-kind"] = gvk;
        schemas.insert(name, schema);
        let place = if r.namespaced {
            format!("/{}/namespaces/{{namespace}}/{}", prefix(r), r.plural)
        } else {
            format!("/{}/{}", prefix(r), r.plural)
        };
        let one_gvk = json!({"group": r.group, "kind": r.kind, "version": r.version});
        let operation = |action: &str, validated: bool| {
            let mut parameters = vec![parameter("dryRun"), parameter("fieldManager")];
            if validated {
                parameters.push(parameter("fieldValidation"));
            }
            json!({
                "parameters": parameters, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": one_gvk,
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
            })
        };
        paths.insert(
            place.clone(),
            json!({"get": operation("list", false), "post": operation("post", true)}),
        );
        let mut patch = operation("patch", true);
        let media: &[&str] = if served.custom.is_some() {
            &[super::patch::APPLY, super::patch::JSON, super::patch::MERGE]
        } else {
            &[
                super::patch::APPLY,
                super::patch::JSON,
                super::patch::MERGE,
                super::patch::STRATEGIC,
            ]
        };
        let content: Map<String, Value> = media
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": {"type": "object"}})))
            .collect();
        patch["requestBody"] = json!({"content": content});
        paths.insert(
            format!("{place}/{{name}}"),
            json!({
                "get": operation("get", false), "put": operation("put", true),
                "patch": patch, "delete": operation("delete", false),
            }),
        );
    }
    for (name, shape) in shape::builtins() {
        if *name == "ObjectMeta" {
            schemas.insert(META.to_owned(), of_shape(shape));
        }
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths, "components": {"schemas": schemas},
    })
    .to_string()
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
}

/// The name of a kind's schema: its group backwards, as the API names them.
fn schema_name(r: Resource) -> String {
    if r.group.is_empty() {
        return format!("io.k8s.api.core.{}.{}", r.version, r.kind);
    }
    let backwards: Vec<&str> = r.group.split('.').rev().collect();
    format!("{}.{}.{}", backwards.join("."), r.version, r.kind)
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Shape::Leaf(leaf) => match leaf {
            Leaf::String => json!({"type": "string"}),
            Leaf::Integer => json!({"type": "integer"}),
            Leaf::Boolean => json!({"type": "boolean"}),
            Leaf::Number => json!({"type": "number"}),
            Leaf::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Leaf::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Leaf::Time => json!({"type": "string", "format": "date-time"}),
            Leaf::Bytes => json!({"type": "string", "format": "byte"}),
        },
        Shape::Struct(fields) => {
            let properties: Map<String, Value> = fields
                .fields
                .iter()
                .map(|(name, field)| (name.to_string(), of_shape(&field.shape)))
                .collect();
            let mut schema = json!({"type": "object", "properties": properties});
            if fields.atomic {
                schema["x-kubernetes-map-type"] = "atomic".into();
            }
            schema
        }
        Shape::Map { item, atomic } => {
            let mut schema = json!({"type": "object", "additionalProperties": of_shape(item)});
            if *atomic {
                schema["x-kubernetes-map-type"] = "atomic".into();
            }
            schema
        }
        Shape::List { item, kind } => {
            let mut schema = json!({"type": "array", "items": of_shape(item)});
            match kind {
                ListKind::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
                ListKind::Set => {
                    schema["x-kubernetes-list-type"] = "set".into();
                    schema["x-kubernetes-patch-strategy"] = "merge".into();
                }
                ListKind::Keyed(keys) => {
                    schema["x-kubernetes-list-type"] = "map".into();
                    schema["x-kubernetes-list-map-keys"] =
                        keys.iter().map(|key| Value::from(&*key.name)).collect();
                    schema["x-kubernetes-patch-strategy"] = "merge".into();
                    schema["x-kubernetes-patch-merge-key"] =
                        keys.first().map_or(Value::Null, |key| (&*key.name).into());
                }
            }
            schema
        }
    }
}
