//! What a cluster is before anything is done to it: who it is, its nodes, its floaters, the fleet's intent if it holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::api::{CLUSTER_UID, Cluster, ClusterNode, Fleet, GATEWAYS, NodeConfig, ROLE_LABEL};
use floater::wire::Layer;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;

use datapath::printable::{Printable, is_object_name};

use super::api::{Api, Failure, Listed};
use super::objects::{Node, Object, Pod, Secret};
use crate::engine::messages::{self, Looked};
use crate::manifest::{
    MANAGED_BY, MANAGED_BY_LABEL, NAME, NAME_LABEL, RUN_LABEL, SECRET_KEY, SHARED,
};

/// A cluster that answers.
pub(crate) struct Seen {
    /// The uid of its kube-system namespace.
    pub(crate) id: String,
    /// Its nodes that run pods themselves, sorted by name.
    pub(crate) nodes: Vec<Node>,
    /// The names of the others.
    pub(crate) excluded: Vec<String>,
    /// Whether the floaters' namespace exists.
    pub(crate) namespace: bool,
    /// Every pod of the namespace that is a floater, whosever, or why they cannot be listed.
    pub(crate) floaters: Result<Vec<Pod>, String>,
    /// Ports that floaters of any namespace have on its nodes.
    pub(crate) ports: BTreeSet<u16>,
    /// Its objects of `clusters.kosmos.io`, by which it claims to be the control plane.
    pub(crate) members: Vec<Member>,
    /// Why the members could not be listed, where they are there.
    pub(crate) members_unread: Option<String>,
    /// What could not be read of it, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// An object of `clusters.kosmos.io`.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Base64 of the kubeconfig that it is reached by; may be empty.
    pub(crate) kubeconfig: String,
    /// The object, or why it cannot be understood.
    pub(crate) cluster: Result<Cluster, String>,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        if !is_object_name(name) {
            return Err(D::Error::custom(
                "its name is none that Kubernetes gives to an object",
            ));
        }
        let (name, kubeconfig) = (name.to_owned(), value["spec"]["kubeconfig"].as_str());
        let kubeconfig = kubeconfig.unwrap_or_default().to_owned();
        let mut cluster: Result<Cluster, _> = serde_json::from_value(value);
        if let Ok(cluster) = &mut cluster {
            // Other marks say nothing here, and what `kubectl apply` notes in one of them holds the kubeconfig again.
            for marks in [
                &mut cluster.metadata.labels,
                &mut cluster.metadata.annotations,
            ] {
                marks
                    .retain(|mark, _| [ROLE_LABEL, CLUSTER_UID, GATEWAYS].contains(&mark.as_str()));
            }
        }
        Ok(Self {
            name,
            kubeconfig,
            cluster: cluster.map_err(|error| {
                Printable::bounded(&error.to_string(), 200)
                    .as_str()
                    .to_owned()
            }),
        })
    }
}

/// The most nodes of a cluster.
const MAX_NODES: usize = 10_000;
/// The most pods of floaters in a cluster: two on every node, of a few runs.
pub(crate) const MAX_PODS: usize = 5 * MAX_NODES;
/// The most members of a fleet, and the most objects of theirs.
const MAX_MEMBERS: usize = 10_000;
const MAX_OBJECTS: usize = 100_000;
/// Up to so many members NodeConfigs are read: above, nodes are compared with the plan of the other objects alone, and a tunnel's MAC is
/// what the plan derives.
const CONFIGS_UP_TO: usize = 300;

/// The selector of everything that a run of any id makes.
pub(crate) fn ours() -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY}")
}

/// The selector of one run's objects.
pub(crate) fn of_run(run: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY},{RUN_LABEL}={run}")
}

/// The collection of pods of a namespace.
pub(crate) fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Looks at a cluster. The first request is alone, so that a cluster that does not answer costs one connection; `answered` is called once
/// it has.
pub(crate) async fn look(
    api: &Api,
    namespace: &str,
    answered: impl FnOnce(),
) -> Result<Seen, String> {
    let system = api
        .get::<Object>("/api/v1/namespaces/kube-system")
        .await
        .map_err(|failure| failure.to_string())?;
    answered();
    let id = system.metadata.uid;
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(usable) {
        return Err("its kube-system namespace has no usable uid".to_owned());
    }
    let path = format!("/api/v1/namespaces/{namespace}");
    let (nodes, floaters, members, found) = tokio::join!(
        api.list::<Node>("/api/v1/nodes", "", MAX_NODES),
        floaters(api, namespace),
        api.list::<Member>("/apis/kosmos.io/v1alpha1/clusters", "", MAX_MEMBERS),
        api.get::<Object>(&path),
    );
    let found = !matches!(&found, Err(failure) if failure.is_absent());
    let mut warnings = Vec::new();
    let nodes = nodes.map_err(|failure| format!("its nodes: {failure}"))?;
    warnings.extend(nodes.broken.into_iter().map(|why| format!("nodes: {why}")));
    let (nodes, excluded) = able_to_run(nodes.items, &mut warnings);
    let (floaters, ports) = match floaters {
        Ok((floaters, ports)) => (Ok(floaters), ports),
        Err(failure) => (
            Err(format!("its pods cannot be listed: {failure}")),
            BTreeSet::new(),
        ),
    };
    let members_unread = members
        .as_ref()
        .err()
        .filter(|failure| !failure.is_absent())
        .map(|failure| format!("its clusters.kosmos.io objects cannot be read: {failure}"));
    let members = optional(members, "clusters.kosmos.io", &mut warnings);
    Ok(Seen {
        id,
        nodes,
        excluded,
        namespace: found,
        floaters,
        ports,
        members,
        members_unread,
        warnings,
    })
}

/// Those nodes that run pods themselves, sorted by name, and the names of the others.
fn able_to_run(nodes: Vec<Node>, warnings: &mut Vec<String>) -> (Vec<Node>, Vec<String>) {
    let (mut able, mut excluded) = (Vec::new(), Vec::new());
    let mut unnamed = 0;
    for node in nodes {
        if !is_object_name(&node.metadata.name) {
            unnamed += 1;
        } else if let Some(mark) = node.is_virtual() {
            warnings.push(format!(
                "node {} is not asked: {} says that it has no kubelet of its own",
                node.metadata.name,
                Printable::bounded(&mark, 100)
            ));
            excluded.push(node.metadata.name);
        } else {
            able.push(node);
        }
    }
    if unnamed > 0 {
        warnings.push(format!(
            "{unnamed} nodes are left out: their names are none that Kubernetes gives to an object"
        ));
    }
    able.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    able.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    excluded.sort();
    (able, excluded)
}

/// The floaters of a namespace, and the ports that those of all namespaces have on their nodes, as far as they may be seen.
async fn floaters(api: &Api, namespace: &str) -> Result<(Vec<Pod>, BTreeSet<u16>), Failure> {
    let selector = format!("{NAME_LABEL}={NAME}");
    let all = match api.list::<Pod>("/api/v1/pods", &selector, MAX_PODS).await {
        Ok(all) => all.items,
        Err(failure) if failure.is_forbidden() => {
            api.list::<Pod>(&pods(namespace), &selector, MAX_PODS)
                .await?
                .items
        }
        Err(failure) => return Err(failure),
    };
    let hosts = all.iter().filter(|pod| pod.is_host_network());
    let ports = hosts.flat_map(|pod| [pod.port(), pod.api_port()]).collect();
    let here = |pod: &Pod| {
        (pod.metadata.namespace == namespace || pod.metadata.namespace.is_empty())
            && is_object_name(&pod.metadata.name)
    };
    Ok((all.into_iter().filter(here).collect(), ports))
}

/// A list that may be absent or forbidden; anything else that is wrong is told.
fn optional<T>(list: Result<Listed<T>, Failure>, what: &str, warnings: &mut Vec<String>) -> Vec<T> {
    match list {
        Ok(listed) => {
            let broken = listed.broken.into_iter();
            warnings.extend(broken.map(|why| format!("{what} {why}")));
            listed.items
        }
        Err(failure) => {
            if !failure.is_absent() {
                warnings.push(format!("{what} cannot be read: {failure}"));
            }
            Vec::new()
        }
    }
}

/// What a cluster that is believed to be the control plane wants of the fleet, and what of it could not be read.
pub(crate) async fn intent(api: &Api, members: &[Member]) -> (Fleet, Vec<String>) {
    let mut warnings = Vec::new();
    let configs = async {
        // Together they grow with the square of the fleet.
        if members.len() > CONFIGS_UP_TO {
            return Ok(Listed {
                items: Vec::new(),
                version: String::new(),
                broken: Vec::new(),
            });
        }
        api.list::<NodeConfig>("/apis/kosmos.io/v1alpha1/nodeconfigs", "", MAX_OBJECTS)
            .await
    };
    let (nodes, configs) = tokio::join!(
        api.list::<ClusterNode>("/apis/kosmos.io/v1alpha1/clusternodes", "", MAX_OBJECTS),
        configs,
    );
    if members.len() > CONFIGS_UP_TO {
        warnings.push(format!(
            "nodeconfigs.kosmos.io are not read in a fleet of more than {CONFIGS_UP_TO} members: nodes are compared with the plan of the \
             other objects, and what only a NodeConfig tells is not judged"
        ));
    }
    let cluster_nodes = optional(nodes, "clusternodes.kosmos.io", &mut warnings);
    let node_configs = optional(configs, "nodeconfigs.kosmos.io", &mut warnings);
    let mut clusters = Vec::new();
    for member in members {
        match &member.cluster {
            Ok(cluster) => clusters.push(cluster.clone()),
            Err(why) => warnings.push(format!(
                "clusters.kosmos.io {} cannot be understood: {why}",
                member.name
            )),
        }
    }
    let fleet = Fleet {
        clusters,
        cluster_nodes,
        node_configs,
    };
    (fleet, warnings)
}

/// The addresses of one pod of each node that is in the pods' network: a floater where there is one, else any of the first
/// page of all pods, which on a small cluster is all and on a large one enough for most nodes.
pub(crate) async fn pod_ips(api: &Api, seen: &Seen) -> BTreeMap<String, Vec<IpAddr>> {
    let mut ips: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut take = |pods: &[Pod]| {
        for pod in pods {
            if let Some(node) = pod.node()
                && !pod.is_host_network()
                && !pod.is_going()
                && !pod.ips().is_empty()
            {
                ips.entry(node.to_owned()).or_insert_with(|| pod.ips());
            }
        }
        seen.nodes
            .iter()
            .all(|node| ips.contains_key(&node.metadata.name))
    };
    if !take(seen.floaters.as_deref().unwrap_or_default())
        && let Ok(pods) = api.first_page::<Pod>("/api/v1/pods", "").await
    {
        take(&pods);
    }
    ips
}

impl Seen {
    /// What of it the run's machine has to know.
    pub(crate) fn facts(&self, standing: bool) -> Looked {
        let node = |node: &Node| messages::Node {
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            ready: node.is_ready(),
            linux: node.runs_linux(),
            ips: node.ips(),
            pod_prefixes: node.pod_prefixes(),
        };
        let member = |member: &Member| messages::Member {
            name: member.name.clone(),
            cluster: member.cluster.clone(),
        };
        Looked {
            id: self.id.clone(),
            nodes: self.nodes.iter().map(node).collect(),
            members: self.members.iter().map(member).collect(),
            members_unread: self.members_unread.clone(),
            warnings: self.warnings.clone(),
            standing,
        }
    }
}

/// Floaters that stand ready for any run: their run's id and the Secret of their key.
pub(crate) struct Standing {
    pub(crate) run: String,
    pub(crate) run_key: Vec<u8>,
}

/// Floaters that may be used as they are: on every node of `nodes` one that is ready in each of `layers`, in no danger of
/// being removed before `until`. A lab's own floaters never expire; a run's own belong to that run unless it says otherwise.
pub(crate) async fn standing(
    api: &Api,
    namespace: &str,
    floaters: &[Pod],
    nodes: &[String],
    layers: &[Layer],
    until: Timestamp,
) -> Option<Standing> {
    let mut runs: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in floaters {
        let expires = pod.metadata.expires();
        let stays = match pod.metadata.annotation(crate::manifest::EXPIRES) {
            None => true,
            Some(_) => {
                pod.metadata.annotation(SHARED) == Some("true")
                    && expires.is_some_and(|expires| expires > until)
            }
        };
        if let Some(run) = pod.run().filter(|_| stays && pod.is_ready()) {
            runs.entry(run).or_default().push(pod);
        }
    }
    for (run, pods) in runs {
        let there: BTreeSet<(Layer, &str)> = pods
            .iter()
            .filter_map(|pod| Some((pod.layer()?, pod.node()?)))
            .collect();
        let complete = layers
            .iter()
            .all(|&layer| nodes.iter().all(|node| there.contains(&(layer, node))));
        let secret = pods.iter().find_map(|pod| pod.run_key());
        let (true, Some(secret)) = (complete && !nodes.is_empty(), secret) else {
            continue;
        };
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{}", secret.name);
        // A key that may not be read is a reason to bring own floaters, as an absent one is.
        let Ok(found) = api.get::<Secret>(&path).await else {
            continue;
        };
        let key = if secret.key.is_empty() {
            SECRET_KEY
        } else {
            &secret.key
        };
        if let Some(run_key) = run_key(&found, key) {
            return Some(Standing {
                run: run.to_owned(),
                run_key,
            });
        }
    }
    None
}

fn run_key(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let text = secret.data.as_ref()?.get(key)?;
    let hex = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    let hex = String::from_utf8(hex).ok()?;
    floater::wire::unhex(hex.trim()).filter(|key| !key.is_empty())
}
