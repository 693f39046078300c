//! What the clusters of a lab stand on, and their APIs.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use netns_harness::process::Spawner;
use tracing::info;

use super::fleet::{Ground, Pods, Running, blocking};
use super::{Counted, seeding};
use crate::Error;
use crate::agents::Agents;
use crate::apiserver::{ApiCluster, Options, PodDialer, Routes, Store};
use crate::freeze::Freezer;
use crate::kubelet::{Images, Inside, Kubelet, Made};
use crate::network::Network;
use crate::objects::Access;
use crate::pki::{self, Authority};
use crate::protocol::{Order, Phase};
use crate::reconciler::Configs;
use crate::state::{Folder, MARKER, Record};
use crate::topology::{Cluster, Topology};
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

    /// What nodes stand on once the control plane has its objects.
    pub(super) fn ground(
        self,
        root: Arc<Store>,
        freezer: &Arc<Freezer>,
        is_bare: bool,
    ) -> Result<Ground, Error> {
        match self {
            Self::Kernel {
                network,
                configs,
                spawner,
                ..
            } => {
                let agents = if is_bare {
                    None
                } else {
                    let agents = Agents::new(&network, root, configs, freezer.clone())?;
                    Some(agents)
                };
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

/// Where the API is that pods of a bare cluster reach, as nearly everywhere.
const PORT: u16 = 6443;

/// How the pods of a bare cluster reach its API: at its first node.
fn inside(topology: &Topology, cluster: &Cluster, authority: &Authority) -> Option<Inside> {
    let ip = cluster.nodes.first()?.ips().next()?;
    topology.bare.then(|| Inside {
        authority: authority.pem.clone(),
        address: SocketAddr::new(ip, PORT),
    })
}

/// The APIs of all clusters, with the objects that each starts with, and how they are reached.
pub(super) async fn members(
    topology: &Topology,
    base: &Base,
    authority: &Authority,
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
                cluster: cluster.clone(),
                is_control_plane: index == 0,
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
    is_control_plane: bool,
    server: String,
    pods: Pods,
    dialer: Arc<dyn PodDialer>,
    run_key: Option<String>,
    inside: Option<Inside>,
}

/// The API of a cluster, with the objects that it starts with, and how it is reached.
async fn member(new: New) -> Result<(Running, Access), Error> {
    let cluster = new.cluster;
    let token = pki::random_hex(24)?;
    let api = ApiCluster::new(Options {
        name: cluster.name.clone(),
        uid: pki::uuid()?,
        admin_token: token.clone(),
        dialer: new.dialer,
    });
    if !new.is_control_plane {
        api.store().keep_changes(FIRST_CHANGES);
    }
    let inside = new.inside.as_ref();
    seeding::seed(&api, &token, &cluster, new.run_key.as_deref(), inside).await?;
    let access = Access {
        cluster: cluster.name.clone(),
        server: new.server.clone(),
        token,
    };
    let running = Running {
        name: cluster.name,
        server: new.server,
        api,
        pods: new.pods,
        inside: new.inside,
    };
    Ok((running, access))
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
