//! `floaterctl` on upstream's own control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as the gate builds them, in
//! labs whose kubelets are API clients like any other.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cases;
mod linking;

use tests::lab::Lab;
use tests::program::Place;

/// The programs, which the gate names.
fn programs() -> String {
    std::env::var("FLOATER_UPSTREAM").expect("the gate names their folder")
}

/// A lab of upstream's control planes; these further arguments.
#[track_caller]
fn up(topology: &str, arguments: &[&str]) -> Lab {
    let place = Place::new();
    place.write("lab.yaml", topology);
    let programs = programs();
    let named = ["lab.yaml", "--upstream", &programs];
    Lab::up_in(place, &[&named, arguments].concat())
}

/// One control plane for all cases: it takes ten seconds to come, and each case leaves it as it was.
#[test]
#[ignore = "netns: needs upstream"]
fn runs_on_a_control_plane_of_upstream() {
    let only = std::env::var("UPSTREAM_ONLY").unwrap_or_default();
    let world = cases::World::up();
    let mut complaints = Vec::new();
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(&only)) {
        let started = std::time::Instant::now();
        let result = case(&world);
        let word = if result.is_ok() { "passed" } else { "FAILED" };
        println!("{name:32} {word} {:6.1} s", started.elapsed().as_secs_f64());
        complaints.extend(result.err().map(|why| format!("{name}: {why}")));
    }
    world.down();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
