//! The agent of a node: its NodeConfig, kept true in the kernel (feature `kernel`; with `kube` also where it comes from).
//!
//! ```text
//!   Kubernetes API ──watch──► Event ─┐
//!   Liveness ─────detours────────────┤
//!   Monitor ──────readable───────────┼─► Keeper (pure: events and time in, "reconcile this now" out) ──► settle
//!   clock ───────────────────────────┘
//! ```
//!
//! What was right once is kept: while the API is away, while the NodeConfig cannot be understood, and for a while after it was deleted,
//! since objects come and go for reasons that have nothing to do with the node. Nothing is ever undone on exit.

mod keeper;
mod kept;
#[cfg(feature = "kube")]
mod liveness;
#[cfg(feature = "kube")]
mod node;
mod report;
#[cfg(feature = "kube")]
mod reporting;
#[cfg(feature = "kube")]
mod settings;
mod settle;

pub mod underlay;

pub use keeper::{Event, Keeper, Timing};
pub use kept::Kept;
#[cfg(feature = "kube")]
pub use liveness::{Found, Liveness, PORT};
#[cfg(feature = "kube")]
pub use node::{News, Told, Word, events, keep};
pub use report::{APPLIED, Account, Reporter, Version};
#[cfg(feature = "kube")]
pub use reporting::report;
pub use settle::{Settled, settle};
