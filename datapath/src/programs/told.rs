//! Events: what a person sees who asks about an object (`kubectl describe`, `kubectl events`).
//!
//! They are those of `v1`, which every client lists. Each names its object, reason and text in its own name, so that the same word
//! said again is counted and not listed twice.

use std::hash::{Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use siphasher::sip::SipHasher13;
use tracing::debug;

use super::objects::MANAGER;
use crate::api::{GROUP, VERSION};

/// Where Events about objects of no namespace are.
const NAMESPACE: &str = "default";

/// What is told of an object of `kosmos.io`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) uid: String,
    /// Whether something is wrong.
    pub(super) is_warning: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Tells it. Whoever cannot be told hears it from the object's condition and the log.
pub(super) async fn tell(client: Client, component: &'static str, word: Word) {
    let api: Api<Event> = Api::namespaced(client, NAMESPACE);
    let mut hasher = SipHasher13::new();
    (&word.uid, &word.reason, &word.message).hash(&mut hasher);
    let name = format!("{}.{:016x}", word.name, hasher.finish());
    let now = Some(Time(Timestamp::now()));
    let kind = if word.is_warning { "Warning" } else { "Normal" };
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(word.kind.to_owned()),
            name: Some(word.name),
            uid: Some(word.uid),
            ..ObjectReference::default()
        },
        reason: Some(word.reason),
        message: Some(word.message),
        type_: Some(kind.to_owned()),
        count: Some(1),
        first_timestamp: now.clone(),
        last_timestamp: now.clone(),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            ..EventSource::default()
        }),
        reporting_component: Some(component.to_owned()),
        ..Event::default()
    };
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let made = match api.create(&params, &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => again(&api, &name, now).await,
        other => other.map(drop),
    };
    if let Err(error) = made {
        debug!(%error, name, "not told as an Event");
    }
}

async fn again(api: &Api<Event>, name: &str, now: Option<Time>) -> Result<(), kube::Error> {
    let held = api.get(name).await?;
    let count = held.count.unwrap_or(1).saturating_add(1);
    let patch = json!({"count": count, "lastTimestamp": now});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(name, &params, &Patch::Merge(&patch))
        .await
        .map(drop)
}
