//! Schemas of kinds that clients define: whether they are structural, and what they fill in and refuse.

use std::net::IpAddr;

use regex::Regex;
use serde_json::{Value, json};

use super::decode::type_name;
use super::status::Cause;

/// Fills in a schema's defaults.
pub(crate) fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = schema.get("default") {
                    let null = map.get(name).is_some_and(Value::is_null);
                    if !map.contains_key(name) || null && schema["nullable"] != json!(true) {
                        map.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, inner) in map.iter_mut() {
                let known = schema["properties"].get(name);
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    default(schema, inner);
                }
            }
            // What is null and may not be counts as missing.
            let properties = &schema["properties"];
            map.retain(|name, inner| {
                !inner.is_null()
                    || properties
                        .get(name)
                        .is_none_or(|schema| schema["nullable"] == json!(true))
            });
        }
        Value::Array(list) => {
            for inner in list {
                default(&schema["items"], inner);
            }
        }
        _ => {}
    }
}

/// Checks an object against its schema.
pub(crate) fn validate(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    check(schema, object, "", causes);
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if schema.is_null() {
        return;
    }
    if value.is_null() && schema["nullable"] == json!(true) {
        return;
    }
    let either = schema["x-kubernetes-int-or-string"] == json!(true);
    if let Some(wanted) = schema["type"].as_str().filter(|_| !either) {
        let fits = match wanted {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            let name = match value {
                Value::Bool(_) => "boolean",
                Value::Number(n) if !n.is_f64() => "integer",
                other => type_name(other),
            };
            causes.push(Cause {
                reason: "FieldValueTypeInvalid",
                message: format!(
                    "Invalid value: {name:?}: {path} in body must be of type {wanted}: {name:?}"
                ),
                field: path.to_owned(),
            });
            return;
        }
    }
    match value {
        Value::Object(map) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                if !map.contains_key(name) {
                    causes.push(Cause::required(join(path, name), ""));
                }
            }
            count(schema, map.len(), "Properties", value, path, causes);
            for (name, inner) in map {
                let known = schema["properties"].get(name);
                if path.is_empty() && matches!(&**name, "metadata" | "kind" | "apiVersion") {
                    continue;
                }
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    check(schema, inner, &join(path, name), causes);
                }
            }
        }
        Value::Array(list) => {
            for (at, inner) in list.iter().enumerate() {
                check(&schema["items"], inner, &format!("{path}[{at}]"), causes);
            }
            count(schema, list.len(), "Items", value, path, causes);
            duplicates(schema, list, path, causes);
        }
        Value::String(text) => string(schema, text, path, causes),
        Value::Number(_) => number(schema, value, path, causes),
        _ => {}
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed
            .iter()
            .map(|one| match one {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        causes.push(Cause::unsupported(path, value, &allowed));
    }
}

fn count(
    schema: &Value,
    len: usize,
    what: &str,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let bound = |name: String| schema[&name].as_u64().and_then(|n| usize::try_from(n).ok());
    let items = what.to_lowercase();
    if let Some(max) = bound(format!("max{what}"))
        && len > max
    {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            message: format!("Too many: {len}: must have at most {max} {items}"),
            field: path.to_owned(),
        });
    }
    if let Some(min) = bound(format!("min{what}"))
        && len < min
    {
        causes.push(Cause::invalid(
            path,
            value,
            format_args!("{path} in body should have at least {min} {items}"),
        ));
    }
}

fn duplicates(schema: &Value, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let keys = &schema["x-kubernetes-list-map-keys"];
    let of = |entry: &Value| -> Value {
        match keys.as_array() {
            Some(keys) => keys
                .iter()
                .map(|key| {
                    let key = key.as_str().unwrap_or_default();
                    (key.to_owned(), entry[key].clone())
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
            None => entry.clone(),
        }
    };
    if !matches!(
        schema["x-kubernetes-list-type"].as_str(),
        Some("set" | "map")
    ) {
        return;
    }
    let mut seen: Vec<Value> = Vec::new();
    for (at, entry) in list.iter().enumerate() {
        let id = of(entry);
        if seen.contains(&id) {
            causes.push(Cause {
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {id}"),
                field: format!("{path}[{at}]"),
            });
        } else {
            seen.push(id);
        }
    }
}

fn string(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let value: Value = text.into();
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64()
        && length > max
    {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
            field: path.to_owned(),
        });
    }
    if let Some(min) = schema["minLength"].as_u64()
        && length < min
    {
        causes.push(Cause::invalid(
            path,
            &value,
            format_args!("{path} in body should be at least {min} chars long"),
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        causes.push(Cause::invalid(
            path,
            &value,
            format_args!("{path} in body should match '{pattern}'"),
        ));
    }
    if let Some(format) = schema["format"].as_str()
        && !has_format(format, text)
    {
        causes.push(Cause::invalid(
            path,
            &value,
            format_args!("{path} in body must be of type {format}: {text:?}"),
        ));
    }
}

fn has_format(format: &str, text: &str) -> bool {
    use base64::Engine as _;
    let cidr = || {
        let (ip, length) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        (length.parse::<u8>().ok()? <= most).then_some(())
    };
    match format {
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => cidr().is_some(),
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "uuid" => text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-'),
        "mac" => {
            text.split([':', '-']).count() == 6
                && text
                    .split([':', '-'])
                    .all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
        }
        _ => true,
    }
}

fn number(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(n) = value.as_f64() else {
        return;
    };
    let mut refuse = |rule: String| {
        causes.push(Cause::invalid(
            path,
            value,
            format_args!("{path} in body should be {rule}"),
        ));
    };
    if let Some(min) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == json!(true);
        if n < min || exclusive && n <= min {
            let or = if exclusive { "" } else { "or equal to " };
            refuse(format!("greater than {or}{}", schema["minimum"]));
        }
    }
    if let Some(max) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == json!(true);
        if n > max || exclusive && n >= max {
            let or = if exclusive { "" } else { "or equal to " };
            refuse(format!("less than {or}{}", schema["maximum"]));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64()
        && step > 0.0
        && (n / step).fract().abs() > f64::EPSILON
    {
        refuse(format!("a multiple of {}", schema["multipleOf"]));
    }
    if schema["format"] == "int32" && value.as_i64().is_some_and(|n| i32::try_from(n).is_err()) {
        causes.push(Cause::invalid(
            path,
            value,
            format_args!("{path} in body must be of type int32: {value}"),
        ));
    }
}

/// Checks a definition: its names, its versions, and that its schemas are structural.
pub(crate) fn definition(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (word(&spec["group"]), word(&spec["names"]["plural"]));
    let name = word(&object["metadata"]["name"]);
    for (field, value) in [
        ("spec.group", &group),
        ("spec.names.plural", &plural),
        ("spec.names.kind", &word(&spec["names"]["kind"])),
    ] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &name.as_str().into(),
            format_args!("must be spec.names.plural+\".\"+spec.group"),
        ));
    }
    if !matches!(spec["scope"].as_str(), Some("Cluster" | "Namespaced")) {
        causes.push(Cause::unsupported(
            "spec.scope",
            &spec["scope"],
            &["Cluster", "Namespaced"],
        ));
    }
    let versions = spec["versions"].as_array();
    let stored = versions
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == json!(true))
        .count();
    if stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    let single = versions.is_some_and(|versions| versions.len() == 1);
    for (at, version) in versions.into_iter().flatten().enumerate() {
        // A lone version's schema is reported where it was before versions had schemas.
        let field = if single {
            "spec.validation.openAPIV3Schema".to_owned()
        } else {
            format!("spec.versions[{at}].schema.openAPIV3Schema")
        };
        match version["schema"].get("openAPIV3Schema") {
            Some(schema) => structural(schema, &field, Place::Root, causes),
            None => causes.push(Cause::required(
                format!("spec.versions[{at}].schema.openAPIV3Schema"),
                "schemas are required",
            )),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Item,
}

fn structural(schema: &Value, field: &str, place: Place, causes: &mut Vec<Cause>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        structural(
            inner,
            &format!("{field}.properties[{name}]"),
            Place::Field,
            causes,
        );
    }
    if let Some(inner) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        structural(
            inner,
            &format!("{field}.additionalProperties"),
            Place::Field,
            causes,
        );
    }
    if let Some(inner) = schema.get("items") {
        structural(inner, &format!("{field}.items"), Place::Item, causes);
    }
    let free = schema["x-kubernetes-int-or-string"] == json!(true)
        || schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
    match schema["type"].as_str() {
        None | Some("") => {
            if place == Place::Root || !free {
                causes.push(Cause::required(
                    format!("{field}.type"),
                    match place {
                        Place::Root => "must not be empty at the root",
                        Place::Field => "must not be empty for specified object fields",
                        Place::Item => "must not be empty for specified array items",
                    },
                ));
            }
        }
        Some("array") if schema.get("items").is_none() => {
            causes.push(Cause::required(
                format!("{field}.items"),
                "must be specified",
            ));
        }
        Some(kind) if place == Place::Root && kind != "object" => {
            causes.push(Cause::invalid(
                format!("{field}.type"),
                &kind.into(),
                "must be object at the root",
            ));
        }
        Some(_) => {}
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_err()
    {
        causes.push(Cause::invalid(
            format!("{field}.pattern"),
            &pattern.into(),
            "must be a valid regular expression",
        ));
    }
    if !schema["properties"].is_null() && schema.get("additionalProperties").is_some() {
        causes.push(Cause::forbidden(
            format!("{field}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
}
