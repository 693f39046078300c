//! The Deployment controller: a ReplicaSet for each template, the new one grown while the old ones shrink.
//!
//! `minReadySeconds` and `progressDeadlineSeconds` are kept and not acted upon: nothing here looks at a clock. A change of the number of
//! replicas in the middle of an update goes to the new set alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::daemonset::hash;
use super::delete;
use super::managed::{self, Writer};
use super::replicaset::write_status;
use super::replicated::{controlled, is_leaving, owned_by, tolerance};
use super::resource::Resource;
use super::shape;
use super::store::{self, Inner, key_of};

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
const TEMPLATE: &str = "pod-template-hash";

/// Brings every Deployment one step closer; what it writes wakes it again.
pub(crate) fn reconcile(inner: &mut Inner) {
    let deployments: Vec<Arc<Value>> = inner.list(Resource::DEPLOYMENTS, None).collect();
    for deployment in deployments {
        if !is_leaving(&deployment) {
            one(inner, &deployment);
        }
    }
}

fn one(inner: &mut Inner, deployment: &Arc<Value>) {
    let hash = hash(&deployment["spec"]["template"]);
    let is_of_template = |set: &Arc<Value>| set["metadata"]["labels"][TEMPLATE] == hash.as_str();
    let mut sets = controlled(inner, Resource::REPLICA_SETS, deployment);
    sets.retain(|set| !is_leaving(set));
    sets.sort_by_key(|set| revision(set));
    let is_paused = deployment["spec"]["paused"] == json!(true);
    if !is_paused {
        let newest = sets.iter().map(|set| revision(set)).max().unwrap_or(0);
        match sets.iter().find(|set| is_of_template(set)) {
            None => return make(inner, deployment, &sets, &hash, newest + 1),
            // A template that was there before is the newest again.
            Some(set) if revision(set) < newest => {
                return annotate(inner, deployment, set, newest + 1);
            }
            Some(set) => stamp(inner, deployment, revision(set)),
        }
    }
    let (new, old): (Vec<_>, Vec<_>) = sets.iter().cloned().partition(is_of_template);
    roll(inner, deployment, new.first(), &old, is_paused);
    let new = new
        .first()
        .and_then(|set| inner.get(Resource::REPLICA_SETS, &key_of(set)));
    publish(inner, deployment, new.as_deref(), &old);
    forget(inner, deployment, &old);
}

fn revision(set: &Value) -> i64 {
    let text = set["metadata"]["annotations"][REVISION].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn number(object: &Value, field: &str) -> i64 {
    object["status"][field].as_i64().unwrap_or(0)
}

fn total(sets: &[Arc<Value>], count: impl Fn(&Value) -> i64) -> i64 {
    sets.iter().map(|set| count(set)).sum()
}

/// Makes the ReplicaSet of a template that has none, with as many pods as may be there in addition.
fn make(inner: &mut Inner, deployment: &Value, old: &[Arc<Value>], hash: &str, revision: i64) {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = deployment["metadata"]["namespace"].as_str();
    let wanted = replicas(deployment);
    let (_, surge) = tolerance(&deployment["spec"]["strategy"], wanted);
    let room = (wanted + surge - total(old, replicas)).clamp(0, wanted);
    let recreate = deployment["spec"]["strategy"]["type"] == "Recreate";
    let first = if recreate && total(old, replicas) > 0 {
        0
    } else {
        room
    };
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][TEMPLATE] = hash.into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][TEMPLATE] = hash.into();
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{name}-{hash}"), "labels": template["metadata"]["labels"], "ownerReferences": owned_by(deployment),
            "annotations": {REVISION: revision.to_string(), DESIRED: wanted.to_string(), MOST: (wanted + surge).to_string()},
        },
        "spec": {"replicas": first, "selector": selector, "template": template},
    });
    book(&json!({}), &mut set);
    set["status"] = json!({"replicas": 0});
    // A foreign set of that name stands in the way; the next change tries again.
    let _ = inner.create(Resource::REPLICA_SETS, namespace, set);
}

fn book(old: &Value, set: &mut Value) {
    let writer = Writer {
        manager: "kube-controller-manager",
        api_version: "apps/v1",
        subresource: "",
    };
    managed::update(&shape::builtin("ReplicaSet"), true, old, set, &writer);
}

fn annotate(inner: &mut Inner, deployment: &Value, set: &Arc<Value>, revision: i64) {
    change(inner, set, |new| {
        new["metadata"]["annotations"][REVISION] = revision.to_string().into();
    });
    stamp(inner, deployment, revision);
}

/// Writes the number of the current template to the Deployment, where `kubectl rollout` reads it.
fn stamp(inner: &mut Inner, deployment: &Value, revision: i64) {
    let Some(held) = inner.get(Resource::DEPLOYMENTS, &key_of(deployment)) else {
        return;
    };
    let text = revision.to_string();
    if held["metadata"]["annotations"][REVISION] != text.as_str() {
        let mut new = (*held).clone();
        new["metadata"]["annotations"][REVISION] = text.into();
        inner.replace(Resource::DEPLOYMENTS, &held, new);
    }
}

fn change(inner: &mut Inner, set: &Value, change: impl FnOnce(&mut Value)) {
    let Some(held) = inner.get(Resource::REPLICA_SETS, &key_of(set)) else {
        return;
    };
    let mut new = (*held).clone();
    change(&mut new);
    if *held != new {
        book(&held, &mut new);
        inner.replace(Resource::REPLICA_SETS, &held, new);
    }
}

fn scale(inner: &mut Inner, set: &Value, number: i64) {
    change(inner, set, |new| new["spec"]["replicas"] = number.into());
}

/// One step of replacing: the rules of upstream's rolling update without its proportional scaling.
fn roll(
    inner: &mut Inner,
    deployment: &Value,
    new: Option<&Arc<Value>>,
    old: &[Arc<Value>],
    is_paused: bool,
) {
    let wanted = replicas(deployment);
    let (missing, surge) = tolerance(&deployment["spec"]["strategy"], wanted);
    let held_old = total(old, replicas);
    let Some(new) = new else {
        return;
    };
    let held_new = replicas(new);
    if is_paused {
        // A number that changes in a pause is followed by the set that has the pods.
        if held_old == 0 {
            scale(inner, new, wanted);
        }
        return;
    }
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        for set in old.iter().filter(|set| replicas(set) > 0) {
            scale(inner, set, 0);
        }
        let pods = |set: &Value| {
            let pods = controlled(inner, Resource::PODS, set);
            i64::try_from(pods.len()).unwrap_or(i64::MAX)
        };
        if total(old, pods) == 0 {
            scale(inner, new, wanted);
        }
        return;
    }
    let room = wanted + surge - held_new - held_old;
    let grown = if held_new > wanted {
        wanted
    } else {
        held_new + room.clamp(0, wanted - held_new)
    };
    change(inner, new, |new| {
        new["spec"]["replicas"] = grown.into();
        let annotations = &mut new["metadata"]["annotations"];
        annotations[DESIRED] = wanted.to_string().into();
        annotations[MOST] = (wanted + surge).to_string().into();
    });
    if grown == held_new {
        shrink(inner, new, old, wanted - missing);
    }
}

/// Takes pods from the old sets: those that serve nobody first, then as many as are not needed to have the least available.
fn shrink(inner: &mut Inner, new: &Value, old: &[Arc<Value>], least: i64) {
    let serving = |set: &Value| number(set, "availableReplicas").min(replicas(set));
    let idle_new = replicas(new) - serving(new);
    let mut spare = total(old, replicas) + replicas(new) - least - idle_new;
    let mut available = total(old, serving) + serving(new) - least;
    for set in old {
        let (held, serves) = (replicas(set), serving(set));
        let idle = (held - serves).min(spare).max(0);
        let idle_taken = held - idle;
        let more = available.min(serves).min(spare - idle).max(0);
        spare -= idle + more;
        available -= more;
        if idle + more > 0 {
            scale(inner, set, idle_taken - more);
        }
    }
}

fn publish(inner: &mut Inner, deployment: &Value, new: Option<&Value>, old: &[Arc<Value>]) {
    let Some(held) = inner.get(Resource::DEPLOYMENTS, &key_of(deployment)) else {
        return;
    };
    let sum = |field: &str| {
        total(old, |set| number(set, field)) + new.map_or(0, |set| number(set, field))
    };
    let (pods, available) = (sum("replicas"), sum("availableReplicas"));
    let updated = new.map_or(0, |set| number(set, "replicas"));
    let wanted = replicas(&held);
    let mut status = json!({"observedGeneration": held["metadata"]["generation"]});
    for (name, number) in [
        ("replicas", pods),
        ("updatedReplicas", updated),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (pods.max(wanted) - available).max(0)),
    ] {
        if number != 0 {
            status[name] = number.into();
        }
    }
    let (missing, _) = tolerance(&held["spec"]["strategy"], wanted);
    let enough = available >= wanted - missing;
    let done = updated == wanted && pods == wanted && available == wanted;
    let set = new.map_or("", |set| {
        set["metadata"]["name"].as_str().unwrap_or_default()
    });
    let (reason, progress) = if done {
        (
            "NewReplicaSetAvailable",
            format!("ReplicaSet {set:?} has successfully progressed."),
        )
    } else {
        (
            "ReplicaSetUpdated",
            format!("ReplicaSet {set:?} is progressing."),
        )
    };
    let mut conditions = vec![
        if enough {
            (
                "Available",
                true,
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".to_owned(),
            )
        } else {
            (
                "Available",
                false,
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.".to_owned(),
            )
        },
        ("Progressing", true, reason, progress),
    ];
    // Why there are no pods is in the set's condition; people look at the Deployment's.
    let failure = new.map(|set| &set["status"]["conditions"][0]);
    if let Some(failure) = failure.filter(|condition| condition["type"] == "ReplicaFailure") {
        let why = failure["message"].as_str().unwrap_or_default().to_owned();
        conditions.push(("ReplicaFailure", true, "FailedCreate", why));
    }
    let before = &held["status"]["conditions"];
    let conditions = conditions.into_iter().map(|told| condition(before, told));
    status["conditions"] = conditions.collect::<Vec<_>>().into();
    write_status(inner, Resource::DEPLOYMENTS, &held, status);
}

/// A condition; its times are those of the one before as far as it says the same.
fn condition(before: &Value, (kind, holds, reason, message): (&str, bool, &str, String)) -> Value {
    let held = before
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    let word = if holds { "True" } else { "False" };
    if let Some(held) = held
        && held["status"] == word
        && held["reason"] == reason
        && held["message"] == message.as_str()
    {
        return held.clone();
    }
    let now = Value::from(store::now());
    let since = held
        .filter(|held| held["status"] == word)
        .map_or(now.clone(), |held| held["lastTransitionTime"].clone());
    json!({
        "type": kind, "status": word, "lastUpdateTime": now, "lastTransitionTime": since, "reason": reason, "message": message,
    })
}

/// Deletes old sets beyond the history that is kept, the oldest first.
fn forget(inner: &mut Inner, deployment: &Value, old: &[Arc<Value>]) {
    let limit = deployment["spec"]["revisionHistoryLimit"].as_i64();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let spare = old.len().saturating_sub(limit);
    let empty = old
        .iter()
        .filter(|set| replicas(set) == 0 && number(set, "replicas") == 0);
    for set in empty.take(spare) {
        delete::delete_object(inner, Resource::REPLICA_SETS, set, None);
    }
}
