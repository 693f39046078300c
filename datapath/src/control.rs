//! What the control plane decides, without a clock, a connection or a kernel.
//!
//! ```text
//!   member's Nodes ─► nodes ─► ClusterNodes ─┐            ┌─► configs ────► NodeConfigs written and deleted
//!   member's CNI ──► prefixes ► Cluster.status ├► inventory ┤
//!   ready nodes ───► gateways ► roles ────────┘  (planner)  └─► conditions ─► conditions and Events on the objects
//!
//!   leaving: NodeConfigs, ClusterNodes and finalizer of a cluster that goes
//!   lease: which of several replicas does so
//! ```
//!
//! The programs `clusterlink controller`, `elector` and `manager` drive these over the Kubernetes API, and a simulated fleet's control
//! plane drives the same ones over its own objects. Whoever asks a second time without news gets nothing to do.

pub mod conditions;
pub mod configs;
pub mod gateways;
pub mod inventory;
pub mod kept;
pub mod lease;
pub mod leaving;
pub mod nodes;
pub mod prefixes;
#[cfg(feature = "kube")]
pub mod tokens;
