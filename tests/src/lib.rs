//! End-to-end tests of the programs, and the gate that decides whether a change may land.
//!
//! Duty: [`gate`] runs every check of the project and counts what passed, failed and was skipped; `e2e/` drives the
//! binaries from outside, as an operator would.
//!
//! May know: everything.

pub mod gate;
