//! What goes on in a cluster by itself: daemons, scheduling, the end of namespaces and of what nobody owns any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::nodes::Lifecycle;
use super::resource::Resource;
use super::store::{EventKind, Inner, Store, Table, key_of};
use super::{daemonset, delete, deployment, nodes, replicaset, scheduler};

/// Runs until it is stopped; nodes that are not heard of for the grace are lost, where there is one. Everything is done in one task: an
/// idle cluster costs one parked future.
pub(crate) async fn run(store: Arc<Store>, grace: Option<Duration>, stop: impl Future) {
    let mut seen = None;
    let mut lifecycle = grace.map(Lifecycle::new);
    futures::pin_mut!(stop);
    loop {
        let changed = store.changed.notified();
        futures::pin_mut!(changed);
        // Registered before looking, so that a change between looking and waiting wakes this.
        changed.as_mut().enable();
        let now = Instant::now();
        seen = Some(store.write(|inner| step(inner, seen, lifecycle.as_mut(), now)));
        if seen != Some(store.version()) {
            // What this step wrote is the next one's work.
            tokio::task::yield_now().await;
            continue;
        }
        let deadline = lifecycle.as_ref().and_then(Lifecycle::deadline);
        tokio::select! {
            _ = &mut stop => return,
            () = changed => {}
            () = until(deadline) => {}
        }
    }
}

/// Returns at a time; never where there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Looks at what changed since a version, does what follows, and says up to which version it looked.
fn step(
    inner: &mut Inner,
    seen: Option<u64>,
    mut lifecycle: Option<&mut Lifecycle>,
    now: Instant,
) -> u64 {
    let version = inner.version();
    let mut touched: BTreeSet<Table> = BTreeSet::new();
    let mut gone: BTreeSet<String> = BTreeSet::new();
    let mut bared: BTreeSet<String> = BTreeSet::new();
    let mut turned: Vec<(String, bool)> = Vec::new();
    let mut ending: Vec<(Table, Arc<Value>)> = Vec::new();
    match seen.and_then(|seen| inner.since(seen)) {
        Some(changes) => {
            for change in changes {
                touched.insert(change.table);
                if let Some(lifecycle) = &mut lifecycle {
                    lifecycle.hear(change, now);
                }
                turned.extend(nodes::turned(change));
                if change.kind == EventKind::Deleted {
                    gone.extend(uid(&change.object));
                    if change.table == Resource::CONFIG_MAPS.table()
                        || change.table == Resource::SERVICE_ACCOUNTS.table()
                    {
                        let namespace = &change.object["metadata"]["namespace"];
                        bared.extend(namespace.as_str().map(str::to_owned));
                    }
                } else if change.object["metadata"]["deletionTimestamp"].is_string() {
                    ending.push((change.table, change.object.clone()));
                }
            }
        }
        None => {
            if let Some(lifecycle) = &mut lifecycle {
                lifecycle.relist(inner, now);
            }
            touched.extend(inner.tables());
            let namespaces = inner.list(Resource::NAMESPACES, None);
            bared.extend(
                namespaces.filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned)),
            );
        }
    }
    let has = |resource: Resource| touched.contains(&resource.table());
    if let Some(lifecycle) = lifecycle
        && (has(Resource::NODES) || lifecycle.deadline().is_some_and(|time| time <= now))
    {
        lifecycle.judge(inner, now);
    }
    // A renewal is nobody's work, and there are many.
    let leases = Resource::LEASES.table();
    if touched.iter().all(|table| *table == leases) && ending.is_empty() && gone.is_empty() {
        return version;
    }
    for (table, object) in ending {
        release(inner, table, &object);
    }
    if !gone.is_empty() {
        collect(inner, &gone);
        waiting(inner);
    }
    for (node, is_ready) in turned {
        nodes::tell_pods(inner, &node, is_ready);
    }
    let is_placed = has(Resource::NODES) || has(Resource::PODS);
    if has(Resource::DAEMON_SETS) || is_placed {
        daemonset::reconcile(inner);
    }
    let is_replicated = has(Resource::REPLICA_SETS) || has(Resource::DEPLOYMENTS);
    if is_replicated || is_placed {
        // What the sets have is what the Deployments decide by.
        replicaset::reconcile(inner);
        deployment::reconcile(inner);
    }
    if has(Resource::DAEMON_SETS) || is_replicated || is_placed {
        scheduler::schedule(inner);
    }
    end_namespaces(inner);
    for namespace in bared {
        let held = inner.get(Resource::NAMESPACES, &format!("/{namespace}"));
        if held.is_some_and(|held| !held["metadata"]["deletionTimestamp"].is_string()) {
            inner.seed_namespace(&namespace);
        }
    }
    version
}

fn uid(object: &Value) -> Option<String> {
    object["metadata"]["uid"].as_str().map(str::to_owned)
}

/// Every object that names one of these as an owner.
fn dependents(inner: &Inner, owners: &BTreeSet<String>) -> Vec<(Resource, Arc<Value>)> {
    let tables: Vec<Table> = inner.tables().collect();
    let mut found = Vec::new();
    for table in tables {
        let Some(resource) = inner.of_table(table).map(|served| served.resource) else {
            continue;
        };
        for object in inner.list(resource, None) {
            let owned = object["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|owner| {
                    owner["uid"]
                        .as_str()
                        .is_some_and(|uid| owners.contains(uid))
                });
            if owned {
                found.push((resource, object.clone()));
            }
        }
    }
    found
}

/// Deletes what only the gone ones owned; forgets them where others own it too.
fn collect(inner: &mut Inner, gone: &BTreeSet<String>) {
    for (resource, object) in dependents(inner, gone) {
        disown(inner, resource, &object, gone, true);
    }
}

fn disown(
    inner: &mut Inner,
    resource: Resource,
    object: &Arc<Value>,
    gone: &BTreeSet<String>,
    delete: bool,
) {
    let (mut left, mut dropped) = (Vec::new(), 0);
    for owner in object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if owner["uid"].as_str().is_some_and(|uid| gone.contains(uid)) {
            dropped += 1;
        } else {
            left.push(owner.clone());
        }
    }
    if dropped > 0 && left.is_empty() && delete {
        if !object["metadata"]["deletionTimestamp"].is_string() {
            delete::delete_object(inner, resource, object, None);
        }
        return;
    }
    let mut new = (**object).clone();
    if left.is_empty() {
        if let Some(metadata) = new["metadata"].as_object_mut() {
            metadata.shift_remove("ownerReferences");
        }
    } else {
        new["metadata"]["ownerReferences"] = left.into();
    }
    inner.replace(resource, object, new);
}

/// Does what the finalizers `orphan` and `foregroundDeletion` stand for.
fn release(inner: &mut Inner, table: Table, object: &Arc<Value>) {
    let Some(resource) = inner.of_table(table).map(|served| served.resource) else {
        return;
    };
    let Some(held) = inner.get(resource, &key_of(object)) else {
        return;
    };
    let has = |name: &str| {
        held["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|list| list.iter().any(|one| one == name))
    };
    let owners: BTreeSet<String> = uid(&held).into_iter().collect();
    let finalizer = if has("orphan") {
        for (resource, object) in dependents(inner, &owners) {
            disown(inner, resource, &object, &owners, false);
        }
        "orphan"
    } else if has("foregroundDeletion") {
        let mut blocked = false;
        for (resource, object) in dependents(inner, &owners) {
            if !object["metadata"]["deletionTimestamp"].is_string() {
                delete::delete_object(inner, resource, &object, None);
            }
            blocked |= inner.has(resource, &key_of(&object));
        }
        if blocked {
            return;
        }
        "foregroundDeletion"
    } else {
        return;
    };
    let mut new = (*held).clone();
    if let Some(list) = new["metadata"]["finalizers"].as_array_mut() {
        list.retain(|one| one != finalizer);
        if list.is_empty()
            && let Some(metadata) = new["metadata"].as_object_mut()
        {
            metadata.shift_remove("finalizers");
        }
    }
    inner.replace(resource, &held, new);
}

/// Empties namespaces that are being deleted, and ends those that are empty.
fn end_namespaces(inner: &mut Inner) {
    let ending: Vec<Arc<Value>> = inner
        .list(Resource::NAMESPACES, None)
        .filter(|namespace| namespace["metadata"]["deletionTimestamp"].is_string())
        .collect();
    for namespace in ending {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let tables: Vec<Table> = inner.tables().collect();
        let mut left = 0;
        for table in tables {
            let Some(resource) = inner.of_table(table).map(|served| served.resource) else {
                continue;
            };
            if !resource.namespaced {
                continue;
            }
            let objects: Vec<Arc<Value>> = inner.list(resource, Some(name)).collect();
            for object in objects {
                if !object["metadata"]["deletionTimestamp"].is_string() {
                    delete::delete_object(inner, resource, &object, None);
                }
                left += usize::from(inner.has(resource, &key_of(&object)));
            }
        }
        // Objects that wait for their owner's foreground deletion are looked at again when they change.
        if left == 0
            && let Some(held) = inner.get(Resource::NAMESPACES, &format!("/{name}"))
        {
            let mut new = (*held).clone();
            new["spec"] = json!({});
            inner.replace(Resource::NAMESPACES, &held, new);
        }
    }
}

/// Looks again at owners that wait for their dependents to go.
fn waiting(inner: &mut Inner) {
    let tables: Vec<Table> = inner.tables().collect();
    for table in tables {
        let Some(resource) = inner.of_table(table).map(|served| served.resource) else {
            continue;
        };
        let waiting: Vec<Arc<Value>> = inner
            .list(resource, None)
            .filter(|object| object["metadata"]["finalizers"].is_array())
            .filter(|object| object["metadata"]["deletionTimestamp"].is_string())
            .collect();
        for object in waiting {
            release(inner, table, &object);
        }
    }
}
