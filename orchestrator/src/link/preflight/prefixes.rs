//! The new cluster as its controller will tell it, and what the planner objects to in the fleet with it.

use std::collections::{BTreeMap, BTreeSet};

use datapath::api::{self, ClusterLinkOptions, ClusterNode, Fleet, GATEWAYS};
use datapath::code::Code;
use datapath::control::nodes::{Command, Links, Member, Node};
use datapath::evidence::{self, Gathered};
use datapath::plan::{Objection, Planner};
use datapath::state::Family;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Settings;
use super::super::cluster::Cluster;
use super::{Found, families, masquerade};

/// The new cluster's objects, as far as they can be known before its programs tell.
pub(super) struct New {
    pub(super) cluster: api::Cluster,
    /// By name; the first that is ready is elected.
    pub(super) nodes: Vec<ClusterNode>,
}

/// What the member shows of its prefixes, gathered as its controller does.
pub(super) async fn gathered(
    settings: &Settings,
    member: &Cluster,
    nodes: &[Node],
    found: &mut Found,
) -> Gathered {
    let gathered = evidence::gather(
        member.client.clone(),
        settings.link.cni.clone(),
        nodes.to_vec(),
        settings.namespace.clone(),
    );
    match gathered.await {
        Ok(gathered) => {
            let warnings = masquerade::warnings(&member.name, &gathered.evidence);
            found.warnings.extend(warnings);
            gathered
        }
        Err(why) => {
            found.warn(format!(
                "could not tell all prefixes of {}, which its controller will: {why}",
                member.name
            ));
            Gathered::default()
        }
    }
}

/// Refuses nodes that cannot be linked at all.
pub(super) fn addresses(nodes: &[Node], settings: &Settings, member: &str, found: &mut Found) {
    let word = settings.link.ip_family.as_str();
    let has = |node: &Node, family: Family| match family {
        Family::Ipv4 => node.ip.is_some(),
        Family::Ipv6 => node.ip6.is_some(),
    };
    let is_both = word == "all";
    for node in nodes {
        for family in families(word) {
            if !is_both && !has(node, family) {
                found.warn(format!(
                    "node {} of {member} has no InternalIP of {family}, and takes no part",
                    datapath::printable::printable(&node.name, 253)
                ));
            }
        }
    }
    if !nodes.iter().any(|node| node.is_ready) {
        found.refuse(format!(
            "no node of {member} is ready ({} in all): its agents could not run; kubectl get nodes says why",
            nodes.len()
        ));
    }
    let takes_part = |node: &Node| families(word).into_iter().any(|family| has(node, family));
    if !nodes.is_empty() && !nodes.iter().any(takes_part) {
        found.refuse(format!(
            "no node of {member} has an InternalIP of the family {word}: name another (--ip-family)"
        ));
    }
}

/// The new cluster's objects.
pub(super) fn expected(
    settings: &Settings,
    name: &str,
    nodes: &[Node],
    gathered: &Gathered,
    fleet: &Fleet,
    found: &mut Found,
) -> New {
    let link = &settings.link;
    let mut cluster = api::Cluster::default();
    name.clone_into(&mut cluster.metadata.name);
    if settings.gateways > 1 {
        let number = settings.gateways.to_string();
        cluster
            .metadata
            .annotations
            .insert(GATEWAYS.to_owned(), number);
    }
    cluster.spec.cluster_link_options = Some(ClusterLinkOptions {
        cni: link.cni.clone(),
        network_type: link.network_type,
        ip_family: link.ip_family.clone(),
        global_cidrs_map: link.global_cidrs.clone(),
        ..ClusterLinkOptions::default()
    });
    let prefixes = gathered.evidence.prefixes();
    let texts = |found: Option<(_, Vec<IpNet>)>| {
        let nets = found.map(|(_, nets)| nets).unwrap_or_default();
        nets.iter().map(ToString::to_string).collect()
    };
    let status = &mut cluster.status.cluster_link_status;
    status.pod_cidrs = texts(prefixes.pods);
    status.service_cidrs = texts(prefixes.services);
    let links = json!({"spec": {"clusterLinkOptions": {"defaultNICName": link.default_nic}}});
    let member = Member {
        cluster: name.to_owned(),
        nodes: nodes
            .iter()
            .map(|node| (node.name.clone(), node.clone()))
            .collect(),
        links: Links::of(&links),
        blocks: gathered.blocks.clone(),
    };
    let changes = member.changes(&others(name, fleet));
    for taken in &changes.taken {
        let taken = datapath::printable::printable(taken, 253);
        found.refuse(format!(
            "ClusterNode {taken} is another cluster's, and a node of {name} would have the same name: join it under another (--name)"
        ));
    }
    let made = changes
        .commands
        .into_iter()
        .filter_map(|command| match command {
            Command::Create { object, .. } => ClusterNode::deserialize(&object).ok(),
            _ => None,
        });
    let mut made: Vec<ClusterNode> = made.collect();
    let is_ready = |node: &ClusterNode| {
        let mut ready = nodes.iter().filter(|node| node.is_ready);
        ready.any(|ready| ready.name == node.spec.node_name)
    };
    if let Some(first) = made.iter_mut().find(|node| is_ready(node)) {
        first.spec.roles = vec!["gateway".to_owned()];
    }
    New {
        cluster,
        nodes: made,
    }
}

/// Other clusters' ClusterNodes, as far as their names could be one of this cluster's.
fn others(name: &str, fleet: &Fleet) -> BTreeMap<String, Value> {
    let others = fleet.cluster_nodes.iter().filter(|node| {
        node.spec.cluster_name != name && node.metadata.name.starts_with(&format!("{name}-"))
    });
    let as_value = |node: &ClusterNode| {
        let spec = json!({"clusterName": node.spec.cluster_name, "nodeName": node.spec.node_name});
        (node.metadata.name.clone(), json!({"spec": spec}))
    };
    others.map(as_value).collect()
}

/// Refuses what the planner objects to in the fleet with the new cluster and does not in the one without.
pub(super) fn against_others(with: &Fleet, fleet: &Fleet, found: &mut Found) {
    let before = words(&Planner::of(fleet).objections());
    for objection in Planner::of(with).objections() {
        let text = objection.to_string();
        // Its link is found out later.
        let is_yet_to_come = text.contains("spec.interfaceName");
        if before.contains(&text) || is_yet_to_come {
            continue;
        }
        let remedy = match objection.code {
            Code::CidrOverlap => {
                " (--global-cidr PREFIX=PREFIX gives a cluster's pods or services other addresses outside of it)"
            }
            _ => "",
        };
        found.refuse(format!("{text}{remedy}"));
    }
}

fn words(objections: &[Objection]) -> BTreeSet<String> {
    objections.iter().map(ToString::to_string).collect()
}

/// The prefixes of a cluster's own pods and services, as its objects say them.
pub(super) fn of_cluster(fleet: &Fleet, name: &str) -> Vec<IpNet> {
    let clusters = fleet.clusters.iter();
    let clusters = clusters.filter(|cluster| cluster.metadata.name == name);
    let status = clusters.flat_map(|cluster| {
        let status = &cluster.status.cluster_link_status;
        status.pod_cidrs.iter().chain(&status.service_cidrs)
    });
    let nodes = fleet.cluster_nodes.iter();
    let nodes = nodes.filter(|node| node.spec.cluster_name == name);
    let of_nodes = nodes.flat_map(|node| &node.spec.pod_cidrs);
    status
        .chain(of_nodes)
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Refuses several gateways of one cluster beside prefixes of another that are renamed, where one of the two is new: the two directions of a connection
/// between them have nothing in common that could be hashed, so that its replies may pass a gateway that has not seen it.
pub(super) fn shared_beside_renamed(with: &Fleet, new: &str, found: &mut Found) {
    let is_shared = |cluster: &&api::Cluster| {
        let number = cluster.metadata.annotations.get(GATEWAYS);
        number.is_some_and(|number| number != "1")
    };
    let is_renamed = |cluster: &&api::Cluster| {
        let options = cluster.spec.cluster_link_options.as_ref();
        options.is_some_and(|options| !options.global_cidrs_map.is_empty())
    };
    for shared in with.clusters.iter().filter(is_shared) {
        for renamed in with.clusters.iter().filter(is_renamed) {
            let names = [&shared.metadata.name, &renamed.metadata.name];
            if names[0] != names[1] && names.iter().any(|name| *name == new) {
                let [shared, renamed] = names.map(|name| datapath::printable::printable(name, 253));
                found.refuse(format!(
                    "{shared} has several gateways and {renamed} prefixes of other names (globalCIDRsMap): replies of connections between them may pass a gateway that has not seen the connection, and be dropped there (leave out --gateways, or --global-cidr)"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::api::NetworkType;
    use datapath::control::prefixes::Evidence;

    fn node(name: &str, ip: &str, pods: &str) -> Node {
        Node::of(&json!({
            "metadata": {"name": name},
            "spec": {"podCIDRs": [pods]},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}],
                       "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("a Node")
    }

    fn settings(maps: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        settings.link.network_type = NetworkType::Gateway;
        let maps = maps
            .iter()
            .map(|(own, global)| ((*own).to_owned(), (*global).to_owned()));
        settings.link.global_cidrs = maps.collect();
        settings
    }

    fn new(
        name: &str,
        ip: &str,
        pods: &str,
        maps: &[(&str, &str)],
        fleet: &Fleet,
    ) -> (New, Vec<String>) {
        let nodes = vec![node("n1", ip, pods)];
        let gathered = Gathered {
            evidence: Evidence {
                nodes: nodes.clone(),
                ..Evidence::default()
            },
            ..Gathered::default()
        };
        let mut found = Found::default();
        let mut new = expected(&settings(maps), name, &nodes, &gathered, fleet, &mut found);
        for node in &mut new.nodes {
            node.spec.interface_name = "eth0".to_owned();
        }
        (
            new,
            found
                .refusals
                .into_iter()
                .map(|refusal| refusal.0)
                .collect(),
        )
    }

    fn with(fleet: &Fleet, new: New) -> Fleet {
        let mut fleet = fleet.clone();
        fleet.clusters.push(new.cluster);
        fleet.cluster_nodes.extend(new.nodes);
        fleet
    }

    fn refused(name: &str, ip: &str, pods: &str, maps: &[(&str, &str)]) -> Vec<String> {
        let one = with(
            &Fleet::default(),
            new("a", "10.0.0.1", "10.1.0.0/16", &[], &Fleet::default()).0,
        );
        let (new, mut refusals) = new(name, ip, pods, maps, &one);
        let mut found = Found::default();
        let both = with(&one, new);
        against_others(&both, &one, &mut found);
        shared_beside_renamed(&both, name, &mut found);
        refusals.extend(found.refusals.into_iter().map(|refusal| refusal.0));
        refusals
    }

    #[test]
    fn several_gateways_and_renamed_prefixes_are_refused_on_either_side() {
        let renamed = [("10.2.0.0/16", "10.9.0.0/16")];
        let told = |gateways: u8, other: Option<&str>, maps: &[(&str, &str)]| -> Vec<String> {
            let mut fleet = Fleet::default();
            let mut cluster = api::Cluster::default();
            cluster.metadata.name = "a".to_owned();
            let number = other.map(|number| (GATEWAYS.to_owned(), number.to_owned()));
            cluster.metadata.annotations.extend(number);
            fleet.clusters.push(cluster);
            let mut settings = settings(maps);
            settings.gateways = gateways;
            let (nodes, mut found) = ([node("n1", "10.0.0.2", "10.2.0.0/16")], Found::default());
            let gathered = Gathered::default();
            let new = expected(&settings, "b", &nodes, &gathered, &fleet, &mut found);
            fleet.clusters.push(new.cluster);
            shared_beside_renamed(&fleet, "b", &mut found);
            found
                .refusals
                .into_iter()
                .map(|refusal| refusal.0)
                .collect()
        };
        assert_eq!(told(2, Some("2"), &[]), Vec::<String>::new());
        assert_eq!(told(1, Some("1"), &renamed), Vec::<String>::new());
        let said = told(1, Some("2"), &renamed);
        assert!(
            said.len() == 1 && said[0].starts_with("a has several gateways and b"),
            "{said:?}"
        );
    }

    #[test]
    fn what_another_cluster_has_is_refused_before_anything_is_made() {
        let none: Vec<String> = Vec::new();
        assert_eq!(refused("b", "10.0.0.2", "10.2.0.0/16", &[]), none);
        for (ip, pods, what) in [
            ("10.0.0.2", "10.1.0.0/16", "equal"),
            ("10.0.0.2", "10.1.128.0/24", "within"),
            ("10.0.0.2", "10.0.0.0/8", "around"),
            ("10.1.7.7", "10.2.0.0/16", "a node among another's pods"),
            ("10.0.0.2", "220.0.0.0/16", "the tunnels' own pool"),
        ] {
            let refused = refused("b", ip, pods, &[]);
            assert!(!refused.is_empty(), "{what}");
            assert!(
                refused.iter().any(|text| text.contains("--global-cidr")),
                "{what}: {refused:?}"
            );
        }
        assert!(
            !refused("b", "10.0.0.1", "10.2.0.0/16", &[]).is_empty(),
            "one address twice"
        );
    }

    #[test]
    fn both_sides_of_a_map_count() {
        let none: Vec<String> = Vec::new();
        // Its own prefix is another's, and outside it has another name.
        assert!(
            !refused(
                "b",
                "10.0.0.2",
                "10.2.0.0/16",
                &[("10.2.0.0/16", "10.1.0.0/16")]
            )
            .is_empty()
        );
        assert_eq!(
            refused(
                "b",
                "10.0.0.2",
                "10.2.0.0/16",
                &[("10.2.0.0/16", "10.202.0.0/16")]
            ),
            none
        );
    }

    #[test]
    fn a_name_that_makes_another_s_node_is_refused() {
        let mut fleet = Fleet::default();
        let mut node = ClusterNode::default();
        node.metadata.name = "b-c-n1".to_owned();
        node.spec.cluster_name = "b-c".to_owned();
        node.spec.node_name = "n1".to_owned();
        fleet.cluster_nodes.push(node.clone());
        let (_, refusals) = new("b-c", "10.0.0.2", "10.2.0.0/16", &[], &fleet);
        assert_eq!(refusals, Vec::<String>::new(), "its own");
        fleet.cluster_nodes[0].metadata.name = "b-n1".to_owned();
        let (_, refusals) = new("b", "10.0.0.2", "10.2.0.0/16", &[], &fleet);
        assert!(
            refusals[0].contains("b-n1") && refusals[0].contains("--name"),
            "{refusals:?}"
        );
    }

    #[test]
    fn nodes_without_an_address_of_the_family_or_that_are_not_ready_are_refused() {
        let judged = |word: &str, nodes: &[Node]| {
            let mut settings = settings(&[]);
            word.clone_into(&mut settings.link.ip_family);
            let mut found = Found::default();
            addresses(nodes, &settings, "west", &mut found);
            let refusals: Vec<String> = found
                .refusals
                .into_iter()
                .map(|refusal| refusal.0)
                .collect();
            (refusals.join("\n"), found.warnings.join("\n"))
        };
        let fine = node("n1", "10.0.0.1", "10.1.0.0/24");
        assert_eq!(
            judged("all", std::slice::from_ref(&fine)),
            (String::new(), String::new())
        );
        let (refusals, _) = judged("ipv6", std::slice::from_ref(&fine));
        assert!(
            refusals.contains("family ipv6") && refusals.contains("--ip-family"),
            "{refusals}"
        );
        let dead = Node {
            is_ready: false,
            ..fine.clone()
        };
        assert!(
            judged("ipv4", &[dead])
                .0
                .contains("no node of west is ready")
        );
        let other = node("n2", "fd00::1", "fd01::/64");
        let (refusals, warnings) = judged("ipv4", &[fine, other]);
        assert!(
            refusals.is_empty() && warnings.contains("node n2"),
            "{refusals} {warnings}"
        );
    }
}
