//! The planner's rows of the budget table: building it, one changed cluster, one node's rows, over gateway fleets of two nodes a
//! cluster. `cargo gate --bench` prints them beside those of the other crates.
#![allow(missing_docs, reason = "a bench")]

use std::path::Path;

use datapath::plan::{Change, Planner};
use fleet::fleet;
use measured::{Before, Measured, SIZES, bench, median};

#[path = "plan/fleet.rs"]
mod fleet;
#[path = "../../tests/src/gate/measures/measured.rs"]
mod measured;

const BUILD: &str = "planner: build";
const CHANGE: &str = "planner: one cluster changed";
const ROWS: &str = "planner: one node's rows";

fn main() {
    bench(&[BUILD, CHANGE, ROWS], SIZES, measure);
}

fn measure(row: &str, size: usize, _: &Path) -> Measured {
    let objects = fleet("gateway", size, 2);
    if row == BUILD {
        let before = Before::now();
        let time = median(|| Planner::of(&objects));
        return before.until(row, size, time);
    }
    let mut planner = Planner::of(&objects);
    if row == ROWS {
        let before = Before::now();
        let mut rows = 0;
        let time = median(|| rows = planner.rows("c0-n0").map_or(0, Iterator::count));
        let mut measured = before.until(row, size, time);
        measured.remark = format!("{rows} rows");
        return measured;
    }
    // The middle cluster's prefix, there and back.
    let original = objects.clusters[size / 2].clone();
    let mut moved = original.clone();
    moved.status.cluster_link_status.pod_cidrs = vec!["192.168.0.0/16".to_owned()];
    let mut turns = [moved, original].into_iter().cycle();
    let before = Before::now();
    let time = median(|| {
        turns
            .next()
            .map(|cluster| planner.apply(Change::ClusterSet(cluster)))
    });
    before.until(row, size, time)
}
