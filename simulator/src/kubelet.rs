//! The kubelets of one cluster's nodes: they run pods in namespaces of their own, or in their node's.
//!
//! ```text
//! Pod bound ─► image known? ─► network ─► environment ─► start ─► ready by its probe ─► … ─► deleted ─► stop ─► gone
//!                   │no: ErrImagePull                       ▲ exit: back-off │
//!                                                           └────────────────┘
//! ```
//!
//! Of a pod's containers the first is run; the status says so of all others, and such a pod never becomes ready. Neither does
//! one with init containers, of which nothing is run.
//!
//! A node stays ready as long as nobody says otherwise of it by its status: the kubelet's link to the API is out of band: no fault of the fleet's network hides a pod's state.

pub(crate) mod environment;
mod probe;
mod status;
mod workload;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use netns_harness::namespace::Netns;
use netns_harness::process::Spawner;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::Error;
use crate::apiserver::{Connection, EventKind, PodDialer, Resource, Store};
use crate::network::{Network, NodeNet};
use probe::Probe;
pub(crate) use status::{Container, PodStatus};
use workload::Workload;

/// The image that is known, by the base name of its repository.
const IMAGE: &str = "clusterlink-floater";
/// The longest pause before a container is started anew.
const BACK_OFF: Duration = Duration::from_secs(60);

/// What the known image is on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// The executable and its first arguments.
    pub(crate) program: PathBuf,
    pub(crate) verb: Vec<std::ffi::OsString>,
    /// What every process of the lab has in its environment.
    pub(crate) env: Vec<(String, std::ffi::OsString)>,
    /// Run it inside of the lab's own process.
    pub(crate) shared: bool,
}

/// The kubelets of a cluster.
#[derive(Debug)]
pub(crate) struct Kubelet {
    cluster: String,
    network: Arc<Network>,
    spawner: Arc<Spawner>,
    image: Image,
    logs: PathBuf,
    store: OnceLock<Arc<Store>>,
    /// What this machine lacked for a pod's network, the first time.
    lacking: OnceLock<Error>,
    /// Where each pod's network is, by `namespace/name`.
    places: Mutex<BTreeMap<String, Netns>>,
}

struct Worker {
    uid: String,
    pod: watch::Sender<Option<Arc<Value>>>,
    task: JoinHandle<()>,
}

/// The text at a place of an object; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `namespace/name`.
pub(crate) fn key_of(pod: &Value) -> String {
    format!(
        "{}/{}",
        text(pod, "/metadata/namespace"),
        text(pod, "/metadata/name")
    )
}

impl Kubelet {
    pub(crate) fn new(
        cluster: &str,
        network: Arc<Network>,
        spawner: Arc<Spawner>,
        image: Image,
        logs: PathBuf,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster: cluster.to_owned(),
            network,
            spawner,
            image,
            logs,
            store: OnceLock::new(),
            lacking: OnceLock::new(),
            places: Mutex::default(),
        })
    }

    /// What this machine lacks for its pods, as far as it has shown.
    pub(crate) fn lacking(&self) -> Option<&Error> {
        self.lacking.get()
    }

    /// Watches the pods of the cluster and runs those of its nodes, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, store: Arc<Store>) {
        // Set once: a kubelet runs once.
        let _ = self.store.set(store.clone());
        let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
        let mut watch = store.watch(Resource::PODS, 0);
        loop {
            let event = watch.next().await;
            match event.kind {
                EventKind::Added | EventKind::Modified => self.adopt(&event.object, &mut workers),
                EventKind::Deleted => {
                    let uid = text(&event.object, "/metadata/uid");
                    if let Some(worker) = workers.get(&key_of(&event.object))
                        && worker.uid == uid
                    {
                        worker.pod.send_replace(None);
                    }
                }
                EventKind::Relist => {
                    let (pods, version) = store.list(Resource::PODS, None);
                    watch = store.watch(Resource::PODS, version);
                    for (key, worker) in &workers {
                        let same = |pod: &&Arc<Value>| {
                            key_of(pod) == *key && text(pod, "/metadata/uid") == worker.uid
                        };
                        if !pods.iter().any(|pod| same(&pod)) {
                            worker.pod.send_replace(None);
                        }
                    }
                    for pod in &pods {
                        self.adopt(pod, &mut workers);
                    }
                }
            }
            workers.retain(|_, worker| !worker.task.is_finished());
        }
    }

    /// Starts or notifies the worker of a pod that is bound to one of our nodes.
    fn adopt(self: &Arc<Self>, pod: &Arc<Value>, workers: &mut BTreeMap<String, Worker>) {
        let Some(node) = self
            .network
            .node(&self.cluster, text(pod, "/spec/nodeName"))
        else {
            return;
        };
        let (key, uid) = (key_of(pod), text(pod, "/metadata/uid"));
        if let Some(worker) = workers.get(&key)
            && worker.uid == uid
        {
            worker.pod.send_replace(Some(pod.clone()));
            return;
        }
        let before = workers.remove(&key);
        if let Some(before) = &before {
            before.pod.send_replace(None);
        }
        let (sender, pod) = watch::channel(Some(pod.clone()));
        let (this, node) = (self.clone(), node.clone());
        let task = tokio::spawn({
            let key = key.clone();
            async move {
                // A pod of the same name has to be gone before this one takes its place.
                if let Some(before) = before {
                    let _ = before.task.await;
                }
                this.pod(key, node, pod).await;
            }
        });
        workers.insert(
            key,
            Worker {
                uid: uid.to_owned(),
                pod: sender,
                task,
            },
        );
    }

    /// One pod's life.
    async fn pod(
        self: Arc<Self>,
        key: String,
        node: Arc<NodeNet>,
        mut pod: watch::Receiver<Option<Arc<Value>>>,
    ) {
        let Some(object) = pod.borrow_and_update().clone() else {
            return;
        };
        if !is_leaving(Some(&object)) {
            self.live(&key, &node, &object, &mut pod).await;
        }
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        let removed = {
            let (node, key) = (node.clone(), key.clone());
            tokio::task::spawn_blocking(move || node.remove_pod(&key)).await
        };
        if let Ok(Err(error)) = removed {
            warn!(cluster = self.cluster, key, %error, "cannot remove a pod's link");
        }
        if pod.borrow().is_some()
            && let Some(store) = self.store.get()
        {
            // Whoever deleted it for good was faster.
            let (namespace, name) = (
                text(&object, "/metadata/namespace"),
                text(&object, "/metadata/name"),
            );
            let _ = store.delete(Resource::PODS, Some(namespace), name);
        }
    }

    /// From the first look at a pod until it has to go; everything that it ran has ended afterwards.
    async fn live(
        &self,
        key: &str,
        node: &Arc<NodeNet>,
        object: &Arc<Value>,
        pod: &mut watch::Receiver<Option<Arc<Value>>>,
    ) {
        let mut status = PodStatus::new(object, node.node.ips().collect());
        if let Some(container) = unrunnable(object) {
            status.container = container;
            self.publish(object, &mut status);
            leaving(pod).await;
            return;
        }
        let host_network = object.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
        let netns = if host_network {
            status.pod_ips = node.node.ips().collect();
            node.netns.clone()
        } else {
            let (net, name) = (node.clone(), key.to_owned());
            let made = tokio::task::spawn_blocking(move || net.add_pod(&name)).await;
            match made {
                Ok(Ok(made)) => {
                    status.pod_ips.clone_from(&made.ips);
                    made.netns.clone()
                }
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => {
                            let why = error.to_string();
                            if matches!(error, Error::Missing { .. }) {
                                // The first says it; the others are its like.
                                let _ = self.lacking.set(error);
                            }
                            why
                        }
                        _ => "the CNI plugin failed".to_owned(),
                    };
                    warn!(cluster = self.cluster, key, why, "cannot wire a pod");
                    status.container = Container::Waiting("FailedCreatePodSandBox", why);
                    self.publish(object, &mut status);
                    leaving(pod).await;
                    return;
                }
            }
        };
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned(), netns.clone());
        let log = self.log_path(key);
        // An earlier pod of this name has left it.
        let _ = std::fs::remove_file(&log);
        let mut back_off = Duration::from_millis(500);
        loop {
            let started = tokio::time::Instant::now();
            let outcome = self
                .run_once(object, node, &netns, &log, &mut status, pod)
                .await;
            let Some(container) = outcome else {
                return;
            };
            status.container = container;
            self.publish(object, &mut status);
            if started.elapsed() > BACK_OFF {
                back_off = Duration::from_millis(500);
            }
            tokio::select! {
                () = leaving(pod) => return,
                () = tokio::time::sleep(back_off) => {}
            }
            back_off = (back_off * 2).min(BACK_OFF);
        }
    }

    /// Starts the container and follows it to its end; none when the pod had to go.
    async fn run_once(
        &self,
        object: &Arc<Value>,
        node: &Arc<NodeNet>,
        netns: &Netns,
        log: &std::path::Path,
        status: &mut PodStatus,
        pod: &mut watch::Receiver<Option<Arc<Value>>>,
    ) -> Option<Container> {
        let store = self.store.get()?;
        let env = match environment::of(object, &node.node, &status.pod_ips, store) {
            Ok(env) => env,
            Err(why) => return Some(Container::Waiting("CreateContainerConfigError", why)),
        };
        let args = environment::args(object, &env);
        let mut workload = match self.start(object, node, netns, log, env, args).await {
            Ok(workload) => workload,
            Err(why) => return Some(Container::Waiting("RunContainerError", why)),
        };
        status.start();
        let probe = Probe::of(object, &status.pod_ips);
        let mut prober = probe.prober();
        if probe.is_none() {
            status.ready = true;
        }
        self.publish(object, status);
        loop {
            tokio::select! {
                exit = workload.ended() => {
                    status.ready = false;
                    status.restarts += 1;
                    return Some(Container::Terminated(exit));
                }
                () = leaving(pod) => {
                    let grace = pod.borrow().as_ref().map_or(0, |object| {
                        object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30)
                    });
                    workload.stop(Duration::from_secs(grace)).await;
                    return None;
                }
                ready = prober.next(&self.network.opener, &node.netns) => {
                    if ready != status.ready {
                        status.ready = ready;
                        self.publish(object, status);
                    }
                }
            }
        }
    }

    async fn start(
        &self,
        object: &Value,
        node: &Arc<NodeNet>,
        netns: &Netns,
        log: &std::path::Path,
        env: Vec<(String, String)>,
        args: Vec<String>,
    ) -> Result<Workload, String> {
        if self.image.shared {
            return workload::shared(self.network.clone(), netns, &env).await;
        }
        let hostname = if object.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
            node.node.name.clone()
        } else {
            text(object, "/metadata/name").to_owned()
        };
        workload::process(&self.spawner, &self.image, netns, log, env, args, hostname).await
    }

    /// Writes a pod's status where it changed; a pod that is gone has none.
    fn publish(&self, object: &Value, status: &mut PodStatus) {
        let (Some(store), Some(value)) = (self.store.get(), status.changed()) else {
            return;
        };
        let (namespace, name) = (
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        );
        let uid = text(object, "/metadata/uid");
        let _ = store.put(Resource::PODS, Some(namespace), name, |pod| {
            // A pod of the same name may have taken its place.
            if text(pod, "/metadata/uid") == uid {
                pod["status"] = value;
            }
        });
    }

    fn log_path(&self, key: &str) -> PathBuf {
        // Names in Kubernetes hold no slashes and no underscores.
        self.logs
            .join(format!("{}_{}.log", self.cluster, key.replace('/', "_")))
    }
}

/// What there is to say of a pod that no simulated node runs.
pub(crate) fn unrunnable(pod: &Value) -> Option<Container> {
    if pod.pointer("/spec/initContainers/0").is_some() {
        // Running the others without it would pretend that it had succeeded.
        let why = "a simulated node runs no init containers";
        return Some(Container::Waiting("PodInitializing", why.to_owned()));
    }
    (!is_known_image(text(pod, "/spec/containers/0/image"))).then_some(Container::NoImage)
}

/// Whether an image's repository ends in the known name, whatever its registry and tag.
fn is_known_image(image: &str) -> bool {
    let image = image.split('@').next().unwrap_or_default();
    let base = image.rsplit('/').next().unwrap_or_default();
    base.split(':').next() == Some(IMAGE)
}

/// Whether a pod was asked to go, or is gone.
pub(crate) fn is_leaving(pod: Option<&Value>) -> bool {
    pod.is_none_or(|pod| !text(pod, "/metadata/deletionTimestamp").is_empty())
}

/// Returns when a pod has been asked to go, or is gone.
async fn leaving(pod: &mut watch::Receiver<Option<Arc<Value>>>) {
    // The sender lives as long as the kubelet; without it nobody wants the pod.
    let _ = pod.wait_for(|pod| is_leaving(pod.as_deref())).await;
}

impl PodDialer for Kubelet {
    fn dial<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let key = format!("{namespace}/{pod}");
            let place = self
                .places
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .cloned();
            let netns = place.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("pod {key} has no network"))
            })?;
            let socket = self
                .network
                .opener
                .open(&netns, TcpSocket::new_v4)
                .map_err(io::Error::other)??;
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let stream = socket.connect(SocketAddr::new(here, port)).await?;
            // Small requests that wait for each other suffer from the delay; failing to turn it off costs only that.
            let _ = stream.set_nodelay(true);
            Ok(Connection::over(stream))
        })
    }

    fn log(&self, namespace: &str, pod: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.log_path(&format!("{namespace}/{pod}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_known_by_its_base_name() {
        for image in [
            "clusterlink-floater",
            "clusterlink-floater:v1",
            "ghcr.io/kosmos-io/clusterlink-floater:latest",
            "localhost:5000/x/clusterlink-floater@sha256:00",
        ] {
            assert!(is_known_image(image), "{image}");
        }
        for image in [
            "",
            "nginx",
            "clusterlink-floater-x:1",
            "clusterlink-floater/x",
        ] {
            assert!(!is_known_image(image), "{image}");
        }
    }
}
