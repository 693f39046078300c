//! What earlier runs have left, removed beside a run or by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Context;
use crate::fleet::api::Api;
use crate::fleet::remove;
use crate::run::{Progress, Swept};

/// How long a sweep beside a run may take, and how long it is waited for at the run's end.
const BESIDE: Duration = Duration::from_secs(20);
const SWEEPS_END: Duration = Duration::from_secs(2);

/// The sweeps of a run's clusters, which nothing of the run waits for.
#[derive(Default)]
pub(crate) struct Sweeps(Mutex<JoinSet<()>>);

impl Sweeps {
    pub(super) fn begin(&self, context: &Context, name: &str, api: &Api) {
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
    pub(crate) async fn end(&self) {
        let mut sweeps = {
            let mut sweeps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sweeps)
        };
        let all = async { while sweeps.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SWEEPS_END, all).await;
    }
}

/// A sweep that somebody asked for; `force`: also of what has not expired.
pub(super) async fn sweep_one(context: &Context, name: &str, api: &Api, force: bool) -> Swept {
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
