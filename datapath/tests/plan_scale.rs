//! The planner of 5000 clusters within its budget of time and memory.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "../benches/plan/fleet.rs"]
mod fleet;

use std::time::{Duration, Instant};

use datapath::plan::{Change, Planner};

/// Resident bytes of this process, by `/proc/self/statm`.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number of pages");
    pages * 4096
}

#[test]
#[ignore = "scale: needs a release build and an idle machine"]
fn five_thousand_clusters_are_planned_in_their_budget() {
    let fleet = fleet::fleet("gateway", 5000, 2);
    let before = resident();
    let start = Instant::now();
    let mut planner = Planner::of(&fleet);
    let built = start.elapsed();
    let held = resident().saturating_sub(before);
    let start = Instant::now();
    let rows = planner.rows("c0-n0").expect("a gateway").count();
    let listed = start.elapsed();
    let mut cluster = fleet.clusters[2500].clone();
    cluster.status.cluster_link_status.pod_cidrs = vec!["192.168.0.0/16".to_owned()];
    let start = Instant::now();
    let applied = planner.apply(Change::ClusterSet(cluster));
    let changed = start.elapsed();
    println!(
        "built in {built:?}, {} KiB; {rows} rows in {listed:?}; one change in {changed:?}",
        held / 1024
    );
    assert_eq!(applied.bundles.len(), 1);
    assert!(built <= Duration::from_millis(100), "built in {built:?}");
    assert!(held <= 60 << 20, "{held} bytes");
    assert!(listed <= Duration::from_millis(5), "listed in {listed:?}");
    assert!(
        changed <= Duration::from_millis(1),
        "changed in {changed:?}"
    );
}
