//! What could be in the way of linking a cluster, found out before anything is made.
//!
//! | looked at | refused or told | |
//! |---|---|---|
//! | access reviews of both API servers | what will be done and is not allowed | [`rights`] |
//! | versions, definitions that are there | Kubernetes too old or too new is told; kinds of another shape are refused | [`versions`] |
//! | Nodes of the member | none is ready; none has an address of a wanted family; one's name makes another cluster's ClusterNode | [`prefixes`] |
//! | the plan with the new cluster | whatever the planner objects to that it does not object to today | [`prefixes`] |
//! | the namespace | it is being deleted; its Pod Security level forbids the programs | |
//! | Kosmos' own programs | they are there: two would keep the same rows | |
//! | what the CNI plugin says | that it rewrites pods' addresses is told | [`masquerade`] |
//! | tables of the nodes | links, VNIs, rules, routes and networks in the way; too small an MTU | [`nodes`] |
//! | datagrams between the nodes | a port that is closed, a path that is narrower than its links; kernels without VXLAN | [`paths`] |
//!
//! The last two take floaters ([`Scouts`]), which are sent where the rest is well. They are not sent by a dry run, which makes nothing, and not
//! to a cluster that is linked, where the tunnels themselves are the proof. What could not be found out is told, and refuses nothing.

use datapath::api::{CLUSTER_UID, Fleet, GROUP, VERSION};
use datapath::control::nodes::Node;
use datapath::state::Family;
use serde::Deserialize;
use serde_json::Value;

use super::apply::Refusal;
use super::cluster::Cluster;
use super::objects::{Object, is_ours, name_of};
use super::scouts::Scouts;
use super::{AgentsPlan, Context, Settings, Told};
use crate::Error;
use look::Look;
use rights::Need;

mod look;
mod masquerade;
mod nodes;
mod paths;
mod prefixes;
mod rights;
mod versions;

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

    fn warn(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }

    fn take(&mut self, (refusals, warnings): (Vec<String>, Vec<String>)) {
        self.refusals.extend(refusals.into_iter().map(Refusal));
        self.warnings.extend(warnings);
    }
}

/// What is to be linked.
pub(super) struct Intent<'a> {
    pub(super) settings: &'a Settings,
    pub(super) member: &'a Cluster,
    pub(super) control_plane: &'a Cluster,
    /// What will be made in either.
    pub(super) in_control_plane: &'a [Object],
    pub(super) in_member: &'a [Object],
    pub(super) dry_run: bool,
}

/// Looks at everything; nothing is changed, but for floaters that come and go. What they leave behind is told by whoever awaits them:
/// their removal needs nobody to wait for it.
///
/// # Errors
/// The deed is to end.
pub(super) async fn check(
    intent: &Intent<'_>,
    context: &Context,
) -> Result<(Found, Option<Scouts>), Error> {
    let (mut found, look) = context.during(async { Ok(read(intent).await) }).await?;
    let Some(mut look) = look.filter(|look| !look.is_linked && found.refusals.is_empty()) else {
        return Ok((found, None));
    };
    if intent.dry_run {
        found.warn("a dry run sends no floaters: the nodes' tables, their kernels and the paths between them are not looked at");
        return Ok((found, None));
    }
    context.say(Told::Phase(format!(
        "looking around from the nodes of {}",
        intent.member.name
    )));
    let scouts = Scouts::new()?;
    let looked = context.during(async {
        look.around(&scouts, &mut found).await;
        Ok(())
    });
    match looked.await {
        Ok(()) => Ok((found, Some(scouts))),
        Err(_) => {
            let left = scouts.recall().await;
            Err(Error::Interrupted { left })
        }
    }
}

/// Reads what both APIs say; none where that is not enough for more.
async fn read<'a>(intent: &'a Intent<'a>) -> (Found, Option<Look<'a>>) {
    let Intent {
        settings,
        member,
        control_plane,
        ..
    } = *intent;
    let mut found = Found::default();
    let listed = match member.list("/api/v1/nodes").await {
        Ok(listed) => listed,
        Err(failure) => {
            found.refuse(format!(
                "the Nodes of {} cannot be read: {failure}",
                member.name
            ));
            return (found, None);
        }
    };
    found.nodes = listed.len();
    let mut nodes: Vec<Node> = listed.iter().filter_map(Node::of).collect();
    nodes.retain(|node| node.is_member);
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let is_root = member.uid == control_plane.uid;
    let places = match is_root {
        true => vec![member],
        false => vec![control_plane, member],
    };
    for cluster in places {
        let (major, minor) = &cluster.release;
        let warning = versions::warning(&cluster.name, &cluster.version, (major, minor));
        found.warnings.extend(warning);
        namespace(settings, cluster, &mut found).await;
    }
    may(intent, is_root, &mut found).await;
    definitions(control_plane, &mut found).await;
    foreign_programs(settings, member, &mut found).await;
    prefixes::addresses(&nodes, settings, &member.name, &mut found);
    let gathered = prefixes::gathered(settings, member, &nodes, &mut found).await;
    let mut fleet = match fleet(control_plane).await {
        Ok(fleet) => fleet,
        // Nothing is installed yet, so there are no others.
        Err(None) => Fleet::default(),
        Err(Some(why)) => {
            found.refuse(why);
            return (found, None);
        }
    };
    kubeconfigs(settings, control_plane, &mut found).await;
    let is_linked = fleet.clusters.iter().any(|cluster| {
        let uid = cluster.metadata.annotations.get(CLUSTER_UID);
        cluster.metadata.name == member.name && uid == Some(&member.uid)
    });
    // What is linked already is no obstacle to itself.
    let is_other = |name: &str| name != member.name;
    fleet.clusters.retain(|one| is_other(&one.metadata.name));
    fleet
        .cluster_nodes
        .retain(|one| is_other(&one.spec.cluster_name));
    let name = &member.name;
    let new = prefixes::expected(settings, name, &nodes, &gathered, &fleet, &mut found);
    let look = Look {
        intent,
        nodes,
        cluster: new.cluster,
        cluster_nodes: new.nodes,
        fleet,
        is_root,
        is_linked,
    };
    let with_new = look.with_new();
    prefixes::against_others(&with_new, &look.fleet, &mut found);
    prefixes::shared_beside_renamed(&with_new, &member.name, &mut found);
    (found, Some(look))
}

/// The families that a Cluster's word means.
fn families(word: &str) -> Vec<Family> {
    match word {
        "ipv4" => vec![Family::Ipv4],
        "ipv6" => vec![Family::Ipv6],
        _ => vec![Family::Ipv4, Family::Ipv6],
    }
}

/// Whether everything is allowed that will be done.
async fn may(intent: &Intent<'_>, is_root: bool, found: &mut Found) {
    let namespace = Some(intent.settings.namespace.as_str());
    let read = |plural: &str| Need::new("list", GROUP, plural, None);
    let mut at_host = rights::of(&intent.in_control_plane.iter().collect::<Vec<_>>());
    at_host.extend(["clusters", "clusternodes", "nodeconfigs"].map(read));
    at_host.extend(
        ["create", "delete", "get", "patch"].map(|verb| Need::new(verb, GROUP, "clusters", None)),
    );
    at_host.insert(Need::new("create", "", "serviceaccounts/token", namespace));
    let mut at_home = rights::of(&intent.in_member.iter().collect::<Vec<_>>());
    at_home.insert(Need::new("list", "", "nodes", None));
    at_home.insert(Need::new("list", "", "pods", namespace));
    // Floaters are asked over the API server, which passes on what is read and what is sent.
    at_home.insert(Need::new("get", "", "pods/proxy", namespace));
    at_home.insert(Need::new("create", "", "pods/proxy", namespace));
    if is_root {
        at_home.append(&mut at_host);
    }
    for (cluster, needs) in [(intent.control_plane, at_host), (intent.member, at_home)] {
        if needs.is_empty() {
            continue;
        }
        match rights::missing(cluster, needs).await {
            Ok(missing) => {
                if let Some(why) = rights::refusal(&cluster.name, &missing) {
                    found.refuse(why);
                }
            }
            Err(why) => found.warn(format!(
                "could not tell whether {} allows what will be done: {why}",
                cluster.name
            )),
        }
    }
}

/// Clusters that hold kubeconfigs, where agents are to read every Cluster.
async fn kubeconfigs(settings: &Settings, control_plane: &Cluster, found: &mut Found) {
    if settings.plan == AgentsPlan::Off {
        return;
    }
    let listed = control_plane
        .list(&format!("/apis/{GROUP}/{VERSION}/clusters"))
        .await;
    let holds = |cluster: &&Value| {
        let kubeconfig = cluster["spec"]["kubeconfig"].as_str();
        kubeconfig.is_some_and(|text| !text.is_empty())
    };
    if let Some(holder) = listed.unwrap_or_default().iter().find(holds) {
        found.refuse(format!(
            "Cluster {} of {} holds a kubeconfig, which agents that plan for themselves could read: leave --plan out, or take spec.kubeconfig from every Cluster (kosmosctl's own need it)",
            datapath::printable::printable(name_of(holder), 253),
            control_plane.name
        ));
    }
}

/// Definitions that are there and are others than those that are written for.
async fn definitions(control_plane: &Cluster, found: &mut Found) {
    for name in versions::KINDS {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        match control_plane.get(&path).await {
            Ok(Some(held)) => {
                if let Some(why) = versions::refusal(&control_plane.name, &held) {
                    found.refuse(why);
                }
            }
            Ok(None) => {}
            Err(failure) => found.warn(format!(
                "could not tell what the CustomResourceDefinition {name} of {} is: {failure}",
                control_plane.name
            )),
        }
    }
}

/// A namespace that cannot take the programs.
async fn namespace(settings: &Settings, cluster: &Cluster, found: &mut Found) {
    const LEVEL: &str = "pod-security.kubernetes.io/enforce";
    let name = &settings.namespace;
    let held = cluster.get(&format!("/api/v1/namespaces/{name}")).await;
    let Ok(Some(held)) = held else { return };
    if held["metadata"]["deletionTimestamp"].is_string() {
        found.refuse(format!(
            "namespace {name} of {} is being deleted: wait until it is gone, or use another (--namespace)",
            cluster.name
        ));
    }
    let level = held["metadata"]["labels"][LEVEL]
        .as_str()
        .unwrap_or("privileged");
    if level != "privileged" {
        found.refuse(format!(
            "namespace {name} of {} enforces the Pod Security level {}, and agents need their node's network: label it {LEVEL}=privileged, or use another (--namespace)",
            cluster.name,
            datapath::printable::printable(level, 40)
        ));
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
