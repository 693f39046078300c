//! A gateway's own word that it reaches no other cluster, on its ClusterNode, so that the elector gives the role to another node.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::objects::{Wrote, merge_own};
use crate::api::CUT_OFF;
use crate::liveness::paths::Summary;
use crate::moment;
use crate::watching::kosmos;

/// How long it has to be so before it is said: the other nodes have turned to the standby already, and a role that moves costs every node.
const SURE: Duration = Duration::from_secs(5);
/// Between attempts to write it.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the annotation as the sessions are. Ends never. An earlier run's word is taken back once a session is up.
pub(crate) async fn cut_off(client: Client, name: &str, mut summary: watch::Receiver<Summary>) {
    let nodes: Api<DynamicObject> = Api::all_with(client, &kosmos("ClusterNode", "clusternodes"));
    let mut said: Option<bool> = None;
    loop {
        let now = {
            let held = summary.borrow_and_update();
            // Who watches nobody has nothing to say.
            (held.is_cut_off || held.up > 0).then_some(held.is_cut_off)
        };
        let Some(is_cut_off) = now.filter(|now| said != Some(*now)) else {
            if summary.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        };
        let wait = if is_cut_off { SURE } else { Duration::ZERO };
        let changed = async {
            // Whoever could change it is gone: then it stays.
            let has_changed = |held: &Summary| held.is_cut_off != is_cut_off;
            if summary.wait_for(has_changed).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if tokio::time::timeout(wait, changed).await.is_ok() {
            continue;
        }
        let word = is_cut_off.then(moment::now);
        let patch = json!({"metadata": {"annotations": {(CUT_OFF): word}}});
        let why = match merge_own(&nodes, name, &patch).await {
            Wrote::Done(_) => {
                if is_cut_off {
                    warn!("this node reaches no other cluster, and says so on its ClusterNode");
                }
                said = Some(is_cut_off);
                continue;
            }
            // Nobody elects of what is not there.
            Wrote::Conflict | Wrote::Dropped => {
                said = Some(is_cut_off);
                continue;
            }
            Wrote::Failed(why) => why,
        };
        info!(why, "whether this node is cut off cannot be written yet");
        tokio::time::sleep(RETRY).await;
    }
}
