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
//! What they say of pods reaches a simulated API whatever the fleet's network does, so that no fault hides its own evidence; whether a node is
//! heard of at all is a matter of that network (see `beats`). An API server of upstream's hears everything over it.

pub(crate) mod api;
mod beats;
pub(crate) mod client;
pub(crate) mod environment;
mod held;
mod image;
mod probe;
mod served;
mod status;
mod volumes;
mod workload;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use netns_harness::namespace::Netns;
use netns_harness::process::{Root, Spawner};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::Error;
use crate::apiserver::{Connection, PodDialer};
use crate::freeze::Freezer;
use crate::network::{Network, NodeNet};
use crate::objects;
use crate::topology::Kubelets;
use api::{Api, Apis, News, Referred, Teller};
use held::Held;
pub(crate) use image::{Image, Images};
use probe::Probe;
pub(crate) use status::{Container, PodStatus};
use volumes::{MadeOf, Volumes};
use workload::{Contained, Workload};

/// The longest pause before a container is started anew.
const BACK_OFF: Duration = Duration::from_secs(60);

/// Before the files of a pod are written again that could not be.
const AGAIN: Duration = Duration::from_secs(1);

/// A cluster's API as its pods reach it, over the fleet's own network.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    /// Who signed its certificate, PEM.
    pub(crate) authority: String,
    /// Where it is.
    pub(crate) address: SocketAddr,
}

/// What the kubelets of a cluster are made with.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) cluster: String,
    pub(crate) network: Arc<Network>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) images: Images,
    /// Where what pods write is kept.
    pub(crate) logs: PathBuf,
    /// Where the files are that pods are given.
    pub(crate) files: PathBuf,
    /// None where pods cannot reach the API: there the programs of the datapath are not run.
    pub(crate) inside: Option<Inside>,
    /// What says which of the datapath's programs stand still.
    pub(crate) freezer: Arc<Freezer>,
}

/// The kubelets of a cluster.
#[derive(Debug)]
pub(crate) struct Kubelet {
    cluster: String,
    network: Arc<Network>,
    spawner: Arc<Spawner>,
    images: Images,
    logs: PathBuf,
    files: PathBuf,
    inside: Option<Inside>,
    freezer: Arc<Freezer>,
    /// The processes that are programs of the datapath, by `namespace/name` of their pods.
    held: Mutex<BTreeMap<String, Held>>,
    apis: OnceLock<Apis>,
    /// The pods as an API server elsewhere told of them last, by `namespace/name`: nothing else in this process knows them.
    told: watch::Sender<BTreeMap<String, Arc<Value>>>,
    /// A node that was lost is back: what was said of pods is said again.
    again: watch::Sender<()>,
    /// What this machine lacked for a pod's network, the first time.
    lacking: OnceLock<Error>,
    /// Where each pod's network is, by `namespace/name`.
    places: Mutex<BTreeMap<String, Netns>>,
}

struct Worker {
    uid: String,
    node: String,
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
    pub(crate) fn new(made: Made) -> Arc<Self> {
        Arc::new(Self {
            cluster: made.cluster,
            network: made.network,
            spawner: made.spawner,
            images: made.images,
            logs: made.logs,
            files: made.files,
            inside: made.inside,
            freezer: made.freezer,
            held: Mutex::default(),
            apis: OnceLock::new(),
            told: watch::Sender::new(BTreeMap::new()),
            again: watch::Sender::new(()),
            lacking: OnceLock::new(),
            places: Mutex::default(),
        })
    }

    /// What this machine lacks for its pods, as far as it has shown.
    pub(crate) fn lacking(&self) -> Option<&Error> {
        self.lacking.get()
    }

    /// Says where the cluster's API is, once, and registers all nodes there, each with its Lease.
    pub(crate) async fn register(&self, apis: Apis, timing: Kubelets) -> Result<(), String> {
        for (_, net) in self.nodes() {
            let api = apis.of(&net.node.name);
            let api = api.ok_or_else(|| format!("{} has no client", net.node.name))?;
            let node = objects::node(&net.node, &objects::now());
            api.register(&node).await?;
            self.renew(net, &api, timing.renew).await?;
        }
        // Set once: a kubelet is made for one API.
        let _ = self.apis.set(apis);
        Ok(())
    }

    /// The nodes of the cluster.
    fn nodes(&self) -> impl Iterator<Item = (&(String, String), &Arc<NodeNet>)> {
        let nodes = self
            .network
            .nodes
            .range((self.cluster.clone(), String::new())..);
        nodes.take_while(|((cluster, _), _)| *cluster == self.cluster)
    }

    /// The pods as an API server elsewhere told of them last, and the news of them.
    pub(crate) fn told(&self) -> watch::Receiver<BTreeMap<String, Arc<Value>>> {
        self.told.subscribe()
    }

    /// Watches the pods of the cluster and runs those of its nodes, until it is dropped; the nodes are registered.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(apis) = self.apis.get() else { return };
        let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
        let mut pods = apis.pods();
        loop {
            let news = pods.next().await;
            if let Apis::Over(_) = apis {
                self.told.send_modify(|told| keep(told, &news));
            }
            match news {
                News::Is(pod) => self.adopt(&pod, &mut workers),
                News::Gone(pod) => {
                    let uid = text(&pod, "/metadata/uid");
                    if let Some(worker) = workers.get(&key_of(&pod))
                        && worker.uid == uid
                    {
                        worker.pod.send_replace(None);
                    }
                }
                News::All(node, pods) => {
                    let of_node =
                        |worker: &&Worker| node.as_deref().is_none_or(|node| worker.node == node);
                    let here = workers.iter().filter(|(_, worker)| of_node(worker));
                    for (key, worker) in here {
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

    /// The cluster's API for a node; none before it is registered.
    fn api(&self, node: &str) -> Option<Api> {
        self.apis.get()?.of(node)
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
        let name = node.node.name.clone();
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
                node: name,
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
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        // Most pods have none.
        let _ = std::fs::remove_dir_all(self.files_of(&key));
        let is_there = pod.borrow().is_some();
        if let Some(api) = self.api(&node.node.name).filter(|_| is_there) {
            tokio::select! {
                () = api.end(&object) => {}
                // Somebody else has ended it.
                _ = pod.wait_for(Option::is_none) => {}
            }
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
        let Some(api) = self.api(&node.node.name) else {
            return;
        };
        let teller = &api.teller(object);
        let mut status = PodStatus::new(object, node.node.ips().collect());
        let image = match runnable(object) {
            Ok(image) => image,
            Err(container) => {
                status.container = container;
                publish(teller, &mut status);
                leaving(pod).await;
                return;
            }
        };
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
                    publish(teller, &mut status);
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
            let what = Run {
                object,
                image,
                api: &api,
                teller,
                node,
                netns: &netns,
                log: &log,
            };
            let Some(container) = self.run_once(what, &mut status, pod).await else {
                return;
            };
            status.container = container;
            publish(teller, &mut status);
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
        run: Run<'_>,
        status: &mut PodStatus,
        pod: &mut watch::Receiver<Option<Arc<Value>>>,
    ) -> Option<Container> {
        let Run {
            object,
            image,
            api,
            teller,
            node,
            netns,
            log,
        } = run;
        let namespace = text(object, "/metadata/namespace");
        let unfit = |why| Some(Container::Waiting("CreateContainerConfigError", why));
        let referred = match api.read(namespace, &environment::references(object)).await {
            Ok(referred) => referred,
            Err(why) => return unfit(why),
        };
        let held = |kind, name: &str| referred.get(kind, name);
        let env = environment::of(image, object, &node.node, &status.pod_ips, &held);
        let env = match env {
            Ok(env) => env,
            Err(why) => return unfit(why),
        };
        let volumes = match self.volumes(image, object) {
            Ok(volumes) => volumes,
            Err(why) => return unfit(why),
        };
        let token = match self.token(api, object, volumes.as_ref()).await {
            Ok(token) => token,
            Err(why) => return unfit(why),
        };
        let mut written = match self.write(api, &volumes, namespace, &token).await {
            Ok(written) => written,
            Err(why) => return unfit(why),
        };
        let args = environment::args(image, object, &env);
        let start = Start {
            object,
            image,
            env,
            args,
            volumes: volumes.as_ref(),
        };
        let mut workload = match self.start(start, node, netns, log).await {
            Ok(workload) => workload,
            Err(why) => return Some(Container::Waiting("RunContainerError", why)),
        };
        if volumes.is_some() {
            self.keep(&key_of(object), object, &workload);
        }
        status.start();
        let probe = Probe::of(object, &status.pod_ips);
        let mut prober = probe.prober();
        if probe.is_none() {
            status.ready = true;
        }
        publish(teller, status);
        let mut again = self.again.subscribe();
        let mut changed = Box::pin(api.clone().changed(namespace.to_owned(), written.clone()));
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
                        publish(teller, status);
                    }
                }
                Ok(()) = again.changed() => {
                    status.forget();
                    publish(teller, status);
                }
                () = &mut changed => {
                    match self.write(api, &volumes, namespace, &token).await {
                        Ok(again) => written = again,
                        // What is there stays, as a kubelet has it, and it is tried again.
                        Err(why) => {
                            warn!(cluster = self.cluster, why, "cannot write a pod's files");
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                    changed = Box::pin(api.clone().changed(namespace.to_owned(), written.clone()));
                }
            }
        }
    }

    /// The files of a pod; none for one that needs none.
    fn volumes(&self, image: Image, pod: &Value) -> Result<Option<Volumes>, String> {
        match image {
            Image::Floater => Ok(None),
            Image::Clusterlink => Volumes::of(pod, &self.files_of(&key_of(pod))).map(Some),
        }
    }

    /// The token that a pod is given; empty for one that wants none.
    async fn token(
        &self,
        api: &Api,
        pod: &Value,
        volumes: Option<&Volumes>,
    ) -> Result<String, String> {
        match volumes.and_then(Volumes::account) {
            Some(account) => api.token(pod, account).await,
            None => Ok(String::new()),
        }
    }

    /// Brings the files of a pod up to date; with the objects that they are made of.
    async fn write(
        &self,
        api: &Api,
        volumes: &Option<Volumes>,
        namespace: &str,
        token: &str,
    ) -> Result<Arc<Referred>, String> {
        let Some(volumes) = volumes else {
            return api.read(namespace, &Vec::new()).await.map(Arc::new);
        };
        let Some(inside) = &self.inside else {
            return Err(
                "the datapath of this fleet runs outside of pods (sim up --bare)".to_owned(),
            );
        };
        let referred = api.read(namespace, &volumes.references()).await?;
        volumes.write(&MadeOf {
            referred: &referred,
            token,
            inside,
        })?;
        Ok(Arc::new(referred))
    }

    async fn start(
        &self,
        start: Start<'_>,
        node: &Arc<NodeNet>,
        netns: &Netns,
        log: &std::path::Path,
    ) -> Result<Workload, String> {
        let Start {
            object,
            image,
            mut env,
            args,
            volumes,
        } = start;
        if self.images.shared && image == Image::Floater {
            return workload::shared(self.network.clone(), netns, &env).await;
        }
        let hostname = if object.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
            node.node.name.clone()
        } else {
            text(object, "/metadata/name").to_owned()
        };
        if let Some(Inside { address, .. }) = self.inside.as_ref().filter(|_| volumes.is_some()) {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            env.push(("KUBERNETES_SERVICE_HOST".to_owned(), host));
            env.push(("KUBERNETES_SERVICE_PORT".to_owned(), port));
        }
        let binds = volumes.map(Volumes::binds);
        let root = binds.map(|binds| Root {
            folder: self.files_of(&key_of(object)).join("root"),
            binds,
        });
        let verb = self.images.verb(image);
        let container = Contained {
            program: &self.images.program,
            args: verb
                .iter()
                .cloned()
                .chain(args.into_iter().map(OsString::from))
                .collect(),
            own: &self.images.env,
            env,
            hostname,
            root,
        };
        workload::process(&self.spawner, container, netns, log).await
    }

    fn log_path(&self, key: &str) -> PathBuf {
        self.logs.join(format!("{}.log", self.file_name(key)))
    }

    fn files_of(&self, key: &str) -> PathBuf {
        self.files.join(self.file_name(key))
    }

    fn file_name(&self, key: &str) -> String {
        // Names in Kubernetes hold no slashes and no underscores.
        format!("{}_{}", self.cluster, key.replace('/', "_"))
    }
}

/// What a container is started with.
struct Start<'a> {
    object: &'a Value,
    image: Image,
    env: Vec<(String, String)>,
    args: Vec<String>,
    volumes: Option<&'a Volumes>,
}

/// A container that is run, and what for.
struct Run<'a> {
    object: &'a Arc<Value>,
    image: Image,
    api: &'a Api,
    teller: &'a Teller,
    node: &'a Arc<NodeNet>,
    netns: &'a Netns,
    log: &'a std::path::Path,
}

/// Writes a pod's status where it changed; a pod that is gone has none.
fn publish(teller: &Teller, status: &mut PodStatus) {
    if let Some(value) = status.changed() {
        teller.tell(value);
    }
}

/// Keeps the pods that were told of.
fn keep(told: &mut BTreeMap<String, Arc<Value>>, news: &News) {
    match news {
        News::Is(pod) => {
            told.insert(key_of(pod), pod.clone());
        }
        News::Gone(pod) => {
            told.remove(&key_of(pod));
        }
        News::All(node, pods) => {
            let is_of = |pod: &Value| {
                let node = node.as_deref();
                node.is_none_or(|node| text(pod, "/spec/nodeName") == node)
            };
            told.retain(|_, pod| !is_of(pod));
            told.extend(pods.iter().map(|pod| (key_of(pod), pod.clone())));
        }
    }
}

/// The image that a simulated node runs for a pod, or what there is to say of the pod.
pub(crate) fn runnable(pod: &Value) -> Result<Image, Container> {
    if pod.pointer("/spec/initContainers/0").is_some() {
        // Running the others without it would pretend that it had succeeded.
        let why = "a simulated node runs no init containers";
        return Err(Container::Waiting("PodInitializing", why.to_owned()));
    }
    Image::of(text(pod, "/spec/containers/0/image")).ok_or(Container::NoImage)
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
