//! `/scale` of Deployments and ReplicaSets: how many pods there are to be, without the rest of the object.

use bytes::Bytes;
use serde_json::{Value, json};

use super::decode;
use super::patch::{self, Patch};
use super::shape;
use super::status::{Cause, Status};
use super::write::Write;

/// The Scale of an object.
pub(crate) fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut selector: Vec<String> = object["spec"]["selector"]["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    selector.sort();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    })
}

impl Write<'_> {
    /// PUT or PATCH of `/scale`.
    pub(crate) fn scale(&self, is_patch: bool) -> Result<Value, Status> {
        let name = self.name.unwrap_or_default();
        let r = self.served.resource;
        let held = self.store.get(r, self.namespace, name);
        let before = of(&*held.ok_or_else(|| Status::not_found(r, name))?);
        let asked = if is_patch {
            if self.media == patch::APPLY {
                return Err(Status::unsupported_media_type(patch::MERGE));
            }
            Patch::parse(self.media, self.body, false)?.apply(&shape::builtin("Scale"), &before)?
        } else {
            decode::object("Scale", self.media, self.body)?
        };
        let replicas = asked["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let rule = "must be greater than or equal to 0";
            let cause = Cause::invalid("spec.replicas", &replicas.into(), rule);
            return Err(Status::invalid_scale(name, cause));
        }
        let mut change = json!({"spec": {"replicas": replicas}});
        // A Scale that names a version is one of that version.
        if let Some(version) = asked["metadata"]["resourceVersion"].as_str()
            && !is_patch
        {
            change["metadata"] = json!({"resourceVersion": version});
        }
        let body = Bytes::from(change.to_string());
        let write = Write {
            subresource: "",
            media: patch::MERGE,
            body: &body,
            ..*self
        };
        Ok(of(&write.patch()?.object))
    }
}
