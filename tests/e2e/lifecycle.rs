//! Nothing is left behind: after interruption, after a dead agent, after a kill at any moment.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tests::client::Endpoint;
use tests::lab::{Lab, names};
use tests::program::{Place, Ran};

/// Waits until a process that was started with a signal ignored, as a shell does for `command &`, has begun to listen to it: until
/// then the kernel throws it away.
fn listens(child: &Child, signal: Signal) {
    let bit = 1_u64 << (signal as i32 - 1);
    let mask = |status: &str, field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or_default()
    };
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.unwrap_or_default();
        let held = mask(&status, "SigBlk:") | mask(&status, "SigCgt:");
        if mask(&status, "SigIgn:") & bit == 0 || held & bit != 0 {
            return;
        }
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    listens(child, signal);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// Waits for a child that has at most this long to end.
#[track_caller]
fn ended(mut child: Child, patience: Duration) -> Ran {
    let deadline = Instant::now() + patience;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("still running after {patience:?}");
        }
        // There is no event to wait for on a process that may end in any of several ways.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ran::of(child.wait_with_output().unwrap())
}

fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    let kubeconfig = lab.kubeconfig();
    let names = lab.clusters.iter();
    names.map(|name| Endpoint::of(&kubeconfig, name)).collect()
}

/// Objects that a run has left in any cluster of a lab.
fn objects_of_runs(lab: &Lab) -> Vec<String> {
    endpoints(lab)
        .iter()
        .flat_map(Endpoint::objects_of_runs)
        .collect()
}

const OWN_FLOATERS: &str = "\
name: own
clusters:
  - name: east
  - name: west
    mode: p2p
workloads: {floater: false}
";

fn lab_without_floaters() -> Lab {
    let place = Place::new();
    place.write("own.yaml", OWN_FLOATERS);
    Lab::up_in(place, &["own.yaml"])
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn dr_deploys_and_removes_its_own_floaters() {
    let lab = lab_without_floaters();
    let (exit, report) = lab.dr(&[]);
    assert_eq!(exit, Some(0), "{report:#}");
    assert_eq!(objects_of_runs(&lab), [""; 0]);
    let (exit, _) = lab.dr(&["--keep"]);
    assert_eq!(exit, Some(0));
    assert!(!objects_of_runs(&lab).is_empty(), "--keep kept nothing");
    lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_interrupted_run_removes_everything_it_made() {
    let lab = lab_without_floaters();
    let name = lab.name();
    let mut interrupted = 0;
    for patience_ms in [0, 60, 200, 400, 700] {
        let child = lab.place.start(["dr", "--sim", &name, "--rounds", "500"]);
        std::thread::sleep(Duration::from_millis(patience_ms));
        signal(&child, Signal::SIGINT);
        let ran = ended(child, Duration::from_secs(20));
        // Only at its very start does a signal end it before it is caught, and there is nothing to remove yet.
        assert!(ran.code == Some(130) || patience_ms == 0, "{ran:?}");
        interrupted += usize::from(ran.code == Some(130));
        assert_eq!(
            objects_of_runs(&lab),
            [""; 0],
            "after {patience_ms} ms: {ran:?}"
        );
    }
    assert!(interrupted >= 4);
    lab.down();
}

/// Killed, a run cannot remove what it made; the next one does, once it has expired, and touches nothing else.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn what_a_killed_run_left_is_swept_once_it_has_expired() {
    let lab = lab_without_floaters();
    let name = lab.name();
    let child = lab.place.start(["dr", "--sim", &name, "--rounds", "500"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !objects_of_runs(&lab)
        .iter()
        .any(|object| object.starts_with("daemonsets/"))
    {
        assert!(Instant::now() < deadline, "nothing was deployed");
    }
    signal(&child, Signal::SIGKILL);
    assert_eq!(ended(child, Duration::from_secs(5)).code, None);
    let left = objects_of_runs(&lab);
    assert!(
        left.iter().any(|object| object.starts_with("daemonsets/")),
        "{left:?}"
    );
    lab.place.run(["dr", "--sim", &name, "--sweep"]).expect(0);
    assert!(!objects_of_runs(&lab).is_empty(), "swept before its time");
    for endpoint in endpoints(&lab) {
        endpoint.expire_objects_of_runs();
    }
    lab.place.run(["dr", "--sim", &name, "--sweep"]).expect(0);
    // Pods end with their owner, a moment later.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !objects_of_runs(&lab).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", objects_of_runs(&lab));
    }
    lab.down();
}

/// A scenario passes if and only if everything that it expects holds.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_scenario_is_judged_by_its_expectations() {
    let place = Place::new();
    let scenario = |expect: &str| {
        format!(
            "clusters:\n  - name: east\n  - name: west\n    mode: p2p\n\
             faults: [{{code: FDB-WRONG-VTEP, at: east/n1, peer: west}}]\nexpect: [{expect}]\n"
        )
    };
    place.write("good.yaml", scenario("{code: FDB-WRONG-VTEP, at: east/n1}"));
    place.write("bad.yaml", scenario("{verdict: healthy}"));
    place
        .run(["sim", "run", "good.yaml", "-o", "junit=report.xml"])
        .expect(0);
    let junit = std::fs::read_to_string(place.path().join("report.xml")).unwrap();
    assert!(
        junit.contains("<testcase") && !junit.contains("<failure"),
        "{junit}"
    );
    place.run(["sim", "run", "bad.yaml"]).expect(1);
    place.assert_empty();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_interrupted_demo_leaves_nothing() {
    let mut interrupted = 0;
    for patience_ms in [20, 150, 300, 600] {
        let place = Place::new();
        let child = place.start(["demo", "--clusters", "8", "--nodes", "3"]);
        std::thread::sleep(Duration::from_millis(patience_ms));
        signal(&child, Signal::SIGINT);
        let ran = ended(child, Duration::from_secs(20));
        // A demo may have ended by then; only at its very start does a signal end it before it is caught.
        assert!(
            matches!(ran.code, Some(130 | 0)) || patience_ms == 20,
            "{ran:?}"
        );
        interrupted += usize::from(ran.code == Some(130));
        if ran.code.is_none() {
            place.run(["sim", "down", "--all"]).expect(0);
        }
        place.assert_empty();
    }
    assert!(interrupted >= 2, "hardly a demo was interrupted");
}

/// Every process of a place, killed at a moment of its life.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn after_a_kill_at_any_moment_down_all_leaves_nothing() {
    for step in 0..12_u64 {
        let place = Place::new();
        let child = place.start([
            "sim",
            "up",
            "--clusters",
            "3",
            "--nodes",
            "2",
            "--mode",
            "mixed",
        ]);
        std::thread::sleep(Duration::from_millis(step * 97 % 1100));
        let everything = step % 3 == 0;
        let victims: Vec<i32> = place.processes().into_iter().map(|(pid, _)| pid).collect();
        for (position, pid) in victims.iter().enumerate() {
            if everything || position as u64 % 3 == step % 3 {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        ended(child, Duration::from_secs(30));
        place.run(["sim", "down", "--all"]).expect(0);
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_api_server_that_is_away_costs_only_its_own_cluster() {
    let lab = Lab::up(&["--clusters", "3", "--nodes", "1", "--mode", "gateway"]);
    let text = std::fs::read_to_string(lab.kubeconfig()).unwrap();
    let last = text.matches("https://127.0.0.1:").count();
    assert_eq!(last, 3, "one server per cluster");
    // The last cluster's server moves to a port that nobody listens on.
    let port_at = text.rfind("https://127.0.0.1:").unwrap() + "https://127.0.0.1:".len();
    let digits = text[port_at..]
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count();
    let broken = format!("{}1{}", &text[..port_at], &text[port_at + digits..]);
    lab.place.write("broken", broken);
    let ran = lab
        .place
        .run(["dr", "--kubeconfig", "broken", "-o", "json"])
        .expect(2);
    let report = ran.json();
    assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
    assert_eq!(report["verdict"], "unknown");
    let states = names(&report, "/clusters", "state");
    assert_eq!(
        states.iter().filter(|state| *state == "unobserved").count(),
        1,
        "{report:#}"
    );
    assert!(report["coverage"]["unobserved"].as_u64().unwrap() > 0);
    // Between the two that could be asked everything is judged and passes.
    let cells = report["cells"].as_array().unwrap();
    let away = lab.clusters.last().unwrap();
    let seen: Vec<_> = cells
        .iter()
        .filter(|cell| cell["src"] != away.as_str() && cell["dst"] != away.as_str())
        .collect();
    assert_eq!(seen.len(), 4 * 2);
    assert!(
        seen.iter().all(|cell| cell["verdict"] == "pass"),
        "{report:#}"
    );
    assert!(
        cells
            .iter()
            .all(|cell| cell["verdict"] == "pass" || cell["verdict"] == "unknown"),
        "{report:#}"
    );
    lab.down();
}

/// The floater of a pod dies and stays dead: its cells are unknown, not broken.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_agent_that_dies_is_no_broken_network() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "1", "--mode", "gateway"]);
    let place = format!("{}/n1/floater-n1", lab.clusters[1]);
    let namespace = lab.exec_ok(&place, &["readlink", "/proc/self/ns/net"]);
    let floater = lab.place.processes().into_iter().find(|(pid, _)| {
        std::fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|link| link.to_string_lossy() == namespace.trim())
    });
    let (pid, _) =
        floater.unwrap_or_else(|| panic!("no process in {namespace}: {:?}", lab.place.processes()));
    // Stopped rather than killed, so that the kubelet does not start it anew.
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let (exit, report) = lab.dr(&["--timeout", "15"]);
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
    assert_eq!(exit, Some(2), "{report:#}");
    assert!(
        names(&report, "/cells", "verdict").contains(&"unknown".to_owned()),
        "{report:#}"
    );
    // Killed, it is started anew by the kubelet, and the fleet is healthy again.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (exit, report) = lab.dr(&[]);
        assert_ne!(exit, Some(1), "{report:#}");
        if exit == Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "{report:#}");
    }
    lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn exec_hands_on_streams_and_exit_code() {
    let lab = Lab::up(&["--clusters", "1", "--nodes", "2", "--mode", "gateway"]);
    let at = format!("{}/n2", lab.clusters[0]);
    let ran = lab.exec(&at, &["sh", "-c", "cat; echo out; echo err >&2; exit 37"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(37), "out\n", "err\n")
    );
    lab.exec("nowhere/n1", &["true"]).expect(65);
    lab.exec(&format!("{}/n9", lab.clusters[0]), &["true"])
        .expect(65);
    lab.exec("underlay", &["true"]).expect(0);
    let name = lab.name();
    lab.place
        .run([
            "sim",
            "up",
            "--clusters",
            "1",
            "--nodes",
            "1",
            "--mode",
            "p2p",
            "--name",
            &name,
        ])
        .expect(65);
    lab.place
        .run(["sim", "status", "-o", "json"])
        .expect(0)
        .json();
    lab.down();
}

/// Progress goes to standard error, line by line, while the run goes on.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_run_says_what_it_does_on_standard_error() {
    let place = Place::new();
    let mut child = place.start(["demo", "--clusters", "2", "--nodes", "1", "-v"]);
    let mut first = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut first).unwrap();
    assert!(!first.trim().is_empty());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    ended(child, Duration::from_secs(30)).expect(0);
    place.assert_empty();
}
