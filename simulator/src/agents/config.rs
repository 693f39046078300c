//! What an agent keeps its node at: a plan, or what somebody wrote instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datapath::api::NodeConfigSpec;
use datapath::digest::{Digest, Digester, Expected, Key, Scope};
use datapath::error::Problem;
use datapath::kernel::SharedRows;
use datapath::plan::Planner;
use datapath::reconcile::Rows;
use datapath::state::NodeState;

use crate::{Error, pki};

/// The rows that a node should have.
#[derive(Debug, Clone)]
pub(super) enum Config {
    /// As its NodeConfig is planned. Nothing of it is in memory: the plan gives the rows.
    Planned {
        planner: Arc<Planner>,
        /// The ClusterNode's name.
        node: Arc<str>,
    },
    /// As somebody wrote it.
    Written(Arc<NodeConfigSpec>),
}

impl Default for Config {
    fn default() -> Self {
        Self::Written(Arc::default())
    }
}

/// A plan that was made anew is another one, also where it came to the same: nodes find out at little cost.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Planned { planner, node },
                Self::Planned {
                    planner: other_planner,
                    node: other_node,
                },
            ) => Arc::ptr_eq(planner, other_planner) && node == other_node,
            (Self::Written(spec), Self::Written(other)) => spec == other,
            _ => false,
        }
    }
}

impl Rows for Config {
    fn desired(&self, observed: &NodeState) -> (NodeState, Vec<Problem>) {
        match self {
            Self::Planned { planner, node } => planner.desired(node, observed).unwrap_or_default(),
            Self::Written(spec) => spec.desired(observed),
        }
    }
}

/// What the agents share of the plan that most of them keep.
pub(super) struct Common {
    digester: Digester,
    held: Mutex<Option<Held>>,
}

struct Held {
    planner: Arc<Planner>,
    expected: Expected,
    /// For each set of indices that tunnels have.
    rows: Vec<Arc<SharedRows>>,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").finish_non_exhaustive()
    }
}

impl Common {
    /// With a key of its own.
    pub(super) fn new() -> Result<Self, Error> {
        // One sum is enough to tell whether there is a difference, which is all that is asked.
        let digester = Digester::new(Key(pki::random()?), Scope::Tables, 0);
        Ok(Self {
            digester,
            held: Mutex::default(),
        })
    }

    pub(super) fn digester(&self) -> &Digester {
        &self.digester
    }

    fn of(&self, planner: &Arc<Planner>) -> MutexGuard<'_, Option<Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |held: &Held| Arc::ptr_eq(&held.planner, planner);
        if !held.as_ref().is_some_and(is_it) {
            *held = Some(Held {
                planner: planner.clone(),
                expected: Expected::new(planner, self.digester),
                rows: Vec::new(),
            });
        }
        held
    }

    /// The digest of a node's tables as a plan has them; none where the node takes no part.
    pub(super) fn expected(&self, planner: &Arc<Planner>, node: &str) -> Option<Digest> {
        self.of(planner).as_mut()?.expected.of(node)
    }

    /// The rows of a plan's bundles, for kernels whose tunnels have these indices.
    pub(super) fn rows(
        &self,
        planner: &Arc<Planner>,
        indices: &BTreeMap<String, u32>,
    ) -> Option<Arc<SharedRows>> {
        let mut held = self.of(planner);
        let held = held.as_mut()?;
        let known = held.rows.iter().find(|rows| rows.indices() == indices);
        if let Some(rows) = known {
            return Some(rows.clone());
        }
        let rows = Arc::new(SharedRows::of(planner, indices));
        held.rows.push(rows.clone());
        Some(rows)
    }

    /// Lets go of the written rows, which only bare nodes need.
    pub(super) fn slim(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            held.rows = Vec::new();
        }
    }
}
