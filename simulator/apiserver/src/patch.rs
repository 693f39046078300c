//! The three patches: JSON, merge and strategic merge.

use serde_json::{Map, Value};

use super::decode;
use super::fields;
use super::shape::{ListKind, Shape};
use super::status::Status;

/// A patch as it was sent.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(Vec<json_patch::PatchOperation>),
    Merge(Value),
    Strategic(Value),
}

/// The media types of patches.
pub(crate) const JSON: &str = "application/json-patch+json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// How much a JSON patch may copy in all: each copy can double what is there.
const LARGEST_COPIES: usize = 3 * 1024 * 1024;
/// How many operations a JSON patch may have.
const MOST_OPERATIONS: usize = 10_000;

impl Patch {
    pub(crate) fn parse(media: &str, body: &[u8], custom: bool) -> Result<Self, Status> {
        let bad = |error: serde_json::Error| {
            Status::bad_request(format!("error decoding patch: {error}"))
        };
        match media {
            JSON => {
                let operations: Vec<_> = serde_json::from_slice(body).map_err(bad)?;
                if operations.len() > MOST_OPERATIONS {
                    return Err(Status::too_large(format!(
                        "Request entity too large: The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                        operations.len()
                    )));
                }
                Ok(Self::Json(operations))
            }
            MERGE => Ok(Self::Merge(map(body)?)),
            STRATEGIC if !custom => Ok(Self::Strategic(map(body)?)),
            STRATEGIC => Err(Status::unsupported_media_type(&format!(
                "{JSON}, {MERGE}, {APPLY}"
            ))),
            _ => {
                let mut status = Status::unsupported_media_type("");
                status.message = "415: Unsupported Media Type".to_owned();
                status.details = Value::Object(Map::new());
                Err(status)
            }
        }
    }

    /// The patched object.
    pub(crate) fn apply(&self, shape: &Shape, object: &Value) -> Result<Value, Status> {
        let mut patched = object.clone();
        match self {
            Self::Json(operations) => {
                let mut copied = 0;
                for operation in operations {
                    if let json_patch::PatchOperation::Copy(copy) = operation {
                        let source = patched.pointer(copy.from.as_str());
                        copied += source.map_or(0, |source| source.to_string().len());
                        if copied > LARGEST_COPIES {
                            return Err(Status::too_large(format!(
                                "Request entity too large: the copies of the patch exceed {LARGEST_COPIES} bytes"
                            )));
                        }
                    }
                    json_patch::patch(&mut patched, std::slice::from_ref(operation))
                        .map_err(|_| Status::unprocessable())?;
                }
            }
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic(shape, &mut patched, patch)?,
        }
        if patched.is_object() && patched["metadata"].is_object() {
            Ok(patched)
        } else {
            Err(Status::unprocessable())
        }
    }
}

fn map(body: &[u8]) -> Result<Value, Status> {
    let value: Value = serde_json::from_slice(body)
        .or_else(|_| decode::yaml(body))
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            decode::type_name(&value)
        )))
    }
}

fn strategic(shape: &Shape, target: &mut Value, patch: &Value) -> Result<(), Status> {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let kept = patch.iter().filter(|(name, _)| *name != "$patch");
            *target = Value::Object(kept.map(|(n, v)| (n.clone(), v.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => {
            return Err(Status::bad_request(format!(
                "Unknown patch type found: {other}"
            )));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return Ok(());
    };
    if let Some(retained) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|name, _| retained.iter().any(|kept| kept.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(entries)), Some(gone)) = (map.get_mut(list), value.as_array())
            {
                entries.retain(|entry| !gone.contains(entry));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        let inner = shape.field(name).unwrap_or(&Shape::Any);
        match (inner, value) {
            (_, Value::Null) => {
                map.shift_remove(name);
            }
            (Shape::List { item, kind }, Value::Array(entries)) if *kind != ListKind::Atomic => {
                let list = map
                    .entry(name.clone())
                    .or_insert_with(|| Value::Array(Vec::new()));
                if !list.is_array() {
                    *list = Value::Array(Vec::new());
                }
                if let Some(list) = list.as_array_mut() {
                    merge_list(item, kind, list, entries)?;
                }
            }
            (_, Value::Object(_)) => {
                let target = map.entry(name.clone()).or_insert(Value::Null);
                let deleted = value["$patch"] == "delete";
                strategic(inner, target, value)?;
                if deleted {
                    map.shift_remove(name);
                }
            }
            _ => {
                map.insert(name.clone(), value.clone());
            }
        }
    }
    for (name, order) in patch {
        if let (Some(list), Some(order)) =
            (name.strip_prefix("$setElementOrder/"), order.as_array())
            && let (Some(Value::Array(entries)), Shape::List { kind, .. }) =
                (map.get_mut(list), shape.field(list).unwrap_or(&Shape::Any))
        {
            let place = |entry: &Value| {
                let id = merge_key(kind, entry);
                order
                    .iter()
                    .position(|one| merge_key(kind, one) == id)
                    .unwrap_or(usize::MAX)
            };
            entries.sort_by_key(place);
        }
    }
    Ok(())
}

/// What distinguishes entries in a strategic merge: the first key only.
fn merge_key(kind: &ListKind, entry: &Value) -> Value {
    match kind {
        ListKind::Keyed(keys) => keys
            .first()
            .map_or(Value::Null, |key| entry[&*key.name].clone()),
        _ => entry.clone(),
    }
}

fn merge_list(
    item: &Shape,
    kind: &ListKind,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), Status> {
    if patch.iter().any(|entry| {
        entry["$patch"] == "replace" && entry.as_object().is_some_and(|e| e.len() == 1)
    }) {
        *list = patch
            .iter()
            .filter(|entry| entry.get("$patch").is_none())
            .cloned()
            .collect();
        return Ok(());
    }
    for entry in patch {
        let id = merge_key(kind, entry);
        if matches!(kind, ListKind::Keyed(_)) && id.is_null() {
            return Err(Status::bad_request(format!(
                "map: {entry} does not contain declared merge key"
            )));
        }
        // Where the first key is ambiguous (two ports of one number), all keys decide.
        let exact = fields::element(kind, entry);
        let at = list
            .iter()
            .position(|one| fields::element(kind, one) == exact)
            .or_else(|| list.iter().position(|one| merge_key(kind, one) == id));
        if entry["$patch"] == "delete" {
            list.retain(|one| merge_key(kind, one) != id);
            continue;
        }
        match at {
            Some(at) if entry.is_object() => strategic(item, &mut list[at], entry)?,
            Some(_) => {}
            None => {
                let mut new = Value::Null;
                strategic(item, &mut new, entry)?;
                list.push(new);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::shape::builtin;
    use super::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Value {
        let mut target = target;
        strategic(&builtin("PodSpec"), &mut target, &patch).expect("a patch");
        target
    }

    #[test]
    fn entries_are_found_by_their_key() {
        let pod =
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]});
        assert_eq!(
            patched(
                pod.clone(),
                json!({"containers": [{"name": "a", "image": "2"}]})
            )["containers"][0],
            json!({"name": "a", "image": "2", "args": ["x"]})
        );
        assert_eq!(
            patched(
                pod.clone(),
                json!({"containers": [{"name": "a", "$patch": "delete"}]})
            ),
            json!({"containers": [{"name": "b"}]})
        );
        assert_eq!(
            patched(
                pod.clone(),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []})
            )["containers"][0]["name"],
            json!("b")
        );
        assert_eq!(
            patched(
                pod,
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})
            ),
            json!({"containers": [{"name": "c"}]})
        );
    }

    #[test]
    fn atomic_lists_are_replaced() {
        assert_eq!(
            patched(
                json!({"tolerations": [{"key": "a"}]}),
                json!({"tolerations": [{"key": "b"}]})
            ),
            json!({"tolerations": [{"key": "b"}]})
        );
    }
}
