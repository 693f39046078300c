//! One node's kernel, and one look at it.
//!
//! ```text
//!   bare ───► fill: tunnels and own rows by themselves, the bundles' rows as they are written for all ─┐
//!                                                                                                      ▼
//!   planned ───────────────► read, rows as a sum: what is expected, and links as they should be? ──yes─► all is well
//!                                                        │no
//!   written ─────────────────────────────────────────────┴─► settle: row by row
//! ```
//!
//! A kernel is open only while it is looked at: the descriptors of a thousand nodes are few per node.

use std::collections::BTreeMap;
use std::sync::Arc;

use datapath::agent::{Keeper, Settled, settle};
use datapath::diff::diff;
use datapath::error::Error;
use datapath::kernel::LinuxKernel;
use datapath::nodeconfig::TUNNELS;
use datapath::plan::{Planner, Row};
use datapath::reconcile::Kernel as _;
use datapath::state::NodeState;
use tracing::info;

use super::config::{Common, Config};
use crate::network::{Network, NodeNet};

/// What an agent has of its node.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) keeper: Keeper<Config>,
    /// Whether the tunnels were made just now, so that nobody else has put rows on them.
    is_fresh: bool,
    /// The tunnels that were made, with their indices.
    pub(super) tunnels: BTreeMap<String, u32>,
}

/// A node's kernel, for a while.
pub(super) fn open(network: &Network, net: &NodeNet) -> Result<LinuxKernel, Error> {
    let opened = network.opener.open(&net.netns, LinuxKernel::open);
    opened.map_err(|error| Error::Missing {
        what: format!("kernel of {}/{}", net.cluster, net.node.name),
        why: crate::error::chain(&error),
    })?
}

impl Engine {
    pub(super) fn new(keeper: Keeper<Config>) -> Self {
        Self {
            keeper,
            is_fresh: false,
            tunnels: BTreeMap::new(),
        }
    }

    /// Makes the rows of a plan on a node that has no tunnel yet. Whether they are all there is for the next look to find out.
    pub(super) fn fill(
        &mut self,
        kernel: &mut LinuxKernel,
        common: &Common,
        planner: &Arc<Planner>,
        node: &str,
    ) -> Result<(), Error> {
        let local = kernel.observe_local()?;
        if has_tunnels(&local) {
            return Ok(());
        }
        let Some((own, _)) = planner.desired_own(node, &local) else {
            return Ok(());
        };
        // What is refused is missed and told by the next look.
        let _ = kernel.apply(&diff(&own, &local));
        self.is_fresh = true;
        self.tunnels = kernel.tunnel_indices()?;
        if let Some(rows) = common.rows(planner, &self.tunnels) {
            kernel.make_shared(&rows, node)?;
        }
        Ok(())
    }

    /// One look at the kernel, which afterwards is what it should be, as far as possible.
    pub(super) fn look(&mut self, kernel: &mut LinuxKernel, common: &Common) -> Settled {
        let config = self.keeper.candidate().or(self.keeper.adopted());
        if let Some(Config::Planned { planner, node }) = config.cloned() {
            let filled = self.fill(kernel, common, &planner, &node);
            match filled.and_then(|()| self.is_as_planned(kernel, common, &planner, &node)) {
                Ok(true) => {
                    self.keeper.adopt();
                    return Settled {
                        is_true: true,
                        problems: Vec::new(),
                    };
                }
                Ok(false) => {}
                // Whoever looks row by row says what it is, if it lasts.
                Err(error) => info!(%error, node = &*node, "looked at row by row"),
            }
        }
        settle(kernel, &mut self.keeper)
    }

    fn is_as_planned(
        &mut self,
        kernel: &mut LinuxKernel,
        common: &Common,
        planner: &Arc<Planner>,
        node: &str,
    ) -> Result<bool, Error> {
        let Some(expected) = common.expected(planner, node) else {
            return Ok(false);
        };
        let digester = &common.digester().with_gateways(expected.gateways());
        let (local, digest) = if std::mem::take(&mut self.is_fresh) {
            let rows = planner.rows(node).into_iter().flatten();
            let neighbours = rows.filter_map(|row| match row {
                Row::Neighbour { tunnel, ip, .. } => Some((tunnel, ip)),
                _ => None,
            });
            kernel.observe_filled(digester, neighbours)?
        } else {
            kernel.observe_counting(digester)?
        };
        let own = planner.desired_own(node, &local);
        Ok(digest == expected
            && own.is_some_and(|(mut own, problems)| {
                // These are in the sum.
                digester.take_counted(&mut own);
                problems.is_empty() && diff(&own, &local).is_empty()
            }))
    }
}

fn has_tunnels(state: &NodeState) -> bool {
    let mut names = TUNNELS.iter();
    names.any(|name| state.links.get(*name).is_some())
}
