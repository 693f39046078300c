//! What is still to come of each cell, so that a cell is told as soon as its packets are judged.

use std::collections::HashMap;

use datapath::state::Family;
use floater::wire::{Layer, Outcome};

use crate::evidence::Gathered;
use crate::probe_plan::PlannedProbe;
use crate::report::CellVerdict;
use crate::run::Progress;

/// What the rounds that probe every cell have said so far.
pub(super) struct Tally {
    names: Vec<String>,
    /// The cell of every probe.
    cells: Vec<usize>,
    state: Vec<CellTally>,
}

struct CellTally {
    src: usize,
    dst: usize,
    layer: Layer,
    family: Family,
    left: u64,
    sent: u64,
    received: u64,
}

impl Tally {
    pub(super) fn new(gathered: &Gathered, planned: &[PlannedProbe], rounds: u32) -> Self {
        let mut index = HashMap::new();
        let mut state: Vec<CellTally> = Vec::new();
        let cells = planned
            .iter()
            .map(|probe| {
                let (src, dst) = (probe.src.cluster, probe.dst.cluster);
                let at = *index
                    .entry((src, dst, probe.layer, probe.family))
                    .or_insert_with(|| {
                        state.push(CellTally {
                            src,
                            dst,
                            layer: probe.layer,
                            family: probe.family,
                            left: 0,
                            sent: 0,
                            received: 0,
                        });
                        state.len() - 1
                    });
                state[at].left += u64::from(rounds);
                at
            })
            .collect();
        let names = gathered.clusters.iter();
        Self {
            names: names.map(|cluster| cluster.name.clone()).collect(),
            cells,
            state,
        }
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.state.len()
    }

    /// Adds an outcome: the cell where it was the last one.
    pub(super) fn add(&mut self, outcome: &Outcome) -> Option<Progress> {
        let cell = &mut self.state[*self.cells.get(outcome.id as usize)?];
        cell.sent += u64::from(outcome.sent);
        cell.received += u64::from(outcome.received);
        cell.left = cell.left.saturating_sub(1);
        (cell.left == 0).then(|| Progress::Cell {
            src: self.names[cell.src].clone(),
            dst: self.names[cell.dst].clone(),
            layer: cell.layer,
            family: cell.family,
            sent: cell.sent,
            received: cell.received,
            // What was lost is asked again before anything is said of it.
            verdict: if cell.sent > 0 && cell.received == cell.sent {
                CellVerdict::Pass
            } else {
                CellVerdict::Unknown
            },
        })
    }
}
