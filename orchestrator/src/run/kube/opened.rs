//! Clusters that answered: what was seen of them, and their floaters if they stand ready. Nothing here changes anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Context;
use super::ask::{Floaters, Lacking};
use crate::engine::claims::UNREACHED;
use crate::fleet::api::{Api, Warnings};
use crate::fleet::budget::Budget;
use crate::fleet::look::{self, Seen};
use crate::fleet::objects::{Node, Pod};
use crate::inventory::{Role, Target};
use crate::kubeconfig::{Reach, RemoteKubeconfig};
use crate::run::Progress;

/// How long floaters that are kept live.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a run without a time limit is assumed to take at most, for the expiry of what it makes.
const LONG_RUN: Duration = Duration::from_secs(15 * 60);
/// What is added to everything else before floaters expire.
const EXPIRY_SLACK: Duration = Duration::from_secs(5 * 60);
/// How much later the budget of a cluster ends than the time limits that say whose they are.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a cluster may take in all where no limit is given, besides what its floaters may take to become ready.
const CLUSTER: Duration = Duration::from_secs(120);

/// A cluster that answered.
pub(super) struct Open {
    pub(super) role: Role,
    pub(super) api: Api,
    pub(super) seen: Seen,
    /// Floaters that stand ready; none where own ones are needed.
    pub(super) standing: Option<Ready>,
}

/// Floaters that stand ready, with the key that they know.
pub(super) struct Ready {
    run: String,
    run_key: Arc<[u8]>,
}

impl Open {
    /// The floaters that stand ready; none where there are none. Nothing of theirs is lacking.
    pub(super) fn standing<'a>(
        &'a self,
        api: &'a Api,
        namespace: &'a str,
        none: &'a Lacking,
    ) -> Option<Floaters<'a>> {
        let (ready, floaters) = (self.standing.as_ref()?, self.seen.floaters.as_ref().ok()?);
        let is_theirs = |pod: &&Pod| pod.run() == Some(ready.run.as_str());
        Some(Floaters {
            api,
            seen: &self.seen,
            pods: floaters.iter().filter(is_theirs).collect(),
            lacking: none,
            namespace,
            run_key: &ready.run_key,
        })
    }
}

/// Everything that changes nothing: who the cluster is, and whether its floaters stand ready. Keeps at most `idle` unused connections;
/// `answered` is called once it has given any answer.
pub(super) async fn open(
    context: &Context,
    target: &Target,
    idle: usize,
    answered: impl FnOnce(),
) -> Result<Open, String> {
    let namespace = &context.options.namespace;
    // Not the whole context: its ledger holds this API, and ends what it holds when it is dropped.
    let (name, progress) = (target.name.clone(), Arc::clone(&context.options.progress));
    let warnings = Warnings::new(move |warning| {
        progress(Progress::Warning(format!("{name}: {warning}")));
    });
    let api = Api::new(target.client(idle).await?, Budget::new(time(context))).warning(warnings);
    let seen = look::look(&api, namespace, answered).await?;
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
        role: target.role,
        api,
        seen,
        standing,
    })
}

/// How long a cluster may take to be looked at, and how long to be asked.
pub(super) fn time(context: &Context) -> Duration {
    let options = &context.options;
    let time = options
        .cluster_timeout
        .unwrap_or(CLUSTER + options.pod_wait);
    time.min(context.left()) + MARGIN
}

/// Why a member cannot be asked whose Cluster has no kubeconfig, as those that were joined by `link join`.
const WITHOUT: &str = "could not tell: its clusters.kosmos.io object has no kubeconfig; give one (--kubeconfig, --kubeconfig-dir or --all-contexts beside --fleet)";

/// The members of a control plane's inventory without the control plane's own entry and those that are reached, which are there already, and what is left out.
pub(super) fn members(
    members: &[look::Member],
    root: Option<&str>,
    reached: &BTreeSet<String>,
    reach: &Reach,
) -> (Vec<Target>, Vec<String>) {
    let mut names = BTreeSet::new();
    let (mut targets, mut unusable) = (Vec::new(), 0);
    for member in members {
        let name = &member.name;
        // No API gives one name twice.
        if root == Some(name) || reached.contains(name) || !names.insert(name) {
            continue;
        }
        let remote = match member.kubeconfig.as_str() {
            "" => Err(WITHOUT.to_owned()),
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
    let warnings = (unusable > UNREACHED).then(|| {
        format!(
            "{} more members have no usable kubeconfig and are left out",
            unusable - UNREACHED
        )
    });
    (targets, warnings.into_iter().collect())
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
