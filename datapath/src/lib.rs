//! What a node's network should be, is, does with a packet, and the smallest change between them.
//!
//! Duty: the vocabulary of a node's network ([`state`]), the planner from cluster objects to that vocabulary ([`plan`]),
//! the difference of two states ([`diff`]), the loop that makes one into the other ([`reconcile`]), and the walk of one
//! packet through the tables of one or many nodes ([`walk`]).
//!
//! May know: nothing of the rest of the workspace. The default build is pure; feature `kernel` adds netlink, feature
//! `kube` the clients of the Kubernetes API, feature `clusterlink` the program of that name.
//!
//! Units: bytes, host byte order, [`std::time::Duration`].

#[cfg(all(feature = "kernel", feature = "kube"))]
pub mod agent;
pub mod api;
#[cfg(feature = "clusterlink")]
pub mod cli;
pub mod diff;
pub mod error;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod mac;
pub mod memory;
pub mod nodeconfig;
pub mod plan;
pub mod reconcile;
pub mod state;
pub mod table;
pub mod walk;
