//! The objects of a linked fleet, as pure values. The programs' own are those of [`datapath::manifests`].
//!
//! | where | what | for |
//! |---|---|---|
//! | control plane | definitions, namespace, the manager with its rights | the fleet |
//! | control plane | two service accounts with rights, the Cluster | each member |
//! | member | namespace, agents, controller, their rights at home, two Secrets with tokens for the control plane | itself |
//!
//! A member's programs get tokens that last for thirty days and that its controller renews; nobody gets a kubeconfig of the operator's, and
//! the control plane gets no way into a member.

use std::collections::BTreeMap;

use datapath::api::{self, CLUSTER_UID, DEFINITIONS, ROWS_FINALIZER};
use datapath::manifests::{self, Account};
use datapath::rbac::{self, KUBECONFIG_KEY, TOKEN_KEY};
use serde_json::{Value, json};

use super::Settings;
use super::cluster::{Server, secret_data};
use super::objects::{MEMBER_LABEL, Object, PART_OF};
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL};

const NAMESPACE: (&str, &str, &str) = ("v1", "Namespace", "namespaces");
const ACCOUNT: (&str, &str, &str) = ("v1", "ServiceAccount", "serviceaccounts");
const SECRET: (&str, &str, &str) = ("v1", "Secret", "secrets");
const DAEMON_SET: (&str, &str, &str) = ("apps/v1", "DaemonSet", "daemonsets");
const DEPLOYMENT: (&str, &str, &str) = ("apps/v1", "Deployment", "deployments");
const DEFINITION: (&str, &str, &str) = (
    "apiextensions.k8s.io/v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
);
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// How many managers there are, of which one writes.
const MANAGERS: u16 = 2;

/// The labels of everything; of a member's also its name.
pub(super) fn labels(member: Option<&str>) -> BTreeMap<String, String> {
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([own((MANAGED_BY_LABEL, MANAGED_BY)), own(PART_OF)]);
    labels.extend(member.map(|name| own((MEMBER_LABEL, name))));
    labels
}

fn namespace(name: &str) -> Object {
    Object::new(
        NAMESPACE,
        json!({"metadata": {"name": name, "labels": labels(None)}}),
    )
}

/// A service account with everything that gives it rights.
fn account(account: Account) -> Vec<Object> {
    let grant = account.grant;
    let role = |kind, plural| (RBAC, kind, plural);
    let mut objects = vec![Object::new(ACCOUNT, account.service_account)];
    if let Some(value) = grant.cluster_role {
        objects.push(Object::new(role("ClusterRole", "clusterroles"), value));
    }
    if let Some(value) = grant.cluster_role_binding {
        objects.push(Object::new(
            role("ClusterRoleBinding", "clusterrolebindings"),
            value,
        ));
    }
    let roles = grant.roles.into_iter();
    objects.extend(roles.map(|value| Object::new(role("Role", "roles"), value)));
    let bindings = grant.role_bindings.into_iter();
    objects.extend(bindings.map(|value| Object::new(role("RoleBinding", "rolebindings"), value)));
    objects
}

/// The objects of a control plane, without those of any member.
pub(super) fn control_plane(settings: &Settings) -> Vec<Object> {
    let own = labels(None);
    let mut objects = Vec::new();
    for text in DEFINITIONS {
        // They are part of this program, and a test reads them.
        let mut value: Value = serde_saphyr::from_str(text).unwrap_or_default();
        value["metadata"]["labels"] = json!(own);
        objects.push(Object::new(DEFINITION, value));
    }
    objects.push(namespace(&settings.namespace));
    let made = settings.made_with("", own, MANAGERS);
    objects.extend(account(manifests::manager_account(&made)));
    objects.push(Object::new(
        DEPLOYMENT,
        manifests::manager_deployment(&made),
    ));
    objects
}

const POLICIES: &str = "admissionregistration.k8s.io/v1";

/// The path at which an API server that knows policies of admission has them.
pub(super) fn policies() -> String {
    format!("/apis/{POLICIES}/validatingadmissionpolicies")
}

/// What narrows the accounts of members to ClusterNodes of their own.
pub(super) fn own_nodes(settings: &Settings) -> [Object; 2] {
    let [mut policy, mut binding] = rbac::policy::own_nodes(&settings.namespace);
    for value in [&mut policy, &mut binding] {
        value["metadata"]["labels"] = json!(labels(None));
    }
    let kind = |kind, plural| (POLICIES, kind, plural);
    [
        Object::new(
            kind("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
            policy,
        ),
        Object::new(
            kind(
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
            ),
            binding,
        ),
    ]
}

/// What a member's programs may do in the control plane.
pub(super) fn accounts(settings: &Settings, member: &str) -> Vec<Object> {
    let made = settings.made_with(member, labels(Some(member)), 1);
    let accounts = manifests::control_plane_accounts(&made).into_iter();
    accounts.flat_map(account).collect()
}

/// A token, and until when it is one (RFC 3339).
#[derive(Clone, Default)]
pub(super) struct Token {
    pub(super) token: String,
    pub(super) expires: String,
    /// The uid of the account that it is of: with another one it is worth nothing.
    pub(super) account: String,
}

/// The annotation of a Secret that says which account its token is of, by uid.
pub(super) const ACCOUNT_UID: &str = "kosmos.io/clusterlink-account";

/// A member's own objects before its programs: what they may do at home. The namespace comes first.
pub(super) fn home(settings: &Settings, member: &str) -> Vec<Object> {
    let made = settings.made_with(member, labels(Some(member)), 1);
    let accounts = manifests::member_accounts(&made).into_iter();
    let namespace = namespace(&settings.namespace);
    [namespace]
        .into_iter()
        .chain(accounts.flat_map(account))
        .collect()
}

/// The Secret by which one of a member's programs reaches the control plane.
pub(super) fn secret(
    settings: &Settings,
    member: &str,
    name: &str,
    server: &Server,
    token: &Token,
) -> Object {
    let kubeconfig = server.kubeconfig("control-plane");
    let value = json!({
        "metadata": {
            "namespace": settings.namespace,
            "name": name,
            "labels": labels(Some(member)),
            "annotations": {rbac::TOKEN_EXPIRES: token.expires, ACCOUNT_UID: token.account},
        },
        "type": "Opaque",
        "data": secret_data(&[(KUBECONFIG_KEY, &kubeconfig), (TOKEN_KEY, &token.token)]),
    });
    Object::new(SECRET, value)
}

/// A member's programs.
pub(super) fn programs(settings: &Settings, member: &str, replicas: u16) -> Vec<Object> {
    let made = settings.made_with(member, labels(Some(member)), replicas);
    vec![
        Object::new(DAEMON_SET, manifests::agent_daemon_set(&made)),
        Object::new(DEPLOYMENT, manifests::controller_deployment(&made)),
    ]
}

/// The Cluster of a member.
pub(super) fn cluster(settings: &Settings, member: &str, uid: &str, is_root: bool) -> Object {
    let link = &settings.link;
    let mut annotations = json!({CLUSTER_UID: uid});
    let mut labels = json!(labels(Some(member)));
    if is_root {
        annotations[api::ROLE_LABEL] = "root".into();
        labels[api::ROLE_LABEL] = "root".into();
    }
    if settings.gateways > 1 {
        annotations[api::GATEWAYS] = settings.gateways.to_string().into();
    }
    let mut options = json!({
        "enable": true,
        "cni": link.cni,
        "networkType": link.network_type,
        "ipFamily": link.ip_family,
        "defaultNICName": link.default_nic,
    });
    if !link.global_cidrs.is_empty() {
        options["globalCIDRsMap"] = json!(link.global_cidrs);
    }
    let kind = ("kosmos.io/v1alpha1", "Cluster", "clusters");
    let value = json!({
        "metadata": {
            "name": member,
            "labels": labels,
            "annotations": annotations,
            "finalizers": [ROWS_FINALIZER],
        },
        "spec": {"namespace": settings.namespace, "clusterLinkOptions": options},
    });
    Object::new(kind, value)
}
