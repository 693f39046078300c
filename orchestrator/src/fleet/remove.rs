//! The end of everything that a run has made: a ledger of it, its removal, and the sweep of what dead runs left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::concurrently;

use super::look;
use super::objects::{Object, Pod};
use crate::descriptors::{self, Descriptors};
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, RUN_LABEL, Spec};

/// How long the removal may take in all clusters together.
pub(crate) const REMOVAL_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a cluster's unfinished creation may hold up its removal.
const CREATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long pods may take to end that their nodes can end.
const PODS_TIMEOUT: Duration = Duration::from_secs(12);
/// The same where no kubelet has taken up any of them: it may be about to, or there may be none.
const UNTAKEN: Duration = Duration::from_secs(4);
/// How long a namespace may take to go once it is empty.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many objects of a kind are looked at to find out whether a namespace is somebody's.
const MAX_INHABITANTS: usize = 5_000;
/// The most objects of a kind of one sweep.
const MAX_SWEPT: usize = 5_000;
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
    /// When whatever stays may be swept.
    expires: Timestamp,
    /// The nodes that can end a pod.
    able: Vec<String>,
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
    pub(crate) fn open(
        &self,
        cluster: &str,
        api: &Api,
        spec: &Spec,
        able: Vec<String>,
    ) -> Option<Arc<Entry>> {
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
            api: api.afresh(REMOVAL_TIMEOUT + CREATION_TIMEOUT),
            expires: spec.expires,
            able,
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

    /// Forgets everything: it is meant to stay. What stays where and until when, one sentence a cluster.
    pub(crate) fn keep(&self) -> Vec<String> {
        let staying = self.take().into_iter().map(|entry| {
            format!(
                "{}: floaters stay in namespace {} until {} (`dr --sweep --force` removes them now)",
                entry.cluster,
                entry.namespace,
                shown(entry.expires)
            )
        });
        staying.collect()
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
        let at_once = Descriptors::shared(descriptors::raise()).clusters;
        let results = concurrently(entries, at_once, |entry| async move {
            tokio::time::timeout_at(deadline, entry.remove())
                .await
                .unwrap_or_else(|_| {
                    vec![format!(
                        "the removal did not end within {} s",
                        REMOVAL_TIMEOUT.as_secs()
                    )]
                })
        })
        .await;
        names
            .into_iter()
            .zip(results)
            .flat_map(|(name, left)| {
                let left = left.unwrap_or_else(|| vec!["the removal failed".to_owned()]);
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
        // Made again: the time since the run began is none of the removal's.
        let api = self.api.afresh(REMOVAL_TIMEOUT);
        // A creation that is under way would put back what is removed here.
        let _busy = tokio::time::timeout(CREATION_TIMEOUT, self.busy.lock()).await;
        let mut left = Vec::new();
        for (kind, path) in &self.paths {
            if let Err(failure) = insist(&api, path, None).await {
                let name = path.rsplit('/').next().unwrap_or_default();
                left.push(format!(
                    "{kind} {}/{name} is not removed ({failure}); the next run or `dr --sweep` removes it after {}",
                    self.namespace,
                    shown(self.expires)
                ));
            }
        }
        if left.is_empty()
            && let Err(why) = self.pods_are_gone(&api).await
        {
            left.push(why);
        }
        if self.namespace_made.load(Ordering::Acquire) {
            match remove_namespace(&api, &self.namespace, Some(&self.run)).await {
                Ok(End::Gone | End::Others) => {}
                Ok(End::Stays(why)) | Err(why) => left.push(why),
            }
        }
        left
    }

    /// Pods go after their DaemonSet; until they have, their ports are taken and the next run would meet them. A pod of
    /// a node that does not answer is ended by nobody and not waited for.
    async fn pods_are_gone(&self, api: &Api) -> Result<(), String> {
        let began = Instant::now();
        let collection = look::pods(&self.namespace);
        let selector = look::of_run(&self.run);
        loop {
            let listed = api
                .list::<Pod>(&collection, &selector, look::MAX_PODS)
                .await
                .map_err(|failure| format!("its floaters' pods cannot be listed: {failure}"))?;
            let is_awaited = |pod: &&Pod| {
                pod.node()
                    .is_some_and(|node| self.able.iter().any(|able| able == node))
            };
            let awaited: Vec<&Pod> = listed.items.iter().filter(is_awaited).collect();
            if awaited.is_empty() {
                return Ok(());
            }
            let is_taken_up = awaited.iter().any(|pod| pod.is_taken_up());
            let limit = if is_taken_up { PODS_TIMEOUT } else { UNTAKEN };
            if began.elapsed() >= limit {
                return Err(format!(
                    "{} pods in namespace {} were not ended by their nodes within {} s; their DaemonSets are removed",
                    awaited.len(),
                    self.namespace,
                    limit.as_secs()
                ));
            }
            // Any event is a reason to look again; a watch that cannot be had is replaced by a short pause.
            let gone = async {
                let watch = api
                    .watch(&collection, &selector, &listed.version, PODS_TIMEOUT)
                    .await;
                let Ok(mut events) = watch else {
                    return tokio::time::sleep(Duration::from_millis(200)).await;
                };
                let mut gone = 0;
                while gone < awaited.len()
                    && let Ok(Some(line)) = events.next().await
                {
                    let event = serde_json::from_slice::<EventKind>(&line);
                    match event.as_ref().map(|event| event.r#type.as_str()) {
                        Ok("DELETED") => gone += 1,
                        Ok("ERROR") | Err(_) => break,
                        Ok(_) => {}
                    }
                }
                // A watch that ends at once again and again does not make this a busy loop.
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            let _ = tokio::time::timeout_at(began + limit, gone).await;
        }
    }
}

/// A time of day, and the day where it is not today's.
pub(crate) fn shown(time: Timestamp) -> String {
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let format = if utc.date() == today {
        "%H:%M UTC"
    } else {
        "%Y-%m-%d %H:%M UTC"
    };
    utc.strftime(format).to_string()
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

/// What came of a namespace.
enum End {
    /// It is gone.
    Gone,
    /// No run made it.
    Others,
    /// It stays, or has not gone yet, and why.
    Stays(String),
}

/// Removes a namespace that a run made, this `run` where one is given, if nobody else has put anything into it, and waits a
/// while until it is gone.
async fn remove_namespace(api: &Api, name: &str, run: Option<&str>) -> Result<End, String> {
    let path = format!("/api/v1/namespaces/{name}");
    let namespace: Object = match api.get(&path).await {
        Ok(namespace) => namespace,
        Err(failure) if failure.is_absent() => return Ok(End::Gone),
        Err(failure) => return Err(format!("Namespace {name} is not removed: {failure}")),
    };
    let maker = namespace.metadata.label(RUN_LABEL);
    let ours = namespace.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && maker.is_some()
        && (run.is_none() || maker == run);
    if !ours || namespace.metadata.deletion_timestamp.is_some() {
        return Ok(End::Others);
    }
    let other = inhabitant(api, name, maker.unwrap_or_default()).await;
    if let Some(other) = other.map_err(|failure| {
        format!("Namespace {name} stays: what is in it cannot be listed: {failure}")
    })? {
        return Ok(End::Stays(format!(
            "Namespace {name}, which this program made, stays: {other} is in it and not its own"
        )));
    }
    insist(api, &path, Some(&namespace.metadata.uid))
        .await
        .map_err(|failure| format!("Namespace {name} is not removed: {failure}"))?;
    // Its controller empties it first, and waits for pods that a node which does not answer never ends.
    let deadline = Instant::now() + NAMESPACE_TIMEOUT;
    while Instant::now() < deadline {
        match api.get::<Object>(&path).await {
            Ok(still) if still.metadata.uid == namespace.metadata.uid => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            _ => return Ok(End::Gone),
        }
    }
    Ok(End::Stays(format!(
        "Namespace {name} is being removed and not gone after {} s: something in it does not end, as the pods of a node that does not answer",
        NAMESPACE_TIMEOUT.as_secs()
    )))
}

/// Kinds of objects that keep a namespace.
const KINDS: [(&str, &str); 11] = [
    ("api/v1", "pods"),
    ("api/v1", "services"),
    ("api/v1", "persistentvolumeclaims"),
    ("apis/apps/v1", "deployments"),
    ("apis/apps/v1", "daemonsets"),
    ("apis/apps/v1", "statefulsets"),
    ("apis/batch/v1", "jobs"),
    ("apis/batch/v1", "cronjobs"),
    ("api/v1", "secrets"),
    ("api/v1", "configmaps"),
    ("api/v1", "serviceaccounts"),
];

/// Something in a namespace that neither `run` nor a controller that furnishes every namespace has put there.
async fn inhabitant(api: &Api, namespace: &str, run: &str) -> Result<Option<String>, Failure> {
    for (group, plural) in KINDS {
        let collection = format!("/{group}/namespaces/{namespace}/{plural}");
        let objects = match api.list::<Object>(&collection, "", MAX_INHABITANTS).await {
            Ok(listed) => listed.items,
            // A kind that this API does not have holds nothing.
            Err(failure) if failure.is_absent() => continue,
            Err(failure) => return Err(failure),
        };
        for object in objects {
            let own = object.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
                && object.metadata.label(RUN_LABEL) == Some(run);
            if !own && !is_furniture(api, group, plural, &object).await {
                let name = datapath::printable::Printable::bounded(&object.metadata.name, 80);
                return Ok(Some(format!("{plural}/{name}")));
            }
        }
    }
    Ok(None)
}

/// Whether a controller puts such an object into every namespace: Kubernetes' own, or one that is found in the
/// namespaces that every cluster has, too (a mesh's root certificate, a registry's credentials).
async fn is_furniture(api: &Api, group: &str, plural: &str, object: &Object) -> bool {
    let name = &object.metadata.name;
    let builtin = match plural {
        "configmaps" => matches!(&**name, "kube-root-ca.crt" | "openshift-service-ca.crt"),
        "serviceaccounts" => matches!(&**name, "default" | "builder" | "deployer"),
        "secrets" => matches!(
            object.r#type.as_deref(),
            Some("kubernetes.io/service-account-token" | "kubernetes.io/dockercfg")
        ),
        _ => return false,
    };
    if builtin || !datapath::printable::is_object_name(name) {
        return builtin;
    }
    for everywhere in ["default", "kube-public"] {
        let path = format!("/{group}/namespaces/{everywhere}/{plural}/{name}");
        if api.get::<Object>(&path).await.is_err() {
            return false;
        }
    }
    true
}

/// What a sweep found and did, one sentence per object.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) removed: Vec<String>,
    /// What could not be removed and why.
    pub(crate) failed: Vec<String>,
    /// What of ours stays, and until when.
    pub(crate) staying: Vec<String>,
}

/// Kinds of objects that runs make in namespaces.
const MADE: [(&str, &str, &str); 3] = [
    ("DaemonSet", "apis/apps/v1", "daemonsets"),
    ("Secret", "api/v1", "secrets"),
    ("ServiceAccount", "api/v1", "serviceaccounts"),
];

/// Removes what expired runs left in any namespace, and namespaces that they made; without the right to look into all, in
/// `namespace` alone.
///
/// Only objects with our mark and an expiry before `now` are touched, each by its uid, so that one that was made anew in
/// the meantime stays.
pub(crate) async fn sweep(api: &Api, namespace: &str, now: Timestamp) -> Sweep {
    let mut sweep = Sweep::default();
    let selector = look::ours();
    for (kind, group, plural) in MADE {
        let everywhere = api
            .list::<Object>(&format!("/{group}/{plural}"), &selector, MAX_SWEPT)
            .await;
        let listed = match everywhere {
            Err(failure) if failure.is_forbidden() => {
                let collection = format!("/{group}/namespaces/{namespace}/{plural}");
                api.list::<Object>(&collection, &selector, MAX_SWEPT).await
            }
            listed => listed,
        };
        let objects = match listed {
            Ok(listed) => listed.items,
            Err(failure) => {
                if !failure.is_absent() {
                    sweep
                        .failed
                        .push(format!("{kind}s cannot be listed: {failure}"));
                }
                continue;
            }
        };
        for object in &objects {
            let home = match object.metadata.namespace.as_str() {
                "" => namespace,
                home => home,
            };
            let name = &object.metadata.name;
            // What no API can have made would lead to another path.
            if !datapath::printable::is_object_name(name)
                || !datapath::printable::is_dns_label(home)
            {
                continue;
            }
            if !is_expired(object, now) {
                let until = until(object);
                sweep
                    .staying
                    .extend(until.map(|until| format!("{kind} {home}/{name} {until}")));
                continue;
            }
            let path = format!("/{group}/namespaces/{home}/{plural}/{name}");
            match insist(api, &path, Some(&object.metadata.uid)).await {
                Ok(()) => sweep.removed.push(format!("{kind} {home}/{name}")),
                Err(failure) => sweep
                    .failed
                    .push(format!("{kind} {home}/{name}: {failure}")),
            }
        }
    }
    sweep_namespaces(api, namespace, now, &mut sweep).await;
    sweep
}

async fn sweep_namespaces(api: &Api, namespace: &str, now: Timestamp, sweep: &mut Sweep) {
    let listed = api
        .list::<Object>("/api/v1/namespaces", &look::ours(), MAX_SWEPT)
        .await;
    let namespaces = match listed {
        Ok(listed) => listed.items,
        Err(_) => match api
            .get::<Object>(&format!("/api/v1/namespaces/{namespace}"))
            .await
        {
            Ok(found) => vec![found],
            Err(_) => return,
        },
    };
    for found in namespaces {
        let name = &found.metadata.name;
        if !is_expired(&found, now) || !datapath::printable::is_dns_label(name) {
            continue;
        }
        match remove_namespace(api, name, None).await {
            Ok(End::Gone) => sweep.removed.push(format!("Namespace {name}")),
            Ok(End::Others) => {}
            Ok(End::Stays(why)) => sweep.staying.push(why),
            Err(why) => sweep.failed.push(why),
        }
    }
}

/// How long an object of ours stays; none where it is somebody else's or going already.
fn until(object: &Object) -> Option<String> {
    let is_ours = object.metadata.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && object.metadata.deletion_timestamp.is_none();
    is_ours.then(|| match object.metadata.expires() {
        Some(expires) => format!("stays until {}", shown(expires)),
        None => "is left alone: it carries no expiry annotation".to_owned(),
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
