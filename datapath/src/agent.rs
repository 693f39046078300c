//! The agent of a node: its NodeConfig, kept true in the kernel (feature `kernel`; with `kube` also where it comes from).
//!
//! ```text
//!   Kubernetes API ──watch──► Event ─┐
//!   Monitor ──────readable───────────┼─► Keeper (pure: events and time in, "reconcile this now" out) ──► settle
//!   clock ───────────────────────────┘
//! ```
//!
//! What was right once is kept: while the API is away, while the NodeConfig cannot be understood, and for a while after it was deleted,
//! since objects come and go for reasons that have nothing to do with the node. Nothing is ever undone on exit.

mod keeper;
#[cfg(feature = "kube")]
mod node;
mod settle;

pub use keeper::{Event, Keeper, Timing};
#[cfg(feature = "kube")]
pub use node::{events, keep};
pub use settle::{Settled, settle};
