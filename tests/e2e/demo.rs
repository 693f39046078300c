//! The main job: simulate, link, deploy, probe, print, remove.

use serde_json::Value;

use tests::lab::{Lab, names};
use tests::program::Place;

/// A healthy fleet has no finding, every cell passes by packets, and nothing is left of it.
#[track_caller]
fn assert_healthy(report: &Value, cells: usize) {
    assert_eq!(report["schema"], "floater.report/v1");
    assert_eq!(report["findings"], Value::Array(Vec::new()), "{report:#}");
    assert_eq!(report["verdict"], "healthy", "{report:#}");
    assert_eq!(
        report["coverage"]["cells"], cells,
        "{:#}",
        report["coverage"]
    );
    let verdicts = names(report, "/cells", "verdict");
    assert_eq!(verdicts.len(), cells);
    assert!(
        verdicts.iter().all(|verdict| verdict == "pass"),
        "{report:#}"
    );
}

fn demo(arguments: &[&str], cells: usize) {
    let place = Place::new();
    let ran = place
        .run(["demo", "-o", "json"].iter().chain(arguments))
        .expect(0);
    assert_healthy(&ran.json(), cells);
    // Standard output is a program's, so that a person reads the verdict on the other one; and nothing where nothing is wanted.
    assert!(ran.stderr.contains("Verdict: healthy"), "{}", ran.stderr);
    let quiet = ["demo", "--quiet", "-o", "json"];
    let ran = place.run(quiet.iter().chain(arguments)).expect(0);
    assert_eq!(ran.stderr, "");
    place.assert_empty();
}

// Cells are (ordered pairs + insides) × layers × families.

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn gateway_ipv4_is_healthy() {
    demo(&[], 9 * 2);
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn p2p_dual_stack_is_healthy() {
    demo(
        &["--mode", "p2p", "--family", "all", "--clusters", "2"],
        4 * 2 * 2,
    );
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn mixed_ipv6_is_healthy() {
    demo(
        &["--mode", "mixed", "--family", "ipv6", "--nodes", "3"],
        9 * 2,
    );
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn mixed_dual_stack_is_healthy() {
    demo(&["--mode", "mixed", "--family", "all"], 9 * 2 * 2);
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn the_table_names_every_cluster() {
    let place = Place::new();
    let ran = place
        .run(["demo", "--clusters", "2", "--nodes", "1"])
        .expect(0);
    let (ctl, plain) = ("\u{1b}", ran.stdout.as_str());
    assert!(!plain.contains(ctl), "colour without a terminal:\n{plain}");
    assert!(plain.contains("healthy"), "{plain}");
    place.assert_empty();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_fault_is_named_with_its_node_and_exit_code() {
    let place = Place::new();
    let ran = place
        .run(["demo", "--fault", "ROUTE-MISSING", "-o", "json"])
        .expect(1);
    let report = ran.json();
    assert_eq!(report["verdict"], "fault");
    assert_eq!(report["findings"][0]["code"], "ROUTE-MISSING");
    assert!(
        report["findings"][0]["element"]["node"].is_string(),
        "{report:#}"
    );
    place.assert_empty();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn equal_input_and_seed_give_equal_bytes() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--mode", "gateway"]);
    let plain = || {
        let (code, mut report) = lab.dr(&["--seed", "7"]);
        assert_eq!(code, Some(0), "{report:#}");
        report["run"] = Value::Null;
        for cell in report["cells"].as_array_mut().unwrap() {
            cell["rtt_us"] = Value::Null;
        }
        report.to_string()
    };
    assert_eq!(plain(), plain());
    lab.down();
}

/// The same main job for somebody who is not root.
#[test]
#[ignore = "netns: needs userns, vxlan, nft"]
fn nobody_can_run_the_demo() {
    use std::os::unix::process::CommandExt as _;
    let place = Place::new();
    let nobody = 65534;
    let mut command = place.command(["demo", "--clusters", "2", "--nodes", "1", "-o", "json"]);
    // Root of a user namespace is somebody without rights already, and may not know the user below.
    if nix::unistd::geteuid().is_root() && !netns_harness::rootless::in_user_namespace() {
        // The program has to lie where that user can read it.
        let program = place.path().join("floaterctl");
        std::fs::copy(command.get_program(), &program).unwrap();
        for path in [
            place.path().to_owned(),
            place.path().join("run"),
            place.path().join("home"),
            program.clone(),
        ] {
            std::os::unix::fs::chown(&path, Some(nobody), Some(nobody)).unwrap();
        }
        let mut as_nobody = std::process::Command::new(program);
        as_nobody
            .args(command.get_args())
            .current_dir(place.path())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .uid(nobody)
            .gid(nobody);
        command = as_nobody;
    }
    let ran = tests::program::Ran::of(command.output().unwrap()).expect(0);
    assert_healthy(&ran.json(), 4 * 2);
    place.assert_empty();
}
