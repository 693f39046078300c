//! The status of a node's NodeConfig, written over the API (feature `kube`).

use std::time::{Duration, Instant};

use futures::Stream;
use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::Value;
use std::pin::pin;
use tracing::{debug, info};

use super::{Reporter, Told};
use crate::moment;
use crate::watching::kosmos;

/// The longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes what an agent tells to the status of its NodeConfig until there is no more to tell. `version` is the agent's.
///
/// What cannot be written is tried again, and nobody waits for it.
pub async fn report(client: Client, name: &str, version: &str, told: impl Stream<Item = Told>) {
    let start = Instant::now();
    let now = || start.elapsed();
    let resource = kosmos("NodeConfig", "nodeconfigs");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut told = pin!(told.fuse());
    let mut reporter = Reporter::new();
    let mut is_failing = false;
    loop {
        let wait = reporter
            .deadline()
            .map_or(Duration::from_secs(3600), |at| at.saturating_sub(now()));
        tokio::select! {
            next = told.next() => match next {
                None => return,
                Some(Told::Shown(status)) => reporter.shown(&status),
                Some(Told::Account(account)) => reporter.account(account, now(), &moment::now()),
                Some(Told::Summary(summary)) => reporter.sessions(&summary, now()),
                Some(Told::Looked(_) | Told::Sessions(..)) => {}
            },
            () = tokio::time::sleep(wait) => {}
        }
        let Some(patch) = reporter.poll(now(), version) else {
            continue;
        };
        let wrote = write(&api, name, &patch).await;
        match &wrote {
            Ok(()) => is_failing = false,
            // Once aloud: the node itself is as well as before.
            Err(why) if !std::mem::replace(&mut is_failing, true) => {
                info!(
                    why,
                    "the status of the NodeConfig cannot be written; it is tried again"
                );
            }
            Err(why) => debug!(why, "the status of the NodeConfig cannot be written"),
        }
        reporter.done(wrote.is_ok(), now());
    }
}

async fn write(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<(), String> {
    let params = PatchParams {
        field_manager: Some("clusterlink".to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(patch);
    let asked = api.patch_status(name, &params, &patch);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} ({})", status.message, status.code)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
