//! The rights that the programs need, each in each cluster, and no more (feature `kube`).
//!
//! | who | where | what |
//! |---|---|---|
//! | agent | control plane | NodeConfigs: read, their status; to find its underlay its own Cluster: read, and ClusterNodes: read, change; to plan by itself Clusters and ClusterNodes: read |
//! | controller | member | Nodes, ServiceCIDRs and the CNI's objects: read; three ConfigMaps and the pods of kube-system: read; its two Leases; services: create, which it only asks for as a dry run; the two Secrets with its own and the agents' token: read, change |
//! | controller | control plane | its own Cluster: read, change; ClusterNodes: read, make, change, remove; tokens of its own account and of the agents'; Events |
//! | manager | control plane | Clusters: read, their conditions and finalizers; ClusterNodes: read, their conditions, remove; NodeConfigs: read, make, change, remove; its Lease; Events |
//!
//! No rule has a wildcard, none gives a Secret but the two by name, and what can be narrowed by name is. ClusterNodes cannot: RBAC knows no
//! labels, and names that are to be made are not known before; a [`policy`] of the API server narrows them to those of the own cluster.
//!
//! A finalizer of an object is changed with the object. The subresource `finalizers` is asked for by `OwnerReferencesPermissionEnforcement`
//! only, of whoever makes an object the owner of another, which nobody does here.

pub mod policy;

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::api::ObjectMeta;

use crate::api::GROUP;

/// The Lease of the controller, in the member cluster.
pub const CONTROLLER_LEASE: &str = "clusterlink-controller";
/// The Lease of the elector, in the member cluster; Kosmos' elector has the same, so that only one of them elects.
pub const ELECTOR_LEASE: &str = "elector";
/// The Lease of the manager, in the control plane; Kosmos' network-manager has the same, so that only one of them writes.
pub const MANAGER_LEASE: &str = "network-manager";

/// The Secret of a member cluster with the agents' access to the control plane.
pub const AGENT_SECRET: &str = "clusterlink-agent";
/// The Secret of a member cluster with the controller's access to the control plane.
pub const CONTROLLER_SECRET: &str = "clusterlink-controller";
/// The key of both Secrets that holds a kubeconfig, which names [`TOKEN_KEY`] as its token file.
pub const KUBECONFIG_KEY: &str = "kubeconfig";
/// The key of both Secrets that holds the token, which the controller renews.
pub const TOKEN_KEY: &str = "token";
/// The annotation of both Secrets that says when the token expires, as RFC 3339.
pub const TOKEN_EXPIRES: &str = "kosmos.io/clusterlink-token-expires";
/// How long a token lasts that is asked for, seconds: 30 days.
pub const TOKEN_LIFETIME: i64 = 30 * 24 * 3600;

/// The service account that a cluster's agents have in the control plane.
#[must_use]
pub fn agent_account(cluster: &str) -> String {
    format!("clusterlink-agent-{cluster}")
}

/// The service account that a cluster's controller has in the control plane.
#[must_use]
pub fn controller_account(cluster: &str) -> String {
    format!("clusterlink-controller-{cluster}")
}

/// The group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";
/// Where Events about objects of no namespace are.
const EVENTS: &str = "default";

/// What somebody may do in one cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rights {
    /// Everywhere in it.
    pub everywhere: Vec<PolicyRule>,
    /// In single namespaces.
    pub within: BTreeMap<String, Vec<PolicyRule>>,
}

/// The objects that give somebody rights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grant {
    /// Of the whole cluster; none where there are no rights everywhere.
    pub cluster_role: Option<ClusterRole>,
    /// See `cluster_role`.
    pub cluster_role_binding: Option<ClusterRoleBinding>,
    /// One for each namespace.
    pub roles: Vec<Role>,
    /// One for each of `roles`.
    pub role_bindings: Vec<RoleBinding>,
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn named(group: &str, resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    PolicyRule {
        resource_names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..rule(group, resources, verbs)
    }
}

/// What leader election by these Leases needs. Creation cannot be narrowed by name.
fn leases(names: &[&str]) -> Vec<PolicyRule> {
    const COORDINATION: &str = "coordination.k8s.io";
    vec![
        rule(COORDINATION, &["leases"], &["create"]),
        named(COORDINATION, &["leases"], &["get", "update"], names),
    ]
}

fn events() -> PolicyRule {
    rule("", &["events"], &["create", "get", "patch"])
}

const READ: &[&str] = &["get", "list", "watch"];

/// The agents' in the control plane.
#[must_use]
pub fn agent() -> Rights {
    Rights {
        everywhere: vec![
            rule(GROUP, &["nodeconfigs"], READ),
            rule(GROUP, &["nodeconfigs/status"], &["patch"]),
        ],
        within: BTreeMap::new(),
    }
}

/// What an agent needs beside [`agent`] to find its node's link and addresses by itself: its own Cluster says how, and its ClusterNode takes
/// what it found. Names of ClusterNodes are not known when this is given, and one account serves all nodes of a cluster.
#[must_use]
pub fn agent_detecting(cluster: &str) -> Rights {
    Rights {
        everywhere: vec![
            named(GROUP, &["clusters"], READ, &[cluster]),
            rule(GROUP, &["clusternodes"], &["get", "list", "patch", "watch"]),
        ],
        within: BTreeMap::new(),
    }
}

/// What an agent needs beside [`agent`] to plan by itself. A Cluster may hold a kubeconfig, which RBAC cannot leave out: give this where none does, or
/// where whoever is root on a node may have it.
#[must_use]
pub fn agent_planning() -> Rights {
    Rights {
        everywhere: vec![rule(GROUP, &["clusters", "clusternodes"], READ)],
        within: BTreeMap::new(),
    }
}

/// The controller's and elector's in their own cluster; `namespace` is where their Leases and the two Secrets are.
#[must_use]
pub fn controller_in_member(namespace: &str) -> Rights {
    let mut own = leases(&[CONTROLLER_LEASE, ELECTOR_LEASE]);
    own.push(rule("", &["services"], &["create"]));
    own.push(named(
        "",
        &["secrets"],
        &["get", "patch"],
        &[AGENT_SECRET, CONTROLLER_SECRET],
    ));
    let mut within = BTreeMap::from([
        (
            "kube-flannel".to_owned(),
            vec![named("", &["configmaps"], READ, &["kube-flannel-cfg"])],
        ),
        (
            "kube-system".to_owned(),
            vec![
                named(
                    "",
                    &["configmaps"],
                    READ,
                    &["cilium-config", "kube-flannel-cfg", "kubeadm-config"],
                ),
                rule("", &["pods"], &["list"]),
            ],
        ),
    ]);
    within.entry(namespace.to_owned()).or_default().extend(own);
    Rights {
        everywhere: vec![
            rule("", &["nodes"], READ),
            rule("networking.k8s.io", &["servicecidrs"], READ),
            rule(
                "crd.projectcalico.org",
                &["blockaffinities", "ippools"],
                READ,
            ),
            rule("cilium.io", &["ciliumnodes"], READ),
        ],
        within,
    }
}

/// The controller's and elector's of a cluster in the control plane; `namespace` is where the cluster's service accounts are.
#[must_use]
pub fn controller_in_control_plane(cluster: &str, namespace: &str) -> Rights {
    let accounts = [agent_account(cluster), controller_account(cluster)];
    let tokens = named(
        "",
        &["serviceaccounts/token"],
        &["create"],
        &accounts.each_ref().map(String::as_str),
    );
    let mut within = BTreeMap::from([(EVENTS.to_owned(), vec![events()])]);
    within.entry(namespace.to_owned()).or_default().push(tokens);
    Rights {
        everywhere: vec![
            named(
                GROUP,
                &["clusters"],
                &["get", "list", "patch", "watch"],
                &[cluster],
            ),
            named(GROUP, &["clusters/status"], &["patch"], &[cluster]),
            rule(
                GROUP,
                &["clusternodes"],
                &["create", "delete", "get", "list", "patch", "watch"],
            ),
        ],
        within,
    }
}

/// The manager's in the control plane; `namespace` is where its Lease is.
#[must_use]
pub fn manager(namespace: &str) -> Rights {
    let mut within = BTreeMap::from([(EVENTS.to_owned(), vec![events()])]);
    within
        .entry(namespace.to_owned())
        .or_default()
        .extend(leases(&[MANAGER_LEASE]));
    Rights {
        everywhere: vec![
            rule(GROUP, &["clusters"], &["get", "list", "patch", "watch"]),
            rule(
                GROUP,
                &["clusternodes"],
                &["delete", "get", "list", "watch"],
            ),
            rule(
                GROUP,
                &["clusternodes/status", "clusters/status"],
                &["patch"],
            ),
            rule(
                GROUP,
                &["nodeconfigs"],
                &["create", "delete", "get", "list", "patch", "watch"],
            ),
        ],
        within,
    }
}

impl Rights {
    /// These and others.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.everywhere.extend(others.everywhere);
        for (namespace, rules) in others.within {
            self.within.entry(namespace).or_default().extend(rules);
        }
        self
    }

    /// The objects that give these rights to a service account; all of them have the same name and labels.
    #[must_use]
    pub fn granted(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        account: &str,
        account_namespace: &str,
    ) -> Grant {
        let metadata = |namespace: Option<&str>| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: namespace.map(str::to_owned),
            labels: (!labels.is_empty()).then(|| labels.clone()),
            ..ObjectMeta::default()
        };
        let role_ref = |kind: &str| RoleRef {
            api_group: RBAC.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        let subjects = || {
            Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: account.to_owned(),
                namespace: Some(account_namespace.to_owned()),
                ..Subject::default()
            }])
        };
        let mut grant = Grant::default();
        if !self.everywhere.is_empty() {
            grant.cluster_role = Some(ClusterRole {
                metadata: metadata(None),
                rules: Some(self.everywhere.clone()),
                ..ClusterRole::default()
            });
            grant.cluster_role_binding = Some(ClusterRoleBinding {
                metadata: metadata(None),
                role_ref: role_ref("ClusterRole"),
                subjects: subjects(),
            });
        }
        for (namespace, rules) in &self.within {
            grant.roles.push(Role {
                metadata: metadata(Some(namespace)),
                rules: Some(rules.clone()),
            });
            grant.role_bindings.push(RoleBinding {
                metadata: metadata(Some(namespace)),
                role_ref: role_ref("Role"),
                subjects: subjects(),
            });
        }
        grant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Rights> {
        vec![
            agent().with(agent_detecting("east")).with(agent_planning()),
            controller_in_member("kosmos-system"),
            controller_in_control_plane("east", "kosmos-system"),
            manager("kosmos-system"),
        ]
    }

    #[test]
    fn no_rule_says_everything_and_none_gives_secrets_but_two_by_name() {
        for rights in all() {
            for rule in rights
                .everywhere
                .iter()
                .chain(rights.within.values().flatten())
            {
                let words = [&rule.api_groups, &rule.resources]
                    .into_iter()
                    .flatten()
                    .flatten();
                let names = rule.resource_names.clone().unwrap_or_default();
                for word in words.chain(&rule.verbs) {
                    assert!(
                        !word.contains('*') && word != "deletecollection",
                        "{rule:?}"
                    );
                    if word == "secrets" {
                        assert_eq!(names, [AGENT_SECRET, CONTROLLER_SECRET]);
                        assert_eq!(rule.verbs, ["get", "patch"]);
                    }
                    if word == "serviceaccounts/token" {
                        assert_eq!(
                            names,
                            ["clusterlink-agent-east", "clusterlink-controller-east"]
                        );
                        assert_eq!(rule.verbs, ["create"]);
                    }
                }
            }
        }
    }

    #[test]
    fn where_events_and_accounts_share_a_namespace_both_are_given() {
        let rights = controller_in_control_plane("east", "default");
        assert_eq!(rights.within["default"].len(), 2);
        assert_eq!(controller_in_control_plane("east", "other").within.len(), 2);
    }

    #[test]
    fn a_grant_names_its_role_wherever_it_binds_it() {
        let grant =
            manager("kosmos-system").granted("m", &BTreeMap::new(), "account", "kosmos-system");
        assert_eq!(grant.roles.len(), 2);
        for binding in &grant.role_bindings {
            assert_eq!(
                (
                    binding.role_ref.kind.as_str(),
                    binding.role_ref.name.as_str()
                ),
                ("Role", "m")
            );
        }
        let of = grant
            .cluster_role_binding
            .expect("rights everywhere")
            .subjects
            .unwrap_or_default();
        assert_eq!(of[0].namespace.as_deref(), Some("kosmos-system"));
    }
}
