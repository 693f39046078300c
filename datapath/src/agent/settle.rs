//! One turn of an agent: the newest config is judged, and the kernel made to hold what is adopted.

use tracing::{debug, error, info, warn};

use super::Keeper;
use crate::diff::ChangeSet;
use crate::error::{Error, ProblemKind};
use crate::nodeconfig::{Part, TUNNELS};
use crate::reconcile::{Kernel, Rows, reconcile_from};
use crate::state::NodeState;

/// How many changes of a turn are logged one by one, unless debug messages are wanted.
const LOGGED: usize = 20;

/// What came of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Whether the newest config is adopted and the kernel holds it; the argument of [`Keeper::settled`].
    pub is_true: bool,
    /// Why not, and what of the config makes no row; empty where all is well.
    pub problems: Vec<String>,
}

/// Adopts the newest config if every part of it can be made, and makes the kernel hold what is adopted. Blocks for as long as the
/// kernel takes, milliseconds.
///
/// A config with a part that is malformed leaves the former one in force, rows of every kind: half a config may break paths that the
/// former one served. Only a node that has no tunnel yet gets what can be made of it, since it has nothing to lose.
pub fn settle<C: Rows + Default + PartialEq>(
    kernel: &mut dyn Kernel,
    keeper: &mut Keeper<C>,
) -> Settled {
    let mut settled = Settled::default();
    if keeper.candidate().is_none() && keeper.adopted().is_none() {
        settled.is_true = true;
        return settled;
    }
    let observed = match kernel.observe() {
        Ok(observed) => observed,
        Err(error) => {
            settled.unobserved(&error);
            return settled;
        }
    };
    if let Some(candidate) = keeper.candidate() {
        let is_bare = keeper.adopted().is_none() && !has_tunnels(&observed);
        let unfit = unfit(candidate, &observed, is_bare);
        if unfit.is_empty() {
            keeper.adopt();
        }
        for problem in unfit {
            error!(
                problem,
                "the NodeConfig is not adopted; the former one stays"
            );
            settled.problems.push(problem);
        }
    }
    let adopted = keeper.candidate().is_none();
    let Some(config) = keeper.adopted() else {
        return settled;
    };
    match reconcile_from(kernel, config, observed) {
        Ok(done) => {
            log(&done.applied);
            for problem in &done.problems {
                warn!(%problem, "left out");
                settled.problems.push(problem.to_string());
            }
            for change in &done.left.changes {
                error!(%change, "still differs");
                settled.problems.push(format!("still differs: {change}"));
            }
            settled.is_true = adopted && done.left.is_empty();
        }
        Err(error) => settled.unobserved(&error),
    }
    settled
}

/// The first changes, and how many more there were: a node's first config in a large fleet has thousands.
fn log(applied: &ChangeSet) {
    let (first, others) = applied.changes.split_at(applied.changes.len().min(LOGGED));
    for change in first {
        info!(%change, "changed");
    }
    for change in others {
        debug!(%change, "changed");
    }
    if !others.is_empty() {
        info!(count = others.len(), "more changes of the same turn");
    }
}

impl Settled {
    fn unobserved(&mut self, error: &Error) {
        let problem = error.problem();
        error!(%problem, "the node cannot be observed");
        self.problems.push(problem.to_string());
    }
}

/// What keeps a config from being adopted. A tunnel that cannot be made would take all its rows along; any other malformed part would
/// take its former row, which only a bare node does not have.
fn unfit(config: &impl Rows, observed: &NodeState, is_bare: bool) -> Vec<String> {
    let (_, mut problems) = config.desired(observed);
    problems.retain(|problem| {
        let is_superfluous = problem.kind == ProblemKind::Repeated;
        problem.part == Some(Part::Device) || !(is_superfluous || is_bare)
    });
    problems.iter().map(ToString::to_string).collect()
}

fn has_tunnels(observed: &NodeState) -> bool {
    TUNNELS
        .iter()
        .any(|name| observed.links.get(*name).is_some())
}
