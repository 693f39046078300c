//! Room for the neighbours that a lab's nodes learn of each other: the thresholds are the machine's, are raised where this user may, and
//! come back with the last lab that relies on them.
//!
//! ```text
//!   few are learned ──────────────────────────────────────────────────────► nodes learn
//!   many ──► written down what was before ──► raised ──yes────────────────► nodes learn
//!                                               └─────no (not root) ──────► nodes have fixed entries
//! ```

use std::fs::File;

use netns_harness::neighbours::Thresholds;
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use super::Counted;
use crate::Error;
use crate::network;
use crate::protocol::Phase;
use crate::state::{self, Folder, Record};
use crate::topology::Topology;

/// What the machine itself and everybody else on it may learn besides.
const OTHERS: u32 = 256;

/// Makes room for what the nodes of a fleet learn. The record says what was before; the answer is whether the nodes may learn.
pub(super) fn make_room(
    folder: &Folder,
    record: &mut Record,
    topology: &Topology,
) -> Result<bool, Error> {
    let learned = network::learned(topology);
    if learned == 0 {
        return Ok(true);
    }
    let _turn = turn()?;
    let needed = learned.saturating_add(OTHERS);
    let current = Thresholds::current();
    let before = raised_before(folder);
    if current.keep(needed) {
        if before.is_some() {
            // By another lab, which must not take them back while this one is up.
            record.neighbours = before;
            folder.write_record(record)?;
        }
        return Ok(true);
    }
    // Written down before it is changed, for whoever cleans up after a crash in between.
    record.neighbours = Some(before.unwrap_or(current));
    folder.write_record(record)?;
    match current.keeping(needed).set() {
        Ok(()) => {
            info!(needed, "the machine keeps more learned neighbours");
            let kept = usize::try_from(needed).unwrap_or(usize::MAX);
            Counted::begin(Phase::Neighbours, kept).end();
            Ok(true)
        }
        Err(error) => {
            info!(
                needed,
                error = crate::error::chain(&error),
                "nodes have fixed neighbours, since the machine would not keep what they learn"
            );
            // Some of them may have been set.
            let _ = current.set();
            record.neighbours = before;
            folder.write_record(record)?;
            Ok(false)
        }
    }
}

/// Puts back what was before a lab, unless another one relies on it; that one will do it.
pub(crate) fn restore(folder: &Folder, mut record: Record) -> Result<(), Error> {
    let Some(before) = record.neighbours.take() else {
        return Ok(());
    };
    let _turn = turn()?;
    // From here on this lab is none that relies on it.
    folder.write_record(&record)?;
    if raised_before(folder).is_none()
        && let Err(error) = before.set()
    {
        warn!(
            error = crate::error::chain(&error),
            "the thresholds of neighbours stay raised"
        );
    }
    Ok(())
}

/// What was before another lab raised the thresholds, or relied on them being raised.
fn raised_before(folder: &Folder) -> Option<Thresholds> {
    let names = state::names().unwrap_or_default().into_iter();
    let others = names.filter(|name| *name != folder.name);
    others
        .filter_map(|name| Folder::of(&name).record())
        .find_map(|record| record.neighbours)
}

/// Only one lab at a time decides about the thresholds.
fn turn() -> Result<Flock<File>, Error> {
    let root = state::state_root();
    let doing = || format!("lock {}", root.display());
    let file = File::open(&root).map_err(Error::failed(doing()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::failed(doing())(errno))
}
