//! Decide what to ask, whom and when; explain the answers.
//!
//! Duty: the inventory of clusters, the floaters' deployment and certain removal, the probe plan, the connectivity
//! graph, the diagnosis and the report.
//!
//! May know: `datapath`'s vocabulary and walk, `floater`'s wire protocol, the Kubernetes API. Never the simulator: a
//! simulated cluster is met as any other, over its API.
//!
//! Units: microseconds in fields that end in `_us`.

pub mod causes;
mod descriptors;
pub mod diagnose;
pub mod engine;
pub mod error;
pub mod evidence;
pub mod explain;
mod fleet;
pub mod glob;
pub mod graph;
pub mod inventory;
pub mod kubeconfig;
pub mod link;
pub mod manifest;
pub mod matrix;
mod memory;
pub mod probe_plan;
mod probe_targets;
pub mod report;
pub mod run;
pub mod sequential;

pub use error::Error;
