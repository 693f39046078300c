//! What could be in the way of linking a cluster, found out before anything is made.
//!
//! | looked at | refused or told |
//! |---|---|
//! | Nodes of the member | none is ready; none has an address of a wanted family |
//! | the plan with the new cluster | whatever the planner objects to that it does not object to today: an address or a prefix that another cluster has, on either side of a map |
//! | the namespace | it is being deleted; its Pod Security level forbids the programs |
//! | Kosmos' own programs | they are there: two would keep the same rows |

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::api::{self, ClusterLinkOptions, ClusterNode, Fleet, GROUP, VERSION};
use datapath::plan::{Objection, Planner};
use datapath::state::Family;
use serde::Deserialize;
use serde_json::Value;

use super::Settings;
use super::apply::Refusal;
use super::cluster::Cluster;
use super::objects::is_ours;
use crate::fleet::objects::Node;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) refusals: Vec<Refusal>,
    pub(super) warnings: Vec<String>,
    /// How many nodes the member has.
    pub(super) nodes: usize,
}

impl Found {
    fn refuse(&mut self, why: impl Into<String>) {
        self.refusals.push(Refusal(why.into()));
    }
}

/// Looks at everything; nothing is changed.
pub(super) async fn check(settings: &Settings, member: &Cluster, control_plane: &Cluster) -> Found {
    let mut found = Found::default();
    let nodes = match member.list("/api/v1/nodes").await {
        Ok(nodes) => nodes,
        Err(failure) => {
            found.refuse(format!(
                "the Nodes of {} cannot be read: {failure}",
                member.name
            ));
            return found;
        }
    };
    found.nodes = nodes.len();
    let nodes = addresses(&nodes, settings, member, &mut found);
    namespaces(settings, [member, control_plane], &mut found).await;
    foreign_programs(settings, member, &mut found).await;
    match fleet(control_plane).await {
        Ok(fleet) => {
            let services = services(member).await;
            let cluster = expected(settings, member, &nodes, &services);
            against_others(cluster, nodes, fleet, &mut found);
        }
        // Nothing is installed yet, so there are no others.
        Err(None) => {}
        Err(Some(why)) => found.refuse(why),
    }
    found
}

/// The underlay addresses of a member's nodes, by the node.
fn addresses(
    nodes: &[Value],
    settings: &Settings,
    member: &Cluster,
    found: &mut Found,
) -> Vec<ClusterNode> {
    let wanted: Vec<Family> = match settings.link.ip_family.as_str() {
        "ipv4" => vec![Family::Ipv4],
        "ipv6" => vec![Family::Ipv6],
        _ => Vec::new(),
    };
    let (mut all, mut ready) = (Vec::new(), 0);
    for node in nodes {
        let Ok(node) = Node::deserialize(node) else {
            continue;
        };
        ready += usize::from(node.is_ready());
        let ips = node.ips();
        for family in &wanted {
            if !ips.iter().any(|ip| Family::of(*ip) == *family) {
                found.warnings.push(format!(
                    "node {} of {} has no InternalIP of {family}, and takes no part",
                    node.metadata.name, member.name
                ));
            }
        }
        all.push(expected_node(&node, &ips, &member.name));
    }
    if ready == 0 {
        found.refuse(format!(
            "no node of {} is ready ({} in all)",
            member.name,
            nodes.len()
        ));
    }
    let takes_part = |node: &ClusterNode| {
        let mut families = [Family::Ipv4, Family::Ipv6].into_iter();
        families.any(|family| {
            let is_wanted = wanted.is_empty() || wanted.contains(&family);
            is_wanted && !node.spec.address(family).is_empty()
        })
    };
    if !nodes.is_empty() && !all.iter().any(takes_part) {
        found.refuse(format!(
            "no node of {} has an InternalIP of the family {} (--ip-family)",
            member.name, settings.link.ip_family
        ));
    }
    all
}

/// A namespace that cannot take the programs.
async fn namespaces(settings: &Settings, clusters: [&Cluster; 2], found: &mut Found) {
    const LEVEL: &str = "pod-security.kubernetes.io/enforce";
    let name = &settings.namespace;
    for cluster in clusters {
        let held = cluster.get(&format!("/api/v1/namespaces/{name}")).await;
        let Ok(Some(held)) = held else { continue };
        if held["metadata"]["deletionTimestamp"].is_string() {
            found.refuse(format!(
                "namespace {name} of {} is being deleted",
                cluster.name
            ));
        }
        let level = held["metadata"]["labels"][LEVEL]
            .as_str()
            .unwrap_or("privileged");
        if level != "privileged" {
            found.refuse(format!(
                "namespace {name} of {} enforces the Pod Security level {}, and agents need their node's network ({LEVEL}: privileged)",
                cluster.name,
                datapath::printable::printable(level, 40)
            ));
        }
        if clusters[0].uid == clusters[1].uid {
            return;
        }
    }
}

/// Programs of Kosmos' own, which would keep the same rows and write the same objects.
async fn foreign_programs(settings: &Settings, member: &Cluster, found: &mut Found) {
    let namespace = &settings.namespace;
    for (kind, plural, name) in [
        ("DaemonSet", "daemonsets", "clusterlink-agent"),
        (
            "Deployment",
            "deployments",
            "clusterlink-controller-manager",
        ),
        ("Deployment", "deployments", "clusterlink-elector"),
        ("Deployment", "deployments", "clusterlink-network-manager"),
    ] {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}");
        if let Ok(Some(held)) = member.get(&path).await
            && !is_ours(&held)
        {
            found.refuse(format!(
                "{kind} {namespace}/{name} of {} is Kosmos' own, and two would keep the same rows (kosmosctl unjoin removes it)",
                member.name
            ));
        }
    }
}

/// The objects of a control plane; an error without words where it has no such kinds.
async fn fleet(control_plane: &Cluster) -> Result<Fleet, Option<String>> {
    let list = async |plural: &str| {
        let path = format!("/apis/{GROUP}/{VERSION}/{plural}");
        let items = control_plane.list(&path).await;
        items.map_err(|failure| {
            (!failure.is_absent()).then(|| {
                format!(
                    "the {plural} of {} cannot be read: {failure}",
                    control_plane.name
                )
            })
        })
    };
    // One that cannot be understood is its own trouble.
    fn read<T: for<'de> Deserialize<'de>>(items: Vec<Value>) -> Vec<T> {
        let read = items
            .into_iter()
            .filter_map(|item| T::deserialize(item).ok());
        read.collect()
    }
    Ok(Fleet {
        clusters: read(list("clusters").await?),
        cluster_nodes: read(list("clusternodes").await?),
        ..Fleet::default()
    })
}

/// The fleet with the new cluster in it, against the fleet without.
fn against_others(
    cluster: api::Cluster,
    mut nodes: Vec<ClusterNode>,
    mut fleet: Fleet,
    found: &mut Found,
) {
    let name = cluster.metadata.name.clone();
    fleet
        .clusters
        .retain(|cluster| cluster.metadata.name != name);
    fleet
        .cluster_nodes
        .retain(|node| node.spec.cluster_name != name);
    let before = words(&Planner::of(&fleet).objections());
    fleet.clusters.push(cluster);
    if let Some(first) = nodes.first_mut() {
        // One of them will be elected, and only then are there routes that can meet others.
        first.spec.roles = vec!["gateway".to_owned()];
    }
    fleet.cluster_nodes.extend(nodes);
    for objection in Planner::of(&fleet).objections() {
        let text = objection.to_string();
        if !before.contains(&text) {
            found.refuse(text);
        }
    }
}

fn words(objections: &[Objection]) -> BTreeSet<String> {
    objections.iter().map(ToString::to_string).collect()
}

/// The new cluster's object, as far as it can be known before its controller tells.
fn expected(
    settings: &Settings,
    member: &Cluster,
    nodes: &[ClusterNode],
    services: &[String],
) -> api::Cluster {
    let link = &settings.link;
    let mut cluster = api::Cluster::default();
    cluster.metadata.name.clone_from(&member.name);
    cluster.spec.cluster_link_options = Some(ClusterLinkOptions {
        cni: link.cni.clone(),
        network_type: link.network_type,
        ip_family: link.ip_family.clone(),
        global_cidrs_map: link.global_cidrs.clone(),
        ..ClusterLinkOptions::default()
    });
    let pods = nodes.iter().flat_map(|node| node.spec.pod_cidrs.clone());
    let status = &mut cluster.status.cluster_link_status;
    status.pod_cidrs = pods.collect();
    status.service_cidrs = services.to_vec();
    cluster
}

/// The object of a node, likewise.
fn expected_node(node: &Node, ips: &[IpAddr], cluster: &str) -> ClusterNode {
    let of = |family| {
        let mut ips = ips.iter().filter(|ip| Family::of(**ip) == family);
        ips.next().map(ToString::to_string).unwrap_or_default()
    };
    let mut expected = ClusterNode::default();
    expected.metadata.name = format!("{cluster}-{}", node.metadata.name);
    let spec = &mut expected.spec;
    spec.cluster_name = cluster.to_owned();
    spec.node_name.clone_from(&node.metadata.name);
    spec.pod_cidrs = node
        .pod_prefixes()
        .iter()
        .map(ToString::to_string)
        .collect();
    // Its agent finds the real one out.
    spec.interface_name = "eth0".to_owned();
    spec.ip = of(Family::Ipv4);
    spec.ip6 = of(Family::Ipv6);
    expected
}

/// The prefixes of a cluster's services, where it has objects that say so (Kubernetes 1.33).
async fn services(member: &Cluster) -> Vec<String> {
    let listed = member.list("/apis/networking.k8s.io/v1/servicecidrs").await;
    let each = listed.unwrap_or_default().into_iter();
    let cidrs = each.flat_map(|object| {
        object["spec"]["cidrs"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    cidrs
        .filter_map(|cidr| cidr.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::api::NetworkType;
    use serde_json::json;

    fn node(name: &str, ip: &str, pods: &str) -> Node {
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": pods, "podCIDRs": [pods]},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        });
        Node::deserialize(&node).expect("a Node")
    }

    fn one(cluster: &str, ip: &str, pods: &str) -> (api::Cluster, ClusterNode) {
        let node = node("n1", ip, pods);
        let expected = expected_node(&node, &node.ips(), cluster);
        let mut object = api::Cluster::default();
        object.metadata.name = cluster.to_owned();
        object.spec.cluster_link_options = Some(ClusterLinkOptions {
            network_type: NetworkType::Gateway,
            ip_family: "ipv4".to_owned(),
            ..ClusterLinkOptions::default()
        });
        object.status.cluster_link_status.pod_cidrs = vec![pods.to_owned()];
        (object, expected)
    }

    fn refused(new: (api::Cluster, ClusterNode)) -> Vec<String> {
        let (cluster, mut node) = one("a", "10.0.0.1", "10.1.0.0/16");
        node.spec.roles = vec!["gateway".to_owned()];
        let fleet = Fleet {
            clusters: vec![cluster],
            cluster_nodes: vec![node],
            ..Fleet::default()
        };
        let mut found = Found::default();
        against_others(new.0, vec![new.1], fleet, &mut found);
        found.refusals.into_iter().map(|Refusal(why)| why).collect()
    }

    #[test]
    fn what_another_cluster_has_is_refused_before_anything_is_made() {
        assert_eq!(
            refused(one("b", "10.0.0.2", "10.2.0.0/16")),
            Vec::<String>::new()
        );
        for new in [
            one("b", "10.0.0.2", "10.1.0.0/16"),
            one("b", "10.0.0.2", "10.1.128.0/24"),
            one("b", "10.0.0.2", "10.0.0.0/8"),
            one("b", "10.0.0.1", "10.2.0.0/16"),
        ] {
            assert!(!refused(new.clone()).is_empty(), "{new:?}");
        }
    }

    #[test]
    fn a_cluster_that_is_linked_already_is_no_obstacle_to_itself() {
        assert_eq!(
            refused(one("a", "10.0.0.1", "10.1.0.0/16")),
            Vec::<String>::new()
        );
    }
}
