//! Own floaters in a cluster: created, waited for, and on record before the first of them exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use floater::wire::Layer;
use serde::Deserialize;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::look;
use super::objects::Pod;
use super::remove::Ledger;
use crate::manifest::Spec;

/// How long to wait before a list that failed or a watch that broke is tried again.
const PAUSE: Duration = Duration::from_millis(250);

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

/// Waits until every node has a floater that is ready in each layer, at most until `deadline`. What there is at the end,
/// ready or not, is returned: some nodes without a floater do not keep the others from being asked.
pub(crate) async fn ready(
    api: &Api,
    namespace: &str,
    run: &str,
    nodes: &[String],
    layers: &[Layer],
    deadline: Instant,
) -> Vec<Pod> {
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    let waiting = wait(api, namespace, run, nodes, layers, deadline, &mut pods);
    // Time being up is an answer as well: the pods say what they lack.
    let _ = tokio::time::timeout_at(deadline, waiting).await;
    pods.into_values().collect()
}

async fn wait(
    api: &Api,
    namespace: &str,
    run: &str,
    nodes: &[String],
    layers: &[Layer],
    deadline: Instant,
    pods: &mut BTreeMap<String, Pod>,
) {
    let collection = look::pods(namespace);
    let selector = look::of_run(run);
    loop {
        let Ok((found, version)) = api.list::<Pod>(&collection, &selector).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        *pods = found
            .into_iter()
            .map(|pod| (pod.metadata.name.clone(), pod))
            .collect();
        if complete(pods, nodes, layers) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(mut events) = api.watch(&collection, &selector, &version, left).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while let Ok(Some(line)) = events.next().await {
            let Ok(event) = serde_json::from_slice::<WatchEvent>(&line) else {
                break;
            };
            let Ok(pod) = serde_json::from_value::<Pod>(event.object) else {
                break;
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
                _ => break,
            }
            if complete(pods, nodes, layers) {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn complete(pods: &BTreeMap<String, Pod>, nodes: &[String], layers: &[Layer]) -> bool {
    let there: BTreeSet<(Layer, &str)> = pods
        .values()
        .filter(|pod| pod.is_ready())
        .filter_map(|pod| Some((pod.layer()?, pod.node()?)))
        .collect();
    layers
        .iter()
        .all(|&layer| nodes.iter().all(|node| there.contains(&(layer, node))))
}
