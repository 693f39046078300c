//! What the clusters of a lab stand on, and their APIs.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::{StreamExt as _, stream};
use netns_harness::process::Spawner;
use tokio::net::TcpListener;
use tracing::info;

use super::Counted;
use super::fleet::{Control, Ground, Pods, Running, blocking};
use super::seeding::{self, Admin};
use crate::Error;
use crate::agents::Agents;
use crate::apiserver::{ApiCluster, Options, PodDialer, Routes, Store};
use crate::freeze::Freezer;
use crate::kubelet::api::Apis;
use crate::kubelet::{Images, Inside, Kubelet, Made};
use crate::network::Network;
use crate::objects::Access;
use crate::pki::{self, Authority};
use crate::protocol::{Order, Phase};
use crate::reconciler::Configs;
use crate::state::{Folder, MARKER, Record};
use crate::topology::{Cluster, Kubelets, Topology};
use crate::upstream;
use crate::virtual_clusters::{self, VirtualFleet};

/// What the clusters of a lab are built on, before there are any.
pub(super) enum Base {
    Kernel {
        network: Arc<Network>,
        configs: Arc<Configs>,
        spawner: Arc<Spawner>,
        images: Images,
        folder: Folder,
        freezer: Arc<Freezer>,
    },
    Virtual(Arc<VirtualFleet>),
}

impl Base {
    /// Where NodeConfigs are made.
    pub(super) fn configs(&self) -> Arc<Configs> {
        match self {
            Self::Kernel { configs, .. } => configs.clone(),
            Self::Virtual(fleet) => fleet.configs().clone(),
        }
    }

    pub(super) async fn build(
        folder: &Folder,
        record: &Record,
        order: &Order,
        learns: bool,
        freezer: &Arc<Freezer>,
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
            images: images(order, record),
            folder: folder.clone(),
            freezer: freezer.clone(),
        })
    }

    /// Who will run the pods of a cluster, and how its API reaches them.
    fn pods(
        &self,
        index: usize,
        cluster: &Cluster,
        inside: Option<&Inside>,
    ) -> (Pods, Arc<dyn PodDialer>) {
        match self {
            Self::Kernel {
                network,
                spawner,
                images,
                folder,
                freezer,
                ..
            } => {
                let kubelet = Kubelet::new(Made {
                    cluster: cluster.name.clone(),
                    network: network.clone(),
                    spawner: spawner.clone(),
                    images: images.clone(),
                    logs: folder.logs(),
                    files: folder.path().join("pods"),
                    inside: inside.cloned(),
                    freezer: freezer.clone(),
                });
                (Pods::Kernel(kubelet.clone()), kubelet)
            }
            Self::Virtual(fleet) => {
                let pods = virtual_clusters::Pods::new(fleet.clone(), index);
                (Pods::Virtual(pods.clone()), pods)
            }
        }
    }

    /// What upstream's control plane of a cluster is made with, where it is to have one.
    fn upstream(
        &self,
        topology: &Topology,
        cluster: &Cluster,
        authority: &Arc<Authority>,
    ) -> Option<upstream::Made> {
        let (
            Self::Kernel {
                network,
                spawner,
                images,
                folder,
                ..
            },
            Some(programs),
        ) = (self, &topology.upstream)
        else {
            return None;
        };
        cluster.is_upstream().then(|| upstream::Made {
            cluster: cluster.clone(),
            programs: programs.clone(),
            folder: folder.path().join("upstream").join(&cluster.name),
            logs: folder.logs(),
            env: images.env.clone(),
            network: network.clone(),
            spawner: spawner.clone(),
            authority: authority.clone(),
            timing: topology.kubelets,
        })
    }

    /// What nodes stand on once the control plane has its objects, which are here where the lab links its clusters.
    pub(super) fn ground(
        self,
        root: Option<Arc<Store>>,
        freezer: &Arc<Freezer>,
    ) -> Result<Ground, Error> {
        match self {
            Self::Kernel {
                network,
                configs,
                spawner,
                ..
            } => {
                let agents = match root {
                    None => None,
                    Some(root) => Some(Agents::new(&network, root, configs, freezer.clone())?),
                };
                Ok(Ground::Kernel {
                    network,
                    agents,
                    spawner,
                })
            }
            Self::Virtual(fleet) => {
                if let Some(root) = root {
                    fleet.follow(root);
                }
                Ok(Ground::Virtual(fleet))
            }
        }
    }
}

/// How the pods of a cluster that the lab does not link reach its API: at its first node.
fn inside(topology: &Topology, cluster: &Cluster, authority: &Authority) -> Option<Inside> {
    let ip = cluster.nodes.first()?.ips().next()?;
    topology.is_unlinked().then(|| Inside {
        authority: authority.pem.clone(),
        address: SocketAddr::new(ip, upstream::PORT),
    })
}

/// The APIs of all clusters, with the objects that each starts with, and how they are reached.
pub(super) async fn members(
    topology: &Topology,
    base: &Base,
    authority: &Arc<Authority>,
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
            let inside = inside(topology, cluster, authority);
            let (pods, dialer) = base.pods(index, cluster, inside.as_ref());
            let new = New {
                upstream: base.upstream(topology, cluster, authority),
                cluster: cluster.clone(),
                is_control_plane: index == 0,
                is_linked: !topology.is_unlinked(),
                timing: topology.kubelets,
                server,
                pods,
                dialer,
                run_key: key.map(str::to_owned),
                inside,
            };
            tokio::spawn(member(new))
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

/// How many it keeps while it comes up: whoever is in the lab's own process lists again where it lags behind.
const FIRST_CHANGES: usize = 4;
/// How many APIs are made at a time.
const AT_ONCE: usize = 4;

/// What the API of a cluster is made of.
struct New {
    cluster: Cluster,
    /// What upstream's control plane is made with, where it has that.
    upstream: Option<upstream::Made>,
    is_control_plane: bool,
    is_linked: bool,
    timing: Kubelets,
    server: String,
    pods: Pods,
    dialer: Arc<dyn PodDialer>,
    run_key: Option<String>,
    inside: Option<Inside>,
}

/// The API of a cluster, with the objects that it starts with, and how it is reached.
async fn member(mut new: New) -> Result<(Running, Access), Error> {
    let made = match new.upstream.take() {
        Some(made) => real(&new, made).await?,
        None => simulated(&new).await?,
    };
    seeding::floaters(&made.admin, new.run_key.as_deref(), new.is_linked).await?;
    let access = Access {
        cluster: new.cluster.name.clone(),
        server: made.server.clone(),
        token: made.token,
    };
    let running = Running {
        name: new.cluster.name,
        server: made.server,
        control: made.control,
        pods: new.pods,
        inside: new.inside,
    };
    Ok((running, access))
}

/// A control plane that answers.
struct Answering {
    control: Control,
    admin: Admin,
    server: String,
    token: String,
}

/// One of this process.
async fn simulated(new: &New) -> Result<Answering, Error> {
    let token = pki::random_hex(24)?;
    let api = ApiCluster::new(Options {
        name: new.cluster.name.clone(),
        uid: pki::uuid()?,
        admin_token: token.clone(),
        dialer: new.dialer.clone(),
    });
    if !new.is_control_plane {
        api.store().keep_changes(FIRST_CHANGES);
    }
    seeding::seed(&api, &token, &new.cluster, new.inside.as_ref()).await?;
    register(new, Apis::Within(api.clone())).await?;
    Ok(Answering {
        admin: Admin::Within(api.clone(), token.clone()),
        control: Control::Simulated(api),
        server: new.server.clone(),
        token,
    })
}

/// One of upstream's programs, which this machine reaches at a port of its loopback.
async fn real(new: &New, made: upstream::Made) -> Result<Answering, Error> {
    let doing = || format!("serve the API of {}", new.cluster.name);
    let plane = upstream::ControlPlane::start(made).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(Error::failed(doing()))?;
    let address = listener.local_addr().map_err(Error::failed(doing()))?;
    let nodes = new.cluster.nodes.iter();
    let clients = nodes.map(|node| Ok((node.name.clone(), plane.kubelet(&node.name)?)));
    register(new, Apis::Over(clients.collect::<Result<_, Error>>()?)).await?;
    let admin = Admin::Over(plane.admin.clone());
    seeding::further_services(&admin, &new.cluster).await?;
    Ok(Answering {
        admin,
        server: format!("https://{address}"),
        token: plane.token.clone(),
        control: Control::Upstream(plane, Arc::new(Mutex::new(Some(listener)))),
    })
}

/// Has the nodes of a cluster with kernels known to its API.
async fn register(new: &New, apis: Apis) -> Result<(), Error> {
    let Pods::Kernel(kubelet) = &new.pods else {
        return Ok(());
    };
    let registered = kubelet.register(apis, new.timing).await;
    registered.map_err(|why| Error::Failed {
        doing: format!("register the nodes of {}", new.cluster.name),
        why,
    })
}

/// What the known images are here.
fn images(order: &Order, record: &Record) -> Images {
    let mut env = vec![(MARKER.to_owned(), OsString::from(&record.id))];
    for name in ["PATH", "XDG_RUNTIME_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            env.push((name.to_owned(), value));
        }
    }
    Images {
        program: order.caller.program.clone(),
        floater: order.caller.floater_verb.clone(),
        clusterlink: order.caller.clusterlink_verb.clone(),
        env,
        shared: order.topology.shares_floaters(),
    }
}
