//! Everything that a lab consists of while it is up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::process::Spawner;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::info;

use super::base::{self, Base};
use super::{Counted, End, requests, seeding};
use crate::Error;
use crate::agents::Agents;
use crate::apiserver::{ApiCluster, Resource, Routes, Store, Watch};
use crate::fault::{self, Faults};
use crate::freeze::Freezer;
use crate::kubelet::{Inside, Kubelet};
use crate::network::Network;
use crate::objects;
use crate::pki::Authority;
use crate::protocol::{self, Order, Phase};
use crate::reconciler::{Configs, Inputs, Member, Reconciler};
use crate::state::{Folder, Record};
use crate::topology::{Cluster, Topology};
use crate::upstream::ControlPlane;
use crate::virtual_clusters::{self, VirtualFleet};

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
    /// None in a bare lab.
    reconciler: Option<Arc<Reconciler>>,
}

/// What the nodes of a lab stand on.
#[derive(Debug)]
pub(crate) enum Ground {
    /// Network namespaces, and agents that keep them: none in a bare lab, where whatever keeps them are pods.
    Kernel {
        network: Arc<Network>,
        agents: Option<Arc<Agents>>,
        spawner: Arc<Spawner>,
    },
    /// Tables that are computed.
    Virtual(Arc<VirtualFleet>),
}

/// Who runs the pods of a cluster.
#[derive(Debug, Clone)]
pub(super) enum Pods {
    Kernel(Arc<Kubelet>),
    Virtual(Arc<virtual_clusters::Pods>),
}

/// Who answers at a cluster's API.
#[derive(Debug)]
pub(super) enum Control {
    Simulated(Arc<ApiCluster>),
    /// With where the machine's loopback finds it, until that is served.
    Upstream(Arc<ControlPlane>, Arc<Mutex<Option<TcpListener>>>),
}

/// A cluster that is up.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    /// The URL of its API server.
    pub(crate) server: String,
    pub(super) control: Control,
    pub(super) pods: Pods,
    /// How its pods reach the API; none where they do not.
    pub(super) inside: Option<Inside>,
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
        let freezer = Arc::new(Freezer::default());
        let base = Base::build(folder, record, order, learns, &freezer).await?;
        let authority = Arc::new(Authority::new(&folder.name)?);
        let doing = || "serve the APIs of the lab";
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Error::failed(doing()))?;
        let address = listener.local_addr().map_err(Error::failed(doing()))?;
        let (members, accesses) = base::members(&topology, &base, &authority, address).await?;
        info!("the APIs stand");
        let kubeconfig = objects::kubeconfig(&authority.pem, &accesses);
        folder.write("kubeconfig", kubeconfig.as_bytes())?;
        // A topology has at least one cluster, and the first is the control plane.
        let root = members[0].store().filter(|_| !topology.is_unlinked());
        let root = root.cloned();
        let reconciler = match &root {
            None => None,
            Some(root) => {
                seeding::control_plane(root, &topology, &authority.pem, &accesses)?;
                Some(planned(&topology, &members, &freezer, base.configs()).await?)
            }
        };
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
            reconciler: reconciler
                .as_ref()
                .map(|(reconciler, _)| reconciler.clone()),
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
        if let Some((reconciler, inputs)) = reconciler {
            start("reconciler", Box::pin(reconciler.run(inputs)));
        }
        let forever = std::future::pending::<()>;
        let simulated = fleet.members.iter().filter_map(Running::simulated);
        let routes = Routes::by_name(simulated.cloned());
        let serving = routes.serve(listener, authority.server.clone(), forever());
        start("API servers", Box::pin(serving));
        for member in &fleet.members {
            let timing = fleet.topology.kubelets;
            if let Pods::Kernel(kubelet) = &member.pods {
                start("kubelet", Box::pin(kubelet.clone().run()));
                start("nodes", Box::pin(kubelet.clone().keep_nodes(timing)));
            }
            let api = match &member.control {
                Control::Simulated(api) => api.clone(),
                Control::Upstream(plane, listener) => {
                    let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(listener) = listener.take() {
                        start("API servers", Box::pin(plane.clone().serve(listener)));
                    }
                    start("control plane", Box::pin(plane.clone().run()));
                    let Pods::Kernel(kubelet) = &member.pods else {
                        continue;
                    };
                    for net in fleet
                        .topology
                        .nodes_of(&member.name)
                        .filter_map(|node| fleet.node_at(&member.name, &node.name).ok())
                    {
                        let (listener, tls) =
                            (kubelet.listener(net)?, plane.kubelet_server(&net.node)?);
                        start("kubelet", Box::pin(kubelet.clone().serve(listener, tls)));
                    }
                    continue;
                }
            };
            if let Some(inside) = &member.inside {
                let listener = fleet.listen_inside(&member.name, inside.address.port())?;
                let tls = authority.server_at(inside.address.ip())?;
                let serving = Routes::root(api.clone()).serve(listener, tls, forever());
                start("API servers", Box::pin(serving));
            }
            match &member.pods {
                Pods::Kernel(_) => {
                    let run = api.run_controllers_with_nodes(timing.grace, forever());
                    start("controllers", Box::pin(run));
                }
                Pods::Virtual(pods) => {
                    let run = pods.clone().run(api.store().clone());
                    start("kubelet", Box::pin(run));
                    start("controllers", Box::pin(api.run_controllers(forever())));
                }
            }
        }
        match &fleet.ground {
            Ground::Kernel { agents: None, .. } => {}
            Ground::Kernel {
                agents: Some(agents),
                ..
            } => {
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
        if let Ground::Kernel {
            agents: Some(agents),
            ..
        } = &self.ground
        {
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
                        why: unready(&member.pods()),
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
        let Some(store) = self.members[at].store() else {
            return;
        };
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

    /// The gateways of all clusters by the names of their ClusterNodes, as the control-plane cluster has them now; none where nobody has
    /// linked it, or its API does not answer.
    pub(crate) async fn gateways(&self) -> BTreeSet<String> {
        let nodes = match &self.members[0].control {
            Control::Simulated(api) => api.store().list(Resource::CLUSTER_NODES, None).0,
            Control::Upstream(plane, _) => plane.cluster_nodes().await,
        };
        let gateways = nodes.iter().filter(|node| fault::has_gateway_role(node));
        let names = gateways.filter_map(|node| node["metadata"]["name"].as_str());
        names.map(str::to_owned).collect()
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
        self.hold();
        if let Ground::Kernel {
            agents: Some(agents),
            ..
        } = &self.ground
        {
            agents.wait_idle();
        }
    }

    /// Has the datapath's programs that are pods stand still or go on.
    fn hold(&self) {
        for member in &self.members {
            if let Pods::Kernel(kubelet) = &member.pods {
                kubelet.hold();
            }
        }
    }

    /// A listener where the nodes and pods of a cluster find its API: on its first node.
    fn listen_inside(&self, cluster: &str, port: u16) -> Result<TcpListener, Error> {
        let doing = || format!("serve the API of {cluster} to its pods");
        let net = self.node_at(cluster, FIRST)?.clone();
        // Of a cluster with both families one listener takes both.
        let any: IpAddr = match net.node.ip6 {
            Some(_) => Ipv6Addr::UNSPECIFIED.into(),
            None => Ipv4Addr::UNSPECIFIED.into(),
        };
        let network = self.network(doing)?;
        let listener = network.opener.open(&net.netns, move || {
            let listener = std::net::TcpListener::bind((any, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let listener = listener.and_then(TcpListener::from_std);
        listener.map_err(Error::failed(doing()))
    }

    /// Elects and plans once more, and waits until thawed agents have applied their NodeConfigs.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        self.hold();
        if let Some(reconciler) = self.reconciler.clone() {
            blocking(move || {
                reconciler.step();
                Ok(())
            })
            .await?;
        }
        match &self.ground {
            // Its pods settle by themselves.
            Ground::Kernel { agents: None, .. } => Ok(()),
            Ground::Kernel {
                agents: Some(agents),
                ..
            } => {
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

/// The name of every cluster's first node.
const FIRST: &str = "n1";
/// Elects and plans for the first time.
async fn planned(
    topology: &Topology,
    members: &[Running],
    freezer: &Arc<Freezer>,
    configs: Arc<Configs>,
) -> Result<(Arc<Reconciler>, Inputs), Error> {
    // A lab that links its clusters has no other kind.
    let sources = members.iter().filter_map(|member| {
        Some(Member {
            name: member.name.clone(),
            store: member.store()?.clone(),
        })
    });
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
    Ok((reconciler, inputs))
}

/// How many changes the API of a cluster keeps, and for each node: what a run does to its pods.
const CHANGES: usize = 16;
const CHANGES_OF_A_NODE: usize = 8;
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work)
        .await
        .map_err(Error::failed("build the lab"))?
}

/// Returns once this many pods of the lab's own floaters are ready, or one cannot be for lack of something.
async fn pods_ready(member: &Running, wanted: usize) -> Result<(), Error> {
    let mut changes = match (member.store(), &member.pods) {
        (Some(store), _) => Changes::Store(store.watch(Resource::PODS, store.version())),
        (None, Pods::Kernel(kubelet)) => Changes::Told(kubelet.told()),
        (None, Pods::Virtual(_)) => return Ok(()),
    };
    loop {
        // Said before the pod's status, which wakes this.
        if let Pods::Kernel(kubelet) = &member.pods
            && let Some(error) = kubelet.lacking()
        {
            return Err(error.clone());
        }
        let pods = member.pods();
        let ours = pods
            .iter()
            .filter(|pod| pod["metadata"]["namespace"] == objects::NAMESPACE);
        if ours.filter(|pod| objects::is_pod_ready(pod)).count() >= wanted {
            return Ok(());
        }
        changes.next().await;
    }
}

/// News of pods.
enum Changes {
    Store(Watch),
    Told(watch::Receiver<BTreeMap<String, Arc<Value>>>),
}

impl Changes {
    async fn next(&mut self) {
        match self {
            Self::Store(watch) => {
                watch.next().await;
            }
            // The kubelet lives as long as the fleet.
            Self::Told(told) => drop(told.changed().await),
        }
    }
}

impl Running {
    /// A simulated cluster's API.
    fn simulated(&self) -> Option<&Arc<ApiCluster>> {
        match &self.control {
            Control::Simulated(api) => Some(api),
            Control::Upstream(..) => None,
        }
    }

    /// A simulated cluster's objects.
    pub(super) fn store(&self) -> Option<&Arc<Store>> {
        self.simulated().map(|api| api.store())
    }

    /// Its pods as they are known here: those that are bound to a node, where its API is elsewhere.
    pub(super) fn pods(&self) -> Vec<Arc<Value>> {
        match (self.store(), &self.pods) {
            (Some(store), _) => store.list(Resource::PODS, None).0,
            (None, Pods::Kernel(kubelet)) => kubelet.told().borrow().values().cloned().collect(),
            (None, Pods::Virtual(_)) => Vec::new(),
        }
    }
}

/// The pods that are not ready, with what they are doing.
fn unready(pods: &[Arc<Value>]) -> String {
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
