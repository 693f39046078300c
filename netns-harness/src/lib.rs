//! Linux network namespaces, the wires between them, and what this kernel lets one do.
//!
//! Duty: make namespaces and hold them by descriptor ([`namespace`]), open sockets inside of them ([`opener`]), start
//! programs inside of them ([`process`]), hand descriptors to other processes ([`handover`]), lay links, addresses and routes with packed netlink messages ([`netlink`],
//! [`wire`]), say what the kernel can do ([`caps`]) and how much it keeps ([`neighbours`]), become root of an own user namespace ([`rootless`]), and prove that
//! nothing stays behind ([`leak`]).
//!
//! May know: Linux. Nothing of Kubernetes, nothing of the rest of the workspace.
//!
//! Units: bytes, host byte order.
//!
//! ```no_run
//! use netns_harness::{namespace::Netns, netlink::Netlink, wire::{End, Wire as _}};
//!
//! # fn main() -> Result<(), netns_harness::Error> {
//! let (left, right) = (Netns::create()?, Netns::create()?);
//! let mut netlink = left.run(Netlink::open)??;
//! netlink.veth(
//!     &End { name: "eth0", index: 2, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, namespace: None, master: None },
//!     &End { name: "eth0", index: 2, mac: [2, 0, 0, 0, 0, 2], mtu: 1500, namespace: Some(&right), master: None },
//! );
//! // The other end is set up from inside of its own namespace.
//! netlink.address(2, "10.0.0.1/24".parse().expect("a prefix"));
//! netlink.flush()?;
//! # Ok(())
//! # }
//! ```

pub mod caps;
mod error;
pub mod handover;
pub mod leak;
pub mod namespace;
pub mod neighbours;
pub mod netlink;
pub mod opener;
pub mod process;
pub mod rcu;
pub mod rootless;
pub mod sysctl;
pub mod wire;

pub use error::Error;
