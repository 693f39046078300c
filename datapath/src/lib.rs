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
//!
//! From a NodeConfig to a node that has it, here in memory; a real node's [`reconcile::Kernel`] is `kernel::LinuxKernel`:
//!
//! ```
//! use datapath::api::NodeConfigSpec;
//! use datapath::memory::MemoryKernel;
//! use datapath::reconcile::reconcile;
//! use datapath::state::NodeState;
//!
//! // A node with an underlay link, and what it should hold.
//! let node: NodeState = serde_json::from_str(r#"{
//!   "links": [{"name": "eth0", "mac": null, "mtu": 1500, "up": true, "kind": {"kind": "veth"}}],
//!   "addresses": [{"link": "eth0", "net": "100.64.0.1/16"}]
//! }"#)?;
//! let config: NodeConfigSpec = serde_json::from_str(r#"{
//!   "devices": [{"type": "vxlan", "name": "vx-bridge", "addr": "220.64.0.1/8", "mac": "02:00:00:00:0b:01",
//!                "bindDev": "eth0", "id": 54, "port": 4876}],
//!   "routes": [{"cidr": "10.21.0.0/16", "gw": "220.64.0.3", "dev": "vx-bridge"}]
//! }"#)?;
//!
//! let mut kernel = MemoryKernel::new(node);
//! let done = reconcile(&mut kernel, &config)?;
//! assert!(done.left.is_empty(), "verified by a second look");
//! assert!(done.applied.to_string().ends_with("+ route 10.21.0.0/16 table 200 via 220.64.0.3 dev vx-bridge onlink\n"));
//! assert_eq!(kernel.state().links.get("vx-bridge").map(|link| link.mtu), Some(1450));
//! assert!(reconcile(&mut kernel, &config)?.applied.is_empty(), "nothing is done twice");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "kernel")]
pub mod agent;
pub mod api;
#[cfg(feature = "clusterlink")]
pub mod cli;
pub mod code;
pub mod control;
pub mod diff;
pub mod digest;
#[cfg(feature = "clusterlink")]
pub mod document;
pub mod element;
pub mod error;
#[cfg(feature = "kube")]
pub mod evidence;
pub mod filter;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod liveness;
pub mod mac;
#[cfg(feature = "kube")]
pub mod manifests;
pub mod memory;
#[cfg(feature = "kube")]
pub mod moment;
pub mod nodeconfig;
pub mod plan;
pub mod printable;
#[cfg(feature = "clusterlink")]
mod programs;
#[cfg(feature = "kube")]
pub mod rbac;
pub mod reconcile;
pub mod state;
pub mod table;
pub mod tunnel;
pub mod walk;
#[cfg(feature = "kube")]
pub mod watching;
