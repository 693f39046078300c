//! What objects look like: one tree per kind, used for unknown fields, types, field ownership and strategic merges.
//!
//! Built-in kinds are read once per process from `builtin.schema`; kinds that clients define are read from their
//! OpenAPI schema. Every cluster shares the trees.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

/// The shape of one value.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    /// Anything; its maps are owned key by key, its lists as a whole.
    Any,
    /// A single value.
    Leaf(Leaf),
    /// Named fields.
    Struct(Struct),
    /// Free keys.
    Map { item: Arc<Self>, atomic: bool },
    /// Entries.
    List { item: Arc<Self>, kind: ListKind },
}

/// The types of single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    String,
    Integer,
    Boolean,
    Number,
    Quantity,
    IntOrString,
    Time,
    Bytes,
}

/// Named fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Struct {
    /// By name.
    pub(crate) fields: BTreeMap<Box<str>, Field>,
    /// Owned as a whole.
    pub(crate) atomic: bool,
    /// Other fields are kept.
    pub(crate) open: bool,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Its shape.
    pub(crate) shape: Arc<Shape>,
    /// What an object that was never filled holds here.
    pub(crate) zero: Option<Value>,
}

/// What distinguishes the entries of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// They are not: the list is one value.
    Atomic,
    /// By their value.
    Set,
    /// By these keys, with what a missing one counts as.
    Keyed(Arc<[Key]>),
}

/// A key of a list's entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The field.
    pub(crate) name: Box<str>,
    /// What counts when it is missing.
    pub(crate) default: Option<Value>,
}

impl Shape {
    /// The shape of a field of a map or struct.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Any => Some(&ANY),
            Self::Struct(fields) => match fields.fields.get(name) {
                Some(field) => Some(&field.shape),
                None if fields.open => Some(&ANY),
                None => None,
            },
            Self::Map { item, .. } => Some(item),
            Self::Leaf(_) | Self::List { .. } => None,
        }
    }

    fn zero(&self) -> Value {
        match self {
            Self::Struct(shape) => Value::Object(
                shape
                    .fields
                    .iter()
                    .filter_map(|(name, field)| Some((name.to_string(), field.zero.clone()?)))
                    .collect(),
            ),
            Self::Leaf(Leaf::String) => json!(""),
            Self::Leaf(Leaf::Integer | Leaf::Number | Leaf::IntOrString) => json!(0),
            Self::Leaf(Leaf::Boolean) => json!(false),
            _ => Value::Null,
        }
    }
}

/// Anything.
pub(crate) static ANY: Shape = Shape::Any;

static BUILTIN: LazyLock<BTreeMap<&'static str, Arc<Shape>>> =
    LazyLock::new(|| parse(include_str!("builtin.schema")));

/// The shape of a built-in type.
pub(crate) fn builtin(name: &str) -> Arc<Shape> {
    BUILTIN
        .get(name)
        .cloned()
        .unwrap_or_else(|| Arc::new(Shape::Any))
}

/// The built-in types by name, in the order of their names.
pub(crate) fn builtins() -> &'static BTreeMap<&'static str, Arc<Shape>> {
    &BUILTIN
}

fn parse(text: &'static str) -> BTreeMap<&'static str, Arc<Shape>> {
    let mut types: BTreeMap<&'static str, Arc<Shape>> = BTreeMap::new();
    let mut open: Option<(&'static str, Struct)> = None;
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(field) = line.strip_prefix("  ") {
            let (name, shape) = field.split_once(' ').unwrap_or((field, "*"));
            let (zeroed, name) = match name.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, name),
            };
            let shape = expression(shape.trim(), &types);
            if let Some((_, fields)) = &mut open {
                let zero = zeroed.then(|| shape.zero());
                fields.fields.insert(name.into(), Field { shape, zero });
            }
        } else {
            if let Some((name, fields)) = open.take() {
                types.insert(name, Arc::new(Shape::Struct(fields)));
            }
            open = Some((line.trim(), Struct::default()));
        }
    }
    if let Some((name, fields)) = open {
        types.insert(name, Arc::new(Shape::Struct(fields)));
    }
    types
}

fn expression(text: &str, types: &BTreeMap<&'static str, Arc<Shape>>) -> Arc<Shape> {
    let leaf = |leaf| Arc::new(Shape::Leaf(leaf));
    if let Some(rest) = text.strip_prefix('@') {
        return Arc::new(match &*expression(rest, types) {
            Shape::Struct(fields) => Shape::Struct(Struct {
                atomic: true,
                ..fields.clone()
            }),
            Shape::Map { item, .. } => Shape::Map {
                item: item.clone(),
                atomic: true,
            },
            other => other.clone(),
        });
    }
    if let Some(item) = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return Arc::new(Shape::Map {
            item: expression(item, types),
            atomic: false,
        });
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, set) = match rest.strip_suffix("]set") {
            Some(inside) => (inside, true),
            None => (rest.trim_end_matches(']'), false),
        };
        let (item, keys) = match inside.split_once('|') {
            Some((item, keys)) => (item, Some(keys)),
            None => (inside, None),
        };
        let kind = match keys {
            Some(keys) => ListKind::Keyed(
                keys.split(',')
                    .map(|key| match key.split_once('=') {
                        Some((name, default)) => Key {
                            name: name.into(),
                            default: Some(default.into()),
                        },
                        None => Key {
                            name: key.into(),
                            default: None,
                        },
                    })
                    .collect(),
            ),
            None if set => ListKind::Set,
            None => ListKind::Atomic,
        };
        return Arc::new(Shape::List {
            item: expression(item, types),
            kind,
        });
    }
    match text {
        "s" => leaf(Leaf::String),
        "i" => leaf(Leaf::Integer),
        "b" => leaf(Leaf::Boolean),
        "n" => leaf(Leaf::Number),
        "q" => leaf(Leaf::Quantity),
        "x" => leaf(Leaf::IntOrString),
        "t" => leaf(Leaf::Time),
        "y" => leaf(Leaf::Bytes),
        name => types
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::new(Shape::Any)),
    }
}

/// The shape of a whole custom object from the schema of its version.
pub(crate) fn of_custom(schema: &Value) -> Shape {
    let mut shape = match of_openapi(schema) {
        Shape::Struct(fields) => fields,
        _ => Struct {
            open: true,
            ..Struct::default()
        },
    };
    let plain = |shape| Field {
        shape: Arc::new(shape),
        zero: None,
    };
    shape
        .fields
        .insert("apiVersion".into(), plain(Shape::Leaf(Leaf::String)));
    shape
        .fields
        .insert("kind".into(), plain(Shape::Leaf(Leaf::String)));
    shape.fields.insert(
        "metadata".into(),
        Field {
            shape: builtin("ObjectMeta"),
            zero: Some(Value::Object(Map::new())),
        },
    );
    Shape::Struct(shape)
}

/// The shape of a value from its OpenAPI schema.
pub(crate) fn of_openapi(schema: &Value) -> Shape {
    if schema["x-kubernetes-int-or-string"] == json!(true) {
        return Shape::Leaf(Leaf::IntOrString);
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
    let embedded = schema["x-kubernetes-embedded-resource"] == json!(true);
    match schema["type"].as_str() {
        Some("object") => {
            let atomic = schema["x-kubernetes-map-type"] == json!("atomic");
            if let Some(item) = schema.get("additionalProperties").filter(|v| v.is_object()) {
                return Shape::Map {
                    item: Arc::new(of_openapi(item)),
                    atomic,
                };
            }
            if schema["additionalProperties"] == json!(true) {
                return Shape::Any;
            }
            let mut fields: BTreeMap<Box<str>, Field> = schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, schema)| {
                    let shape = Arc::new(of_openapi(schema));
                    (name.as_str().into(), Field { shape, zero: None })
                })
                .collect();
            if fields.is_empty() && open {
                return Shape::Any;
            }
            if embedded {
                for name in ["apiVersion", "kind", "metadata"] {
                    fields.entry(name.into()).or_insert_with(|| Field {
                        shape: Arc::new(Shape::Any),
                        zero: None,
                    });
                }
            }
            Shape::Struct(Struct {
                fields,
                atomic,
                open,
            })
        }
        Some("array") => {
            let item = &schema["items"];
            let kind = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Keyed(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .map(|name| Key {
                            name: name.into(),
                            default: item["properties"][name].get("default").cloned(),
                        })
                        .collect(),
                ),
                _ => ListKind::Atomic,
            };
            Shape::List {
                item: Arc::new(of_openapi(item)),
                kind,
            }
        }
        Some("string") => Shape::Leaf(match schema["format"].as_str() {
            Some("byte") => Leaf::Bytes,
            _ => Leaf::String,
        }),
        Some("integer") => Shape::Leaf(Leaf::Integer),
        Some("number") => Shape::Leaf(Leaf::Number),
        Some("boolean") => Shape::Leaf(Leaf::Boolean),
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_a_line_names_is_known() {
        // A misspelt name would silently become "anything".
        let known = builtins();
        for line in include_str!("builtin.schema").lines() {
            let Some((_, shape)) = line.strip_prefix("  ").and_then(|l| l.split_once(' ')) else {
                continue;
            };
            let name: String = shape
                .chars()
                .skip_while(|c| !c.is_ascii_uppercase())
                .take_while(|c| c.is_ascii_alphanumeric())
                .collect();
            if !name.is_empty() {
                assert!(known.contains_key(name.as_str()), "{line}");
            }
        }
    }

    #[test]
    fn what_was_never_filled_still_has_its_structs() {
        let Shape::Struct(daemon_set) = &*builtin("DaemonSet") else {
            panic!("a struct");
        };
        let spec = daemon_set.fields["spec"].zero.clone().expect("no pointer");
        assert_eq!(spec["template"]["spec"]["containers"], Value::Null);
        assert!(
            spec["updateStrategy"]
                .as_object()
                .expect("no pointer")
                .is_empty()
        );
    }
}
