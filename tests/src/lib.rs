//! End-to-end tests of the programs, and the gate that decides whether a change may land.
//!
//! Duty: [`gate`] runs every check of the project and counts what passed, failed and was skipped; the other modules are
//! what the suites in `e2e/` and `hostile/` share: they drive the binaries from outside, as an operator would.
//!
//! May know: everything.

pub mod bare;
pub mod client;
pub mod gate;
pub mod image;
pub mod kosmos;
pub mod lab;
pub mod pour;
pub mod program;
pub mod proxy;
pub mod server;
pub mod stream;
pub mod terminal;
