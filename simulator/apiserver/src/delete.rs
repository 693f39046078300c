//! Deletes: grace, preconditions, finalizers, and what is to become of dependents.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::decode;
use super::kinds::Served;
use super::request::Query;
use super::resource::Resource;
use super::selector::Selector;
use super::status::{Cause, Status};
use super::store::{Inner, key, key_of, mark_deleted};
use super::write::Write;

/// Namespaces that a cluster is never without.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

impl Write<'_> {
    /// DELETE of an object.
    pub(crate) fn delete(&self) -> Result<Value, Status> {
        let r = self.served.resource;
        let name = self.name.unwrap_or_default();
        let options = Deletion::parse(self.query, self.media, self.body)?;
        if r == Resource::NAMESPACES && IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                r,
                name,
                "this namespace may not be deleted",
            ));
        }
        self.store.write(|inner| {
            let old = inner
                .get(r, &key(self.namespace, name))
                .ok_or_else(|| Status::not_found(r, name))?;
            options.check(r, name, &old)?;
            if options.dry {
                return Ok(Status::deleted(r, name, &old["metadata"]["uid"]));
            }
            let (last, gone) = delete_one(inner, self.served, &old, &options);
            let answers_object = !gone || r.table() == Resource::PODS.table();
            if answers_object {
                Ok((*last).clone())
            } else {
                Ok(Status::deleted(r, name, &old["metadata"]["uid"]))
            }
        })
    }

    /// POST of `pods/NAME/eviction`: a deletion that may be refused. Nothing here refuses it: no kind of this API
    /// says how many pods of a kind have to be left.
    pub(crate) fn evict(&self) -> Result<Value, Status> {
        let name = self.name.unwrap_or_default();
        let eviction = decode::object("Eviction", self.media, self.body)?;
        if let Some(own) = eviction["metadata"]["name"].as_str()
            && own != name
        {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Eviction object: {own}"
            )));
        }
        let options = &eviction["deleteOptions"];
        let body = if options.is_object() {
            Bytes::from(options.to_string())
        } else {
            Bytes::new()
        };
        let deletion = Write {
            media: "application/json",
            body: &body,
            ..*self
        };
        deletion.delete()?;
        Ok(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        )
    }

    /// DELETE of a collection.
    pub(crate) fn delete_collection(&self) -> Result<(Vec<Arc<Value>>, u64), Status> {
        let selector = Selector::of(self.query, self.served)?;
        let options = Deletion::parse(self.query, self.media, self.body)?;
        Ok(self.store.write(|inner| {
            let chosen: Vec<Arc<Value>> = inner
                .list(self.served.resource, self.namespace)
                .filter(|object| selector.matches(object))
                .collect();
            if !options.dry {
                for old in &chosen {
                    delete_one(inner, self.served, old, &options);
                }
            }
            (chosen, inner.version())
        }))
    }
}

/// How to delete.
#[derive(Debug)]
pub(crate) struct Deletion {
    grace: Option<i64>,
    policy: Option<String>,
    uid: Option<String>,
    version: Option<String>,
    dry: bool,
}

impl Deletion {
    fn parse(query: &Query, media: &str, body: &[u8]) -> Result<Self, Status> {
        let options = if body.is_empty() {
            Value::Object(Map::new())
        } else {
            decode::object("DeleteOptions", media, body)?
        };
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let mut policy = word(&options["propagationPolicy"])
            .or_else(|| query.get("propagationPolicy").map(str::to_owned));
        if let Some(policy) = &policy
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            return Err(Status::invalid_options(
                "DeleteOptions",
                Cause::unsupported(
                    "propagationPolicy",
                    &policy.as_str().into(),
                    &["Foreground", "Background", "Orphan", "nil"],
                ),
            ));
        }
        if options["orphanDependents"] == json!(true) || query.is_true("orphanDependents") {
            policy = Some("Orphan".to_owned());
        }
        let dry = options["dryRun"]
            .as_array()
            .is_some_and(|runs| runs.iter().any(|run| run == "All"));
        Ok(Self {
            grace: match options["gracePeriodSeconds"].as_i64() {
                Some(seconds) => Some(seconds),
                None => query.number("gracePeriodSeconds")?,
            }
            // A negative grace is the shortest one, not none.
            .map(|seconds| if seconds < 0 { 1 } else { seconds }),
            policy,
            uid: word(&options["preconditions"]["uid"]),
            version: word(&options["preconditions"]["resourceVersion"]),
            dry: dry || query.dry_run()?,
        })
    }

    fn check(&self, resource: Resource, name: &str, object: &Value) -> Result<(), Status> {
        let metadata = &object["metadata"];
        for (what, wanted, field) in [
            ("UID", &self.uid, "uid"),
            ("ResourceVersion", &self.version, "resourceVersion"),
        ] {
            if let Some(wanted) = wanted
                && metadata[field] != *wanted
            {
                let held = metadata[field].as_str().unwrap_or_default();
                let mut status = Status::conflict(
                    resource,
                    name,
                    &format!(
                        "the {what} in the precondition ({wanted}) does not match the {what} in record ({held}). The object might have been deleted and then recreated"
                    ),
                );
                status.details["kind"] = resource.kind.into();
                return Err(status);
            }
        }
        Ok(())
    }
}

/// Deletes an object, or marks it where something holds it: the last state, and whether it is gone.
fn delete_one(
    inner: &mut Inner,
    served: &Served,
    old: &Arc<Value>,
    options: &Deletion,
) -> (Arc<Value>, bool) {
    let r = served.resource;
    let mut new = (**old).clone();
    let mut grace = 0;
    if r.table() == Resource::PODS.table() {
        let own = old["spec"]["terminationGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(30);
        grace = options.grace.unwrap_or(own).max(0);
        let running = old["spec"]["nodeName"]
            .as_str()
            .is_some_and(|n| !n.is_empty())
            && !matches!(
                old["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            );
        if !running {
            grace = 0;
        }
        if old["metadata"]["deletionTimestamp"].is_string() && grace > 0 {
            // Being deleted already: only a shorter grace changes anything.
            let left = old["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or(0);
            if grace >= left {
                return (old.clone(), false);
            }
        }
    }
    let first = !old["metadata"]["deletionTimestamp"].is_string();
    if first {
        let holder = match options.policy.as_deref() {
            Some("Orphan") => Some("orphan"),
            Some("Foreground") => Some("foregroundDeletion"),
            _ => None,
        };
        if let Some(holder) = holder {
            let finalizers = &mut new["metadata"]["finalizers"];
            match finalizers.as_array_mut() {
                Some(list) => list.push(holder.into()),
                None => *finalizers = json!([holder]),
            }
        }
    } else if grace == 0 && old["metadata"]["deletionGracePeriodSeconds"] == json!(0) {
        return (old.clone(), false);
    }
    if grace == 0 && new == **old && r.table() != Resource::NAMESPACES.table() {
        let last = inner.end(r, old);
        let gone = !inner.has(r, &key_of(old));
        if gone && r.table() == Resource::CUSTOM_RESOURCE_DEFINITIONS.table() {
            forget_instances(inner, &last);
        }
        return (last, gone);
    }
    mark_deleted(&mut new, grace);
    if r.table() == Resource::NAMESPACES.table() {
        new["status"]["phase"] = "Terminating".into();
        if let Some(metadata) = new["metadata"].as_object_mut() {
            metadata.shift_remove("deletionGracePeriodSeconds");
        }
    }
    let key = key_of(old);
    let last = inner.replace(r, old, new);
    let gone = !inner.has(r, &key);
    (last, gone)
}

/// Deletes an object from within the cluster.
pub(crate) fn delete_object(
    inner: &mut Inner,
    resource: Resource,
    object: &Arc<Value>,
    grace: Option<i64>,
) {
    let (Some(served), Some(held)) = (
        inner.of_table(resource.table()).cloned(),
        inner.get(resource, &key_of(object)),
    ) else {
        return;
    };
    let options = Deletion {
        grace,
        policy: None,
        uid: None,
        version: None,
        dry: false,
    };
    delete_one(inner, &served, &held, &options);
}

/// A kind that is no longer defined has no objects.
fn forget_instances(inner: &mut Inner, definition: &Value) {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let plural = definition["spec"]["names"]["plural"]
        .as_str()
        .unwrap_or_default();
    let resource = Resource::custom(group, "", plural, "", false);
    let keys: Vec<String> = inner
        .list(resource, None)
        .map(|object| key_of(&object))
        .collect();
    for key in keys {
        inner.take(resource, &key, None);
    }
}
