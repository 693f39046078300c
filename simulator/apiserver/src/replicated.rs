//! What Deployments and ReplicaSets have in common: their rules, numbers that may be shares, and the pods that one owns.

use std::sync::Arc;

use serde_json::{Value, json};

use super::resource::Resource;
use super::status::Cause;
use super::store::Inner;

/// Checks what `validate` does not check of every template: numbers and the strategy.
pub(crate) fn workload(new: &Value, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    for field in [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        if let Some(number) = spec[field].as_i64()
            && number < 0
        {
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                &number.into(),
                "must be greater than or equal to 0",
            ));
        }
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0)
    {
        causes.push(Cause::invalid(
            "spec.progressDeadlineSeconds",
            &deadline.into(),
            "must be greater than minReadySeconds",
        ));
    }
    strategy(&spec["strategy"], causes);
}

fn strategy(strategy: &Value, causes: &mut Vec<Cause>) {
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str() {
        Some("Recreate") if rolling.is_object() => causes.push(Cause::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        None | Some("Recreate") => {}
        Some("RollingUpdate") => {
            let (most, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            for (name, value) in [("maxUnavailable", most), ("maxSurge", surge)] {
                if share(value, 100).is_none_or(|number| number < 0) {
                    causes.push(Cause::invalid(
                        format!("spec.strategy.rollingUpdate.{name}"),
                        value,
                        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    ));
                }
            }
            if share(most, 100) == Some(0) && share(surge, 100) == Some(0) {
                causes.push(Cause::invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    most,
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
        }
        Some(_) => causes.push(Cause::unsupported(
            "spec.strategy.type",
            &strategy["type"],
            &["Recreate", "RollingUpdate"],
        )),
    }
}

/// A number, or as much of a whole as a percentage says, rounded down. Nothing for anything else.
fn share(value: &Value, whole: i64) -> Option<i64> {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%')?;
            let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let percent: i64 = is_plain.then(|| digits.parse().ok()).flatten()?;
            whole
                .checked_mul(percent)
                .map(|hundredths| hundredths / 100)
        }
        value => value.as_i64(),
    }
}

/// How many pods may be missing and how many may be there in addition while pods are replaced.
pub(crate) fn tolerance(strategy: &Value, replicas: i64) -> (i64, i64) {
    if strategy["type"] == "Recreate" {
        return (replicas, 0);
    }
    let rolling = &strategy["rollingUpdate"];
    let missing = share(&rolling["maxUnavailable"], replicas).unwrap_or(0);
    // A surge is rounded up: a hundred times the number, and back.
    let surge = match &rolling["maxSurge"] {
        value @ Value::String(_) => {
            share(value, replicas.saturating_mul(100)).map_or(0, |n| n.saturating_add(99) / 100)
        }
        value => value.as_i64().unwrap_or(0),
    };
    // Both at nothing would stop every update; the validation refuses only what is written as nothing.
    if missing == 0 && surge == 0 {
        (1, 0)
    } else {
        (missing.min(replicas), surge)
    }
}

/// The objects of a kind that an owner controls, in the order of their names.
pub(crate) fn controlled(inner: &Inner, resource: Resource, owner: &Value) -> Vec<Arc<Value>> {
    let uid = &owner["metadata"]["uid"];
    let namespace = owner["metadata"]["namespace"].as_str();
    inner
        .list(resource, namespace)
        .filter(|object| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["uid"] == *uid && one["controller"] == json!(true))
        })
        .collect()
}

/// The reference of what an object controls.
pub(crate) fn owned_by(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }])
}

/// Whether an object is on its way out.
pub(crate) fn is_leaving(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether an object's condition `Ready` holds.
pub(crate) fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_upstream_rounds_them() {
        let rolling = |most: Value, surge: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most, "maxSurge": surge}});
        let quarter = rolling(json!("25%"), json!("25%"));
        assert_eq!(tolerance(&quarter, 1), (0, 1));
        assert_eq!(tolerance(&quarter, 2), (0, 1));
        assert_eq!(tolerance(&quarter, 10), (2, 3));
        assert_eq!(tolerance(&rolling(json!(5), json!(0)), 2), (2, 0));
        assert_eq!(tolerance(&rolling(json!("1%"), json!("0%")), 2), (1, 0));
        assert_eq!(tolerance(&json!({"type": "Recreate"}), 3), (3, 0));
        assert_eq!(tolerance(&json!({}), 3), (1, 0));
    }

    #[test]
    fn strategies_that_stop_every_update_are_refused() {
        let refused = |strategy: Value| {
            let mut causes = Vec::new();
            super::strategy(&strategy, &mut causes);
            causes
                .into_iter()
                .map(|cause| cause.field)
                .collect::<Vec<_>>()
        };
        let both = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}});
        assert_eq!(
            refused(both),
            ["spec.strategy.rollingUpdate.maxUnavailable"]
        );
        let text = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "x", "maxSurge": 1}});
        assert_eq!(
            refused(text),
            ["spec.strategy.rollingUpdate.maxUnavailable"]
        );
        let recreate = json!({"type": "Recreate", "rollingUpdate": {}});
        assert_eq!(refused(recreate), ["spec.strategy.rollingUpdate"]);
        assert_eq!(refused(json!({"type": "Soon"})), ["spec.strategy.type"]);
        assert_eq!(refused(json!({"type": "Recreate"})), [""; 0]);
    }
}
