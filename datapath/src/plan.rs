//! From the objects of a fleet to the rows of every node: pure, deterministic, and deaf to the order of its input.
//!
//! ```text
//!   Cluster, ClusterNodes ──► member cluster ──► bundle ──► slots: every row that some bundle offers, by its key
//!   (NodeConfigs lend MACs)   who takes part,    what it gives      │
//!                             as what            to all others      ▼
//!                                   └──► own rows of a node  +  what its view selects of the slots  =  rows of the node
//! ```
//!
//! To every node of a class another cluster contributes the same rows, its [`Bundle`]: so a fleet of N clusters is N bundles, and the
//! rows of a node are an iterator that nobody has to collect. A [`Planner`] owns what it holds, is keyed by names, and takes changes one
//! at a time. Kosmos' strings exist in [`Planner::config`] and [`Planner::configs`] only.
//!
//! The rows are those of Kosmos Clusterlink's network-manager. It differs where the other's behaviour cannot be seen on the wire or harms
//! bystanders: MACs are derived rather than drawn, duplicates are left out, and an object that cannot be understood loses only
//! what it would have contributed. Whatever keeps the plan from working is an [`Objection`].
//!
//! Cost, for N clusters: building O(N log N), a change O(the cluster + log N), one node's rows O(N).
//!
//! ```
//! use datapath::plan::{Change, Planner, Row};
//!
//! let fleet = serde_json::from_str(r#"{
//!   "clusters": [
//!     {"metadata": {"name": "east"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}},
//!     {"metadata": {"name": "west"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}}],
//!   "clusterNodes": [
//!     {"metadata": {"name": "east-n1"}, "spec": {"clusterName": "east", "nodeName": "n1", "ip": "100.64.0.1",
//!      "interfaceName": "eth0", "podCIDRs": ["10.20.0.0/24"]}},
//!     {"metadata": {"name": "west-n1"}, "spec": {"clusterName": "west", "nodeName": "n1", "ip": "100.64.1.1",
//!      "interfaceName": "eth0", "podCIDRs": ["10.21.0.0/24"]}}]
//! }"#)?;
//! let mut planner = Planner::of(&fleet);
//! assert!(planner.objections().is_empty());
//! // A route, and of the one peer a flood row, a unicast row and a neighbour.
//! let rows: Vec<Row> = planner.rows("east-n1").expect("it takes part").collect();
//! assert_eq!(rows.len(), 4);
//! // The same as Kosmos writes it.
//! let config = planner.config("east-n1").expect("it takes part");
//! assert_eq!((config.routes[0].cidr.as_str(), config.routes[0].gw.as_str()), ("10.21.0.0/24", "220.64.1.1"));
//!
//! // The other cluster goes away: its bundle does, and no row of east's own changes.
//! let applied = planner.apply(Change::ClusterRemoved("west".to_owned()));
//! assert_eq!(applied.nodes.iter().map(|node| &**node).collect::<Vec<_>>(), ["west-n1"]);
//! let before = applied.bundles[0].before.as_ref().expect("it had a bundle");
//! let view = planner.view("east-n1").expect("it takes part");
//! assert_eq!(before.rows(&view).collect::<Vec<_>>(), rows);
//! assert_eq!(planner.rows("east-n1").expect("it takes part").count(), 0);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::api::{Cluster, ClusterNode, ClusterNodeSpec, Fleet, NodeConfig, NodeConfigSpec};
use crate::code::Code;
use crate::error::Problem;
use crate::mac::Mac;
use crate::nodeconfig;
use crate::state::NodeState;
use crate::tunnel::Tunnel;
pub use bundle::Bundle;
pub use change::{Applied, Change, Replaced};
pub use config::Configs;
pub use hops::Hops;
pub use members::Class;
use members::{ClusterObject, Member, MemberCluster, Members, Named};
pub use nat::Translation;
pub use objection::{Field, Object, Objection, Weight};
pub use overlay::address as overlay_address;
pub use rows::{Device, Row, View};
use slots::Slots;

pub(crate) mod bundle;
mod change;
mod claims;
mod collisions;
mod config;
mod exceptions;
pub(crate) mod family;
mod hops;
mod lookup;
mod members;
mod nat;
mod nodes;
mod objection;
mod order;
mod overlap;
mod overlay;
mod prefixes;
pub(crate) mod rows;
pub mod seen;
mod shadow;
mod slots;

/// What a fleet's nodes should hold, and what could not be planned: everything at once, for fleets that are small enough for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// One entry per node that takes part, under its ClusterNode's name. Lists are in the order in which Kosmos writes them.
    pub configs: BTreeMap<String, NodeConfigSpec>,
    /// What [`check`] says of the fleet.
    pub objections: Vec<Objection>,
}

/// All NodeConfigs of a fleet. Together they are quadratic in its size: whoever can do with one after the other asks a [`Planner`].
///
/// NodeConfigs in the input lend their MACs and nothing else, so that a running tunnel keeps its address.
#[must_use]
pub fn plan(fleet: &Fleet) -> Plan {
    let planner = Planner::of(fleet);
    let nodes: Vec<_> = planner.members().collect();
    Plan {
        configs: nodes
            .par_iter()
            .map(|(cluster, node)| {
                let config = config::of_node(&planner, cluster, node);
                (node.name.to_string(), config)
            })
            .collect(),
        objections: planner.objections(),
    }
}

/// What in the control plane's own objects keeps the datapath from working, sorted by object and field; no packet and no kernel is
/// asked. A fleet that works has none.
///
/// O(N log N) for N objects and prefixes: prefixes that meet are found by a longest-prefix lookup, and reported once for two clusters
/// and one prefix, however many others lie within that.
///
/// Whether a node has the link and addresses that its ClusterNode names is a question of what was observed there: [`seen::check`].
#[must_use]
pub fn check(fleet: &Fleet) -> Vec<Objection> {
    Planner::of(fleet).objections()
}

/// What the nodes of a fleet should hold, a node at a time.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    /// Every cluster, by name.
    clusters: BTreeMap<Arc<str>, Known>,
    /// Every ClusterNode, by name.
    specs: BTreeMap<Arc<str>, Arc<ClusterNodeSpec>>,
    /// The names of the ClusterNodes that name a cluster, whether that is known or not.
    named: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Where each node that takes part is: its cluster, and its place in that.
    places: BTreeMap<Arc<str>, (Arc<str>, usize)>,
    /// What NodeConfigs lend, by their names.
    lent: BTreeMap<Arc<str>, Lent>,
    slots: Slots,
    /// Objections to objects that stand twice in a list; the later ones are not held.
    repeated: Vec<Objection>,
}

/// A cluster, and what becomes of it where it takes part.
#[derive(Debug, Clone)]
struct Known {
    object: Arc<ClusterObject>,
    member: Option<Arc<MemberCluster>>,
}

/// The MACs of an earlier NodeConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lent {
    macs: BTreeMap<Tunnel, Mac>,
    objections: Vec<Objection>,
}

impl Lent {
    fn of(config: &NodeConfig) -> Self {
        let mut lent = Self::default();
        for device in &config.spec.devices {
            if device.mac.is_empty() {
                continue;
            }
            let Ok(mac) = device.mac.parse::<Mac>() else {
                let object = Object::node_config(&config.metadata.name);
                let at = Field::new(object, &format!("spec.devices[{}].mac", device.name));
                let rule = format!("`{}` is not a MAC", device.mac);
                lent.objections.push(
                    Objection::new(Code::ObjectInvalid, at, rule)
                        .warning()
                        .leaving_out("the MAC; a new one is planned"),
                );
                continue;
            };
            if let Some(tunnel) = Tunnel::named(&device.name) {
                lent.macs.entry(tunnel).or_insert(mac);
            }
        }
        lent
    }
}

impl Planner {
    /// Reads a fleet. Of two objects of one kind and name the first counts.
    #[must_use]
    pub fn of(fleet: &Fleet) -> Self {
        let mut planner = Self::default();
        for config in &fleet.node_configs {
            let mut lent = Lent::of(config);
            let held = planner.lent.entry(config.metadata.name.as_str().into());
            let held = held.or_default();
            held.objections.append(&mut lent.objections);
            for (tunnel, mac) in lent.macs {
                held.macs.entry(tunnel).or_insert(mac);
            }
        }
        // In the order of names, which costs the maps a third of the time; of two of one name the first stays first.
        let mut nodes: Vec<_> = fleet.cluster_nodes.iter().collect();
        nodes.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
        for node in nodes {
            planner.read_node(node);
        }
        let mut clusters: Vec<_> = fleet.clusters.iter().collect();
        clusters.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
        for cluster in clusters {
            planner.read_cluster(cluster);
        }
        let known: Vec<_> = planner.clusters.iter().collect();
        let members: Vec<_> = known
            .par_iter()
            .map(|(name, known)| planner.member_of(name, &known.object))
            .collect();
        for (known, member) in planner.clusters.values_mut().zip(members) {
            known.member = member;
        }
        let members: Vec<_> = planner.member_clusters().cloned().collect();
        for member in members {
            planner.place(&member);
        }
        planner
    }

    fn read_node(&mut self, node: &ClusterNode) {
        let (name, spec) = (name_of(node), &node.spec);
        if self.specs.contains_key(&*name) {
            let at = Field::new(Object::cluster_node(&name, spec), "metadata.name");
            self.repeated.push(
                Objection::new(Code::ObjectInvalid, at, "is the name of two ClusterNodes")
                    .leaving_out("the later one"),
            );
            return;
        }
        self.name_cluster(&name, &spec.cluster_name);
        self.specs.insert(name, Arc::new(spec.clone()));
    }

    fn read_cluster(&mut self, cluster: &Cluster) {
        let name = cluster.metadata.name.as_str();
        let at = || Field::new(Object::cluster(name), "metadata.name");
        if name.is_empty() {
            self.repeated.push(
                Objection::new(Code::ObjectInvalid, at(), "has no name")
                    .leaving_out("the cluster and its nodes"),
            );
        } else if self.clusters.contains_key(name) {
            self.repeated.push(
                Objection::new(
                    Code::ClusterIdDuplicate,
                    at(),
                    "is the name of two clusters",
                )
                .leaving_out("the later one"),
            );
        } else {
            let object = Arc::new(ClusterObject::of(cluster));
            let member = None;
            self.clusters.insert(name.into(), Known { object, member });
        }
    }

    fn name_cluster(&mut self, node: &Arc<str>, cluster: &str) {
        match self.named.get_mut(cluster) {
            Some(nodes) => drop(nodes.insert(node.clone())),
            None => drop(self.named.insert(cluster.into(), [node.clone()].into())),
        }
    }

    /// A cluster with the nodes that name it; none where it takes no part.
    fn member_of(
        &self,
        name: &Arc<str>,
        object: &Arc<ClusterObject>,
    ) -> Option<Arc<MemberCluster>> {
        let names = self.named.get(&**name);
        let named: Vec<Named<'_>> = names
            .into_iter()
            .flatten()
            .filter_map(|name| self.specs.get_key_value(name))
            .collect();
        let lent = |node: &str, tunnel: Tunnel| self.lent.get(node)?.macs.get(&tunnel).copied();
        MemberCluster::of(name, object, &named, &lent).map(Arc::new)
    }

    /// Puts a cluster's nodes and bundle into the indexes over all clusters.
    fn place(&mut self, member: &MemberCluster) {
        for (place, node) in member.nodes.iter().enumerate() {
            let at = (member.name.clone(), place);
            self.places.insert(node.name.clone(), at);
        }
        self.slots.add(&member.bundle);
    }

    /// Takes them out.
    fn displace(&mut self, member: &MemberCluster) {
        for node in &member.nodes {
            // It may have gone over to another cluster, which was placed first.
            if let Entry::Occupied(place) = self.places.entry(node.name.clone())
                && place.get().0 == member.name
            {
                place.remove();
            }
        }
        self.slots.remove(&member.bundle);
    }

    fn member_clusters(&self) -> impl Iterator<Item = &Arc<MemberCluster>> {
        self.clusters
            .values()
            .filter_map(|known| known.member.as_ref())
    }

    /// The nodes that take part, by name.
    fn members(&self) -> impl Iterator<Item = (&MemberCluster, &Member)> {
        let places = self.places.values();
        places.filter_map(|(cluster, place)| self.at(cluster, *place))
    }

    fn member(&self, node: &str) -> Option<(&MemberCluster, &Member)> {
        let (cluster, place) = self.places.get(node)?;
        self.at(cluster, *place)
    }

    fn at(&self, cluster: &str, place: usize) -> Option<(&MemberCluster, &Member)> {
        let member = self.clusters.get(cluster)?.member.as_deref()?;
        Some((member, member.nodes.get(place)?))
    }

    /// What in the objects keeps the datapath from working, sorted: [`check`].
    ///
    /// What one cluster's own objects lack was found when it was read. Whatever two clusters contradict each other in is found here and
    /// now, in O(N log N).
    #[must_use]
    pub fn objections(&self) -> Vec<Objection> {
        let mut objections = self.repeated.clone();
        let lent = self.lent.values();
        objections.extend(lent.flat_map(|lent| lent.objections.iter().cloned()));
        let own = self.member_clusters();
        objections.extend(own.flat_map(|cluster| cluster.objections.iter().cloned()));
        let strangers = self.named.iter();
        let strangers = strangers.filter(|(cluster, _)| !self.clusters.contains_key(*cluster));
        for name in strangers.flat_map(|(_, nodes)| nodes) {
            if let Some(spec) = self.specs.get(name) {
                objections.push(nodes::orphan(name, spec));
            }
        }
        self.shared_uids(&mut objections);
        let members = Members::of(self.member_clusters().map(|member| &**member));
        collisions::report(&members, &mut objections);
        let claims = claims::of(&members, &mut objections);
        overlap::report(&members, &claims, &mut objections);
        objections.sort();
        objections.dedup();
        objections
    }

    fn shared_uids(&self, objections: &mut Vec<Objection>) {
        let mut by_uid: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, known) in &self.clusters {
            let uid = known.object.uid.as_str();
            if uid.is_empty() {
                continue;
            }
            if let Some(other) = by_uid.insert(uid, name) {
                let at = |name: &str| Field::new(Object::cluster(name), "metadata.uid");
                let rule = format!("{uid} is also the uid of cluster {other}");
                objections.push(
                    Objection::new(Code::ClusterIdDuplicate, at(name), rule).against(at(other)),
                );
            }
        }
    }

    /// The ClusterNodes that take part, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(|name| &**name)
    }

    /// The clusters that take part, by name.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.member_clusters().map(|member| &*member.name)
    }

    /// What every cluster that takes part contributes to the others, by the cluster's name.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.member_clusters().map(|member| &member.bundle)
    }

    /// What one cluster contributes to the others; none where it takes no part.
    #[must_use]
    pub fn bundle(&self, cluster: &str) -> Option<&Arc<Bundle>> {
        let known = self.clusters.get(cluster)?;
        known.member.as_ref().map(|member| &member.bundle)
    }

    /// Which rows of the bundles a node holds; none where it takes no part.
    #[must_use]
    pub fn view(&self, node: &str) -> Option<View> {
        let (cluster, node) = self.member(node)?;
        Some(View::of(cluster, node))
    }

    /// The tunnels that a node should have; none where it takes no part.
    pub fn devices(&self, node: &str) -> Option<impl Iterator<Item = Device<'_>>> {
        let (_, node) = self.member(node)?;
        Some(node.ends().map(|end| Device {
            tunnel: end.tunnel,
            net: end.net,
            mac: end.mac,
            lower: &node.spec.interface_name,
        }))
    }

    /// The rows that a node holds because of its own cluster alone: its peers on vx-local and its translations, sorted. None where it
    /// takes no part.
    #[must_use]
    pub fn own_rows(&self, node: &str) -> Option<Vec<Row>> {
        let (cluster, node) = self.member(node)?;
        Some(rows::own(cluster, node))
    }

    /// The rows that the bundles give a node, each key once: routes by prefix, then peers.
    pub fn shared_rows(&self, view: &View) -> impl Iterator<Item = Row> + use<'_> {
        view.clone().shared(&self.slots)
    }

    /// Every row of a node that is no consequence of its underlay link, each key once: its own rows and those that the bundles give it.
    /// None where it takes no part.
    pub fn rows(&self, node: &str) -> Option<impl Iterator<Item = Row> + use<'_>> {
        let (cluster, node) = self.member(node)?;
        let view = View::of(cluster, node);
        let own = rows::own(cluster, node);
        Some(own.into_iter().chain(view.shared(&self.slots)))
    }

    /// The tables that a node should have, and what of its plan makes no row there; none where it takes no part.
    ///
    /// `observed` lends the MTU of each underlay link and the tunnel's source, as in [`nodeconfig::desired`], which comes to the same
    /// state by way of [`Planner::config`].
    #[must_use]
    pub fn desired(&self, node: &str, observed: &NodeState) -> Option<(NodeState, Vec<Problem>)> {
        let (devices, rows) = (self.devices(node)?, self.rows(node)?);
        Some(nodeconfig::desired_rows(devices, rows, observed))
    }

    /// The part of [`Planner::desired`] that no bundle gives: the tunnels and the node's own rows. None where it takes no part.
    #[must_use]
    pub fn desired_own(
        &self,
        node: &str,
        observed: &NodeState,
    ) -> Option<(NodeState, Vec<Problem>)> {
        let (devices, rows) = (self.devices(node)?, self.own_rows(node)?);
        Some(nodeconfig::desired_rows(
            devices,
            rows.into_iter(),
            observed,
        ))
    }

    /// The NodeConfig of one ClusterNode; none where it takes no part.
    #[must_use]
    pub fn config(&self, node: &str) -> Option<NodeConfigSpec> {
        let (cluster, node) = self.member(node)?;
        Some(config::of_node(self, cluster, node))
    }

    /// All NodeConfigs, to be serialised one after the other.
    #[must_use]
    pub fn configs(&self) -> Configs<'_> {
        Configs(self)
    }
}

/// The name of a ClusterNode, which may be left out.
fn name_of(node: &ClusterNode) -> Arc<str> {
    let spec = &node.spec;
    if node.metadata.name.is_empty() {
        format!("{}-{}", spec.cluster_name, spec.node_name).into()
    } else {
        node.metadata.name.as_str().into()
    }
}
