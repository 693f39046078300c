//! `link`: the datapath between clusters.

mod deeds;
mod plan;
mod status;

pub(super) use deeds::{Deed, install, join, place, uninstall, unjoin, upgrade};
pub(super) use plan::plan;
pub(super) use status::status;
