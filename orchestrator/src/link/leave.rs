//! `unjoin` and `uninstall`: a cluster leaves and its nodes are bare; a control plane goes with what belongs to it.

use std::time::Duration;

use datapath::api::{CLUSTER_UID, GROUP, ROWS_FINALIZER, VERSION};
use serde_json::Value;

use super::apply::{release, remove};
use super::cluster::Cluster;
use super::join::{clusters, is_joined};
use super::objects::{MEMBER_LABEL, PART_OF, is_ours, name_of, words};
use super::wait::{of_member, until};
use super::{Context, Place, Told, check_name};
use crate::Error;
use crate::fleet::api::{Failure, encoded};
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL};

/// What `unjoin` is told.
#[derive(Debug, Clone)]
pub struct Unjoin {
    /// The member's name.
    pub name: String,
    /// The programs' namespace.
    pub namespace: String,
    /// The member; none where it cannot be reached any more, which `force` says, too.
    pub place: Option<Place>,
    /// The control plane.
    pub host: Place,
    /// How long to wait for its nodes.
    pub wait: Duration,
    /// Take it out of the control plane also where the member or its nodes do not answer.
    pub force: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What `uninstall` is told.
#[derive(Debug, Clone)]
pub struct Uninstall {
    /// The programs' namespace.
    pub namespace: String,
    /// The control plane.
    pub place: Place,
    /// How long to wait for its nodes.
    pub wait: Duration,
    /// Go on also where other clusters are linked, which then keep what they have.
    pub force: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What came of a removal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// What was removed, or would be.
    pub removed: Vec<String>,
    /// What is still there, and where.
    pub left: Vec<String>,
}

/// A removal that is being done.
struct Removal<'a> {
    namespace: &'a str,
    wait: Duration,
    force: bool,
    dry_run: bool,
    context: &'a Context,
    done: Removed,
}

/// The kinds of which something may be made, those first that run something: name, path of the group, plural, whether it is in a namespace.
const KINDS: [(&str, &str, &str, bool); 11] = [
    ("DaemonSet", "/apis/apps/v1", "daemonsets", true),
    ("Deployment", "/apis/apps/v1", "deployments", true),
    (
        "ValidatingAdmissionPolicyBinding",
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        false,
    ),
    (
        "ValidatingAdmissionPolicy",
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
        false,
    ),
    ("Secret", "/api/v1", "secrets", true),
    ("ConfigMap", "/api/v1", "configmaps", true),
    ("ServiceAccount", "/api/v1", "serviceaccounts", true),
    (
        "RoleBinding",
        "/apis/rbac.authorization.k8s.io/v1",
        "rolebindings",
        false,
    ),
    ("Role", "/apis/rbac.authorization.k8s.io/v1", "roles", false),
    (
        "ClusterRoleBinding",
        "/apis/rbac.authorization.k8s.io/v1",
        "clusterrolebindings",
        false,
    ),
    (
        "ClusterRole",
        "/apis/rbac.authorization.k8s.io/v1",
        "clusterroles",
        false,
    ),
];

/// Takes a cluster out of the fleet: its nodes become bare, its programs and everything that was made for it are removed.
///
/// # Errors
/// [`Error::Missing`] where the member cannot be reached or its nodes do not become bare in time, unless it is forced.
pub async fn unjoin(order: &Unjoin, context: &Context) -> Result<Removed, Error> {
    check_name("--name", &order.name)?;
    let name = &order.name;
    context.say(Told::Phase(format!("asking {name} and its control plane")));
    let control_plane = Cluster::reach("the control plane", &order.host.kubeconfig);
    let (control_plane, member) = context
        .during(async { tokio::try_join!(control_plane, member(order)) })
        .await?;
    let path = format!("/apis/{GROUP}/{VERSION}/clusters/{name}");
    let held = read(&control_plane, &path).await?;
    if let Some(held) = &held
        && !is_joined(held)
    {
        return Err(Error::Missing {
            what: format!("Cluster {name}"),
            why: "floaterctl did not make it, and leaves it alone (kosmosctl unjoin removes Kosmos' own)".to_owned(),
        });
    }
    let is_root = member
        .as_ref()
        .is_some_and(|member| member.uid == control_plane.uid);
    if is_root {
        return Err(Error::Usage(format!(
            "{name} is the control plane's own cluster; `floaterctl link uninstall` removes both"
        )));
    }
    let mut removal = Removal {
        namespace: &order.namespace,
        wait: order.wait,
        force: order.force,
        dry_run: order.dry_run,
        context,
        done: Removed::default(),
    };
    if held.is_some() {
        removal
            .done
            .removed
            .push(format!("Cluster {name} in {}", control_plane.name));
        let left = removal.leave(&control_plane, name).await;
        left.map_err(|error| removal.ended(error))?;
    }
    let selector = format!("{MEMBER_LABEL}={name}");
    let swept = match &member {
        Some(member) => removal.bare(member, &selector).await,
        None => Err(Error::Missing {
            what: name.clone(),
            why: "it was not asked".to_owned(),
        }),
    };
    match swept {
        Ok(()) => {}
        Err(error @ Error::Missing { .. }) if order.force => removal.done.left.push(format!(
            "what is still in {name} itself ({error}): the programs in namespace {}, and what its nodes have of the datapath until they are restarted",
            order.namespace
        )),
        Err(error) => return Err(removal.ended(error)),
    }
    let swept = removal.sweep(&control_plane, &selector).await;
    swept.map_err(|error| removal.ended(error))?;
    if held.is_none() && removal.done.removed.is_empty() {
        return Err(Error::Missing {
            what: format!("Cluster {name}"),
            why: "the control plane knows no such cluster, and nothing of it is there".to_owned(),
        });
    }
    Ok(removal.done)
}

/// The member, if it answers; that it does not is an error unless it is forced.
async fn member(order: &Unjoin) -> Result<Option<Cluster>, Error> {
    let Some(place) = &order.place else {
        return if order.force {
            Ok(None)
        } else {
            Err(Error::Usage(
                "link unjoin needs the member's --kubeconfig, or --force where the member is gone"
                    .to_owned(),
            ))
        };
    };
    match Cluster::reach(&order.name, &place.kubeconfig).await {
        Ok(member) => Ok(Some(member)),
        Err(_) if order.force => Ok(None),
        Err(Error::Missing { what, why }) => Err(Error::Missing {
            what,
            why: format!(
                "{why}; --force takes it out of the control plane all the same, and says what stays in it"
            ),
        }),
        Err(error) => Err(error),
    }
}

/// Removes a control plane and the datapath of its own cluster.
///
/// # Errors
/// [`Error::Missing`] where other clusters are linked, unless it is forced.
pub async fn uninstall(order: &Uninstall, context: &Context) -> Result<Removed, Error> {
    context.say(Told::Phase("asking the control plane".to_owned()));
    let reach = Cluster::reach("the control plane", &order.place.kubeconfig);
    let mut control_plane = context.during(reach).await?;
    // None where nothing is installed, or no more than a part of it.
    let known = clusters(&control_plane).await.unwrap_or_default();
    let is_own = |cluster: &&Value| {
        cluster["metadata"]["annotations"][CLUSTER_UID] == control_plane.uid.as_str()
    };
    let own = known.iter().find(is_own).map(|own| name_of(own).to_owned());
    let others: Vec<&str> = known
        .iter()
        .filter(|cluster| !is_own(cluster))
        .map(name_of)
        .collect();
    let mut removal = Removal {
        namespace: &order.namespace,
        wait: order.wait,
        force: order.force,
        dry_run: order.dry_run,
        context,
        done: Removed::default(),
    };
    if !others.is_empty() {
        let named = others.join(", ");
        if !order.force {
            return Err(Error::Missing {
                what: "the control plane".to_owned(),
                why: format!(
                    "these clusters are linked by it: {named} (link unjoin takes one out; --force leaves them as they are)"
                ),
            });
        }
        removal.done.left.push(format!(
            "the Clusters {named} and the datapath in them: its nodes keep their rows, and its programs have no account here any more (link unjoin --force takes one out before)"
        ));
    }
    if let Some(name) = own {
        control_plane.name.clone_from(&name);
        removal.done.removed.push(format!("Cluster {name}"));
        let left = removal.leave(&control_plane, &name).await;
        left.map_err(|error| removal.ended(error))?;
    }
    let swept = removal.all(&control_plane, others.is_empty()).await;
    swept.map_err(|error| removal.ended(error))?;
    Ok(removal.done)
}

impl Removal<'_> {
    /// Deletes a Cluster, and waits until its nodes are bare and the manager has let go of it.
    async fn leave(&mut self, control_plane: &Cluster, name: &str) -> Result<(), Error> {
        if self.dry_run {
            return Ok(());
        }
        let path = format!("/apis/{GROUP}/{VERSION}/clusters/{name}");
        self.context.say(Told::Phase(format!(
            "waiting until the nodes of {name} are bare"
        )));
        let deleted = remove(control_plane, &path, None).await;
        deleted.map_err(|failure| failed(control_plane, &failure))?;
        let what = format!("the nodes of {name}");
        let gone = until(&what, self.wait, self.context, async || match control_plane
            .get(&path)
            .await
        {
            Ok(None) => Ok(None),
            Ok(Some(held)) => Ok(Some(holding(&held))),
            Err(failure) => Err(failure.to_string()),
        })
        .await;
        match gone {
        Ok(()) => Ok(()),
        Err(error @ Error::Interrupted { .. }) => Err(error),
        Err(error) if !self.force => Err(Error::Missing {
            what: error.to_string(),
            why: "the Cluster stays marked for deletion; --force takes it out now, whatever its nodes have".to_owned(),
        }),
        Err(error) => {
            self.done.left.push(format!("{error}: what these have of the datapath stays until they are restarted"));
            force_out(control_plane, name, &path).await.map_err(|failure| failed(control_plane, &failure))
        }
    }
    }

    /// Removes everything of a control plane; its definitions, too, where nobody else needs them.
    async fn all(&mut self, control_plane: &Cluster, with_definitions: bool) -> Result<(), Error> {
        let selector = format!("{}={}", PART_OF.0, PART_OF.1);
        self.sweep(control_plane, &selector).await?;
        if with_definitions {
            self.definitions(control_plane, &selector).await?;
        }
        self.own_namespace(control_plane).await
    }

    /// Removes everything of a member from itself.
    async fn bare(&mut self, member: &Cluster, selector: &str) -> Result<(), Error> {
        self.sweep(member, selector).await?;
        self.own_namespace(member).await
    }

    /// What an error is that ended the removal in the middle: what is gone is gone, and the same command goes on from there.
    fn ended(&self, error: Error) -> Error {
        if self.dry_run || self.done.removed.is_empty() {
            return error;
        }
        const ON: &str = "what is left of the removal: the same command goes on from there";
        match error {
            Error::Interrupted { mut left } => {
                left.push(ON.to_owned());
                Error::Interrupted { left }
            }
            Error::Missing { what, why } => Error::Missing {
                what,
                why: format!(
                    "{why} (there is more to remove: the same command goes on from there)"
                ),
            },
            other => other,
        }
    }

    /// Removes what carries our label and these others.
    async fn sweep(&mut self, cluster: &Cluster, selector: &str) -> Result<(), Error> {
        let selector = encoded(&format!("{MANAGED_BY_LABEL}={MANAGED_BY},{selector}"));
        let namespace = self.namespace;
        for (kind, group, plural, is_in_namespace) in KINDS {
            let path = if is_in_namespace {
                format!("{group}/namespaces/{namespace}/{plural}")
            } else {
                format!("{group}/{plural}")
            };
            let items = match cluster
                .list(&format!("{path}?labelSelector={selector}"))
                .await
            {
                Ok(items) => items,
                Err(failure) if failure.is_absent() => continue,
                Err(failure) => return Err(failed(cluster, &failure)),
            };
            for item in items {
                if self.context.is_stopped() {
                    return Err(Error::Interrupted { left: Vec::new() });
                }
                let metadata = &item["metadata"];
                let name = metadata["name"].as_str().unwrap_or_default();
                let path = match metadata["namespace"].as_str() {
                    Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
                    None => format!("{group}/{plural}/{name}"),
                };
                let what = format!("{} in {}", words(kind, &item), cluster.name);
                if !self.dry_run {
                    let deleted = remove(cluster, &path, metadata["uid"].as_str()).await;
                    deleted.map_err(|failure| failed(cluster, &failure))?;
                    self.context.say(Told::Done(format!("remove {what}")));
                }
                self.done.removed.push(what);
            }
        }
        Ok(())
    }

    /// Removes the definitions that we made and of which nobody has an object.
    async fn definitions(&mut self, cluster: &Cluster, selector: &str) -> Result<(), Error> {
        const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let selector = encoded(&format!("{MANAGED_BY_LABEL}={MANAGED_BY},{selector}"));
        let items = cluster
            .list(&format!("{PATH}?labelSelector={selector}"))
            .await;
        for item in items.map_err(|failure| failed(cluster, &failure))? {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let plural = item["spec"]["names"]["plural"].as_str().unwrap_or_default();
            let what = format!(
                "{} in {}",
                words("CustomResourceDefinition", &item),
                cluster.name
            );
            let objects = cluster
                .list(&format!("/apis/{GROUP}/{VERSION}/{plural}"))
                .await;
            if !self.dry_run && objects.is_ok_and(|objects| !objects.is_empty()) {
                self.done
                    .left
                    .push(format!("{what}: there are objects of it"));
                continue;
            }
            if !self.dry_run {
                let deleted = remove(
                    cluster,
                    &format!("{PATH}/{name}"),
                    item["metadata"]["uid"].as_str(),
                )
                .await;
                deleted.map_err(|failure| failed(cluster, &failure))?;
            }
            self.done.removed.push(what);
        }
        Ok(())
    }

    /// Removes the namespace where we made it and nobody else has anything in it.
    async fn own_namespace(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let name = self.namespace;
        let path = format!("/api/v1/namespaces/{name}");
        let Some(held) = read(cluster, &path).await?.filter(is_ours) else {
            return Ok(());
        };
        let what = format!("{} in {}", words("Namespace", &held), cluster.name);
        for (kind, group, plural, is_in_namespace) in KINDS {
            if !is_in_namespace && kind != "Role" && kind != "RoleBinding" {
                continue;
            }
            let listed = cluster
                .list(&format!("{group}/namespaces/{name}/{plural}"))
                .await;
            let is_foreign = |item: &Value| {
                let is_everywhere = item["metadata"]["name"] == "kube-root-ca.crt"
                    || kind == "ServiceAccount" && item["metadata"]["name"] == "default";
                !is_ours(item) && !is_everywhere
            };
            if let Some(item) = listed
                .unwrap_or_default()
                .iter()
                .find(|item| is_foreign(item))
            {
                self.done
                    .left
                    .push(format!("{what}: {} is not ours", words(kind, item)));
                return Ok(());
            }
        }
        if !self.dry_run {
            let deleted = remove(cluster, &path, held["metadata"]["uid"].as_str()).await;
            deleted.map_err(|failure| failed(cluster, &failure))?;
        }
        self.done.removed.push(what);
        Ok(())
    }
}

async fn read(cluster: &Cluster, path: &str) -> Result<Option<Value>, Error> {
    cluster
        .get(path)
        .await
        .map_err(|failure| failed(cluster, &failure))
}

fn failed(cluster: &Cluster, failure: &Failure) -> Error {
    Error::Missing {
        what: cluster.name.clone(),
        why: failure.to_string(),
    }
}

/// What a Cluster that is being deleted waits for, for people.
fn holding(cluster: &Value) -> String {
    let conditions = cluster["status"]["conditions"].as_array();
    let mut each = conditions.into_iter().flatten();
    let said = each.find(|one| one["type"] == "RowsRemoved");
    let message = said
        .and_then(|one| one["message"].as_str())
        .unwrap_or_default();
    if message.is_empty() {
        return format!("the manager has not let go of it (finalizer {ROWS_FINALIZER})");
    }
    datapath::printable::printable(message, 200).into_owned()
}

/// Removes a Cluster and its nodes' objects without anybody's consent.
async fn force_out(control_plane: &Cluster, name: &str, path: &str) -> Result<(), Failure> {
    for node in control_plane.list(&of_member("clusternodes", name)).await? {
        let node = node["metadata"]["name"].as_str().unwrap_or_default();
        for plural in ["nodeconfigs", "clusternodes"] {
            let path = format!("/apis/{GROUP}/{VERSION}/{plural}/{node}");
            remove(control_plane, &path, None).await?;
        }
    }
    release(control_plane, path).await
}

/// A Cluster that a deed made is taken back like any that leaves, and then whatever its nodes say.
pub(super) async fn take_back(control_plane: &Cluster, name: &str) -> Result<(), Failure> {
    /// A manager and agents that have just begun answer in seconds, or not at all.
    const TIME: Duration = Duration::from_secs(40);
    let path = format!("/apis/{GROUP}/{VERSION}/clusters/{name}");
    remove(control_plane, &path, None).await?;
    let deadline = tokio::time::Instant::now() + TIME;
    while tokio::time::Instant::now() < deadline {
        if control_plane.get(&path).await?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(super::apply::PAUSE).await;
    }
    force_out(control_plane, name, &path).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_leaving_cluster_waits_for_is_said() {
        let silent = holding(&json!({"metadata": {}}));
        assert!(silent.contains(ROWS_FINALIZER), "{silent}");
        let said =
            json!({"status": {"conditions": [{"type": "RowsRemoved", "message": "1 of 2 nodes"}]}});
        assert_eq!(holding(&said), "1 of 2 nodes");
    }
}
