//! From the objects of a fleet to the rows of every node: pure, deterministic, and deaf to the order of its input.
//!
//! ```text
//!   Fleet ──► members ──► exports ──► per cluster: routes ──► per node: devices, routes, peers, NAT ──► sorted NodeConfigs
//!             who takes    who offers   what reaches it
//!             part, as     which prefix
//!             what
//! ```
//!
//! The rows are those of Kosmos Clusterlink's network-manager. It differs where the other's behaviour cannot be seen on the wire or harms
//! bystanders: MACs are derived rather than drawn, duplicates are left out, and an object that cannot be understood loses only
//! what it would have contributed. Whatever keeps the plan from working is an [`Objection`].
//!
//! Cost: the size of the output plus O(log N) for each of its rows. In P2P mode the output itself is quadratic, because every node
//! names every other one.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::api::{Fleet, NodeConfigSpec};
use crate::code::Code;
use members::{Class, Member, Members};
pub use objection::{Field, Object, Objection, Weight};

mod claims;
mod collisions;
mod family;
pub mod links;
mod members;
mod nat;
mod nodes;
mod objection;
mod order;
mod overlap;
mod overlay;
mod peers;
mod prefixes;
mod routes;

/// What a fleet's nodes should hold, and what could not be planned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// One entry per node that takes part, under its ClusterNode's name. Lists are in the order in which Kosmos writes them.
    pub configs: BTreeMap<String, NodeConfigSpec>,
    /// What [`check`] says of the fleet.
    pub objections: Vec<Objection>,
}

/// Plans a fleet.
///
/// NodeConfigs in the input lend their MACs and nothing else, so that a running tunnel keeps its address.
///
/// ```
/// let fleet = serde_json::from_str(r#"{
///   "clusters": [
///     {"metadata": {"name": "east"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}},
///     {"metadata": {"name": "west"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}}],
///   "clusterNodes": [
///     {"metadata": {"name": "east-n1"}, "spec": {"clusterName": "east", "nodeName": "n1", "ip": "100.64.0.1",
///      "interfaceName": "eth0", "podCIDRs": ["10.20.0.0/24"]}},
///     {"metadata": {"name": "west-n1"}, "spec": {"clusterName": "west", "nodeName": "n1", "ip": "100.64.1.1",
///      "interfaceName": "eth0", "podCIDRs": ["10.21.0.0/24"]}}]
/// }"#).expect("two clusters of one node each");
/// let plan = datapath::plan::plan(&fleet);
/// let route = &plan.configs["east-n1"].routes[0];
/// assert_eq!((route.cidr.as_str(), route.gw.as_str(), route.dev.as_str()), ("10.21.0.0/24", "220.64.1.1", "vx-bridge"));
/// assert!(plan.objections.is_empty());
/// ```
#[must_use]
pub fn plan(fleet: &Fleet) -> Plan {
    let planner = Planner::of(fleet);
    let reachable: Vec<routes::Reachable> = planner
        .members
        .clusters
        .par_iter()
        .map(|cluster| planner.reachable(cluster))
        .collect();
    let configs = planner
        .members
        .nodes
        .par_iter()
        .map(|node| {
            let config = planner.config_of(node, &reachable[node.cluster]);
            (node.name.clone(), config)
        })
        .collect();
    Plan {
        configs,
        objections: planner.objections,
    }
}

/// What in the control plane's own objects keeps the datapath from working, sorted by object and field; no packet and no kernel is
/// asked. A fleet that works has none.
///
/// O(N log N) for N objects and prefixes: prefixes that meet are found by a longest-prefix lookup, and reported once for two clusters
/// and one prefix, however many others lie within that.
///
/// Whether a node has the link that its ClusterNode names is a question of what was observed there: [`links::check`].
#[must_use]
pub fn check(fleet: &Fleet) -> Vec<Objection> {
    Planner::of(fleet).objections
}

/// A plan that is made a node at a time.
///
/// All NodeConfigs of a large fleet together are quadratic in its size; whoever wants one of them, or can do with one after the other,
/// pays for one.
pub struct Planner<'a> {
    members: Members<'a>,
    exports: Vec<routes::Export>,
    mesh: peers::Mesh,
    translations: Vec<nat::Translations>,
    objections: Vec<Objection>,
}

impl<'a> Planner<'a> {
    /// Reads a fleet; O(N log N) for N nodes and prefixes.
    #[must_use]
    pub fn of(fleet: &'a Fleet) -> Self {
        let mut objections = Vec::new();
        let lent = lent_macs(fleet, &mut objections);
        let members = Members::of(fleet, &lent, &mut objections);
        collisions::report(&members, &mut objections);
        let claims = claims::of(&members, &mut objections);
        overlap::report(&members, &claims, &mut objections);
        let exports = routes::exports(&members);
        let mesh = peers::Mesh::of(&members);
        let translations = members
            .clusters
            .iter()
            .map(|cluster| nat::of_cluster(cluster, &mut objections))
            .collect();
        objections.sort();
        objections.dedup();
        Self {
            members,
            exports,
            mesh,
            translations,
            objections,
        }
    }

    /// What [`check`] says of the fleet.
    #[must_use]
    pub fn objections(&self) -> &[Objection] {
        &self.objections
    }

    /// The ClusterNodes that take part, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.members.nodes.iter().map(|node| node.name.as_str())
    }

    /// The NodeConfig of one ClusterNode; none where it takes no part.
    #[must_use]
    pub fn config(&self, node: &str) -> Option<NodeConfigSpec> {
        let nodes = &self.members.nodes;
        // They are in the order of their names.
        let place = nodes
            .binary_search_by(|member| member.name.as_str().cmp(node))
            .ok()?;
        let member = &nodes[place];
        let reachable = self.reachable(&self.members.clusters[member.cluster]);
        Some(self.config_of(member, &reachable))
    }

    fn reachable(&self, cluster: &members::MemberCluster<'_>) -> routes::Reachable {
        routes::reachable(cluster, &self.members, &self.exports)
    }

    fn config_of(&self, node: &Member<'_>, reachable: &routes::Reachable) -> NodeConfigSpec {
        let mut config = NodeConfigSpec {
            devices: node.devices(),
            routes: reachable.rows_of(node),
            iptables: self.translations[node.cluster].rows_of(node),
            ..NodeConfigSpec::default()
        };
        self.mesh.add_bridge_peers(node, &self.members, &mut config);
        peers::add_local_peers(node, &self.members, &mut config);
        order::sort(&mut config);
        config
    }
}

/// The MACs of earlier NodeConfigs, by (NodeConfig, device).
type Lent<'a> = HashMap<(&'a str, &'a str), &'a str>;

fn lent_macs<'a>(fleet: &'a Fleet, objections: &mut Vec<Objection>) -> Lent<'a> {
    let mut lent = Lent::new();
    for config in &fleet.node_configs {
        for device in &config.spec.devices {
            if device.mac.is_empty() {
                continue;
            }
            if device.mac.parse::<crate::mac::Mac>().is_err() {
                let object = Object::node_config(&config.metadata.name);
                let at = Field::new(object, &format!("spec.devices[{}].mac", device.name));
                objections.push(
                    Objection::new(
                        Code::ObjectInvalid,
                        at,
                        format!("`{}` is not a MAC", device.mac),
                    )
                    .warning()
                    .leaving_out("the MAC; a new one is planned"),
                );
                continue;
            }
            lent.entry((config.metadata.name.as_str(), device.name.as_str()))
                .or_insert(device.mac.as_str());
        }
    }
    lent
}

impl Member<'_> {
    /// Whether this node is part of the global vx-bridge mesh.
    fn is_in_mesh(&self) -> bool {
        matches!(self.class, Class::Endpoint | Class::Gateway)
    }
}
