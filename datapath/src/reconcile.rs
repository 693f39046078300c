//! Observe, compare, apply, and look again.

use crate::api::NodeConfigSpec;
use crate::diff::{ChangeSet, diff};
use crate::error::Error;
use crate::error::Problem;
use crate::nodeconfig;
use crate::state::{NodeState, Sysctl};

/// How often a change is followed by another look.
///
/// One round is enough for everything that [`diff`] foresees. The others are for what an administrator or the kernel does meanwhile, and
/// for consequences of foreign rows, such as IPv4's removal of secondary addresses with their primary one.
const ROUNDS: usize = 3;

/// A network namespace's tables.
pub trait Kernel {
    /// Reads all tables.
    ///
    /// # Errors
    /// When a table cannot be read; a row that cannot be understood is skipped.
    fn observe(&mut self) -> Result<NodeState, Error>;

    /// Settings of these names that no observation has: those that cost a file each. The default knows none.
    fn settings(&mut self, names: &[String]) -> Vec<Sysctl> {
        let _ = names;
        Vec::new()
    }

    /// Makes changes in their order. A row that is to be removed and is not there is a success; one that fails does not keep the
    /// others from being applied.
    ///
    /// # Errors
    /// Every change that failed.
    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>>;
}

/// What says which rows a node should have.
pub trait Rows {
    /// The rows, and the parts of it that make none. `observed` lends what is the node's own, as in [`nodeconfig::desired`].
    fn desired(&self, observed: &NodeState) -> (NodeState, Vec<Problem>);
}

impl Rows for NodeConfigSpec {
    fn desired(&self, observed: &NodeState) -> (NodeState, Vec<Problem>) {
        nodeconfig::desired(self, observed)
    }
}

/// What a reconciliation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// What was asked of the kernel.
    pub applied: ChangeSet,
    /// What still differs afterwards; empty when the state is verified.
    pub left: ChangeSet,
    /// Parts of the config that make no row, and changes that the kernel refused.
    pub problems: Vec<Problem>,
}

/// Makes a node's tables what its NodeConfig says, and verifies it by a second observation.
///
/// # Errors
/// When the tables cannot be read. Changes that fail are in [`Reconciled::problems`] and show in [`Reconciled::left`].
pub fn reconcile(kernel: &mut dyn Kernel, config: &NodeConfigSpec) -> Result<Reconciled, Error> {
    let observed = kernel.observe()?;
    reconcile_from(kernel, config, observed)
}

/// As [`reconcile`], by somebody who has just observed the kernel.
pub(crate) fn reconcile_from(
    kernel: &mut dyn Kernel,
    config: &impl Rows,
    mut observed: NodeState,
) -> Result<Reconciled, Error> {
    let mut done = Reconciled::default();
    let mut refused = Vec::new();
    for _ in 0..ROUNDS {
        (done.left, done.problems) = differing(kernel, config, &mut observed);
        if done.left.is_empty() {
            return Ok(done);
        }
        refused = kernel.apply(&done.left).err().unwrap_or_default();
        done.applied.changes.append(&mut done.left.changes);
        observed = kernel.observe()?;
    }
    (done.left, done.problems) = differing(kernel, config, &mut observed);
    done.problems.extend(refused.iter().map(Error::problem));
    Ok(done)
}

/// What differs from what is wanted, and what of that makes no row. Settings that are wanted and were not observed are asked for.
fn differing(
    kernel: &mut dyn Kernel,
    config: &impl Rows,
    observed: &mut NodeState,
) -> (ChangeSet, Vec<Problem>) {
    let (wanted, problems) = config.desired(observed);
    let names = wanted.sysctls.iter().map(|row| &row.name);
    let unread = names.filter(|name| observed.sysctls.get(*name).is_none());
    let unread: Vec<String> = unread.cloned().collect();
    if !unread.is_empty() {
        observed.sysctls.extend(kernel.settings(&unread));
    }
    (diff(&wanted, observed), problems)
}
