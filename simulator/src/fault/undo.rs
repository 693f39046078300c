//! What a fault changed, and how it is put back.
//!
//! Clearing makes the rows that a fault changed what they were before, and what the kernel removed with them (a link that goes
//! down loses its routes and neighbours), also where nothing of the datapath runs that would repair it. Rows that somebody has
//! put back already are left as they are.

use std::collections::BTreeSet;

use datapath::diff::{Change, ChangeSet, diff, kind_of, name_of};
use datapath::kernel::LinuxKernel;
use datapath::reconcile::Kernel as _;
use datapath::state::{NeighbourState, NodeState, Row};
use ipnet::IpNet;

use crate::Error;

/// The node's tables before a fault, and which of their rows it changed, by kind and name.
pub(crate) struct Changed {
    before: NodeState,
    pub(crate) rows: BTreeSet<(&'static str, String)>,
}

impl Changed {
    /// What changed between two looks at a node. What was put back as it was on a link that was made anew counts as well: it has to be put
    /// back once more when that link is.
    pub(super) fn between(before: NodeState, after: &NodeState, asked: &ChangeSet) -> Self {
        let changed = diff(&before, after).changes;
        let asked = asked.changes.iter();
        let again =
            asked.filter(|change| matches!(change, Change::Replace { from, to } if from == to));
        let rows = changed.iter().chain(again).flat_map(rows_of);
        let rows = rows.filter(|row| !is_of_the_kernel(row)).map(key_of);
        Self {
            rows: rows.collect(),
            before,
        }
    }

    /// Makes those rows what they were, and no others: people may have changed more since.
    pub(crate) fn put_back(&self, kernel: &mut LinuxKernel) -> Result<(), Error> {
        let now = kernel
            .observe()
            .map_err(Error::failed("read a node's tables"))?;
        let missing = diff(&self.before, &now).changes.into_iter();
        let is_ours = |change: &Change| {
            let mut rows = rows_of(change);
            rows.any(|row| self.rows.contains(&key_of(row)))
        };
        let missing = missing.filter(is_ours);
        let set = ChangeSet::ordered(missing.collect());
        if set.is_empty() {
            return Ok(());
        }
        let failures = kernel.apply(&set).err().unwrap_or_default();
        let failure = failures.into_iter().find(|error| !error.is_already_there());
        failure.map_or(Ok(()), |error| {
            Err(Error::failed("put back what a fault removed")(error))
        })
    }
}

/// The row that a change makes, and the one whose place it takes.
fn rows_of(change: &Change) -> impl Iterator<Item = &Row> {
    let replaced = match change {
        Change::Replace { from, .. } => Some(from),
        Change::Add(_) | Change::Remove(_) => None,
    };
    [change.row()].into_iter().chain(replaced)
}

/// Whether the kernel makes a row by itself where there is a reason for it.
pub(super) fn is_of_the_kernel(row: &Row) -> bool {
    match row {
        Row::Address(address) => {
            matches!(address.net, IpNet::V6(net) if net.addr().is_unicast_link_local())
        }
        Row::Neighbour(row) => row.state != NeighbourState::Permanent,
        Row::Route(route) => route.protocol == libc::RTPROT_KERNEL,
        _ => false,
    }
}

fn key_of(row: &Row) -> (&'static str, String) {
    (kind_of(row), name_of(row))
}
