//! What becomes of the pods of a node that nobody hears of, and that is heard of again.
//!
//! They stay until somebody deletes them, and beyond that until a kubelet confirms it: evictions, which upstream begins after five
//! minutes, take a clock, which nothing here looks at.

use std::sync::Arc;

use serde_json::Value;

use super::replicated::is_ready;
use super::resource::Resource;
use super::store::{self, Change, EventKind, Inner};

/// Why a pod's condition says that it is not ready.
const LOST: &str = "NodeNotReady";

/// The node that a change is about and whether it is ready now, where that is new.
pub(crate) fn turned(change: &Change) -> Option<(String, bool)> {
    if change.table != Resource::NODES.table() || change.kind != EventKind::Modified {
        return None;
    }
    let (before, after) = (
        is_ready(change.before.as_deref()?),
        is_ready(&change.object),
    );
    let name = change.object["metadata"]["name"].as_str()?;
    (before != after).then(|| (name.to_owned(), after))
}

/// Says of the pods of a lost node that they are not ready, since no kubelet is there to say it; and takes it back where the node is
/// there again and no kubelet has said anything since.
pub(crate) fn tell_pods(inner: &mut Inner, node: &str, is_there: bool) {
    let pods: Vec<Arc<Value>> = inner
        .list(Resource::PODS, None)
        .filter(|pod| pod["spec"]["nodeName"] == node)
        .collect();
    for pod in pods {
        let mut new = (*pod).clone();
        let conditions = new["status"]["conditions"].as_array_mut();
        for condition in conditions.into_iter().flatten() {
            let holds = condition["status"] == "True";
            if condition["type"] != "Ready" || holds == is_there {
                continue;
            }
            if is_there && condition["reason"] != LOST {
                continue;
            }
            condition["status"] = if is_there { "True" } else { "False" }.into();
            condition["lastTransitionTime"] = store::now().into();
            if let Some(condition) = condition.as_object_mut() {
                condition.shift_remove("reason");
                if !is_there {
                    condition.insert("reason".to_owned(), LOST.into());
                }
            }
        }
        if *pod != new {
            inner.replace(Resource::PODS, &pod, new);
        }
    }
}
