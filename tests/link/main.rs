//! The programs of the datapath's control plane, as processes, against simulated API servers: every test starts `clusterlink` as a cluster
//! would, with the rights that `datapath::rbac` gives it and no others, and judges the objects that come of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod agent;
mod chart;
mod deploy;
mod distributions;
mod failover;
mod fleet;
mod former;
mod interrupted;
mod kosmos;
mod lab;
mod leaving;
mod multipath;
mod node;
mod objects;
mod planning;
mod preflight;
mod process;
mod tokens;
mod underlay;
mod world;
