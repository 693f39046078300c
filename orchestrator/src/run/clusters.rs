//! Clusters from the inventory to floaters that answer: looked at all at once, made distinct, given floaters where none
//! stand ready.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datapath::api::Fleet;
use floater::wire::{Layer, Tables};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::ask::{Asked, ask, refuse};
use super::{Context, Progress};
use crate::Error;
use crate::fleet::agents::Agent;
use crate::fleet::api::Api;
use crate::fleet::look::{self, Seen};
use crate::fleet::objects::{Node, Pod};
use crate::fleet::patience::Patience;
use crate::fleet::{CLUSTERS_AT_ONCE, concurrently, deploy, remove};
use crate::inventory::{Role, Target};
use crate::kubeconfig;
use crate::manifest::Spec;
use crate::report::Observation;

/// How long floaters that are kept live.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a run without a time limit is assumed to take at most, for the expiry of what it makes.
const LONG_RUN: Duration = Duration::from_secs(15 * 60);
/// What is added to everything else before floaters expire.
const EXPIRY_SLACK: Duration = Duration::from_secs(5 * 60);

/// How long a cluster that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(3);

/// All clusters of a run as they were found.
pub(super) struct Found {
    pub(super) clusters: Vec<Prepared>,
    pub(super) fleet: Fleet,
    /// The name of the cluster that holds `fleet`.
    pub(super) control_plane: Option<String>,
}

/// A cluster, asked as far as it let itself be asked.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) state: Result<Members, String>,
}

/// The nodes of a cluster and their floaters.
pub(super) struct Members {
    pub(super) id: String,
    pub(super) nodes: Vec<Node>,
    /// By node and layer; no entry where the layer is not asked for.
    pub(super) floaters: BTreeMap<(String, Layer), Result<Agent, String>>,
    /// By node.
    pub(super) tables: BTreeMap<String, Result<Tables, String>>,
    /// Addresses in the pods' network by node, for walks where no packet is sent.
    pub(super) pod_ips: BTreeMap<String, Vec<IpAddr>>,
}

/// A cluster that answered and is not yet ready.
struct Open {
    name: String,
    role: Role,
    api: Api,
    seen: Seen,
    /// Floaters that stood ready, asked; none where own ones are needed.
    asked: Option<Asked>,
}

type Looked = (Target, Result<Open, String>);

/// Brings every cluster to where it can be probed.
pub(super) async fn prepare(context: &Context, targets: Vec<Target>) -> Result<Found, Error> {
    let (looked, fleet_holder) = look_at_all(context, targets).await?;
    let mut open = Vec::new();
    let mut clusters = Vec::new();
    for (target, result) in distinct(context, looked) {
        match result {
            Ok(seen) => open.push(seen),
            Err(reason) => clusters.push(Prepared {
                name: target.name,
                state: Err(reason),
            }),
        }
    }
    if open.is_empty() {
        return Err(nobody(&clusters));
    }
    let (fleet, control_plane) = intent(&open, fleet_holder);
    for cluster in &mut open {
        if let Some(name) = look::member_of(&cluster.name, &cluster.seen.nodes, &fleet) {
            cluster.name = name;
        }
    }
    let control_plane = control_plane.map(|holder| match holder {
        Holder::Outside(name) => name,
        Holder::Inside(id) => open
            .iter()
            .find(|cluster| cluster.seen.id == id)
            .map_or(id, |cluster| cluster.name.clone()),
    });
    let fleet = Arc::new(fleet);
    for cluster in clusters.iter().filter(|cluster| cluster.state.is_err()) {
        context.tell(Progress::Cluster {
            name: cluster.name.clone(),
            nodes: 0,
            state: Observation::Unobserved,
            reason: cluster.state.as_ref().err().cloned(),
        });
    }
    let names: Vec<String> = open.iter().map(|cluster| cluster.name.clone()).collect();
    let done = concurrently(open, CLUSTERS_AT_ONCE, |cluster| {
        let context = context.clone();
        let fleet = Arc::clone(&fleet);
        async move { finish(&context, &fleet, cluster).await }
    })
    .await;
    clusters.extend(names.into_iter().zip(done).map(|(name, members)| Prepared {
        name,
        state: members.ok_or_else(|| "asking it failed within this program".to_owned()),
    }));
    Ok(Found {
        clusters,
        fleet: Arc::unwrap_or_clone(fleet),
        control_plane,
    })
}

fn nobody(clusters: &[Prepared]) -> Error {
    let reasons: Vec<String> = clusters
        .iter()
        .take(5)
        .filter_map(|cluster| {
            let reason = cluster.state.as_ref().err()?;
            Some(format!("{}: {reason}", cluster.name))
        })
        .collect();
    let more = clusters.len().saturating_sub(reasons.len());
    let mut why = reasons.join("; ");
    if more > 0 {
        why += &format!("; and {more} more");
    }
    Error::Missing {
        what: "no cluster can be reached".to_owned(),
        why,
    }
}

/// Where the fleet's objects are.
enum Holder {
    /// In a cluster of the run, by its id.
    Inside(String),
    /// In a cluster that is only the inventory's source.
    Outside(String),
}

/// Looks at every cluster, the inventory of a control plane first where that is what was given.
async fn look_at_all(
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
    let look = async {
        let api = Api::new(target.client().await?);
        let seen = look::look(&api, namespace).await?;
        Ok((api, seen))
    };
    let (api, seen) = patience.with(look).await.unwrap_or_else(|waited| {
        Err(format!(
            "it has not answered after {:.1} s, when the other clusters had long done so",
            waited.as_secs_f64()
        ))
    })?;
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
fn able(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .filter(|node| node.is_ready() && node.runs_linux())
        .map(|node| node.metadata.name.clone())
        .collect()
}

/// How long what a run makes has to live.
fn lifetime(context: &Context) -> Duration {
    if context.options.keep {
        return KEPT;
    }
    context.options.timeout.unwrap_or(LONG_RUN) + context.options.pod_wait + EXPIRY_SLACK
}

/// Entries that reach the same cluster are one, the first of them, with a warning.
fn distinct(context: &Context, looked: Vec<Looked>) -> Vec<Looked> {
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

/// The fleet's objects: those of the inventory's holder, else of the cluster that is most surely the control plane.
fn intent(open: &[Open], holder: Option<(String, Fleet)>) -> (Fleet, Option<Holder>) {
    if let Some((name, fleet)) = holder {
        let root = fleet.clusters.iter().find(|cluster| look::is_root(cluster));
        let name = root.map_or(name, |root| root.metadata.name.clone());
        return (fleet, Some(Holder::Outside(name)));
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
    match best {
        Some(((rank, _), cluster)) if rank > 0 => (
            cluster.seen.intent.clone().unwrap_or_default(),
            Some(Holder::Inside(cluster.seen.id.clone())),
        ),
        _ => (Fleet::default(), None),
    }
}

/// Deploys where no floaters stand ready, and asks them.
async fn finish(context: &Context, fleet: &Fleet, cluster: Open) -> Members {
    let Open {
        name,
        role,
        api,
        seen,
        asked,
    } = cluster;
    let what = &context.options.what;
    // What dead runs left has nothing to do with this one's floaters, so neither waits for the other.
    let swept = sweep_one(context, &name, &api, false);
    let asked = async {
        match asked {
            Some(asked) => asked,
            None if !what.wants_source(&name) && !what.wants_destination(&name) => {
                refuse(context, &seen, "it is not asked for")
            }
            None => match own(context, fleet, &name, role, &api, &seen).await {
                Ok(asked) => asked,
                Err(reason) => refuse(context, &seen, &reason),
            },
        }
    };
    let pod_ips = async {
        if context.options.probe {
            // A packet is only sent to an address where somebody is known to answer.
            return BTreeMap::new();
        }
        look::pod_ips(&api, &seen).await
    };
    let (_, asked, pod_ips) = tokio::join!(swept, asked, pod_ips);
    let members = Members {
        id: seen.id,
        nodes: seen.nodes,
        floaters: asked.floaters,
        tables: asked.tables,
        pod_ips,
    };
    let troubles: Vec<&String> = members
        .floaters
        .values()
        .filter_map(|floater| floater.as_ref().err())
        .chain(
            members
                .tables
                .values()
                .filter_map(|read| read.as_ref().err()),
        )
        .collect();
    let all = members.floaters.len() + members.tables.len();
    context.tell(Progress::Cluster {
        name,
        nodes: members.nodes.len(),
        state: match troubles.len() {
            0 if all > 0 => Observation::Observed,
            some if some < all => Observation::Partly,
            _ => Observation::Unobserved,
        },
        reason: troubles.first().map(|reason| (*reason).clone()),
    });
    members
}

/// Own floaters: created, waited for, asked.
async fn own(
    context: &Context,
    fleet: &Fleet,
    name: &str,
    role: Role,
    api: &Api,
    seen: &Seen,
) -> Result<Asked, String> {
    let options = &context.options;
    let floaters = seen.floaters.as_ref().map_err(Clone::clone)?;
    let nodes: Vec<String> = able(&seen.nodes)
        .into_iter()
        .filter(|node| options.what.wants_node(name, node))
        .collect();
    if nodes.is_empty() {
        return Err("no node is ready that could run a floater".to_owned());
    }
    let mut run_key = vec![0; 32];
    super::random(&mut run_key).map_err(|error| error.to_string())?;
    let (port, api_port) = deploy::free_ports(floaters, options.port);
    let lifetime = lifetime(context);
    let repository = match (role, &options.dst_image_repository) {
        (Role::Destination, Some(repository)) => repository,
        _ => &options.image_repository,
    };
    let spec = Spec {
        run: context.run.clone(),
        cluster_id: seen.id.clone(),
        namespace: options.namespace.clone(),
        layers: context.layers(),
        image_repository: repository.trim_end_matches('/').to_owned(),
        version: options.version.clone(),
        run_key: run_key.clone(),
        port,
        api_port,
        expires: Timestamp::now() + lifetime,
        ttl: lifetime,
        shared: options.keep,
        reads_nat: translates(fleet, name),
    };
    context.tell(Progress::Deploying {
        name: name.to_owned(),
    });
    let layers = spec.layers.clone();
    let create = deploy::create(
        Arc::clone(&context.ledger),
        name.to_owned(),
        api.clone(),
        spec,
    );
    tokio::time::timeout_at(context.deadline, create)
        .await
        .unwrap_or_else(|_| Err("the run's time was up before its floaters existed".to_owned()))?;
    let deadline = context.deadline.min(Instant::now() + options.pod_wait);
    let pods = deploy::ready(
        api,
        &options.namespace,
        &context.run,
        &nodes,
        &layers,
        deadline,
    )
    .await;
    let pods: Vec<&Pod> = pods.iter().collect();
    Ok(ask(context, api, seen, &pods, &run_key.into()).await)
}

/// Whether a member translates addresses, so that its tables of it have to be read.
fn translates(fleet: &Fleet, name: &str) -> bool {
    fleet
        .clusters
        .iter()
        .filter(|cluster| cluster.metadata.name == name)
        .filter_map(|cluster| cluster.spec.cluster_link_options.as_ref())
        .any(|options| !options.global_cidrs_map.is_empty())
}

/// Sweeps every cluster of the inventory.
pub(super) async fn sweep(context: &Context) -> Result<Vec<String>, Error> {
    let targets = super::targets(context).await?;
    let (looked, _) = look_at_all(context, targets).await?;
    let mut open = Vec::new();
    let mut silent = Vec::new();
    for (target, result) in distinct(context, looked) {
        match result {
            Ok(cluster) => open.push(cluster),
            Err(reason) => {
                context.warn(format!("{} is not swept: {reason}", target.name));
                silent.push(Prepared {
                    name: target.name,
                    state: Err(reason),
                });
            }
        }
    }
    if open.is_empty() {
        return Err(nobody(&silent));
    }
    let swept = concurrently(open, CLUSTERS_AT_ONCE, |cluster| {
        let context = context.clone();
        async move { sweep_one(&context, &cluster.name, &cluster.api, true).await }
    })
    .await;
    Ok(swept.into_iter().flatten().flatten().collect())
}

/// `asked_for`: somebody wants to know what could not be swept; in the course of a run nobody does, since reading Secrets
/// may well be forbidden.
async fn sweep_one(context: &Context, name: &str, api: &Api, asked_for: bool) -> Vec<String> {
    let sweep = remove::sweep(api, &context.options.namespace, Timestamp::now());
    let (removed, failed) = tokio::time::timeout_at(context.deadline, sweep)
        .await
        .unwrap_or_default();
    for why in failed.into_iter().filter(|_| asked_for) {
        context.warn(format!("{name}: not swept: {why}"));
    }
    removed
        .into_iter()
        .map(|object| {
            context.tell(Progress::Swept {
                cluster: name.to_owned(),
                object: object.clone(),
            });
            format!("{name}: {object}")
        })
        .collect()
}
