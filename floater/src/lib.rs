//! One end of a probe: say, listen, measure, inspect.
//!
//! Duty: the wire protocol between a run and its floaters ([`wire`], always built) and, with feature `agent`, the
//! floater itself: an engine that sends probes, a responder that proves who answered, an API that takes plans and
//! streams results, and a reader of the node's tables. A floater is a value with a transport, not a process: many can
//! live in one process on sockets that were opened in their namespaces.
//!
//! May know: `datapath` (the vocabulary of tables; with `agent` its kernel reader). Nothing of Kubernetes.
//!
//! Units: microseconds in fields that end in `_us`, milliseconds in `_ms`, packets per second in `_pps`.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
mod error;
#[cfg(feature = "agent")]
pub mod probe;
pub mod session;
pub mod stats;
pub mod wire;
