//! What the programs' watches and writes have in common.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::discovery::ApiResource;
use kube::runtime::watcher;
use serde_json::Value;
use tokio::time::error::Elapsed;
use tracing::warn;

use super::PATIENCE;
use super::leader::Leading;
use super::metrics::{self, Metrics};
use crate::watching::{Notice, Steady, is_closed, watched};

/// Who writes, in `managedFields`.
pub(super) const MANAGER: &str = "clusterlink";

/// A change of one object.
#[derive(Debug)]
pub(super) enum Change {
    /// All objects of a kind have been told; these are their names.
    Listed(BTreeSet<String>),
    /// It is not there any more.
    Gone(String),
    /// It is this.
    Set(String, Box<Value>),
}

/// The changes of one kind. Failures are told, counted and tried again; `leading` is nudged when the API answers after one.
pub(super) fn changes<K: Send + Copy + 'static>(
    key: K,
    word: &'static str,
    api: Api<DynamicObject>,
    chosen: watcher::Config,
    metrics: Arc<Metrics>,
    leading: Option<Leading>,
) -> BoxStream<'static, (K, Change)> {
    let mut listing: Option<BTreeSet<String>> = None;
    let mut is_failing = false;
    let translate = move |event: Notice| {
        if event.is_ok()
            && !matches!(event, Ok(watcher::Event::Init))
            && std::mem::take(&mut is_failing)
            && let Some(leading) = &leading
        {
            leading.nudge();
        }
        let change = match event {
            Ok(watcher::Event::Init) => {
                listing = Some(BTreeSet::new());
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                let (name, value) = read(&object);
                if let Some(listing) = &mut listing {
                    listing.insert(name.clone());
                }
                Some(Change::Set(name, value))
            }
            Ok(watcher::Event::InitDone) => {
                metrics.count(&metrics::RELISTS, &[("kind", word)]);
                Some(Change::Listed(listing.take().unwrap_or_default()))
            }
            Ok(watcher::Event::Apply(object)) => {
                let (name, value) = read(&object);
                Some(Change::Set(name, value))
            }
            Ok(watcher::Event::Delete(object)) => {
                Some(Change::Gone(object.metadata.name.unwrap_or_default()))
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(kind = word, %error, "the Kubernetes API does not answer; what is known counts");
                }
                metrics.count(&metrics::WATCH_FAILURES, &[("kind", word)]);
                None
            }
        };
        std::future::ready(change.map(|change| (key, change)))
    };
    watched(api, chosen, Steady::default())
        .filter_map(translate)
        .boxed()
}

/// As [`changes`], of something that only says that one has to look again, and that a cluster need not have.
pub(super) fn hints(api: Api<DynamicObject>, chosen: watcher::Config) -> BoxStream<'static, ()> {
    /// How often whoever does not serve a kind is asked whether it does by now.
    const ABSENT: Duration = Duration::from_secs(60);
    let stream = watched(api, chosen, Steady::default());
    futures::stream::unfold(
        stream.boxed(),
        |mut stream: Pin<Box<dyn Stream<Item = Notice> + Send>>| async move {
            loop {
                match stream.next().await? {
                    Ok(
                        watcher::Event::InitDone
                        | watcher::Event::Apply(_)
                        | watcher::Event::Delete(_),
                    ) => return Some(((), stream)),
                    Err(error) if is_closed(&error) => tokio::time::sleep(ABSENT).await,
                    _ => {}
                }
            }
        },
    )
    .boxed()
}

fn read(object: &DynamicObject) -> (String, Box<Value>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    // What came as JSON goes as JSON.
    (
        name,
        Box::new(serde_json::to_value(object).unwrap_or_default()),
    )
}

/// What came of a write.
#[derive(Debug)]
pub(super) enum Wrote {
    /// The object as it is now; none where it is gone.
    Done(Option<Box<Value>>),
    /// Somebody else was faster, or it is not there.
    Conflict,
    /// Why not.
    Failed(String),
    /// This replica stopped leading first.
    Dropped,
}

impl Wrote {
    /// What an answer says, or that none came in time.
    fn of(answered: Result<Result<Option<DynamicObject>, kube::Error>, Elapsed>) -> Self {
        match answered {
            Ok(Ok(object)) => Self::Done(object.map(|object| read(&object).1)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Self::Conflict,
            Ok(Err(kube::Error::Api(status))) => {
                Self::Failed(format!("{} ({})", status.message, status.code))
            }
            Ok(Err(error)) => Self::Failed(error.to_string()),
            Err(_) => Self::Failed(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

fn as_manager() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// Merges something into an object that no other replica writes: an agent's own ClusterNode.
pub(super) async fn merge_own(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Wrote {
    let (params, patch) = (as_manager(), Patch::Merge(patch));
    let deed = tokio::time::timeout(PATIENCE, api.patch(name, &params, &patch));
    Wrote::of(deed.await.map(|answer| answer.map(Some)))
}

/// The writes of one kind, each of which ends when its replica stops leading.
#[derive(Clone)]
pub(super) struct Pen {
    api: Api<DynamicObject>,
    kind: &'static str,
    metrics: Arc<Metrics>,
    leading: Leading,
}

impl Pen {
    pub(super) fn new(
        client: &Client,
        kind: &'static str,
        resource: &ApiResource,
        metrics: &Arc<Metrics>,
        leading: &Leading,
    ) -> Self {
        Self {
            api: Api::all_with(client.clone(), resource),
            kind,
            metrics: metrics.clone(),
            leading: leading.clone(),
        }
    }

    /// Makes an object.
    pub(super) async fn create(&self, object: Value) -> Wrote {
        let object: Result<DynamicObject, _> = serde_json::from_value(object);
        let deed = async {
            let object = object.map_err(kube::Error::SerdeError)?;
            self.api
                .create(
                    &PostParams {
                        field_manager: Some(MANAGER.to_owned()),
                        ..PostParams::default()
                    },
                    &object,
                )
                .await
                .map(Some)
        };
        self.write("create", deed).await
    }

    /// Merges something into an object.
    pub(super) async fn merge(&self, name: &str, patch: &Value) -> Wrote {
        let deed = async {
            self.api
                .patch(name, &as_manager(), &Patch::Merge(patch))
                .await
                .map(Some)
        };
        self.write("change", deed).await
    }

    /// Merges something into an object's status, where that is a resource of its own.
    pub(super) async fn merge_status(&self, name: &str, patch: &Value) -> Wrote {
        let deed = async {
            self.api
                .patch_status(name, &as_manager(), &Patch::Merge(patch))
                .await
                .map(Some)
        };
        self.write("status", deed).await
    }

    /// Removes an object, of this version where one is named.
    pub(super) async fn delete(&self, name: &str, of: Option<Preconditions>) -> Wrote {
        let params = DeleteParams {
            preconditions: of,
            ..DeleteParams::default()
        };
        let deed = async {
            match self.api.delete(name, &params).await {
                // It is gone, which was wanted.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                other => other.map(|_| None),
            }
        };
        self.write("delete", deed).await
    }

    /// An object as it is; none where it cannot be had.
    pub(super) async fn get(&self, name: &str) -> Option<Value> {
        let got = tokio::time::timeout(PATIENCE, self.api.get_opt(name)).await;
        serde_json::to_value(got.ok()?.ok()??).ok()
    }

    async fn write(
        &self,
        verb: &'static str,
        deed: impl Future<Output = Result<Option<DynamicObject>, kube::Error>>,
    ) -> Wrote {
        let deed = tokio::time::timeout(PATIENCE, deed);
        let wrote = match self.leading.clone().guard(deed).await {
            None => Wrote::Dropped,
            Some(answered) => Wrote::of(answered),
        };
        let outcome = match &wrote {
            Wrote::Done(_) => "done",
            Wrote::Conflict => "conflict",
            Wrote::Failed(_) => "failed",
            Wrote::Dropped => "dropped",
        };
        let labels = [("kind", self.kind), ("verb", verb), ("outcome", outcome)];
        self.metrics.count(&metrics::WRITES, &labels);
        wrote
    }
}
