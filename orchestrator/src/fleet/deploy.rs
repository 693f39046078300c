//! Own floaters in a cluster: created, waited for, and on record before the first of them exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use floater::wire::Layer;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::look;
use super::objects::Pod;
use super::remove::Ledger;
use crate::manifest::Spec;

/// How long to wait before a list that failed or a watch that broke is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long floaters may take to become ready before those that run and are not ready are asked themselves, and how long to wait
/// between two such questions.
const GRACE: Duration = Duration::from_secs(2);

/// Creates the floaters' objects in a task that outlives whoever waits for it, so that the record of what may exist is
/// never shorter than the truth.
///
/// # Errors
/// Which object could not be created and why.
pub(crate) async fn create(
    ledger: Arc<Ledger>,
    cluster: String,
    api: Api,
    spec: Spec,
) -> Result<(), String> {
    let task = tokio::spawn(async move {
        let Some(entry) = ledger.open(&cluster, &api, &spec) else {
            return Err("the run is being ended".to_owned());
        };
        let _busy = entry.busy.lock().await;
        let path = format!("/api/v1/namespaces/{}", spec.namespace);
        match api.get::<super::objects::Object>(&path).await {
            Ok(_) => {}
            Err(failure) if failure.is_absent() => {
                entry.made_namespace();
                match api
                    .create(&spec.namespace().collection, &spec.namespace().value)
                    .await
                {
                    Ok(()) => {}
                    // Somebody was faster: then it is theirs.
                    Err(failure) if failure.is_already_there() => entry.made_no_namespace(),
                    Err(failure) => return Err(told("Namespace", &failure)),
                }
            }
            Err(failure) => return Err(told("Namespace", &failure)),
        }
        for object in spec.objects() {
            if ledger.is_closed() {
                return Err("the run is being ended".to_owned());
            }
            api.create(&object.collection, &object.value)
                .await
                .map_err(|failure| told(object.kind, &failure))?;
        }
        Ok(())
    });
    task.await
        .unwrap_or_else(|_| Err("the floaters could not be deployed".to_owned()))
}

fn told(kind: &str, failure: &Failure) -> String {
    format!("the floaters' {kind} cannot be created: {failure}")
}

/// A pair of ports that no floater of the cluster uses in the host network, from `port` on.
pub(crate) fn free_ports(floaters: &[Pod], port: u16) -> (u16, u16) {
    let taken: BTreeSet<u16> = floaters
        .iter()
        .filter(|pod| pod.is_host_network())
        .flat_map(|pod| [pod.port(), pod.api_port()])
        .collect();
    (port..u16::MAX)
        .step_by(2)
        .map(|port| (port, port + 1))
        .find(|(port, api)| !taken.contains(port) && !taken.contains(api))
        .unwrap_or((port, port.saturating_add(1)))
}

#[derive(Deserialize)]
struct WatchEvent {
    r#type: String,
    object: serde_json::Value,
}

/// Asks a pod for a sign of life.
pub(crate) type Answers<'a> = dyn Fn(&Pod) -> BoxFuture<'static, bool> + Send + Sync + 'a;

/// Waits until every node has a floater in each layer that is ready, or runs and answers a question put to itself, at most until
/// `deadline`. What there is at the end is returned: some nodes without a floater do not keep the others from being asked.
pub(crate) async fn ready(
    api: &Api,
    namespace: &str,
    run: &str,
    nodes: &[String],
    layers: &[Layer],
    deadline: Instant,
    answers: &Answers<'_>,
) -> Vec<Pod> {
    let mut waited = Waited {
        nodes,
        layers,
        pods: BTreeMap::new(),
        answering: BTreeSet::new(),
        ask_at: Instant::now() + GRACE,
    };
    let waiting = wait(api, namespace, run, deadline, answers, &mut waited);
    // Time being up is an answer as well: the pods say what they lack.
    let _ = tokio::time::timeout_at(deadline, waiting).await;
    waited.pods.into_values().collect()
}

/// What is waited for, and how far it is.
struct Waited<'a> {
    nodes: &'a [String],
    layers: &'a [Layer],
    /// By name.
    pods: BTreeMap<String, Pod>,
    /// The uids of those that answer without being ready.
    answering: BTreeSet<String>,
    /// When those that are not ready are asked next.
    ask_at: Instant,
}

impl Waited<'_> {
    fn is_complete(&self) -> bool {
        let there: BTreeSet<(Layer, &str)> = self
            .pods
            .values()
            .filter(|pod| pod.is_ready() || self.answering.contains(&pod.metadata.uid))
            .filter_map(|pod| Some((pod.layer()?, pod.node()?)))
            .collect();
        self.layers
            .iter()
            .all(|&layer| self.nodes.iter().all(|node| there.contains(&(layer, node))))
    }

    /// Asks those that run and are not ready, when it is time.
    async fn ask(&mut self, answers: &Answers<'_>) {
        tokio::time::sleep_until(self.ask_at).await;
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
        self.ask_at = Instant::now() + GRACE;
    }
}

async fn wait(
    api: &Api,
    namespace: &str,
    run: &str,
    deadline: Instant,
    answers: &Answers<'_>,
    waited: &mut Waited<'_>,
) {
    let collection = look::pods(namespace);
    let selector = look::of_run(run);
    loop {
        let Ok((found, version)) = api.list::<Pod>(&collection, &selector).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        waited.pods = found
            .into_iter()
            .map(|pod| (pod.metadata.name.clone(), pod))
            .collect();
        if waited.is_complete() {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(mut events) = api.watch(&collection, &selector, &version, left).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        loop {
            let next = tokio::select! {
                biased;
                next = events.next() => Some(next),
                () = waited.ask(answers) => None,
            };
            match next {
                None => {}
                Some(Ok(Some(line))) if take(&line, &mut waited.pods) => {}
                Some(_) => break,
            }
            if waited.is_complete() {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
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
        "ADDED" | "MODIFIED" => {
            pods.insert(pod.metadata.name.clone(), pod);
        }
        "DELETED" => {
            pods.remove(&pod.metadata.name);
        }
        "BOOKMARK" => {}
        // Too old a version, or a server that is in trouble: list again.
        _ => return false,
    }
    true
}
