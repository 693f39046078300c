//! `metadata.managedFields`: who owns which field, and what an apply of one does to the others.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{self, Difference, Fields};
use super::shape::Shape;
use super::status::Status;
use super::store::stamp;

/// One owner.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Fields,
}

/// Who writes, and through which door.
#[derive(Debug, Clone)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) api_version: &'a str,
    pub(crate) subresource: &'a str,
}

impl Entry {
    fn parse(value: &Value) -> Self {
        let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            manager: word("manager"),
            operation: word("operation"),
            api_version: word("apiVersion"),
            subresource: word("subresource"),
            time: value["time"].as_str().map(str::to_owned),
            fields: Fields::parse(&value["fieldsV1"]),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
        });
        if let Some(time) = &self.time {
            value["time"] = time.as_str().into();
        }
        value["fieldsType"] = "FieldsV1".into();
        value["fieldsV1"] = self.fields.to_value();
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    fn is(&self, writer: &Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            && (operation == "Apply" || self.api_version == writer.api_version)
    }

    /// As texts of conflicts name it.
    fn display(&self) -> String {
        let mut name = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            name.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            name.push_str(&format!(" using {}", self.api_version));
        }
        name
    }
}

/// Fields that nobody owns.
fn unowned(subresource: &str) -> Fields {
    let mut value = json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": {
        ".": {}, "f:name": {}, "f:namespace": {}, "f:creationTimestamp": {}, "f:selfLink": {}, "f:uid": {},
        "f:generation": {}, "f:managedFields": {}, "f:resourceVersion": {}, "f:deletionTimestamp": {},
        "f:deletionGracePeriodSeconds": {},
    }});
    if subresource.is_empty() {
        value["f:status"] = json!({});
    } else {
        value["f:spec"] = json!({});
    }
    Fields::parse(&value)
}

fn strip(set: &mut Fields, has_status: bool, subresource: &str) {
    let mut gone = unowned(subresource);
    if !has_status {
        gone.below.remove("f:status");
    }
    // `f:metadata` itself is nobody's, its labels are somebody's.
    if let Some(metadata) = gone.below.get_mut("f:metadata") {
        metadata.own = false;
    }
    set.remove_below(&gone);
    if let Some(metadata) = set.below.get_mut("f:metadata") {
        metadata.own = false;
        if metadata.is_empty() {
            set.below.remove("f:metadata");
        }
    }
}

fn read(object: &Value) -> Vec<Entry> {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Entry::parse)
        .collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| {
        (&a.operation, &a.time, &a.manager, &a.api_version).cmp(&(
            &b.operation,
            &b.time,
            &b.manager,
            &b.api_version,
        ))
    });
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return;
    };
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        let list: Vec<Value> = entries.iter().map(Entry::to_value).collect();
        metadata.insert("managedFields".into(), list.into());
    }
}

/// Whether the client asked to forget all owners: a list of one empty entry.
fn reset(object: &Value) -> bool {
    object["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty))
}

/// Books a create, update or patch: the writer owns what it changed, and nobody else does.
pub(crate) fn update(
    shape: &Shape,
    has_status: bool,
    old: &Value,
    new: &mut Value,
    writer: &Writer<'_>,
) {
    if reset(new) {
        write(new, Vec::new());
        return;
    }
    let mut entries = read(if new["metadata"]["managedFields"].is_array() {
        new
    } else {
        old
    });
    let mut difference = fields::compare(shape, old, new);
    strip(&mut difference.changed, has_status, writer.subresource);
    if difference.is_empty() {
        write(new, entries);
        return;
    }
    for entry in &mut entries {
        entry.fields.remove_below(&difference.removed);
        if !entry.is(writer, "Update") {
            entry.fields.remove(&difference.changed);
        }
    }
    if !difference.changed.is_empty() {
        let now = Some(stamp(Timestamp::now()));
        match entries.iter_mut().find(|e| e.is(writer, "Update")) {
            Some(entry) => {
                entry.fields.add(&difference.changed);
                entry.time = now;
            }
            None => entries.push(Entry {
                manager: writer.manager.to_owned(),
                operation: "Update".to_owned(),
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time: now,
                fields: difference.changed,
            }),
        }
    }
    write(new, entries);
}

/// Lays an applied configuration over the live object.
///
/// `finish` fills in defaults of the merged object. The result is the new object with its owners booked.
pub(crate) fn apply(
    shape: &Shape,
    has_status: bool,
    live: &Value,
    configuration: &Value,
    writer: &Writer<'_>,
    force: bool,
    finish: impl FnOnce(&mut Value),
) -> Result<Value, Status> {
    let mut entries = read(live);
    let mut claimed = fields::of_configuration(shape, configuration);
    strip(&mut claimed, has_status, writer.subresource);
    let last = entries
        .iter()
        .find(|entry| entry.is(writer, "Apply"))
        .map(|entry| entry.fields.clone())
        .unwrap_or_default();

    let mut merged = fields::merge(shape, live, configuration);
    // What this manager applied before and no longer does goes, unless somebody else has an opinion on it.
    let mut dropped = last;
    dropped.remove(&claimed);
    keep_parents(&mut dropped, &claimed);
    for other in entries.iter().filter(|e| !e.is(writer, "Apply")) {
        dropped.remove(&other.fields);
        keep_parents(&mut dropped, &other.fields);
    }
    fields::prune(shape, &mut merged, &dropped);
    finish(&mut merged);

    let Difference {
        mut changed,
        removed,
    } = fields::compare(shape, live, &merged);
    strip(&mut changed, has_status, writer.subresource);
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut().filter(|e| !e.is(writer, "Apply")) {
        let common = entry.fields.common(&changed);
        if !common.is_empty() {
            for path in common.paths() {
                conflicts.push((entry.display(), path));
            }
            entry.fields.remove(&common);
        }
        entry.fields.remove_below(&removed);
    }
    if !conflicts.is_empty() && !force {
        return Err(Status::apply_conflict(&conflicts));
    }
    // An apply that changes nothing but owners leaves the time alone.
    let moved = !changed.is_empty() || !removed.is_empty();
    match entries.iter_mut().find(|e| e.is(writer, "Apply")) {
        Some(entry) => {
            entry.fields = claimed;
            entry.api_version = writer.api_version.to_owned();
            if moved {
                entry.time = Some(stamp(Timestamp::now()));
            }
        }
        None => entries.push(Entry {
            manager: writer.manager.to_owned(),
            operation: "Apply".to_owned(),
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: moved.then(|| stamp(Timestamp::now())),
            fields: claimed,
        }),
    }
    write(&mut merged, entries);
    Ok(merged)
}

/// A place whose parts are still wanted stays, whatever else of it goes.
fn keep_parents(dropped: &mut Fields, wanted: &Fields) {
    for (element, wanted) in &wanted.below {
        if let Some(below) = dropped.below.get_mut(element) {
            below.own = false;
            keep_parents(below, wanted);
            if below.is_empty() {
                dropped.below.remove(element);
            }
        }
    }
}
