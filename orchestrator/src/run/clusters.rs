//! Clusters from the inventory to floaters that answer: opened all at once, given floaters where none stand ready.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::api::Fleet;
use datapath::digest::Digester;
use datapath::printable::Printable;
use floater::wire::{Layer, Tables};
use jiff::Timestamp;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{Asked, ask, refuse};
use super::claims::{Intent, distinct, intent, rename, unreached};
use super::expected::Expectations;
use super::opened::{Looked, Open, able, lifetime, look_at_all};
use super::{Context, Progress, Swept};
use crate::Error;
use crate::evidence::InventoryNote;
use crate::fleet::agents::{Agent, Gates};
use crate::fleet::api::Api;
use crate::fleet::look::{self, Seen};
use crate::fleet::objects::{Node, Pod};
use crate::fleet::{concurrently, deploy, remove};
use crate::inventory::{Role, Target};
use crate::manifest::Spec;
use crate::report::Observation;

/// How often floaters are deployed with other ports when those of the run turn out to be taken.
const PORT_ATTEMPTS: u32 = 3;
/// So many clusters that are called otherwise than any member are asked who they are.
const NAMELESS: usize = 64;

/// All clusters of a run as they were found.
pub(super) struct Found {
    pub(super) clusters: Vec<Prepared>,
    pub(super) fleet: Fleet,
    /// The name of the cluster that holds `fleet`.
    pub(super) control_plane: Option<String>,
    /// Claims that are not believed.
    pub(super) notes: Vec<InventoryNote>,
    /// How differences from what floaters were told to expect are to be read; none where they were told nothing.
    pub(super) digester: Option<Digester>,
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

/// Brings every cluster to where it can be probed.
pub(super) async fn prepare(context: &Context, targets: Vec<Target>) -> Result<Found, Error> {
    let (looked, fleet_holder) = look_at_all(context, targets).await?;
    let (looked, mut notes) = distinct(context, looked);
    let (mut open, mut clusters) = parted(looked);
    if open.is_empty() {
        return Err(nobody(&clusters));
    }
    let (fleet, control_plane) =
        believed(context, &mut open, &clusters, fleet_holder, &mut notes).await?;
    for note in &notes {
        context.warn(format!("{}: {}", note.code, note.text));
    }
    let names: BTreeSet<String> = open
        .iter()
        .map(|cluster| &cluster.name)
        .chain(clusters.iter().map(|cluster| &cluster.name))
        .cloned()
        .collect();
    for (name, reason) in unreached(context, &names, &fleet) {
        clusters.push(Prepared {
            name,
            state: Err(reason),
        });
    }
    matched(context, &open, &clusters)?;
    let expected = Arc::new(Expectations::new(&fleet)?);
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
    let at_once = context.shares().clusters;
    let done = concurrently(open, at_once, |cluster| {
        let context = context.clone();
        let (fleet, expected) = (Arc::clone(&fleet), Arc::clone(&expected));
        async move { finish(&context, &fleet, (*expected).as_ref(), cluster).await }
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
        notes,
        digester: (*expected).as_ref().map(Expectations::digester),
    })
}

/// The fleet's objects and the name of the cluster that holds them; the clusters have the names of the members that they are.
async fn believed(
    context: &Context,
    open: &mut [Open],
    silent: &[Prepared],
    fleet_holder: Option<(String, Fleet)>,
    notes: &mut Vec<InventoryNote>,
) -> Result<(Fleet, Option<String>), Error> {
    if let Some((name, fleet)) = fleet_holder {
        let root = fleet.clusters.iter().find(|cluster| look::is_root(cluster));
        let name = root.map_or(name, |root| root.metadata.name.clone());
        return Ok((fleet, Some(name)));
    }
    let Intent {
        fleet,
        holder,
        note,
    } = intent(context, open).await?;
    notes.extend(note);
    ask_the_nameless(context, open, &fleet).await;
    let silent: Vec<&str> = silent.iter().map(|cluster| &*cluster.name).collect();
    rename(context, open, &silent, &fleet, holder);
    Ok((fleet, holder.map(|at| open[at].name.clone())))
}

/// A context that is called otherwise than any member is recognised by the addresses that its nodes' kernels have.
async fn ask_the_nameless(context: &Context, open: &mut [Open], fleet: &Fleet) {
    let members: BTreeSet<&str> = fleet
        .clusters
        .iter()
        .map(|cluster| cluster.metadata.name.as_str())
        .collect();
    if members.is_empty() {
        return;
    }
    let nameless = open
        .iter_mut()
        .filter(|cluster| !members.contains(cluster.name.as_str()) && cluster.standing.is_some())
        .take(NAMELESS);
    let asked = nameless.map(|cluster| async {
        cluster.asked = cluster.ask_standing(context, None).await;
    });
    futures::future::join_all(asked).await;
}

/// Ends a run whose patterns choose nothing, before anything is made anywhere.
fn matched(context: &Context, open: &[Open], silent: &[Prepared]) -> Result<(), Error> {
    let what = &context.options.what;
    let silent = silent.iter().map(|cluster| cluster.name.as_str());
    let names: Vec<&str> = open
        .iter()
        .map(|cluster| &*cluster.name)
        .chain(silent)
        .collect();
    for (option, patterns) in [
        ("--sources", &what.sources),
        ("--destinations", &what.destinations),
    ] {
        for pattern in patterns {
            if !names.iter().any(|name| pattern.matches(name)) {
                return Err(Error::Usage(format!(
                    "{option} {} matches no cluster",
                    quoted(pattern.as_str())
                )));
            }
        }
    }
    for pattern in &what.nodes {
        let has = |cluster: &Open| {
            cluster.seen.nodes.iter().any(|node| {
                let name = &node.metadata.name;
                pattern.matches(name) || pattern.matches(&format!("{}/{name}", cluster.name))
            })
        };
        if !open.iter().any(has) {
            return Err(Error::Usage(format!(
                "--nodes {} matches no node",
                quoted(pattern.as_str())
            )));
        }
    }
    Ok(())
}

/// A pattern as it was typed, safe to print.
fn quoted(pattern: &str) -> String {
    format!("'{}'", Printable::new(pattern))
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

/// Deploys where no floaters stand ready, and asks them.
async fn finish(
    context: &Context,
    fleet: &Fleet,
    expected: Option<&Expectations>,
    mut cluster: Open,
) -> Members {
    let early = cluster.asked.take();
    let (name, role) = (cluster.name.clone(), cluster.role);
    let (api, seen) = (&cluster.api, &cluster.seen);
    let what = &context.options.what;
    context.sweeps.begin(context, &name, api);
    let asked = async {
        let standing = match early {
            Some(asked) => Some(asked),
            None => cluster.ask_standing(context, expected).await,
        };
        match standing {
            Some(asked) => asked,
            None if !what.wants_source(&name) && !what.wants_destination(&name) => {
                refuse(context, seen, "it is not asked for")
            }
            None => match own(context, fleet, expected, &name, role, api, seen).await {
                Ok(asked) => asked,
                Err(reason) => refuse(context, seen, &reason),
            },
        }
    };
    let pod_ips = async {
        if context.options.probe {
            // A packet is only sent to an address where somebody is known to answer.
            return BTreeMap::new();
        }
        look::pod_ips(api, seen).await
    };
    // Every step has its limit; this one is the cluster's, so that no number of steps takes longer.
    let done = async { tokio::join!(asked, pod_ips) };
    let (asked, pod_ips) = tokio::time::timeout(api.left(), done)
        .await
        .unwrap_or_else(|_| {
            let why = "the cluster took longer than it may (--cluster-timeout)";
            (refuse(context, seen, why), BTreeMap::new())
        });
    let members = Members {
        id: cluster.seen.id,
        nodes: cluster.seen.nodes,
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
    expected: Option<&Expectations>,
    name: &str,
    role: Role,
    api: &Api,
    seen: &Seen,
) -> Result<Asked, String> {
    let options = &context.options;
    let nodes: Vec<String> = able(&seen.nodes)
        .into_iter()
        .filter(|node| options.what.wants_node(name, node))
        .collect();
    if nodes.is_empty() {
        return Err("no node is ready that could run a floater".to_owned());
    }
    let mut refused = BTreeMap::new();
    let mut pods = Vec::new();
    let mut run_key: Arc<[u8]> = Arc::default();
    context.tell(Progress::Deploying {
        name: name.to_owned(),
    });
    for attempt in 0..PORT_ATTEMPTS {
        let spec = spec(context, fleet, name, role, seen, attempt)?;
        run_key = spec.run_key.clone().into();
        let create = deploy::create(
            Arc::clone(&context.ledger),
            name.to_owned(),
            api.clone(),
            spec.clone(),
            able(&seen.nodes),
        );
        let layers_refused = tokio::time::timeout_at(context.deadline, create)
            .await
            .unwrap_or_else(|_| {
                Err("the run's time was up before its floaters existed".to_owned())
            })?;
        let deadline = context.deadline.min(Instant::now() + options.pod_wait);
        let gates = Gates::new(&context.gate);
        let ready = deploy::ready(api, &spec, &nodes, layers_refused, deadline, &|pod| {
            let agent = Agent::new(api, &options.namespace, &seen.id, pod, &run_key, &gates);
            Box::pin(async move {
                match agent {
                    Some(agent) => agent.info(deadline).await.is_ok(),
                    None => false,
                }
            })
        })
        .await;
        (pods, refused) = (ready.pods, ready.refused);
        // Another run's floaters of the same moment have its ports, which no list could show before.
        if !pods.iter().any(Pod::lacks_ports) {
            break;
        }
    }
    let pods: Vec<&Pod> = pods.iter().collect();
    let expected = expected.map(|expected| (expected, name));
    Ok(ask(context, api, seen, &pods, &refused, &run_key, expected).await)
}

/// What a run makes in a cluster.
fn spec(
    context: &Context,
    fleet: &Fleet,
    name: &str,
    role: Role,
    seen: &Seen,
    attempt: u32,
) -> Result<Spec, String> {
    let options = &context.options;
    seen.floaters.as_ref().map_err(Clone::clone)?;
    let mut run_key = vec![0; 32];
    super::random(&mut run_key).map_err(|error| error.to_string())?;
    let (port, api_port) = deploy::free_ports(&seen.ports, options.port, &context.run, attempt);
    let lifetime = lifetime(context);
    let repository = match (role, &options.dst_image_repository) {
        (Role::Destination, Some(repository)) => repository,
        _ => &options.image_repository,
    };
    Ok(Spec {
        // Objects of two attempts have two names.
        run: match attempt {
            0 => context.run.clone(),
            attempt => format!("{}-{attempt}", context.run),
        },
        cluster_id: seen.id.clone(),
        namespace: options.namespace.clone(),
        layers: context.layers(),
        image_repository: repository.trim_end_matches('/').to_owned(),
        version: options.version.clone(),
        image_pull_secrets: options.image_pull_secrets.clone(),
        service_account: options.service_account.clone(),
        run_key,
        port,
        api_port,
        expires: Timestamp::now() + lifetime,
        shared: options.keep,
        reads_nat: translates(fleet, name),
        excluded: seen.excluded.clone(),
    })
}

/// The manifests of what a run would make, by the clusters' names.
pub(super) async fn dry_run(context: &Context) -> Result<Vec<(String, Vec<Value>)>, Error> {
    let targets = super::targets(context).await?;
    let (looked, holder) = look_at_all(context, targets).await?;
    let (looked, mut notes) = distinct(context, looked);
    let (mut open, silent) = parted(looked);
    for cluster in &silent {
        if let Err(reason) = &cluster.state {
            context.warn(format!("{}: {reason}", cluster.name));
        }
    }
    if open.is_empty() {
        return Err(nobody(&silent));
    }
    let (fleet, _) = believed(context, &mut open, &silent, holder, &mut notes).await?;
    matched(context, &open, &silent)?;
    let mut planned = Vec::new();
    for cluster in open {
        let name = cluster.name.clone();
        let what = &context.options.what;
        if cluster.standing.is_some() || !what.wants_source(&name) && !what.wants_destination(&name)
        {
            planned.push((name, Vec::new()));
            continue;
        }
        match spec(context, &fleet, &name, cluster.role, &cluster.seen, 0) {
            Ok(spec) => {
                let namespace = (!cluster.seen.namespace).then(|| spec.namespace());
                let objects = namespace.into_iter().chain(spec.objects());
                planned.push((name, objects.map(|object| object.value).collect()));
            }
            Err(reason) => context.warn(format!("{name}: {reason}")),
        }
    }
    Ok(planned)
}

/// Those that answered, and the others.
fn parted(looked: Vec<Looked>) -> (Vec<Open>, Vec<Prepared>) {
    let (mut open, mut silent) = (Vec::new(), Vec::new());
    for (target, result) in looked {
        match result {
            Ok(seen) => open.push(seen),
            Err(reason) => silent.push(Prepared {
                name: target.name,
                state: Err(reason),
            }),
        }
    }
    (open, silent)
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
pub(super) async fn sweep(context: &Context, force: bool) -> Result<Swept, Error> {
    let targets = super::targets(context).await?;
    let (looked, _) = look_at_all(context, targets).await?;
    let (looked, _) = distinct(context, looked);
    let (open, silent) = parted(looked);
    for cluster in &silent {
        if let Err(reason) = &cluster.state {
            context.warn(format!("{} is not swept: {reason}", cluster.name));
        }
    }
    if open.is_empty() {
        return Err(nobody(&silent));
    }
    let at_once = context.shares().clusters;
    let swept = concurrently(open, at_once, |cluster| {
        let context = context.clone();
        async move { sweep_one(&context, &cluster.name, &cluster.api, force).await }
    })
    .await;
    let mut all = Swept::default();
    for one in swept.into_iter().flatten() {
        all.removed.extend(one.removed);
        all.staying.extend(one.staying);
    }
    Ok(all)
}

/// How long a sweep beside a run may take, and how long it is waited for at the run's end.
const BESIDE: Duration = Duration::from_secs(20);
const SWEEPS_END: Duration = Duration::from_secs(2);

/// The sweeps of a run's clusters, which nothing of the run waits for.
#[derive(Default)]
pub(super) struct Sweeps(Mutex<JoinSet<()>>);

impl Sweeps {
    fn begin(&self, context: &Context, name: &str, api: &Api) {
        let progress = Arc::clone(&context.options.progress);
        let namespace = context.options.namespace.clone();
        let (name, api) = (name.to_owned(), api.afresh(BESIDE));
        let work = async move {
            let sweep = remove::sweep(&api, &namespace, Timestamp::now());
            // What could not be removed is nobody's question here: reading Secrets may well be forbidden.
            let swept = tokio::time::timeout(BESIDE, sweep)
                .await
                .unwrap_or_default();
            for object in swept.removed {
                let cluster = name.clone();
                progress(Progress::Swept { cluster, object });
            }
        };
        let mut sweeps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sweeps.spawn(work);
    }

    /// Waits a little for those that are under way, and ends the others.
    pub(super) async fn end(&self) {
        let mut sweeps = {
            let mut sweeps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sweeps)
        };
        let all = async { while sweeps.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SWEEPS_END, all).await;
    }
}

/// A sweep that somebody asked for; `force`: also of what has not expired.
async fn sweep_one(context: &Context, name: &str, api: &Api, force: bool) -> Swept {
    let now = if force {
        Timestamp::MAX
    } else {
        Timestamp::now()
    };
    let sweep = remove::sweep(api, &context.options.namespace, now);
    let swept = tokio::time::timeout(api.left(), sweep).await;
    let swept = swept.unwrap_or_else(|_| {
        context.warn(format!("{name}: the sweep took longer than a cluster may"));
        remove::Sweep::default()
    });
    for why in swept.failed {
        context.warn(format!("{name}: not swept: {why}"));
    }
    for object in &swept.removed {
        context.tell(Progress::Swept {
            cluster: name.to_owned(),
            object: object.clone(),
        });
    }
    let of_it = |objects: Vec<String>| {
        objects
            .into_iter()
            .map(|object| format!("{name}: {object}"))
            .collect()
    };
    Swept {
        removed: of_it(swept.removed),
        staying: of_it(swept.staying),
    }
}
