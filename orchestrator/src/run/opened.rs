//! Clusters that answered: who they are, what they hold of the fleet's intent, and their floaters' answers if they stand
//! ready. Nothing here changes anything.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use datapath::api::Fleet;
use jiff::Timestamp;
use tokio::time::Instant;

use super::ask::{Asked, ask};
use super::expected::Expectations;
use super::{Context, Progress};
use crate::Error;
use crate::descriptors::Descriptors;
use crate::fleet::api::Api;
use crate::fleet::budget::Budget;
use crate::fleet::concurrently;
use crate::fleet::deploy::Refused;
use crate::fleet::look::{self, Seen};
use crate::fleet::objects::{Node, Pod};
use crate::fleet::patience::{FirstAnswer, Patience};
use crate::inventory::{Role, Target};
use crate::kubeconfig::{Identity, Reach, RemoteKubeconfig};

/// How long floaters that are kept live.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a run without a time limit is assumed to take at most, for the expiry of what it makes.
const LONG_RUN: Duration = Duration::from_secs(15 * 60);
/// What is added to everything else before floaters expire.
const EXPIRY_SLACK: Duration = Duration::from_secs(5 * 60);

/// How long the first answer of a cluster may take as long as no other has answered, and how long once one has: everybody else waits
/// for it before probes are planned.
const FIRST_ANSWER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How much later the budget of a cluster ends than the time limits that say whose they are.
const MARGIN: Duration = Duration::from_secs(1);
/// How many members that cannot be asked are reported one by one.
pub(super) const UNREACHED: usize = 256;
/// How long a cluster may take in all where no limit is given, besides what its floaters may take to become ready.
const CLUSTER: Duration = Duration::from_secs(120);
/// How long a cluster that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(8);

/// A cluster that answered and is not yet ready.
pub(super) struct Open {
    pub(super) name: String,
    pub(super) role: Role,
    /// By what its server is known, see [`Target::identity`].
    pub(super) identity: Option<Identity>,
    pub(super) api: Api,
    pub(super) seen: Seen,
    /// Floaters that stand ready; none where own ones are needed.
    pub(super) standing: Option<Ready>,
    /// What they said, where they had to be asked before it was known what to expect of them.
    pub(super) asked: Option<Asked>,
}

/// Floaters that stand ready, with the key that they know.
pub(super) struct Ready {
    run: String,
    run_key: Arc<[u8]>,
}

impl Open {
    /// Asks the floaters that stand ready; none where there are none.
    pub(super) async fn ask_standing(
        &self,
        context: &Context,
        expected: Option<&Expectations>,
    ) -> Option<Asked> {
        let (ready, floaters) = (self.standing.as_ref()?, self.seen.floaters.as_ref().ok()?);
        let pods: Vec<&Pod> = floaters
            .iter()
            .filter(|pod| pod.run() == Some(ready.run.as_str()))
            .collect();
        let expected = expected.map(|expected| (expected, self.name.as_str()));
        let none = Refused::new();
        let (api, seen, key) = (&self.api, &self.seen, &ready.run_key);
        Some(ask(context, api, seen, &pods, &none, key, expected).await)
    }
}

pub(super) type Looked = (Target, Result<Open, String>);

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
    let (fleet, warnings) = look::intent(&open.api, &open.seen.members).await;
    for warning in warnings {
        context.warn(format!("{name}: {warning}"));
    }
    if open.seen.members.is_empty() {
        return Err(Error::Missing {
            what: format!("the control plane {name} has no inventory"),
            why: open
                .seen
                .members_unread
                .unwrap_or_else(|| "it has no clusters.kosmos.io object".to_owned()),
        });
    }
    let root = fleet
        .clusters
        .iter()
        .find(|cluster| look::is_root(cluster))
        .map(|cluster| cluster.metadata.name.clone());
    let reach = target.reach_of_members().await;
    let members = members(context, &open.seen.members, root.as_deref(), &reach);
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

/// The members of a control plane's inventory without the control plane's own entry, which is there already.
fn members(
    context: &Context,
    members: &[look::Member],
    root: Option<&str>,
    reach: &Reach,
) -> Vec<Target> {
    let mut names = BTreeSet::new();
    let (mut targets, mut unusable) = (Vec::new(), 0);
    for member in members {
        let name = &member.name;
        // No API gives one name twice.
        if root == Some(name) || !names.insert(name) {
            continue;
        }
        let remote = match member.kubeconfig.as_str() {
            "" => Err("its clusters.kosmos.io object has no kubeconfig".to_owned()),
            encoded => decoded(name, encoded),
        };
        match remote {
            Ok(remote) => targets.push(Target::remote(name.clone(), remote, reach.clone())),
            Err(why) => {
                unusable += 1;
                if unusable <= UNREACHED {
                    targets.push(Target::unusable(name.clone(), why));
                }
            }
        }
    }
    if unusable > UNREACHED {
        context.warn(format!(
            "{} more members have no usable kubeconfig and are left out",
            unusable - UNREACHED
        ));
    }
    targets
}

pub(super) fn decoded(name: &str, encoded: &str) -> Result<RemoteKubeconfig, String> {
    use base64::Engine as _;
    let source = format!("clusters.kosmos.io/{name}");
    let text = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| format!("{source}: spec.kubeconfig is not base64 of text"))?;
    RemoteKubeconfig::parse(&text, &source).map_err(|error| error.to_string())
}

async fn look_at(context: &Context, targets: Vec<Target>) -> Vec<Looked> {
    // Whoever has not answered by half of the time that is left leaves the others the time to be judged.
    let deadline = Instant::now() + context.left() / 2;
    let patience = Arc::new(Patience::new(targets.len(), LATE, deadline));
    let (alone, others) = match context.options.cluster_timeout {
        Some(limit) => (limit, limit),
        None => FIRST_ANSWER,
    };
    let first = Arc::new(FirstAnswer::new(alone, others));
    let authorities: HashSet<_> = targets.iter().filter_map(Target::authority).collect();
    let idle = Descriptors::idle(context.limit, targets.len(), authorities.len());
    let results = concurrently(targets.clone(), context.shares().clusters, |target| {
        let context = context.clone();
        let (patience, first) = (Arc::clone(&patience), Arc::clone(&first));
        async move {
            tokio::time::timeout_at(deadline, open(&context, &target, &patience, &first, idle))
                .await
                .unwrap_or_else(|_| {
                    Err("half of the run's time (--timeout) was up before it answered".to_owned())
                })
        }
    })
    .await;
    targets
        .into_iter()
        .zip(results)
        .map(|(target, result)| {
            let failed = || Err("asking it failed within this program".to_owned());
            let result = result
                .unwrap_or_else(failed)
                .map_err(|why| match target.server() {
                    Some(server) => format!("{why} ({server})"),
                    None => why,
                });
            (target, result)
        })
        .collect()
}

/// Everything that changes nothing: who the cluster is, and its floaters' answers if they stand ready.
async fn open(
    context: &Context,
    target: &Target,
    patience: &Patience,
    first: &FirstAnswer,
    idle: usize,
) -> Result<Open, String> {
    let namespace = &context.options.namespace;
    let limit = context.options.cluster_timeout;
    context.tell(Progress::Looking {
        name: target.name.clone(),
    });
    let look = async {
        let time = limit.unwrap_or(CLUSTER + context.options.pod_wait);
        let api = Api::new(
            target.client(idle).await?,
            Budget::new(time.min(context.left()) + MARGIN),
        );
        let seen = look::look(&api, namespace, first).await?;
        Ok((api, seen))
    };
    let (api, seen) = match limit {
        Some(limit) => tokio::time::timeout(limit, look).await.unwrap_or_else(|_| {
            Err(format!(
                "it did not answer within {} s",
                limit.as_secs_f64()
            ))
        }),
        // Of a pair that somebody named the slower is waited for.
        None if patience.is_of_few() => look.await,
        None => patience.with(look).await.unwrap_or_else(|waited| {
            Err(format!(
                "it has not answered after {:.1} s, when the other clusters had long done so",
                waited.as_secs_f64()
            ))
        }),
    }?;
    let standing = match &seen.floaters {
        Err(_) => None,
        Ok(floaters) => {
            let nodes = able(&seen.nodes);
            let layers = context.layers();
            let until = Timestamp::now() + lifetime(context);
            let standing = look::standing(&api, namespace, floaters, &nodes, &layers, until).await;
            standing.map(|standing| Ready {
                run: standing.run,
                run_key: standing.run_key.into(),
            })
        }
    };
    Ok(Open {
        name: target.name.clone(),
        role: target.role,
        identity: target.identity(),
        api,
        seen,
        standing,
        asked: None,
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
