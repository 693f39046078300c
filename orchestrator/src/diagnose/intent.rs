//! What each node should hold.
//!
//! Intent is the plan of the control plane's objects. Where there is no control plane, the objects are guessed from what most nodes hold
//! and what the tunnels really are, and the plan is made of those: a row that disagrees with the rest is then found all the same.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use datapath::api::{
    Cluster, ClusterLinkOptions, ClusterNode, Device, Fleet, NetworkType, NodeConfig,
    NodeConfigSpec,
};
use datapath::code::Code;
use datapath::mac::Mac;
use datapath::nodeconfig::TABLE;
use datapath::plan::{Objection, Planner, Weight};
use datapath::state::{Address, Family, Link, LinkKind, NodeState};
use datapath::walk::Layer;
use ipnet::IpNet;

use super::scope::Scope;
use crate::evidence::NodeRef;

/// What the nodes should hold.
pub(super) struct Intended {
    pub(super) planner: Arc<Planner>,
    /// By node that takes part: the name under which the planner knows it.
    names: BTreeMap<NodeRef, String>,
    /// By node: the NodeConfig object.
    pub(super) written: BTreeMap<NodeRef, NodeConfigSpec>,
    /// By node: the name of its underlay link.
    pub(super) lower: BTreeMap<NodeRef, String>,
    /// Nodes with the gateway role.
    pub(super) gateways: BTreeSet<NodeRef>,
    /// Whether the objects were guessed.
    pub(super) guessed: bool,
    /// What the objects lack or contradict, the nodes' own links considered; empty where the objects were guessed.
    pub(super) objections: Vec<Objection>,
    /// Nodes that do not have the underlay address that their ClusterNode says.
    pub(super) misplaced: BTreeSet<NodeRef>,
    /// Nodes that do not have the underlay link that their ClusterNode names.
    pub(super) unlinked: BTreeSet<NodeRef>,
    /// Who has an underlay or overlay address.
    owners: HashMap<IpAddr, NodeRef>,
}

impl Intended {
    pub(super) fn new(scope: &Scope<'_>) -> Self {
        let given = &scope.gathered.intent.fleet;
        let guessed = given.clusters.is_empty() || given.cluster_nodes.is_empty();
        let guess;
        let fleet = if guessed {
            guess = guess_fleet(scope);
            &guess
        } else {
            given
        };
        let places: HashMap<(&str, &str), NodeRef> = scope
            .all_nodes()
            .into_iter()
            .map(|at| {
                let cluster = scope.cluster(at.cluster).name.as_str();
                ((cluster, scope.node(at).name.as_str()), at)
            })
            .collect();
        let mut by_object: HashMap<&str, NodeRef> = HashMap::new();
        let mut lower = BTreeMap::new();
        let mut gateways = BTreeSet::new();
        for object in &fleet.cluster_nodes {
            let spec = &object.spec;
            let place = places.get(&(spec.cluster_name.as_str(), spec.node_name.as_str()));
            if let Some(&at) = place {
                by_object.insert(object.metadata.name.as_str(), at);
                if !spec.interface_name.is_empty() {
                    lower.insert(at, spec.interface_name.clone());
                }
                if spec.is_gateway() {
                    gateways.insert(at);
                }
            }
        }
        for at in scope.all_nodes() {
            if let Some(name) = underlay_link(scope, at) {
                lower.entry(at).or_insert(name);
            }
            if scope.node(at).gateway {
                gateways.insert(at);
            }
        }
        let planner = Arc::new(Planner::of(fleet));
        let mut objections = Vec::new();
        if !guessed {
            objections = planner.objections();
            objections.extend(datapath::plan::seen::check(
                fleet,
                &observed_nodes(scope, &by_object),
            ));
        }
        let objected = |code: Code, path: &str| -> BTreeSet<NodeRef> {
            let of_it = objections.iter().filter(|objection| {
                (objection.code, objection.weight) == (code, Weight::Fault)
                    && objection.at.path.starts_with(path)
            });
            let of_it = of_it.filter_map(|objection| {
                let object = &objection.at.object;
                let place = (object.cluster.as_deref()?, object.node.as_deref()?);
                places.get(&place).copied()
            });
            of_it.collect()
        };
        let misplaced = objected(Code::IntentStale, "spec.ip");
        let unlinked = objected(Code::LinkUnknown, "spec.interfaceName");
        let names: BTreeMap<NodeRef, String> = planner
            .nodes()
            .filter_map(|name| Some((*by_object.get(name)?, name.to_owned())))
            .collect();
        let written = if guessed {
            BTreeMap::new()
        } else {
            fleet
                .node_configs
                .iter()
                .filter_map(|object| {
                    let at = *by_object.get(object.metadata.name.as_str())?;
                    Some((at, object.spec.clone()))
                })
                .collect()
        };
        let mut owners = HashMap::new();
        for at in scope.all_nodes() {
            owners.extend(scope.node(at).ips.iter().map(|&ip| (ip, at)));
        }
        for (&at, name) in &names {
            let devices = planner.devices(name).into_iter().flatten();
            owners.extend(devices.map(|device| (device.net.addr(), at)));
        }
        Self {
            owners,
            planner,
            names,
            written,
            lower,
            gateways,
            guessed,
            objections,
            misplaced,
            unlinked,
        }
    }

    /// The name under which the planner knows a node; none where it takes no part.
    pub(super) fn name(&self, at: NodeRef) -> Option<&str> {
        self.names.get(&at).map(String::as_str)
    }

    /// The tunnels that a node should have.
    pub(super) fn tunnels(&self, at: NodeRef) -> Vec<&'static str> {
        let devices = self.name(at).and_then(|name| self.planner.devices(name));
        devices
            .into_iter()
            .flatten()
            .map(|device| device.tunnel.name())
            .collect()
    }

    /// All rows that a node that could be read should hold; none where it takes no part. O(clusters): for nodes in which something
    /// differs.
    pub(super) fn desired(&self, scope: &Scope<'_>, at: NodeRef) -> Option<NodeState> {
        let tables = scope.node(at).tables.as_ref().ok()?;
        Some(self.planner.desired(self.name(at)?, tables)?.0)
    }

    /// The rows that a node should hold but for those that its digest counts.
    pub(super) fn desired_local(&self, scope: &Scope<'_>, at: NodeRef) -> Option<NodeState> {
        let (name, digester) = (self.name(at)?, scope.gathered.digester?);
        let tables = scope.node(at).tables.as_ref().ok()?;
        let (mut desired, _) = self.planner.desired_own(name, tables)?;
        digester.take_counted(&mut desired);
        Some(desired)
    }

    /// As [`Self::layered`] of a node that could not be read: what it should be.
    pub(super) fn planned(&self, scope: &Scope<'_>, at: NodeRef) -> Option<(NodeState, Layer)> {
        let name = self.name(at)?;
        let lent = ordinary(scope, at, self.lower.get(&at)?);
        let (own, _) = self.planner.desired_own(name, &lent)?;
        Some((own, Layer::new(&self.planner, name)?))
    }

    /// A node's own state and what its plan lays under it, where its tables are given as differences.
    pub(super) fn layered(&self, scope: &Scope<'_>, at: NodeRef) -> Option<(NodeState, Layer)> {
        let node = scope.node(at);
        let (tables, differences) = (node.tables.as_ref().ok()?, node.differences.as_ref()?);
        let digester = scope.gathered.digester?;
        Layer::observed(
            &self.planner,
            self.name(at)?,
            tables.clone(),
            digester,
            differences,
        )
    }

    /// All rows that a node that could be read holds. O(clusters) where its tables are given as differences.
    pub(super) fn observed<'s>(
        &self,
        scope: &Scope<'s>,
        at: NodeRef,
    ) -> Option<Cow<'s, NodeState>> {
        let tables = scope.node(at).tables.as_ref().ok()?;
        Some(match self.layered(scope, at) {
            Some((own, layer)) => Cow::Owned(layer.over(&own)),
            None => Cow::Borrowed(tables),
        })
    }

    /// The node that a tunnel's MAC is planned for.
    pub(super) fn planned_for(&self, mac: Mac) -> Option<NodeRef> {
        let mut nodes = self.names.iter();
        let found = nodes.find(|(_, name)| {
            let mut devices = self.planner.devices(name).into_iter().flatten();
            devices.any(|device| device.mac == mac)
        });
        found.map(|(&at, _)| at)
    }

    /// The node that has an underlay or overlay address.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<NodeRef> {
        self.owners.get(&ip).copied()
    }

    /// Whether a node is the way out of its cluster: by its role, or because its kernel still is one.
    pub(super) fn is_gateway(&self, scope: &Scope<'_>, at: NodeRef) -> bool {
        if self.gateways.contains(&at) {
            return true;
        }
        // The role may have moved on while the former holder was going down.
        scope.cluster(at.cluster).mode == Some(NetworkType::Gateway)
            && scope.node(at).tables.as_ref().is_ok_and(|tables| {
                ["vx-bridge", "vx-bridge-6"]
                    .iter()
                    .any(|&name| tables.links.get(name).is_some())
            })
    }
}

/// The links and addresses of the nodes that could be read, by ClusterNode.
fn observed_nodes(
    scope: &Scope<'_>,
    by_object: &HashMap<&str, NodeRef>,
) -> datapath::plan::seen::Observed {
    by_object
        .iter()
        .filter_map(|(&object, &at)| {
            let tables = scope.node(at).tables.as_ref().ok()?;
            let node = scope.node(at);
            let seen = datapath::plan::seen::Node::of(tables, &node.ips, &node.pod_ips);
            Some((object.to_owned(), seen))
        })
        .collect()
}

/// The rows that a config makes on a node; none where that could not be read.
pub(super) fn rows_of(scope: &Scope<'_>, at: NodeRef, config: &NodeConfigSpec) -> NodeState {
    match &scope.node(at).tables {
        Ok(tables) => datapath::nodeconfig::desired(config, tables).0,
        Err(_) => NodeState::default(),
    }
}

/// An ordinary underlay link with the node's addresses.
fn ordinary(scope: &Scope<'_>, at: NodeRef, lower: &str) -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: lower.to_owned(),
        index: 0,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Other {
            name: "physical".to_owned(),
        },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    for &ip in &scope.node(at).ips {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        if let Ok(net) = IpNet::new(ip, length) {
            state.addresses.insert(Address {
                link: lower.to_owned(),
                net,
            });
        }
    }
    state
}

/// The link that holds the node's own address.
fn underlay_link(scope: &Scope<'_>, at: NodeRef) -> Option<String> {
    let node = scope.node(at);
    let tables = node.tables.as_ref().ok()?;
    tables
        .addresses
        .iter()
        .find(|row| node.ips.contains(&row.net.addr()))
        .map(|row| row.link.clone())
}

/// The objects that would explain what most nodes hold. Tunnels tell the mode, the pools and the MACs; routes that at least half of the
/// nodes of other clusters have tell the prefixes.
fn guess_fleet(scope: &Scope<'_>) -> Fleet {
    let mut fleet = Fleet::default();
    let votes = Votes::new(scope);
    for (cluster, facts) in scope.gathered.clusters.iter().enumerate() {
        let readable: Vec<&NodeState> = facts
            .nodes
            .iter()
            .filter_map(|node| node.tables.as_ref().ok())
            .collect();
        let has = |names: [&str; 2]| {
            readable
                .iter()
                .any(|tables| names.iter().any(|&name| tables.links.get(name).is_some()))
        };
        if !has(["vx-bridge", "vx-bridge-6"]) && !has(["vx-local", "vx-local-6"]) {
            continue;
        }
        let mode = facts.mode.unwrap_or(if has(["vx-local", "vx-local-6"]) {
            NetworkType::Gateway
        } else {
            NetworkType::P2p
        });
        let families = &facts.families;
        let mut options = ClusterLinkOptions {
            network_type: mode,
            ip_family: match (
                families.contains(&Family::Ipv4),
                families.contains(&Family::Ipv6),
            ) {
                (true, true) => "all",
                (false, true) => "ipv6",
                _ => "ipv4",
            }
            .to_owned(),
            ..ClusterLinkOptions::default()
        };
        for (link, pool) in [
            ("vx-bridge", &mut options.bridge_cidrs.ip),
            ("vx-bridge-6", &mut options.bridge_cidrs.ip6),
            ("vx-local", &mut options.local_cidrs.ip),
            ("vx-local-6", &mut options.local_cidrs.ip6),
        ] {
            if let Some(net) =
                most_common(readable.iter().filter_map(|tables| pool_of(tables, link)))
            {
                *pool = net.to_string();
            }
        }
        let mut object = Cluster::default();
        object.metadata.name.clone_from(&facts.name);
        object.spec.cluster_link_options = Some(options);
        let status = &mut object.status.cluster_link_status;
        let addresses: Vec<IpAddr> = scope
            .members_all(cluster)
            .flat_map(|at| bridge_addresses(scope, at))
            .collect();
        let routed = votes.routed(cluster, &addresses);
        // Nodes know their own shares of the cluster's prefix, which is what the others route.
        let (whole, rest): (Vec<IpNet>, Vec<IpNet>) = routed
            .into_iter()
            .filter(|prefix| {
                !facts
                    .pod_prefixes
                    .iter()
                    .any(|pods| pods.contains(prefix) && pods != prefix)
            })
            .partition(|prefix| facts.pod_prefixes.iter().any(|pods| prefix.contains(pods)));
        let shares = facts
            .pod_prefixes
            .iter()
            .filter(|pods| !whole.iter().any(|prefix| prefix.contains(*pods)));
        status.pod_cidrs = whole
            .iter()
            .chain(shares)
            .map(ToString::to_string)
            .collect();
        status.service_cidrs = rest.iter().map(ToString::to_string).collect();
        fleet.clusters.push(object);
        for (node, known) in facts.nodes.iter().enumerate() {
            let at = NodeRef { cluster, node };
            let mut object = ClusterNode::default();
            object.metadata.name = format!("{}-{}", facts.name, known.name);
            object.spec.cluster_name.clone_from(&facts.name);
            object.spec.node_name.clone_from(&known.name);
            object.spec.interface_name =
                underlay_link(scope, at).unwrap_or_else(|| "eth0".to_owned());
            for ip in &known.ips {
                match ip {
                    IpAddr::V4(_) => object.spec.ip = ip.to_string(),
                    IpAddr::V6(_) => object.spec.ip6 = ip.to_string(),
                }
            }
            let tables = known.tables.as_ref().ok();
            let is_bridge = tables.is_some_and(|tables| {
                tables.links.get("vx-bridge").is_some() || tables.links.get("vx-bridge-6").is_some()
            });
            if known.gateway || (mode == NetworkType::Gateway && is_bridge) {
                object.spec.roles.push("gateway".to_owned());
            }
            if mode == NetworkType::P2p {
                object.spec.pod_cidrs = votes
                    .routed(cluster, &bridge_addresses(scope, at))
                    .iter()
                    .map(ToString::to_string)
                    .collect();
            }
            let mut config = NodeConfig::default();
            config.metadata.name.clone_from(&object.metadata.name);
            for link in tables.into_iter().flat_map(|tables| tables.links.iter()) {
                if let (Some(name), Some(mac)) = (crate::graph::tunnel_named(&link.name), link.mac)
                {
                    config.spec.devices.push(Device {
                        name: name.to_owned(),
                        mac: mac.to_string(),
                        ..Device::default()
                    });
                }
            }
            fleet.cluster_nodes.push(object);
            fleet.node_configs.push(config);
        }
    }
    fleet
}

fn pool_of(tables: &NodeState, link: &str) -> Option<IpNet> {
    tables
        .addresses
        .iter()
        .find(|row| row.link == link && !is_link_local(row.net.addr()))
        .map(|row| row.net.trunc())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    // The first of the most frequent, so that a tie is decided alike every time.
    counts
        .into_iter()
        .rev()
        .max_by_key(|&(_, count)| count)
        .map(|(value, _)| value)
}

fn bridge_addresses(scope: &Scope<'_>, at: NodeRef) -> Vec<IpAddr> {
    scope.node(at).tables.as_ref().map_or_else(
        |_| Vec::new(),
        |tables| {
            tables
                .addresses
                .iter()
                .filter(|row| row.link.starts_with("vx-bridge") && !is_link_local(row.net.addr()))
                .map(|row| row.net.addr())
                .collect()
        },
    )
}

/// Which routes the nodes with a vx-bridge hold, by the overlay address that they lead to.
struct Votes {
    /// By next hop: by prefix, how many nodes route it there.
    all: HashMap<IpAddr, BTreeMap<IpNet, usize>>,
    /// The same of the nodes of one cluster.
    own: HashMap<(usize, IpAddr), BTreeMap<IpNet, usize>>,
    voters: usize,
    /// By cluster.
    own_voters: Vec<usize>,
}

impl Votes {
    fn new(scope: &Scope<'_>) -> Self {
        let mut votes = Self {
            all: HashMap::new(),
            own: HashMap::new(),
            voters: 0,
            own_voters: vec![0; scope.gathered.clusters.len()],
        };
        for at in scope.all_nodes() {
            let Ok(tables) = &scope.node(at).tables else {
                continue;
            };
            if bridge_addresses(scope, at).is_empty() {
                continue;
            }
            votes.voters += 1;
            votes.own_voters[at.cluster] += 1;
            for route in tables.routes.iter().filter(|route| route.table == TABLE) {
                for via in route.hops.iter().filter_map(|hop| hop.via) {
                    let all = votes.all.entry(via).or_default();
                    *all.entry(route.dst).or_default() += 1;
                    let own = votes.own.entry((at.cluster, via)).or_default();
                    *own.entry(route.dst).or_default() += 1;
                }
            }
        }
        votes
    }

    /// Prefixes that at least half of the nodes of other clusters route to one of these addresses.
    fn routed(&self, cluster: usize, vias: &[IpAddr]) -> Vec<IpNet> {
        let mut counts: BTreeMap<IpNet, usize> = BTreeMap::new();
        for via in vias {
            for (prefix, count) in self.all.get(via).into_iter().flatten() {
                *counts.entry(*prefix).or_default() += count;
            }
            for (prefix, count) in self.own.get(&(cluster, *via)).into_iter().flatten() {
                if let Some(all) = counts.get_mut(prefix) {
                    *all -= count;
                }
            }
        }
        let voters = self.voters - self.own_voters[cluster];
        counts
            .into_iter()
            .filter(|&(_, count)| count > 0 && count * 2 >= voters)
            .map(|(prefix, _)| prefix)
            .collect()
    }
}
