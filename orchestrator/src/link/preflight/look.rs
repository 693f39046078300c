//! A look from the nodes themselves, by floaters: their tables, what their kernels make, and the paths between those that will have tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::api::{self, ClusterNode, Fleet, NetworkType};
use datapath::control::nodes::Node;
use datapath::plan::{Planner, seen};
use datapath::state::{Family, NodeState};
use datapath::tunnel::Tunnel;
use floater::wire::{Meeting, hex};
use futures::StreamExt as _;
use ipnet::IpNet;

use super::super::scouts::{Scouts, Sent, Tables};
use super::nodes::Observed;
use super::paths::{self, Encounter, End};
use super::{Found, Intent, families, prefixes};

/// How many nodes elect a gateway and one that stands by.
const GATEWAYS: usize = 2;
/// How many floaters say at a time what their kernels make.
const AT_ONCE: usize = 64;

/// A look from the nodes themselves.
pub(super) struct Look<'a> {
    pub(super) intent: &'a Intent<'a>,
    pub(super) nodes: Vec<Node>,
    pub(super) cluster: api::Cluster,
    pub(super) cluster_nodes: Vec<ClusterNode>,
    /// Without the new cluster.
    pub(super) fleet: Fleet,
    pub(super) is_root: bool,
    pub(super) is_linked: bool,
}

impl Look<'_> {
    fn name(&self) -> &str {
        &self.intent.member.name
    }

    /// The fleet with the new cluster, whose first node is elected: only then are there routes that can meet others.
    pub(super) fn with_new(&self) -> Fleet {
        let mut fleet = self.fleet.clone();
        fleet.clusters.push(self.cluster.clone());
        fleet.cluster_nodes.extend(self.cluster_nodes.clone());
        fleet
    }

    /// The nodes of the control plane's own cluster that have tunnels to others.
    fn hosts(&self) -> Vec<ClusterNode> {
        let host = &self.intent.control_plane.name;
        let cluster = self
            .fleet
            .clusters
            .iter()
            .find(|one| one.metadata.name == *host);
        let Some(options) = cluster.and_then(api::Cluster::part) else {
            return Vec::new();
        };
        let is_p2p = options.network_type == NetworkType::P2p;
        let nodes = self.fleet.cluster_nodes.iter();
        let ends = nodes
            .filter(|node| node.spec.cluster_name == *host && (is_p2p || node.spec.is_gateway()));
        ends.cloned().collect()
    }

    pub(super) async fn around(&mut self, scouts: &Scouts, found: &mut Found) {
        let Intent {
            settings,
            member,
            control_plane,
            ..
        } = *self.intent;
        let ready = self.nodes.iter().filter(|node| node.is_ready);
        let ready: BTreeSet<String> = ready.map(|node| node.name.clone()).collect();
        let hosts = match self.is_root {
            true => Vec::new(),
            false => self.hosts(),
        };
        let at_host: BTreeSet<String> = hosts
            .iter()
            .map(|node| node.spec.node_name.clone())
            .collect();
        let theirs = async {
            match at_host.is_empty() {
                true => Ok(Sent::default()),
                false => scouts.send(settings, control_plane, &at_host).await,
            }
        };
        let (ours, theirs) = tokio::join!(scouts.send(settings, member, &ready), theirs);
        let mut ours = sent(ours, &member.name, found);
        let mut theirs = sent(theirs, &control_plane.name, found);
        let (own, other) = tokio::join!(ours.tables(), theirs.tables());
        for (cluster, sent) in [(member, &ours), (control_plane, &theirs)] {
            for (node, why) in &sent.absent {
                found.warn(format!(
                    "could not tell what is at node {node} of {}: {why}",
                    cluster.name
                ));
            }
        }
        self.tables(&own, &other, found);
        self.kernels(&ours, &own, found).await;
        for encounter in self.encounters(&own, &other, &hosts) {
            match met(&encounter, &member.name, &ours, &theirs).await {
                Ok(judged) => found.take(judged),
                Err(why) => found.warn(why),
            }
        }
    }

    /// What tables say, of nodes that are to be linked and of those that are linked already.
    fn tables(
        &mut self,
        own: &BTreeMap<String, Tables>,
        other: &BTreeMap<String, Tables>,
        found: &mut Found,
    ) {
        let place = |cluster: &str, node: &str| format!("{cluster}/{node}");
        let member = self.name().to_owned();
        for (cluster, all) in [(&member, own), (&self.intent.control_plane.name, other)] {
            for (node, tables) in all {
                for missing in &tables.missing {
                    let place = place(cluster, node);
                    found.warn(format!("could not tell all that is at {place}: {missing}"));
                }
            }
        }
        let mut observed = seen::Observed::new();
        for node in &mut self.cluster_nodes {
            let Some(tables) = own.get(&node.spec.node_name) else {
                continue;
            };
            let seen = seen::Node::of(&tables.state, &[], &[]);
            observed.insert(node.metadata.name.clone(), seen);
            if node.spec.interface_name.is_empty() {
                let place = place(&member, &node.spec.node_name);
                node.spec.interface_name = link_of(&place, node, &tables.state, found);
            }
        }
        let fleet = self.with_new();
        for objection in seen::check(&fleet, &observed) {
            found.refuse(format!(
                "{objection} (--default-nic names the link that tunnels stand on)"
            ));
        }
        let planner = Planner::of(&fleet);
        for (cluster, all) in [(&member, own), (&self.intent.control_plane.name, other)] {
            let prefixes = prefixes::of_cluster(&fleet, cluster);
            for (node, tables) in all {
                let Some((mut desired, _)) =
                    planner.desired(&format!("{cluster}-{node}"), &tables.state)
                else {
                    continue;
                };
                if *cluster != member {
                    // What else it has is no news.
                    desired = towards(&planner, &member, &desired);
                }
                let observed = Observed {
                    place: &place(cluster, node),
                    state: &tables.state,
                    own: &prefixes,
                };
                let judged = observed.against(&desired);
                found.take((judged.refusals, judged.warnings));
            }
        }
    }

    async fn kernels(&self, ours: &Sent, own: &BTreeMap<String, Tables>, found: &mut Found) {
        let nobody = Meeting {
            version: floater::wire::VERSION,
            token: hex(&[0; 16]),
            number: 0,
            peers: Vec::new(),
            trials: Vec::new(),
            millis: 1,
        };
        let nobody = &nobody;
        let asked = own.keys().map(|node| async move {
            let met = ours.meet(node, nobody).await;
            (format!("{}/{node}", self.name()), met)
        });
        let answers: Vec<_> = futures::stream::iter(asked)
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (place, answer) in &answers {
            if let Err(why) = answer {
                found.warn(format!(
                    "could not tell whether the kernel of {place} makes VXLAN links: {why}"
                ));
            }
        }
        let told = answers.iter();
        let told = told.filter_map(|(place, met)| Some((place.as_str(), met.as_ref().ok()?)));
        found.take(paths::kernels(told));
    }

    /// Between whom there will be tunnels.
    fn encounters(
        &self,
        own: &BTreeMap<String, Tables>,
        other: &BTreeMap<String, Tables>,
        hosts: &[ClusterNode],
    ) -> Vec<Encounter> {
        let link = &self.intent.settings.link;
        let ready = self.nodes.iter().filter(|node| node.is_ready);
        let ready: BTreeSet<&str> = ready.map(|node| node.name.as_str()).collect();
        let ours: Vec<&ClusterNode> = self
            .cluster_nodes
            .iter()
            .filter(|node| ready.contains(node.spec.node_name.as_str()))
            .collect();
        let is_p2p = link.network_type == NetworkType::P2p;
        let gateways = if is_p2p {
            ours.len()
        } else {
            GATEWAYS.min(ours.len())
        };
        let hosts: Vec<&ClusterNode> = hosts.iter().collect();
        let mut encounters = Vec::new();
        for family in families(&link.ip_family) {
            let ends = |nodes: &[&ClusterNode], tables| ends(nodes, tables, family);
            encounters.extend(Encounter::new(
                Tunnel::bridge(family),
                &ends(&ours[..gateways], own),
                &ends(&hosts, other),
            ));
            if !is_p2p && !ours.is_empty() {
                encounters.extend(Encounter::new(
                    Tunnel::local(family),
                    &ends(&ours[..1], own),
                    &ends(&ours[1..], own),
                ));
            }
        }
        encounters
    }
}

/// The floaters of a cluster; that there are none is told, and refuses nothing.
fn sent(sent: Result<Sent, String>, cluster: &str, found: &mut Found) -> Sent {
    sent.unwrap_or_else(|why| {
        found.warn(format!(
            "could not look around from the nodes of {cluster} (tables, kernels, paths): {why}"
        ));
        Sent::default()
    })
}

/// The link that has a node's address.
fn link_of(place: &str, node: &ClusterNode, state: &NodeState, found: &mut Found) -> String {
    let observed = Observed {
        place,
        state,
        own: &[],
    };
    let ips: Vec<IpAddr> = [&node.spec.ip, &node.spec.ip6]
        .into_iter()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let link = ips.iter().find_map(|ip| observed.link_of(*ip));
    if link.is_none() {
        found.warn(format!(
            "could not tell which link of {place} tunnels will stand on: none has an InternalIP of its Node (--default-nic names one)"
        ));
    }
    link.unwrap_or_default().to_owned()
}

/// The nodes that have an address of a family, and the MTU of its link.
fn ends(nodes: &[&ClusterNode], tables: &BTreeMap<String, Tables>, family: Family) -> Vec<End> {
    let each = nodes.iter().filter_map(|node| {
        let ip: IpAddr = node.spec.address(family).parse().ok()?;
        let state = &tables.get(&node.spec.node_name)?.state;
        let observed = Observed {
            place: "",
            state,
            own: &[],
        };
        let mtu = observed.mtu_of(ip).unwrap_or(1500);
        Some(End {
            cluster: node.spec.cluster_name.clone(),
            node: node.spec.node_name.clone(),
            ip,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        })
    });
    each.collect()
}

/// Of what a node is to have, the routes to one cluster.
fn towards(planner: &Planner, cluster: &str, desired: &NodeState) -> NodeState {
    let bundle = planner.bundle(cluster);
    let prefixes: BTreeSet<IpNet> = bundle.iter().flat_map(|bundle| bundle.prefixes()).collect();
    let mut state = NodeState::default();
    for route in desired.routes.iter() {
        if prefixes.contains(&route.dst) {
            state.routes.insert(route.clone());
        }
    }
    state
}

/// Has the ends of an encounter meet; what came of it, or why nothing did.
async fn met(
    encounter: &Encounter,
    member: &str,
    ours: &Sent,
    theirs: &Sent,
) -> Result<(Vec<String>, Vec<String>), String> {
    let mut token = [0; 16];
    crate::run::random(&mut token).map_err(|error| error.to_string())?;
    let meetings = encounter.meetings(token);
    let asked = meetings.iter().map(|(cluster, node, meeting)| {
        let sent = if cluster == member { ours } else { theirs };
        sent.meet(node, meeting)
    });
    let answers = futures::future::join_all(asked).await;
    Ok(encounter.judge(&answers))
}
