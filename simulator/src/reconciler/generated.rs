//! NodeConfigs that are made when they are asked for: all of a large fleet together are quadratic in its size.

use std::sync::{Arc, PoisonError, RwLock};

use datapath::api::NodeConfigSpec;
use datapath::plan::Planner;
use serde_json::Value;
use tracing::warn;

use crate::apiserver::Generator;

/// The plan of a fleet, a node at a time.
#[derive(Default)]
pub(crate) struct Configs(RwLock<Option<Arc<Planner>>>);

impl std::fmt::Debug for Configs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configs").finish_non_exhaustive()
    }
}

impl Configs {
    /// What was planned; whoever asks from now on gets what it says.
    pub(super) fn set(&self, planner: &Arc<Planner>) {
        for objection in planner.objections() {
            warn!(%objection, "the plan cannot work as it is written");
        }
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *held = Some(planner.clone());
    }

    /// What was planned last.
    pub(crate) fn planner(&self) -> Option<Arc<Planner>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The NodeConfig of a ClusterNode; none where it takes no part, or nothing was planned yet.
    pub(crate) fn config(&self, name: &str) -> Option<NodeConfigSpec> {
        self.planner()?.config(name)
    }
}

impl Generator for Configs {
    fn complete(&self, stub: &mut Value) {
        let name = stub["metadata"]["name"].as_str().unwrap_or_default();
        let spec = self.config(name).unwrap_or_default();
        // Rows are text and numbers: nothing in them cannot be written.
        stub["spec"] = serde_json::to_value(spec).unwrap_or_default();
    }
}
