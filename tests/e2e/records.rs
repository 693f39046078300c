//! Runs on record: replayed without a cluster, resumed after a kill, refused where a file is none.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::{Lab, names};
use tests::program::Place;

/// A fleet with two faults, and a run of it on record.
fn recorded(lab: &Lab) -> Value {
    for fault in [
        ["ROUTE-MISSING", "c03/n1,c07"],
        ["FDB-MISSING", "c11/n1,c02"],
    ] {
        let inject = ["sim", "fault", "inject", fault[0], "--at", fault[1]];
        lab.place.run(inject).expect(0);
    }
    let (exit, report) = lab.dr(&["--record", "run.zst", "-o", "json=run.json"]);
    assert_eq!(exit, Some(1), "{}", report["findings"]);
    report
}

#[test]
fn a_replay_is_the_run_again_without_its_clusters() {
    let lab = Lab::up(&["--clusters", "24", "--nodes", "2", "--virtual"]);
    let report = recorded(&lab);
    let mut codes = names(&report, "/findings", "code");
    codes.sort();
    assert_eq!(codes, ["FDB-MISSING", "ROUTE-MISSING"]);
    lab.place.run(["sim", "down"]).expect(0);
    let place = &lab.place;
    let replay = ["dr", "--replay", "run.zst", "-o", "json=again.json"];
    let replayed = place.run(replay).expect(1);
    assert!(replayed.stderr.contains("24 clusters"), "{replayed:?}");
    let read = |name: &str| fs::read(place.path().join(name)).unwrap();
    assert!(read("run.json") == read("again.json"));
    let table = place.run(["dr", "--replay", "run.zst"]).expect(1);
    assert!(
        table.stdout.contains("ROUTE-MISSING at c03/n1"),
        "{table:?}"
    );
    let lowered = [
        "check",
        "--replay",
        "run.zst",
        "--fail-on",
        "info",
        "--quiet",
    ];
    assert_eq!(place.run(lowered).expect(1).stderr, "");
    place.assert_empty();
}

#[test]
fn a_run_that_was_killed_is_judged_by_what_it_knew_and_gone_on_with() {
    let lab = Lab::up(&["--clusters", "24", "--nodes", "2", "--virtual"]);
    let whole = recorded(&lab);
    // Rounds take a while: what the first one says is on record long before the last one ends.
    let name = lab.name();
    let record = lab.place.path().join("killed.zst");
    let mut slow = lab.place.start([
        "dr",
        "--sim",
        &name,
        "--rounds",
        "15",
        "--record",
        "killed.zst",
    ]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_probes = || {
        let judged = lab
            .place
            .run(["dr", "--replay", "killed.zst", "-o", "json"]);
        let report: Value = serde_json::from_str(&judged.stdout).unwrap_or_default();
        report["coverage"]["probes_sent"].as_u64() > Some(0)
    };
    while !(record.is_file() && has_probes()) {
        assert!(Instant::now() < deadline, "nothing comes on record");
        std::thread::sleep(Duration::from_millis(100));
    }
    slow.kill().unwrap();
    assert_eq!(slow.wait().unwrap().signal(), Some(9));
    let judged = lab
        .place
        .run(["dr", "--replay", "killed.zst", "-o", "json"]);
    assert!(
        judged.stderr.contains("the record ends before its run did"),
        "{judged:?}"
    );
    let known: Value = serde_json::from_str(&judged.stdout).unwrap();
    for finding in known["findings"].as_array().unwrap() {
        assert!(["ROUTE-MISSING", "FDB-MISSING"].contains(&finding["code"].as_str().unwrap()));
    }
    let resumed = ["dr", "--resume", "killed.zst", "-o", "json=resumed.json"];
    lab.place.run(resumed).expect(1);
    let resumed = fs::read(lab.place.path().join("resumed.json")).unwrap();
    let resumed: Value = serde_json::from_slice(&resumed).unwrap();
    let ids = |report: &Value| {
        let mut ids = names(report, "/findings", "id");
        ids.sort();
        ids
    };
    assert_eq!(ids(&resumed), ids(&whole));
    assert_eq!(resumed["coverage"]["cells"], whole["coverage"]["cells"]);
    assert_eq!(resumed["coverage"]["unobserved"], json!(0));
    lab.down();
}

#[test]
fn a_file_that_is_no_record_is_refused_and_options_that_contradict_it_too() {
    let place = Place::new();
    place.write("report.json", "{}");
    for (file, words) in [
        ("report.json", "report.json"),
        ("none.zst", "cannot be read: no such file or directory"),
    ] {
        for option in ["--replay", "--resume"] {
            let refused = place.run(["dr", option, file]).expect(65);
            assert!(refused.stderr.contains(words), "{refused:?}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        }
    }
    for wrong in [
        &["dr", "--replay", "a", "--sim", "x"][..],
        &["dr", "--replay", "a", "--layers", "host"],
        &["dr", "--replay", "a", "--seed", "7"],
        &["dr", "--replay", "a", "--record", "b"],
        &["dr", "--resume", "a", "--kubeconfig", "b"],
        &["dr", "--resume", "a", "--record", "a"],
        &["analyse", "--replay", "a", "--timeout", "5"],
    ] {
        place.run(wrong).expect(64);
    }
    let nowhere = place.run(["dr", "--record", "no/such/folder/run.zst"]);
    assert_eq!(nowhere.expect(74).stdout, "");
    place.assert_empty();
}
