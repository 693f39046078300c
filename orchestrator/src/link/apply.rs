//! Objects are planned against what is there, tried, applied one after the other, and taken back when a deed fails.
//!
//! ```text
//!   object ──get──► absent ─► Create     ┐
//!                   ours, same ─► Keep   ├─ dry run by the server ─► Step … ─► apply ─► Done ─┐
//!                   ours, other ─► Change┘                                            undo ◄──┘
//!                   somebody else's ─► Adopt (a Namespace, a definition) or a refusal
//! ```

use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::leave;
use super::objects::{Object, is_ours, is_same};
use crate::fleet::api::{Failure, Write, encoded};

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// It is not there yet.
    Create,
    /// It is there, and is to be otherwise; what it is now.
    Change(Box<Value>),
    /// It is there as it is to be.
    Keep,
    /// It is there, and is somebody else's: it is used as it is.
    Adopt,
}

impl Act {
    /// For people.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change(_) => "change",
            Self::Keep => "keep",
            Self::Adopt => "use",
        }
    }
}

/// One object of a deed.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) cluster: Cluster,
    pub(super) object: Object,
    pub(super) act: Act,
}

impl Step {
    /// For people.
    pub(super) fn words(&self) -> String {
        format!(
            "{} {} in {}",
            self.act.word(),
            self.object.words(),
            self.cluster.name
        )
    }
}

/// Why an object cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

/// Kinds that stand for more than one owner, and are used where they are there already.
pub(super) const SHARED: [&str; 2] = ["CustomResourceDefinition", "Namespace"];

/// What becomes of an object in a cluster. Nothing is changed; the server is asked what it would make of it, unless the object's namespace
/// or definition is itself yet to come.
pub(super) async fn step(
    cluster: &Cluster,
    object: Object,
    can_be_tried: bool,
) -> Result<Step, Refusal> {
    let refused = |why: String| Refusal(format!("{} in {}: {why}", object.words(), cluster.name));
    let path = object.path();
    let held = cluster.get(&path).await;
    let held = held.map_err(|failure| refused(failure.to_string()))?;
    let act = match held {
        Some(held) if held["metadata"]["deletionTimestamp"].is_string() => {
            return Err(refused(
                "it is being deleted; wait until it is gone".to_owned(),
            ));
        }
        Some(held) if !is_ours(&held) => {
            if !SHARED.contains(&object.kind) {
                return Err(refused(
                    "it is there already, and floaterctl did not make it".to_owned(),
                ));
            }
            Act::Adopt
        }
        Some(held) => match cluster.api.apply(&path, &object.value, Write::Try).await {
            Ok(new) if is_same(&held, &new) => Act::Keep,
            Ok(_) => Act::Change(Box::new(held)),
            Err(failure) => return Err(refused(failure.to_string())),
        },
        None => {
            if can_be_tried {
                let tried = cluster.api.apply(&path, &object.value, Write::Try).await;
                tried.map_err(|failure| refused(failure.to_string()))?;
            }
            Act::Create
        }
    };
    Ok(Step {
        cluster: cluster.clone(),
        object,
        act,
    })
}

/// What a deed has done to a cluster, so that it can be taken back.
enum Done {
    /// It made an object, of this uid.
    Made { step: Step, uid: String },
    /// It changed an object.
    Changed { step: Step, before: Box<Value> },
}

/// Everything that a deed has done, in its order.
#[derive(Default)]
pub(super) struct Ledger(Vec<Done>);

impl Ledger {
    /// Carries a step out.
    pub(super) async fn apply(&mut self, step: &Step) -> Result<(), Refusal> {
        let refused = |failure: Failure| {
            Refusal(format!(
                "{} in {}: {failure}",
                step.object.words(),
                step.cluster.name
            ))
        };
        if matches!(step.act, Act::Keep | Act::Adopt) {
            return Ok(());
        }
        let path = step.object.path();
        let api = &step.cluster.api;
        let now = match api.apply(&path, &step.object.value, Write::Do).await {
            Ok(now) => now,
            Err(failure @ (Failure::Transport(_) | Failure::Spent(_))) => {
                // It may have been done all the same.
                if matches!(step.act, Act::Create)
                    && let Ok(Some(held)) = step.cluster.get(&path).await
                    && is_ours(&held)
                {
                    self.note(step, &held);
                }
                return Err(refused(failure));
            }
            Err(failure) => return Err(refused(failure)),
        };
        self.note(step, &now);
        Ok(())
    }

    fn note(&mut self, step: &Step, now: &Value) {
        let step = step.clone();
        self.0.push(match &step.act {
            Act::Change(before) => Done::Changed {
                before: before.clone(),
                step,
            },
            _ => Done::Made {
                uid: now["metadata"]["uid"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                step,
            },
        });
    }

    /// Whether nothing was done.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything back, the last first; what could not be, and why.
    pub(super) async fn undo(self, tell: &(dyn Fn(String) + Sync)) -> Vec<String> {
        let mut left = Vec::new();
        for done in self.0.into_iter().rev() {
            let (step, undone) = match done {
                Done::Made { step, uid } => {
                    tell(format!(
                        "remove {} in {}",
                        step.object.words(),
                        step.cluster.name
                    ));
                    let undone = match step.object.kind {
                        "Cluster" => leave::take_back(&step.cluster, step.object.name()).await,
                        _ => remove(&step.cluster, &step.object.path(), Some(&uid)).await,
                    };
                    (step, undone)
                }
                Done::Changed { step, before } => {
                    tell(format!(
                        "put back {} in {}",
                        step.object.words(),
                        step.cluster.name
                    ));
                    let undone = put_back(&step, *before).await;
                    (step, undone)
                }
            };
            if let Err(failure) = undone {
                let place = format!("{} in {}", step.object.words(), step.cluster.name);
                left.push(format!("{place}: {failure}"));
            }
        }
        left
    }
}

/// Removes an object; one that is not there is removed already. What runs pods is gone once they are, or have had their time: they still need
/// what is removed next, to give a Lease back for one.
pub(super) async fn remove(
    cluster: &Cluster,
    path: &str,
    uid: Option<&str>,
) -> Result<(), Failure> {
    let held = match path.starts_with("/apis/apps/") {
        true => cluster.get(path).await?,
        false => None,
    };
    match cluster.api.delete(path, uid).await {
        Ok(()) => {}
        Err(failure) if failure.is_absent() => return Ok(()),
        // Another one has its name: that is not ours to remove.
        Err(failure) if uid.is_some() && failure.is_already_there() => return Ok(()),
        Err(failure) => return Err(failure),
    }
    if let Some(held) = held {
        ended(cluster, &held).await;
    }
    Ok(())
}

/// Waits until a workload has no pod any more, for as long as pods of ours may take.
async fn ended(cluster: &Cluster, workload: &Value) {
    const TIME: Duration = Duration::from_secs(15);
    let deadline = tokio::time::Instant::now() + TIME;
    let Some(path) = pods_of(workload) else {
        return;
    };
    while tokio::time::Instant::now() < deadline {
        match cluster.list(&path).await {
            Ok(pods) if !pods.is_empty() => tokio::time::sleep(PAUSE).await,
            _ => return,
        }
    }
}

/// The path of a workload's pods.
pub(super) fn pods_of(workload: &Value) -> Option<String> {
    let namespace = workload["metadata"]["namespace"].as_str()?;
    let labels = workload["spec"]["selector"]["matchLabels"].as_object()?;
    let each = labels.iter();
    let selector: Vec<String> = each
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let selector = encoded(&selector.join(","));
    Some(format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
    ))
}

async fn put_back(step: &Step, mut before: Value) -> Result<(), Failure> {
    let path = step.object.path();
    let Some(now) = step.cluster.get(&path).await? else {
        return Ok(());
    };
    if let Some(metadata) = before["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    before["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    step.cluster.api.replace(&path, &before).await
}

/// How long to wait between two looks at something that gives no notice.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Takes the finalizers from an object that nobody will release any more.
pub(super) async fn release(cluster: &Cluster, path: &str) -> Result<(), Failure> {
    match cluster
        .api
        .merge(path, &json!({"metadata": {"finalizers": null}}))
        .await
    {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_absent() => Ok(()),
        Err(failure) => Err(failure),
    }
}
