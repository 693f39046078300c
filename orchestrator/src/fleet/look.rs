//! What a cluster is before anything is done to it: who it is, its nodes, its floaters, the fleet's intent if it holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use datapath::api::{Cluster, ClusterNode, Fleet, NodeConfig, ROLE_LABEL};
use floater::wire::Layer;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{Api, Failure};
use super::objects::{Node, Object, Pod, Secret};
use crate::manifest::{
    MANAGED_BY, MANAGED_BY_LABEL, NAME, NAME_LABEL, RUN_LABEL, SECRET_KEY, SHARED,
};

/// A cluster that answers.
pub(crate) struct Seen {
    /// The uid of its kube-system namespace.
    pub(crate) id: String,
    /// Its nodes without Kosmos' virtual ones, sorted by name.
    pub(crate) nodes: Vec<Node>,
    /// Whether the floaters' namespace exists.
    pub(crate) namespace: bool,
    /// Every pod that is a floater, whosever, or why they cannot be listed.
    pub(crate) floaters: Result<Vec<Pod>, String>,
    /// The objects of `clusters.kosmos.io` as they are, for a fleet's inventory.
    pub(crate) members: Vec<Value>,
    /// What the cluster says about the fleet; none where it says nothing.
    pub(crate) intent: Option<Fleet>,
    /// What could not be read of it, one sentence each.
    pub(crate) warnings: Vec<String>,
}

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

/// Looks at a cluster. The first request is alone, so that a cluster that does not answer within `first` costs one connection.
pub(crate) async fn look(api: &Api, namespace: &str, first: Duration) -> Result<Seen, String> {
    let system = api.get::<Object>("/api/v1/namespaces/kube-system");
    let system = tokio::time::timeout(first, system)
        .await
        .map_err(|_| {
            format!(
                "its API server does not answer within {} s",
                first.as_secs_f64()
            )
        })?
        .map_err(|failure| failure.to_string())?;
    if system.metadata.uid.is_empty() {
        return Err("its kube-system namespace has no uid".to_owned());
    }
    let selector = format!("{NAME_LABEL}={NAME}");
    let collection = pods(namespace);
    let path = format!("/api/v1/namespaces/{namespace}");
    let (nodes, floaters, members, namespace) = tokio::join!(
        api.list::<Node>("/api/v1/nodes", ""),
        api.list::<Pod>(&collection, &selector),
        api.list::<Value>("/apis/kosmos.io/v1alpha1/clusters", ""),
        api.get::<Object>(&path),
    );
    let namespace = !matches!(&namespace, Err(failure) if failure.is_absent());
    let (mut nodes, _) = nodes.map_err(|failure| format!("its nodes: {failure}"))?;
    nodes.retain(|node| !node.is_virtual());
    nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut warnings = Vec::new();
    let floaters = floaters
        .map(|(pods, _)| pods)
        .map_err(|failure| format!("its pods cannot be listed: {failure}"));
    let members = optional(members, "clusters.kosmos.io", &mut warnings);
    let intent = if members.is_empty() {
        None
    } else {
        Some(intent(api, &members, &mut warnings).await)
    };
    Ok(Seen {
        id: system.metadata.uid,
        nodes,
        namespace,
        floaters,
        members,
        intent,
        warnings,
    })
}

/// A list that may be absent or forbidden; anything else that is wrong is told.
fn optional<T>(
    list: Result<(Vec<T>, String), Failure>,
    what: &str,
    warnings: &mut Vec<String>,
) -> Vec<T> {
    match list {
        Ok((items, _)) => items,
        Err(failure) => {
            if !failure.is_absent() {
                warnings.push(format!("{what} cannot be read: {failure}"));
            }
            Vec::new()
        }
    }
}

async fn intent(api: &Api, members: &[Value], warnings: &mut Vec<String>) -> Fleet {
    let (nodes, configs) = tokio::join!(
        api.list::<Value>("/apis/kosmos.io/v1alpha1/clusternodes", ""),
        api.list::<Value>("/apis/kosmos.io/v1alpha1/nodeconfigs", ""),
    );
    let nodes = optional(nodes, "clusternodes.kosmos.io", warnings);
    let configs = optional(configs, "nodeconfigs.kosmos.io", warnings);
    Fleet {
        clusters: each::<Cluster>("clusters.kosmos.io", members.to_vec(), warnings),
        cluster_nodes: each::<ClusterNode>("clusternodes.kosmos.io", nodes, warnings),
        node_configs: each::<NodeConfig>("nodeconfigs.kosmos.io", configs, warnings),
    }
}

/// One object that cannot be understood harms only itself.
fn each<T: DeserializeOwned>(what: &str, values: Vec<Value>, warnings: &mut Vec<String>) -> Vec<T> {
    let mut objects = Vec::with_capacity(values.len());
    for value in values {
        let name = value["metadata"]["name"].as_str().unwrap_or("").to_owned();
        match serde_json::from_value(value) {
            Ok(object) => objects.push(object),
            Err(error) => warnings.push(format!("{what} {name} cannot be understood: {error}")),
        }
    }
    objects
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
        && let Ok(pods) = api.first_page::<Pod>("/api/v1/pods").await
    {
        take(&pods);
    }
    ips
}

/// Whether an object stands for the control plane's own cluster.
pub(crate) fn is_root(cluster: &Cluster) -> bool {
    [&cluster.metadata.labels, &cluster.metadata.annotations]
        .into_iter()
        .any(|marks| marks.get(ROLE_LABEL).is_some_and(|role| role == "root"))
}

/// The only member whose nodes have names and addresses of these, which is a claim as long as another cluster's have them, too.
pub(crate) fn member_by_nodes(nodes: &[Node], fleet: &Fleet) -> Option<String> {
    let here: BTreeSet<(String, IpAddr)> = nodes
        .iter()
        .flat_map(|node| {
            node.ips()
                .into_iter()
                .map(|ip| (node.metadata.name.clone(), ip))
        })
        .collect();
    let members: BTreeSet<&str> = fleet
        .cluster_nodes
        .iter()
        .filter(|node| {
            [&node.spec.ip, &node.spec.ip6]
                .into_iter()
                .filter_map(|ip| ip.parse().ok())
                .any(|ip| here.contains(&(node.spec.node_name.clone(), ip)))
        })
        .map(|node| node.spec.cluster_name.as_str())
        .collect();
    match members.into_iter().collect::<Vec<_>>()[..] {
        [only] => Some(only.to_owned()),
        _ => None,
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
