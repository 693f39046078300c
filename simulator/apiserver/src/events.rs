//! Events that controllers write: why something that was asked for is not there.

use serde_json::{Value, json};

use super::resource::Resource;
use super::store::{self, Inner, key};

/// Writes a warning about an object of a namespace. One that was written before is not written again: what cannot be done is tried
/// at every change.
pub(crate) fn warn(inner: &mut Inner, about: &Value, reason: &str, message: &str, component: &str) {
    let text = |field: &str| about["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        [uid, reason, message].join("\0").as_bytes(),
    );
    let suffix: String = digest.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let event = format!("{name}.{suffix}");
    if inner
        .get(Resource::EVENTS, &key(Some(namespace), &event))
        .is_some()
    {
        return;
    }
    let now = store::now();
    let object = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": event, "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": namespace, "name": name,
            "uid": uid, "resourceVersion": about["metadata"]["resourceVersion"],
        },
        "reason": reason, "message": message, "type": "Warning", "count": 1,
        "source": {"component": component},
        "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now, "eventTime": null,
    });
    // A namespace that is being removed takes no more of them.
    let _ = inner.create(Resource::EVENTS, Some(namespace), object);
}
