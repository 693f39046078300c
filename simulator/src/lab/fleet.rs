//! Everything that a lab consists of while it is up.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::process::Spawner;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Counted, End, requests};
use crate::agents::Agents;
use crate::apiserver::{ApiCluster, Options, PodDialer, Resource, Routes, Store};

use crate::fault::Faults;
use crate::freeze::Freezer;
use crate::kubelet::{Image, Kubelet};
use crate::network::Network;
use crate::objects::{self, Access};
use crate::pki::{self, Authority};
use crate::protocol::{self, Order, Phase};
use crate::reconciler::{Configs, Member, Reconciler};
use crate::state::{Folder, MARKER, Record};
use crate::topology::{Cluster, Topology};
use crate::virtual_clusters::{self, VirtualFleet};
use crate::{Error, apiserver};

/// A lab that is up, or nearly so.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) folder: Folder,
    pub(crate) record: Record,
    pub(crate) topology: Topology,
    pub(crate) ground: Ground,
    pub(crate) members: Vec<Running>,
    pub(crate) freezer: Arc<Freezer>,
    /// Held by whoever injects or clears.
    pub(crate) breaking: tokio::sync::Mutex<()>,
    faults: Mutex<Faults>,
    reconciler: Arc<Reconciler>,
}

/// What the nodes of a lab stand on.
#[derive(Debug)]
pub(crate) enum Ground {
    /// Network namespaces, and agents that keep them.
    Kernel {
        network: Arc<Network>,
        agents: Arc<Agents>,
        spawner: Arc<Spawner>,
    },
    /// Tables that are computed.
    Virtual(Arc<VirtualFleet>),
}

/// Who runs the pods of a cluster.
#[derive(Debug, Clone)]
enum Pods {
    Kernel(Arc<Kubelet>),
    Virtual(Arc<virtual_clusters::Pods>),
}

/// A cluster that is up.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    /// The URL of its API server.
    pub(crate) server: String,
    pub(crate) api: Arc<ApiCluster>,
    pods: Pods,
}

impl Fleet {
    /// Builds the fleet, puts it into the slot once there is something to remove, and returns when everything is ready.
    pub(super) async fn build(
        folder: &Folder,
        record: &Record,
        order: &Order,
        learns: bool,
        slot: &mut Option<Arc<Self>>,
        ending: mpsc::UnboundedSender<End>,
    ) -> Result<(), Error> {
        let topology = order.topology.clone();
        let base = Base::build(folder, record, order, learns).await?;
        let authority = Authority::new(&folder.name)?;
        let doing = || "serve the APIs of the lab";
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Error::failed(doing()))?;
        let address = listener.local_addr().map_err(Error::failed(doing()))?;
        let (members, accesses) = members(&topology, &base, address).await?;
        info!("the APIs stand");
        let kubeconfig = objects::kubeconfig(&authority.pem, &accesses);
        folder.write("kubeconfig", kubeconfig.as_bytes())?;
        // A topology has at least one cluster, and the first is the control plane.
        let root = members[0].api.store().clone();
        control_plane(&root, &topology, &authority.pem, &accesses)?;
        let freezer = Arc::new(Freezer::default());
        let sources = members.iter().map(|member| Member {
            name: member.name.clone(),
            store: member.api.store().clone(),
        });
        let configs = base.configs();
        let reconciler = Reconciler::new(sources.collect(), freezer.clone(), configs);
        let reconciler = Arc::new(reconciler);
        let inputs = reconciler.inputs();
        let nodes = topology.clusters.iter();
        let nodes = nodes.map(|cluster| cluster.nodes.len()).sum();
        let step = Counted::begin(Phase::Plan, nodes);
        let first = reconciler.clone();
        blocking(move || {
            first.step();
            Ok(())
        })
        .await?;
        step.end();
        info!("the plan is written");
        let ground = base.ground(root, &freezer)?;
        let fleet = Arc::new(Self {
            folder: folder.clone(),
            record: record.clone(),
            topology,
            ground,
            members,
            freezer,
            breaking: tokio::sync::Mutex::default(),
            faults: Mutex::default(),
            reconciler: reconciler.clone(),
        });
        *slot = Some(fleet.clone());
        let start = |name: &'static str, task: futures::future::BoxFuture<'static, ()>| {
            let (handle, ending) = (tokio::spawn(task), ending.clone());
            tokio::spawn(async move {
                // Both a return and a panic are an end that nobody asked for.
                let _ = handle.await;
                let _ = ending.send(End::Task(name));
            });
        };
        start("reconciler", Box::pin(reconciler.run(inputs)));
        let forever = std::future::pending::<()>;
        let routes = Routes::by_name(fleet.members.iter().map(|member| member.api.clone()));
        let serving = routes.serve(listener, authority.server.clone(), forever());
        start("API servers", Box::pin(serving));
        for member in &fleet.members {
            let (api, store) = (member.api.clone(), member.api.store().clone());
            match member.pods.clone() {
                Pods::Kernel(kubelet) => start("kubelet", Box::pin(kubelet.run(store))),
                Pods::Virtual(pods) => start("kubelet", Box::pin(pods.run(store))),
            }
            start("controllers", Box::pin(api.run_controllers(forever())));
        }
        match &fleet.ground {
            Ground::Kernel { agents, .. } => {
                let filling = agents.clone();
                blocking(move || {
                    let step = Counted::begin(Phase::Fill, filling.count());
                    filling.fill(|| step.one());
                    step.end();
                    Ok(())
                })
                .await?;
                info!("every kernel has its rows");
                start("agents", Box::pin(agents.clone().run()));
            }
            Ground::Virtual(fleet) => start("virtual clusters", Box::pin(fleet.clone().run())),
        }
        requests::listen(&fleet)?;
        fleet.ready().await?;
        for fault in fleet.topology.faults.clone() {
            let at = match &fault.peer {
                Some(peer) => format!("{},{peer}", fault.at),
                None => fault.at.clone(),
            };
            fleet.inject(fault.code, &at).await?;
        }
        Ok(())
    }

    /// How long everything may take.
    pub(crate) fn patience(&self) -> Duration {
        protocol::settling(self.members.len())
    }

    /// Waits for every kernel and every pod.
    async fn ready(&self) -> Result<(), Error> {
        if let Ground::Kernel { agents, .. } = &self.ground {
            let step = Counted::begin(Phase::Settle, agents.count());
            agents.wait_each(self.patience(), || step.one()).await?;
            step.end();
            info!("every kernel equals its NodeConfig");
        }
        if !self.topology.floater {
            (0..self.members.len()).for_each(|member| self.slim(member));
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + self.patience();
        let step = Counted::begin(Phase::Pods, self.members.len());
        for (at, (member, cluster)) in self.members.iter().zip(&self.topology.clusters).enumerate()
        {
            let store = member.api.store();
            let wanted = cluster.nodes.len() * 2;
            let waited = tokio::time::timeout_at(deadline, pods_ready(member, wanted));
            match waited.await {
                Ok(ready) => {
                    ready?;
                    self.slim(at);
                    step.one();
                }
                Err(_) => {
                    return Err(Error::Failed {
                        doing: format!("start the pods of {}", member.name),
                        why: unready(store),
                    });
                }
            }
        }
        step.end();
        Ok(())
    }

    /// Lets go of what only the start of a member needed, where clusters are many because each is small. The control plane keeps what it
    /// has: its objects change with those of all.
    fn slim(&self, at: usize) {
        if at == 0 {
            return;
        }
        let nodes = self.topology.clusters[at].nodes.len();
        let store = self.members[at].api.store();
        store.forget_changes();
        store.keep_changes(CHANGES + CHANGES_OF_A_NODE * nodes);
        store.pack();
    }

    /// What was injected and not cleared.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cluster by name.
    pub(crate) fn member(&self, name: &str) -> Option<(&Running, &Cluster)> {
        let mut both = self.members.iter().zip(&self.topology.clusters);
        both.find(|(member, _)| member.name == name)
    }

    /// The control-plane cluster's objects.
    pub(crate) fn root(&self) -> &Arc<Store> {
        self.members[0].api.store()
    }

    /// Starts nothing any more; what was started dies.
    pub(super) fn stop(&self) {
        if let Ground::Kernel { spawner, .. } = &self.ground {
            spawner.close();
        }
    }

    /// Whether it has namespaces, which take their time to go.
    pub(super) fn has_kernels(&self) -> bool {
        matches!(self.ground, Ground::Kernel { .. })
    }

    /// Returns once no agent is in the middle of a change.
    pub(crate) fn wait_idle(&self) {
        if let Ground::Kernel { agents, .. } = &self.ground {
            agents.wait_idle();
        }
    }

    /// Elects and plans once more, and waits until thawed agents have applied their NodeConfigs.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        let reconciler = self.reconciler.clone();
        blocking(move || {
            reconciler.step();
            Ok(())
        })
        .await?;
        match &self.ground {
            Ground::Kernel { agents, .. } => {
                agents.look_again();
                agents.wait_settled(self.patience()).await
            }
            Ground::Virtual(fleet) => {
                fleet.forget();
                Ok(())
            }
        }
    }

    /// Lets go of everything but the underlay; none where somebody still holds the network.
    pub(super) fn into_underlay(self) -> Option<(Netns, Netlink)> {
        let Self {
            ground,
            members,
            faults,
            ..
        } = self;
        drop((members, faults));
        let Ground::Kernel {
            network, agents, ..
        } = ground
        else {
            return None;
        };
        drop(agents);
        Arc::try_unwrap(network).ok().map(Network::into_underlay)
    }
}

/// What the clusters of a lab are built on, before there are any.
enum Base {
    Kernel {
        network: Arc<Network>,
        configs: Arc<Configs>,
        spawner: Arc<Spawner>,
        image: Image,
        logs: PathBuf,
    },
    Virtual(Arc<VirtualFleet>),
}

impl Base {
    /// Where NodeConfigs are made.
    fn configs(&self) -> Arc<Configs> {
        match self {
            Self::Kernel { configs, .. } => configs.clone(),
            Self::Virtual(fleet) => fleet.configs().clone(),
        }
    }

    async fn build(
        folder: &Folder,
        record: &Record,
        order: &Order,
        learns: bool,
    ) -> Result<Self, Error> {
        let topology = order.topology.clone();
        if topology.is_virtual() {
            // What is random about a lab follows from its name, so that it can be had again.
            let mut hasher = DefaultHasher::new();
            folder.name.hash(&mut hasher);
            let fleet = VirtualFleet::new(&topology, hasher.finish());
            return Ok(Self::Virtual(Arc::new(fleet)));
        }
        let network = blocking(move || {
            let step = Counted::begin(Phase::Namespaces, topology.clusters.len());
            let network = Network::build(&topology, learns, || step.one())?;
            step.end();
            Ok(network)
        })
        .await?;
        info!(nodes = network.nodes.len(), "the network stands");
        Ok(Self::Kernel {
            network: Arc::new(network),
            configs: Arc::default(),
            spawner: Arc::new(Spawner::start()?),
            image: image(order, record),
            logs: folder.logs(),
        })
    }

    /// Who will run the pods of a cluster, and how its API reaches them.
    fn pods(&self, index: usize, cluster: &Cluster) -> (Pods, Arc<dyn PodDialer>) {
        match self {
            Self::Kernel {
                network,
                spawner,
                image,
                logs,
                ..
            } => {
                let kubelet = Kubelet::new(
                    &cluster.name,
                    network.clone(),
                    spawner.clone(),
                    image.clone(),
                    logs.clone(),
                );
                (Pods::Kernel(kubelet.clone()), kubelet)
            }
            Self::Virtual(fleet) => {
                let pods = virtual_clusters::Pods::new(fleet.clone(), index);
                (Pods::Virtual(pods.clone()), pods)
            }
        }
    }

    /// What nodes stand on once the control plane has its objects.
    fn ground(self, root: Arc<Store>, freezer: &Arc<Freezer>) -> Result<Ground, Error> {
        match self {
            Self::Kernel {
                network,
                configs,
                spawner,
                ..
            } => {
                let agents = Agents::new(&network, root, configs, freezer.clone())?;
                Ok(Ground::Kernel {
                    network,
                    agents,
                    spawner,
                })
            }
            Self::Virtual(fleet) => {
                fleet.follow(root);
                Ok(Ground::Virtual(fleet))
            }
        }
    }
}

/// The APIs of all clusters, with the objects that each starts with, and how they are reached.
async fn members(
    topology: &Topology,
    base: &Base,
    address: SocketAddr,
) -> Result<(Vec<Running>, Vec<Access>), Error> {
    let run_key = pki::random_hex(32)?;
    let key = topology.floater.then_some(run_key.as_str());
    let step = Counted::begin(Phase::Apis, topology.clusters.len());
    let jobs = topology
        .clusters
        .iter()
        .enumerate()
        .map(|(index, cluster)| {
            let server = format!("https://{address}{}", Routes::path(&cluster.name));
            let (pods, dialer) = base.pods(index, cluster);
            let (cluster, key) = (cluster.clone(), key.map(str::to_owned));
            tokio::spawn(member(cluster, index == 0, server, pods, dialer, key))
        });
    // A few at a time: all cores are busy with these already.
    let mut jobs = stream::iter(jobs).buffered(AT_ONCE);
    let mut members = Vec::with_capacity(topology.clusters.len());
    let mut accesses = Vec::with_capacity(topology.clusters.len());
    while let Some(made) = jobs.next().await {
        let (member, access) = made.map_err(Error::failed("make an API"))??;
        members.push(member);
        accesses.push(access);
        step.one();
    }
    step.end();
    Ok((members, accesses))
}

/// How many changes the API of a cluster keeps, and for each node: what a run does to its pods.
const CHANGES: usize = 16;
const CHANGES_OF_A_NODE: usize = 8;
/// How many it keeps while it comes up: whoever is in the lab's own process lists again where it lags behind.
const FIRST_CHANGES: usize = 4;
/// How many APIs are made at a time.
const AT_ONCE: usize = 4;

/// The API of a cluster, with the objects that it starts with, and how it is reached.
async fn member(
    cluster: Cluster,
    is_control_plane: bool,
    server: String,
    pods: Pods,
    dialer: Arc<dyn PodDialer>,
    run_key: Option<String>,
) -> Result<(Running, Access), Error> {
    let token = pki::random_hex(24)?;
    let api = ApiCluster::new(Options {
        name: cluster.name.clone(),
        uid: pki::uuid()?,
        admin_token: token.clone(),
        dialer,
    });
    if !is_control_plane {
        api.store().keep_changes(FIRST_CHANGES);
    }
    seed(&api, &token, &cluster, run_key.as_deref()).await?;
    let access = Access {
        cluster: cluster.name.clone(),
        server: server.clone(),
        token,
    };
    let running = Running {
        name: cluster.name,
        server,
        api,
        pods,
    };
    Ok((running, access))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work)
        .await
        .map_err(Error::failed("build the lab"))?
}

/// What the known image is here.
fn image(order: &Order, record: &Record) -> Image {
    let mut env = vec![(MARKER.to_owned(), OsString::from(&record.id))];
    for name in ["PATH", "XDG_RUNTIME_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            env.push((name.to_owned(), value));
        }
    }
    Image {
        program: order.caller.program.clone(),
        verb: order.caller.floater_verb.clone(),
        env,
        shared: order.topology.shares_floaters(),
    }
}

fn stored<T>(what: &str, result: Result<T, apiserver::Status>) -> Result<T, Error> {
    result.map_err(|status| Error::Failed {
        doing: format!("write {what}"),
        why: format!("{status:?}"),
    })
}

/// Creates an object as the cluster's administrator, with all that the API adds to it.
async fn create(
    api: &Arc<ApiCluster>,
    token: &str,
    path: &str,
    object: &serde_json::Value,
) -> Result<(), Error> {
    let doing = || format!("create {path} of {}", api.name());
    let request = http::Request::post(path)
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(http_body_util::Full::new(Bytes::from(object.to_string())))
        .map_err(Error::failed(doing()))?;
    let response = api.handle(request).await;
    if response.status().is_success() {
        return Ok(());
    }
    let status = response.status();
    let body = response.into_body().collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    Err(Error::Failed {
        doing: doing(),
        why: format!("{status}: {}", text.unwrap_or_default()),
    })
}

/// The objects of a cluster's own API.
async fn seed(
    api: &Arc<ApiCluster>,
    token: &str,
    cluster: &Cluster,
    run_key: Option<&str>,
) -> Result<(), Error> {
    let store = api.store();
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    for node in &cluster.nodes {
        let node = objects::node(node, &now);
        stored("a Node", store.create(Resource::NODES, None, node))?;
    }
    for (name, cidrs) in objects::service_cidrs(cluster) {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let made = store.create(Resource::SERVICE_CIDRS, None, object);
        stored("a ServiceCIDR", made)?;
    }
    let namespace = objects::namespace(objects::NAMESPACE);
    create(api, token, "/api/v1/namespaces", &namespace).await?;
    let Some(run_key) = run_key else {
        return Ok(());
    };
    let system = store.get(Resource::NAMESPACES, None, "kube-system");
    let id = system.as_ref().map(|system| &system["metadata"]["uid"]);
    let id = id.and_then(|uid| uid.as_str()).unwrap_or_default();
    let namespace = objects::NAMESPACE;
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    create(api, token, &path, &objects::secret(run_key)).await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
    for host in [true, false] {
        create(api, token, &path, &objects::daemon_set(host, id)).await?;
    }
    Ok(())
}

/// The objects of the fleet.
fn control_plane(
    root: &Store,
    topology: &Topology,
    ca_pem: &str,
    accesses: &[Access],
) -> Result<(), Error> {
    for (index, (cluster, access)) in topology.clusters.iter().zip(accesses).enumerate() {
        let kubeconfig = objects::kubeconfig(ca_pem, std::slice::from_ref(access));
        let object = objects::cluster(cluster, index == 0, &kubeconfig);
        stored("a Cluster", root.create(Resource::CLUSTERS, None, object))?;
        for node in &cluster.nodes {
            let object = objects::cluster_node(cluster, node);
            stored(
                "a ClusterNode",
                root.create(Resource::CLUSTER_NODES, None, object),
            )?;
        }
    }
    Ok(())
}

/// Returns once this many pods of the lab's own floaters are ready, or one cannot be for lack of something.
async fn pods_ready(member: &Running, wanted: usize) -> Result<(), Error> {
    let store = member.api.store();
    let mut watch = store.watch(Resource::PODS, store.version());
    loop {
        // Said before the pod's status, which wakes this.
        if let Pods::Kernel(kubelet) = &member.pods
            && let Some(error) = kubelet.lacking()
        {
            return Err(error.clone());
        }
        let (pods, _) = store.list(Resource::PODS, Some(objects::NAMESPACE));
        if pods.iter().filter(|pod| objects::is_pod_ready(pod)).count() >= wanted {
            return Ok(());
        }
        watch.next().await;
    }
}

/// The pods that are not ready, with what they are doing.
fn unready(store: &Store) -> String {
    let (pods, _) = store.list(Resource::PODS, None);
    let words: Vec<String> = pods
        .iter()
        .filter(|pod| !objects::is_pod_ready(pod))
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            format!("{name}: {}", pod["status"]["containerStatuses"][0]["state"])
        })
        .collect();
    if words.is_empty() {
        format!("there are only {} pods", pods.len())
    } else {
        words.join(", ")
    }
}
