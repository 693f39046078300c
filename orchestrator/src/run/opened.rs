//! Clusters that answered: who they are, what they hold of the fleet's intent, and their floaters' answers if they stand
//! ready. Nothing here changes anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datapath::api::Fleet;
use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use super::ask::{Asked, ask};
use crate::Error;
use crate::fleet::api::Api;
use crate::fleet::look::{self, Seen};
use crate::fleet::objects::{Node, Pod};
use crate::fleet::patience::Patience;
use crate::fleet::{CLUSTERS_AT_ONCE, concurrently};
use crate::inventory::{Role, Target};
use crate::kubeconfig;

/// How long floaters that are kept live.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a run without a time limit is assumed to take at most, for the expiry of what it makes.
const LONG_RUN: Duration = Duration::from_secs(15 * 60);
/// What is added to everything else before floaters expire.
const EXPIRY_SLACK: Duration = Duration::from_secs(5 * 60);

/// How long the first answer of a cluster may take: everybody else waits for it before probes are planned.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a cluster that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(3);

/// A cluster that answered and is not yet ready.
pub(super) struct Open {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) api: Api,
    pub(super) seen: Seen,
    /// Floaters that stood ready, asked; none where own ones are needed.
    pub(super) asked: Option<Asked>,
}

pub(super) type Looked = (Target, Result<Open, String>);

/// Where the fleet's objects are.
pub(super) enum Holder {
    /// In a cluster of the run, by its id.
    Inside(String),
    /// In a cluster that is only the inventory's source.
    Outside(String),
}

/// Looks at every cluster, the inventory of a control plane first where that is what was given.
pub(super) async fn look_at_all(
    context: &Context,
    targets: Vec<Target>,
) -> Result<(Vec<Looked>, Option<(String, Fleet)>), Error> {
    let [holder] = &targets[..] else {
        return Ok((look_at(context, targets).await, None));
    };
    if holder.role != Role::Fleet {
        return Ok((look_at(context, targets).await, None));
    }
    let name = holder.name.clone();
    let mut looked = look_at(context, targets).await;
    let Some((target, Ok(open))) = looked.pop() else {
        let reason = looked.pop().and_then(|(_, result)| result.err());
        return Err(Error::Missing {
            what: format!("the control plane {name} cannot be reached"),
            why: reason.unwrap_or_else(|| "it could not be asked".to_owned()),
        });
    };
    if open.seen.members.is_empty() {
        return Err(Error::Missing {
            what: format!("the control plane {name} has no inventory"),
            why: "it has no clusters.kosmos.io object".to_owned(),
        });
    }
    let fleet = open.seen.intent.clone().unwrap_or_default();
    let root = fleet
        .clusters
        .iter()
        .find(|cluster| look::is_root(cluster))
        .map(|cluster| cluster.metadata.name.clone());
    let members: Vec<Target> = open
        .seen
        .members
        .iter()
        .filter_map(|value| member(value, root.as_deref()))
        .collect();
    let mut looked = look_at(context, members).await;
    if let Some(root) = root {
        let target = Target {
            name: root.clone(),
            ..target
        };
        let open = Open { name: root, ..open };
        looked.push((target, Ok(open)));
    }
    Ok((looked, Some((name, fleet))))
}

/// A member of a control plane's inventory; none for the control plane's own entry, which is there already.
fn member(value: &Value, root: Option<&str>) -> Option<Target> {
    let name = value["metadata"]["name"].as_str()?;
    if root == Some(name) {
        return None;
    }
    let Some(encoded) = value["spec"]["kubeconfig"]
        .as_str()
        .filter(|encoded| !encoded.is_empty())
    else {
        let why = "its clusters.kosmos.io object has no kubeconfig".to_owned();
        return Some(Target::unusable(name.to_owned(), why));
    };
    Some(match decoded(name, encoded) {
        Ok(selected) => Target::with_context(name.to_owned(), Role::Member, selected),
        Err(why) => Target::unusable(name.to_owned(), why),
    })
}

fn decoded(name: &str, encoded: &str) -> Result<kubeconfig::Selected, String> {
    use base64::Engine as _;
    let source = format!("clusters.kosmos.io/{name}");
    let text = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| format!("{source}: spec.kubeconfig is not base64 of text"))?;
    let file = kubeconfig::parse(&text, &source, None).map_err(|error| error.to_string())?;
    let current = file.current().map_err(|error| error.to_string())?;
    file.select(current).map_err(|error| error.to_string())
}

async fn look_at(context: &Context, targets: Vec<Target>) -> Vec<Looked> {
    let patience = Arc::new(Patience::new(targets.len(), LATE, context.deadline));
    let results = concurrently(targets.clone(), CLUSTERS_AT_ONCE, |target| {
        let context = context.clone();
        let patience = Arc::clone(&patience);
        async move {
            tokio::time::timeout_at(context.deadline, open(&context, &target, &patience))
                .await
                .unwrap_or_else(|_| Err("the run's time was up before it answered".to_owned()))
        }
    })
    .await;
    targets
        .into_iter()
        .zip(results)
        .map(|(target, result)| {
            let failed = || Err("asking it failed within this program".to_owned());
            (target, result.unwrap_or_else(failed))
        })
        .collect()
}

/// Everything that changes nothing: who the cluster is, and its floaters' answers if they stand ready.
async fn open(context: &Context, target: &Target, patience: &Patience) -> Result<Open, String> {
    let namespace = &context.options.namespace;
    let limit = context.options.cluster_timeout;
    let look = async {
        let api = Api::new(target.client().await?);
        let seen = look::look(&api, namespace, limit.unwrap_or(FIRST_ANSWER)).await?;
        Ok((api, seen))
    };
    let (api, seen) = match limit {
        Some(limit) => tokio::time::timeout(limit, look).await.unwrap_or_else(|_| {
            Err(format!(
                "it did not answer within {} s",
                limit.as_secs_f64()
            ))
        }),
        None => patience.with(look).await.unwrap_or_else(|waited| {
            Err(format!(
                "it has not answered after {:.1} s, when the other clusters had long done so",
                waited.as_secs_f64()
            ))
        }),
    }?;
    let asked = match &seen.floaters {
        Err(_) => None,
        Ok(floaters) => {
            let nodes = able(&seen.nodes);
            let layers = context.layers();
            let until = Timestamp::now() + lifetime(context);
            let standing = look::standing(&api, namespace, floaters, &nodes, &layers, until).await;
            match standing {
                None => None,
                Some(standing) => {
                    let key = standing.run_key.into();
                    let pods: Vec<&Pod> = floaters
                        .iter()
                        .filter(|pod| pod.run() == Some(standing.run.as_str()))
                        .collect();
                    Some(ask(context, &api, &seen, &pods, &key).await)
                }
            }
        }
    };
    Ok(Open {
        name: target.name.clone(),
        role: target.role,
        api,
        seen,
        asked,
    })
}

/// The nodes on which a floater can be expected to run.
pub(super) fn able(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .filter(|node| node.is_ready() && node.runs_linux())
        .map(|node| node.metadata.name.clone())
        .collect()
}

/// How long what a run makes has to live.
pub(super) fn lifetime(context: &Context) -> Duration {
    if context.options.keep {
        return KEPT;
    }
    context.options.timeout.unwrap_or(LONG_RUN) + context.options.pod_wait + EXPIRY_SLACK
}

/// Entries that reach the same cluster are one, the first of them, with a warning.
pub(super) fn distinct(context: &Context, looked: Vec<Looked>) -> Vec<Looked> {
    let mut first: HashMap<String, String> = HashMap::new();
    let mut kept = Vec::new();
    for (target, result) in looked {
        if let Ok(open) = &result {
            for warning in &open.seen.warnings {
                context.warn(format!("{}: {warning}", open.name));
            }
            if let Some(other) = first.get(&open.seen.id) {
                context.warn(format!(
                    "{other} and {} reach the same cluster; it is taken once, as {other}",
                    open.name
                ));
                continue;
            }
            first.insert(open.seen.id.clone(), open.name.clone());
        }
        kept.push((target, result));
    }
    kept
}

/// The fleet's objects: those of the inventory's holder, else of the cluster that is named, else of the one that is most surely
/// the control plane.
pub(super) fn intent(
    context: &Context,
    open: &[Open],
    holder: Option<(String, Fleet)>,
) -> Result<(Fleet, Option<Holder>), Error> {
    if let Some((name, fleet)) = holder {
        let root = fleet.clusters.iter().find(|cluster| look::is_root(cluster));
        let name = root.map_or(name, |root| root.metadata.name.clone());
        return Ok((fleet, Some(Holder::Outside(name))));
    }
    if let Some(wanted) = &context.options.control_plane {
        let Some(named) = open.iter().find(|cluster| cluster.name == *wanted) else {
            return Err(Error::Usage(format!(
                "--control-plane {wanted}: no cluster of that context can be reached"
            )));
        };
        let fleet = named.seen.intent.clone().unwrap_or_default();
        return Ok((fleet, Some(Holder::Inside(named.seen.id.clone()))));
    }
    let best = open
        .iter()
        .map(|cluster| {
            let fleet = cluster.seen.intent.as_ref();
            let size = fleet.map_or(0, |fleet| fleet.clusters.len());
            ((look::control_plane_rank(fleet), size), cluster)
        })
        // Of equals the first, as the inventory lists them.
        .rev()
        .max_by_key(|(rank, _)| *rank);
    Ok(match best {
        Some(((rank, _), cluster)) if rank > 0 => (
            cluster.seen.intent.clone().unwrap_or_default(),
            Some(Holder::Inside(cluster.seen.id.clone())),
        ),
        _ => (Fleet::default(), None),
    })
}
