//! One end of a probe: say, listen, measure, inspect.
//!
//! Duty: the wire protocol between a run and its floaters ([`wire`]), statistics that add up ([`stats`]), the probe
//! machine ([`session`]), datagrams between floaters ([`meeting`]) and, with feature `agent`, the floater itself: an engine that drives the machine over sockets,
//! a responder that proves who answered, an API that takes plans and streams results, and a reader of the node's
//! tables. A floater is a value with a transport, not a process: many can live in one process on sockets that were
//! opened in their namespaces.
//!
//! May know: `datapath` (the vocabulary of tables; with `agent` its kernel reader). Nothing of Kubernetes. Without
//! `agent` it is pure: no runtime, no socket, no clock.
//!
//! Units: microseconds in fields that end in `_us`, milliseconds in `_ms`, packets per second in `_pps`.
//!
//! A plan, judged on a network that answers everything after two milliseconds:
//!
//! ```
//! use std::time::Duration;
//!
//! use floater::session::{Command, Input, Limits, Session};
//! use floater::wire::{Event, Plan};
//!
//! let plan: Plan = serde_json::from_str(
//!     r#"{"version": 2, "run": "r", "budget_pps": 100, "timeout_ms": 1000,
//!         "probes": [{"id": 7, "dst": "10.21.0.5", "protocol": "icmp", "count": 3}]}"#,
//! )?;
//! let limits = Limits { icmp4_bytes: 212_992, icmp6_bytes: 212_992, connections: 16, secret: 4 };
//! let mut session = Session::new(&plan, limits);
//! let mut now = Duration::ZERO;
//! while let Some(next) = session.deadline(now) {
//!     now = next;
//!     session.wake(now);
//!     while let Some(command) = session.poll(now) {
//!         if let Command::Echo { token, cookie, dst, .. } = command {
//!             let reply = Input::Reply { token, cookie, from: dst, received: None };
//!             session.handle(now + Duration::from_millis(2), reply);
//!         }
//!     }
//! }
//! let Some(Event::Outcome(outcome)) = session.event(now) else { panic!("judged") };
//! assert_eq!((outcome.id, outcome.sent, outcome.received, outcome.failure), (7, 3, 3, None));
//! assert_eq!(outcome.rtt.map(|rtt| rtt.max_us), Some(2000));
//! # Ok::<(), serde_json::Error>(())
//! ```

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
mod error;
pub mod meeting;
#[cfg(feature = "agent")]
pub mod probe;
pub mod session;
pub mod stats;
pub mod wire;
