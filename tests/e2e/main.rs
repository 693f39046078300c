//! The programs from outside: every test runs `floaterctl` as an operator would and judges what it prints and leaves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod damage;
mod demo;
mod faults;
mod field;
mod filters;
mod injection;
mod inputs;
mod kubectl;
mod lifecycle;
mod paths;
mod progress;
mod records;
mod scenarios;
mod upkeep;
mod virtual_clusters;
