//! Objects as rows, the way `kubectl get` prints them, and as bare metadata.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::columns;
use super::kinds::{Columns, Served};
use super::request::Query;

/// What a row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Metadata,
    None,
    Object,
}

impl Include {
    pub(crate) fn of(query: &Query) -> Self {
        match query.get("includeObject") {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A table of some objects.
pub(crate) fn table<'a>(
    served: &Served,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let carried = match include {
                Include::Metadata => partial(object),
                Include::None => Value::Null,
                Include::Object => object.clone(),
            };
            json!({"cells": cells(served, object, now), "object": carried})
        })
        .collect();
    let columns = if with_columns {
        definitions(served)
    } else {
        Value::Null
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// An object's metadata and nothing else.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn definition(name: &str, kind: &str, format: &str, priority: u64, description: &str) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

fn definitions(served: &Served) -> Value {
    match &served.columns {
        Columns::Builtin(columns) => columns
            .iter()
            .map(|column| {
                let format = if column.name == "Name" { "name" } else { "" };
                definition(
                    column.name,
                    column.kind,
                    format,
                    column.priority.into(),
                    column.name,
                )
            })
            .collect(),
        Columns::Custom(columns) => {
            let mut all = vec![definition("Name", "string", "name", 0, "Name")];
            all.extend(columns.iter().map(|column| {
                let word = |name: &str| column[name].as_str().unwrap_or_default();
                definition(
                    word("name"),
                    word("type"),
                    word("format"),
                    column["priority"].as_u64().unwrap_or(0),
                    word("description"),
                )
            }));
            all.into()
        }
    }
}

fn cells(served: &Served, object: &Value, now: Timestamp) -> Vec<Value> {
    match &served.columns {
        Columns::Builtin(columns) => columns
            .iter()
            .map(|column| (column.cell)(object, now))
            .collect(),
        Columns::Custom(columns) => {
            let mut cells = vec![object["metadata"]["name"].clone()];
            cells.extend(columns.iter().map(|column| {
                let found = path(object, column["jsonPath"].as_str().unwrap_or_default());
                match (column["type"].as_str(), found) {
                    (_, None) => Value::Null,
                    (Some("date"), Some(value)) => columns::age(value, now).into(),
                    (Some("string"), Some(value)) if !value.is_string() => value.to_string().into(),
                    (_, Some(value)) => value.clone(),
                }
            }));
            cells
        }
    }
}

/// The simple JSONPaths of printer columns: `.a.b`, `.a[0]`, `.a[?(@.type=="Ready")].b`.
pub(crate) fn path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (index, after) = inside.split_once(']')?;
            value = match index.strip_prefix("?(@.").and_then(|t| t.strip_suffix(')')) {
                Some(test) => {
                    let (field, wanted) = test.split_once("==")?;
                    let wanted = wanted.trim().trim_matches(['"', '\'']);
                    value
                        .as_array()?
                        .iter()
                        .find(|entry| entry[field.trim()].as_str() == Some(wanted))?
                }
                None => match index.trim_matches(['"', '\'']) {
                    "*" => value.get(0)?,
                    index => match index.parse::<usize>() {
                        Ok(index) => value.get(index)?,
                        Err(_) => value.get(index)?,
                    },
                },
            };
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            value = value.get(&name[..end])?;
            rest = &name[end..];
        }
    }
    Some(value)
}

/// A list's metadata.
pub(crate) fn list_metadata(version: u64, more: Option<(String, Option<usize>)>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), version.to_string().into());
    if let Some((token, remaining)) = more {
        metadata.insert("continue".into(), token.into());
        if let Some(remaining) = remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
    }
    Value::Object(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_printer_columns_are_followed() {
        let object = json!({"s": {"c": [{"type": "A", "v": 1}, {"type": "Ready", "v": 2}]}});
        assert_eq!(path(&object, ".s.c[0].v"), Some(&json!(1)));
        assert_eq!(
            path(&object, ".s.c[?(@.type==\"Ready\")].v"),
            Some(&json!(2))
        );
        assert_eq!(path(&object, ".s.none.v"), None);
    }
}
