//! What a cluster's controllers say of floaters that are not there: the events of refused DaemonSets and of pods that do not start.

use std::collections::{BTreeMap, BTreeSet};

use floater::wire::Layer;

use super::api::{Api, Failure, words};
use super::objects::{Happening, Pod};
use crate::manifest::Spec;

/// Why a layer's DaemonSet gets no pods, in its controller's words: pod security, a quota, an admission webhook, a security
/// context constraint.
///
/// # Errors
/// What right is missing to know it, if one is.
pub(crate) async fn refusal(
    api: &Api,
    spec: &Spec,
    layer: Layer,
) -> Result<Option<String>, Option<String>> {
    let name = spec.set_name(layer);
    let fields = format!("involvedObject.kind=DaemonSet,involvedObject.name={name}");
    let events = read(api, &spec.namespace, &fields).await?;
    let event = events.into_iter().rev().find(|event| {
        event.involved_object.kind == "DaemonSet"
            && event.involved_object.name == name
            && event.reason.as_deref() == Some("FailedCreate")
    });
    Ok(event.map(|event| {
        let why = words(&event.message.unwrap_or_default());
        format!("the cluster refuses the pods of DaemonSet {name}: {why}")
    }))
}

/// The latest warning about each of some pods, by the pod's name.
///
/// # Errors
/// What right is missing to know it, if one is.
pub(crate) async fn of_pods(
    api: &Api,
    namespace: &str,
    pods: &[&Pod],
) -> Result<BTreeMap<String, String>, Option<String>> {
    let names: BTreeSet<&str> = pods.iter().map(|pod| pod.metadata.name.as_str()).collect();
    let events = read(api, namespace, "involvedObject.kind=Pod,type=Warning").await?;
    let mut latest: BTreeMap<String, (String, String)> = BTreeMap::new();
    for event in events {
        let about = &event.involved_object;
        if about.kind != "Pod"
            || event.r#type.as_deref() != Some("Warning")
            || !names.contains(about.name.as_str())
        {
            continue;
        }
        let at = event.at().to_owned();
        let said = words(&event.message.unwrap_or_default());
        let reason = words(&event.reason.unwrap_or_default());
        let held = latest.get(&about.name);
        // Of the same moment the later in the list.
        if held.is_none_or(|(then, _)| *then <= at) {
            latest.insert(about.name.clone(), (at, format!("{reason}: {said}")));
        }
    }
    let texts = latest.into_iter().map(|(name, (_, text))| (name, text));
    Ok(texts.collect())
}

async fn read(api: &Api, namespace: &str, fields: &str) -> Result<Vec<Happening>, Option<String>> {
    let collection = format!("/api/v1/namespaces/{namespace}/events");
    let events = api.first_page::<Happening>(&collection, fields).await;
    events.map_err(|failure| match failure {
        failure if failure.is_forbidden() => Some(format!(
            "events of namespace {namespace} may not be read, so why a floater is not there is not known: grant `list` on events"
        )),
        // Whatever else is wrong is told by what the run needs.
        Failure::Status { .. }
        | Failure::Ending(_)
        | Failure::TooLarge
        | Failure::Spent(_)
        | Failure::Transport(_) => None,
    })
}
