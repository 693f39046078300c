//! One turn of an agent: the newest config is judged, and the kernel made to hold what is adopted.

use tracing::{error, info, warn};

use super::Keeper;
use crate::api::NodeConfigSpec;
use crate::error::Error;
use crate::nodeconfig::{Part, desired};
use crate::reconcile::{Kernel, reconcile};

/// What came of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Whether the newest config is adopted and the kernel holds it; what [`Keeper::settled`] has to be told.
    pub is_true: bool,
    /// Why not, and what of the config makes no row; empty where all is well.
    pub problems: Vec<String>,
}

/// Adopts the newest config if all its tunnels can be made, and makes the kernel hold what is adopted. Blocks for as long as the
/// kernel takes, milliseconds.
pub fn settle(kernel: &mut dyn Kernel, keeper: &mut Keeper) -> Settled {
    let mut settled = Settled::default();
    if let Some(candidate) = keeper.candidate() {
        match judged(kernel, candidate) {
            Ok(unfit) if unfit.is_empty() => keeper.adopt(),
            Ok(unfit) => {
                for problem in unfit {
                    error!(
                        problem,
                        "the NodeConfig is not adopted; the former one stays"
                    );
                    settled.problems.push(problem);
                }
            }
            Err(error) => settled.unobserved(&error),
        }
    }
    let adopted = keeper.candidate().is_none();
    let Some(config) = keeper.adopted() else {
        settled.is_true = adopted;
        return settled;
    };
    match reconcile(kernel, config) {
        Ok(done) => {
            for change in &done.applied.changes {
                info!(%change, "changed");
            }
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

impl Settled {
    fn unobserved(&mut self, error: &Error) {
        let problem = error.problem();
        error!(%problem, "the node cannot be observed");
        self.problems.push(problem.to_string());
    }
}

/// What keeps a config from being adopted: a tunnel that cannot be made would take all its rows along.
fn judged(kernel: &mut dyn Kernel, config: &NodeConfigSpec) -> Result<Vec<String>, Error> {
    let observed = kernel.observe()?;
    let (_, mut problems) = desired(config, &observed);
    problems.retain(|problem| problem.part == Some(Part::Device));
    Ok(problems.iter().map(ToString::to_string).collect())
}
