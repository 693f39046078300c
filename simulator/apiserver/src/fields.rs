//! Sets of fields, and what two states of an object differ in, as field ownership counts it.
//!
//! A set is the tree of `FieldsV1`: `f:name` for a field, `k:{…}` for an entry of a keyed list, `v:…` for an entry of a
//! set, and `.` for the place itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::shape::{Key, Leaf, ListKind, Shape};

/// A set of places in an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Whether the place itself is in the set.
    pub(crate) own: bool,
    /// The places below, by their element.
    pub(crate) below: BTreeMap<String, Self>,
}

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        !self.own && self.below.is_empty()
    }

    /// Reads `fieldsV1`.
    pub(crate) fn parse(value: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in value.as_object().into_iter().flatten() {
            if element == "." {
                set.own = true;
            } else {
                let mut below = Self::parse(below);
                if below.is_empty() {
                    below.own = true;
                }
                set.below.insert(element.clone(), below);
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.below.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, below) in &self.below {
            map.insert(element.clone(), below.to_value());
        }
        Value::Object(map)
    }

    /// Everything that is in either.
    pub(crate) fn add(&mut self, other: &Self) {
        self.own |= other.own;
        for (element, below) in &other.below {
            match self.below.get_mut(element) {
                Some(mine) => mine.add(below),
                None => {
                    self.below.insert(element.clone(), below.clone());
                }
            }
        }
    }

    /// Takes away what is in the other.
    pub(crate) fn remove(&mut self, other: &Self) {
        if other.own {
            self.own = false;
        }
        for (element, below) in &other.below {
            if let Some(mine) = self.below.get_mut(element) {
                mine.remove(below);
                if mine.is_empty() {
                    self.below.remove(element);
                }
            }
        }
    }

    /// Takes away the places and everything below them.
    pub(crate) fn remove_below(&mut self, other: &Self) {
        for (element, below) in &other.below {
            if below.own {
                self.below.remove(element);
            } else if let Some(mine) = self.below.get_mut(element) {
                mine.remove_below(below);
                if mine.is_empty() {
                    self.below.remove(element);
                }
            }
        }
    }

    /// What is in both.
    pub(crate) fn common(&self, other: &Self) -> Self {
        Self {
            own: self.own && other.own,
            below: self
                .below
                .iter()
                .filter_map(|(element, mine)| {
                    let common = mine.common(other.below.get(element)?);
                    (!common.is_empty()).then(|| (element.clone(), common))
                })
                .collect(),
        }
    }

    /// The places as texts: `.data.a`, `.spec.containers[name="c"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.own {
            paths.push(prefix.to_owned());
        }
        for (element, below) in &self.below {
            let place = match element.split_at(2.min(element.len())) {
                ("f:", name) => format!("{prefix}.{name}"),
                ("k:", keys) => {
                    let keys: Vec<String> = serde_json::from_str::<Map<String, Value>>(keys)
                        .unwrap_or_default()
                        .iter()
                        .map(|(name, value)| format!("{name}={value}"))
                        .collect();
                    format!("{prefix}[{}]", keys.join(","))
                }
                (_, value) => format!("{prefix}[={value}]"),
            };
            below.collect(&place, paths);
        }
    }

    fn child(&mut self, element: String) -> &mut Self {
        self.below.entry(element).or_default()
    }
}

/// What two states differ in.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Added or of another value.
    pub(crate) changed: Fields,
    pub(crate) removed: Fields,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares two states of a whole object.
pub(crate) fn compare(shape: &Shape, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    let Difference { changed, removed } = &mut difference;
    walk(shape, Some(old), Some(new), changed, removed);
    trim(&mut difference.changed);
    trim(&mut difference.removed);
    difference
}

/// Drops branches that hold nothing.
fn trim(set: &mut Fields) {
    set.below.retain(|_, below| {
        trim(below);
        !below.is_empty()
    });
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn walk(
    shape: &Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    changed: &mut Fields,
    removed: &mut Fields,
) {
    let leaf = match shape {
        Shape::Leaf(_) => true,
        Shape::Struct(fields) => fields.atomic,
        Shape::Map { atomic, .. } => *atomic,
        Shape::List { kind, .. } => *kind == ListKind::Atomic,
        Shape::Any => !matches!(
            (old, new),
            (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None)
        ),
    };
    if leaf || (empty(old) && empty(new)) {
        match (old, new) {
            (None, Some(_)) => changed.own = true,
            (Some(_), None) => removed.own = true,
            (Some(old), Some(new)) if !equal(shape, old, new) => changed.own = true,
            _ => {}
        }
        return;
    }
    match (old, new) {
        (None, Some(_)) => changed.own = true,
        (Some(_), None) => removed.own = true,
        _ => {}
    }
    if let Shape::List { item, kind } = shape {
        let (old, new) = (entries(kind, old), entries(kind, new));
        for (element, value) in &new {
            let before = old.get(element).copied();
            if before == Some(*value) {
                continue;
            }
            walk(
                item,
                before,
                Some(value),
                changed.child(element.clone()),
                removed.child(element.clone()),
            );
        }
        for (element, value) in &old {
            if !new.contains_key(element) {
                let gone = removed.child(element.clone());
                walk(item, Some(value), None, changed, gone);
                gone.own = true;
            }
        }
        return;
    }
    let (old, new) = (
        old.and_then(Value::as_object),
        new.and_then(Value::as_object),
    );
    let zero = |side: Option<&Map<String, Value>>, name: &str| -> Option<&Value> {
        // What was never written is still there if it is no pointer.
        match (shape, side) {
            (Shape::Struct(fields), Some(_)) => fields.fields.get(name)?.zero.as_ref(),
            _ => None,
        }
    };
    let mut visit = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        if before == after {
            return;
        }
        let element = format!("f:{name}");
        let inner = shape.field(name).unwrap_or(&Shape::Any);
        walk(
            inner,
            before,
            after,
            changed.child(element.clone()),
            removed.child(element),
        );
    };
    for (name, after) in new.into_iter().flatten() {
        let before = old
            .and_then(|old| old.get(name))
            .or_else(|| zero(old, name));
        visit(name, before, Some(after));
    }
    for (name, before) in old.into_iter().flatten() {
        if !new.is_some_and(|new| new.contains_key(name)) {
            visit(name, Some(before), zero(new, name));
        }
    }
    if let (Shape::Struct(fields), None, Some(new)) = (shape, old, new) {
        for (name, field) in &fields.fields {
            if let Some(value) = &field.zero
                && !new.contains_key(&**name)
            {
                visit(name, None, Some(value));
            }
        }
    }
}

fn equal(shape: &Shape, old: &Value, new: &Value) -> bool {
    let nothing = |value: &Value| empty(Some(value));
    old == new
        || match shape {
            Shape::Leaf(Leaf::Time) => old.is_null() && new.is_null(),
            Shape::Leaf(_) => false,
            _ => nothing(old) && nothing(new) && !matches!(shape, Shape::Any),
        }
}

/// The entries of a keyed list or set by their elements.
pub(crate) fn entries<'a>(kind: &ListKind, list: Option<&'a Value>) -> BTreeMap<String, &'a Value> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|entry| (element(kind, entry), entry))
        .collect()
}

/// The element that names an entry.
pub(crate) fn element(kind: &ListKind, entry: &Value) -> String {
    match kind {
        ListKind::Keyed(keys) => {
            let mut named: Vec<(&str, Value)> = keys
                .iter()
                .map(|Key { name, default }| {
                    let value = entry.get(&**name).cloned().or_else(|| default.clone());
                    (&**name, value.unwrap_or(Value::Null))
                })
                .filter(|(_, value)| !value.is_null())
                .collect();
            named.sort_by(|a, b| a.0.cmp(b.0));
            let map: Map<String, Value> = named
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            format!("k:{}", Value::Object(map))
        }
        ListKind::Set | ListKind::Atomic => format!("v:{entry}"),
    }
}

/// The fields that an applied configuration has an opinion on.
pub(crate) fn of_configuration(shape: &Shape, value: &Value) -> Fields {
    let mut set = Fields::default();
    claim(shape, value, &mut set);
    set
}

fn claim(shape: &Shape, value: &Value, set: &mut Fields) {
    let whole = match shape {
        Shape::Leaf(_) => true,
        Shape::Struct(fields) => fields.atomic,
        Shape::Map { atomic, .. } => *atomic,
        Shape::List { kind, .. } => *kind == ListKind::Atomic,
        Shape::Any => !value.is_object(),
    };
    if whole {
        set.own = true;
        return;
    }
    match (shape, value) {
        (Shape::List { item, kind }, Value::Array(list)) => {
            for entry in list {
                let place = set.child(element(kind, entry));
                claim(item, entry, place);
                place.own = true;
            }
        }
        (_, Value::Object(map)) => {
            for (name, inner) in map {
                let declared =
                    matches!(shape, Shape::Struct(fields) if fields.fields.contains_key(&**name));
                let inner_shape = shape.field(name).unwrap_or(&Shape::Any);
                let place = set.child(format!("f:{name}"));
                claim(inner_shape, inner, place);
                if !declared || empty(Some(inner)) && (inner.is_object() || inner.is_null()) {
                    place.own = true;
                }
            }
        }
        _ => set.own = true,
    }
}

/// The live object with the configuration laid over it.
pub(crate) fn merge(shape: &Shape, live: &Value, applied: &Value) -> Value {
    match (shape, live, applied) {
        (Shape::Struct(fields), ..) if fields.atomic => applied.clone(),
        (Shape::Map { atomic: true, .. }, ..) => applied.clone(),
        (Shape::List { item, kind }, Value::Array(old), Value::Array(new))
            if *kind != ListKind::Atomic =>
        {
            let mut places: BTreeMap<String, usize> = BTreeMap::new();
            let mut merged = Vec::with_capacity(old.len() + new.len());
            for entry in old {
                places.insert(element(kind, entry), merged.len());
                merged.push(entry.clone());
            }
            for entry in new {
                let name = element(kind, entry);
                match places.get(&name) {
                    Some(&at) => merged[at] = merge(item, &merged[at], entry),
                    None => {
                        places.insert(name, merged.len());
                        merged.push(entry.clone());
                    }
                }
            }
            Value::Array(merged)
        }
        (Shape::Leaf(_) | Shape::List { .. }, ..) => applied.clone(),
        (_, Value::Object(old), Value::Object(new)) => {
            let mut merged = old.clone();
            for (name, value) in new {
                let value = match old.get(name) {
                    Some(old) => merge(shape.field(name).unwrap_or(&Shape::Any), old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        _ => applied.clone(),
    }
}

/// Removes places from an object; containers that become empty by it go too.
pub(crate) fn prune(shape: &Shape, value: &mut Value, gone: &Fields) {
    match (shape, value) {
        (Shape::List { item, kind }, Value::Array(list)) => list.retain_mut(|entry| {
            let Some(gone) = gone.below.get(&element(kind, entry)) else {
                return true;
            };
            if gone.own {
                return false;
            }
            prune(item, entry, gone);
            true
        }),
        (_, Value::Object(map)) => {
            for (element, gone) in &gone.below {
                let Some(name) = element.strip_prefix("f:") else {
                    continue;
                };
                if gone.own {
                    map.shift_remove(name);
                } else if let Some(inner) = map.get_mut(name) {
                    let before = empty(Some(inner));
                    prune(shape.field(name).unwrap_or(&Shape::Any), inner, gone);
                    if !before && empty(Some(inner)) {
                        map.shift_remove(name);
                    }
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::builtin;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    }

    #[test]
    fn entries_of_keyed_lists_are_compared_by_their_keys() {
        let shape = builtin("Pod");
        let old = pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
        let new = pod(json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]));
        let difference = compare(&shape, &old, &new);
        assert_eq!(
            difference.changed.paths(),
            [".spec.containers[name=\"b\"].image"]
        );
        assert!(difference.removed.is_empty());
        let gone = compare(&shape, &new, &pod(json!([{"name": "a", "image": "1"}])));
        assert!(gone.changed.is_empty());
        assert!(
            gone.removed
                .paths()
                .contains(&".spec.containers[name=\"b\"]".to_owned())
        );
    }

    #[test]
    fn a_port_is_known_by_its_number_and_protocol() {
        let kind = match &*builtin("Container") {
            Shape::Struct(fields) => match &*fields.fields["ports"].shape {
                Shape::List { kind, .. } => kind.clone(),
                other => panic!("a list, not {other:?}"),
            },
            other => panic!("a struct, not {other:?}"),
        };
        assert_eq!(
            element(&kind, &json!({"containerPort": 80})),
            r#"k:{"containerPort":80,"protocol":"TCP"}"#
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!("a")), Just(json!(true))];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn sets_survive_writing_and_reading(value in any_value()) {
            let set = of_configuration(&Shape::Any, &json!({"x": value}));
            prop_assert_eq!(Fields::parse(&set.to_value()), set);
        }

        #[test]
        fn what_is_merged_holds_what_was_applied(live in any_value(), applied in any_value()) {
            let (live, applied) = (json!({"x": live}), json!({"x": applied}));
            let merged = merge(&Shape::Any, &live, &applied);
            // Applying once more changes nothing.
            prop_assert_eq!(&merge(&Shape::Any, &merged, &applied), &merged);
            prop_assert!(compare(&Shape::Any, &merged, &merged).is_empty());
            // Taking away all that was applied and nobody else wanted leaves no trace of it.
            let mut pruned = merge(&Shape::Any, &json!({}), &applied);
            prune(&Shape::Any, &mut pruned, &of_configuration(&Shape::Any, &applied));
            prop_assert_eq!(pruned, json!({}));
        }
    }
}
