//! Which node of a cluster is its gateway, and which one stands in for it.

use std::collections::BTreeSet;

use crate::api::{ClusterNode, GATEWAY_ROLE, STANDBY_ROLE};

/// Whether a cluster gets a standby.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standby {
    /// Nobody stands in: other nodes are told of a new gateway by the API.
    Absent,
    /// Wherever there is a second ready node.
    #[default]
    Named,
}

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It is the gateway.
    Gateway,
    /// Neither.
    None,
    /// It stands in for the gateway.
    Standby,
}

impl Role {
    fn of(node: &ClusterNode) -> Self {
        match (node.spec.is_gateway(), node.spec.is_standby()) {
            (true, _) => Self::Gateway,
            (_, true) => Self::Standby,
            _ => Self::None,
        }
    }

    fn word(self) -> Option<&'static str> {
        match self {
            Self::Gateway => Some(GATEWAY_ROLE),
            Self::None => None,
            Self::Standby => Some(STANDBY_ROLE),
        }
    }
}

/// A ClusterNode that is to get other roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// The ClusterNode's name.
    pub cluster_node: String,
    /// The node's name.
    pub node: String,
    /// All of its roles from then on; those that are nobody's here are kept.
    pub roles: Vec<String>,
    /// What it is from then on.
    pub role: Role,
    /// What it was.
    pub before: Role,
}

/// Which nodes of a cluster can do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Able<'a> {
    /// The names of the nodes that are ready.
    pub ready: BTreeSet<&'a str>,
    /// The names of the nodes that say that they reach no other cluster. They are elected last.
    pub cut_off: BTreeSet<&'a str>,
}

/// The node that has to be the gateway, of a cluster's ClusterNodes in any order: of the ready ones that are not cut off the one that is it
/// already, or else its standby, or else the first one by name; where all are cut off, of these. None where none is ready.
#[must_use]
pub fn elected<'a>(nodes: &'a [ClusterNode], able: &Able<'_>) -> Option<&'a ClusterNode> {
    best(nodes, able, [Role::Gateway, Role::Standby])
}

/// The first of the preferred roles by name, or else the first one by name; who is cut off comes after all others.
fn best<'a, const N: usize>(
    nodes: &'a [ClusterNode],
    able: &Able<'_>,
    preferred: [Role; N],
) -> Option<&'a ClusterNode> {
    let rank = |node: &ClusterNode| {
        let role = Role::of(node);
        preferred.iter().position(|one| *one == role).unwrap_or(N)
    };
    nodes
        .iter()
        .filter(|node| able.ready.contains(node.spec.node_name.as_str()))
        .min_by_key(|node| {
            let name = node.spec.node_name.as_str();
            (
                able.cut_off.contains(name),
                rank(node),
                name,
                &node.metadata.name,
            )
        })
}

/// What has to be written so that the elected node is the only gateway, and another one the only standby. A role is given before it is taken, so that no
/// moment has none; a node that becomes the other one changes at once.
///
/// Where no node is ready nothing changes: kubelets that cannot be heard say nothing about packets, and a cluster without a gateway has no
/// path at all.
#[must_use]
pub fn roles(nodes: &[ClusterNode], able: &Able<'_>, wish: Standby) -> Vec<Roles> {
    let Some(gateway) = elected(nodes, able) else {
        return Vec::new();
    };
    let others: Vec<ClusterNode> = nodes
        .iter()
        .filter(|node| !std::ptr::eq(*node, gateway))
        .cloned()
        .collect();
    let standby = match wish {
        Standby::Absent => None,
        Standby::Named => best(&others, able, [Role::Standby]),
    };
    let wanted = |node: &ClusterNode| {
        if std::ptr::eq(node, gateway) {
            Role::Gateway
        } else if standby.is_some_and(|standby| standby.metadata.name == node.metadata.name) {
            Role::Standby
        } else {
            Role::None
        }
    };
    let words = |node: &ClusterNode| {
        let is_ours = |role: &String| {
            [GATEWAY_ROLE, STANDBY_ROLE]
                .iter()
                .any(|ours| role.eq_ignore_ascii_case(ours))
        };
        let others = node.spec.roles.iter().filter(|role| !is_ours(role));
        let own = wanted(node).word().map(str::to_owned);
        others.cloned().chain(own).collect::<Vec<String>>()
    };
    // Both roles at once say less than one.
    let is_wrong = |node: &&ClusterNode| {
        let has_both = node.spec.is_gateway() && node.spec.is_standby();
        Role::of(node) != wanted(node) || has_both
    };
    let wrong = nodes.iter().filter(is_wrong);
    let mut roles: Vec<Roles> = wrong
        .map(|node| Roles {
            cluster_node: node.metadata.name.clone(),
            node: node.spec.node_name.clone(),
            roles: words(node),
            role: wanted(node),
            before: Role::of(node),
        })
        .collect();
    let order = |role: Role| match role {
        Role::Gateway => 0,
        // A gateway of before still is one while another node is told.
        Role::Standby => 1,
        Role::None => 2,
    };
    roles.sort_by(|one, other| {
        let key = |roles: &Roles| (order(roles.role), roles.cluster_node.clone());
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

    fn ready<'a>(names: &[&'a str]) -> Able<'a> {
        Able {
            ready: names.iter().copied().collect(),
            cut_off: BTreeSet::new(),
        }
    }

    fn name<'a>(nodes: &'a [ClusterNode], able: &Able<'_>) -> Option<&'a str> {
        elected(nodes, able).map(|node| node.spec.node_name.as_str())
    }

    #[test]
    fn the_first_ready_node_is_elected_and_stays_while_it_is_ready() {
        let fresh = [node("n2", &[]), node("n1", &[])];
        assert_eq!(name(&fresh, &ready(&["n1", "n2"])), Some("n1"));
        assert_eq!(name(&fresh, &ready(&["n2"])), Some("n2"));
        let settled = [node("n1", &[]), node("n2", &["Gateway"])];
        assert_eq!(name(&settled, &ready(&["n1", "n2"])), Some("n2"));
        assert_eq!(name(&settled, &ready(&["n1"])), Some("n1"));
        assert_eq!(name(&settled, &ready(&[])), None);
        let two = [node("n1", &["gateway"]), node("n2", &["gateway"])];
        assert_eq!(name(&two, &ready(&["n1", "n2"])), Some("n1"));
    }

    #[test]
    fn the_standby_succeeds_and_who_is_cut_off_goes() {
        let nodes = [
            node("n1", &[]),
            node("n2", &["gateway"]),
            node("n3", &["standby"]),
        ];
        assert_eq!(name(&nodes, &ready(&["n1", "n3"])), Some("n3"));
        let able = Able {
            cut_off: ["n2"].into(),
            ..ready(&["n1", "n2", "n3"])
        };
        assert_eq!(name(&nodes, &able), Some("n3"));
        let written = roles(&nodes, &able, Standby::Named);
        let said: Vec<_> = written
            .iter()
            .map(|one| (one.node.as_str(), one.roles.join(" ")))
            .collect();
        // The next standby is one that is not cut off.
        assert_eq!(
            said,
            [
                ("n3", "gateway".to_owned()),
                ("n1", "standby".to_owned()),
                ("n2", String::new())
            ]
        );
        // Where all are cut off that is no reason to change anything.
        let able = Able {
            cut_off: ["n1", "n2", "n3"].into(),
            ..ready(&["n1", "n2", "n3"])
        };
        assert_eq!(roles(&nodes, &able, Standby::Named), []);
    }

    #[test]
    fn the_role_is_given_before_it_is_taken_and_other_roles_stay() {
        let nodes = [node("n1", &["GATEWAY", "edge"]), node("n2", &["spare"])];
        let written = roles(&nodes, &ready(&["n2"]), Standby::Named);
        let said: Vec<_> = written
            .iter()
            .map(|one| (one.node.as_str(), one.role, one.roles.join(" ")))
            .collect();
        assert_eq!(
            said,
            [
                ("n2", Role::Gateway, "spare gateway".to_owned()),
                ("n1", Role::None, "edge".to_owned())
            ]
        );
    }

    /// What is drawn of a node.
    type Drawn = (bool, bool, bool, bool);

    proptest! {
        /// With any roles and any readiness: writing what has to be written leaves one gateway that is ready and one standby where a second node is, or
        /// what there was where nobody is ready, and nothing to write; and a gateway that is able was not replaced.
        #[test]
        fn one_step_is_enough(shape in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 0..8), is_named in any::<bool>()) {
            let names: Vec<String> = (0..shape.len()).map(|at| format!("n{at}")).collect();
            let mut nodes: Vec<ClusterNode> = names.iter().zip(&shape)
                .map(|(name, (is_gateway, is_standby, ..))| {
                    let words: Vec<&str> = [(is_gateway, "gateway"), (is_standby, "standby")].into_iter().filter(|(is, _)| **is).map(|(_, word)| word).collect();
                    node(name, &words)
                }).collect();
            let those = |is: &dyn Fn(&Drawn) -> bool| -> BTreeSet<&str> {
                names.iter().zip(&shape).filter(|(_, shape)| is(shape)).map(|(name, _)| name.as_str()).collect()
            };
            let able = Able { ready: those(&|shape| shape.2), cut_off: those(&|shape| shape.3) };
            let wish = if is_named { Standby::Named } else { Standby::Absent };
            let before: Vec<String> = nodes.iter().filter(|node| node.spec.is_gateway()).map(|node| node.spec.node_name.clone()).collect();
            let written = roles(&nodes, &able, wish);
            for one in written {
                let node = nodes.iter_mut().find(|node| node.metadata.name == one.cluster_node).expect("one of them");
                node.spec.roles = one.roles;
                // At no moment a cluster without a gateway that had one.
                prop_assert!(before.is_empty() || nodes.iter().any(|node| node.spec.is_gateway()));
            }
            let with = |is: &dyn Fn(&ClusterNodeSpec) -> bool| -> Vec<&str> {
                nodes.iter().filter(|node| is(&node.spec)).map(|node| node.spec.node_name.as_str()).collect()
            };
            let gateways = with(&ClusterNodeSpec::is_gateway);
            prop_assert!(roles(&nodes, &able, wish).is_empty());
            if able.ready.is_empty() {
                prop_assert_eq!(gateways, before);
                return Ok(());
            }
            prop_assert_eq!(gateways.len(), 1);
            prop_assert!(able.ready.contains(gateways[0]));
            let standbys = with(&ClusterNodeSpec::is_standby);
            prop_assert_eq!(standbys.len(), usize::from(is_named && able.ready.len() > 1));
            prop_assert!(standbys.iter().all(|name| able.ready.contains(name) && *name != gateways[0]));
            let is_able = |name: &str| able.ready.contains(name) && !able.cut_off.contains(name);
            if before.iter().any(|name| is_able(name)) {
                prop_assert!(before.iter().any(|name| name == gateways[0]));
            }
        }
    }
}
