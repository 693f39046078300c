//! The end of everything that a run has made: a ledger of it, its removal, and the sweep of what dead runs left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::look;
use super::objects::{Object, Pod};
use super::{CLUSTERS_AT_ONCE, concurrently};
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, RUN_LABEL, Spec};

/// How long the removal may take in all clusters together.
pub(crate) const REMOVAL_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a cluster's unfinished creation may hold up its removal.
const CREATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one deletion.
const TRIES: u32 = 4;

/// What a run may have made, written down before it is made.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<Vec<Arc<Entry>>>,
    closed: AtomicBool,
}

/// What a run may have made in one cluster.
pub(crate) struct Entry {
    cluster: String,
    api: Api,
    namespace: String,
    run: String,
    /// Paths of the objects, the last created first.
    paths: Vec<(&'static str, String)>,
    namespace_made: AtomicBool,
    /// Held while objects are being created.
    pub(crate) busy: tokio::sync::Mutex<()>,
}

impl Entry {
    pub(crate) fn made_namespace(&self) {
        self.namespace_made.store(true, Ordering::Release);
    }

    pub(crate) fn made_no_namespace(&self) {
        self.namespace_made.store(false, Ordering::Release);
    }
}

impl Ledger {
    /// Writes down what is about to be made; none once the run is ending.
    pub(crate) fn open(&self, cluster: &str, api: &Api, spec: &Spec) -> Option<Arc<Entry>> {
        let mut paths: Vec<(&'static str, String)> = spec
            .objects()
            .into_iter()
            .map(|object| {
                let name = object.value["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default();
                (object.kind, format!("{}/{name}", object.collection))
            })
            .collect();
        paths.reverse();
        let entry = Arc::new(Entry {
            cluster: cluster.to_owned(),
            api: api.clone(),
            namespace: spec.namespace.clone(),
            run: spec.run.clone(),
            paths,
            namespace_made: AtomicBool::new(false),
            busy: tokio::sync::Mutex::new(()),
        });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return None;
        }
        entries.push(Arc::clone(&entry));
        Some(entry)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether there is anything to remove.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Forgets everything: it is meant to stay.
    pub(crate) fn keep(&self) {
        self.take();
    }

    fn take(&self) -> Vec<Arc<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        std::mem::take(&mut *entries)
    }

    /// Removes everything, in all clusters at once; what could not be removed is returned, one sentence each.
    pub(crate) async fn remove(&self) -> Vec<String> {
        let entries = self.take();
        if entries.is_empty() {
            return Vec::new();
        }
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        let names: Vec<String> = entries.iter().map(|entry| entry.cluster.clone()).collect();
        let results = concurrently(entries, CLUSTERS_AT_ONCE, |entry| async move {
            tokio::time::timeout_at(deadline, entry.remove())
                .await
                .unwrap_or_else(|_| vec!["its removal did not end in time".to_owned()])
        })
        .await;
        names
            .into_iter()
            .zip(results)
            .flat_map(|(name, left)| {
                let left = left.unwrap_or_else(|| vec!["its removal failed".to_owned()]);
                left.into_iter().map(move |why| format!("{name}: {why}"))
            })
            .collect()
    }
}

impl Drop for Ledger {
    /// Whoever drops a run in the middle still leaves nothing behind while the runtime lives; afterwards the objects
    /// expire.
    fn drop(&mut self) {
        let entries = self.take();
        if entries.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let again = Self::default();
                if let Ok(mut list) = again.entries.lock() {
                    *list = entries;
                }
                again.remove().await;
            });
        }
    }
}

impl Entry {
    async fn remove(self: Arc<Self>) -> Vec<String> {
        // A creation that is under way would put back what is removed here.
        let _busy = tokio::time::timeout(CREATION_TIMEOUT, self.busy.lock()).await;
        let mut left = Vec::new();
        for (kind, path) in &self.paths {
            if let Err(failure) = insist(&self.api, path, None).await {
                let name = path.rsplit('/').next().unwrap_or_default();
                left.push(format!("{kind} {}/{name}: {failure}", self.namespace));
            }
        }
        if left.is_empty()
            && let Err(why) = self.pods_are_gone().await
        {
            left.push(why);
        }
        if self.namespace_made.load(Ordering::Acquire)
            && let Err(why) = remove_namespace(&self.api, &self.namespace, &self.run).await
        {
            left.push(why);
        }
        left
    }

    /// Pods go after their DaemonSet; until they have, their ports are taken and the next run would meet them.
    async fn pods_are_gone(&self) -> Result<(), String> {
        let collection = look::pods(&self.namespace);
        let selector = look::of_run(&self.run);
        let told = |failure: Failure| format!("its floaters' pods cannot be listed: {failure}");
        loop {
            let (pods, version) = self
                .api
                .list::<Pod>(&collection, &selector)
                .await
                .map_err(told)?;
            if pods.is_empty() {
                return Ok(());
            }
            // Any event is a reason to look again; a watch that cannot be had is replaced by a short pause.
            let watch = self
                .api
                .watch(&collection, &selector, &version, Duration::from_secs(10))
                .await;
            match watch {
                Ok(mut events) => {
                    let mut gone = 0;
                    while gone < pods.len()
                        && let Ok(Some(line)) = events.next().await
                    {
                        let event = serde_json::from_slice::<EventKind>(&line);
                        match event.as_ref().map(|event| event.r#type.as_str()) {
                            Ok("DELETED") => gone += 1,
                            Ok("ERROR") | Err(_) => break,
                            Ok(_) => {}
                        }
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct EventKind {
    r#type: String,
}

/// Deletes with a few tries; what is not there is deleted.
async fn insist(api: &Api, path: &str, uid: Option<&str>) -> Result<(), Failure> {
    let mut pause = Duration::from_millis(100);
    for _ in 1..TRIES {
        match api.delete(path, uid).await {
            Err(failure) if failure.is_retryable() => {
                tokio::time::sleep(pause).await;
                pause *= 3;
            }
            result => return gone(result),
        }
    }
    gone(api.delete(path, uid).await)
}

fn gone(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.is_absent() => Ok(()),
        result => result,
    }
}

/// Removes a namespace that `run` made, if nobody else has put anything into it, and waits until it is gone; whether it
/// was removed.
async fn remove_namespace(api: &Api, name: &str, run: &str) -> Result<bool, String> {
    let path = format!("/api/v1/namespaces/{name}");
    let namespace: Object = match api.get(&path).await {
        Ok(namespace) => namespace,
        Err(failure) if failure.is_absent() => return Ok(false),
        Err(failure) => return Err(format!("Namespace {name}: {failure}")),
    };
    let ours = namespace.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && namespace.metadata.label(RUN_LABEL) == Some(run);
    if !ours || namespace.metadata.deletion_timestamp.is_some() {
        return Ok(false);
    }
    if let Some(other) = inhabitant(api, name).await.map_err(|failure| {
        format!("Namespace {name}: what is in it cannot be listed, so it stays: {failure}")
    })? {
        // It is somebody's now.
        tracing::info!(
            namespace = name,
            object = other,
            "the namespace is in use and stays"
        );
        return Ok(false);
    }
    insist(api, &path, Some(&namespace.metadata.uid))
        .await
        .map_err(|failure| format!("Namespace {name}: {failure}"))?;
    // Its controller empties it first. Whoever calls bounds the time.
    while let Ok(still) = api.get::<Object>(&path).await
        && still.metadata.uid == namespace.metadata.uid
    {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(true)
}

/// Something in a namespace that neither a run nor Kubernetes itself has put there.
async fn inhabitant(api: &Api, namespace: &str) -> Result<Option<String>, Failure> {
    for (group, plural, builtin) in [
        ("api/v1", "pods", ""),
        ("api/v1", "services", ""),
        ("api/v1", "persistentvolumeclaims", ""),
        ("apis/apps/v1", "deployments", ""),
        ("apis/apps/v1", "daemonsets", ""),
        ("apis/apps/v1", "statefulsets", ""),
        ("api/v1", "secrets", ""),
        ("api/v1", "configmaps", "kube-root-ca.crt"),
        ("api/v1", "serviceaccounts", "default"),
    ] {
        let collection = format!("/{group}/namespaces/{namespace}/{plural}");
        let objects = match api.list::<Object>(&collection, "").await {
            Ok((objects, _)) => objects,
            // A kind that this API does not have holds nothing.
            Err(failure) if failure.is_absent() => continue,
            Err(failure) => return Err(failure),
        };
        let other = objects.into_iter().find(|object| {
            object.metadata.name != builtin
                && object.metadata.label(MANAGED_BY_LABEL) != Some(MANAGED_BY)
        });
        if let Some(other) = other {
            return Ok(Some(format!("{plural}/{}", other.metadata.name)));
        }
    }
    Ok(None)
}

/// Removes what expired runs left in a namespace, and the namespace where a run had made it; names of what was removed, what could
/// not be and why, and what of ours stays and until when.
///
/// Only objects with our mark and an expiry in the past are touched, each by its uid, so that one that was made anew in
/// the meantime stays.
pub(crate) async fn sweep(
    api: &Api,
    namespace: &str,
    now: Timestamp,
) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (mut removed, mut failed, mut staying) = (Vec::new(), Vec::new(), Vec::new());
    let selector = look::ours();
    let collections = [
        (
            "DaemonSet",
            format!("/apis/apps/v1/namespaces/{namespace}/daemonsets"),
        ),
        ("Secret", format!("/api/v1/namespaces/{namespace}/secrets")),
        (
            "ServiceAccount",
            format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        ),
    ];
    for (kind, collection) in collections {
        let objects = match api.list::<Object>(&collection, &selector).await {
            Ok((objects, _)) => objects,
            Err(failure) => {
                if !failure.is_absent() {
                    failed.push(format!("{kind}s cannot be listed: {failure}"));
                }
                continue;
            }
        };
        for object in &objects {
            let name = &object.metadata.name;
            if !is_expired(object, now) {
                staying.extend(
                    until(object).map(|until| format!("{kind} {namespace}/{name} stays {until}")),
                );
                continue;
            }
            let path = format!("{collection}/{name}");
            match insist(api, &path, Some(&object.metadata.uid)).await {
                Ok(()) => removed.push(format!("{kind} {namespace}/{name}")),
                Err(failure) => failed.push(format!("{kind} {namespace}/{name}: {failure}")),
            }
        }
    }
    let path = format!("/api/v1/namespaces/{namespace}");
    if let Ok(found) = api.get::<Object>(&path).await
        && is_expired(&found, now)
        && let Some(run) = found.metadata.label(RUN_LABEL)
    {
        match remove_namespace(api, namespace, run).await {
            Ok(true) => removed.push(format!("Namespace {namespace}")),
            Ok(false) => {}
            Err(why) => failed.push(why),
        }
    }
    (removed, failed, staying)
}

/// How long an object of ours stays; none where it is somebody else's or going already.
fn until(object: &Object) -> Option<String> {
    let is_ours = object.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && object.metadata.deletion_timestamp.is_none();
    is_ours.then(|| match object.metadata.expires() {
        Some(expires) => format!("until {expires}"),
        None => "for good: no expiry can be read of it".to_owned(),
    })
}

fn is_expired(object: &Object, now: Timestamp) -> bool {
    object.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && object.metadata.deletion_timestamp.is_none()
        && object
            .metadata
            .expires()
            .is_some_and(|expires| expires < now)
}
