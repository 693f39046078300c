//! Which node of a cluster is its gateway.

use std::collections::BTreeSet;

use crate::api::ClusterNode;

/// The role of a gateway, as Kosmos writes it.
const GATEWAY: &str = "gateway";

/// A ClusterNode that is to get other roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// The ClusterNode's name.
    pub cluster_node: String,
    /// The node's name.
    pub node: String,
    /// All of its roles from then on; those that are nobody's here are kept.
    pub roles: Vec<String>,
    /// Whether it is the gateway from then on.
    pub is_gateway: bool,
}

/// The node that has to be the gateway, of a cluster's ClusterNodes in any order: a ready one that is it already, or else the first ready
/// one by name. None where none is ready.
#[must_use]
pub fn elected<'a>(nodes: &'a [ClusterNode], ready: &BTreeSet<&str>) -> Option<&'a ClusterNode> {
    let mut candidates: Vec<&ClusterNode> = nodes
        .iter()
        .filter(|node| ready.contains(node.spec.node_name.as_str()))
        .collect();
    candidates.sort_by_key(|node| (&node.spec.node_name, &node.metadata.name));
    let holder = candidates.iter().find(|node| node.spec.is_gateway());
    holder.or(candidates.first()).copied()
}

/// What has to be written so that the elected node is the only gateway. The role is given before it is taken, so that no moment has none.
///
/// Where no node is ready nothing changes: kubelets that cannot be heard say nothing about packets, and a cluster without a gateway has no
/// path at all.
#[must_use]
pub fn roles(nodes: &[ClusterNode], ready: &BTreeSet<&str>) -> Vec<Roles> {
    let Some(elected) = elected(nodes, ready) else {
        return Vec::new();
    };
    let is_it = |node: &ClusterNode| std::ptr::eq(elected, node);
    let wrong = nodes
        .iter()
        .filter(|node| node.spec.is_gateway() != is_it(node));
    let mut roles: Vec<Roles> = wrong
        .map(|node| {
            let is_gateway = is_it(node);
            let others = node.spec.roles.iter();
            let others = others
                .filter(|role| !role.eq_ignore_ascii_case(GATEWAY))
                .cloned();
            Roles {
                cluster_node: node.metadata.name.clone(),
                node: node.spec.node_name.clone(),
                roles: others
                    .chain(is_gateway.then(|| GATEWAY.to_owned()))
                    .collect(),
                is_gateway,
            }
        })
        .collect();
    roles.sort_by(|one, other| {
        let key = |roles: &Roles| (!roles.is_gateway, roles.cluster_node.clone());
        key(one).cmp(&key(other))
    });
    roles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::{ClusterNodeSpec, Metadata};

    fn node(name: &str, roles: &[&str]) -> ClusterNode {
        ClusterNode {
            metadata: Metadata {
                name: format!("a-{name}"),
                ..Metadata::default()
            },
            spec: ClusterNodeSpec {
                node_name: name.to_owned(),
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                ..ClusterNodeSpec::default()
            },
        }
    }

    fn ready<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
        names.iter().copied().collect()
    }

    fn name<'a>(nodes: &'a [ClusterNode], names: &[&str]) -> Option<&'a str> {
        elected(nodes, &ready(names)).map(|node| node.spec.node_name.as_str())
    }

    #[test]
    fn the_first_ready_node_is_elected_and_stays_while_it_is_ready() {
        let fresh = [node("n2", &[]), node("n1", &[])];
        assert_eq!(name(&fresh, &["n1", "n2"]), Some("n1"));
        assert_eq!(name(&fresh, &["n2"]), Some("n2"));
        let settled = [node("n1", &[]), node("n2", &["Gateway"])];
        assert_eq!(name(&settled, &["n1", "n2"]), Some("n2"));
        assert_eq!(name(&settled, &["n1"]), Some("n1"));
        assert_eq!(name(&settled, &[]), None);
        let two = [node("n1", &["gateway"]), node("n2", &["gateway"])];
        assert_eq!(name(&two, &["n1", "n2"]), Some("n1"));
    }

    #[test]
    fn the_role_is_given_before_it_is_taken_and_other_roles_stay() {
        let nodes = [node("n1", &["GATEWAY", "edge"]), node("n2", &["spare"])];
        let written = roles(&nodes, &ready(&["n2"]));
        let said: Vec<_> = written
            .iter()
            .map(|one| (one.node.as_str(), one.is_gateway, one.roles.join(" ")))
            .collect();
        assert_eq!(
            said,
            [
                ("n2", true, "spare gateway".to_owned()),
                ("n1", false, "edge".to_owned())
            ]
        );
    }

    proptest! {
        /// With any roles and any readiness: writing what has to be written leaves one gateway that is ready, or what there
        /// was where nobody is, and nothing to write; and a gateway that is ready was not replaced.
        #[test]
        fn one_step_is_enough(shape in prop::collection::vec((any::<bool>(), any::<bool>()), 0..8)) {
            let names: Vec<String> = (0..shape.len()).map(|at| format!("n{at}")).collect();
            let mut nodes: Vec<ClusterNode> = names.iter().zip(&shape)
                .map(|(name, (is_gateway, _))| node(name, if *is_gateway { &["gateway"] } else { &[] })).collect();
            let ready: BTreeSet<&str> = names.iter().zip(&shape).filter(|(_, (_, is_ready))| *is_ready).map(|(name, _)| name.as_str()).collect();
            let before: Vec<String> = nodes.iter().filter(|node| node.spec.is_gateway()).map(|node| node.spec.node_name.clone()).collect();
            let written = roles(&nodes, &ready);
            for one in written {
                let node = nodes.iter_mut().find(|node| node.metadata.name == one.cluster_node).expect("one of them");
                node.spec.roles = one.roles;
            }
            let gateways: Vec<&str> = nodes.iter().filter(|node| node.spec.is_gateway()).map(|node| node.spec.node_name.as_str()).collect();
            prop_assert!(roles(&nodes, &ready).is_empty());
            if ready.is_empty() {
                prop_assert_eq!(gateways, before);
                return Ok(());
            }
            prop_assert_eq!(gateways.len(), 1);
            prop_assert!(ready.contains(gateways[0]));
            if before.iter().any(|name| ready.contains(name.as_str())) {
                prop_assert!(before.iter().any(|name| name == gateways[0]));
            }
        }
    }
}
