//! A fleet of clusters on one machine.
//!
//! Duty: a topology file ([`topology`]) becomes network namespaces that a real kernel forwards between, virtual clusters that
//! serve a Kubernetes API, and kubelets that run floaters in them ([`control`]).
//!
//! May know: `netns-harness` (namespaces), `datapath` (what a node's network should be), `floater` (what a pod runs).
//! Nothing of the orchestrator, which meets a lab over the Kubernetes API as it meets any cluster.

#![forbid(unsafe_code)]

mod agents;
pub mod codes;
pub mod control;
mod error;
mod fault;
mod freeze;
mod kubelet;
mod lab;
mod network;
mod objects;
mod pki;
mod protocol;
mod readable;
mod reconciler;
mod state;
pub mod topology;
mod upstream;
mod virtual_clusters;

pub use apiserver;
pub use error::Error;
