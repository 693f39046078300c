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

/// What a cluster is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// How many gateways, where so many nodes are ready; at least one.
    pub gateways: usize,
    /// Whether one more stands by. Several gateways stand in for each other, and have none.
    pub standby: Standby,
}

impl Wish {
    /// One gateway.
    #[must_use]
    pub fn one(standby: Standby) -> Self {
        Self {
            gateways: 1,
            standby,
        }
    }
}

/// The nodes that have to be gateways, of a cluster's ClusterNodes in any order, at most so many: of the ready ones that are not cut off those that are
/// it already, then the standby, then the first ones by name; where all are cut off, of these. None where none is ready.
#[must_use]
pub fn elected<'a>(nodes: &'a [ClusterNode], able: &Able<'_>, most: usize) -> Vec<&'a ClusterNode> {
    let mut best = best(nodes, able, &[Role::Gateway, Role::Standby]);
    best.truncate(most);
    best
}

/// Those who can do it, the best one first: by preferred role, then by name. Who is cut off can where nobody else is ready.
fn best<'a>(
    nodes: impl IntoIterator<Item = &'a ClusterNode>,
    able: &Able<'_>,
    preferred: &[Role],
) -> Vec<&'a ClusterNode> {
    let name = |node: &ClusterNode| node.spec.node_name.as_str().to_owned();
    let rank = |node: &ClusterNode| {
        let role = Role::of(node);
        let place = preferred.iter().position(|one| *one == role);
        place.unwrap_or(preferred.len())
    };
    let ready = nodes
        .into_iter()
        .filter(|node| able.ready.contains(node.spec.node_name.as_str()));
    let (cut_off, mut best): (Vec<_>, Vec<_>) =
        ready.partition(|node| able.cut_off.contains(node.spec.node_name.as_str()));
    if best.is_empty() {
        best = cut_off;
    }
    best.sort_by_key(|node| (rank(node), name(node), node.metadata.name.clone()));
    best
}

/// The node that has to stand by: a ready one that is not cut off, or else any.
fn standby<'a>(
    others: impl Iterator<Item = &'a ClusterNode>,
    able: &Able<'_>,
) -> Option<&'a ClusterNode> {
    best(others, able, &[Role::Standby]).into_iter().next()
}

/// What has to be written so that the elected nodes are the only gateways, and another one the only standby. A role is given before it is taken, so that no
/// moment has none; a node that becomes the other one changes at once.
///
/// Where no node is ready nothing changes: kubelets that cannot be heard say nothing about packets, and a cluster without a gateway has no
/// path at all.
#[must_use]
pub fn roles(nodes: &[ClusterNode], able: &Able<'_>, wish: Wish) -> Vec<Roles> {
    let gateways = elected(nodes, able, wish.gateways.max(1));
    if gateways.is_empty() {
        return Vec::new();
    }
    let is_gateway = |node: &ClusterNode| gateways.iter().any(|one| std::ptr::eq(*one, node));
    let others = nodes.iter().filter(|node| !is_gateway(node));
    let standby = match wish.standby {
        Standby::Named if wish.gateways <= 1 => standby(others, able),
        _ => None,
    };
    let wanted = |node: &ClusterNode| {
        if is_gateway(node) {
            Role::Gateway
        } else if standby.is_some_and(|standby| std::ptr::eq(standby, node)) {
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
        let elected = elected(nodes, able, 1);
        elected.first().map(|node| node.spec.node_name.as_str())
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
        let written = roles(&nodes, &able, Wish::one(Standby::Named));
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
        assert_eq!(roles(&nodes, &able, Wish::one(Standby::Named)), []);
    }

    #[test]
    fn the_role_is_given_before_it_is_taken_and_other_roles_stay() {
        let nodes = [node("n1", &["GATEWAY", "edge"]), node("n2", &["spare"])];
        let written = roles(&nodes, &ready(&["n2"]), Wish::one(Standby::Named));
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
        /// With any roles and any readiness: writing what has to be written leaves as many gateways as asked for of the ready ones, one standby where a second node is, or
        /// what there was where nobody is ready, and nothing to write; and a gateway that is able was not replaced.
        #[test]
        fn one_step_is_enough(shape in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 0..8), is_named in any::<bool>(), most in 1..4_usize) {
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
            let standby = if is_named { Standby::Named } else { Standby::Absent };
            let wish = Wish { gateways: most, standby };
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
            let is_able = |name: &str| able.ready.contains(name) && !able.cut_off.contains(name);
            let capable = names.iter().filter(|name| is_able(name)).count();
            let capable = if capable == 0 { able.ready.len() } else { capable };
            prop_assert_eq!(gateways.len(), most.min(capable));
            prop_assert!(gateways.iter().all(|name| able.ready.contains(name)));
            let standbys = with(&ClusterNodeSpec::is_standby);
            prop_assert_eq!(standbys.len(), usize::from(is_named && most == 1 && able.ready.len() > 1));
            prop_assert!(standbys.iter().all(|name| able.ready.contains(name) && !gateways.contains(name)));
            // Those that are able stay.
            let stay = before.iter().filter(|name| is_able(name)).count();
            let stayed = gateways.iter().filter(|name| before.iter().any(|one| one == *name)).count();
            prop_assert!(stayed >= stay.min(most));
        }
    }
}
