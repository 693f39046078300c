//! Own floaters in a cluster: created, waited for, and on record before the first of them exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datapath::printable::is_object_name;
use floater::wire::Layer;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::objects::Pod;
use super::remove::Ledger;
use super::{events, look};
use crate::manifest::Spec;

/// How long to wait before a list that failed or a watch that broke is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long to wait between two lists where no watch is allowed.
const POLL: Duration = Duration::from_secs(1);
/// How long floaters may take to become ready before those that run and are not ready are asked themselves, and how long to wait
/// between two such questions.
const GRACE: Duration = Duration::from_secs(2);

/// Why the floaters of a layer could not be deployed or made, by layer.
pub(crate) type Refused = BTreeMap<Layer, String>;

/// How long a namespace that is being removed may take to be gone; its pods have a second to end, its controller looks every few.
const ENDING: Duration = Duration::from_secs(12);

/// Why floaters' objects were not created.
pub(crate) enum Unmade {
    /// Their namespace began to go meanwhile.
    Ending,
    /// Their namespace is being removed and was not gone in time.
    Stuck,
    /// In words.
    Refused(String),
}

impl From<String> for Unmade {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

/// Creates the floaters' objects in a task that outlives whoever waits for it, so that the record of what may exist is
/// never shorter than the truth. A layer whose own object is refused costs itself. A namespace that is being removed is waited for
/// until it is gone, and made again.
///
/// # Errors
/// Which object that all layers need could not be created and why.
pub(crate) async fn create(
    ledger: Arc<Ledger>,
    cluster: String,
    api: Api,
    spec: Spec,
    able: Vec<String>,
) -> Result<Refused, Unmade> {
    let task = tokio::spawn(async move {
        let ended = || Unmade::Refused("the run is being ended".to_owned());
        let entry = ledger.open(&cluster, &api, &spec, able).ok_or_else(ended)?;
        let _busy = entry.busy.lock().await;
        if !has_namespace(&api, &spec.namespace).await? {
            entry.made_namespace();
            let namespace = spec.namespace();
            match api.create(&namespace.collection, &namespace.value).await {
                Ok(()) => {}
                // Somebody was faster: then it is theirs.
                Err(failure) if failure.is_already_there() => entry.made_no_namespace(),
                Err(failure) => return Err(not_created("Namespace", &failure).into()),
            }
        }
        let mut refused = Refused::new();
        for object in spec.objects() {
            if ledger.is_closed() {
                return Err(ended());
            }
            match (
                api.create(&object.collection, &object.value).await,
                object.layer,
            ) {
                (Ok(()), _) => {}
                (Err(Failure::Ending(_)), _) => return Err(Unmade::Ending),
                // The namespace went between two requests.
                (Err(failure), _) if failure.is_absent() => return Err(Unmade::Ending),
                (Err(failure), Some(layer)) => {
                    refused.insert(layer, not_created(object.kind, &failure));
                }
                (Err(failure), None) => return Err(not_created(object.kind, &failure).into()),
            }
        }
        Ok(refused)
    });
    task.await
        .unwrap_or_else(|_| Err("the floaters could not be deployed".to_owned().into()))
}

/// Whether a namespace is there, once it is not being removed.
///
/// # Errors
/// It cannot be looked at, or is not gone in time.
async fn has_namespace(api: &Api, name: &str) -> Result<bool, Unmade> {
    let path = format!("/api/v1/namespaces/{name}");
    let deadline = Instant::now() + ENDING.min(api.left());
    loop {
        match api.get::<super::objects::Object>(&path).await {
            Ok(found) if found.metadata.deletion_timestamp.is_none() => return Ok(true),
            Ok(_) if Instant::now() >= deadline => return Err(Unmade::Stuck),
            // A run has the right to get it, not to watch it.
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(failure) if failure.is_absent() => return Ok(false),
            Err(failure) => return Err(not_created("Namespace", &failure).into()),
        }
    }
}

/// A namespace beside one that cannot be used; it goes with the run.
pub(crate) fn beside(namespace: &str, run: &str) -> String {
    // Both are DNS labels, and together they have to be one.
    const LONGEST: usize = 63;
    let room = LONGEST.saturating_sub(run.len() + 1);
    format!("{}-{run}", &namespace[..namespace.len().min(room)])
}

fn not_created(kind: &str, failure: &Failure) -> String {
    format!("the floaters' {kind} cannot be created: {failure}")
}

/// Pairs of ports above the one that is asked for which a run tries.
const PAIRS: u16 = 500;
/// How many ports from the one that is asked for on a run's responder may have.
pub(crate) const PORTS: u16 = 2 + 2 * PAIRS;

/// Ports for responder and API that no floater of the cluster has on its nodes: `port` and the next one, else a pair that
/// the run's id chooses, so that runs that begin together choose differently. `attempt` counts from 0.
pub(crate) fn free_ports(taken: &BTreeSet<u16>, port: u16, run: &str, attempt: u32) -> (u16, u16) {
    let pairs = u32::from(PAIRS);
    let is_free = |port: u16| !taken.contains(&port) && !taken.contains(&(port + 1));
    if attempt == 0 && is_free(port) {
        return (port, port + 1);
    }
    // FNV-1a: any spread will do, the same for the same run.
    let hash = run.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..pairs)
        .map(|step| {
            hash.wrapping_add(step.wrapping_mul(7))
                .wrapping_add(attempt)
                % pairs
        })
        .filter_map(|pair| u16::try_from(u32::from(port) + 2 + 2 * pair).ok())
        .filter(|&port| port < u16::MAX)
        .find(|&port| is_free(port))
        .map_or((port, port.saturating_add(1)), |port| (port, port + 1))
}

#[derive(Deserialize)]
struct WatchEvent {
    r#type: String,
    object: serde_json::Value,
}

/// Asks a pod for a sign of life.
pub(crate) type Answers<'a> = dyn Fn(&Pod) -> BoxFuture<'static, bool> + Send + Sync + 'a;

/// What came of waiting for floaters.
pub(crate) struct Ready {
    pub(crate) pods: Vec<Pod>,
    /// Layers that nobody makes pods for, in the words of who refuses.
    pub(crate) refused: Refused,
    /// Whether the namespace was removed meanwhile, and everything in it.
    pub(crate) is_ended: bool,
    /// What could not be done as it should be, and what would help, one sentence each.
    pub(crate) notes: BTreeSet<String>,
}

/// Waits until every node has a floater in each layer that is ready, or runs and answers a question put to itself, or until the
/// layer's pods are refused or the namespace is removed; at most until `deadline`. What there is at the end is returned: some nodes
/// without a floater do not keep the others from being asked.
pub(crate) async fn ready(
    api: &Api,
    spec: &Spec,
    nodes: &[String],
    refused: Refused,
    deadline: Instant,
    answers: &Answers<'_>,
) -> Ready {
    let mut waited = Waited {
        nodes,
        layers: &spec.layers,
        pods: BTreeMap::new(),
        answering: BTreeSet::new(),
        refused,
        is_ended: false,
        notes: BTreeSet::new(),
    };
    let waiting = wait(api, spec, deadline, answers, &mut waited);
    // Time being up is an answer as well: the pods say what they lack.
    let _ = tokio::time::timeout_at(deadline, waiting).await;
    Ready {
        pods: waited.pods.into_values().collect(),
        refused: waited.refused,
        is_ended: waited.is_ended,
        notes: waited.notes,
    }
}

/// What is waited for, and how far it is.
struct Waited<'a> {
    nodes: &'a [String],
    layers: &'a [Layer],
    /// By name.
    pods: BTreeMap<String, Pod>,
    /// The uids of those that answer without being ready.
    answering: BTreeSet<String>,
    refused: Refused,
    is_ended: bool,
    notes: BTreeSet<String>,
}

impl Waited<'_> {
    /// Whether nothing more is to come; pods that lack their ports never will.
    fn is_complete(&self) -> bool {
        if self.is_ended {
            return true;
        }
        let there: BTreeSet<(Layer, &str)> = self
            .pods
            .values()
            .filter(|pod| {
                pod.is_ready() || pod.lacks_ports() || self.answering.contains(&pod.metadata.uid)
            })
            .filter_map(|pod| Some((pod.layer()?, pod.node()?)))
            .collect();
        self.layers.iter().all(|&layer| {
            self.refused.contains_key(&layer)
                || self.nodes.iter().all(|node| there.contains(&(layer, node)))
        })
    }

    /// Asks those that run and are not ready, and the controllers where there are no pods at all.
    async fn ask(&mut self, api: &Api, spec: &Spec, answers: &Answers<'_>) {
        let unready = self
            .pods
            .values()
            .filter(|pod| pod.runs() && !pod.is_ready())
            .filter(|pod| !self.answering.contains(&pod.metadata.uid))
            .take(super::FLOATERS_AT_ONCE);
        let mut asked = Vec::new();
        for pod in unready {
            let (uid, answer) = (pod.metadata.uid.clone(), answers(pod));
            asked.push(async move { answer.await.then_some(uid) });
        }
        let answering = futures::future::join_all(asked).await;
        self.answering.extend(answering.into_iter().flatten());
        for &layer in self.layers {
            let pods = self.pods.values();
            let mut pods = pods.filter(|pod| pod.layer() == Some(layer) && !pod.is_going());
            if pods.next().is_some() || self.refused.contains_key(&layer) {
                continue;
            }
            if is_ending(api, &spec.namespace).await {
                self.is_ended = true;
                return;
            }
            match events::refusal(api, spec, layer).await {
                Ok(Some(why)) => {
                    self.refused.insert(layer, why);
                }
                Ok(None) => {}
                Err(note) => self.notes.extend(note),
            }
        }
    }
}

/// Whether a namespace is going or gone.
async fn is_ending(api: &Api, name: &str) -> bool {
    let path = format!("/api/v1/namespaces/{name}");
    match api.get::<super::objects::Object>(&path).await {
        Ok(found) => found.metadata.deletion_timestamp.is_some(),
        Err(failure) => failure.is_absent(),
    }
}

async fn wait(
    api: &Api,
    spec: &Spec,
    deadline: Instant,
    answers: &Answers<'_>,
    waited: &mut Waited<'_>,
) {
    let collection = look::pods(&spec.namespace);
    let selector = look::of_run(&spec.run);
    let mut ask_at = Instant::now() + GRACE;
    let mut may_watch = true;
    loop {
        let Ok(found) = api
            .list::<Pod>(&collection, &selector, look::MAX_PODS)
            .await
        else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let named = |pod: Pod| (pod.metadata.name.clone(), pod);
        waited.pods = found.items.into_iter().map(named).collect();
        if waited.is_complete() {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let watch = match may_watch {
            true => api
                .watch(&collection, &selector, &found.version, left)
                .await
                .map(Some),
            false => Ok(None),
        };
        if let Err(failure) = &watch
            && failure.is_forbidden()
        {
            may_watch = false;
            waited.notes.insert(format!(
                "pods of namespace {} may not be watched, so they are listed every second: grant `watch` on pods",
                spec.namespace
            ));
        }
        if let Ok(Some(mut events)) = watch {
            loop {
                // Time goes on under a flood of events, too: whose turn it is, is drawn.
                let goes_on = tokio::select! {
                    next = events.next() => {
                        matches!(next, Ok(Some(line)) if take(&line, &mut waited.pods))
                    }
                    () = tokio::time::sleep_until(ask_at) => {
                        waited.ask(api, spec, answers).await;
                        ask_at = Instant::now() + GRACE;
                        true
                    }
                };
                if waited.is_complete() {
                    return;
                }
                if !goes_on {
                    break;
                }
            }
        } else if Instant::now() >= ask_at {
            waited.ask(api, spec, answers).await;
            ask_at = Instant::now() + GRACE;
            if waited.is_complete() {
                return;
            }
        }
        tokio::time::sleep(if may_watch { PAUSE } else { POLL }).await;
    }
}

/// Takes an event in; whether the watch goes on.
fn take(line: &[u8], pods: &mut BTreeMap<String, Pod>) -> bool {
    let Ok(event) = serde_json::from_slice::<WatchEvent>(line) else {
        return false;
    };
    let Ok(pod) = serde_json::from_value::<Pod>(event.object) else {
        return false;
    };
    match event.r#type.as_str() {
        "ADDED" | "MODIFIED" if is_object_name(&pod.metadata.name) => {
            pods.insert(pod.metadata.name.clone(), pod);
        }
        "DELETED" => {
            pods.remove(&pod.metadata.name);
        }
        "BOOKMARK" => {}
        // Too old a version, or a server that is in trouble: list again.
        _ => return false,
    }
    pods.len() <= look::MAX_PODS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_is_a_label_too() {
        assert_eq!(
            beside("kosmos-system", "63627fc3"),
            "kosmos-system-63627fc3"
        );
        let long = beside(&"n".repeat(63), "63627fc3");
        assert!(
            datapath::printable::is_dns_label(&long) && long.ends_with("-63627fc3"),
            "{long}"
        );
    }

    #[test]
    fn ports_are_the_asked_ones_or_the_run_s_own() {
        let taken = BTreeSet::from([8889, 8890]);
        assert_eq!(free_ports(&BTreeSet::new(), 8889, "a", 0), (8889, 8890));
        let own = free_ports(&taken, 8889, "63627fc3", 0);
        assert_eq!(own, free_ports(&taken, 8889, "63627fc3", 0));
        assert!(own.0 > 8890 && own.1 == own.0 + 1, "{own:?}");
        // Another run, and another try of the same.
        assert_ne!(own, free_ports(&taken, 8889, "0a1b2c3d", 0));
        assert_ne!(own, free_ports(&taken, 8889, "63627fc3", 1));
        assert_ne!(free_ports(&BTreeSet::new(), 8889, "a", 1), (8889, 8890));
        let all: BTreeSet<u16> = (8889..=u16::MAX).filter(|port| port % 2 == 1).collect();
        assert_eq!(free_ports(&all, 8889, "a", 0), (8889, 8890));
        assert_eq!(free_ports(&BTreeSet::new(), 65533, "a", 1), (65533, 65534));
    }
}
