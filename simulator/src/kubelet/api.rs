//! The API of a cluster as its kubelets use it: objects of the lab's own process, or an API server that each node has a client of.
//!
//! The kubelets know neither: they are told of pods, and say what is to be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Method;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watch_object, watcher};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

use super::client::{Answer, call};
use super::text;
use crate::apiserver::{ApiCluster, EventKind, Resource, Watch};
use crate::objects;

/// Before something is tried again that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Where nodes' Leases are.
const LEASES: &str = "kube-node-lease";
/// How long a token of a pod is good for, seconds: longer than any lab lives.
const TOKEN_LIFE: u64 = 365 * 24 * 3600;
/// How many news of pods may wait.
const NEWS: usize = 64;

/// The API as all kubelets of a cluster have it.
#[derive(Clone)]
pub(crate) enum Apis {
    /// Objects of this process.
    Within(Arc<ApiCluster>),
    /// A client of each node's own, by the node's name.
    Over(BTreeMap<String, kube::Client>),
}

/// The API as one node's kubelet has it.
#[derive(Clone)]
pub(crate) enum Api {
    Within(Arc<ApiCluster>),
    Over(kube::Client),
}

impl std::fmt::Debug for Apis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Within(_) => "Within",
            Self::Over(_) => "Over",
        })
    }
}

/// What is new of pods.
pub(crate) enum News {
    /// A pod is new, or has changed.
    Is(Arc<Value>),
    /// It is gone.
    Gone(Arc<Value>),
    /// There are exactly these, on this node or, without one, in the whole cluster.
    All(Option<String>, Vec<Arc<Value>>),
}

impl News {
    /// What a cluster of this process tells of a pod, and of all where it has forgotten what happened.
    fn of_store(api: &ApiCluster, watch: &mut Watch, event: crate::apiserver::Event) -> Self {
        match event.kind {
            EventKind::Added | EventKind::Modified => Self::Is(event.object),
            EventKind::Deleted => Self::Gone(event.object),
            EventKind::Relist => {
                let (pods, version) = api.store().list(Resource::PODS, None);
                *watch = api.store().watch(Resource::PODS, version);
                Self::All(None, pods)
            }
        }
    }
}

/// Where the news of pods come from.
pub(crate) enum Told {
    Within(Arc<ApiCluster>, Watch),
    /// One task for each node; they end with this.
    Over(
        mpsc::Receiver<News>,
        #[expect(dead_code, reason = "held")] JoinSet<()>,
    ),
}

impl Told {
    pub(crate) async fn next(&mut self) -> News {
        match self {
            Self::Within(api, watch) => {
                let event = watch.next().await;
                News::of_store(api, watch, event)
            }
            Self::Over(news, _) => match news.recv().await {
                Some(news) => news,
                // The tasks end only with this.
                None => std::future::pending().await,
            },
        }
    }
}

impl Apis {
    /// The API for a node.
    pub(crate) fn of(&self, node: &str) -> Option<Api> {
        match self {
            Self::Within(api) => Some(Api::Within(api.clone())),
            Self::Over(clients) => clients.get(node).cloned().map(Api::Over),
        }
    }

    /// Follows the pods of all nodes from now on.
    pub(crate) fn pods(&self) -> Told {
        let clients = match self {
            Self::Within(api) => {
                let watch = api.store().watch(Resource::PODS, 0);
                return Told::Within(api.clone(), watch);
            }
            Self::Over(clients) => clients,
        };
        let (sender, news) = mpsc::channel(NEWS);
        let mut tasks = JoinSet::new();
        for (node, client) in clients {
            tasks.spawn(follow(client.clone(), node.clone(), sender.clone()));
        }
        Told::Over(news, tasks)
    }
}

/// Tells of the pods of a node as its API server does.
async fn follow(client: kube::Client, node: String, news: mpsc::Sender<News>) {
    let pods = kube::Api::<DynamicObject>::all_with(client, &kind(Resource::PODS));
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watcher(pods, ours).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                listed.extend(value(&pod));
                continue;
            }
            Ok(Event::InitDone) => Some(News::All(Some(node.clone()), std::mem::take(&mut listed))),
            Ok(Event::Apply(pod)) => value(&pod).map(News::Is),
            Ok(Event::Delete(pod)) => value(&pod).map(News::Gone),
            Err(error) => {
                warn!(
                    node,
                    error = crate::error::chain(&error),
                    "a kubelet cannot follow its pods"
                );
                continue;
            }
        };
        if let Some(told) = told
            && news.send(told).await.is_err()
        {
            return;
        }
    }
}

fn kind(resource: Resource) -> ApiResource {
    let kind = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
    ApiResource::from_gvk_with_plural(&kind, resource.plural)
}

fn value(object: &DynamicObject) -> Option<Arc<Value>> {
    serde_json::to_value(object).ok().map(Arc::new)
}

/// Objects that a pod refers to, by kind and name.
pub(crate) type References = Vec<(Resource, String)>;

/// Objects that a pod refers to, as they were when they were read.
pub(crate) struct Referred {
    held: Vec<(Resource, String, Option<Arc<Value>>)>,
    /// The version of all objects of this process then.
    version: u64,
}

impl Referred {
    /// One of them; none where there is no such object.
    pub(crate) fn get(&self, resource: Resource, name: &str) -> Option<Arc<Value>> {
        let mut held = self.held.iter();
        let found = held.find(|(kind, known, _)| *kind == resource && known == name);
        found.and_then(|(_, _, object)| object.clone())
    }
}

/// A pod's own path, and that of a part of it.
fn path_of(pod: &Value, part: &str) -> String {
    let (namespace, name) = (
        text(pod, "/metadata/namespace"),
        text(pod, "/metadata/name"),
    );
    format!("/api/v1/namespaces/{namespace}/pods/{name}{part}")
}

/// An answer that has to be an object.
fn done(answer: Answer) -> Result<Value, String> {
    match answer {
        Answer::Done(object) => Ok(object),
        Answer::Refused(code, why) => Err(format!("{code}: {why}")),
    }
}

impl Api {
    /// Registers a node, or says of one that is registered how it is.
    pub(crate) async fn register(&self, node: &Value) -> Result<(), String> {
        let name = text(node, "/metadata/name");
        match self {
            Self::Within(api) => {
                let said = api
                    .store()
                    .put_or_create(Resource::NODES, None, name, |held| {
                        if held.get("spec").is_none() {
                            let metadata = node["metadata"].clone();
                            *held = node.clone();
                            held["metadata"] = metadata;
                        }
                        held["status"] = node["status"].clone();
                    });
                said.map(drop).map_err(|status| format!("{status:?}"))
            }
            Self::Over(client) => {
                let nodes = "/api/v1/nodes";
                match call(client, Method::POST, nodes, node).await? {
                    Answer::Refused(409, _) => {
                        let path = format!("{nodes}/{name}/status");
                        let status = json!({"status": node["status"]});
                        let told = call(client, Method::PATCH, &path, &status).await?;
                        done(told).map(drop)
                    }
                    answer => done(answer).map(drop),
                }
            }
        }
    }

    /// Renews a node's Lease, which is good for so long, and says of the node how it is where its control plane has it otherwise; whether it had.
    pub(crate) async fn renew(
        &self,
        node: &str,
        ready: impl FnOnce() -> Value,
        good: Duration,
    ) -> Result<bool, String> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ");
        let spec = json!({
            "holderIdentity": node, "leaseDurationSeconds": good.as_secs(), "renewTime": now.to_string(),
        });
        let held = match self {
            Self::Within(api) => {
                let store = api.store();
                let renewed = store.put_or_create(Resource::LEASES, Some(LEASES), node, |lease| {
                    lease["spec"] = spec;
                });
                renewed.map_err(|status| format!("{status:?}"))?;
                store.get(Resource::NODES, None, node)
            }
            Self::Over(client) => {
                let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{LEASES}/leases");
                let path = format!("{leases}/{node}");
                let renewed = call(client, Method::PATCH, &path, &json!({"spec": spec})).await?;
                if let Answer::Refused(404, _) = renewed {
                    let lease = json!({"metadata": {"name": node}, "spec": spec});
                    done(call(client, Method::POST, &leases, &lease).await?)?;
                } else {
                    done(renewed)?;
                }
                let path = format!("/api/v1/nodes/{node}");
                match call(client, Method::GET, &path, &Value::Null).await? {
                    Answer::Done(object) => Some(Arc::new(object)),
                    Answer::Refused(..) => None,
                }
            }
        };
        // One that somebody has deleted stays so until its kubelet starts anew.
        let was_lost = held.is_some_and(|held| !objects::is_ready(&held));
        if was_lost {
            self.register(&ready()).await?;
        }
        Ok(was_lost)
    }

    /// Says of a pod that its node runs it no more; whoever deleted it for good was faster.
    pub(crate) async fn end(&self, pod: &Value) {
        match self {
            Self::Within(api) => {
                let (namespace, name) = (
                    text(pod, "/metadata/namespace"),
                    text(pod, "/metadata/name"),
                );
                let _ = api.store().delete(Resource::PODS, Some(namespace), name);
            }
            Self::Over(client) => {
                let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
                loop {
                    match call(client, Method::DELETE, &path_of(pod, ""), &now).await {
                        Ok(Answer::Done(_) | Answer::Refused(404 | 409, _)) => return,
                        Ok(Answer::Refused(code, why)) => warn!(code, why, "a pod cannot be ended"),
                        Err(error) => warn!(error, "a pod cannot be ended"),
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Reads objects of a namespace.
    pub(crate) async fn read(
        &self,
        namespace: &str,
        references: &References,
    ) -> Result<Referred, String> {
        let mut referred = Referred {
            held: Vec::new(),
            version: 0,
        };
        if let Self::Within(api) = self {
            referred.version = api.store().version();
        }
        for (resource, name) in references {
            let object = match self {
                Self::Within(api) => api.store().get(*resource, Some(namespace), name),
                Self::Over(client) => {
                    let path = format!("/api/v1/namespaces/{namespace}/{}/{name}", resource.plural);
                    match call(client, Method::GET, &path, &Value::Null).await? {
                        Answer::Refused(404, _) => None,
                        answer => Some(Arc::new(done(answer)?)),
                    }
                }
            };
            referred.held.push((*resource, name.clone(), object));
        }
        Ok(referred)
    }

    /// Returns once one of the objects that were read is another one; never where there are none.
    pub(crate) async fn changed(self, namespace: String, referred: Arc<Referred>) {
        let (this, namespace, version) = (&self, namespace.as_str(), referred.version);
        let mut waits: FuturesUnordered<_> = referred
            .held
            .iter()
            .map(|(resource, name, held)| async move {
                let place = (*resource, namespace, name.as_str());
                match this {
                    Self::Within(api) => changed_within(api, place, version).await,
                    Self::Over(client) => changed_over(client, place, held.as_deref()).await,
                }
            })
            .collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        waits.next().await;
    }

    /// A token of the service account that a pod runs as.
    pub(crate) async fn token(&self, pod: &Value, account: &str) -> Result<String, String> {
        let namespace = text(pod, "/metadata/namespace");
        match self {
            Self::Within(api) => {
                let token = api.service_account_token(namespace, account);
                token.ok_or_else(|| format!("service account {account} not found"))
            }
            Self::Over(client) => {
                let path =
                    format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
                let bound = json!({"kind": "Pod", "apiVersion": "v1",
                    "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
                let wanted =
                    json!({"spec": {"expirationSeconds": TOKEN_LIFE, "boundObjectRef": bound}});
                let made = done(call(client, Method::POST, &path, &wanted).await?)?;
                let token = text(&made, "/status/token");
                let token = (!token.is_empty()).then(|| token.to_owned());
                token.ok_or_else(|| format!("service account {account} has no token"))
            }
        }
    }

    /// Who writes the status of a pod.
    pub(crate) fn teller(&self, pod: &Arc<Value>) -> Teller {
        match self {
            Self::Within(api) => Teller::Within(api.clone(), pod.clone()),
            Self::Over(client) => {
                let (sender, statuses) = watch::channel(Value::Null);
                let task = tokio::spawn(tell(client.clone(), pod.clone(), statuses));
                Teller::Over(sender, task.abort_handle())
            }
        }
    }
}

type Place<'a> = (Resource, &'a str, &'a str);

async fn changed_within(api: &ApiCluster, (resource, namespace, name): Place<'_>, since: u64) {
    let mut watch = api.store().watch(resource, since);
    loop {
        let event = watch.next().await;
        let is_ours = text(&event.object, "/metadata/namespace") == namespace
            && text(&event.object, "/metadata/name") == name;
        if is_ours || event.kind == EventKind::Relist {
            return;
        }
    }
}

async fn changed_over(
    client: &kube::Client,
    (resource, namespace, name): Place<'_>,
    held: Option<&Value>,
) {
    let known = held.map(|held| text(held, "/metadata/resourceVersion"));
    let kind = kind(resource);
    let api = kube::Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let mut states = std::pin::pin!(watch_object(api, name).default_backoff());
    while let Some(state) = states.next().await {
        // What cannot be watched now is watched again after a while.
        let Ok(state) = state else { continue };
        let version = state.as_ref().map(|object| {
            let version = object.metadata.resource_version.as_deref();
            version.unwrap_or_default()
        });
        if version != known {
            return;
        }
    }
}

/// Writes the newest status of a pod, until that is told or there is a newer one; a pod that is gone has none.
async fn tell(client: kube::Client, pod: Arc<Value>, mut statuses: watch::Receiver<Value>) {
    while statuses.changed().await.is_ok() {
        loop {
            let status = statuses.borrow_and_update().clone();
            // A pod of the same name may have taken its place: its uid is another one, and that is a conflict.
            let change = json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": status});
            match call(&client, Method::PATCH, &path_of(&pod, "/status"), &change).await {
                Ok(Answer::Done(_) | Answer::Refused(404 | 409, _)) => break,
                Ok(Answer::Refused(code, why)) => warn!(code, why, "a pod's status is refused"),
                Err(error) => warn!(error, "a pod's status cannot be told"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Who writes the status of a pod; no more once it is dropped.
pub(crate) enum Teller {
    Within(Arc<ApiCluster>, Arc<Value>),
    Over(watch::Sender<Value>, AbortHandle),
}

impl Teller {
    /// Writes a status, in its time.
    pub(crate) fn tell(&self, status: Value) {
        let (api, pod) = match self {
            Self::Within(api, pod) => (api, pod),
            Self::Over(statuses, _) => {
                statuses.send_replace(status);
                return;
            }
        };
        let (namespace, name) = (
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
        );
        let uid = text(pod, "/metadata/uid");
        let store = api.store();
        let _ = store.put(Resource::PODS, Some(namespace), name, |held| {
            // A pod of the same name may have taken its place.
            if text(held, "/metadata/uid") == uid {
                held["status"] = status;
            }
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Self::Over(_, task) = self {
            task.abort();
        }
    }
}
