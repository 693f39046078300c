//! Reading what a client sends: JSON or YAML, of the right kind, with fields that exist and values of their type.

use serde_json::Value;

use super::kinds::Served;
use super::protobuf;
use super::request::Query;
use super::shape::{Leaf, Shape};
use super::status::Status;

/// What to do about fields that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    Ignore,
    Warn,
    Strict,
}

impl Strictness {
    pub(crate) fn of(query: &Query) -> Result<Self, Status> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Status::invalid_options(
                "CreateOptions",
                super::status::Cause::unsupported(
                    "fieldValidation",
                    &other.into(),
                    &["Ignore", "Strict", "Warn"],
                ),
            )),
        }
    }
}

const OBJECTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// An object from a body.
pub(crate) fn object(kind: &str, media: &str, body: &[u8]) -> Result<Value, Status> {
    let value: Value = match media {
        "application/json" | "" => serde_json::from_slice(body).map_err(|error| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {error}"
            ))
        })?,
        "application/yaml" => yaml(body).map_err(|error| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {error}"
            ))
        })?,
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body).map_err(|error| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {error}"
            ))
        })?,
        _ => return Err(Status::unsupported_media_type(OBJECTS)),
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json: cannot unmarshal {} into Go value",
            type_name(&value)
        )))
    }
}

/// A document, which may also be JSON.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, String> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    serde_saphyr::from_str(text).map_err(|error| {
        // Only the first line: the rest quotes the document, which may hold a secret.
        let text = error.to_string();
        format!("yaml: {}", text.lines().next().unwrap_or_default())
    })
}

/// Checks that an object is of the kind that the path names.
pub(crate) fn check_kind(served: &Served, object: &mut Value) -> Result<(), Status> {
    let r = served.resource;
    let (kind, version) = (
        object["kind"].as_str().unwrap_or(r.kind).to_owned(),
        object["apiVersion"].as_str().map(str::to_owned),
    );
    let wanted = r.api_version();
    let version = version.unwrap_or_else(|| wanted.clone());
    if served.custom.is_some() {
        let (group, short) = version.split_once('/').unwrap_or(("", &version));
        if kind != r.kind {
            return Err(Status::bad_request(format!(
                "the kind in the data ({kind}) does not match the expected kind ({})",
                r.kind
            )));
        }
        if group != r.group || short != r.version {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({wanted})"
            )));
        }
    } else if kind != r.kind || version != wanted {
        return Err(Status::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}",
            version, r.kind
        )));
    }
    let Some(fields) = object.as_object_mut() else {
        return Ok(());
    };
    let mut rest = std::mem::take(fields);
    rest.shift_remove("kind");
    rest.shift_remove("apiVersion");
    fields.insert("kind".into(), r.kind.into());
    fields.insert("apiVersion".into(), wanted.into());
    fields.extend(rest);
    Ok(())
}

/// Drops fields that do not exist, refuses values of a wrong type; the result is the warnings.
pub(crate) fn conform(
    served: &Served,
    object: &mut Value,
    strictness: Strictness,
) -> Result<Vec<String>, Status> {
    let mut unknown = Vec::new();
    let custom = served.custom.is_some();
    fit(&served.shape, object, "", custom, &mut unknown).map_err(|error| {
        let r = served.resource;
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            r.kind, r.version, r.kind
        ))
    })?;
    if unknown.is_empty() || strictness == Strictness::Ignore {
        return Ok(Vec::new());
    }
    let texts: Vec<String> = unknown
        .iter()
        .map(|field| format!("unknown field {field:?}"))
        .collect();
    if strictness == Strictness::Strict {
        let r = served.resource;
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            r.kind,
            r.version,
            r.kind,
            texts.join(", ")
        )));
    }
    Ok(texts)
}

fn fit(
    shape: &Shape,
    value: &mut Value,
    path: &str,
    lenient: bool,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let wrong = |value: &Value, wanted: &str| {
        Err(format!(
            "json: cannot unmarshal {} into Go struct field {path} of type {wanted}",
            type_name(value)
        ))
    };
    // The types of a custom object are the validation's to judge, which names every broken one.
    let judge = !lenient || path == "metadata" || path.starts_with("metadata.");
    match shape {
        Shape::Any => Ok(()),
        Shape::Struct(fields) => {
            let Some(map) = value.as_object_mut() else {
                return if value.is_null() || !judge {
                    Ok(())
                } else {
                    wrong(value, "struct")
                };
            };
            let mut gone = Vec::new();
            for (name, inner) in map.iter_mut() {
                match fields.fields.get(&**name) {
                    Some(field) => fit(&field.shape, inner, &join(name), lenient, unknown)?,
                    None if fields.open => {}
                    None => {
                        unknown.push(join(name));
                        gone.push(name.clone());
                    }
                }
            }
            for name in gone {
                map.shift_remove(&name);
            }
            // A built-in field that says null says nothing.
            if !lenient || judge && !path.is_empty() {
                map.retain(|name, inner| {
                    let shape = fields.fields.get(&**name).map(|field| &*field.shape);
                    match shape {
                        Some(Shape::Any) => true,
                        // Nor does an empty map, which is written as no map at all.
                        Some(Shape::Map { .. }) => {
                            inner.as_object().is_none_or(|map| !map.is_empty()) && !inner.is_null()
                        }
                        _ => !inner.is_null(),
                    }
                });
            }
            Ok(())
        }
        Shape::Map { item, .. } => match value {
            Value::Object(map) => {
                for (name, inner) in map.iter_mut() {
                    fit(item, inner, &join(name), lenient, unknown)?;
                }
                Ok(())
            }
            Value::Null => Ok(()),
            value if judge => wrong(value, "map"),
            _ => Ok(()),
        },
        Shape::List { item, .. } => match value {
            Value::Array(list) => {
                for (at, inner) in list.iter_mut().enumerate() {
                    fit(item, inner, &format!("{path}[{at}]"), lenient, unknown)?;
                }
                Ok(())
            }
            Value::Null => Ok(()),
            value if judge => wrong(value, "slice"),
            _ => Ok(()),
        },
        Shape::Leaf(leaf) => {
            if value.is_null() || !judge {
                return Ok(());
            }
            let (good, name) = match leaf {
                Leaf::String => (value.is_string(), "string"),
                Leaf::Bytes => (
                    value.as_str().is_some_and(|text| {
                        use base64::Engine as _;
                        base64::engine::general_purpose::STANDARD
                            .decode(text)
                            .is_ok()
                    }),
                    "[]uint8",
                ),
                Leaf::Time => (
                    value
                        .as_str()
                        .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
                    "time",
                ),
                Leaf::Integer => (value.is_i64() || value.is_u64(), "int32"),
                Leaf::Number => (value.is_number(), "float64"),
                Leaf::Boolean => (value.is_boolean(), "bool"),
                Leaf::Quantity => (value.is_string() || value.is_number(), "quantity"),
                Leaf::IntOrString => (value.is_string() || value.is_i64(), "intstr"),
            };
            if good { Ok(()) } else { wrong(value, name) }
        }
    }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
