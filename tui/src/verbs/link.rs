//! `link`: the datapath between clusters.

mod deeds;
mod plan;
mod status;

pub(super) use deeds::{install, join, uninstall, unjoin, upgrade};
pub(super) use plan::plan;
pub(super) use status::status;
