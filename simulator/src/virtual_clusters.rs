//! Clusters without a kernel: their nodes' tables are computed, their floaters are values of this process, and what is probed
//! between them is walked.
//!
//! ```text
//!   run ──► API server ──► pods/proxy ──► floater (a value) ──► session, on a clock of its own
//!                                             │                     │ an echo, a connection
//!                                             ▼                     ▼
//!             tables of its node: topology + NodeConfig + changes ◄── walk over the nodes of both clusters and the underlay
//! ```
//!
//! Nothing is kept for a node but what was changed on it on purpose, and nothing for a pair but whether pairs of its kind are well.

pub(crate) mod beating;
mod floaters;
mod tables;
mod walking;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use datapath::api;
use datapath::diff::Change;
use datapath::digest::{Digester, Expected};
use datapath::nodeconfig::desired;
use datapath::plan::Planner;
use datapath::state::NodeState;
use floater::agent::Counted;
use ipnet::IpNet;
use serde::Deserialize as _;
use serde_json::Value;

use crate::Error;
use crate::apiserver::{Resource, Store};
use crate::network;
use crate::objects;
use crate::reconciler::{Configs, spec_of};
use crate::topology::{Cluster, Node, Topology};
use floaters::Placed;
pub(crate) use floaters::Pods;
use tables::{Laid, Pod};
use walking::{Holder, Memory};

/// The clusters without a kernel of a lab.
#[derive(Debug)]
pub(crate) struct VirtualFleet {
    clusters: Vec<Cluster>,
    by_name: HashMap<String, usize>,
    /// The control-plane cluster's objects.
    root: OnceLock<Arc<Store>>,
    configs: Arc<Configs>,
    /// What differs from node to node.
    nodes: RwLock<HashMap<Place, Own>>,
    /// Who listens, by place and port.
    listeners: RwLock<HashMap<(Holder, u16), Arc<Placed>>>,
    holders: RwLock<Holders>,
    memory: Memory,
    /// The sums of a plan under the digester that was asked with last.
    expected: Mutex<Option<(Arc<Planner>, Expected)>>,
    seed: u64,
}

/// A node by the places of its cluster and of itself in the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) cluster: usize,
    pub(crate) node: usize,
}

/// Who has which address.
#[derive(Debug, Default)]
struct Holders {
    nodes: HashMap<IpAddr, Holder>,
    /// Several where clusters have the same prefixes and call them otherwise elsewhere.
    pods: HashMap<IpAddr, Vec<Holder>>,
    /// What a cluster's prefixes are called elsewhere: the cluster, the name, what it stands for.
    names: Vec<(usize, IpNet, IpNet)>,
}

/// What a node has of its own.
#[derive(Debug, Default)]
struct Own {
    pods: BTreeMap<String, Pod>,
    /// Made on purpose, in their order.
    changes: Vec<Laid>,
}

impl VirtualFleet {
    /// The clusters of a topology; what is random about them follows from the seed.
    pub(crate) fn new(topology: &Topology, seed: u64) -> Self {
        let clusters = topology.clusters.clone();
        let holders = Holders::of(&clusters);
        let names = clusters.iter().map(|cluster| cluster.name.clone());
        Self {
            by_name: names.zip(0..).collect(),
            clusters,
            root: OnceLock::new(),
            configs: Arc::default(),
            nodes: RwLock::default(),
            listeners: RwLock::default(),
            holders: RwLock::new(holders),
            memory: Memory::default(),
            expected: Mutex::default(),
            seed,
        }
    }

    /// Learns of the control plane's objects from here on; once.
    pub(crate) fn follow(&self, root: Arc<Store>) {
        // A second time there is nothing to be done.
        let _ = self.root.set(root);
    }

    /// Forgets what was found out whenever objects that it depends on change, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(root) = self.root.get().cloned() else {
            return;
        };
        let version = root.version();
        let [mut clusters, mut nodes, mut configs] = [
            Resource::CLUSTERS,
            Resource::CLUSTER_NODES,
            Resource::NODE_CONFIGS,
        ]
        .map(|kind| root.watch(kind, version));
        loop {
            tokio::select! {
                _ = clusters.next() => {}
                _ = nodes.next() => {}
                _ = configs.next() => {}
            }
            self.forget();
        }
    }

    /// An object of the control plane.
    fn object(&self, resource: Resource, name: &str) -> Option<Arc<Value>> {
        self.root.get()?.get(resource, None, name)
    }

    /// Where the NodeConfigs of its nodes are made.
    pub(crate) fn configs(&self) -> &Arc<Configs> {
        &self.configs
    }

    /// A node by name.
    pub(crate) fn place(&self, cluster: &str, node: &str) -> Option<Place> {
        let cluster = *self.by_name.get(cluster)?;
        let mut nodes = self.clusters[cluster].nodes.iter();
        let node = nodes.position(|known| known.name == node)?;
        Some(Place { cluster, node })
    }

    fn cluster(&self, place: Place) -> &Cluster {
        &self.clusters[place.cluster]
    }

    fn node(&self, place: Place) -> &Node {
        &self.clusters[place.cluster].nodes[place.node]
    }

    /// `CLUSTER/NODE`.
    fn name(&self, place: Place) -> String {
        format!("{}/{}", self.cluster(place).name, self.node(place).name)
    }

    /// Whether somebody changed something of a cluster's nodes, so that it is not as others of its kind are.
    fn is_changed(&self, cluster: usize) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let mut places =
            (0..self.clusters[cluster].nodes.len()).map(|node| Place { cluster, node });
        places.any(|place| nodes.get(&place).is_some_and(|own| !own.changes.is_empty()))
    }

    /// Lays changes over a node's tables.
    pub(crate) fn change(&self, place: Place, changes: Vec<Change>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let own = nodes.entry(place).or_default();
        own.changes.extend(Laid::all(changes));
        drop(nodes);
        self.forget();
    }

    /// Takes all of them off again.
    pub(crate) fn clear(&self) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.values_mut().for_each(|own| own.changes.clear());
        drop(nodes);
        self.forget();
    }

    /// What was found out may be so no longer: objects, pods or what is laid over tables have changed.
    pub(crate) fn forget(&self) {
        self.memory.forget();
    }

    /// Gives a pod an address; one that has one keeps it.
    fn add_pod(&self, place: Place, key: &str) -> Result<Pod, Error> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let own = nodes.entry(place).or_default();
        if let Some(pod) = own.pods.get(key) {
            return Ok(pod.clone());
        }
        let name = &self.cluster(place).name;
        let number = network::free_number(name, self.node(place), |number| {
            own.pods.values().any(|pod| pod.number == number)
        })?;
        let pod = Pod {
            key: key.to_owned(),
            number,
        };
        own.pods.insert(key.to_owned(), pod.clone());
        drop(nodes);
        let to = Holder {
            place,
            pod: Some(number),
        };
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        for ip in network::pod_ips(self.node(place), number) {
            holders.pods.entry(ip).or_default().push(to);
        }
        drop(holders);
        self.forget();
        Ok(pod)
    }

    fn remove_pod(&self, place: Place, key: &str) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let removed = nodes.get_mut(&place).and_then(|own| own.pods.remove(key));
        drop(nodes);
        let Some(pod) = removed else {
            return;
        };
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        for ip in network::pod_ips(self.node(place), pod.number) {
            if let Some(held) = holders.pods.get_mut(&ip) {
                held.retain(|to| to.place != place);
            }
        }
        drop(holders);
        self.forget();
    }

    /// Who has an address, as a cluster sees it.
    fn holder(&self, cluster: usize, ip: IpAddr) -> Option<Holder> {
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        holders.find(cluster, ip)
    }

    /// A node's tables with what is wanted of it.
    fn tables_with(&self, place: Place, wanted: impl FnOnce(&NodeState) -> NodeState) -> NodeState {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let own = nodes.get(&place);
        let pods = own.into_iter().flat_map(|own| own.pods.values());
        let changes = own.map_or(&[][..], |own| &own.changes);
        let number = u32::try_from(place.cluster).unwrap_or(u32::MAX);
        tables::of_node(
            self.cluster(place),
            number,
            self.node(place),
            pods,
            wanted,
            changes,
        )
    }

    /// A node's tables as a plan has them, or as somebody else wrote its NodeConfig.
    fn tables_by(&self, place: Place, planner: Option<&Planner>) -> NodeState {
        let name = self.config_name(place);
        if self.is_written(&name) {
            let object = self.object(Resource::NODE_CONFIGS, &name);
            let config = object.as_deref().and_then(spec_of);
            return self.tables_with(place, |bare| {
                config.map_or_else(NodeState::default, |config| desired(&config, bare).0)
            });
        }
        self.tables_with(place, |bare| {
            let planned = planner.and_then(|planner| planner.desired(&name, bare));
            planned.map_or_else(NodeState::default, |(state, _)| state)
        })
    }

    /// A node's tables, with all that its NodeConfig says.
    pub(crate) fn tables(&self, place: Place) -> NodeState {
        self.tables_by(place, self.configs.planner().as_deref())
    }

    /// What of a node's tables does not count for a digester, and the digest of what does, which the plan sums up without a row; none where
    /// the node is not as planned.
    fn counted(&self, place: Place, digester: Digester) -> Option<Counted> {
        let planner = self.configs.planner()?;
        let name = self.config_name(place);
        if self.is_written(&name) || self.is_changed(place.cluster) {
            return None;
        }
        let mut state = self.tables_with(place, |bare| {
            let own = planner.desired_own(&name, bare);
            own.map_or_else(NodeState::default, |(state, _)| state)
        });
        digester.take_counted(&mut state);
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |known: &(Arc<Planner>, Expected)| {
            let like = known.1.digester().with_gateways(digester.gateways());
            Arc::ptr_eq(&known.0, &planner) && like == digester
        };
        if !expected.as_ref().is_some_and(is_known) {
            let sums = Expected::new(&planner, digester);
            *expected = Some((planner, sums));
        }
        let digest = expected.as_mut()?.1.of(&name)?;
        // Whoever takes another node for its gateway than it has is answered row by row.
        let is_comparable = digest.gateways() == digester.gateways();
        is_comparable.then_some(Counted {
            state,
            digest,
            missing: Vec::new(),
        })
    }

    /// Whether somebody else than the planner wrote, or removed, a NodeConfig.
    fn is_written(&self, name: &str) -> bool {
        let root = self.root.get();
        root.is_some_and(|root| !root.is_stub(Resource::NODE_CONFIGS, None, name))
    }

    fn config_name(&self, place: Place) -> String {
        objects::cluster_node_name(&self.cluster(place).name, &self.node(place).name)
    }

    /// The tables of nodes as far as they concern two clusters. To a node of a cluster every other one contributes rows of its own, so
    /// what leads from one to another is in the plan of these two alone.
    fn tables_between(&self, clusters: [usize; 2], places: &[Place]) -> Vec<(Place, NodeState)> {
        let fleet = self.objects_of(&clusters);
        let planner = Planner::of(&fleet);
        let tables = places.iter();
        let tables = tables.map(|place| (*place, self.tables_by(*place, Some(&planner))));
        tables.collect()
    }

    /// The planner's input for some clusters.
    fn objects_of(&self, clusters: &[usize]) -> api::Fleet {
        let mut fleet = api::Fleet::default();
        for (at, cluster) in clusters.iter().enumerate() {
            if clusters[..at].contains(cluster) {
                continue;
            }
            let cluster = &self.clusters[*cluster];
            let object = self.object(Resource::CLUSTERS, &cluster.name);
            let read = object.and_then(|object| api::Cluster::deserialize(&*object).ok());
            fleet.clusters.extend(read);
            for node in &cluster.nodes {
                let name = objects::cluster_node_name(&cluster.name, &node.name);
                let object = self.object(Resource::CLUSTER_NODES, &name);
                let read = object.and_then(|object| api::ClusterNode::deserialize(&*object).ok());
                fleet.cluster_nodes.extend(read);
            }
        }
        fleet
    }
}

impl Holders {
    /// All nodes, and no pod.
    fn of(clusters: &[Cluster]) -> Self {
        let mut holders = Self::default();
        for (at, cluster) in clusters.iter().enumerate() {
            for (node, known) in cluster.nodes.iter().enumerate() {
                let place = Place { cluster: at, node };
                let to = Holder { place, pod: None };
                holders.nodes.extend(known.ips().map(|ip| (ip, to)));
            }
            let names = cluster.global_cidrs_map.iter();
            let names =
                names.filter_map(|(own, name)| Some((at, name.parse().ok()?, own.parse().ok()?)));
            holders.names.extend(names);
        }
        holders
    }

    fn find(&self, cluster: usize, ip: IpAddr) -> Option<Holder> {
        if let Some(node) = self.nodes.get(&ip) {
            return Some(*node);
        }
        let pod_of = |cluster: usize, ip: IpAddr| {
            let mut pods = self.pods.get(&ip)?.iter();
            pods.find(|to| to.place.cluster == cluster).copied()
        };
        if let Some(own) = pod_of(cluster, ip) {
            return Some(own);
        }
        let mut named = self.names.iter().filter(|(_, name, _)| name.contains(&ip));
        if let Some((cluster, name, own)) = named.next() {
            return pod_of(*cluster, exchanged(ip, *name, *own)?);
        }
        self.pods.get(&ip)?.first().copied()
    }
}

/// An address with the network of another prefix and its own host bits.
fn exchanged(ip: IpAddr, from: IpNet, to: IpNet) -> Option<IpAddr> {
    match (ip, from.hostmask(), to.network()) {
        (IpAddr::V4(ip), IpAddr::V4(mask), IpAddr::V4(to)) => Some(IpAddr::from((ip & mask) | to)),
        (IpAddr::V6(ip), IpAddr::V6(mask), IpAddr::V6(to)) => Some(IpAddr::from((ip & mask) | to)),
        _ => None,
    }
}
