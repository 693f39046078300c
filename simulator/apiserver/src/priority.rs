//! Priority classes: their rules, and the priority of a pod that names one.

use serde_json::Value;

use super::resource::Resource;
use super::status::Cause;
use super::store::{Inner, key};

/// The largest value that a class of a client's may have; those above it are the system's.
const LARGEST: i64 = 1_000_000_000;
/// What the names of the system's classes begin with.
const SYSTEM: &str = "system-";

/// Checks a class.
pub(crate) fn class(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let value = new["value"].as_i64().unwrap_or(0);
    if old.is_none() {
        if name.starts_with(SYSTEM) {
            causes.push(Cause::forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only",
            ));
        }
        if value > LARGEST {
            causes.push(Cause::forbidden(
                "value",
                &format!("maximum allowed value of a user defined priority is {LARGEST}"),
            ));
        }
    }
    for field in ["value", "preemptionPolicy"] {
        if let Some(old) = old
            && old[field] != new[field]
        {
            causes.push(Cause::forbidden(field, "may not be changed in an update."));
        }
    }
    let policies = ["Never", "PreemptLowerPriority"];
    if !policies
        .iter()
        .any(|policy| new["preemptionPolicy"] == *policy)
    {
        causes.push(Cause::unsupported(
            "preemptionPolicy",
            &new["preemptionPolicy"],
            &policies,
        ));
    }
}

/// Gives a pod the number and policy of the class that it names, or of the class that holds for all.
///
/// # Errors
/// There is no such class; the text is the end of a refusal.
pub(crate) fn resolve(inner: &Inner, pod: &mut Value) -> Result<(), String> {
    let named = pod["spec"]["priorityClassName"]
        .as_str()
        .unwrap_or_default();
    let class = if named.is_empty() {
        inner
            .list(Resource::PRIORITY_CLASSES, None)
            .find(|class| class["globalDefault"] == serde_json::json!(true))
    } else {
        let held = inner.get(Resource::PRIORITY_CLASSES, &key(None, named));
        Some(held.ok_or_else(|| format!("no PriorityClass with name {named} was found"))?)
    };
    if let Some(class) = class {
        pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
        pod["spec"]["priority"] = class["value"].clone();
        pod["spec"]["preemptionPolicy"] = class["preemptionPolicy"].clone();
    }
    Ok(())
}
