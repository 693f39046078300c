//! What holds however often and however hard: kills at any moment leave nothing, healthy fleets of any shape have no
//! finding, an overloaded machine accuses nobody.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fleets;
mod kills;
mod lossless;
mod moments;
